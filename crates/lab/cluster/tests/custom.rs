//! Custom resources through kubectl: other people's definitions, and their objects.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::Lab;

/// The folder of a Go module, downloaded by its ordinary client if it is not there. Where
/// there is no Go toolchain, or no way to its modules, a test can't have it, and says so.
fn module(name: &str) -> Option<PathBuf> {
    let folder = tempfile::tempdir().unwrap();
    let download = Command::new("go")
        .args(["mod", "download", "-json", name])
        .current_dir(folder.path())
        .output();
    let said: Value = match &download {
        Ok(output) => serde_json::from_slice(&output.stdout).unwrap_or_default(),
        Err(_) => Value::Null,
    };
    let path = said["Dir"].as_str().map(PathBuf::from);
    if path.is_none() {
        let reason = match download {
            Ok(output) => format!("{said} {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => format!("go: {error}"),
        };
        let told = format!("NOT TESTED with {name}, which can't be had: {reason}\n");
        std::io::stderr().write_all(told.as_bytes()).unwrap();
    }
    path
}

/// The definitions in a folder, as one manifest.
fn definitions(folder: &Path) -> String {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("kustomization.yaml"))
        .collect();
    files.sort();
    let texts = files
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap());
    texts.collect::<Vec<_>>().join("\n---\n")
}

async fn establish(lab: &Lab, manifest: &str) {
    let manifest = lab.manifest(manifest);
    lab.ok(&["apply", "--server-side", "-f", &manifest]).await;
    lab.ok(&[
        "wait",
        "--for=condition=Established",
        "crd",
        "--all",
        "--timeout=100s",
    ])
    .await;
}

