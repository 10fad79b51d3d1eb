//! Hosts without Kubernetes: etcd, the binary, and containers behind a bridge, each in a namespace
//! of its own on one wire.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use weft_netlab::probe::{self, TcpEcho};
use weft_netlab::{Namespace, link};

/// What starts and ends in seconds, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
const PREFIX: &str = "/coreos.com/network";
const VXLAN: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
/// As small as flannel's configuration can be: its back end is udp then.
const UDP: &str = r#"{"Network":"10.5.0.0/16"}"#;
const HOST_GW: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// Waits until something is so, or says why it is not.
#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(error) if Instant::now() > deadline => panic!("{what}: {error}"),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// A process that goes with its value, and with the test.
struct Process(Child);

impl Process {
    fn start(place: &Namespace, program: &str, arguments: &[String], log: File) -> Self {
        let mut command = place.command("setpriv").unwrap();
        command
            .args(["--pdeathsig", "KILL", program])
            .args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.stderr(log).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        self.0.wait().unwrap();
    }
}

/// A wire with etcd on it.
struct Wire {
    // Ended before its folder goes.
    etcd: Option<Process>,
    place: Namespace,
    folder: TempDir,
    certificates: bool,
    /// Who etcdctl says that it is, as `NAME:PASSWORD`.
    user: Option<&'static str>,
}

impl Wire {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(certificates: bool) -> Self {
        let place = Namespace::new("wire").unwrap();
        link::bridge(&place, "wire").unwrap();
        link::address(&place, "wire", "172.30.0.10/24").unwrap();
        let mut wire = Self {
            place,
            folder: TempDir::new().unwrap(),
            certificates,
            user: None,
            etcd: None,
        };
        if certificates {
            wire.sign();
        }
        wire.start_etcd();
        wire
    }

    fn url(&self) -> String {
        let scheme = if self.certificates { "https" } else { "http" };
        format!("{scheme}://172.30.0.10:2379")
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// An authority, and one certificate of it for everybody.
    fn sign(&self) {
        let script = "cd \"$1\"
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \\
              -subj /CN=authority -keyout ca.key -out ca.pem
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=etcd \\
              -keyout own.key -out own.csr
            echo subjectAltName=IP:172.30.0.10 > names
            openssl x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \\
              -extfile names -out own.pem";
        let folder = self.folder.path();
        let made = Command::new("sh")
            .args(["-ec", script, "sh"])
            .arg(folder)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    fn start_etcd(&mut self) {
        let url = self.url();
        let mut arguments: Vec<String> = vec![
            format!("--data-dir={}", self.file("etcd")),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            // What is written need not outlive the machine.
            "--unsafe-no-fsync".into(),
        ];
        if self.certificates {
            arguments.extend([
                format!("--cert-file={}", self.file("own.pem")),
                format!("--key-file={}", self.file("own.key")),
                format!("--trusted-ca-file={}", self.file("ca.pem")),
                "--client-cert-auth".into(),
            ]);
        }
        let log = File::create(self.file("etcd.log")).unwrap();
        self.etcd = Some(Process::start(&self.place, "etcd", &arguments, log));
        eventually("etcd answers", || self.try_ctl(&["get", "anything"]));
    }

    fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.place.command("etcdctl").unwrap();
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.url()));
        if self.certificates {
            command.args([
                format!("--cacert={}", self.file("ca.pem")),
                format!("--cert={}", self.file("own.pem")),
                format!("--key={}", self.file("own.key")),
            ]);
        }
        if let Some(user) = self.user {
            command.args(["--user", user]);
        }
        let output = command.args(arguments).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    #[track_caller]
    fn ctl(&self, arguments: &[&str]) -> String {
        eventually("etcdctl", || self.try_ctl(arguments))
    }

    fn configure(&self, text: &str) {
        self.ctl(&["put", &format!("{PREFIX}/config"), text]);
    }

    /// The leases' names and values.
    fn leases(&self) -> Vec<(String, Value)> {
        let prefix = format!("{PREFIX}/subnets/");
        let text = self.ctl(&["get", "--prefix", &prefix]);
        let lines: Vec<&str> = text.lines().collect();
        let pairs = lines.chunks(2).map(|pair| {
            let name = pair[0].strip_prefix(&prefix).unwrap();
            (
                name.to_owned(),
                serde_json::from_str(pair[1]).unwrap_or_default(),
            )
        });
        pairs.collect()
    }

