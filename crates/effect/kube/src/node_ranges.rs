//! The pod ranges of nodes, as their objects have them.

use std::collections::BTreeSet;

use futures::stream::{self, Stream, StreamExt};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::Pauses;

/// A node, as far as its ranges go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangedNode {
    /// Its name.
    pub name: String,
    /// Which of several nodes that had this name one after the other.
    pub uid: String,
    /// What it has.
    pub ranges: Vec<IpNet>,
    /// What it has and what is no range; the API lets none in.
    pub unreadable: Vec<String>,
    /// Whether it is being deleted.
    pub leaving: bool,
}

/// What the watch of nodes says.
#[derive(Debug)]
pub enum RangedUpdate {
    /// It is there.
    Node(RangedNode),
    /// It is not there any more.
    Gone(String),
    /// All nodes that there are have been told.
    InSync,
    /// The watch broke and is being tried again; what it told stands.
    Interrupted(watcher::Error),
}

/// Watches all nodes, beginning with what the API has at this moment.
pub fn watch_node_ranges(client: &Client) -> impl Stream<Item = RangedUpdate> + Send + use<> {
    let mut known = Known::default();
    watcher(Api::<Node>::all(client.clone()), watcher::Config::default())
        .backoff(Pauses::default())
        .flat_map(move |event| stream::iter(known.updates(event)))
}

/// Gives a node that has no ranges these: the primary family's first.
///
/// # Errors
/// The API's answer: 409 if it is another node of this name, 422 if it has ranges.
pub async fn give_node_ranges(
    client: &Client,
    node: &RangedNode,
    ranges: &[IpNet],
) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = json!({
        "metadata": {"uid": node.uid},
        "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges},
    });
    nodes
        .patch(&node.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
}

/// The names told so far, and during a list those in it.
#[derive(Default)]
struct Known {
    told: BTreeSet<String>,
    listing: BTreeSet<String>,
}

impl Known {
    fn updates(&mut self, event: watcher::Result<Event<Node>>) -> Vec<RangedUpdate> {
        match event {
            Err(error) => vec![RangedUpdate::Interrupted(error)],
            Ok(Event::Init) => {
                self.listing.clear();
                Vec::new()
            }
            Ok(Event::InitApply(node)) => {
                self.listing.insert(node.name_any());
                vec![self.tell(&node)]
            }
            Ok(Event::InitDone) => {
                let listing = std::mem::take(&mut self.listing);
                let told = std::mem::replace(&mut self.told, listing);
                let gone = told.difference(&self.told).cloned();
                let gone: Vec<_> = gone.map(RangedUpdate::Gone).collect();
                gone.into_iter().chain([RangedUpdate::InSync]).collect()
            }
            Ok(Event::Apply(node)) => vec![self.tell(&node)],
            Ok(Event::Delete(node)) => {
                let name = node.name_any();
                self.told.remove(&name);
                vec![RangedUpdate::Gone(name)]
            }
        }
    }

    fn tell(&mut self, node: &Node) -> RangedUpdate {
        self.told.insert(node.name_any());
        RangedUpdate::Node(read(node))
    }
}

fn read(node: &Node) -> RangedNode {
    let spec = node.spec.clone().unwrap_or_default();
    let texts = spec.pod_cidrs.filter(|ranges| !ranges.is_empty());
    let texts = texts.unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
    let mut ranges = Vec::new();
    let mut unreadable = Vec::new();
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        match text.parse::<IpNet>() {
            Ok(range) => ranges.push(range),
            Err(_) => unreadable.push(text),
        }
    }
    RangedNode {
        name: node.name_any(),
        uid: node.meta().uid.clone().unwrap_or_default(),
        ranges,
        unreadable,
        leaving: node.meta().deletion_timestamp.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ranges: &[&str]) -> Node {
        let text = json!({"metadata": {"name": name, "uid": "u"}, "spec": {"podCIDRs": ranges}});
        serde_json::from_value(text).unwrap()
    }

    fn told(updates: Vec<RangedUpdate>) -> Vec<String> {
        let short = |update| match update {
            RangedUpdate::Node(node) => {
                format!("{} {:?} {:?}", node.name, node.ranges, node.unreadable)
            }
            RangedUpdate::Gone(name) => format!("-{name}"),
            RangedUpdate::InSync => "in sync".to_owned(),
            RangedUpdate::Interrupted(error) => error.to_string(),
        };
        updates.into_iter().map(short).collect()
    }

    #[test]
    fn nodes_that_went_during_an_interruption_are_gone() {
        let mut known = Known::default();
        let mut feed = |event| told(known.updates(Ok(event)));
        feed(Event::Init);
        let a = feed(Event::InitApply(node("a", &["10.0.0.0/24", "nonsense"])));
        assert_eq!(a, [r#"a [10.0.0.0/24] ["nonsense"]"#]);
        assert_eq!(feed(Event::InitDone), ["in sync"]);
        feed(Event::Apply(node("b", &[])));
        feed(Event::Apply(node("c", &[])));
        assert_eq!(feed(Event::Delete(node("c", &[]))), ["-c"]);
        feed(Event::Init);
        feed(Event::InitApply(node("b", &[])));
        assert_eq!(feed(Event::InitDone), ["-a", "in sync"]);
    }
}
