//! Which links of a lab are cut.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use weft_netlab::barrier::Side;

use super::init::OUTSIDE;

/// The API server, in what a person says.
pub const API: &str = "api";

/// What a node's link is cut from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Peer {
    /// Everything: its cable is pulled.
    Everything,
    /// The API server.
    Api,
    /// Another node, or `outside`.
    Node(String),
}

impl Peer {
    /// What a person names.
    #[must_use]
    pub fn named(name: Option<&str>) -> Self {
        match name {
            None => Peer::Everything,
            Some(API) => Peer::Api,
            Some(name) => Peer::Node(name.to_owned()),
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Everything => f.write_str("everything"),
            Peer::Api => f.write_str("the API server"),
            Peer::Node(name) => f.write_str(name),
        }
    }
}

/// The cuts there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cuts(BTreeSet<(String, Peer)>);

impl Cuts {
    /// Cuts a node off. Returns whether it was not yet.
    pub(super) fn cut(&mut self, node: &str, peer: &Peer) -> bool {
        self.0.insert(key(node, peer))
    }

    /// Mends a cut; without a peer, all of the node. Returns whether there was one.
    pub(super) fn heal(&mut self, node: &str, peer: &Peer) -> bool {
        let before = self.0.len();
        match peer {
            Peer::Everything => self.0.retain(|cut| !concerns(cut, node)),
            Peer::Api | Peer::Node(_) => {
                self.0.remove(&key(node, peer));
            }
        }
        self.0.len() != before
    }

    /// Whether a node is cut off from everything.
    pub(super) fn is_off(&self, node: &str) -> bool {
        self.0.contains(&key(node, &Peer::Everything))
    }

    /// What a node is cut off from.
    pub(super) fn of(&self, node: &str) -> Vec<Peer> {
        let cuts = self.0.iter().filter(|cut| concerns(cut, node));
        cuts.map(|(one, peer)| match peer {
            // Seen from the other side.
            Peer::Node(_) if one != node => Peer::Node(one.clone()),
            Peer::Node(_) | Peer::Api | Peer::Everything => peer.clone(),
        })
        .collect()
    }

    /// The barriers on the bridge. `port` tells where a node is.
    pub(super) fn barriers(&self, port: impl Fn(&str) -> Option<String>) -> Vec<(Side, Side)> {
        let side = |name: &str| port(name).map(Side::Port);
        self.0
            .iter()
            .filter_map(|(node, peer)| match peer {
                Peer::Everything => None,
                Peer::Api => Some((side(node)?, Side::Bridge)),
                Peer::Node(other) => Some((side(node)?, side(other)?)),
            })
            .collect()
    }
}

/// A cut between two nodes is the same from both sides.
fn key(node: &str, peer: &Peer) -> (String, Peer) {
    match peer {
        Peer::Node(other) if other == OUTSIDE || other.as_str() > node => {
            (node.to_owned(), peer.clone())
        }
        Peer::Node(other) => (other.clone(), Peer::Node(node.to_owned())),
        Peer::Everything | Peer::Api => (node.to_owned(), peer.clone()),
    }
}

fn concerns((one, peer): &(String, Peer), node: &str) -> bool {
    one == node || matches!(peer, Peer::Node(other) if other == node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_the_same_from_both_sides() {
        let mut cuts = Cuts::default();
        assert!(cuts.cut("b", &Peer::named(Some("a"))));
        assert!(!cuts.cut("a", &Peer::named(Some("b"))));
        assert_eq!(cuts.of("a"), [Peer::Node("b".to_owned())]);
        assert_eq!(cuts.of("b"), [Peer::Node("a".to_owned())]);
        assert!(cuts.heal("a", &Peer::named(Some("b"))));
        assert_eq!(cuts, Cuts::default());
    }

    #[test]
    fn healing_a_node_mends_all_of_its_cuts_and_nobody_elses() {
        let mut cuts = Cuts::default();
        for (node, peer) in [
            ("a", Some("b")),
            ("c", Some("a")),
            ("b", Some("c")),
            ("a", Some("api")),
            ("a", None),
        ] {
            assert!(cuts.cut(node, &Peer::named(peer)), "{node} {peer:?}");
        }
        assert!(cuts.is_off("a") && !cuts.is_off("b"));
        assert!(cuts.heal("a", &Peer::Everything));
        assert!(!cuts.heal("a", &Peer::Everything));
        assert!(cuts.of("a").is_empty());
        assert_eq!(cuts.of("b"), [Peer::Node("c".to_owned())]);
    }

    #[test]
    fn barriers_stand_between_ports() {
        let mut cuts = Cuts::default();
        cuts.cut("a", &Peer::named(Some("b")));
        cuts.cut("a", &Peer::Api);
        cuts.cut("b", &Peer::named(Some(OUTSIDE)));
        cuts.cut("b", &Peer::Everything);
        // A node that is gone stands nowhere.
        cuts.cut("a", &Peer::named(Some("z")));
        let port = |name: &str| (name != "z").then(|| format!("port-{name}"));
        let at = |name: &str| Side::Port(format!("port-{name}"));
        assert_eq!(
            cuts.barriers(port),
            [
                (at("a"), Side::Bridge),
                (at("a"), at("b")),
                (at("b"), at(OUTSIDE)),
            ]
        );
    }
}
