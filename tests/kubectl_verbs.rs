//! Every verb of kubectl 1.32 that makes sense here, each with what it has to say.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::lab::{Lab, eventually};

/// Each test has a namespace of its own in it.
static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::up("verbs", &[]));

/// How a command ends, and what it says. Runs of white space count as one space.
pub(crate) enum Says {
    /// It succeeds, and says this.
    Yes(&'static str),
    /// It succeeds, and says nothing.
    Nothing,
    /// It succeeds sooner or later, and says this.
    Sooner(&'static str),
    /// It fails, and says this.
    No(&'static str),
}
use Says::{No, Nothing, Sooner, Yes};

/// A namespace, and a folder with manifests.
pub(crate) struct Scene<'lab> {
    lab: &'lab Lab,
    program: &'lab Path,
    namespace: &'static str,
    folder: tempfile::TempDir,
}

impl Scene<'static> {
    #[track_caller]
    fn new(namespace: &'static str) -> Self {
        Scene::of(&LAB, namespace, Path::new("kubectl"))
    }
}

impl<'lab> Scene<'lab> {
    /// Of this kubectl.
    #[track_caller]
    pub(crate) fn of(lab: &'lab Lab, namespace: &'static str, program: &'lab Path) -> Self {
        lab.namespace(namespace);
        Scene {
            lab,
            program,
            namespace,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        // What begins with a brace is JSON to kubectl.
        std::fs::write(&path, format!("---\n{text}")).unwrap();
        path
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs kubectl in the namespace; `DIR` in a command is the folder.
    #[track_caller]
    pub(crate) fn run(&self, steps: &[(&str, Says)]) {
        for (command, says) in steps {
            self.step(command, says);
        }
    }

    #[track_caller]
    fn step(&self, command: &str, says: &Says) {
        let (variables, command) = match command.split_once(" :: ") {
            Some((variables, command)) => (variables, command),
            None => ("", command),
        };
        let words = words(&command.replace("DIR", &self.folder().to_string_lossy()));
        let arguments: Vec<_> = ["-n", self.namespace]
            .into_iter()
            .chain(words.iter().map(String::as_str))
            .collect();
        let variables: Vec<_> = variables.split_once('=').into_iter().collect();
        let attempt = || {
            let ran = self.lab.kubectl_of(self.program, &variables, &arguments);
            let said = format!("{} {}", ran.out, ran.err);
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            let code = ran.code == Some(0);
            let well = match says {
                Yes(text) | Sooner(text) => code && said.contains(text),
                No(text) => !code && said.contains(text),
                Nothing => code && said.is_empty(),
            };
            match says {
                _ if well => Ok(()),
                Nothing => Err(format!("not nothing: {ran}")),
                Yes(text) | Sooner(text) | No(text) => Err(format!("not {text:?}: {ran}")),
            }
        };
        if matches!(says, Sooner(_)) {
            eventually(&format!("kubectl {command} says so"), attempt);
        } else if let Err(found) = attempt() {
            panic!("{found}");
        }
    }
}

/// The words of a command line; what is between single quotes is one.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quoted, mut empty) = (false, true);
    for character in line.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                empty = false;
            }
            ' ' if !quoted => {
                if !empty {
                    words.push(String::new());
                }
                empty = true;
            }
            _ => {
                empty = false;
                words.last_mut().unwrap().push(character);
            }
        }
    }
    words
}

const SLEEPER: &str = "{apiVersion: v1, kind: Pod, metadata: {name: sleeper, labels: {app: sleeper}}, spec: {
    terminationGracePeriodSeconds: 0,
    containers: [{name: main, image: busybox, command: [sleep, '1000000'], ports: [{containerPort: 80}]}]}}";

