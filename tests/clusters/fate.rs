//! What may become of a packet on its way through a node's rules.

use std::collections::BTreeSet;

use weft_desired::Backend;
use weft_oracle::{Flow, Loss, Refusal, Sender, SourceSeen, Verdict};

use super::{HERE, node_name};

/// What may become of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// It goes on, to where it was sent or to an endpoint.
    Passed {
        endpoint: Option<Backend>,
        masqueraded: bool,
    },
    /// The sender is told.
    Rejected,
    Dropped,
}

impl Fate {
    /// Where it goes instead of where it was sent.
    pub(crate) fn endpoint(&self) -> Option<Backend> {
        match self {
            Fate::Passed { endpoint, .. } => *endpoint,
            Fate::Rejected | Fate::Dropped => None,
        }
    }
}

/// What rules make of a port that a Service's address has not, and of addresses for Services
/// that none has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// They leave it to the routes, as kube-proxy's do.
    LeftAlone,
    /// The one is refused, the other dropped.
    Stopped,
}

/// What the oracle's verdict lets rules do.
pub(crate) fn expected(verdict: &Verdict, flow: &Flow, rest: Rest) -> BTreeSet<Fate> {
    let stopped = |fate| match rest {
        Rest::Stopped => BTreeSet::from([fate]),
        Rest::LeftAlone => BTreeSet::from([Fate::Passed {
            endpoint: None,
            masqueraded: false,
        }]),
    };
    match verdict {
        Verdict::Delivered(arrivals) => {
            let fates = arrivals.iter().map(|arrival| {
                let goes_on = (arrival.address, arrival.port) == (flow.destination, flow.port);
                let endpoint = Backend {
                    address: arrival.address,
                    port: arrival.port.number(),
                };
                Fate::Passed {
                    endpoint: (!goes_on).then_some(endpoint),
                    masqueraded: arrival.source_seen != SourceSeen::Unchanged,
                }
            });
            seen(fates, flow)
        }
        Verdict::Refused(Refusal::NoEndpoints) => BTreeSet::from([Fate::Rejected]),
        Verdict::Dropped(Loss::NoLocalEndpoints | Loss::SourceNotAdmitted) => {
            BTreeSet::from([Fate::Dropped])
        }
        Verdict::Refused(Refusal::NoSuchServicePort) => stopped(Fate::Rejected),
        Verdict::Dropped(Loss::UnallocatedServiceAddress) => stopped(Fate::Dropped),
        // What no Service has any more at an external address goes on as it came.
        Verdict::NotRouted(_) => BTreeSet::from([Fate::Passed {
            endpoint: None,
            masqueraded: false,
        }]),
        Verdict::Refused(Refusal::UnusedPodAddress) | Verdict::Dropped(Loss::NoNodeAddress) => {
            unreachable!("no flow here has the verdict {verdict:?}")
        }
    }
}

/// Fates as far as Services make a difference: what the node sends has its address already,
/// masqueraded or not, and how pods are seen beyond the cluster is somebody else's affair.
pub(crate) fn seen(fates: impl IntoIterator<Item = Fate>, flow: &Flow) -> BTreeSet<Fate> {
    let is_own = flow.from == Sender::Node(node_name(HERE));
    let fates = fates.into_iter().map(|fate| match fate {
        Fate::Passed {
            endpoint,
            masqueraded,
        } => Fate::Passed {
            endpoint,
            masqueraded: endpoint.is_some() && (masqueraded || is_own),
        },
        Fate::Rejected | Fate::Dropped => fate,
    });
    fates.collect()
}