    /// The lease of a host, once it has one that says how it is reached.
    #[track_caller]
    fn lease(&self, host: &Host) -> (String, Value) {
        eventually(&format!("{} has a lease", host.address), || {
            let leases = self.leases();
            let mut own = leases
                .iter()
                .filter(|(_, value)| value["PublicIP"] == *host.address);
            let whole = |value: &Value| {
                value["BackendType"] != "vxlan" || value["BackendData"]["VtepMAC"].is_string()
            };
            match own.next() {
                Some((name, value)) if whole(value) => Ok((name.clone(), value.clone())),
                _ => Err(format!("{leases:?}\n{}", host.log())),
            }
        })
    }
}

/// A host on the wire.
struct Host {
    // Ended before its folder goes.
    process: Option<Process>,
    place: Namespace,
    container: Namespace,
    folder: TempDir,
    address: String,
}

impl Host {
    fn on(wire: &Wire, number: u8) -> Self {
        let place = Namespace::new("host").unwrap();
        let port = format!("port{number}");
        link::veth(&place, "eth0", &wire.place, &port).unwrap();
        link::port(&wire.place, "wire", &port).unwrap();
        link::up(&wire.place, &port).unwrap();
        let address = format!("172.30.0.{number}");
        link::address(&place, "eth0", &format!("{address}/24")).unwrap();
        // By which a host with a bridge for containers knows its own address.
        let route = ["route", "add", "default", "via", "172.30.0.10"];
        place.output("ip", route).unwrap();
        Self {
            place,
            container: Namespace::new("container").unwrap(),
            folder: TempDir::new().unwrap(),
            address,
            process: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn arguments(&self, wire: &Wire, more: &[&str]) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let mut arguments: Vec<String> = ["fabric", "etcd", "--endpoints"].map(Into::into).into();
        arguments.extend([wire.url(), "--subnet-file".into(), path("subnet.env")]);
        arguments.extend(["--lock".into(), path("lock")]);
        arguments.extend(["--fabric-socket".into(), path("fabric.sock")]);
        if wire.certificates {
            for (flag, name) in [
                ("--etcd-cafile", "ca.pem"),
                ("--etcd-certfile", "own.pem"),
                ("--etcd-keyfile", "own.key"),
            ] {
                arguments.extend([flag.into(), wire.file(name)]);
            }
        }
        arguments.extend(more.iter().map(|it| (*it).to_owned()));
        arguments
    }

    fn start(&mut self, wire: &Wire, more: &[&str]) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let arguments = self.arguments(wire, more);
        let binary = env!("CARGO_BIN_EXE_weft");
        self.process = Some(Process::start(&self.place, binary, &arguments, log));
    }

    fn up(wire: &Wire, number: u8, more: &[&str]) -> Self {
        let mut host = Self::on(wire, number);
        host.start(wire, more);
        host
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        let text = fs::read_to_string(self.path("subnet.env")).unwrap_or_default();
        let mut values = text
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let value = values.next().map(str::to_owned);
        value.ok_or_else(|| format!("subnet.env: {text:?}\n{}", self.log()))
    }

    /// Docker's bridge with a container behind it, as it stands in subnet.env. Returns the
    /// container's address.
    fn contain(&self) -> IpAddr {
        let bridge = eventually("subnet.env", || self.variable("FLANNEL_SUBNET"));
        let (first, length) = bridge.split_once('/').unwrap();
        link::bridge(&self.place, "docker0").unwrap();
        link::address(&self.place, "docker0", &bridge).unwrap();
        link::veth(&self.container, "eth0", &self.place, "veth0").unwrap();
        link::port(&self.place, "docker0", "veth0").unwrap();
        link::up(&self.place, "veth0").unwrap();
        let address = first
            .strip_suffix(".1")
            .map(|net| format!("{net}.2"))
            .unwrap();
        link::address(&self.container, "eth0", &format!("{address}/{length}")).unwrap();
        link::route(&self.container, "0.0.0.0/0", first).unwrap();
        address.parse().unwrap()
    }

    #[track_caller]
    fn reaches(&self, to: IpAddr) {
        eventually(
            &format!("a container of {} reaches {to}", self.address),
            || {
                let to = to.to_string();
                let pinged = self
                    .container
                    .output("ping", ["-n", "-c", "1", "-W", "1", &to]);
                pinged
                    .map(drop)
                    .map_err(|error| format!("{error}\n{}", self.routes()))
            },
        );
    }