#[test]
fn create() {
    let scene = Scene::new("creates");
    scene.run(&[
        (
            "create configmap c --from-literal=a=b",
            Yes("configmap/c created"),
        ),
        (
            "create configmap c",
            No("failed to create configmap: configmaps \"c\" already exists"),
        ),
        (
            "create configmap dry --from-literal=a=b --dry-run=client -o yaml",
            Yes("data: a: b kind: ConfigMap"),
        ),
        (
            "create configmap dry --dry-run=server",
            Yes("configmap/dry created (server dry run)"),
        ),
        ("get configmap dry", No("configmaps \"dry\" not found")),
        (
            "create secret generic g --from-literal=a=b",
            Yes("secret/g created"),
        ),
        ("get secret g -o jsonpath={.data.a}", Yes("Yg==")),
        (
            "create secret docker-registry r --docker-username=u --docker-password=p",
            Yes("secret/r created"),
        ),
        ("get secret r", Yes("kubernetes.io/dockerconfigjson 1")),
        (
            "create service clusterip ci --tcp=80:8080",
            Yes("service/ci created"),
        ),
        (
            "create service clusterip none --clusterip=None --tcp=80",
            Yes("service/none created"),
        ),
        (
            "create service nodeport np --tcp=80 --node-port=30034",
            Yes("service/np created"),
        ),
        (
            "create service loadbalancer lb --tcp=80",
            Yes("service/lb created"),
        ),
        (
            "create service externalname en --external-name=example.com",
            Yes("service/en created"),
        ),
        (
            "get service np -o jsonpath={.spec.ports[0].nodePort}",
            Yes("30034"),
        ),
        (
            "create deployment d --image=pause --replicas=0 --port=80",
            Yes("deployment.apps/d created"),
        ),
        (
            "create ingress i --rule=example.com/=ci:80 --class=none",
            Yes("ingress.networking.k8s.io/i created"),
        ),
        (
            "create namespace creates-another",
            Yes("namespace/creates-another created"),
        ),
        (
            "delete namespace creates-another",
            Yes("namespace \"creates-another\" deleted"),
        ),
        (
            "create serviceaccount robot",
            Yes("serviceaccount/robot created"),
        ),
        ("create token robot --duration=20m", Yes("ey")),
        (
            "create role r --verb=get --resource=pods",
            Yes("role.rbac.authorization.k8s.io/r created"),
        ),
        (
            "create rolebinding b --role=r --serviceaccount=creates:robot",
            Yes("rolebinding.rbac.authorization.k8s.io/b created"),
        ),
        (
            "create clusterrole verbs --verb=get --resource=nodes",
            Yes("clusterrole.rbac.authorization.k8s.io/verbs created"),
        ),
        (
            "create clusterrolebinding verbs --clusterrole=verbs --user=u",
            Yes("clusterrolebinding.rbac.authorization.k8s.io/verbs created"),
        ),
        (
            "set subject rolebinding b --user=bob",
            Yes("rolebinding.rbac.authorization.k8s.io/b subjects updated"),
        ),
        (
            "auth reconcile -f DIR/role.yaml --dry-run=client",
            No("the path"),
        ),
        (
            "create quota q --hard=pods=1",
            No("failed to create quota: the server could not find the requested resource"),
        ),
        (
            "create job j --image=busybox",
            No("failed to create job: the server could not find the requested resource"),
        ),
        (
            "autoscale deployment d --max=3",
            No("the server could not find the requested resource"),
        ),
    ]);
}

