//! EndpointSlices of Services with a selector. What should stand is decided by
//! `weft_compile::endpoints`; this is the loop around it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use weft_compile::endpoints::{
    Backed, BackedPort, Selected, Slice, SlicePort, Target, Write, reconcile,
};
use weft_kube::k8s_openapi::api::core::v1::{Node, Pod, Service, ServicePort};
use weft_kube::k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_kube::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_kube::kube::api::{DeleteParams, PostParams};
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::{Change, IpFamily, Object, ObjectKey, Port, Protocol};

use super::scheduling::is_finished;
use super::world::{World, api, key_of};
use super::{Context, During, Error};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) struct EndpointSlices {
    context: Context,
}

/// The Service that a slice of ours is for.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.labels();
    let ours = labels
        .get(MANAGED_BY)
        .is_some_and(|manager| manager == MANAGER);
    let name = labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(ObjectKey::new(&slice.namespace().unwrap_or_default(), name))
}

/// The Services whose selector selects a pod.
pub(super) fn services_selecting(world: &World, pod: &Pod) -> Vec<ObjectKey> {
    let namespace = pod.namespace().unwrap_or_default();
    world
        .within::<Service>(&namespace)
        .filter(|(_, service)| selects(service, pod))
        .map(|(key, _)| key.clone())
        .collect()
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service
        .spec
        .as_ref()
        .filter(|spec| spec.type_.as_deref() != Some("ExternalName"))
        .and_then(|spec| spec.selector.as_ref())
        .filter(|selector| !selector.is_empty())
}

fn selects(service: &Service, pod: &Pod) -> bool {
    selector(service).is_some_and(|selector| {
        selector
            .iter()
            .all(|(key, value)| pod.labels().get(key) == Some(value))
    })
}

impl EndpointSlices {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let (service, writes) = {
            let world = self.context.world.borrow();
            // With the Service go its slices: they are owned by it.
            let Some(service) = world.services.get(&key).cloned() else {
                return Ok(None);
            };
            if selector(&service).is_none() || service.meta().deletion_timestamp.is_some() {
                return Ok(None);
            }
            let pods = selected(&world, &key, &service);
            let standing = world
                .within::<EndpointSlice>(&key.namespace)
                .map(|(_, slice)| slice)
                .filter(|slice| service_of(slice).as_ref() == Some(&key));
            let mut existing = Vec::new();
            let mut mislabelled = Vec::new();
            let mut unusable = Vec::new();
            for slice in standing {
                match read(slice) {
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
            (service.clone(), writes)
        };
        for write in writes {
            self.carry_out(&key, &service, write).await?;
        }
        Ok(None)
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        service: &Service,
        write: Write,
    ) -> Result<(), Error> {
        let slices = api::<EndpointSlice>(&self.context.client, key);
        match write {
            Write::Create(slice) => {
                let made = self.object(key, service, &slice)?;
                let made = slices
                    .create(&PostParams::default(), &made)
                    .await
                    .during(|| format!("creating an EndpointSlice of Service {key}"))?;
                self.assume(made);
            }
            Write::Update(slice) => {
                let name = slice.name.clone().unwrap_or_default();
                let mut object = self.object(key, service, &slice)?;
                let version = self
                    .context
                    .world
                    .borrow()
                    .slices
                    .get(&ObjectKey::new(&key.namespace, &name))
                    .and_then(|slice| slice.resource_version());
                object.metadata.resource_version = version;
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
                let pod = endpoint.pod.as_ref();
                json!({
                    "addresses": endpoint.addresses,
                    "conditions": {
                        "ready": endpoint.ready,
                        "serving": endpoint.serving,
                        "terminating": endpoint.terminating,
                    },
                    "hostname": endpoint.hostname,
                    "nodeName": endpoint.node.as_ref().map(weft_model::NodeName::as_str),
                    "zone": endpoint.zone,
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
            "ownerReferences": service.controller_owner_ref(&()).map(|owner| vec![owner]),
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
    let headless = service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"));
    if headless {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

/// The pods behind a Service, those that have or had an address.
fn selected(world: &World, key: &ObjectKey, service: &Service) -> Vec<Selected> {
    world
        .within::<Pod>(&key.namespace)
        .filter(|(_, pod)| selects(service, pod) && !is_finished(pod))
        .map(|(pod_key, pod)| {
            let spec = pod.spec.as_ref();
            let node = spec.and_then(|spec| spec.node_name.as_deref());
            let subdomain = spec.and_then(|spec| spec.subdomain.as_deref());
            let hostname = spec
                .and_then(|spec| spec.hostname.as_deref())
                .filter(|_| subdomain == Some(&*key.name));
            Selected {
                pod: pod_key.clone(),
                addresses: addresses(pod),
                ready: super::replicas::is_ready(pod),
                terminating: pod.meta().deletion_timestamp.is_some(),
                node: node.map(Into::into),
                zone: node
                    .and_then(|node| world.nodes.get(&ObjectKey::new("", node)))
                    .and_then(|node| zone(node))
                    .map(|zone| zone.as_str().into()),
                hostname: hostname.map(Into::into),
                container_ports: container_ports(pod),
            }
        })
        .collect()
}

/// The zone of a node, which stands in the endpoints on it.
pub(super) fn zone(node: &Node) -> Option<&String> {
    node.labels().get(ZONE)
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    pod.status
        .iter()
        .flat_map(|status| status.pod_ips.iter().flatten())
        .filter_map(|address| address.ip.parse().ok())
        .collect()
}

fn container_ports(pod: &Pod) -> Vec<(Arc<str>, Protocol, Port)> {
    pod.spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = u16::try_from(port.container_port)
                .ok()
                .and_then(Port::new)?;
            Some((
                Arc::from(port.name.as_deref()?),
                protocol(port.protocol.as_deref()),
                number,
            ))
        })
        .collect()
}

fn backed(service: &Service) -> Backed {
    let spec = service.spec.clone().unwrap_or_default();
    let mut families: Vec<IpFamily> = spec
        .ip_families
        .iter()
        .flatten()
        .map(|family| {
            if family == "IPv6" {
                IpFamily::V6
            } else {
                IpFamily::V4
            }
        })
        .collect();
    if families.is_empty() {
        families.push(IpFamily::V4);
    }
    Backed {
        families,
        ports: spec
            .ports
            .iter()
            .flatten()
            .filter_map(backed_port)
            .collect(),
        publish_not_ready: spec.publish_not_ready_addresses == Some(true),
    }
}

fn backed_port(port: &ServicePort) -> Option<BackedPort> {
    let number = |number: i32| u16::try_from(number).ok().and_then(Port::new);
    let target = match &port.target_port {
        Some(IntOrString::String(name)) => Target::Named(name.as_str().into()),
        Some(IntOrString::Int(0)) | None => Target::Number(number(port.port)?),
        Some(IntOrString::Int(target)) => Target::Number(number(*target)?),
    };
    Some(BackedPort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: protocol(port.protocol.as_deref()),
        target,
        app_protocol: port.app_protocol.as_deref().map(Into::into),
    })
}

fn protocol(text: Option<&str>) -> Protocol {
    match text {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) | None => Protocol::Tcp,
    }
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
