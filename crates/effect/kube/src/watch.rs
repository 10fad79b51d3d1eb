//! A stream of model changes from the API.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::time::SystemTime;

use futures::stream::{self, Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use weft_model::{Change, Details, Key, Names, NodeName, Object, PodNames};

use crate::{Pauses, decode};

/// Which pods to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// Those bound to one node.
    OnNode(NodeName),
    /// All of the cluster's.
    All,
}

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Nodes.
    pub nodes: bool,
    /// Pods.
    pub pods: Option<Pods>,
    /// Services.
    pub services: bool,
    /// Endpoint slices.
    pub endpoint_slices: bool,
    /// What endpoints are called in DNS: their host names. Who sends packets to them gets their
    /// pods' names instead, by which Services may weigh them. Their zones nobody asks for.
    pub endpoint_names: bool,
    /// Namespaces.
    pub namespaces: bool,
}

/// One of the watched kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    /// core/v1 Node.
    Nodes,
    /// core/v1 Pod.
    Pods,
    /// core/v1 Service.
    Services,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlices,
    /// core/v1 Namespace.
    Namespaces,
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Watched::Nodes => "nodes",
            Watched::Pods => "pods",
            Watched::Services => "services",
            Watched::EndpointSlices => "endpointslices",
            Watched::Namespaces => "namespaces",
        })
    }
}

/// What a watch says.
#[derive(Debug)]
pub enum Update {
    /// The cluster changed.
    Change(Change),
    /// What led to the change told before it, which is one of endpoints, happened then. Only
    /// of changes that were watched.
    Happened(SystemTime),
    /// All objects of the kind that existed when its watch began have been reported.
    InSync(Watched),
    /// All kinds of the interest are in sync, for the first time.
    AllInSync,
    /// The watch broke and is being tried again; what it reported stands.
    Interrupted(Watched, watcher::Error),
}

impl Interest {
    fn kinds(&self) -> BTreeSet<Watched> {
        [
            (self.nodes, Watched::Nodes),
            (self.pods.is_some(), Watched::Pods),
            (self.services, Watched::Services),
            (self.endpoint_slices, Watched::EndpointSlices),
            (self.namespaces, Watched::Namespaces),
        ]
        .into_iter()
        .filter_map(|(wanted, kind)| wanted.then_some(kind))
        .collect()
    }
}

/// Watches what `interest` names, without end. After an interruption an object that
/// vanished meanwhile is reported as deleted.
pub fn watch(client: &Client, interest: &Interest) -> impl Stream<Item = Update> + Send + use<> {
    let mut missing = interest.kinds();
    let streams: Vec<_> = missing
        .iter()
        .map(|kind| one(client.clone(), *kind, interest))
        .collect();
    stream::select_all(streams).flat_map(move |update| {
        let complete = match &update {
            Update::InSync(kind) => missing.remove(kind) && missing.is_empty(),
            Update::Change(_)
            | Update::Happened(_)
            | Update::AllInSync
            | Update::Interrupted(..) => false,
        };
        stream::iter(
            [Some(update), complete.then_some(Update::AllInSync)]
                .into_iter()
                .flatten(),
        )
    })
}

type Updates = Pin<Box<dyn Stream<Item = Update> + Send>>;

fn one(client: Client, kind: Watched, interest: &Interest) -> Updates {
    let all = watcher::Config::default();
    match kind {
        Watched::Nodes => changes(Api::<Node>::all(client), all, kind, decode::node),
        Watched::Pods => {
            let config = match &interest.pods {
                Some(Pods::OnNode(node)) => all.fields(&format!("spec.nodeName={node}")),
                Some(Pods::All) | None => all,
            };
            changes(Api::<Pod>::all(client), config, kind, decode::pod)
        }
        Watched::Services => changes(Api::<Service>::all(client), all, kind, decode::service),
        Watched::EndpointSlices => {
            let read = match interest.endpoint_names {
                true => with_names,
                false => nameless,
            };
            changes(Api::<EndpointSlice>::all(client), all, kind, read)
        }
        Watched::Namespaces => changes(Api::<Namespace>::all(client), all, kind, decode::namespace),
    }
}

/// An EndpointSlice, and of its endpoints what they are called, for whom they are meant, and no more.
fn with_names(object: &EndpointSlice) -> Option<Change> {
    with_details(object, |details| Details {
        hints: details.hints,
        hostname: details.hostname,
        ..Details::default()
    })
}

/// An EndpointSlice without what its endpoints are called in DNS. What their pods are called stays:
/// a Service may say what they weigh.
fn nameless(object: &EndpointSlice) -> Option<Change> {
    let mut change = with_details(object, |details| Details {
        hints: details.hints,
        pod: details.pod,
        ..Details::default()
    })?;
    if let Change::Put(Object::EndpointSlice(slice)) = &mut change {
        slice.pods = PodNames::take(&mut slice.endpoints);
    }
    Some(change)
}