#[test]
fn apply() {
    let scene = Scene::new("applies");
    let one = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, labels: {set: pruned}}\ndata: {a: '1'}\n";
    let two =
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: two, labels: {set: pruned}}\n";
    scene.write("one.yaml", one);
    scene.write("two.yaml", &format!("{one}{two}"));
    scene.write("other.yaml", &one.replace("'1'", "'2'"));
    scene.write(
        "kustomization.yaml",
        "namePrefix: pre-\nresources: [one.yaml]\nconfigMapGenerator: [{name: made, literals: [x=y]}]\n",
    );
    scene.run(&[
        (
            "apply -f DIR/two.yaml --dry-run=client",
            Yes("configmap/one created (dry run)"),
        ),
        (
            "apply -f DIR/two.yaml --dry-run=server",
            Yes("configmap/one created (server dry run)"),
        ),
        (
            "apply -f DIR/two.yaml",
            Yes("configmap/one created configmap/two created"),
        ),
        (
            "apply -f DIR/two.yaml",
            Yes("configmap/one unchanged configmap/two unchanged"),
        ),
        ("diff -f DIR/two.yaml", Nothing),
        ("diff -f DIR/other.yaml", No("- a: \"1\" + a: \"2\"")),
        (
            "apply -f DIR/one.yaml --prune -l set=pruned --prune-allowlist=core/v1/ConfigMap",
            Yes("configmap/one unchanged configmap/two pruned"),
        ),
        (
            "KUBECTL_APPLYSET=true :: apply -f DIR/two.yaml --prune --applyset=configmaps/set",
            Yes("configmap/two created"),
        ),
        (
            "KUBECTL_APPLYSET=true :: apply -f DIR/one.yaml --prune --applyset=configmaps/set",
            Yes("configmap/two pruned"),
        ),
        (
            "apply view-last-applied -f DIR/one.yaml",
            Yes("data: a: \"1\""),
        ),
        (
            "apply set-last-applied -f DIR/one.yaml",
            Yes("configmap/one configured"),
        ),
        ("apply -k DIR", Yes("configmap/pre-one created")),
        ("kustomize DIR", Yes("name: pre-one")),
        ("delete configmap one", Yes("configmap \"one\" deleted")),
        (
            "apply --server-side -f DIR/one.yaml",
            Yes("configmap/one serverside-applied"),
        ),
        (
            "apply --server-side -f DIR/one.yaml --field-manager=other --dry-run=server",
            Yes("configmap/one serverside-applied (server dry run)"),
        ),
        (
            "apply --server-side -f DIR/other.yaml --field-manager=other",
            No("Apply failed with 1 conflict: conflict with \"kubectl\": .data.a"),
        ),
        (
            "apply --server-side -f DIR/other.yaml --field-manager=other --force-conflicts",
            Yes("configmap/one serverside-applied"),
        ),
        ("get configmap one -o jsonpath={.data.a}", Yes("2")),
        (
            "get configmap one -o yaml --show-managed-fields",
            Yes("manager: other operation: Apply"),
        ),
    ]);
    scene.write("typo.yaml", &one.replace("\ndata", "\ndta"));
    scene.write(
        "bad.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 70000}]}\n",
    );
    scene.run(&[
        (
            "apply -f DIR/typo.yaml",
            No("strict decoding error: unknown field \"dta\""),
        ),
        (
            "apply -f DIR/typo.yaml --validate=warn",
            Yes("unknown field \"dta\""),
        ),
        (
            "apply -f DIR/typo.yaml --validate=false --dry-run=server",
            Yes("configmap/one"),
        ),
        (
            "apply -f DIR/bad.yaml",
            No("spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"),
        ),
    ]);
}

#[test]
fn change() {
    let scene = Scene::new("changes");
    scene.write(
        "one.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {a: first}\n",
    );
    scene.run(&[
        ("create -f DIR/one.yaml", Yes("configmap/one created")),
        ("label configmap one x=y", Yes("configmap/one labeled")),
        ("label configmap one x=y", Yes("configmap/one not labeled")),
        ("label configmap one x=z", No("'x' already has a value (y), and --overwrite is false")),
        ("label configmap one x=z --overwrite", Yes("configmap/one labeled")),
        ("label configmap -l x=z more=yes", Yes("configmap/one labeled")),
        ("label configmap --all x-", Yes("configmap/one unlabeled")),
        ("label configmap one 'x=not valid'", No("a valid label must be an empty string")),
        ("annotate configmap one 'note=any text'", Yes("configmap/one annotated")),
        ("annotate configmap one --list", Yes("note=any text")),
        ("annotate configmap one note-", Yes("configmap/one annotated")),
        ("patch configmap one -p '{\"data\":{\"p\":\"1\"}}'", Yes("configmap/one patched")),
        ("patch configmap one -p '{\"data\":{\"p\":\"1\"}}'", Yes("configmap/one patched (no change)")),
        ("patch configmap one --type=merge -p '{\"data\":{\"p\":\"2\"}}'", Yes("configmap/one patched")),
        ("patch configmap one --type=json -p '[{\"op\":\"test\",\"path\":\"/data/p\",\"value\":\"1\"}]'", No("is invalid")),
        ("patch configmap one --type=json -p '[{\"op\":\"remove\",\"path\":\"/data/p\"}]'", Yes("configmap/one patched")),
        ("patch configmap one -p '{\"data\":[]}'", No("json: cannot unmarshal array")),
        ("KUBE_EDITOR=sed -i s/first/edited/ :: edit configmap one", Yes("configmap/one edited")),
        ("KUBE_EDITOR=true :: edit configmap one", Yes("Edit cancelled, no changes made")),
        ("get configmap one -o jsonpath={.data.a}", Yes("edited")),
        ("replace -f DIR/one.yaml", Yes("configmap/one replaced")),
        ("replace --force -f DIR/one.yaml", Yes("configmap \"one\" deleted configmap/one replaced")),
        ("get configmap one -o jsonpath={.data.a}", Yes("first")),
    ]);
}

