//! The cluster's objects, as the API or files have them, and manifests laid over them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_kube::k8s_openapi::api::core::v1::{Node, Pod, Service};
use weft_kube::k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_kube::kube::api::{Api, ListParams};
use weft_kube::kube::{Client, Resource};
use weft_kube::{Access, connect};
use weft_model::Change;

use crate::manifest;
use crate::output;
use crate::service::scene;

/// Kind, namespace, name.
type Key = (String, String, String);

/// Objects by what they are.
pub(super) struct State {
    objects: BTreeMap<Key, Value>,
}

const KINDS: [&str; 4] = ["Service", "EndpointSlice", "Node", "Pod"];

impl State {
    /// What files have.
    pub(super) fn of_files(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut state = Self {
            objects: BTreeMap::new(),
        };
        for file in files {
            for object in manifest::objects(file)? {
                if let Some(key) = key(&object) {
                    state.objects.insert(key, object);
                }
            }
        }
        Ok(state)
    }

    /// What the API has.
    pub(super) fn of_api(kubeconfig: Option<PathBuf>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the client's event loop")?;
        let objects = runtime.block_on(async {
            let access = Access {
                kubeconfig,
                server: None,
            };
            let client = connect(&access, "weft").await?;
            let mut objects = all::<Node>(&client, "Node").await?;
            objects.extend(all::<Service>(&client, "Service").await?);
            objects.extend(all::<EndpointSlice>(&client, "EndpointSlice").await?);
            objects.extend(all::<Pod>(&client, "Pod").await?);
            anyhow::Ok(objects)
        })?;
        let keyed = objects.into_iter().filter_map(|it| Some((key(&it)?, it)));
        Ok(Self {
            objects: keyed.collect(),
        })
    }

    /// The nodes' names.
    pub(super) fn nodes(&self) -> Vec<String> {
        let nodes = self.objects.keys().filter(|key| key.0 == "Node");
        nodes.map(|key| key.2.clone()).collect()
    }

    /// The objects as the model takes them in.
    pub(super) fn changes(&self) -> anyhow::Result<Vec<Change>> {
        let mut changes = Vec::new();
        for ((kind, namespace, name), object) in &self.objects {
            let from = format!("{kind} {namespace}/{name}");
            changes.extend(scene::decode(&from, object.clone())?);
        }
        Ok(changes)
    }

    /// Lays a manifest over what is there.
    pub(super) fn apply(&mut self, mut manifest: Value) {
        let Some(key) = key(&manifest) else {
            let kind = manifest["kind"]
                .as_str()
                .unwrap_or("an object without kind");
            output::note(format!(
                "weft: {kind}: of no consequence for a node's Services"
            ));
            return;
        };
        let known = self.objects.get(&key);
        if key.0 == "Service" {
            keep_port_fields(known, &mut manifest);
            let address = &manifest["spec"]["clusterIP"];
            if known.is_none() && address.is_null() {
                output::note(format!(
                    "weft: Service {}/{} has no clusterIP yet: the API gives it one when it is \
                     made",
                    key.1, key.2
                ));
            }
            if let Some(known) = known {
                warn_of_endpoints(&key, known, &manifest);
            }
        }
        let mut object = known
            .cloned()
            .unwrap_or_else(|| Value::Object(Default::default()));
        lay_over(&mut object, manifest);
        self.objects.insert(key, object);
    }
}

fn key(object: &Value) -> Option<Key> {
    let kind = object["kind"]
        .as_str()
        .filter(|kind| KINDS.contains(kind))?;
    let metadata = &object["metadata"];
    let namespace = match kind {
        "Node" => "",
        _ => metadata["namespace"].as_str().unwrap_or("default"),
    };
    let name = metadata["name"].as_str()?;
    Some((kind.to_owned(), namespace.to_owned(), name.to_owned()))
}

/// A port of a Service keeps what its manifest leaves out: the node port above all.
fn keep_port_fields(known: Option<&Value>, manifest: &mut Value) {
    let known = known.and_then(|known| known["spec"]["ports"].as_array());
    // Not by index, which would make the fields.
    let ports = manifest.pointer_mut("/spec/ports");
    let Some(ports) = ports.and_then(Value::as_array_mut) else {
        return;
    };
    let number = |port: &Value| (port["port"].clone(), protocol(port));
    for port in ports {
        let same = known
            .into_iter()
            .flatten()
            .find(|known| number(known) == number(port));
        if let Some(same) = same {
            let mut kept = same.clone();
            lay_over(&mut kept, port.take());
            *port = kept;
        }
    }
}

fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}

/// What controllers would make of it is not foretold.
fn warn_of_endpoints(key: &Key, known: &Value, manifest: &Value) {
    let differs = |field: &str| {
        let (known, new) = (&known["spec"][field], &manifest["spec"][field]);
        !new.is_null() && known != new
    };
    let targets = |service: &Value| -> Vec<Value> {
        let ports = service["spec"]["ports"].as_array();
        let target = |port: &Value| {
            let named = port.get("targetPort").filter(|target| !target.is_null());
            named.unwrap_or(&port["port"]).clone()
        };
        ports.into_iter().flatten().map(target).collect()
    };
    let ports = !manifest["spec"]["ports"].is_null() && targets(known) != targets(manifest);
    if differs("selector") || ports {
        output::note(format!(
            "weft: Service {}/{}: its selector or target ports would be others, and its endpoints \
             follow from pods; give its EndpointSlices too to see what they would change",
            key.1, key.2
        ));
    }
}

/// Fields of `over` take the place of those below, object by object; `null` takes one away.
fn lay_over(below: &mut Value, over: Value) {
    match (below, over) {
        (Value::Object(below), Value::Object(over)) => {
            for (field, value) in over {
                if value.is_null() {
                    below.remove(&field);
                } else {
                    lay_over(below.entry(field).or_insert(Value::Null), value);
                }
            }
        }
        (below, over) => *below = over,
    }
}

async fn all<K>(client: &Client, kind: &str) -> anyhow::Result<Vec<Value>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let list = Api::<K>::all(client.clone())
        .list(&ListParams::default())
        .await
        .with_context(|| {
            format!("cannot list {kind} objects; `--from FILE` takes a file instead")
        })?;
    let mut objects = Vec::new();
    for item in list.items {
        let mut object = serde_json::to_value(item)?;
        // Items of a list say no kind.
        object["kind"] = kind.into();
        objects.push(object);
    }
    Ok(objects)
}