fn with_details(object: &EndpointSlice, kept: fn(Details) -> Details) -> Option<Change> {
    let mut change = decode::endpoint_slice(object)?;
    if let Change::Put(Object::EndpointSlice(slice)) = &mut change {
        for endpoint in &mut slice.endpoints {
            let details = std::mem::take(&mut endpoint.details);
            endpoint.details = kept(details.into()).into();
        }
    }
    Some(change)
}

/// What [`changes`] remembers: the keys reported so far, and during a list those seen in it.
#[derive(Default)]
struct Known {
    names: Names,
    reported: BTreeSet<Key>,
    listing: BTreeSet<Key>,
}

fn changes<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: Watched,
    read: fn(&K) -> Option<Change>,
) -> Updates
where
    K: kube::Resource + Clone + fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut known = Known::default();
    watcher(api, config)
        .backoff(Pauses::default())
        .flat_map(move |event| stream::iter(known.updates(event, kind, read)))
        .boxed()
}

impl Known {
    fn updates<K: ResourceExt>(
        &mut self,
        event: watcher::Result<Event<K>>,
        kind: Watched,
        read: fn(&K) -> Option<Change>,
    ) -> Vec<Update> {
        match event {
            Err(error) => vec![Update::Interrupted(kind, error)],
            Ok(Event::Init) => {
                self.listing.clear();
                Vec::new()
            }
            Ok(Event::InitApply(object)) => {
                let change = self.read(&object, read);
                self.listing.extend(change.as_ref().map(Change::key));
                self.report(|| key(kind, &object), change)
            }
            Ok(Event::InitDone) => {
                let gone: Vec<Key> = self.reported.difference(&self.listing).cloned().collect();
                // Built at once it is full; what has grown in order is half empty.
                self.reported = std::mem::take(&mut self.listing).into_iter().collect();
                gone.into_iter()
                    .map(|key| Update::Change(Change::Delete(key)))
                    .chain([Update::InSync(kind)])
                    .collect()
            }
            Ok(Event::Apply(object)) => {
                let change = self.read(&object, read);
                let mut updates = self.report(|| key(kind, &object), change);
                if kind == Watched::EndpointSlices && !updates.is_empty() {
                    updates.extend(decode::happened(&object).map(Update::Happened));
                }
                updates
            }
            Ok(Event::Delete(object)) => self.report(|| key(kind, &object), None),
        }
    }

    fn read<K>(&mut self, object: &K, read: fn(&K) -> Option<Change>) -> Option<Change> {
        read(object).map(|change| self.names.share(change))
    }

    /// An object that says nothing any more is gone; that is only said of what was there.
    fn report(&mut self, key: impl FnOnce() -> Key, change: Option<Change>) -> Vec<Update> {
        let change = match change {
            Some(change) => {
                // The key in the words of the object, which stays.
                self.reported.insert(change.key());
                Some(change)
            }
            None => {
                let key = key();
                self.reported.remove(&key).then_some(Change::Delete(key))
            }
        };
        change.map(Update::Change).into_iter().collect()
    }
}

