//! `weft lab publish`: a Service of a lab at a port of this machine's loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{Lab, Ran, Running, eventually, expect};

const SERVER: &str = include_str!("publish.py");
/// How long a connection may stand still.
const PATIENCE: Duration = Duration::from_secs(60);

static LAB: LazyLock<Lab> = LazyLock::new(|| {
    let lab = Lab::up("publish", &[]);
    furnish(&lab, "default");
    lab
});

fn server(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web", "pod": name}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c", "image": "python",
                "command": ["python3", "-c", SERVER, "7000", name],
                "readinessProbe": {"tcpSocket": {"port": 7000}, "periodSeconds": 1},
            }],
        },
    })
}

fn service(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn furnish(lab: &Lab, namespace: &str) {
    let selector = json!({"app": "web"});
    let port = json!([{"name": "talk", "port": 80, "targetPort": 7000}]);
    let objects = [
        server("a", "node-1"),
        server("b", "node-2"),
        service("web", &json!({"selector": selector, "ports": port})),
        service(
            "headless",
            &json!({"clusterIP": "None", "selector": selector, "ports": port}),
        ),
        service(
            "local",
            &json!({
                "internalTrafficPolicy": "Local", "selector": {"pod": "b"}, "ports": port,
            }),
        ),
        service(
            "empty",
            &json!({"selector": {"app": "nobody"}, "ports": port}),
        ),
        service(
            "several",
            &json!({"selector": selector, "ports": [
                {"name": "one", "port": 80, "targetPort": 7000},
                {"name": "two", "port": 81, "targetPort": 7001},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ]}),
        ),
        service(
            "name",
            &json!({"type": "ExternalName", "externalName": "example.com"}),
        ),
    ];
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    lab.apply(namespace, &list.to_string());
    lab.pods_ready(namespace, "app=web");
    // The nodes' rules follow a moment later.
    for service in ["web", "headless", "local:80", "several:one"] {
        let published = publish(lab, &[&format!("{namespace}/{service}")]);
        eventually(&format!("{service} answers"), || who(published.address));
    }
}

/// A Service, published in the foreground.
struct Publication {
    running: Running,
    address: SocketAddr,
}

#[track_caller]
fn publish(lab: &Lab, arguments: &[&str]) -> Publication {
    let running = lab.weft_start(&["publish"], arguments);
    let line = running.line("where it is", |line| line.contains(" is at "));
    let (_, address) = line.split_once(" is at ").unwrap();
    Publication {
        running,
        address: address.parse().unwrap(),
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    // Without an endpoint yet it is reset at once.
    let stream = eventually("a connection is made", || {
        TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| error.to_string())
    });
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes and an end, and returns who got how many.
fn told(address: SocketAddr, bytes: &[u8]) -> Result<(String, usize), String> {
    let mut stream = connect(address);
    let talk = |stream: &mut TcpStream| {
        stream.write_all(b"d")?;
        stream.write_all(bytes)?;
        // The other direction stays open.
        stream.shutdown(Shutdown::Write)?;
        let mut said = String::new();
        stream.read_to_string(&mut said).map(|_| said)
    };
    let said = talk(&mut stream).map_err(|error| error.to_string())?;
    let words: Vec<&str> = said.split(' ').collect();
    match words.as_slice() {
        [name, count, _] => Ok(((*name).to_owned(), count.parse().unwrap())),
        other => Err(format!("{other:?}")),
    }
}

/// Who answers.
fn who(address: SocketAddr) -> Result<String, String> {
    told(address, b"").map(|(name, _)| name)
}

fn refused(service: &str, code: i32, words: &str) {
    let ran: Ran = LAB.weft(&["publish"], &[service]);
    assert_eq!(ran.code, Some(code), "{ran}");
    assert!(ran.err.contains(words), "{ran}");
}

#[test]
fn a_service_is_reached_and_follows_its_endpoints() {
    let lab = Lab::up("publish-follow", &[]);
    furnish(&lab, "default");
    let web = publish(&lab, &["web"]);
    assert!(web.address.ip().is_loopback());
    let both = |what: &str, wanted: &[&str]| {
        eventually(what, || {
            let mut seen: Vec<String> = (0..16)
                .map(|_| who(web.address))
                .collect::<Result<_, _>>()?;
            seen.sort();
            seen.dedup();
            expect(seen, |seen| *seen == wanted)
        });
    };
    both("both pods answer", &["a", "b"]);
    lab.kubectl(&["delete", "pod", "a"]).ok();
    both("the one that is left answers", &["b"]);
    lab.apply("default", &server("c", "node-1").to_string());
    both("a new one answers beside it", &["b", "c"]);
    lab.weft(&["node", "remove"], &["node-1"]).ok();
    both("the node's end is nobody's concern", &["b"]);

    // The Service goes and comes back with another address.
    let open = connect(web.address);
    lab.kubectl(&["delete", "service", "web"]).ok();
    eventually("nobody is there", || {
        who(web.address).err().ok_or("somebody".to_owned())
    });
    let port = json!([{"name": "talk", "port": 90, "targetPort": 7000}]);
    let again = service("web", &json!({"selector": {"app": "web"}, "ports": port}));
    lab.apply("default", &again.to_string());
    both("it is there again, at another port", &["b"]);
    drop(open);

    // It ends with its lab, whatever ends that.
    lab.kill();
    assert_eq!(web.running.ends_within(PATIENCE), Some(0));
}

#[test]
fn headless_and_local_services_are_reached_too() {
    let headless = publish(&LAB, &["headless"]);
    assert!(["a", "b"].contains(&&*who(headless.address).unwrap()));
    let local = publish(&LAB, &["local:80"]);
    assert_eq!(who(local.address).unwrap(), "b");
    let named = publish(&LAB, &["default/several:one"]);
    assert!(who(named.address).is_ok());
}

#[test]
fn what_cannot_be_published_is_refused() {
    refused(
        "nothing",
        5,
        "there is no Service \"nothing\" in namespace \"default\"",
    );
    refused("web:81", 5, "its ports: 80 (talk)");
    refused("several", 5, "more than one port");
    refused("several:dns", 2, "UDP");
    refused("name", 2, "ExternalName");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = LAB.weft(&["publish"], &["web", &address]);
    assert_eq!(ran.code, Some(4), "{ran}");
    let ran = LAB.weft(&["publish"], &["web", "0.0.0.0:0"]);
    assert_eq!(ran.code, Some(2), "{ran}");
    assert!(ran.err.contains("--expose"), "{ran}");

    // Nobody behind it: a client is not left waiting.
    let empty = publish(&LAB, &["empty"]);
    let mut stream = connect(empty.address);
    let met = stream.read(&mut [0]).map_err(|error| error.kind());
    assert!(
        matches!(met, Ok(0) | Err(ErrorKind::ConnectionReset)),
        "{met:?}"
    );
}

/// Bytes that no part of is like another.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn large_transfers_arrive_whole_in_both_directions() {
    let web = publish(&LAB, &["web:talk"]);
    let sent = noise(64 << 20);
    assert_eq!(told(web.address, &sent).unwrap().1, sent.len());

    let mut stream = connect(web.address);
    let mut reader = stream.try_clone().unwrap();
    let back = thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut back = Vec::new();
            reader.read_to_end(&mut back).map(|_| back)
        });
        stream.write_all(b"e").unwrap();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        reading.join().unwrap().unwrap()
    });
    assert!(back == sent, "{} bytes of {}", back.len(), sent.len());
}

