//! Who is owned goes with its owner, whatever the kinds of both.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::lab::{Lab, eventually, expect};

/// Each test has a namespace, and a group of kinds, of its own in it.
static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::up("ownership", &[]));

const HOLD: &str = "example.com/hold";

struct Scene<'a> {
    lab: &'a Lab,
    namespace: &'static str,
}

impl<'a> Scene<'a> {
    /// A namespace with a kind `Site` of its own, in the group of the same name.
    #[track_caller]
    fn new(lab: &'a Lab, namespace: &'static str) -> Self {
        lab.namespace(namespace);
        let scene = Scene { lab, namespace };
        lab.apply("default", &scene.definition(true).to_string());
        let crd = format!("crd/{}", scene.sites());
        lab.kubectl(&["wait", "--for=condition=Established", &crd])
            .ok();
        scene
    }

    /// The resource of its own kind.
    fn sites(&self) -> String {
        format!("sites.{}.example.com", self.namespace)
    }

    fn definition(&self, served: bool) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": self.sites()},
            "spec": {
                "group": format!("{}.example.com", self.namespace),
                "scope": "Namespaced",
                "names": {"plural": "sites", "kind": "Site"},
                "versions": [{
                    "name": "v1",
                    "served": served,
                    "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object"}},
                }],
            },
        })
    }

    /// `ConfigMap`, which no controller reads, `Service`, which some do, or `Site`.
    fn resource(&self, kind: &str) -> String {
        if kind == "Site" {
            self.sites()
        } else {
            kind.to_lowercase()
        }
    }

    fn api_version(&self, kind: &str) -> String {
        if kind == "Site" {
            format!("{}.example.com/v1", self.namespace)
        } else {
            "v1".to_owned()
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> crate::lab::Ran {
        self.lab
            .kubectl(&[&["-n", self.namespace], arguments].concat())
    }

    #[track_caller]
    fn make(&self, kind: &str, name: &str, owners: &[Value], finalizers: &[&str]) {
        let mut object = json!({
            "apiVersion": self.api_version(kind),
            "kind": kind,
            "metadata": {"name": name, "ownerReferences": owners, "finalizers": finalizers},
        });
        if kind == "Service" {
            object["spec"] = json!({"ports": [{"port": 80}]});
        }
        self.lab.apply(self.namespace, &object.to_string());
    }

    /// A reference to what is there.
    #[track_caller]
    fn owner(&self, kind: &str, name: &str, blocks: bool) -> Value {
        let uid = self.field(kind, name, "{.metadata.uid}").unwrap();
        json!({
            "apiVersion": self.api_version(kind),
            "kind": kind,
            "name": name,
            "uid": uid,
            "blockOwnerDeletion": blocks,
        })
    }

    fn field(&self, kind: &str, name: &str, path: &str) -> Result<String, String> {
        let resource = self.resource(kind);
        self.lab
            .field(&["-n", self.namespace, &resource, name], path)
    }

    #[track_caller]
    fn delete(&self, kind: &str, name: &str, cascade: &str) {
        let cascade = format!("--cascade={cascade}");
        let resource = self.resource(kind);
        self.kubectl(&["delete", &resource, name, &cascade, "--wait=false"])
            .ok();
    }

    #[track_caller]
    fn patch(&self, kind: &str, name: &str, metadata: &Value) {
        let patch = json!({"metadata": metadata}).to_string();
        let resource = self.resource(kind);
        self.kubectl(&["patch", &resource, name, "--type=merge", "-p", &patch])
            .ok();
    }

    #[track_caller]
    fn let_go(&self, kind: &str, name: &str) {
        self.patch(kind, name, &json!({"finalizers": null}));
    }

    #[track_caller]
    fn goes(&self, kind: &str, name: &str) {
        eventually(&format!("{kind} {name} goes"), || {
            let resource = self.resource(kind);
            let said = self
                .kubectl(&["get", &resource, name, "--ignore-not-found", "-o", "name"])
                .result()?;
            expect(said, String::is_empty)
        });
    }

    #[track_caller]
    fn is_going(&self, kind: &str, name: &str) {
        eventually(&format!("{kind} {name} is being deleted"), || {
            let since = self.field(kind, name, "{.metadata.deletionTimestamp}")?;
            expect(since, |since| !since.is_empty())
        });
    }

    /// That it stays, and belongs to these: after something that garbage collection has done
    /// since.
    #[track_caller]
    fn stays(&self, kind: &str, name: &str, owners: &str) {
        let found = self.field(
            kind,
            name,
            "{.metadata.deletionTimestamp}/{.metadata.ownerReferences[*].name}",
        );
        assert_eq!(found, Ok(format!("/{owners}")), "{kind} {name}");
    }

    /// Waits until garbage collection has worked off what it has been told so far.
    #[track_caller]
    fn collected(&self) {
        self.make("ConfigMap", "last-owner", &[], &[]);
        let owner = self.owner("ConfigMap", "last-owner", true);
        self.make("ConfigMap", "last", &[owner], &[]);
        self.delete("ConfigMap", "last-owner", "background");
        self.goes("ConfigMap", "last");
    }
}

#[test]
fn every_kind_goes_with_every_kind_as_it_is_told() {
    let scene = Scene::new(&LAB, "pairs");
    let mut pairs = Vec::new();
    for owner in ["Service", "ConfigMap", "Site"] {
        for dependent in ["Service", "ConfigMap", "Site"] {
            for cascade in ["background", "foreground", "orphan"] {
                let of = format!("{owner}-{dependent}-{cascade}").to_lowercase();
                pairs.push((owner, dependent, cascade, of));
            }
        }
    }
    for (owner, dependent, cascade, of) in &pairs {
        let (name, child, grandchild) = (of, &format!("{of}-d"), &format!("{of}-e"));
        scene.make(owner, name, &[], &[]);
        scene.make(dependent, child, &[scene.owner(owner, name, true)], &[HOLD]);
        let middle = scene.owner(dependent, child, true);
        scene.make("ConfigMap", grandchild, &[middle], &[]);
        scene.delete(owner, name, cascade);
    }
    for (owner, dependent, cascade, of) in &pairs {
        let (name, child, grandchild) = (of, &format!("{of}-d"), &format!("{of}-e"));
        match *cascade {
            "background" => {
                scene.goes(owner, name);
                scene.is_going(dependent, child);
                scene.stays("ConfigMap", grandchild, child);
            }
            "foreground" => {
                scene.is_going(dependent, child);
                // What is below goes first.
                scene.goes("ConfigMap", grandchild);
                scene.is_going(owner, name);
                let finalizers = scene.field(owner, name, "{.metadata.finalizers}");
                assert_eq!(
                    finalizers,
                    Ok("[\"foregroundDeletion\"]".to_owned()),
                    "{of}"
                );
            }
            _ => {
                scene.goes(owner, name);
                scene.stays(dependent, child, "");
            }
        }
        scene.let_go(dependent, child);
    }
    for (owner, dependent, cascade, of) in &pairs {
        let (child, grandchild) = (&format!("{of}-d"), &format!("{of}-e"));
        if *cascade == "orphan" {
            scene.stays(dependent, child, "");
            scene.stays("ConfigMap", grandchild, child);
        } else {
            scene.goes(owner, of);
            scene.goes(dependent, child);
            scene.goes("ConfigMap", grandchild);
        }
    }
}

#[test]
fn an_owner_waits_for_what_blocks_it_and_takes_nothing_from_another() {
    let scene = Scene::new(&LAB, "blocking");
    for name in ["first", "second"] {
        scene.make("Site", name, &[], &[]);
    }
    let first = |blocks| scene.owner("Site", "first", blocks);
    let second = scene.owner("Site", "second", true);
    scene.make("ConfigMap", "blocks", &[first(true)], &[HOLD]);
    scene.make("ConfigMap", "does-not", &[first(false)], &[HOLD]);
    scene.make("ConfigMap", "shared", &[first(true), second], &[]);
    scene.delete("Site", "first", "foreground");
    scene.is_going("ConfigMap", "blocks");
    scene.is_going("ConfigMap", "does-not");
    eventually("the reference is taken away", || {
        let path = "{.metadata.ownerReferences[*].name}";
        expect(scene.field("ConfigMap", "shared", path)?, |owners| {
            owners == "second"
        })
    });
    scene.is_going("Site", "first");
    scene.let_go("ConfigMap", "blocks");
    scene.goes("Site", "first");
    scene.is_going("ConfigMap", "does-not");
    scene.let_go("ConfigMap", "does-not");
    scene.goes("ConfigMap", "does-not");
    scene.stays("ConfigMap", "shared", "second");
}

#[test]
fn owners_of_each_other_go_together() {
    let scene = Scene::new(&LAB, "circles");
    scene.make("ConfigMap", "a", &[], &[]);
    scene.make("Site", "b", &[scene.owner("ConfigMap", "a", true)], &[]);
    scene.make("Service", "c", &[scene.owner("Site", "b", true)], &[]);
    let last = scene.owner("Service", "c", true);
    scene.patch("ConfigMap", "a", &json!({"ownerReferences": [last]}));
    scene.delete("ConfigMap", "a", "foreground");
    scene.goes("ConfigMap", "a");
    scene.goes("Site", "b");
    scene.goes("Service", "c");
}

#[test]
fn a_kind_that_is_not_served_is_no_owner_that_is_gone() {
    let scene = Scene::new(&LAB, "unserved");
    let nobody = json!({
        "apiVersion": "nobody.example.com/v1", "kind": "Nobody", "name": "n", "uid": "n",
    });
    scene.make("ConfigMap", "of-nobody", &[nobody], &[]);
    scene.make("Site", "site", &[], &[]);
    scene.make(
        "ConfigMap",
        "of-site",
        &[scene.owner("Site", "site", true)],
        &[],
    );
    let lost = {
        let mut lost = scene.owner("Site", "site", true);
        lost["uid"] = "another".into();
        lost
    };
    let unserved = scene.definition(false).to_string();
    scene.lab.apply("default", &unserved);
    scene.make("ConfigMap", "late", std::slice::from_ref(&lost), &[]);
    scene.collected();
    scene.stays("ConfigMap", "of-nobody", "n");
    scene.stays("ConfigMap", "of-site", "site");
    scene.stays("ConfigMap", "late", "site");
    let served = scene.definition(true).to_string();
    scene.lab.apply("default", &served);
    // Now it can be told that this owner is not there.
    scene.goes("ConfigMap", "late");
    scene.stays("ConfigMap", "of-site", "site");
    // A definition takes its objects along, and they what they own.
    scene
        .kubectl(&["delete", "crd", &scene.sites(), "--timeout=110s"])
        .ok();
    scene.goes("ConfigMap", "of-site");
    scene.stays("ConfigMap", "of-nobody", "n");
}

#[test]
fn an_owner_in_another_namespace_is_none() {
    let scene = Scene::new(&LAB, "near");
    scene.make("ConfigMap", "owner", &[], &[]);
    let owner = scene.owner("ConfigMap", "owner", true);
    scene.make("ConfigMap", "there", std::slice::from_ref(&owner), &[]);
    LAB.namespace("far");
    let object = |kind: &str, namespace: &str| {
        json!({
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": "astray", "namespace": namespace, "ownerReferences": [owner]},
        })
    };
    LAB.apply("far", &object("ConfigMap", "far").to_string());
    // What has no namespace can't be found by its owner at all, and stays.
    LAB.apply("default", &object("Namespace", "").to_string());
    for (namespace, said) in [("far", "\"far\""), ("default", "\"\"")] {
        let select = "--field-selector=reason=OwnerRefInvalidNamespace";
        eventually("an event tells of it", || {
            let events = ["-n", namespace, "events", select];
            let said = format!("does not exist in namespace {said}");
            expect(LAB.field(&events, "{.items[*].message}")?, |told| {
                told.starts_with("ownerRef [v1/ConfigMap, namespace: ") && told.contains(&said)
            })
        });
    }
    eventually("it goes", || {
        let left = [
            "get",
            "-n",
            "far",
            "configmap",
            "astray",
            "--ignore-not-found",
        ];
        expect(LAB.kubectl(&left).result()?, String::is_empty)
    });
    scene.collected();
    let phase = LAB.field(&["namespace", "astray"], "{.status.phase}");
    assert_eq!(phase, Ok("Active".to_owned()));
    scene.stays("ConfigMap", "there", "owner");
}

#[test]
fn a_namespace_waits_for_what_is_held_in_it() {
    let scene = Scene::new(&LAB, "ending");
    scene.make("Site", "held", &[], &[HOLD]);
    scene.make(
        "ConfigMap",
        "of-held",
        &[scene.owner("Site", "held", true)],
        &[],
    );
    LAB.kubectl(&["delete", "namespace", "ending", "--wait=false"])
        .ok();
    scene.is_going("Site", "held");
    scene.goes("ConfigMap", "of-held");
    let phase = LAB.field(&["namespace", "ending"], "{.status.phase}");
    assert_eq!(phase, Ok("Terminating".to_owned()));
    eventually("the namespace says what it waits for", || {
        let path = "{.status.conditions[?(@.status==\"True\")].message}";
        let said = LAB.field(&["namespace", "ending"], path)?;
        expect(said, |said| {
            said.contains("sites.ending.example.com has 1 resource instances")
                && said.contains("example.com/hold in 1 resource instances")
        })
    });
    scene.let_go("Site", "held");
    eventually("the namespace goes", || {
        let left = ["get", "namespace", "ending", "--ignore-not-found"];
        expect(LAB.kubectl(&left).result()?, String::is_empty)
    });
}

#[test]
fn controllers_are_killed_in_the_middle_of_deletions() {
    let lab = Lab::up("collector", &[]);
    let scene = Scene::new(&lab, "killed");
    let name = |number: i32| format!("d{number}");
    scene.make("Service", "waiting", &[], &[]);
    scene.make("Service", "leaving", &[], &[]);
    for number in 0..4 {
        let waiting = scene.owner("Service", "waiting", true);
        scene.make("Site", &name(number), &[waiting], &[HOLD]);
        let middle = scene.owner("Site", &name(number), true);
        scene.make("ConfigMap", &name(number), &[middle], &[]);
    }
    let leaving = scene.owner("Service", "leaving", true);
    scene.make("Site", "left", &[leaving], &[]);
    scene.delete("Service", "waiting", "foreground");
    scene.is_going("Site", &name(0));
    let kill = || {
        for controllers in lab.processes("weft internal controllers") {
            lab.kill_part("weft internal controllers", controllers);
        }
    };
    kill();
    // New ones know at first only a part of what there is.
    scene.delete("Service", "leaving", "orphan");
    scene.let_go("Site", &name(0));
    kill();
    scene.goes("Service", "leaving");
    scene.collected();
    scene.stays("Site", "left", "");
    scene.is_going("Service", "waiting");
    for number in 1..4 {
        scene.is_going("Site", &name(number));
        scene.let_go("Site", &name(number));
    }
    scene.goes("Service", "waiting");
    for number in 0..4 {
        scene.goes("Site", &name(number));
        scene.goes("ConfigMap", &name(number));
    }
}
