//! What is wrong is refused, or shown, in words that say what to do.

use std::sync::LazyLock;

use crate::lab::{Lab, eventually, expect};

static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::up("refusals", &[]));

#[test]
fn an_unknown_image_is_an_event() {
    LAB.apply(
        "default",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unknown"},
            "spec": {"containers": [{"name": "c", "image": "registry.example/no/such:1"}]}}"#,
    );
    let advice = "image \"registry.example/no/such:1\" is not in the lab's image table and nothing \
                  is pulled: use an image that `weft lab images` lists, or give the container a \
                  command of this machine";
    eventually("an event says why", || {
        let events = LAB.field(
            &[
                "events",
                "--field-selector",
                "involvedObject.name=unknown,type=Warning",
            ],
            "{range .items[*]}{.reason}: {.message}{\"\\n\"}{end}",
        )?;
        expect(events, |events| events.contains(advice))
    });
    let said = LAB.kubectl(&["describe", "pod", "unknown"]).ok();
    assert!(said.contains("is not in the lab's image table"), "{said}");
    eventually("the pod's state says so, too", || {
        let line = LAB
            .kubectl(&["get", "pod", "unknown", "--no-headers"])
            .result()?;
        expect(line, |line| {
            line.contains("0/1") && (line.contains("ErrImage") || line.contains("ImagePullBackOff"))
        })
    });
    // With a command of the machine, no entry is needed.
    LAB.apply(
        "default",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "commanded"},
            "spec": {"terminationGracePeriodSeconds": 0,
                     "containers": [{"name": "c", "image": "registry.example/no/such:1",
                                     "command": ["sleep", "infinity"]}]}}"#,
    );
    LAB.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/commanded",
        "--timeout=90s",
    ])
    .ok();
}

#[test]
fn a_program_that_does_not_exist_is_shown() {
    LAB.apply(
        "default",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "missing"},
            "spec": {"containers": [{"name": "c", "image": "busybox", "command": ["no-such-program"]}]}}"#,
    );
    eventually("an event names the program", || {
        let events = LAB.field(
            &[
                "events",
                "--field-selector",
                "involvedObject.name=missing,type=Warning",
            ],
            "{range .items[*]}{.reason}: {.message}{\"\\n\"}{end}",
        )?;
        expect(events, |events| events.contains("no-such-program"))
    });
}

/// Without the first line kubectl takes what begins with a brace for JSON.
fn yaml(text: &str) -> String {
    format!("---\n{text}\n")
}

#[test]
fn invalid_manifests_name_field_value_and_what_is_allowed() {
    let container = "containers: [{name: a, image: busybox}]";
    for (manifest, complaint) in [
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: A_b, image: busybox}]}}".to_owned(),
            "The Pod \"x\" is invalid: spec.containers[0].name: Invalid value: \"A_b\": a lowercase RFC 1123 label must consist of",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, imag: busybox}]}}".to_owned(),
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.containers[0].imag\"",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: []}}".to_owned(),
            "The Pod \"x\" is invalid: spec.containers: Required value",
        ),
        (
            format!("{{apiVersion: v1, kind: Pod, metadata: {{name: X}}, spec: {{{container}}}}}"),
            "metadata.name: Invalid value: \"X\": a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{port: 70000}]}}".to_owned(),
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{port: 80, protocol: ICMP}]}}".to_owned(),
            "spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: 192.0.2.1, ports: [{port: 80}]}}".to_owned(),
            "spec.clusterIPs: Invalid value: []string{\"192.0.2.1\"}: failed to allocate IP 192.0.2.1: the provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}".to_owned(),
            "spec.clusterIPs: Invalid value: []string{\"10.96.0.10\"}: failed to allocate IP 10.96.0.10: provided IP is already allocated",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}}".to_owned(),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\"",
        ),
        (
            format!("{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: x}}, spec: {{selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: c}}}}, spec: {{{container}}}}}}}}}"),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
        ),
        (
            format!("{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: x}}, spec: {{replicas: many, selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: b}}}}, spec: {{{container}}}}}}}}}"),
            "json: cannot unmarshal string \"many\" into",
        ),
        (
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: nowhere}}".to_owned(),
            "namespaces \"nowhere\" not found",
        ),
        (
            "{apiVersion: v2, kind: Pod, metadata: {name: x}}".to_owned(),
            "no matches for kind \"Pod\" in version \"v2\"",
        ),
        ("{kind: Pod}".to_owned(), "apiVersion not set"),
    ] {
        let namespace = if manifest.contains("nowhere") { "nowhere" } else { "default" };
        let ran = LAB.kubectl_apply(namespace, &yaml(&manifest));
        assert_eq!(ran.code, Some(1), "{ran}");
        assert!(ran.err.contains(complaint), "{manifest}: not {complaint}\n{}", ran.err);
    }
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "good"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Bad"}}]}"#;
    let ran = LAB.kubectl_apply("default", list);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.out, "configmap/good created\n");
    assert!(
        ran.err.contains("The ConfigMap \"Bad\" is invalid"),
        "{}",
        ran.err
    );
}

