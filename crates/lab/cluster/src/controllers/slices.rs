//! EndpointSlices of Services with a selector. What should stand is decided by
//! `weft_compile::endpoints`; this is the loop around it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use weft_compile::endpoints::{Slice, SlicePort, Write, reconcile};
use weft_kube::k8s_openapi::api::core::v1::Service;
use weft_kube::k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_kube::kube::api::{DeleteParams, PostParams};
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::{Change, Endpoint, Object, ObjectKey};

use super::backing::{HEADLESS, backed, is_headless, selected, selector};
use super::graph::controller_ref;
use super::trigger_time::{Observed, TriggerTimes};
use super::world::{api, key_of};
use super::{Context, During, Error};

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

pub(super) struct EndpointSlices {
    context: Context,
    trigger_times: TriggerTimes,
}

/// The Service that a slice of ours is for.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    service_managed_by(slice, MANAGER)
}

/// The Service that a slice is for, if this controller wrote it.
pub(super) fn service_managed_by(slice: &EndpointSlice, manager: &str) -> Option<ObjectKey> {
    let labels = slice.labels();
    let ours = labels.get(MANAGED_BY).is_some_and(|by| by == manager);
    let name = labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(ObjectKey::new(&slice.namespace().unwrap_or_default(), name))
}

impl EndpointSlices {
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            trigger_times: TriggerTimes::default(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let (service, observed, writes) = {
            let world = self.context.world.borrow();
            // With the Service go its slices: they are owned by it.
            let Some(service) = world.services.get(&key).cloned() else {
                self.trigger_times.forget(&key);
                return Ok(None);
            };
            if selector(&service).is_none() || service.meta().deletion_timestamp.is_some() {
                return Ok(None);
            }
            let pods = selected(&world, &key, &service);
            let observed = self.trigger_times.observe(&world, &key, &service);
            let standing = world
                .within::<EndpointSlice>(&key.namespace)
                .map(|(_, slice)| slice)
                .filter(|slice| service_of(slice).as_ref() == Some(&key));
            let mut existing = Vec::new();
            let mut mislabelled = Vec::new();
            let mut unusable = Vec::new();
            for slice in standing {
                match read(slice).filter(|_| is_owned_by(slice, &service)) {
                    Some(read) => {
                        if *slice.labels() != labels(&key, &service) {
                            mislabelled.push(read.clone());
                        }
                        existing.push(read);
                    }
                    None => unusable.push(Write::Delete(slice.name_any().into())),
                }
            }
            let mut writes = reconcile(&backed(&service), &pods, existing);
            // What is written anyway gets its labels with it.
            let written: Vec<_> = writes.iter().filter_map(written_name).collect();
            mislabelled.retain(|slice| !written.contains(&slice.name));
            writes.extend(mislabelled.into_iter().map(Write::Update));
            writes.extend(unusable);
            (service.clone(), observed, writes)
        };
        for write in writes {
            self.carry_out(&key, &service, &observed, write).await?;
        }
        self.trigger_times.note(&key, observed);
        Ok(None)
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        service: &Service,
        observed: &Observed,
        write: Write,
    ) -> Result<(), Error> {
        let slices = api::<EndpointSlice>(&self.context.client, key);
        match write {
            Write::Create(slice) => {
                let mut made = self.object(key, service, &slice)?;
                observed.annotate(made.annotations_mut());
                let made = slices
                    .create(&PostParams::default(), &made)
                    .await
                    .during(|| format!("creating an EndpointSlice of Service {key}"))?;
                self.assume(made);
            }
            Write::Update(slice) => {
                let name = slice.name.clone().unwrap_or_default();
                let mut object = self.object(key, service, &slice)?;
                let slice_key = ObjectKey::new(&key.namespace, &name);
                let before = self.context.world.borrow().slices.get(&slice_key).cloned();
                if let Some(before) = before {
                    object.metadata.resource_version = before.resource_version();
                    object.metadata.annotations = before.metadata.annotations.clone();
                }
                observed.annotate(object.annotations_mut());
                let made = slices
                    .replace(&name, &PostParams::default(), &object)
                    .await
                    .during(|| format!("writing EndpointSlice {name} of Service {key}"))?;
                self.assume(made);
            }
            Write::Delete(name) => {
                slices
                    .delete(&name, &DeleteParams::default())
                    .await
                    .settled(404, || {
                        format!("deleting EndpointSlice {name} of Service {key}")
                    })?;
                let key = ObjectKey::new(&key.namespace, &name);
                self.context
                    .world
                    .borrow_mut()
                    .put::<EndpointSlice>(None, &key);
            }
        }
        Ok(())
    }