#[test]
fn get() {
    let scene = Scene::new("gets");
    for name in ["a", "b", "c"] {
        let value = format!("--from-literal=value={name}");
        scene.step(&format!("create configmap {name} {value}"), &Yes("created"));
    }
    scene.run(&[
        ("label configmap a b set=x", Yes("configmap/b labeled")),
        ("get configmap a -o json", Yes("\"kind\": \"ConfigMap\"")),
        ("get configmap a -o yaml", Yes("kind: ConfigMap")),
        (
            "get configmaps -l set=x -o name",
            Yes("configmap/a configmap/b"),
        ),
        (
            "get configmaps -l 'set in (x),set!=y' -o 'jsonpath={.items[*].metadata.name}'",
            Yes("a b"),
        ),
        ("get configmaps -l '!set' -o name", Yes("configmap/c")),
        (
            "get configmaps -l 'set in'",
            No("unable to parse requirement"),
        ),
        (
            "get configmaps --field-selector metadata.name=b --no-headers",
            Yes("b 1"),
        ),
        (
            "get configmaps --field-selector metadata.name!=b -o name",
            Yes("configmap/a configmap/c"),
        ),
        (
            "get configmaps --field-selector data.value=b",
            No("\"data.value\" is not a known field selector"),
        ),
        (
            "get configmaps --sort-by=.data.value --chunk-size=1",
            Yes("NAME DATA AGE"),
        ),
        (
            "get configmap a -o custom-columns=N:.metadata.name,V:.data.value",
            Yes("N V a a"),
        ),
        ("get configmap a -o go-template={{.data.value}}", Yes("a")),
        ("get configmaps --show-labels", Yes("set=x")),
        ("get configmaps -L set", Yes("SET")),
        (
            "get configmap/a service/kubernetes",
            No("services \"kubernetes\" not found"),
        ),
        (
            "get configmaps a nothing",
            No("configmaps \"nothing\" not found"),
        ),
        ("get configmaps a nothing --ignore-not-found", Yes("a 1")),
        (
            "get nonsense",
            No("the server doesn't have a resource type \"nonsense\""),
        ),
        (
            "get --raw /api/v1/namespaces/gets/configmaps/a",
            Yes("\"name\":\"a\""),
        ),
        ("get --raw /livez", Yes("ok")),
        ("get all", Yes("No resources found in gets namespace.")),
    ]);
    let watch = LAB.kubectl_start(&[
        "-n",
        "gets",
        "get",
        "configmaps",
        "-w",
        "--output-watch-events",
    ]);
    watch.line("what is there", |line| {
        line.starts_with("ADDED") && line.contains(" c ")
    });
    scene.step("delete configmap a", &Yes("configmap \"a\" deleted"));
    watch.line("the end of one", |line| {
        line.starts_with("DELETED") && line.contains(" a ")
    });
}