#[test]
fn what_may_not_change_does_not() {
    let service =
        "{apiVersion: v1, kind: Service, metadata: {name: fixed}, spec: {ports: [{port: 80}]}}";
    LAB.apply("default", &yaml(service));
    let ran = LAB.kubectl(&[
        "patch",
        "service",
        "fixed",
        "--type=merge",
        "-p",
        r#"{"spec": {"clusterIP": "10.96.7.7", "clusterIPs": ["10.96.7.7"]}}"#,
    ]);
    let said = ran.refused();
    assert!(
        said.contains("spec.clusterIPs[0]: Invalid value")
            && said.contains("may not change once set"),
        "{said}"
    );
    let missing = LAB.kubectl(&["get", "pod", "nobody"]).refused();
    assert_eq!(
        missing,
        "Error from server (NotFound): pods \"nobody\" not found\n"
    );
}

#[test]
fn a_node_gets_its_cni_configuration_back() {
    let lab = Lab::up("cni", &["--nodes", "1"]);
    let list = "ls /etc/cni/net.d";
    assert_eq!(lab.sh("node-1", list).ok(), "10-weft.conflist\n");
    eventually("what flannel's programs read is there", || {
        let subnet = lab.sh("node-1", "cat /run/flannel/subnet.env").result()?;
        let wanted = [
            "FLANNEL_NETWORK=10.244.0.0/16",
            "FLANNEL_SUBNET=10.244.0.1/24",
            "FLANNEL_MTU=1500",
        ];
        expect(subnet, |subnet| {
            let lines: Vec<_> = subnet.lines().collect();
            wanted.iter().all(|line| lines.contains(line))
        })
    });
    let before = lab.sh("node-1", "cat /etc/cni/net.d/*").ok();
    lab.sh("node-1", "rm /etc/cni/net.d/*").ok();
    eventually("the agent writes it again", || {
        let now = lab.sh("node-1", "cat /etc/cni/net.d/*").result()?;
        expect(now, |now| *now == before)
    });
    lab.apply(
        "default",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "after"},
            "spec": {"terminationGracePeriodSeconds": 0,
                     "containers": [{"name": "c", "image": "pause"}]}}"#,
    );
    lab.pods_ready("default", "");
}

#[test]
fn nonsense_does_not_stop_dns() {
    let lab = &*LAB;
    lab.namespace("nonsense");
    lab.apply(
        "nonsense",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"},
            "spec": {"terminationGracePeriodSeconds": 0,
                     "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "infinity"]}]}}"#,
    );
    lab.pods_ready("nonsense", "");
    let restarts = || {
        lab.field(
            &["-n", "kube-system", "pods", "-l", "k8s-app=kube-dns"],
            "{.items[*].status.containerStatuses[*].restartCount}",
        )
        .unwrap()
    };
    let before = restarts();
    let script = r#"
import os, random, socket, struct
random.seed(7)
server = ("10.96.0.10", 53)
header = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0)
loop = header + b"\xc0\x0c\x00\x01\x00\x01"
cases = [b"", b"\0", header[:11], header, loop, header + b"\x3f" * 300, header + b"\xff" * 40,
         struct.pack(">6H", 7, 0x0100, 65535, 65535, 65535, 65535),
         struct.pack(">6H", 7, 0x8180, 1, 1, 0, 0) + b"\0\0\1\0\1", b"\0" * 512, b"\xff" * 1400]
cases += [random.randbytes(random.randrange(1, 600)) for _ in range(2000)]
question = header + b"\x0akubernetes\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01"
cases += [bytes(byte ^ (random.random() < 0.03) * random.randrange(256) for byte in question)
          for _ in range(2000)]
for case in cases:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(case, server)
for case in cases[:40]:
    for framed in (case, struct.pack(">H", len(case)) + case, struct.pack(">H", 65535) + case):
        with socket.create_connection(server, timeout=30) as out:
            try:
                out.sendall(framed)
            except OSError:
                pass
"#;
    lab.exec("nonsense/client", &["python3", "-c", script]).ok();
    for transport in ["+notcp", "+tcp"] {
        for _ in 0..10 {
            let said = lab
                .exec(
                    "nonsense/client",
                    &[
                        "dig",
                        "+short",
                        "+tries=1",
                        "+time=30",
                        transport,
                        "kubernetes.default.svc.cluster.local",
                    ],
                )
                .ok();
            assert_eq!(said, "10.96.0.1\n");
        }
    }
    assert_eq!(restarts(), before);
}