const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: c}
spec: {controllerName: example.org/c}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: c
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  rules: [{backendRefs: [{name: s, port: 80}]}]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_api_is_defined_defaulted_validated_and_explained() {
    let Some(gateway_api) = module("sigs.k8s.io/gateway-api@v1.2.1") else {
        return;
    };
    let lab = Lab::start().await;
    establish(&lab, &definitions(&gateway_api.join("config/crd/standard"))).await;
    lab.ok(&["apply", "-f", &lab.manifest(ROUTES)]).await;

    let route = lab.ok(&["get", "httproute", "r", "-o", "json"]).await;
    let route: Value = serde_json::from_str(&route).unwrap();
    let rule = &route["spec"]["rules"][0];
    assert_eq!(rule["matches"][0]["path"]["type"], "PathPrefix");
    assert_eq!(rule["backendRefs"][0]["kind"], "Service");
    assert_eq!(
        route["spec"]["parentRefs"][0]["group"],
        "gateway.networking.k8s.io"
    );

    // What this API server does not do can be seen later too.
    let condition =
        r#"jsonpath={.status.conditions[?(@.type=="ValidationRulesEvaluated")].message}"#;
    let gateways = "gateways.gateway.networking.k8s.io";
    let told = lab.ok(&["get", "crd", gateways, "-o", condition]).await;
    assert!(
        told.starts_with("x-kubernetes-validations rules are kept, but not evaluated"),
        "{told}"
    );
    let described = lab.ok(&["describe", "crd", gateways]).await;
    assert!(
        described.contains("Reason:                NotSupported"),
        "{described}"
    );

    let table = lab.ok(&["get", "gtw"]).await;
    let heading = "NAME   CLASS   ADDRESS   PROGRAMMED   AGE\ng      c                 Unknown ";
    assert!(table.starts_with(heading), "{table}");
    let explained = lab.ok(&["explain", "gateway.spec.listeners.port"]).await;
    assert!(explained.contains("FIELD: port <integer>"), "{explained}");
    let old = lab
        .ok(&[
            "get",
            "gateways.v1beta1.gateway.networking.k8s.io",
            "g",
            "-o",
            "jsonpath={.apiVersion}",
        ])
        .await;
    assert_eq!(old, "gateway.networking.k8s.io/v1beta1");
    let all = lab.ok(&["get", "gateway-api", "-o", "name"]).await;
    assert_eq!(all.lines().count(), 3, "{all}");

    let patch = |kind, change| ["patch", "gateway", "g", "--type", kind, "-p", change];
    let refused = lab
        .refused(&patch("strategic", r#"{"metadata":{"labels":{"a":"b"}}}"#))
        .await;
    assert!(
        refused.contains("application/strategic-merge-patch+json"),
        "{refused}"
    );
    let wrong = r#"{"spec":{"listeners":[{"name":"x","port":70000,"protocol":"HTTP"}]}}"#;
    let refused = lab.refused(&patch("merge", wrong)).await;
    let why = "spec.listeners[0].port in body should be less than or equal to 65535";
    assert!(refused.contains(why), "{refused}");
    let twice = r#"[{"op":"add","path":"/spec/listeners/-","value":{"name":"http","port":81,"protocol":"HTTP"}}]"#;
    let refused = lab.refused(&patch("json", twice)).await;
    let why = r#"spec.listeners[1]: Duplicate value: {"name":"http"}"#;
    assert!(refused.contains(why), "{refused}");
    let unknown = ROUTES.replace("gatewayClassName: c", "gatewayClassNam: c");
    let refused = lab.refused(&["apply", "-f", &lab.manifest(&unknown)]).await;
    assert!(
        refused.contains(r#"unknown field "spec.gatewayClassNam""#),
        "{refused}"
    );

    let directory = lab.stop().await;
    let lab = Lab::start_in(directory).await;
    lab.ok(&["get", "gateway", "g"]).await;
    lab.ok(&["delete", "crd", "gateways.gateway.networking.k8s.io"])
        .await;
    lab.refused(&["get", "gateways"]).await;
    establish(
        &lab,
        &definitions(&gateway_api.join("config/crd/experimental")),
    )
    .await;
    let left = lab.ok(&["get", "gateways", "-o", "name"]).await;
    assert_eq!(left, "", "a new definition has no objects of the old one");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_of_networks_are_served() {
    let multus = "github.com/k8snetworkplumbingwg/network-attachment-definition-client@v1.7.5";
    let metallb = module("go.universe.tf/metallb@v0.14.9");
    let (Some(metallb), Some(attachments)) = (metallb, module(multus)) else {
        return;
    };
    let lab = Lab::start().await;
    establish(&lab, &definitions(&metallb.join("config/crd/bases"))).await;
    let text = std::fs::read_to_string(attachments.join("artifacts/networks-crd.yaml")).unwrap();
    establish(&lab, &text).await;
    let objects = r#"
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: p}
spec: {addresses: [192.0.2.0/24]}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: net}
spec: {config: "{}"}
"#;
    lab.ok(&["apply", "-f", &lab.manifest(objects)]).await;
    let pool = lab.ok(&["get", "ipaddresspools", "p", "-o", "json"]).await;
    let pool: Value = serde_json::from_str(&pool).unwrap();
    assert_eq!(pool["spec"]["autoAssign"], true);
    lab.ok(&["get", "net-attach-def", "net"]).await;
    lab.stop().await;
}

const CALICO: &str = r#"
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata: {name: p}
spec: {cidr: 192.0.2.0/24, ipipMode: Always, unheardOf: 1}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: g}
spec:
  selector: app == 'a'
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, "90:99"]}}]
---
apiVersion: crd.projectcalico.org/v1
kind: NetworkPolicy
metadata: {name: policy}
spec: {egress: [{action: Deny, notProtocol: 17}]}
---
apiVersion: crd.projectcalico.org/v1
kind: FelixConfiguration
metadata: {name: default}
spec: {bpfLogLevel: "", routeTableRanges: [{min: 1, max: 250}]}
---
apiVersion: crd.projectcalico.org/v1
kind: IPAMBlock
metadata: {name: 192-0-2-0-26}
spec:
  cidr: 192.0.2.0/26
  allocations: [0, null, 1]
  attributes: [{handle_id: h, secondary: {node: a}}, {}]
  unallocated: [1]
  strictAffinity: false
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calico_is_defined_pruned_and_validated() {
    // The last version of its operator that the module proxy has with the definitions in it.
    let Some(operator) = module("github.com/tigera/operator@v1.25.0") else {
        return;
    };
    let lab = Lab::start().await;
    let folder = operator.join("pkg/crds/calico");
    establish(&lab, &definitions(&folder)).await;
    let all = lab.ok(&["get", "crd", "-o", "name"]).await;
    assert_eq!(
        all.lines().count(),
        std::fs::read_dir(&folder).unwrap().count()
    );
    let strict = ["apply", "--validate=false", "-f", &lab.manifest(CALICO)];
    lab.ok(&strict).await;
    let object = |kind: &'static str, name: &'static str| {
        let lab = &lab;
        async move {
            let said = lab.ok(&["get", kind, name, "-o", "json"]).await;
            serde_json::from_str::<Value>(&said).unwrap()
        }
    };
    let pool = object("ippools.crd.projectcalico.org", "p").await;
    assert_eq!(pool["spec"]["ipipMode"], "Always");
    assert!(pool["spec"]["unheardOf"].is_null(), "{pool}");
    // Its ports are numbers or texts.
    let policy = object("globalnetworkpolicies", "g").await;
    let ports = &policy["spec"]["ingress"][0]["destination"]["ports"];
    assert_eq!(*ports, serde_json::json!([80, "90:99"]));
    // No number is a number that may be null.
    let block = object("ipamblocks", "192-0-2-0-26").await;
    assert_eq!(
        block["spec"]["allocations"],
        serde_json::json!([0, null, 1])
    );
    for (kind, spec, why) in [
        ("IPPool", "{}", "spec.cidr: Required value"),
        (
            "IPPool",
            "{cidr: 192.0.2.0/24, blockSize: large}",
            r#"spec.blockSize: Invalid value: "string": spec.blockSize in body must be of type integer: "string""#,
        ),
        (
            "GlobalNetworkPolicy",
            "{ingress: [{destination: {ports: [[]]}, action: Allow}]}",
            "spec.ingress[0].destination.ports[0]: Invalid value",
        ),
        (
            "BGPConfiguration",
            "{nodeMeshMaxRestartTime: 1, communities: [{name: c, value: x}]}",
            "spec.communities[0].value: Invalid value",
        ),
    ] {
        let object = format!(
            "apiVersion: crd.projectcalico.org/v1\nkind: {kind}\nmetadata: {{name: bad}}\nspec: {spec}\n"
        );
        let bad = lab.manifest(&object);
        let refused = lab
            .refused(&["create", "--validate=false", "-f", &bad])
            .await;
        assert!(refused.contains(why), "{kind} {spec}: {refused}");
    }
    lab.stop().await;
}