    fn routes(&self) -> String {
        self.place.output("ip", ["route"]).unwrap()
    }

    /// Waits until the host has a route, or none any more.
    #[track_caller]
    fn route(&self, route: &str, there: bool) {
        eventually(&format!("{}: {route}: {there}", self.address), || {
            let routes = self.routes();
            match routes.contains(route) == there {
                true => Ok(()),
                false => Err(format!("{routes}\n{}", self.log())),
            }
        });
    }
}

/// `10.5.34.0-24` as a route has it.
fn subnet(lease: &str) -> String {
    lease.replace('-', "/")
}

#[test]
fn hosts_lease_subnets_and_containers_reach_each_other_until_a_host_leaves() {
    let wire = Wire::new();
    wire.configure(VXLAN);
    // Kept every four seconds.
    let seconds = ["--lease-seconds", "12"];
    let (one, mut two) = (Host::up(&wire, 1, &seconds), Host::up(&wire, 2, &seconds));
    let (first, value) = wire.lease(&one);
    let (second, _) = wire.lease(&two);
    assert_ne!(first, second);
    let fields: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(fields, ["BackendData", "BackendType", "PublicIP"]);
    assert_eq!(
        (&value["BackendType"], &value["BackendData"]["VNI"]),
        (&"vxlan".into(), &1.into())
    );
    let (there, back) = (two.contain(), one.contain());
    one.reaches(there);
    two.reaches(back);
    assert_eq!(one.variable("FLANNEL_NETWORK").unwrap(), "10.5.0.0/16");
    assert_eq!(one.variable("FLANNEL_MTU").unwrap(), "1450");

    // Longer than they last by themselves.
    eventually("the leases are kept", || {
        let metrics = wire
            .place
            .output("curl", ["-sS", &format!("{}/metrics", wire.url())]);
        let metrics = metrics.map_err(|error| error.to_string())?;
        let name = "etcd_debugging_lease_renewed_total ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(name));
        match count.and_then(|count| count.parse::<f64>().ok()) {
            Some(count) if count >= 8.0 => Ok(()),
            count => Err(format!("{count:?} times")),
        }
    });
    assert_eq!(wire.lease(&one).0, first);
    assert_eq!(wire.lease(&two).0, second);

    let to_two = format!("{} via", subnet(&second));
    one.route(&to_two, true);
    two.process = None;
    one.route(&to_two, false);
    // It comes back with the subnet that it had, whether or not somebody remembers.
    two.start(&wire, &seconds);
    assert_eq!(wire.lease(&two).0, second);
    one.reaches(there);
}

#[test]
fn hosts_send_each_other_datagrams_where_flannel_would() {
    if let Err(error) = File::open("/dev/net/tun") {
        eprintln!("SKIPPED: /dev/net/tun: {error}");
        return;
    }
    let wire = Wire::new();
    wire.configure(UDP);
    let (one, mut two) = (Host::up(&wire, 1, &[]), Host::up(&wire, 2, &[]));
    let (_, value) = wire.lease(&one);
    let fields: Vec<&str> = value.as_object().unwrap().keys().map(|it| &**it).collect();
    assert_eq!(fields, ["BackendType", "PublicIP"]);
    assert_eq!(value["BackendType"], "udp");
    let (second, _) = wire.lease(&two);
    let (there, back) = (two.contain(), one.contain());
    one.reaches(there);
    two.reaches(back);
    one.route(&format!("{} dev flannel0", subnet(&second)), true);
    assert_eq!(one.variable("FLANNEL_MTU").unwrap(), "1472");
    two.process = None;
    two.start(&wire, &[]);
    one.reaches(there);
}