#[test]
fn a_client_that_does_not_read_holds_the_server_back_and_nobody_else() {
    let web = publish(&LAB, &["web"]);
    let mut lazy = connect(web.address);
    lazy.set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    lazy.write_all(b"e").unwrap();
    // Nobody reads what comes back, so what is written finds no room at last. Buffers of the
    // kernel on the way grow to some 6 MiB each (tcp_rmem, tcp_wmem).
    let chunk = noise(1 << 20);
    let mut written = 0;
    let stuck = loop {
        match lazy.write_all(&chunk) {
            Ok(()) => written += chunk.len(),
            Err(error) => break error.kind(),
        }
        assert!(written < 256 << 20, "somebody has read {written} bytes");
    };
    assert_eq!(stuck, ErrorKind::WouldBlock);
    assert!(who(web.address).is_ok());

    // Many at a time, all of them served.
    let many: Vec<TcpStream> = (0..300).map(|_| connect(web.address)).collect();
    for mut stream in many {
        stream.write_all(b"d").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.contains(" 0 "), "{said}");
    }
}

#[test]
fn in_the_background_until_it_is_stopped_or_killed() {
    let list = || -> Value {
        serde_json::from_str(&LAB.weft(&["publish"], &["--list", "-o", "json"]).ok()).unwrap()
    };
    let entry = |address: &str| {
        let list = list();
        let mut entries = list.as_array().unwrap().iter();
        entries.find(|one| one["address"] == address).cloned()
    };
    let start = || {
        let said = LAB.weft(&["publish"], &["web", "--detach"]).ok();
        let (_, address) = said.trim().split_once(" is at ").unwrap();
        address.to_owned()
    };
    let address = start();
    assert!(who(address.parse().unwrap()).is_ok());
    let found = entry(&address).unwrap();
    assert_eq!(
        (&found["service"], &found["namespace"]),
        (&json!("web"), &json!("default"))
    );
    LAB.weft(&["publish"], &["--stop", &address]).ok();
    TcpStream::connect(&address).unwrap_err();
    assert_eq!(entry(&address), None);
    let again = LAB.weft(&["publish"], &["--stop", &address]);
    assert_eq!(again.code, Some(5), "{again}");

    let address = start();
    let pid = u32::try_from(entry(&address).unwrap()["pid"].as_u64().unwrap()).unwrap();
    LAB.kill_outright(&[pid].into());
    eventually("a killed one leaves nothing", || {
        expect(entry(&address), Option::is_none)?;
        TcpStream::connect(&address)
            .err()
            .ok_or("it listens".to_owned())
    });
    // Its port is free for another.
    let again = LAB.weft(&["publish"], &["web", &address, "--detach"]).ok();
    assert!(again.contains(&address), "{again}");
    LAB.weft(&["publish"], &["--stop", &address]).ok();
}
