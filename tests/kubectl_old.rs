//! Debian's kubectl, which is five years older than the API it meets here: 1.20 knows no version 3
//! of OpenAPI, checks what it sends by version 2, and streams by SPDY alone.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use crate::kubectl_verbs::Says::{No, Sooner, Yes};
use crate::kubectl_verbs::Scene;
use crate::lab::Lab;

static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::up("kubectl-old", &[]));

/// Debian's package, taken apart where it changes nothing; none, and it is said so, where it can't
/// be had.
static KUBECTL: LazyLock<Option<PathBuf>> = LazyLock::new(|| match fetched() {
    Ok(program) => Some(program),
    Err(reason) => {
        let told = format!("NOT TESTED with Debian's kubectl 1.20, which can't be had: {reason}\n");
        std::io::stderr().write_all(told.as_bytes()).unwrap();
        None
    }
});

fn fetched() -> Result<PathBuf, String> {
    let kept = Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/kubectl-debian"));
    let program = kept.join("usr/bin/kubectl");
    if !program.exists() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let run = |program: &str, arguments: &[&str]| -> Result<(), String> {
            let ran: std::io::Result<Output> = Command::new(program)
                .args(arguments)
                .current_dir(folder.path())
                .output();
            let ran = ran.map_err(|error| format!("{program}: {error}"))?;
            let said = String::from_utf8_lossy(&ran.stderr);
            let last = said.trim().lines().last().unwrap_or_default();
            let well = ran.status.success();
            well.then_some(()).ok_or(format!("{program}: {last}"))
        };
        run("apt-get", &["download", "-q", "kubernetes-client"])?;
        run(
            "sh",
            &["-c", "dpkg-deb -x kubernetes-client_*.deb unpacked"],
        )?;
        // Whoever else has just done the same has made the same.
        let _other = std::fs::rename(folder.path().join("unpacked"), kept);
    }
    let version = Command::new(&program)
        .args(["version", "--client", "--short"])
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    match version.contains("v1.20.") {
        true => Ok(program),
        false => Err(format!("the package has another: {version}")),
    }
}

fn scene(namespace: &'static str) -> Option<Scene<'static>> {
    let program = KUBECTL.as_deref()?;
    Some(Scene::of(&LAB, namespace, program))
}

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: s},
    spec: {selector: {app: x}, ports: [{port: 80}]}}";

#[test]
fn objects_are_made_changed_and_told() {
    let Some(scene) = scene("old-objects") else {
        return;
    };
    let map = |value: &str| {
        format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c}}, data: {{a: {value}}}}}")
    };
    scene.write("map.yaml", &map("first"));
    scene.write("service.yaml", SERVICE);
    scene.write(
        "bad.yaml",
        &SERVICE.replace("port: 80", "port: 80, wrong: 1"),
    );
    scene.write("typed.yaml", &SERVICE.replace("port: 80", "port: [80]"));
    scene.run(&[
        ("version --short", Yes("Server Version: v1.32")),
        ("apply -f DIR/map.yaml", Yes("configmap/c created")),
        ("apply -f DIR/service.yaml", Yes("service/s created")),
        (
            "apply -f DIR/bad.yaml",
            No("unknown field \"wrong\" in io.k8s.api.core.v1.ServicePort"),
        ),
        (
            "create -f DIR/typed.yaml --dry-run=server",
            No("invalid type for io.k8s.api.core.v1.ServicePort.port"),
        ),
        ("diff -f DIR/map.yaml -f DIR/service.yaml", Yes("")),
    ]);
    scene.write("map.yaml", &map("second"));
    scene.run(&[
        ("diff -f DIR/map.yaml", No("- a: first + a: second")),
        (
            "diff --server-side -f DIR/map.yaml",
            No("conflict with \"kubectl-client-side-apply\""),
        ),
        (
            "diff --server-side --force-conflicts -f DIR/map.yaml",
            No("- a: first + a: second"),
        ),
        (
            "apply --dry-run=server -f DIR/map.yaml",
            Yes("configmap/c configured (server dry run)"),
        ),
        ("get configmap c -o jsonpath={.data.a}", Yes("first")),
        ("apply -f DIR/map.yaml", Yes("configmap/c configured")),
        ("apply -f DIR/map.yaml", Yes("configmap/c unchanged")),
        (
            "apply --server-side --force-conflicts -f DIR/map.yaml",
            Yes("configmap/c serverside-applied"),
        ),
        (
            "apply view-last-applied configmap c",
            Yes("data: a: second"),
        ),
        ("replace -f DIR/map.yaml", Yes("configmap/c replaced")),
        (
            "EDITOR=sed -i s/second/edited/ :: edit configmap c",
            Yes("configmap/c edited"),
        ),
        (
            "patch service s -p '{\"spec\":{\"ports\":[{\"port\":80,\"name\":\"http\"}]}}'",
            Yes("service/s patched"),
        ),
        (
            "patch service s --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/selector\"}]'",
            Yes("service/s patched"),
        ),
        ("label service s a=b", Yes("service/s labeled")),
        ("annotate service s c=d", Yes("service/s annotated")),
        ("get service s -o wide", Yes("NAME TYPE CLUSTER-IP")),
        ("get all,configmaps", Yes("configmap/c")),
        ("get configmap c -o yaml", Yes("a: edited")),
        ("describe service s", Yes("Annotations: c: d")),
        (
            "wait --for=condition=Ready service/s --timeout=1s",
            No("timed out waiting for the condition on services/s"),
        ),
        ("delete -f DIR/service.yaml", Yes("service \"s\" deleted")),
        ("get service s", No("services \"s\" not found")),
    ]);
}