fn key<K: ResourceExt>(kind: Watched, object: &K) -> Key {
    match kind {
        Watched::Nodes => Key::Node(object.name_any().into()),
        Watched::Pods => Key::Pod(decode::object_key(object)),
        Watched::Services => Key::Service(decode::object_key(object)),
        Watched::EndpointSlices => Key::EndpointSlice(decode::object_key(object)),
        Watched::Namespaces => Key::Namespace(object.name_any().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Namespace {
        Namespace {
            metadata: kube::api::ObjectMeta {
                name: Some(name.to_owned()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn keys(updates: &[Update]) -> Vec<String> {
        updates
            .iter()
            .map(|update| match update {
                Update::Change(Change::Delete(key)) => format!("-{key}"),
                Update::Change(change) => format!("+{}", change.key()),
                Update::Happened(at) => format!("{at:?}"),
                Update::InSync(kind) => format!("{kind} in sync"),
                Update::AllInSync => "all in sync".to_owned(),
                Update::Interrupted(kind, _) => format!("{kind} interrupted"),
            })
            .collect()
    }

    #[test]
    fn what_vanished_during_an_interruption_is_deleted_after_the_next_list() {
        let mut known = Known::default();
        let mut feed =
            |event| keys(&known.updates(Ok(event), Watched::Namespaces, decode::namespace));
        feed(Event::Init);
        feed(Event::InitApply(named("a")));
        feed(Event::InitApply(named("b")));
        assert_eq!(feed(Event::InitDone), ["namespaces in sync"]);
        feed(Event::Apply(named("c")));
        feed(Event::Init);
        assert_eq!(feed(Event::InitApply(named("b"))), ["+Namespace b"]);
        assert_eq!(
            feed(Event::InitDone),
            ["-Namespace a", "-Namespace c", "namespaces in sync"]
        );
    }

    #[test]
    fn what_endpoints_are_called_is_left_out_where_nobody_asks() {
        let slice = EndpointSlice {
            metadata: kube::api::ObjectMeta {
                name: Some("s".to_owned()),
                namespace: Some("n".to_owned()),
                labels: Some([("kubernetes.io/service-name".into(), "hello".into())].into()),
                ..Default::default()
            },
            address_type: "IPv4".to_owned(),
            endpoints: vec![k8s_openapi::api::discovery::v1::Endpoint {
                addresses: vec!["10.244.0.1".to_owned()],
                hostname: Some("a".to_owned()),
                node_name: Some("node-1".to_owned()),
                target_ref: Some(k8s_openapi::api::core::v1::ObjectReference {
                    kind: Some("Pod".to_owned()),
                    namespace: Some("n".to_owned()),
                    name: Some("web-0".to_owned()),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        };
        let read = |change| match change {
            Some(Change::Put(Object::EndpointSlice(slice))) => slice,
            other => panic!("{other:?}"),
        };
        let (with, slice) = (read(with_names(&slice)), read(nameless(&slice)));
        let (with, without) = (&with.endpoints[0], &slice.endpoints[0]);
        assert_eq!(with.details.hostname.as_deref(), Some("a"));
        assert_eq!(without.details.hostname, None);
        let pod = slice.pod_name(0);
        assert_eq!(pod.as_deref(), Some("web-0"), "what weights go by");
        assert_eq!(without.details.pod, None, "in little room");
        assert_eq!(without.node, with.node);
    }

    #[test]
    fn when_a_change_of_endpoints_began_is_told_of_what_is_watched() {
        let slice = |at: &str| EndpointSlice {
            metadata: kube::api::ObjectMeta {
                name: Some("s".to_owned()),
                namespace: Some("n".to_owned()),
                labels: Some([("kubernetes.io/service-name".to_owned(), "web".to_owned())].into()),
                annotations: Some([(decode::TRIGGERED.to_owned(), at.to_owned())].into()),
                ..Default::default()
            },
            address_type: "IPv4".to_owned(),
            ..Default::default()
        };
        let mut known = Known::default();
        let mut happened = |event| {
            let updates = known.updates(Ok(event), Watched::EndpointSlices, decode::endpoint_slice);
            let times = updates.into_iter().filter_map(|update| match update {
                Update::Happened(at) => Some(at),
                Update::Change(_)
                | Update::InSync(_)
                | Update::AllInSync
                | Update::Interrupted(..) => None,
            });
            times.collect::<Vec<_>>()
        };
        let at = "1970-01-01T00:00:01.5Z";
        happened(Event::Init);
        assert!(happened(Event::InitApply(slice(at))).is_empty());
        assert!(happened(Event::InitDone).is_empty());
        let expected = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1500);
        assert_eq!(happened(Event::Apply(slice(at))), [expected]);
        assert!(happened(Event::Apply(slice("yesterday"))).is_empty());
        // Of no Service: nothing of it is told.
        let mut foreign = slice(at);
        foreign.metadata.name = Some("other".to_owned());
        foreign.metadata.labels = None;
        assert!(happened(Event::Apply(foreign)).is_empty());
    }

    #[test]
    fn an_object_that_says_nothing_any_more_is_gone() {
        let slice = |service: Option<&str>| EndpointSlice {
            metadata: kube::api::ObjectMeta {
                name: Some("s".to_owned()),
                namespace: Some("n".to_owned()),
                labels: service.map(|name| {
                    [("kubernetes.io/service-name".to_owned(), name.to_owned())].into()
                }),
                ..Default::default()
            },
            address_type: "IPv4".to_owned(),
            ..Default::default()
        };
        let mut known = Known::default();
        let mut feed = |event| {
            keys(&known.updates(Ok(event), Watched::EndpointSlices, decode::endpoint_slice))
        };
        feed(Event::Init);
        feed(Event::InitDone);
        // Never known: nothing to say.
        assert!(feed(Event::Apply(slice(None))).is_empty());
        assert_eq!(
            feed(Event::Apply(slice(Some("hello")))),
            ["+EndpointSlice n/s"]
        );
        // The label is taken off, and with it the slice from its Service.
        assert_eq!(feed(Event::Apply(slice(None))), ["-EndpointSlice n/s"]);
        assert!(feed(Event::Delete(slice(None))).is_empty());
    }
}
