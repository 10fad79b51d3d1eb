//! kubectl against the lab's API server and its kinds.

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use support::Lab;
use tokio::sync::oneshot;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_are_applied_changed_and_deleted() {
    let lab = Lab::start().await;
    let hello = "examples/hello.yaml";
    assert_eq!(
        lab.ok(&["apply", "-f", hello]).await,
        "deployment.apps/hello created\nservice/hello created\npod/client created\n"
    );
    assert_eq!(
        lab.ok(&["apply", "-f", hello]).await,
        "deployment.apps/hello unchanged\nservice/hello unchanged\npod/client unchanged\n"
    );
    let deployments = lab.ok(&["get", "deployments"]).await;
    assert!(
        deployments.starts_with("NAME    READY   UP-TO-DATE   AVAILABLE   AGE\nhello   0/3 "),
        "{deployments}"
    );
    assert!(
        lab.ok(&["describe", "service", "hello"])
            .await
            .contains("IP Families:              IPv4")
    );
    assert!(
        lab.ok(&["describe", "pod", "client"])
            .await
            .contains("Status:           Pending")
    );
    assert!(
        lab.ok(&["get", "all", "-o", "wide"])
            .await
            .contains("service/hello")
    );

    lab.ok(&["scale", "deployment/hello", "--replicas=5"]).await;
    let replicas = lab
        .ok(&[
            "get",
            "deployment",
            "hello",
            "-o",
            "jsonpath={.spec.replicas}/{.metadata.generation}",
        ])
        .await;
    assert_eq!(replicas, "5/2");
    let scale = [
        "patch",
        "deployment/hello",
        "--subresource=scale",
        "--type=json",
        "-p",
    ];
    let nothing = r#"[{"op":"replace","path":"/spec","value":"none"}]"#;
    assert!(
        lab.refused(&[&scale[..], &[nothing]].concat())
            .await
            .contains("spec of a Scale must be an object")
    );
    lab.ok(&[
        "patch",
        "service",
        "hello",
        "-p",
        r#"{"spec":{"ports":[{"port":80,"targetPort":81}]}}"#,
    ])
    .await;
    let port = lab
        .ok(&[
            "get",
            "service",
            "hello",
            "-o",
            "jsonpath={.spec.ports[*].name}:{.spec.ports[*].targetPort}",
        ])
        .await;
    assert_eq!(port, "http:81", "ports merge by their number");

    let mut watching = lab
        .kubectl(&[
            "get",
            "pods",
            "--watch-only",
            "--output-watch-events",
            "--no-headers",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    // The watch begins at a time of kubectl's own: pods are made until it tells of one.
    let (seen, mut told) = oneshot::channel();
    let reader = tokio::task::spawn_blocking(move || {
        let first = lines.next().unwrap().unwrap();
        let _ = seen.send(());
        first
    });
    for at in 0..200 {
        lab.ok(&["run", &format!("probe-{at}"), "--image=busybox"])
            .await;
        if told.try_recv().is_ok() {
            break;
        }
    }
    let first = reader.await.unwrap();
    watching.kill().unwrap();
    watching.wait().unwrap();
    let words: Vec<&str> = first.split_whitespace().collect();
    assert_eq!(
        (words[0], words[2], words[3]),
        ("ADDED", "0/1", "Pending"),
        "{first}"
    );

    lab.ok(&["delete", "-f", hello]).await;
    assert!(
        lab.refused(&["get", "service", "hello"])
            .await
            .contains("services \"hello\" not found")
    );
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_manifests_are_named_as_kubernetes_names_them() {
    let lab = Lab::start().await;
    let service = |spec: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: x}}\nspec: {spec}\n")
    };
    let file = lab.manifest(&service("{ports: [{port: 70000, targetPort: 80}]}"));
    assert_eq!(
        lab.refused(&["apply", "-f", &file]).await,
        "The Service \"x\" is invalid: spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive\n"
    );
    let file = lab.manifest(&service("{ports: [{port: 80, prt: 7}]}"));
    let refused = lab.refused(&["apply", "-f", &file]).await;
    assert!(
        refused.contains("strict decoding error: unknown field \"spec.ports[0].prt\""),
        "{refused}"
    );
    let file = lab.manifest(&service("{ports: [{port: eighty}]}"));
    assert!(
        lab.refused(&["apply", "--validate=ignore", "-f", &file])
            .await
            .contains("spec.ports[0].port")
    );
    assert!(
        lab.refused(&["get", "nothings"])
            .await
            .contains("doesn't have a resource type \"nothings\"")
    );
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_addresses_and_ports_of_their_own() {
    let lab = Lab::start().await;
    let text = "apiVersion: v1
kind: Service
metadata: {name: a}
spec: {clusterIP: 10.96.0.10, type: NodePort, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}
";
    let file = lab.manifest(text);
    lab.ok(&["apply", "-f", &file]).await;
    let addresses = lab
        .ok(&["get", "service", "b", "-o", "jsonpath={.spec.clusterIPs}"])
        .await;
    let addresses: Vec<std::net::IpAddr> = serde_json::from_str(&addresses).unwrap();
    assert!(
        addresses[0].is_ipv4() && addresses[1].is_ipv6(),
        "{addresses:?}"
    );
    let file = lab.manifest("apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\n");
    let taken = lab.refused(&["apply", "-f", &file]).await;
    assert!(
        taken.contains("provided IP is already allocated"),
        "{taken}"
    );
    lab.ok(&["delete", "service", "a"]).await;
    lab.ok(&["apply", "-f", &file]).await;
    let file = lab.manifest("apiVersion: v1\nkind: Namespace\nmetadata: {name: gone}\n");
    lab.ok(&["apply", "-f", &file]).await;
    lab.ok(&["delete", "namespace", "gone", "--wait=false"])
        .await;
    assert!(
        lab.ok(&["get", "namespace", "gone"])
            .await
            .contains("Terminating")
    );
    assert!(
        lab.refused(&["delete", "namespace", "kube-system"])
            .await
            .contains("is forbidden: this namespace may not be deleted")
    );
    let refused = lab
        .refused(&["run", "-n", "gone", "x", "--image=busybox"])
        .await;
    assert!(
        refused.contains("because it is being terminated"),
        "{refused}"
    );
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_side_apply_owns_fields() {
    let lab = Lab::start().await;
    let apply = ["apply", "--server-side", "-f", "examples/hello.yaml"];
    let done = "deployment.apps/hello serverside-applied\nservice/hello serverside-applied\npod/client serverside-applied\n";
    assert_eq!(lab.ok(&apply).await, done);
    let version = [
        "get",
        "service",
        "hello",
        "-o",
        "jsonpath={.metadata.resourceVersion}",
    ];
    let before = lab.ok(&version).await;
    assert_eq!(lab.ok(&apply).await, done);
    assert_eq!(
        lab.ok(&version).await,
        before,
        "applying again writes nothing"
    );
    lab.ok(&["scale", "deployment/hello", "--replicas=5"]).await;
    let refused = lab.refused(&apply).await;
    assert!(
        refused.contains(
            "conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"
        ),
        "{refused}"
    );
    lab.ok(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        "examples/hello.yaml",
    ])
    .await;
    let replicas = [
        "get",
        "deployment",
        "hello",
        "-o",
        "jsonpath={.spec.replicas}",
    ];
    assert_eq!(lab.ok(&replicas).await, "3");
    lab.stop().await;
}

/// These verbs send protobuf, whatever the server says it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_created_without_a_manifest() {
    let lab = Lab::start().await;
    let created: [(&[&str], &str); 11] = [
        (&["namespace", "made"], "namespace/made"),
        (
            &["configmap", "c", "--from-literal=key=value"],
            "configmap/c",
        ),
        (&["serviceaccount", "a"], "serviceaccount/a"),
        (
            &["secret", "generic", "s", "--from-literal=key=value"],
            "secret/s",
        ),
        (&["service", "clusterip", "s", "--tcp=80:8080"], "service/s"),
        (&["service", "nodeport", "n", "--tcp=80"], "service/n"),
        (
            &[
                "deployment",
                "d",
                "--image=nginx",
                "--replicas=2",
                "--port=80",
            ],
            "deployment.apps/d",
        ),
        (
            &["role", "r", "--verb=get", "--resource=pods"],
            "role.rbac.authorization.k8s.io/r",
        ),
        (
            &["rolebinding", "r", "--role=r", "--serviceaccount=default:a"],
            "rolebinding.rbac.authorization.k8s.io/r",
        ),
        (
            &["clusterrole", "r", "--verb=get", "--resource=pods"],
            "clusterrole.rbac.authorization.k8s.io/r",
        ),
        (
            &["clusterrolebinding", "r", "--clusterrole=r", "--user=x"],
            "clusterrolebinding.rbac.authorization.k8s.io/r",
        ),
    ];
    for (arguments, name) in created {
        let said = lab.ok(&[&["create"], arguments].concat()).await;
        assert_eq!(said, format!("{name} created\n"));
    }
    let read = async |what: &[&str], path: &str| {
        let path = format!("jsonpath={path}");
        lab.ok(&[&["get"], what, &["-o", &path]].concat()).await
    };
    assert_eq!(read(&["configmap", "c"], "{.data.key}").await, "value");
    assert_eq!(read(&["secret", "s"], "{.data.key}").await, "dmFsdWU=");
    assert_eq!(
        read(
            &["service", "s"],
            "{.spec.ports[0].port}:{.spec.ports[0].targetPort}"
        )
        .await,
        "80:8080"
    );
    let container = "{.spec.template.spec.containers[0]";
    assert_eq!(
        read(
            &["deployment", "d"],
            &format!("{{.spec.replicas}} {container}.image}} {container}.ports[0].containerPort}}")
        )
        .await,
        "2 nginx 80"
    );
    let token = lab.ok(&["create", "token", "a", "--duration=1h"]).await;
    assert_eq!(token.split('.').count(), 3, "{token}");
    assert_eq!(lab.ok(&["auth", "can-i", "get", "pods"]).await, "yes\n");
    assert!(lab.ok(&["auth", "whoami"]).await.contains("system:masters"));
    lab.ok(&["expose", "deployment", "d", "--port=80", "--name=exposed"])
        .await;
    lab.ok(&["delete", "configmap", "c", "--dry-run=server"])
        .await;
    lab.ok(&["delete", "configmap", "c"]).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_of_services_have_objects() {
    let lab = Lab::start().await;
    lab.ok(&["create", "service", "clusterip", "web", "--tcp=80"])
        .await;
    let address = lab
        .ok(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])
        .await;
    let parent = "jsonpath={.spec.parentRef.namespace}/{.spec.parentRef.name}";
    let shown = lab.ok(&["get", "ip", &address, "-o", parent]).await;
    assert_eq!(shown, "default/web");
    lab.ok(&["delete", "ip", &address]).await;
    let shown = lab.ok(&["get", "ip", &address, "-o", parent]).await;
    assert_eq!(shown, "default/web", "the Service still has the address");
    assert!(
        lab.ok(&["describe", "ip", &address])
            .await
            .contains("Parent Reference"),
        "kubectl describes it in an older version"
    );
    lab.ok(&["delete", "service", "web"]).await;
    assert!(
        lab.refused(&["get", "ip", &address])
            .await
            .contains("not found")
    );

    let manifest = lab.manifest(
        "apiVersion: networking.k8s.io/v1\nkind: IPAddress\nmetadata: {name: 10.96.0.55}\n\
         spec: {parentRef: {group: example.com, resource: gateways, name: g}}\n",
    );
    lab.ok(&["apply", "-f", &manifest]).await;
    let asked = [
        "create",
        "service",
        "clusterip",
        "web",
        "--clusterip=10.96.0.55",
        "--tcp=80",
    ];
    assert!(
        lab.refused(&asked)
            .await
            .contains("provided IP is already allocated")
    );
    lab.ok(&["delete", "ip", "10.96.0.55"]).await;
    lab.ok(&asked).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_one_object_in_two_groups() {
    let lab = Lab::start().await;
    let manifest = lab.manifest(
        "apiVersion: events.k8s.io/v1\nkind: Event\n\
         metadata: {name: seen, namespace: default}\n\
         eventTime: 2024-01-01T00:00:00.000000Z\n\
         reportingController: example.com/c\nreportingInstance: c-1\n\
         action: Look\nreason: Seen\ntype: Normal\nnote: hello\n\
         regarding: {kind: Pod, namespace: default, name: p}\n",
    );
    let mut watching = lab
        .kubectl(&[
            "get",
            "events",
            "--watch",
            "--field-selector=involvedObject.name=p",
            "--output=jsonpath={.apiVersion} {.message} {.series.count}{'\\n'}",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    lab.ok(&["create", "-f", &manifest]).await;
    let new = "events.v1.events.k8s.io";
    let selected = [
        "get",
        new,
        "--field-selector=regarding.name=p",
        "-o",
        "jsonpath={.items[*].note}",
    ];
    assert_eq!(lab.ok(&selected).await, "hello");
    let patch = ["patch", new, "seen", "--type=merge", "-p"];
    assert!(
        lab.refused(&[&patch[..], &[r#"{"note":"other"}"#]].concat())
            .await
            .contains("message: Invalid value: \"other\": field is immutable")
    );
    let series = r#"{"series":{"count":2,"lastObservedTime":"2024-01-01T00:00:01.000000Z"}}"#;
    lab.ok(&[&patch[..], &[series]].concat()).await;
    let shown = lab
        .ok(&[
            "get",
            "event",
            "seen",
            "-o",
            "jsonpath={.message} {.series.count}",
        ])
        .await;
    assert_eq!(shown, "hello 2");
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let seen = tokio::task::spawn_blocking(move || {
        let last = lines
            .map_while(Result::ok)
            .find(|line| line.ends_with(" 2"));
        watching.kill().unwrap();
        watching.wait().unwrap();
        last
    });
    assert_eq!(seen.await.unwrap().as_deref(), Some("v1 hello 2"));
    lab.ok(&["delete", new, "seen"]).await;
    assert!(
        lab.refused(&["get", "event", "seen"])
            .await
            .contains("not found")
    );
    lab.stop().await;
}