const TOY: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: toys.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {plural: toys, kind: Toy, shortNames: [ty]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.count, statusReplicasPath: .status.count}
    selectableFields: [{jsonPath: .spec.color}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              color: {type: string, default: red}
              count: {type: integer, maximum: 5}
              #new
          status: {type: object, properties: {count: {type: integer}}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_changes_under_its_objects_and_takes_them_along() {
    let lab = Lab::start().await;
    establish(&lab, TOY).await;
    let toy = "apiVersion: example.org/v1\nkind: Toy\nmetadata: {name: t}\nspec: {count: 4}\n";
    lab.ok(&["apply", "-f", &lab.manifest(toy)]).await;
    let field = |path: &'static str| {
        let lab = &lab;
        async move { lab.ok(&["get", "ty", "t", "-o", path]).await }
    };
    assert_eq!(
        field("jsonpath={.spec.color} {.metadata.generation}").await,
        "red 1"
    );

    // The old object has the new default, and an old value may stay that a new one may not be.
    let changed = TOY
        .replace("#new", "size: {type: string, default: small}")
        .replace("maximum: 5", "maximum: 3");
    establish(&lab, &changed).await;
    assert_eq!(field("jsonpath={.spec.size}").await, "small");
    lab.ok(&["label", "toy", "t", "a=b"]).await;
    let refused = lab.refused(&["scale", "toy", "t", "--replicas=5"]).await;
    assert!(
        refused.contains("should be less than or equal to 3"),
        "{refused}"
    );
    lab.ok(&["scale", "toy", "t", "--replicas=2"]).await;
    assert_eq!(
        field("jsonpath={.spec.count} {.metadata.generation}").await,
        "2 2"
    );

    let status = [
        "patch",
        "toy",
        "t",
        "--subresource=status",
        "--type=merge",
        "-p",
    ];
    let change = [
        &status[..],
        &[r#"{"status":{"count":1},"spec":{"count":9}}"#],
    ]
    .concat();
    lab.ok(&change).await;
    let both = "jsonpath={.spec.count} {.status.count} {.metadata.generation}";
    assert_eq!(field(both).await, "2 1 2");
    let selected = |color: &'static str| ["get", "toys", "--field-selector", color, "-o", "name"];
    assert_eq!(
        lab.ok(&selected("spec.color=red")).await,
        "toy.example.org/t\n"
    );
    assert_eq!(lab.ok(&selected("spec.color=blue")).await, "");

    // A second definition must find other names.
    let rival = TOY.replace("toys", "tools").replace("Toy", "Tool");
    lab.ok(&["apply", "-f", &lab.manifest(&rival)]).await;
    let condition = r#"jsonpath={.status.conditions[?(@.type=="NamesAccepted")].message}"#;
    let told = lab
        .ok(&["get", "crd", "tools.example.org", "-o", condition])
        .await;
    assert_eq!(told, "\"ty\" is already in use");
    lab.refused(&["get", "tools"]).await;

    // What holds an object holds its definition.
    let held = r#"{"metadata":{"finalizers":["example.org/hold"]}}"#;
    lab.ok(&["patch", "toy", "t", "--type=merge", "-p", held])
        .await;
    lab.ok(&["delete", "crd", "toys.example.org", "--wait=false"])
        .await;
    let terminating = "--for=condition=Terminating";
    lab.ok(&[
        "wait",
        terminating,
        "crd/toys.example.org",
        "--timeout=100s",
    ])
    .await;
    let condition = r#"jsonpath={.metadata.deletionGracePeriodSeconds}{.status.conditions[?(@.type=="Terminating")].reason}"#;
    let wanted = "--for=jsonpath={.status.conditions[?(@.type==\"Terminating\")].reason}=InstanceDeletionInProgress";
    lab.ok(&["wait", wanted, "crd/toys.example.org", "--timeout=100s"])
        .await;
    let told = lab
        .ok(&["get", "crd", "toys.example.org", "-o", condition])
        .await;
    assert_eq!(told, "InstanceDeletionInProgress");
    let deleted = "--for=jsonpath={.metadata.deletionTimestamp}";
    lab.ok(&["wait", deleted, "toy/t", "--timeout=100s"]).await;
    let another = lab.manifest(&toy.replace("name: t", "name: u"));
    let refused = lab.refused(&["create", "-f", &another]).await;
    assert!(refused.contains("is terminating"), "{refused}");
    let released = r#"{"metadata":{"finalizers":null}}"#;
    lab.ok(&["patch", "toy", "t", "--type=merge", "-p", released])
        .await;
    lab.ok(&[
        "wait",
        "--for=delete",
        "crd/toys.example.org",
        "--timeout=100s",
    ])
    .await;
    // Its names are free now.
    lab.ok(&[
        "wait",
        "--for=condition=Established",
        "crd/tools.example.org",
        "--timeout=100s",
    ])
    .await;
    lab.ok(&["get", "tools"]).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_are_refused_in_kubernetes_words() {
    let lab = Lab::start().await;
    for (from, to, why) in [
        (
            "name: toys.example.org",
            "name: toy.example.org",
            r#"metadata.name: Invalid value: "toy.example.org": must be spec.names.plural+"."+spec.group"#,
        ),
        (
            "scope: Namespaced",
            "scope: Everywhere",
            r#"spec.scope: Unsupported value: "Everywhere": supported values: "Cluster", "Namespaced""#,
        ),
        (
            "storage: true",
            "storage: false",
            "must have exactly one version marked as storage version",
        ),
        (
            "color: {type: string,",
            "color: {",
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[color].type: Required value: must not be empty for specified object fields",
        ),
        (
            "specReplicasPath: .spec.count",
            "specReplicasPath: .status.count",
            r#"scale.specReplicasPath: Invalid value: ".status.count": should be a json path under .spec"#,
        ),
        (
            "default: red",
            "default: 1",
            r#"properties[color].default: Invalid value: "integer":"#,
        ),
    ] {
        let changed = TOY.replace(from, to);
        assert_ne!(changed, TOY, "{from}");
        let refused = lab
            .refused(&["create", "-f", &lab.manifest(&changed)])
            .await;
        assert!(refused.contains(why), "{to}: {refused}");
    }
    lab.stop().await;
}