#[test]
fn what_stands_stays_while_etcd_is_away_and_what_is_lost_is_taken_again() {
    let mut wire = Wire::new();
    wire.configure(HOST_GW);
    let mut one = Host::up(&wire, 1, &[]);
    let two = Host::up(&wire, 2, &[]);
    let (first, value) = wire.lease(&one);
    let (second, _) = wire.lease(&two);
    assert_eq!(
        value,
        serde_json::json!({"PublicIP": "172.30.0.1", "BackendType": "host-gw"})
    );
    let (there, _) = (two.contain(), one.contain());
    one.reaches(there);

    // Nonsense is named, the rest counts.
    let put =
        |name: &str, value: &str| wire.ctl(&["put", &format!("{PREFIX}/subnets/{name}"), value]);
    let third = r#"{"PublicIP":"172.30.0.3","BackendType":"host-gw"}"#;
    put("10.5.300.0-24", third);
    put("10.6.8.0-24", "{}");
    put("10.6.3.0-24", third);
    one.route("10.6.3.0/24 via 172.30.0.3", true);
    eventually("what can't be read is named", || {
        let log = one.log();
        let named = log.contains("10.5.300.0-24") && log.contains("10.6.8.0-24");
        if named { Ok(()) } else { Err(log) }
    });

    let away = |wire: &mut Wire| wire.etcd = None;
    away(&mut wire);
    let to_two = format!("{} via 172.30.0.2", subnet(&second));
    one.place
        .output("ip", ["route", "del", &subnet(&second)])
        .unwrap();
    one.route(&to_two, true);
    one.reaches(there);
    wire.start_etcd();
    wire.ctl(&["del", &format!("{PREFIX}/subnets/10.6.3.0-24")]);
    one.route("10.6.3.0/24", false);

    let key = format!("{PREFIX}/subnets/{first}");
    wire.ctl(&["del", &key]);
    assert_eq!(wire.lease(&one).0, first);
    // Nobody else remembers.
    one.process = None;
    wire.ctl(&["del", &key]);
    one.start(&wire, &[]);
    assert_eq!(wire.lease(&one).0, first);
    one.reaches(there);
}

#[test]
fn no_two_hosts_have_one_subnet() {
    let wire = Wire::new();
    let two = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.8.0","SubnetMax":"10.5.9.0",
        "Backend":{"Type":"host-gw"}}"#;
    let hosts: Vec<Host> = (1..=3).map(|number| Host::up(&wire, number, &[])).collect();
    // They wait for it.
    wire.configure(two);
    eventually(
        "both subnets are leased, and the third host says so",
        || {
            let mut leases: Vec<String> = wire.leases().into_iter().map(|(name, _)| name).collect();
            leases.sort();
            let full = |host: &&Host| {
                host.log()
                    .contains("every subnet /24 of 10.5.0.0/16 is leased")
            };
            match (
                leases == ["10.5.8.0-24", "10.5.9.0-24"],
                hosts.iter().find(full),
            ) {
                (true, Some(_)) => Ok(()),
                _ => Err(format!("{leases:?}")),
            }
        },
    );
    // One leaves for good.
    let left = wire.leases().swap_remove(0);
    let gone = hosts
        .iter()
        .position(|host| left.1["PublicIP"] == *host.address)
        .unwrap();
    let mut hosts = hosts;
    drop(hosts.remove(gone));
    wire.ctl(&["del", &format!("{PREFIX}/subnets/{}", left.0)]);
    let leased: Vec<String> = hosts.iter().map(|host| wire.lease(host).0).collect();
    assert_ne!(leased[0], leased[1]);
}