#[test]
fn create_speaks_protobuf() {
    let Some(scene) = scene("old-creates") else {
        return;
    };
    scene.run(&[
        (
            "create configmap c --from-literal=a=b",
            Yes("configmap/c created"),
        ),
        (
            "create secret generic s --from-literal=a=b",
            Yes("secret/s created"),
        ),
        (
            "create service clusterip k --tcp=80:8080",
            Yes("service/k created"),
        ),
        (
            "create service nodeport n --tcp=80",
            Yes("service/n created"),
        ),
        ("create serviceaccount a", Yes("serviceaccount/a created")),
        (
            "create deployment d --image=pause --replicas=0",
            Yes("deployment.apps/d created"),
        ),
        (
            "create ingress i --rule=example.com/=k:80 --class=none",
            Yes("ingress.networking.k8s.io/i created"),
        ),
        ("create namespace old-creates-another", Yes("created")),
        ("delete namespace old-creates-another", Yes("deleted")),
        (
            "autoscale deployment d --max=3",
            No("the server could not find the requested resource"),
        ),
        (
            "create job j --image=pause",
            No("the server could not find the requested resource"),
        ),
    ]);
}

#[test]
fn a_deployment_is_rolled_out() {
    let Some(scene) = scene("old-rollouts") else {
        return;
    };
    scene.run(&[
        (
            "create deployment d --image=pause",
            Yes("deployment.apps/d created"),
        ),
        (
            "rollout status deployment/d",
            Yes("successfully rolled out"),
        ),
        (
            "scale deployment/d --replicas=2",
            Yes("deployment.apps/d scaled"),
        ),
        (
            "wait --for=condition=Available deployment/d --timeout=100s",
            Yes("condition met"),
        ),
        (
            "set image deployment/d pause=weft/echo",
            Yes("image updated"),
        ),
        (
            "rollout status deployment/d",
            Yes("successfully rolled out"),
        ),
        (
            "rollout history deployment/d",
            Yes("REVISION CHANGE-CAUSE 1 <none> 2 <none>"),
        ),
        (
            "rollout undo deployment/d",
            Yes("deployment.apps/d rolled back"),
        ),
        (
            "rollout status deployment/d",
            Yes("successfully rolled out"),
        ),
        (
            "get deployment d -o jsonpath={..containers[0].image}",
            Yes("pause"),
        ),
        (
            "rollout pause deployment/d",
            Yes("deployment.apps/d paused"),
        ),
        (
            "rollout resume deployment/d",
            Yes("deployment.apps/d resumed"),
        ),
        (
            "rollout restart deployment/d",
            Yes("deployment.apps/d restarted"),
        ),
        (
            "set env deployment/d A=B",
            Yes("deployment.apps/d env updated"),
        ),
        (
            "set resources deployment/d --limits=memory=64Mi",
            Yes("resource requirements updated"),
        ),
        (
            "expose deployment d --port=80 --target-port=8080",
            Yes("service/d exposed"),
        ),
        (
            "set selector service d app=other",
            Yes("service/d selector updated"),
        ),
        ("describe deployment d", Yes("StrategyType: RollingUpdate")),
        ("delete deployment d", Yes("deployment.apps \"d\" deleted")),
    ]);
}

