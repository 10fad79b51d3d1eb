//! What a kubelet does for pods, by the names of Kubernetes' own end-to-end tests.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, expect};

static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::up("node-pods", &[]));

/// Each test has a namespace of its own.
struct Space(&'static str);

fn pod(name: &str, spec: &Value) -> String {
    let mut spec = spec.clone();
    if spec["terminationGracePeriodSeconds"].is_null() {
        spec["terminationGracePeriodSeconds"] = 0.into();
    }
    let metadata = json!({"name": name, "labels": {"app": name}, "annotations": {"build": "two"}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).to_string()
}

fn busybox(script: &str) -> Value {
    json!({"name": "c", "image": "busybox", "command": ["sh", "-c", script]})
}

/// Ends when it is told to, and says so.
fn obedient(name: &str) -> Value {
    let script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    json!({"name": name, "image": "busybox", "command": ["sh", "-c", script]})
}

impl Space {
    fn new(name: &'static str) -> Self {
        LAB.namespace(name);
        Space(name)
    }

    fn run(&self, name: &str, spec: &Value) {
        LAB.apply(self.0, &pod(name, spec));
    }

    fn field(&self, pod: &str, path: &str) -> Result<String, String> {
        LAB.field(&["-n", self.0, "pod", pod], path)
    }

    fn becomes(&self, pod: &str, path: &str, wanted: &str) {
        eventually(&format!("{path} of {pod} is {wanted:?}"), || {
            expect(self.field(pod, path)?, |found| found == wanted)
        });
    }

    fn ready(&self, pod: &str) {
        let path = "{.status.conditions[?(@.type==\"Ready\")].status}";
        self.becomes(pod, path, "True");
    }

    fn sh(&self, pod: &str, script: &str) -> String {
        let exec = ["exec", "--container", "c", "--namespace", self.0];
        LAB.weft(&exec, &[pod, "--", "sh", "-c", script]).ok()
    }

    fn log(&self, pod: &str, container: &str) -> Result<String, String> {
        LAB.kubectl(&["-n", self.0, "logs", pod, "-c", container])
            .result()
    }

    /// Waits for an event of a pod; returns all their messages.
    fn event(&self, pod: &str, reason: &str, message: &str) {
        let selector = format!("involvedObject.name={pod},reason={reason}");
        eventually(&format!("{pod} has the event {reason}: {message}"), || {
            let events = ["-n", self.0, "events", "--field-selector", &selector];
            let found = LAB.field(&events, "{.items[*].message}")?;
            expect(found, |found| found.contains(message))
        });
    }
}

const STATE: &str = "{.status.containerStatuses[0].state.*.reason}";
const RESTARTS: &str = "{.status.containerStatuses[0].restartCount}";

/// Probing container: exec and the timeout of a probe that hangs, restarted or not ready.
#[test]
fn probing_container_by_programs() {
    let space = Space::new("probing-exec");
    let mut container = busybox("touch /tmp/alive; exec sleep 600");
    // On a busy machine even `test` may take a while; what a timeout does is told by the next one.
    container["readinessProbe"] = json!({"periodSeconds": 1, "timeoutSeconds": 60,
        "exec": {"command": ["test", "-e", "/tmp/healthy"]}});
    container["livenessProbe"] = json!({"periodSeconds": 1, "timeoutSeconds": 60,
        "failureThreshold": 1, "exec": {"command": ["test", "-e", "/tmp/alive"]}});
    container["startupProbe"] = json!({"periodSeconds": 1, "timeoutSeconds": 60,
        "failureThreshold": 600, "exec": {"command": ["test", "-e", "/tmp/started"]}});
    space.run("probed", &json!({"containers": [container]}));
    space.event("probed", "Unhealthy", "Startup probe failed");
    // Neither of the others is asked before that one has passed.
    space.sh("probed", "rm /tmp/alive; touch /tmp/healthy");
    assert_eq!(
        space
            .field("probed", "{.status.containerStatuses[0].ready}")
            .unwrap(),
        "false"
    );
    space.sh("probed", "touch /tmp/alive /tmp/started");
    space.ready("probed");
    assert_eq!(space.field("probed", RESTARTS).unwrap(), "0");
    space.sh("probed", "rm /tmp/alive");
    space.becomes("probed", RESTARTS, "1");
    space.event(
        "probed",
        "Killing",
        "Container c failed liveness probe, will be restarted",
    );

    let mut hangs = busybox("exec sleep 600");
    hangs["livenessProbe"] = json!({"periodSeconds": 1, "timeoutSeconds": 1,
        "failureThreshold": 1, "exec": {"command": ["sleep", "987"]}});
    space.run("hangs", &json!({"containers": [hangs]}));
    space.event("hangs", "Unhealthy", "timed out after 1s");
    space.event(
        "hangs",
        "BackOff",
        "Back-off restarting failed container c in pod hangs",
    );
    space.becomes("hangs", STATE, "CrashLoopBackOff");
}

/// A gRPC server without a library: what it sends is HTTP/2 frames and HPACK by hand. It serves
/// `well`, and what else is asked for it does not know.
const GRPC: &str = r#"
import socket, struct, threading
def frame(kind, flags, stream, body):
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body
def text(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
def serve(peer):
    peer.settimeout(30)
    stream = peer.makefile("rb")
    stream.read(24)
    peer.sendall(frame(4, 0, 0, b""))
    while True:
        head = stream.read(9)
        if len(head) < 9: return
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        number = int.from_bytes(head[5:], "big")
        body = stream.read(length)
        if kind == 4 and not flags & 1: peer.sendall(frame(4, 1, 0, b""))
        if kind != 0 or not flags & 1: continue
        state = 1 if body[5:] == b"\x0a\x04well" else 2
        begin = b"\x88" + text(b"content-type", b"application/grpc")
        peer.sendall(frame(1, 4, number, begin))
        peer.sendall(frame(0, 0, number, b"\x00\x00\x00\x00\x02\x08" + bytes([state])))
        peer.sendall(frame(1, 5, number, text(b"grpc-status", b"0")))
listener = socket.create_server(("0.0.0.0", 5000))
while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

/// Probing container: over gRPC, HTTPS, HTTP with redirections, and TCP.
#[test]
fn probing_container_over_the_network() {
    let space = Space::new("probing-network");
    let server = |service: &str| {
        json!({"containers": [{"name": "c", "image": "python", "command": ["python3", "-c", GRPC],
            "readinessProbe": {"periodSeconds": 1, "grpc": {"port": 5000, "service": service}}}]})
    };
    space.run("well", &server("well"));
    space.run("ill", &server("ill"));
    // Of the API server nobody here knows the authority.
    let probe = |scheme: &str| {
        json!({"containers": [{"name": "c", "image": "pause", "readinessProbe": {
            "periodSeconds": 1, "httpGet": {"scheme": scheme, "host": "10.96.0.1", "port": 443,
                "path": "/livez"}}}]})
    };
    space.run("https", &probe("HTTPS"));
    space.run("plain", &probe("HTTP"));
    let tcp = json!({"periodSeconds": 1, "tcpSocket": {"port": "web"}});
    let ports = json!([{"name": "web", "containerPort": 8080}]);
    space.run(
        "tcp",
        &json!({"containers": [{"name": "c", "image": "weft/echo",
        "ports": ports, "readinessProbe": tcp}]}),
    );
    for name in ["well", "https", "tcp"] {
        space.ready(name);
    }
    space.event(
        "ill",
        "Unhealthy",
        "service unhealthy (responded with \"NOT_SERVING\")",
    );
    space.event("plain", "Unhealthy", "Readiness probe failed");
}

/// Container Lifecycle Hook.
#[test]
fn container_lifecycle_hooks() {
    let space = Space::new("hooks");
    let spec = json!({
        "terminationGracePeriodSeconds": 60,
        "containers": [{
            "name": "c", "image": "busybox",
            "command": ["sh", "-c", "trap 'echo term; exit 3' TERM; while :; do sleep 0.05; done"],
            "lifecycle": {
                "postStart": {"exec": {"command":
                    ["sh", "-c", "while [ ! -e /dev/shm/go ]; do sleep 0.05; done"]}},
                "preStop": {"exec": {"command": ["sh", "-c", "echo pre > /proc/$(pgrep -o sh)/fd/1"]}},
            },
        }, {"name": "second", "image": "pause"}],
    });
    space.run("hooked", &spec);
    // While the first hook runs nobody is told that the container does, and no other is started.
    space.event("hooked", "Started", "Started container c");
    let first = "{.status.containerStatuses[?(@.name==\"c\")].state.waiting.reason}";
    space.becomes("hooked", first, "ContainerCreating");
    let second = "{.status.containerStatuses[?(@.name==\"second\")].containerID}";
    assert_eq!(space.field("hooked", second).unwrap(), "");
    let go = ["exec", "--container", "c", "--namespace", "hooks"];
    LAB.weft(&go, &["hooked", "--", "touch", "/dev/shm/go"])
        .ok();
    space.ready("hooked");
    let logs = LAB.kubectl_start(&["-n", "hooks", "logs", "-f", "hooked", "-c", "c"]);
    LAB.kubectl(&["-n", "hooks", "delete", "pod", "hooked", "--wait=false"])
        .ok();
    eventually(
        "the pod has ended by its signal, well before its time",
        || {
            let left = LAB.kubectl(&["-n", "hooks", "get", "pod", "hooked", "--ignore-not-found"]);
            expect(left.result()?, String::is_empty)
        },
    );
    drop(logs);

    let failing = json!({"containers": [{"name": "c", "image": "pause",
        "lifecycle": {"postStart": {"exec": {"command": ["false"]}}}}]});
    space.run("failing", &failing);
    space.event("failing", "FailedPostStartHook", "PostStartHook failed");
    space.becomes("failing", STATE, "CrashLoopBackOff");

    let mut stubborn = busybox("trap '' TERM; while :; do sleep 0.05; done");
    stubborn["lifecycle"] = json!({"preStop": {"httpGet": {"port": 1}}});
    space.run(
        "stubborn",
        &json!({"terminationGracePeriodSeconds": 1, "containers": [stubborn]}),
    );
    space.ready("stubborn");
    LAB.kubectl(&["-n", "hooks", "delete", "pod", "stubborn", "--timeout=110s"])
        .ok();
    space.event("stubborn", "FailedPreStopHook", "PreStopHook failed");

    // A hook that only waits is as good as any, and is waited for no longer than the pod may take.
    let mut waiting = obedient("c");
    waiting["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 1}}});
    let mut longest = waiting.clone();
    longest["name"] = "longest".into();
    longest["lifecycle"]["preStop"]["sleep"]["seconds"] = 2.into();
    space.run(
        "waiting",
        &json!({"terminationGracePeriodSeconds": 2, "containers": [waiting, longest]}),
    );
    space.ready("waiting");
    LAB.kubectl(&["-n", "hooks", "delete", "pod", "waiting", "--timeout=110s"])
        .ok();
    space.event("waiting", "Killing", "Stopping container longest");
    let of_it = "involvedObject.name=waiting,reason=FailedPreStopHook";
    let failed = ["-n", "hooks", "get", "events", "--field-selector", of_it];
    let failed = LAB.kubectl(&[&failed[..], &["-o", "name"]].concat()).ok();
    assert_eq!(failed, "");
}

/// Container Runtime: terminationMessagePath and terminationMessagePolicy.
#[test]
fn a_container_says_why_it_ended() {
    let space = Space::new("last-words");
    let mut own = busybox("echo 'own words' > /var/tmp/words; exit 1");
    own["terminationMessagePath"] = "/var/tmp/words".into();
    let mut logged = busybox("echo 'out of luck'; exit 1");
    logged["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
    let silent = busybox("echo 'out of luck'; exit 1");
    let message = "{.status.containerStatuses[0].state.terminated.message}";
    for (name, container, words) in [
        ("own", own, "own words\n"),
        ("logged", logged, "out of luck\n"),
        ("silent", silent, ""),
    ] {
        space.run(
            name,
            &json!({"restartPolicy": "Never", "containers": [container]}),
        );
        space.becomes(name, "{.status.phase}", "Failed");
        assert_eq!(space.field(name, message).unwrap(), words, "{name}");
    }
}

/// InitContainer, and SidecarContainers: started in order, ended in the reverse.
#[test]
fn init_containers_and_sidecars() {
    let space = Space::new("init");
    let sidecar = |name: &str| {
        let mut one = obedient(name);
        one["restartPolicy"] = "Always".into();
        one["startupProbe"] = json!({"periodSeconds": 1, "exec": {"command": ["true"]}});
        one
    };
    let init = |name: &str, script: &str| {
        let mut one = busybox(script);
        one["name"] = name.into();
        one
    };
    let spec = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,
        "initContainers": [init("i1", "true"), sidecar("s1"), init("i2", "true"), sidecar("s2")],
        "containers": [busybox("while [ ! -e /dev/shm/done ]; do sleep 0.05; done; echo well > /dev/termination-log")],
    });
    space.run("sidecars", &spec);
    space.ready("sidecars");
    let begun = LAB.get(&["-n", "init", "pod", "sidecars"]);
    let inits = begun["status"]["initContainerStatuses"].as_array().unwrap();
    let names: Vec<_> = inits
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["i1", "s1", "i2", "s2"]);
    let done = |index: usize| inits[index]["state"]["terminated"]["reason"] == "Completed";
    assert!(done(0) && done(2), "{inits:?}");
    space.sh("sidecars", "touch /dev/shm/done");
    space.becomes("sidecars", "{.status.phase}", "Succeeded");
    let message = "{.status.containerStatuses[0].state.terminated.message}";
    assert_eq!(space.field("sidecars", message).unwrap(), "well\n");
    for name in ["s1", "s2"] {
        assert_eq!(space.log("sidecars", name).unwrap(), "up\nbye\n", "{name}");
    }
    let events = [
        "-n",
        "init",
        "events",
        "--field-selector",
        "involvedObject.name=sidecars,reason=Killing",
        "--sort-by=.metadata.creationTimestamp",
    ];
    eventually("the last sidecar was asked first", || {
        let told = LAB.field(&events, "{.items[*].message}")?;
        let place = |name: &str| told.find(&format!("Stopping container {name}"));
        expect((place("s2"), place("s1")), |(s2, s1)| {
            s2.is_some() && s2 < s1
        })
    });

    // A broken init container keeps the others from starting, and fails a pod that is never
    // restarted.
    let broken = |policy: &str| {
        json!({"restartPolicy": policy,
        "initContainers": [init("i1", "exit 3"), init("i2", "true")], "containers": [busybox("true")]})
    };
    space.run("broken", &broken("Never"));
    space.run("again", &broken("Always"));
    space.becomes("broken", "{.status.phase}", "Failed");
    let second = "{.status.initContainerStatuses[1].state.waiting.reason}";
    assert_eq!(space.field("broken", second).unwrap(), "PodInitializing");
    let first = "{.status.initContainerStatuses[0].state.waiting.reason}";
    space.becomes("again", first, "CrashLoopBackOff");
    assert_eq!(space.field("again", "{.status.phase}").unwrap(), "Pending");
}

/// Downward API, Projected volumes, ConfigMaps and Secrets and their updates, subPath.
#[test]
fn volumes_that_the_kubelet_writes() {
    let space = Space::new("written");
    let apply = |color: &str| {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
            "data": {"color": color, "size": "12"}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
            "stringData": {"key": color}});
        LAB.apply("written", &crate::lab::probe::manifest(&[map, secret]));
    };
    apply("blue");
    let items = json!([{"key": "color", "path": "deep/color", "mode": 0o400}]);
    let volumes = json!([
        {"name": "all", "configMap": {"name": "settings", "defaultMode": 0o640}},
        {"name": "some", "configMap": {"name": "settings", "items": items}},
        {"name": "later", "secret": {"secretName": "later", "optional": true}},
        {"name": "both", "projected": {"sources": [
            {"secret": {"name": "keys"}},
            {"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "cpu", "resourceFieldRef": {"containerName": "c",
                    "resource": "limits.cpu", "divisor": "1m"}},
            ]}},
        ]}},
        {"name": "data", "emptyDir": {}},
    ]);
    let mut container = busybox("sleep 600");
    container["resources"] = json!({"limits": {"cpu": "250m"}});
    container["env"] = json!([
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "BUILD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['build']"}}},
        {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "no", "optional": true}}},
    ]);
    container["envFrom"] = json!([
        {"prefix": "S_", "configMapRef": {"name": "settings"}},
        {"prefix": "K_", "secretRef": {"name": "keys"}},
        {"configMapRef": {"name": "nothing", "optional": true}},
    ]);
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    container["volumeMounts"] = json!([
        mount("all", "/all"), mount("some", "/some"), mount("later", "/later"),
        mount("both", "/both"),
        {"name": "all", "mountPath": "/etc/color", "subPath": "color"},
        {"name": "data", "mountPath": "/data", "subPathExpr": "of-$(NAME)"},
        {"name": "data", "mountPath": "/fixed", "readOnly": true},
    ]);
    space.run(
        "reader",
        &json!({"containers": [container], "volumes": volumes}),
    );
    space.ready("reader");
    let sh = |script: &str| space.sh("reader", script);
    assert_eq!(
        sh("cat /all/color /etc/color /some/deep/color /both/key"),
        "blueblueblueblue"
    );
    assert_eq!(
        sh("cat /both/cpu; echo; cat /both/labels"),
        "250\napp=\"reader\""
    );
    assert_eq!(sh("stat -Lc %a /all/color /some/deep/color"), "640\n400\n");
    assert_eq!(sh("ls /some; ls /later | wc -l"), "deep\n0\n");
    assert_eq!(
        sh("echo $BUILD $S_color $S_size $K_key ${NONE-unset}"),
        "two blue 12 blue unset\n"
    );
    assert_eq!(
        sh("touch /data/x; ls /fixed; touch /fixed/y 2>/dev/null || echo no"),
        "of-reader\nno\n"
    );
    assert_eq!(
        sh("readlink /all/color; touch /all/new 2>/dev/null || echo no"),
        "..data/color\nno\n"
    );

    apply("green");
    LAB.kubectl(&[
        "-n",
        "written",
        "create",
        "secret",
        "generic",
        "later",
        "--from-literal=a=b",
    ])
    .ok();
    LAB.kubectl(&["-n", "written", "label", "pod", "reader", "tier=front"])
        .ok();
    eventually("volumes follow what they are written from", || {
        let seen = LAB.sh(
            "written/reader",
            "cat /all/color /both/key /later/a; cat /both/labels",
        );
        let wanted = "greengreenbapp=\"reader\"\ntier=\"front\"";
        expect(seen.result()?, |seen| seen == wanted)
    });
    // What is mounted by itself, and what is in the environment, stays.
    assert_eq!(sh("cat /etc/color; echo $S_color"), "blueblue\n");
}