#[test]
fn a_configuration_that_is_none_is_named() {
    let wire = Wire::new();
    let host = Host::on(&wire, 1);
    let refused = |text: &str| {
        wire.configure(text);
        let mut command = host.place.command("timeout").unwrap();
        command.args(["60", "setpriv", "--pdeathsig", "KILL"]);
        command.arg(env!("CARGO_BIN_EXE_weft"));
        let output = command.args(host.arguments(&wire, &[])).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (text, words) in [
        (
            "{",
            "etcd's /coreos.com/network/config: the configuration: is no JSON",
        ),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":"one"}}"#,
            "Backend.VNI: must be a whole number",
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetLen":31}"#,
            "SubnetLen: 31 is not between",
        ),
    ] {
        let said = refused(text);
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn etcd_is_spoken_to_with_certificates() {
    let wire = Wire::with(true);
    wire.configure(HOST_GW);
    let host = Host::up(&wire, 1, &[]);
    wire.lease(&host);
}

#[test]
fn a_reservation_stays_one_and_what_is_reserved_for_another_is_nobody_elses() {
    let wire = Wire::new();
    wire.configure(VXLAN);
    let key = |subnet: &str| format!("{PREFIX}/subnets/{subnet}");
    let reserve = |subnet: &str, address: &str| {
        wire.ctl(&[
            "put",
            &key(subnet),
            &format!(r#"{{"PublicIP":"{address}"}}"#),
        ]);
    };
    reserve("10.5.77.0-24", "172.30.0.1");
    let lease_of = |subnet: &str| -> Result<u64, String> {
        let said = wire.try_ctl(&["get", "-w", "json", &key(subnet)])?;
        let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        let found = said["kvs"][0].as_object().ok_or("it is not there")?;
        // Zero is left out.
        Ok(found.get("lease").and_then(Value::as_u64).unwrap_or(0))
    };
    // What is leased lasts as long as its host runs; each is kept after a second.
    let seconds = ["--lease-seconds", "3"];
    let mut one = Host::up(&wire, 1, &seconds);
    let two = Host::up(&wire, 2, &seconds);
    assert_eq!(wire.lease(&one).0, "10.5.77.0-24");
    assert_eq!(lease_of("10.5.77.0-24").unwrap(), 0);
    let (second, _) = wire.lease(&two);
    eventually("it is leased", || match lease_of(&second)? {
        0 => Err("it stays".to_owned()),
        _ => Ok(()),
    });
    one.route(&format!("{} via", subnet(&second)), true);

    // Its host is gone, another's lease runs out, and the reservation stays.
    one.process = None;
    drop(two);
    eventually("the lease ran out", || match lease_of(&second) {
        Err(_) => Ok(()),
        Ok(lease) => Err(format!("{lease}")),
    });
    assert_eq!(lease_of("10.5.77.0-24").unwrap(), 0);
    one.start(&wire, &seconds);
    // A lease that somebody makes a reservation is one from then on.
    let three = Host::up(&wire, 3, &seconds);
    let (third, _) = wire.lease(&three);
    reserve(&third, "172.30.0.3");
    let (again, _) = wire.lease(&three);
    assert_eq!(again, third);
    eventually("its host knows", || {
        let log = three.log();
        if log.contains("reserved for this host") {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert_eq!(lease_of(&third).unwrap(), 0);
}

#[test]
fn a_host_says_who_it_is_where_etcd_asks() {
    let mut wire = Wire::new();
    wire.configure(HOST_GW);
    let range = format!("{PREFIX}/");
    for arguments in [
        &["user", "add", "root:first"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "network"],
        &[
            "role",
            "grant-permission",
            "network",
            "--prefix=true",
            "readwrite",
            &range,
        ],
        &["user", "add", "host:second"],
        &["user", "grant-role", "host", "network"],
    ] {
        // What came to an end after the answer was lost is there already.
        eventually("etcd knows the users", || match wire.try_ctl(arguments) {
            Err(error) if error.contains("already exist") => Ok(String::new()),
            other => other,
        });
    }
    // Who asks for it a second time, because an answer was lost, is asked who that is.
    wire.user = Some("root:first");
    wire.ctl(&["auth", "enable"]);

    let nobody = Host::up(&wire, 1, &[]);
    eventually("who says no name is told", || {
        let log = nobody.log();
        if log.contains("user name is empty") {
            Ok(())
        } else {
            Err(log)
        }
    });
    let wrong = ["--etcd-username", "host", "--etcd-password", "first"];
    let wrong = Host::up(&wire, 2, &wrong);
    eventually("a wrong password is told", || {
        let log = wrong.log();
        if log.contains("invalid user ID or password") {
            Ok(())
        } else {
            Err(log)
        }
    });
    let right = ["--etcd-username", "host", "--etcd-password", "second"];
    let host = Host::up(&wire, 3, &right);
    let (name, _) = wire.lease(&host);
    // What it was known by is forgotten with a change of the password.
    let script = "echo second | etcdctl --endpoints=\"$1\" --user root:first \
        user passwd host --interactive=false";
    eventually("the password is said again", || {
        let mut change = wire.place.command("sh").unwrap();
        change.env("ETCDCTL_API", "3");
        change.args(["-c", script, "sh", &wire.url()]);
        let changed = change.output().unwrap();
        match changed.status.success() {
            true => Ok(()),
            false => Err(format!("{changed:?}")),
        }
    });
    wire.ctl(&["del", &format!("{PREFIX}/subnets/{name}")]);
    assert_eq!(wire.lease(&host).0, name);
    assert!(!host.log().contains("invalid auth token"), "{}", host.log());
}

/// Containers of all hosts see each other's addresses; beyond the network only the host's is seen.
#[test]
fn what_leaves_the_network_has_the_host_s_address_if_that_is_asked_for() {
    let wire = Wire::new();
    wire.configure(VXLAN);
    let masked = ["--ip-masq"];
    let (mut one, two) = (Host::up(&wire, 1, &masked), Host::up(&wire, 2, &masked));
    let (there, own) = (two.contain(), one.contain());
    one.reaches(there);
    assert_eq!(one.variable("FLANNEL_IPMASQ").unwrap(), "true");
    // The wire has no route to containers: only what comes from the host's own address is
    // answered, and the route to the wire is there.
    let gateway: IpAddr = "172.30.0.10".parse().unwrap();
    one.reaches(gateway);
    let server = TcpEcho::start(&two.container, &format!("{there}:0")).unwrap();
    let met = probe::tcp(&one.container, server.address(), PATIENCE).unwrap();
    assert_eq!(
        met.answer().map(|answer| answer.from.ip()),
        Some(own),
        "{met:?}"
    );

    // Without, it is left to Docker, and nothing of it stays.
    one.process = None;
    one.start(&wire, &[]);
    eventually("the rules are gone", || {
        let tables = one.place.output("nft", ["list", "tables"]);
        let tables = tables.map_err(|error| error.to_string())?;
        match tables.contains("weft") {
            true => Err(format!("{tables}\n{}", one.log())),
            false => Ok(()),
        }
    });
    eventually("subnet.env says so", || {
        match one.variable("FLANNEL_IPMASQ")? {
            said if said == "false" => Ok(()),
            said => Err(said),
        }
    });
    one.reaches(there);
}

#[test]
fn a_host_with_several_links_is_reached_by_the_one_that_is_meant() {
    let wire = Wire::new();
    wire.configure(VXLAN);
    link::bridge(&wire.place, "second").unwrap();
    link::address(&wire.place, "second", "172.31.0.10/24").unwrap();
    let with_two = |number: u8| {
        let mut host = Host::on(&wire, number);
        let port = format!("second{number}");
        link::veth(&host.place, "eth1", &wire.place, &port).unwrap();
        link::port(&wire.place, "second", &port).unwrap();
        link::up(&wire.place, &port).unwrap();
        host.address = format!("172.31.0.{number}");
        let address = format!("{}/24", host.address);
        link::address(&host.place, "eth1", &address).unwrap();
        host
    };
    let ways = [
        ["--iface", "eth1"],
        ["--iface-regex", r"^172\.31\."],
        ["--iface-can-reach", "172.31.0.10"],
    ];
    let hosts = (1..).zip(&ways).map(|(number, way)| {
        let mut host = with_two(number);
        host.start(&wire, way);
        host
    });
    let hosts: Vec<Host> = hosts.collect();
    for host in &hosts {
        wire.lease(host);
    }
    let addresses: Vec<IpAddr> = hosts.iter().map(Host::contain).collect();
    for host in &hosts {
        let shown = host.place.output("ip", ["-d", "link", "show", "flannel.1"]);
        let local = format!("local {} ", host.address);
        assert!(shown.unwrap().contains(&local), "{local}");
        for to in &addresses {
            host.reaches(*to);
        }
    }
    let host = &hosts[0];
    eventually(
        "who asks is told of the others, and that nothing is missing",
        || {
            let mut command = host.place.command(env!("CARGO_BIN_EXE_weft")).unwrap();
            command.args(["fabric", "peers", "-o", "json", "--socket"]);
            let output = command.arg(host.path("fabric.sock")).output().unwrap();
            let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let peers = told["peers"].as_array().cloned().unwrap_or_default();
            let stands = |peer: &Value| {
                let whole = peer["missing"].as_array().is_some_and(Vec::is_empty);
                whole && peer["way"] == "vxlan" && peer["address"] != *host.address
            };
            match peers.len() == 2 && peers.iter().all(stands) {
                true => Ok(()),
                false => Err(format!("{output:?}")),
            }
        },
    );
    let fourth = with_two(4);
    let mut command = fourth.place.command("timeout").unwrap();
    command.args(["60", "setpriv", "--pdeathsig", "KILL"]);
    command.arg(env!("CARGO_BIN_EXE_weft"));
    command.args(fourth.arguments(&wire, &["--iface", "eth7"]));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("eth7") && said.contains("172.31.0.4 on eth1"),
        "{said}"
    );
}