#[test]
fn kinds_explain_themselves() {
    let Some(scene) = scene("old-explains") else {
        return;
    };
    scene.run(&[
        (
            "explain service.spec.sessionAffinity",
            Yes("FIELD: sessionAffinity <string> DESCRIPTION:"),
        ),
        (
            "explain pod.spec.containers",
            Yes("RESOURCE: containers <[]Object>"),
        ),
        (
            "explain deployments.spec.strategy.rollingUpdate.maxSurge",
            Yes("maxSurge <string>"),
        ),
        (
            "explain networkpolicy --recursive",
            Yes("podSelector <Object>"),
        ),
        (
            "explain service.nothing",
            No("field \"nothing\" does not exist"),
        ),
        (
            "api-resources",
            Yes("endpointslices discovery.k8s.io/v1 true EndpointSlice"),
        ),
        ("api-versions", Yes("networking.k8s.io/v1")),
        ("cluster-info", Yes("Kubernetes control plane")),
        ("auth can-i create services", Yes("yes")),
        ("auth can-i --list", Yes("*.*")),
        ("get --raw /readyz", Yes("ok")),
        ("top nodes", No("Metrics API not available")),
        ("top pods", No("Metrics API not available")),
    ]);
}

#[test]
fn what_needs_spdy_is_refused_with_the_reason() {
    let Some(scene) = scene("old-streams") else {
        return;
    };
    let reason = "\"SPDY/3.1\" is not served, only WebSocket, which kubectl speaks from 1.31 on";
    scene.write("file", "text");
    scene.run(&[
        (
            "run sleeper --image=busybox --restart=Never --grace-period=0 --command -- sh -c 'echo said; sleep 1000000'",
            Yes("pod/sleeper created"),
        ),
        ("wait --for=condition=Ready pod/sleeper --timeout=100s", Yes("condition met")),
        ("logs sleeper", Sooner("said")),
        ("logs sleeper --tail=1 --timestamps", Yes("said")),
        ("describe pod sleeper", Yes("Status: Running")),
        ("get events", Yes("pod/sleeper")),
        ("exec sleeper -- true", No(reason)),
        ("attach sleeper", No(reason)),
        ("port-forward sleeper 0:80", No(reason)),
        ("cp DIR/file sleeper:/tmp/file", No(reason)),
        ("delete pod sleeper --grace-period=0 --force", Yes("force deleted")),
    ]);
}

#[test]
fn a_node_is_cordoned_tainted_and_drained() {
    let Some(scene) = scene("old-nodes") else {
        return;
    };
    scene.run(&[
        ("get nodes -o wide", Yes("node-2 Ready")),
        ("describe node node-2", Yes("PodCIDR:")),
        (
            "taint node node-2 key=value:NoSchedule",
            Yes("node/node-2 tainted"),
        ),
        ("taint node node-2 key-", Yes("node/node-2 untainted")),
        ("cordon node-2", Yes("node/node-2 cordoned")),
        ("get node node-2", Yes("Ready,SchedulingDisabled")),
        ("uncordon node-2", Yes("node/node-2 uncordoned")),
    ]);
}

/// In a lab of its own: what it drives away is others'.
#[test]
fn a_node_is_drained() {
    let Some(program) = KUBECTL.as_deref() else {
        return;
    };
    let lab = Lab::up("kubectl-old-drain", &[]);
    let scene = Scene::of(&lab, "drained", program);
    scene.run(&[
        (
            "create deployment d --image=pause --replicas=4",
            Yes("created"),
        ),
        (
            "rollout status deployment/d",
            Yes("successfully rolled out"),
        ),
        (
            "drain node-2 --ignore-daemonsets --delete-emptydir-data --grace-period=1",
            // 1.20 says of the node what it said of the last pod.
            Yes("node/node-2 deleted"),
        ),
        (
            "rollout status deployment/d",
            Yes("successfully rolled out"),
        ),
        (
            "get pods --field-selector spec.nodeName=node-2",
            Yes("No resources found in drained namespace."),
        ),
        ("uncordon node-2", Yes("node/node-2 uncordoned")),
    ]);
}
