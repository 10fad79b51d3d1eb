//! Endpoints (core/v1) of Services with a selector: what the EndpointSlices say, for clients
//! that read the older form. What should stand is decided by `weft_compile::subsets`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_compile::endpoints::SlicePort;
use weft_compile::subsets::{PodAddress, Subset, subsets};
use weft_kube::k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Service,
};
use weft_kube::kube::api::{DeleteParams, ObjectMeta, PostParams};
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::ObjectKey;

use super::backing::{HEADLESS, backed, is_headless, selected, selector};
use super::trigger_time::{Observed, TriggerTimes};
use super::world::{World, api, key_of};
use super::{Context, During, Error};

const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Whoever leads a group of processes says so in an Endpoints object without a Service.
pub(super) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

pub(super) struct EndpointsOfServices {
    context: Context,
    trigger_times: TriggerTimes,
}

/// A Service, what stands of its Endpoints and what should.
struct View {
    service: Arc<Service>,
    present: Option<Arc<Endpoints>>,
    wanted: Wanted,
    observed: Observed,
}

/// What should stand.
struct Wanted {
    subsets: Option<Vec<EndpointSubset>>,
    truncated: bool,
}

impl EndpointsOfServices {
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            trigger_times: TriggerTimes::default(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(view) = self.look(&key) else {
            return self.remove_leftover(&key).await.map(|()| None);
        };
        let View {
            service,
            present,
            wanted,
            observed,
        } = view;
        if service.meta().deletion_timestamp.is_none()
            && !is_right(present.as_deref(), &service, &wanted)
        {
            self.write(&key, &service, present, wanted, &observed)
                .await?;
        }
        self.trigger_times.note(&key, observed);
        Ok(None)
    }

    /// None where a Service is not, or has no selector.
    fn look(&self, key: &ObjectKey) -> Option<View> {
        let world = self.context.world.borrow();
        let service = world.services.get(key)?.clone();
        selector(&service)?;
        let pods = selected(&world, key, &service);
        let (subsets, truncated) = subsets(&backed(&service), &pods);
        let subsets: Vec<_> = subsets
            .into_iter()
            .map(|subset| endpoint_subset(&world, subset))
            .collect();
        let wanted = Wanted {
            subsets: some(subsets),
            truncated,
        };
        let observed = self.trigger_times.observe(&world, key, &service);
        Some(View {
            service,
            present: world.endpoints.get(key).cloned(),
            wanted,
            observed,
        })
    }

    /// Endpoints go with their Service, whoever wrote them, as Kubernetes has it.
    async fn remove_leftover(&self, key: &ObjectKey) -> Result<(), Error> {
        let leftover = {
            let world = self.context.world.borrow();
            let endpoints = world.endpoints.get(key);
            !world.services.contains_key(key)
                && endpoints.is_some_and(|endpoints| !endpoints.annotations().contains_key(LEADER))
        };
        self.trigger_times.forget(key);
        if leftover {
            api::<Endpoints>(&self.context.client, key)
                .delete(&key.name, &DeleteParams::default())
                .await
                .settled(404, || {
                    format!("deleting Endpoints {key}, whose Service is gone")
                })?;
        }
        Ok(())
    }

    async fn write(
        &self,
        key: &ObjectKey,
        service: &Service,
        present: Option<Arc<Endpoints>>,
        wanted: Wanted,
        observed: &Observed,
    ) -> Result<(), Error> {
        let there = present.is_some();
        let mut endpoints = present.map_or_else(
            || Endpoints {
                metadata: ObjectMeta {
                    namespace: Some(key.namespace.to_string()),
                    name: Some(key.name.to_string()),
                    ..ObjectMeta::default()
                },
                subsets: None,
            },
            |present| (*present).clone(),
        );
        endpoints.subsets = wanted.subsets;
        endpoints.metadata.labels = Some(labels(service)).filter(|labels| !labels.is_empty());
        let annotations = endpoints.annotations_mut();
        observed.annotate(annotations);
        if wanted.truncated {
            annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
        } else {
            annotations.remove(OVER_CAPACITY);
        }
        let api = api::<Endpoints>(&self.context.client, key);
        let parameters = PostParams::default();
        let written = if there {
            api.replace(&key.name, &parameters, &endpoints).await
        } else {
            api.create(&parameters, &endpoints).await
        };
        let written = written.during(|| format!("writing Endpoints of Service {key}"))?;
        let key = key_of(&written);
        self.context.world.borrow_mut().put(Some(written), &key);
        Ok(())
    }
}

fn is_right(present: Option<&Endpoints>, service: &Service, wanted: &Wanted) -> bool {
    present.is_some_and(|present| {
        present.subsets.as_deref().unwrap_or_default()
            == wanted.subsets.as_deref().unwrap_or_default()
            && *present.labels() == labels(service)
            && present.annotations().contains_key(OVER_CAPACITY) == wanted.truncated
    })
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

fn endpoint_subset(world: &World, subset: Subset<PodAddress, SlicePort>) -> EndpointSubset {
    let addresses = |addresses: Vec<PodAddress>| {
        let addresses = addresses.into_iter();
        some(addresses.map(|one| endpoint_address(world, one)).collect())
    };
    EndpointSubset {
        addresses: addresses(subset.ready),
        not_ready_addresses: addresses(subset.not_ready),
        ports: some(subset.ports.into_iter().map(endpoint_port).collect()),
    }
}

fn endpoint_address(world: &World, address: PodAddress) -> EndpointAddress {
    EndpointAddress {
        ip: address.ip.to_string(),
        hostname: address.hostname.map(|name| name.to_string()),
        node_name: address.node.map(|node| node.to_string()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(address.pod.namespace.to_string()),
            name: Some(address.pod.name.to_string()),
            uid: world.pods.get(&address.pod).and_then(|pod| pod.uid()),
            ..ObjectReference::default()
        }),
    }
}

fn endpoint_port(port: SlicePort) -> EndpointPort {
    let name = port.name.as_str();
    EndpointPort {
        name: (!name.is_empty()).then(|| name.to_owned()),
        port: port.port.number().into(),
        protocol: Some(port.protocol.to_string()),
        app_protocol: port.app_protocol.map(|protocol| protocol.to_string()),
    }
}

/// An empty list is left out, as the API has it.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