#[test]
fn describe_and_explain() {
    let scene = Scene::new("described-kinds");
    for (kind, says) in [
        ("pods", "KIND: Pod"),
        (
            "service.spec.sessionAffinity",
            "Used to maintain session affinity",
        ),
        ("deployment.spec.strategy", "GROUP: apps"),
        ("endpointslices.endpoints.conditions", "KIND: EndpointSlice"),
        ("networkpolicy.spec.ingress.from", "KIND: NetworkPolicy"),
        ("ingress.spec.rules.http.paths", "KIND: Ingress"),
        ("pods --recursive", "containerPort <integer>"),
    ] {
        scene.step(&format!("explain {kind}"), &Yes(says));
    }
    scene.write("all.yaml", "
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: claim}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: policy}, spec: {podSelector: {}, policyTypes: [Ingress]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: ingress}, spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}}
---
{apiVersion: v1, kind: Secret, metadata: {name: secret}, stringData: {a: bcd}}
---
{apiVersion: v1, kind: Service, metadata: {name: service}, spec: {ports: [{port: 80, targetPort: http}]}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: apart}, subsets: [{addresses: [{ip: 192.0.2.1}], ports: [{port: 80}]}]}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: lease}, spec: {holderIdentity: me}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: set}, spec: {replicas: 0, serviceName: s, selector: {matchLabels: {a: b}},
    template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: pause}]}}}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: role}, rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}
");
    scene.step(
        "create -f DIR/all.yaml",
        &Yes("statefulset.apps/set created"),
    );
    for (object, says) in [
        ("pvc claim", "Access Modes: "),
        ("networkpolicy policy", "Policy Types: Ingress"),
        ("ingress ingress", "Default backend: s:80"),
        ("secret secret", "a: 3 bytes"),
        ("service service", "TargetPort: http/TCP"),
        ("endpoints apart", "Addresses: 192.0.2.1"),
        ("lease lease", "Holder Identity: me"),
        ("statefulset set", "Replicas: 0 desired | 0 total"),
        ("role role", "pods [] [] [get]"),
        ("namespace described-kinds", "Status: Active"),
        (
            "nothing x",
            "the server doesn't have a resource type \"nothing\"",
        ),
    ] {
        let says = if object.starts_with("nothing") {
            No(says)
        } else {
            Yes(says)
        };
        scene.step(&format!("describe {object}"), &says);
    }
    // These come a moment after their namespace.
    for (object, says) in [
        ("serviceaccount default", "Name: default"),
        ("configmap kube-root-ca.crt", "ca.crt: ----"),
    ] {
        scene.step(&format!("describe {object}"), &Sooner(says));
    }
}

#[test]
fn rollouts() {
    let scene = Scene::new("rollouts");
    scene.run(&[
        ("create deployment web --image=pause --replicas=2", Yes("deployment.apps/web created")),
        ("rollout status deployment/web --timeout=90s", Yes("successfully rolled out")),
        ("annotate deployment web kubernetes.io/change-cause=first", Yes("annotated")),
        ("rollout history deployment/web", Sooner("REVISION CHANGE-CAUSE 1 first")),
        ("set env deployment/web COLOUR=blue", Yes("deployment.apps/web env updated")),
        ("annotate deployment web kubernetes.io/change-cause=second --overwrite", Yes("annotated")),
        ("rollout status deployment/web --timeout=90s", Yes("successfully rolled out")),
        ("rollout history deployment/web", Sooner("1 first 2 second")),
        ("rollout history deployment/web --revision=2", Yes("COLOUR: blue")),
        ("rollout undo deployment/web", Yes("deployment.apps/web rolled back")),
        ("rollout status deployment/web --timeout=90s", Yes("successfully rolled out")),
        ("rollout history deployment/web", Sooner("2 second 3 first")),
        ("set env deployment/web --list", Yes("# Deployment web, container pause")),
        ("rollout undo deployment/web --to-revision=2", Yes("deployment.apps/web rolled back")),
        ("rollout undo deployment/web --to-revision=9", No("unable to find specified revision 9 in history")),
        ("rollout pause deployment/web", Yes("deployment.apps/web paused")),
        ("set image deployment/web pause=nowhere", Yes("deployment.apps/web image updated")),
        ("get deployment web -o 'jsonpath={.status.conditions[?(@.type==\"Progressing\")].reason}'", Sooner("DeploymentPaused")),
        ("rollout pause deployment/web", No("is already paused")),
        ("patch deployment web -p '{\"spec\":{\"progressDeadlineSeconds\":2,\"minReadySeconds\":1}}'", Yes("patched")),
        ("rollout resume deployment/web", Yes("deployment.apps/web resumed")),
        ("rollout status deployment/web --timeout=90s", No("exceeded its progress deadline")),
        ("get deployment web", Sooner("web 2/2 1 2")),
        ("describe deployment web", Yes("Progressing False ProgressDeadlineExceeded")),
        // What comes up has the time that it needs.
        ("patch deployment web -p '{\"spec\":{\"progressDeadlineSeconds\":600}}'", Yes("patched")),
        ("rollout undo deployment/web", Yes("deployment.apps/web rolled back")),
        ("rollout status deployment/web --timeout=90s", Yes("successfully rolled out")),
        ("rollout restart deployment/web", Yes("deployment.apps/web restarted")),
        ("rollout status deployment/web --timeout=90s", Yes("successfully rolled out")),
        ("wait deployment/web --for=condition=Available --timeout=90s", Yes("deployment.apps/web condition met")),
    ]);
}

