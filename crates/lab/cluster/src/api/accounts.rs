//! What the ServiceAccount admission of Kubernetes does: pods of unknown accounts are refused,
//! the others get their account's token, certificate and namespace as a volume.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use weft_apiserver::{Operation, Refusal, Resource};

/// Where the files of an account are in a container.
const FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the volume's name begins with.
const VOLUME: &str = "kube-api-access-";
/// The account of pods that name none. It comes a moment after its namespace; Kubernetes waits
/// for it, we go on and the kubelet waits.
const DEFAULT: &str = "default";
/// An hour and 7 seconds: by the odd number Kubernetes tells that nobody chose it.
const TOKEN_SECONDS: i64 = 3607;
/// Kubernetes' alphabet for generated names, and how many of them.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;

/// Namespace and name.
type Key = (String, String);
/// Whether pods get the files, if the account says so.
type Mounts = Option<bool>;

/// The accounts there are.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    known: BTreeMap<Key, Mounts>,
    /// What to go back to, the last change last.
    undo: Vec<(Key, Option<Mounts>)>,
    seed: u64,
}

/// Whether a kind is one that accounts are.
pub(super) fn is_account(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.kind == "ServiceAccount"
}

fn is_pod(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.kind == "Pod"
}

fn key(object: &Value) -> Key {
    let text = |field: &str| {
        let value = object["metadata"][field].as_str();
        value.unwrap_or_default().to_owned()
    };
    (text("namespace"), text("name"))
}

fn mounts(object: &Value) -> Mounts {
    object["automountServiceAccountToken"].as_bool()
}

impl Accounts {
    pub(super) fn new(seed: u64) -> Self {
        Accounts {
            seed,
            ..Self::default()
        }
    }

    /// Forgets everything and takes these.
    pub(super) fn repair(&mut self, accounts: &[Value]) {
        self.undo.clear();
        self.known = accounts
            .iter()
            .map(|account| (key(account), mounts(account)))
            .collect();
    }

    pub(super) fn admit(
        &mut self,
        resource: &Resource,
        operation: &mut Operation<'_>,
    ) -> Result<(), Refusal> {
        if is_account(resource) {
            let (key, now) = match operation {
                Operation::Create { object } | Operation::Update { object, .. } => {
                    (key(object), Some(mounts(object)))
                }
                Operation::Delete { old } => (key(old), None),
            };
            let before = match now {
                Some(now) => self.known.insert(key.clone(), now),
                None => self.known.remove(&key),
            };
            self.undo.push((key, before));
        } else if is_pod(resource)
            && let Operation::Create { object } = operation
        {
            return self.admit_pod(object);
        }
        Ok(())
    }

    pub(super) fn commit(&mut self) {
        self.undo.clear();
    }

    pub(super) fn rollback(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(before) => self.known.insert(key, before),
                None => self.known.remove(&key),
            };
        }
    }

    fn admit_pod(&mut self, pod: &mut Value) -> Result<(), Refusal> {
        let (namespace, _) = key(pod);
        let name = pod["spec"]["serviceAccountName"].as_str();
        let name = name.unwrap_or(DEFAULT).to_owned();
        let account = match self.known.get(&(namespace.clone(), name.clone())) {
            Some(account) => *account,
            None if name == DEFAULT => None,
            None => {
                return Err(Refusal::Forbidden(format!(
                    "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
                )));
            }
        };
        if mounts(&pod["spec"]).or(account).unwrap_or(true) {
            let volume = format!("{VOLUME}{}", self.suffix());
            if let Some(spec) = pod["spec"].as_object_mut() {
                add(spec, &volume);
            }
        }
        Ok(())
    }

    /// Five letters, other ones each time (SplitMix64).
    fn suffix(&mut self) -> String {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let letters = mixed.to_le_bytes();
        let letters = letters.iter().take(SUFFIX);
        letters
            .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
            .collect()
    }
}

