//! Events on Nodes about what of them can't be done.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_compile::Problem;
use weft_kube::{NodeEvents, NodeWarning};
use weft_model::{Key, NodeName};

/// How long something is wrong before it is told of: a node that joins is not all there at once.
const PATIENCE: Duration = Duration::from_secs(3);
/// Events that are written at a time, of all that is wrong.
const MOST: usize = 16;

/// Tells of each thing once, as long as it is wrong.
pub(super) struct NodeReports {
    me: NodeName,
    events: NodeEvents,
    /// Of the cluster's nodes.
    asked: Wrong,
    /// In this node's kernel.
    here: Wrong,
    /// With the port of the self-test.
    port: Wrong,
}

type Matter = (NodeName, &'static str, String);

/// What is wrong, since when, and whether it was told.
type Wrong = BTreeMap<Matter, (Instant, bool)>;

impl NodeReports {
    pub(super) fn new(me: NodeName, events: NodeEvents) -> Self {
        Self {
            me,
            events,
            asked: Wrong::new(),
            here: Wrong::new(),
            port: Wrong::new(),
        }
    }

    /// All that nodes ask for and is not done.
    pub(super) fn problems(&mut self, problems: &[Problem], now: Instant) {
        let me = &self.me;
        let of_nodes = problems.iter().filter_map(|problem| match &problem.object {
            Key::Node(node) => {
                let reason = match node == me {
                    true => "FabricNotApplied",
                    false => "PodRangeNotRouted",
                };
                Some((node.clone(), reason, problem.reason.clone()))
            }
            Key::Namespace(_) | Key::Pod(_) | Key::Service(_) | Key::EndpointSlice(_) => None,
        });
        follow(&mut self.asked, of_nodes, now);
    }

    /// What is wrong with the port where other nodes' tests are answered.
    pub(super) fn port(&mut self, trouble: Option<String>, now: Instant) {
        let trouble = trouble.into_iter();
        let of_me = trouble.map(|text| (self.me.clone(), "SelfTestPortTaken", text));
        follow(&mut self.port, of_me, now);
    }

    /// All that could not be written on this node.
    pub(super) fn here(&mut self, problems: impl IntoIterator<Item = String>, now: Instant) {
        let problems = problems.into_iter();
        let of_me = problems.map(|text| (self.me.clone(), "FabricNotApplied", text));
        follow(&mut self.here, of_me, now);
    }

    /// Tells what has been wrong for a while.
    pub(super) fn tell(&mut self, now: Instant) {
        for (node, reason, note) in due(&mut self.asked, now)
            .into_iter()
            .chain(due(&mut self.here, now))
            .chain(due(&mut self.port, now))
        {
            self.events.warn(NodeWarning {
                node,
                reason,
                action: "Program",
                note: format!("on node {}: {note}", self.me),
            });
        }
    }
}

fn follow(wrong: &mut Wrong, matters: impl Iterator<Item = Matter>, now: Instant) {
    let mut before = std::mem::take(wrong);
    wrong.extend(matters.map(|matter| {
        let since = before.remove(&matter).unwrap_or((now, false));
        (matter, since)
    }));
}

fn due(wrong: &mut Wrong, now: Instant) -> Vec<Matter> {
    let waiting = wrong.iter_mut();
    let waiting = waiting.filter(|(_, (since, told))| !told && now >= *since + PATIENCE);
    let told = waiting.take(MOST).map(|(matter, (_, told))| {
        *told = true;
        matter.clone()
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_for_a_while_is_told_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let matter = |text: &str| {
            (
                NodeName::from("node-2"),
                "PodRangeNotRouted",
                text.to_owned(),
            )
        };
        let mut wrong = Wrong::new();
        follow(&mut wrong, [matter("a"), matter("b")].into_iter(), start);
        assert_eq!(due(&mut wrong, at(1)), []);
        follow(&mut wrong, [matter("a")].into_iter(), at(2));
        assert_eq!(due(&mut wrong, at(3)), [matter("a")]);
        assert_eq!(due(&mut wrong, at(9)), []);
        // Again, when it is wrong again.
        follow(&mut wrong, std::iter::empty(), at(10));
        follow(&mut wrong, [matter("a")].into_iter(), at(11));
        assert_eq!(due(&mut wrong, at(20)), [matter("a")]);
        let many: Vec<Matter> = (0..100).map(|n| matter(&n.to_string())).collect();
        follow(&mut wrong, many.into_iter(), at(20));
        assert_eq!(due(&mut wrong, at(30)).len(), MOST);
    }
}