#[test]
fn rollouts_of_daemons() {
    let scene = Scene::new("daemons");
    scene.write("daemon.yaml", "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: daemon}, spec: {selector: {matchLabels: {a: b}},
        template: {metadata: {labels: {a: b}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: pause}]}}}}");
    scene.run(&[
        (
            "apply -f DIR/daemon.yaml",
            Yes("daemonset.apps/daemon created"),
        ),
        (
            "rollout status daemonset/daemon --timeout=90s",
            Yes("successfully rolled out"),
        ),
        (
            "set env daemonset/daemon COLOUR=blue",
            Yes("daemonset.apps/daemon env updated"),
        ),
        (
            "rollout status daemonset/daemon --timeout=90s",
            Yes("successfully rolled out"),
        ),
        (
            "rollout history daemonset/daemon",
            Sooner("REVISION CHANGE-CAUSE 1 <none> 2 <none>"),
        ),
        (
            "rollout history daemonset/daemon --revision=2",
            Yes("COLOUR: blue"),
        ),
        ("get controllerrevisions", Yes("daemonset.apps/daemon 2")),
        (
            "rollout undo daemonset/daemon",
            Yes("daemonset.apps/daemon rolled back"),
        ),
        (
            "rollout status daemonset/daemon --timeout=90s",
            Yes("successfully rolled out"),
        ),
        (
            "rollout history daemonset/daemon",
            Sooner("2 <none> 3 <none>"),
        ),
        (
            "set env daemonset/daemon --list",
            Yes("# DaemonSet daemon, container main"),
        ),
        (
            "rollout undo daemonset/daemon --to-revision=9",
            No("unable to find specified revision 9 in history"),
        ),
    ]);
    // No pod of the second version is left, and none of the first is started twice.
    scene.step(
        "get pods -l a=b -o 'jsonpath={.items[*].spec.containers[0].env}'",
        &Nothing,
    );
}

#[test]
fn scale_set_and_expose() {
    let scene = Scene::new("scales");
    scene.run(&[
        ("create deployment web --image=pause --replicas=1 --port=80", Yes("deployment.apps/web created")),
        ("scale deployment web --current-replicas=5 --replicas=2", No("Expected replicas to be 5, was 1")),
        ("scale deployment web --current-replicas=1 --replicas=2", Yes("deployment.apps/web scaled")),
        ("wait deployment/web --for=jsonpath={.status.availableReplicas}=2 --timeout=90s", Yes("condition met")),
        ("scale --replicas=1 -f DIR/none.yaml", No("does not exist")),
        ("set resources deployment/web --limits=memory=64Mi", Yes("deployment.apps/web resource requirements updated")),
        ("set image deployment/web *=pause:1", Yes("deployment.apps/web image updated")),
        ("set serviceaccount deployment/web default", Yes("deployment.apps/web serviceaccount updated")),
        ("get deployment web -o jsonpath={.spec.template.spec.containers[0].resources.limits.memory}", Yes("64Mi")),
        ("expose deployment web --port=8080 --target-port=80", Yes("service/web exposed")),
        ("get service web -o jsonpath={.spec.selector.app}", Yes("web")),
        ("set selector service/web app=other", Yes("service/web selector updated")),
        ("expose deployment web --port=80", No("services \"web\" already exists")),
        ("expose deployment web --name=front --port=80 --type=NodePort", Yes("service/front exposed")),
        ("rollout status deployment/web --timeout=90s", Yes("successfully rolled out")),
        ("top pods", No("Metrics API not available")),
        ("top nodes", No("Metrics API not available")),
    ]);
}