/// Adds the volume, and mounts it in every container that has nothing in its place.
fn add(spec: &mut Map<String, Value>, volume: &str) {
    let mut mounted = false;
    for group in ["initContainers", "containers"] {
        let containers = spec.get_mut(group).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            let mounts = container
                .entry("volumeMounts")
                .or_insert_with(|| json!([]))
                .as_array_mut();
            let Some(mounts) = mounts else { continue };
            if !mounts.iter().any(|mount| mount["mountPath"] == FOLDER) {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": FOLDER}));
                mounted = true;
            }
        }
    }
    if !mounted {
        return;
    }
    let files = json!({"name": volume, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {
            "name": "kube-root-ca.crt",
            "items": [{"key": "ca.crt", "path": "ca.crt"}],
        }},
        {"downwardAPI": {"items": [{
            "path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
        }]}},
    ]}});
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    match volumes.as_array_mut() {
        Some(volumes) => volumes.push(files),
        None => *volumes = json!([files]),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn resource(plural: &str) -> Arc<Resource> {
        let registry = crate::api::registry();
        registry.find("", "v1", plural).unwrap().clone()
    }

    fn account(name: &str, mounts: Option<bool>) -> Value {
        json!({"metadata": {"namespace": "shop", "name": name},
            "automountServiceAccountToken": mounts})
    }

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec})
    }

    fn volumes(accounts: &mut Accounts, spec: Value) -> Result<usize, Refusal> {
        let mut pod = pod(spec);
        accounts.admit(
            &resource("pods"),
            &mut Operation::Create { object: &mut pod },
        )?;
        Ok(pod["spec"]["volumes"].as_array().map_or(0, Vec::len))
    }

    #[test]
    fn every_container_gets_the_files_unless_pod_or_account_say_otherwise() {
        let mut accounts = Accounts::new(1);
        accounts.repair(&[account("plain", None), account("silent", Some(false))]);
        let container = json!([{"name": "c"}]);
        for (name, own, expected) in [
            ("plain", None, 1),
            ("plain", Some(false), 0),
            ("silent", None, 0),
            ("silent", Some(true), 1),
            ("default", None, 1),
        ] {
            let spec = json!({"serviceAccountName": name, "containers": container,
                "automountServiceAccountToken": own});
            assert_eq!(
                volumes(&mut accounts, spec).ok(),
                Some(expected),
                "{name} {own:?}"
            );
        }
        let mut whole = pod(json!({"initContainers": [{"name": "i"}], "containers": [
            {"name": "a", "volumeMounts": [{"name": "v", "mountPath": FOLDER}]}, {"name": "b"}]}));
        let mut operation = Operation::Create { object: &mut whole };
        accounts.admit(&resource("pods"), &mut operation).unwrap();
        let name = whole["spec"]["volumes"][0]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(
            name.starts_with(VOLUME) && name.len() == VOLUME.len() + 5,
            "{name}"
        );
        let mount = |group: &str, index: usize| {
            whole["spec"][group][index]["volumeMounts"][0]["name"].clone()
        };
        assert_eq!(mount("initContainers", 0), *name);
        assert_eq!(mount("containers", 0), "v");
        assert_eq!(mount("containers", 1), *name);
    }

    #[test]
    fn an_account_counts_once_its_write_stands() {
        let mut accounts = Accounts::new(1);
        let spec = || json!({"serviceAccountName": "new", "containers": [{"name": "c"}]});
        assert!(matches!(
            volumes(&mut accounts, spec()),
            Err(Refusal::Forbidden(_))
        ));
        let mut object = account("new", None);
        let kind = resource("serviceaccounts");
        accounts
            .admit(
                &kind,
                &mut Operation::Create {
                    object: &mut object,
                },
            )
            .unwrap();
        accounts.rollback();
        assert!(volumes(&mut accounts, spec()).is_err());
        accounts
            .admit(
                &kind,
                &mut Operation::Create {
                    object: &mut object,
                },
            )
            .unwrap();
        accounts.commit();
        assert_eq!(volumes(&mut accounts, spec()).ok(), Some(1));
        accounts
            .admit(&kind, &mut Operation::Delete { old: &object })
            .unwrap();
        accounts.rollback();
        assert_eq!(volumes(&mut accounts, spec()).ok(), Some(1));
    }
}