    /// Takes our own write into the cache at once: the watch brings the same, later, and
    /// until then it would be written again.
    fn assume(&self, slice: EndpointSlice) {
        let key = key_of(&slice);
        self.context.world.borrow_mut().put(Some(slice), &key);
    }

    fn object(
        &self,
        key: &ObjectKey,
        service: &Service,
        slice: &Slice,
    ) -> Result<EndpointSlice, Error> {
        let world = self.context.world.borrow();
        let endpoints: Vec<Value> = slice
            .endpoints
            .iter()
            .map(|endpoint| {
                let pod = endpoint.details.pod.as_ref();
                json!({
                    "addresses": endpoint.addresses,
                    "conditions": {
                        "ready": endpoint.ready,
                        "serving": endpoint.serving,
                        "terminating": endpoint.terminating,
                    },
                    "hostname": endpoint.details.hostname,
                    "nodeName": endpoint.node.as_ref().map(weft_model::NodeName::as_str),
                    "zone": endpoint.details.zone,
                    "hints": hints(endpoint),
                    "targetRef": pod.map(|pod| json!({
                        "kind": "Pod",
                        "namespace": pod.namespace,
                        "name": pod.name,
                        "uid": world.pods.get(pod).and_then(|pod| pod.uid()),
                    })),
                })
            })
            .collect();
        let ports: Vec<Value> = slice
            .ports
            .iter()
            .map(|port| {
                json!({
                    "name": port.name.as_str(),
                    "protocol": port.protocol.to_string(),
                    "port": port.port.number(),
                    "appProtocol": port.app_protocol,
                })
            })
            .collect();
        let mut metadata = json!({
            "namespace": key.namespace,
            "labels": labels(key, service),
            "ownerReferences": controller_ref(service).map(|owner| vec![owner]),
        });
        match &slice.name {
            Some(name) => metadata["name"] = json!(name),
            None => metadata["generateName"] = json!(format!("{}-", key.name)),
        }
        serde_json::from_value(json!({
            "metadata": metadata,
            "addressType": slice.family.to_string(),
            "endpoints": endpoints,
            "ports": ports,
        }))
        .map_err(|error| Error::Impossible(format!("EndpointSlice of Service {key}: {error}")))
    }
}

/// `hints`; none where nobody is hinted at.
fn hints(endpoint: &Endpoint) -> Option<Value> {
    let named = |name: &str| json!({"name": name});
    let zones: Vec<Value> = endpoint
        .details
        .hints
        .zones
        .iter()
        .map(|zone| named(zone))
        .collect();
    let nodes: Vec<Value> = endpoint
        .details
        .hints
        .nodes
        .iter()
        .map(|node| named(node.as_str()))
        .collect();
    let mut hints = serde_json::Map::new();
    for (field, names) in [("forZones", zones), ("forNodes", nodes)] {
        if !names.is_empty() {
            hints.insert(field.to_owned(), names.into());
        }
    }
    (!hints.is_empty()).then_some(Value::Object(hints))
}

/// The slice that a write is about; none for a new one.
fn written_name(write: &Write) -> Option<Option<Arc<str>>> {
    match write {
        Write::Create(_) => None,
        Write::Update(slice) => Some(slice.name.clone()),
        Write::Delete(name) => Some(Some(name.clone())),
    }
}

/// The labels of a Service's slices: its own, and those that tie them to it.
fn labels(key: &ObjectKey, service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), key.name.to_string());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

/// One of an earlier Service of the name is about to be collected.
fn is_owned_by(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.owner_references();
    owners
        .iter()
        .any(|owner| owner.kind == "Service" && Some(&owner.uid) == service.uid().as_ref())
}

/// A slice that stands, in the decision's terms. One that makes no sense is left out, and
/// so replaced.
fn read(slice: &EndpointSlice) -> Option<Slice> {
    let Some(Change::Put(Object::EndpointSlice(model))) = weft_kube::endpoint_slice(slice) else {
        return None;
    };
    let app_protocols = slice
        .ports
        .iter()
        .flatten()
        .map(|port| port.app_protocol.as_deref());
    let mut ports: Vec<SlicePort> = model
        .ports
        .into_iter()
        .zip(app_protocols)
        .map(|(port, app_protocol)| SlicePort {
            name: port.name,
            protocol: port.protocol,
            port: port.port,
            app_protocol: app_protocol.map(Into::into),
        })
        .collect();
    ports.sort();
    Some(Slice {
        name: Some(model.key.name),
        family: model.family,
        ports,
        endpoints: model.endpoints,
    })
}