#[test]
fn run_wait_and_delete() {
    let scene = Scene::new("deletes");
    scene.write("sleeper.yaml", SLEEPER);
    scene.run(&[
        (
            "run once --image=busybox --restart=Never -- true",
            Yes("pod/once created"),
        ),
        (
            "wait pod/once --for=jsonpath={.status.phase}=Succeeded --timeout=90s",
            Yes("pod/once condition met"),
        ),
        ("create -f DIR/sleeper.yaml", Yes("pod/sleeper created")),
        (
            "wait pod/sleeper --for=create --timeout=90s",
            Yes("pod/sleeper condition met"),
        ),
        (
            "wait pod/sleeper --for=condition=Ready --timeout=90s",
            Yes("pod/sleeper condition met"),
        ),
        (
            "wait pod/sleeper --for=condition=Nonsense --timeout=1s",
            No("timed out waiting for the condition"),
        ),
        ("events --for pod/sleeper", Sooner("Started container main")),
        (
            "get pod sleeper --subresource=status -o name",
            Yes("pod/sleeper"),
        ),
        (
            "delete pod sleeper --dry-run=server",
            Yes("pod \"sleeper\" deleted (server dry run)"),
        ),
        (
            "delete pod sleeper --wait=false",
            Yes("pod \"sleeper\" deleted"),
        ),
        ("wait pod/sleeper --for=delete --timeout=90s", Yes("")),
        ("create -f DIR/sleeper.yaml", Yes("pod/sleeper created")),
        (
            "delete pod sleeper --grace-period=0 --force",
            Yes("pod \"sleeper\" force deleted"),
        ),
        ("delete pods --all", Yes("pod \"once\" deleted")),
        ("create deployment kept --image=pause", Yes("created")),
        // With a selector kubectl waits for nothing: where there is none yet it gives up at once.
        (
            "wait pods -l app=kept --for=create",
            Sooner("condition met"),
        ),
        (
            "delete deployment kept --cascade=orphan",
            Yes("deployment.apps \"kept\" deleted"),
        ),
        (
            "get replicasets -l app=kept -o name",
            Yes("replicaset.apps/kept-"),
        ),
        (
            "delete replicasets -l app=kept --cascade=foreground",
            Yes("replicaset.apps \"kept-"),
        ),
        ("get pods -l app=kept", Yes("No resources found")),
        ("create deployment gone --image=pause", Yes("created")),
        (
            "wait pods -l app=gone --for=create",
            Sooner("condition met"),
        ),
        (
            "delete deployment gone --cascade=background",
            Yes("deployment.apps \"gone\" deleted"),
        ),
        (
            "get replicasets,pods -l app=gone",
            Sooner("No resources found"),
        ),
        ("delete pod nothing", No("pods \"nothing\" not found")),
        ("delete pod nothing --ignore-not-found", Nothing),
        (
            "delete -f DIR/sleeper.yaml",
            No("pods \"sleeper\" not found"),
        ),
    ]);
}