/// DNS configuration: the four policies, and names of a pod's own.
#[test]
fn dns_configuration() {
    let space = Space::new("resolvers");
    let spec = |policy: &str, extra: Value| {
        let mut spec = json!({"dnsPolicy": policy, "containers": [busybox("sleep 600")]});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    };
    let config = json!({"nameservers": ["192.0.2.53"], "searches": ["resolv.conf.local"],
        "options": [{"name": "ndots", "value": "2"}]});
    space.run("none", &spec("None", json!({"dnsConfig": config})));
    space.run(
        "cluster",
        &spec(
            "ClusterFirst",
            json!({"dnsConfig": {"searches": ["more.example"]},
        "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["one.example", "two.example"]}]}),
        ),
    );
    space.run("default", &spec("Default", json!({"nodeName": "node-1"})));
    space.run(
        "host",
        &spec(
            "ClusterFirstWithHostNet",
            json!({"hostNetwork": true, "nodeName": "node-1"}),
        ),
    );
    for name in ["none", "cluster", "default", "host"] {
        space.ready(name);
    }
    let resolver = |name: &str| space.sh(name, "cat /etc/resolv.conf");
    assert_eq!(
        resolver("none"),
        "search resolv.conf.local\nnameserver 192.0.2.53\noptions ndots:2\n"
    );
    let own = resolver("cluster");
    assert!(
        own.contains("more.example\nnameserver 10.96.0.10\noptions ndots:5\n"),
        "{own}"
    );
    assert!(resolver("host").contains("search resolvers.svc.cluster.local"));
    assert_eq!(
        resolver("default"),
        LAB.sh("node-1", "cat /etc/resolv.conf").ok()
    );
    let hosts = space.sh("cluster", "cat /etc/hosts");
    assert!(
        hosts.contains("192.0.2.9\tone.example\ttwo.example\n"),
        "{hosts}"
    );
}

/// HostPort: no conflict between pods with the same port and different address or protocol.
#[test]
fn host_ports() {
    let space = Space::new("host-ports");
    let node = LAB.node_ips("node-1").remove(0);
    let spec = |ip: &str, protocol: &str| {
        json!({"nodeName": "node-1", "containers": [{"name": "c", "image": "weft/echo",
            "ports": [{"containerPort": 8080, "hostPort": 54323, "hostIP": ip, "protocol": protocol}]}]})
    };
    space.run("loopback", &spec("127.0.0.1", "TCP"));
    space.run("own", &spec(&node, "TCP"));
    space.run("udp", &spec(&node, "UDP"));
    space.run(
        "everywhere",
        &json!({"nodeName": "node-1", "containers": [{"name": "c",
        "image": "weft/echo", "ports": [{"containerPort": 8080, "hostPort": 54324}]}]}),
    );
    for name in ["loopback", "own", "udp", "everywhere"] {
        space.ready(name);
    }
    let asked = |from: &str, address: &str| {
        let url = format!("http://{address}");
        let said = LAB
            .exec(from, &["curl", "-sS", "-m", "10", &url])
            .result()?;
        Ok::<_, String>(said.lines().next().unwrap_or_default().to_owned())
    };
    let (first, second) = (format!("{node}:54323"), format!("{node}:54324"));
    // Nobody probes them: they run before they listen.
    for address in [&first, &second, "127.0.0.1:54323"] {
        eventually(&format!("{address} answers"), || asked("node-1", address));
    }
    for from in [
        "node-1",
        "node-2",
        "outside",
        "host-ports/loopback",
        "host-ports/own",
        "host-ports/everywhere",
    ] {
        assert_eq!(asked(from, &first).as_deref(), Ok("pod: own"), "{from}");
        assert_eq!(
            asked(from, &second).as_deref(),
            Ok("pod: everywhere"),
            "{from}"
        );
    }
    assert_eq!(
        asked("node-1", "127.0.0.1:54323").as_deref(),
        Ok("pod: loopback")
    );
    assert_eq!(
        asked("node-1", "127.0.0.1:54324").as_deref(),
        Ok("pod: everywhere")
    );
    assert!(asked("node-2", "127.0.0.1:54324").is_err());

    // Who comes later waits where the scheduler decides, and is refused where it is told to be.
    space.run("refused", &spec("", "TCP"));
    space.becomes(
        "refused",
        "{.status.phase}/{.status.reason}",
        "Failed/NodePorts",
    );
    let mut waits = spec("", "TCP");
    waits["nodeName"] = Value::Null;
    waits["nodeSelector"] = json!({"kubernetes.io/hostname": "node-1"});
    space.run("waits", &waits);
    space.event(
        "waits",
        "FailedScheduling",
        "node(s) didn't have free ports for the requested pod ports",
    );
    LAB.kubectl(&["-n", "host-ports", "delete", "pod", "loopback", "own"])
        .ok();
    space.ready("waits");
    // Pods without a grace period are gone from the API before they are from their node.
    eventually("the port is the next pod's", || {
        expect(asked("outside", &first)?, |said| said == "pod: waits")
    });
    LAB.kubectl(&["-n", "host-ports", "delete", "pods", "--all"])
        .ok();
    eventually("the ports go with their pods", || {
        let listing = "nft list map ip weft-host-ports ports";
        let left = LAB.sh("node-1", listing).result()?;
        expect(left, |left| !left.contains("elements"))
    });
}

/// Pods: what keeps a pod from running is said in its status and events.
#[test]
fn what_keeps_a_pod_from_running() {
    let space = Space::new("held-back");
    let command = |policy: &str| {
        json!({"restartPolicy": policy,
        "containers": [{"name": "c", "image": "busybox", "command": ["no-such-program"]}]})
    };
    space.run("command", &command("Always"));
    space.run("command-once", &command("Never"));
    space.run(
        "image",
        &json!({"containers": [{"name": "c", "image": "example.org/unheard:1"}]}),
    );
    let mut keyless = busybox("true");
    keyless["env"] =
        json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "no", "key": "no"}}}]);
    space.run("key", &json!({"containers": [keyless]}));
    space.run(
        "nowhere",
        &json!({"nodeSelector": {"disk": "ssd"}, "containers": [busybox("true")]}),
    );
    space.run(
        "sysctl",
        &json!({"containers": [busybox("true")],
        "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
    );
    space.run(
        "overdue",
        &json!({"activeDeadlineSeconds": 1, "containers": [busybox("sleep 600")]}),
    );

    let last = "{.status.containerStatuses[0].lastState.terminated.reason}/{.status.containerStatuses[0].lastState.terminated.exitCode}";
    space.becomes("command", last, "StartError/128");
    space.event(
        "command",
        "Failed",
        "exec: \"no-such-program\": executable file not found in $PATH",
    );
    space.becomes("command", STATE, "CrashLoopBackOff");
    space.becomes("command-once", "{.status.phase}", "Failed");
    assert_eq!(space.field("command-once", STATE).unwrap(), "StartError");
    space.event("image", "Failed", "Error: ErrImagePull");
    space.becomes("image", STATE, "ImagePullBackOff");
    space.event(
        "image",
        "BackOff",
        "Back-off pulling image \"example.org/unheard:1\"",
    );
    space.becomes("key", STATE, "CreateContainerConfigError");
    space.event("key", "Failed", "Error: secret \"no\" not found");
    space.event(
        "nowhere",
        "FailedScheduling",
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector",
    );
    space.becomes("sysctl", "{.status.reason}", "SysctlForbidden");
    space.becomes(
        "overdue",
        "{.status.phase}/{.status.reason}",
        "Failed/DeadlineExceeded",
    );

    let unknown = pod(
        "stranger",
        &json!({"serviceAccountName": "nobody", "containers": [busybox("true")]}),
    );
    let refused = LAB.kubectl_apply("held-back", &unknown).refused();
    assert!(
        refused.contains(
            "error looking up service account held-back/nobody: serviceaccount \"nobody\" not found"
        ),
        "{refused}"
    );
}

/// EmptyDir: in memory, with limits, full; and what a pod may have of processes.
#[test]
fn a_pod_that_takes_too_much() {
    let space = Space::new("greedy");
    let mut container = busybox("sleep 600");
    container["volumeMounts"] = json!([{"name": "m", "mountPath": "/m"}, {"name": "m", "mountPath": "/part", "subPath": "a/b"}]);
    space.run(
        "memory",
        &json!({"containers": [container.clone()],
        "volumes": [{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]}),
    );
    container["volumeMounts"] = json!([{"name": "m", "mountPath": "/m"}]);
    space.run(
        "disk",
        &json!({"terminationGracePeriodSeconds": 600, "containers": [container],
        "volumes": [{"name": "m", "emptyDir": {"sizeLimit": "1Mi"}}]}),
    );
    space.ready("memory");
    let full = space.sh("memory", "dd if=/dev/zero of=/m/x bs=1M count=2 2>&1; stat -c %s /m/x; stat -fc %T /m; touch /m/a/b/y && echo y");
    assert!(
        full.contains("No space left on device") && full.contains("\n1048576\ntmpfs\n"),
        "{full}"
    );
    space.ready("disk");
    // Its end may come before the answer.
    let fill = "dd if=/dev/zero of=/m/x bs=1M count=2";
    let _ended = LAB.sh("greedy/disk", fill);
    space.becomes("disk", "{.status.phase}/{.status.reason}", "Failed/Evicted");
    space.event(
        "disk",
        "Evicted",
        "Usage of EmptyDir volume \"m\" exceeds the limit \"1Mi\".",
    );

    // A kernel before 6.14 has no limit of a PID namespace's own.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.trim().parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(14)) {
        println!(
            "a_pod_that_takes_too_much ... the part about processes is skipped: Linux {release}"
        );
        return;
    }
    space.run(
        "forks",
        &json!({"containers": [
        busybox("f() { f & f & wait; }; f 2>/dev/null"), {"name": "calm", "image": "pause"}]}),
    );
    eventually("it has as many processes as it may", || {
        let script = "for one in /sys/fs/cgroup; do :; done; ls -d /proc/[0-9]* | wc -l";
        let count = LAB.sh("node-1", script).result()?;
        let other = LAB.sh("node-2", script).result()?;
        let most = [count, other].map(|text| text.trim().parse::<u32>().unwrap_or(0));
        expect(most, |most| most.iter().any(|count| *count > 1500))
    });
    // The node has not noticed, and the pod can be deleted.
    space.run("neighbour", &json!({"containers": [busybox("sleep 600")]}));
    space.ready("neighbour");
    LAB.kubectl(&["-n", "greedy", "delete", "pod", "forks", "--timeout=100s"])
        .ok();
    let _few = eventually("nothing of it is left", || {
        let script = "ls -d /proc/[0-9]* | wc -l";
        let counts = ["node-1", "node-2"].map(|node| LAB.sh(node, script).result());
        expect(counts, |counts| {
            counts.iter().all(|count| {
                count
                    .as_ref()
                    .is_ok_and(|count| count.trim().parse::<u32>().is_ok_and(|count| count < 500))
            })
        })
    });
}

/// A claim's folder goes with its volume (reclaim policy Delete).
#[test]
fn the_folder_of_a_deleted_claim_is_removed() {
    let space = Space::new("reclaimed");
    LAB.apply(
        "reclaimed",
        r#"{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}}"#,
    );
    let mut container = busybox("echo kept > /data/file; sleep 600");
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    space.run(
        "writer",
        &json!({"nodeSelector": {"kubernetes.io/hostname": "node-2"},
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}),
    );
    space.ready("writer");
    let find = "find /var/lib/weft/volumes -name '*_reclaimed_data' | wc -l";
    assert_eq!(LAB.sh("node-2", find).ok(), "1\n");
    LAB.kubectl(&["-n", "reclaimed", "delete", "pod", "writer"])
        .ok();
    LAB.kubectl(&["-n", "reclaimed", "delete", "pvc", "data"])
        .ok();
    eventually("volume and folder are gone", || {
        let volumes = LAB.field(
            &["persistentvolumes"],
            "{.items[*].spec.claimRef.namespace}",
        )?;
        expect(volumes, |volumes| !volumes.contains("reclaimed"))?;
        expect(LAB.sh("node-2", find).result()?, |count| count == "0\n")
    });
}