#[test]
fn streams() {
    let scene = Scene::new("streams");
    scene.write("sleeper.yaml", SLEEPER);
    scene.write("file.txt", "content\n");
    scene.run(&[
        ("create -f DIR/sleeper.yaml", Yes("pod/sleeper created")),
        (
            "wait pod/sleeper --for=condition=Ready --timeout=90s",
            Yes("condition met"),
        ),
        ("exec sleeper -- echo hello", Yes("hello")),
        (
            "exec sleeper -c main -- sh -c 'exit 3'",
            No("command terminated with exit code 3"),
        ),
        (
            "exec sleeper -c nothing -- true",
            No("container nothing is not valid for pod sleeper"),
        ),
        ("cp DIR/file.txt sleeper:/tmp/file.txt", Yes("")),
        ("exec sleeper -- cat /tmp/file.txt", Yes("content")),
        ("cp sleeper:/tmp/file.txt DIR/back.txt", Yes("")),
        (
            "run writer --image=busybox --restart=Never -- sh -c 'echo one; echo two'",
            Yes("pod/writer created"),
        ),
        (
            "logs -f writer --pod-running-timeout=90s",
            Sooner("one two"),
        ),
        ("logs writer --tail=1", Yes("two")),
        (
            "logs sleeper -c nothing",
            No("container nothing is not valid for pod sleeper"),
        ),
        (
            "run asked --image=busybox --restart=Never --rm --attach -- echo answer",
            Yes("pod \"asked\" deleted"),
        ),
    ]);
    let back = std::fs::read_to_string(scene.folder().join("back.txt")).unwrap();
    assert_eq!(back, "---\ncontent\n");
}

#[test]
fn about_the_cluster() {
    let scene = Scene::new("about");
    scene.write(
        "old.yaml",
        "{apiVersion: v1, kind: ReplicationController, metadata: {name: old}, spec: {replicas: 1}}",
    );
    scene.run(&[
        ("version", Yes("Server Version: v1.32")),
        (
            "cluster-info",
            Yes("Kubernetes control plane is running at https://127.0.0.1:"),
        ),
        (
            "cluster-info dump --namespaces=about",
            Yes("\"kind\": \"ReplicationControllerList\""),
        ),
        ("get rc", Yes("No resources found")),
        (
            "create -f DIR/old.yaml",
            No("the server does not allow this method on the requested resource"),
        ),
        ("config view", Yes("client-key-data: DATA+OMITTED")),
        ("config current-context", Yes("weft-")),
        ("auth can-i create pods", Yes("yes")),
        ("auth can-i --list", Yes("*.* [] [] [*]")),
        ("auth whoami", Yes("Username kubernetes-admin")),
        ("api-versions", Yes("networking.k8s.io/v1")),
        (
            "api-resources",
            Yes("endpointslices discovery.k8s.io/v1 true EndpointSlice"),
        ),
        ("api-resources --namespaced=false -o name", Yes("nodes")),
        (
            "api-resources --api-group=apps --verbs=list,watch -o wide",
            Yes("deployments deploy apps/v1 true Deployment"),
        ),
        (
            "certificate approve x",
            No("the server doesn't have a resource type \"certificatesigningrequests\""),
        ),
    ]);
}

/// Nodes are everybody's: this has a lab of its own.
#[test]
fn nodes() {
    let lab = Lab::up("verbs-nodes", &[]);
    let run = |arguments: &[&str]| lab.kubectl(arguments);
    let says = |arguments: &[&str], text: &str| {
        let said = run(arguments).ok();
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(text), "{arguments:?}: not {text:?}: {said}");
    };
    says(
        &[
            "create",
            "deployment",
            "web",
            "--image=pause",
            "--replicas=4",
        ],
        "created",
    );
    says(
        &["rollout", "status", "deployment/web", "--timeout=90s"],
        "successfully rolled out",
    );
    says(&["cordon", "node-2"], "node/node-2 cordoned");
    says(&["get", "node", "node-2"], "Ready,SchedulingDisabled");
    says(
        &["drain", "node-2", "--ignore-daemonsets", "--timeout=90s"],
        "node/node-2 drained",
    );
    let left = lab
        .field(
            &["pods", "--field-selector", "spec.nodeName=node-2"],
            "{.items[*].metadata.name}",
        )
        .unwrap();
    assert_eq!(left, "");
    says(&["uncordon", "node-2"], "node/node-2 uncordoned");
    says(
        &["taint", "node", "node-2", "a=b:NoExecute"],
        "node/node-2 tainted",
    );
    says(&["describe", "node", "node-2"], "Taints: a=b:NoExecute");
    says(&["taint", "node", "node-2", "a-"], "node/node-2 untainted");
    says(&["label", "node", "node-2", "x=y"], "node/node-2 labeled");
    assert!(
        run(&["taint", "node", "node-2", "a=b:Nonsense"])
            .refused()
            .contains("invalid taint effect")
    );
}
