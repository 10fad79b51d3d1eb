//! What must happen to one packet, straight from the model: the independent answer
//! that tests compare against.
//!
//! [`verdict`] knows Kubernetes' rules and nothing of how weft makes them true: it is
//! written from the documentation (Services, "Virtual IPs and service proxies",
//! "Cluster networking", KEP-1669 for terminating endpoints), shares no code with
//! `weft-compile`, and takes the slow, obvious way through the model. Where the two
//! differ, one of them is wrong.
//!
//! It answers for the first packet of a connection, with every node's programming in
//! step with the model. Whether a program listens at the end is not the network's
//! business: what is delivered may still be refused there.

mod direct;
mod endpoint;
mod flow;
mod service;
mod verdict;

use weft_model::Cluster;

pub use flow::{Flow, Last, Ranges, Sender};
pub use verdict::{Arrival, Loss, NoRoute, Receiver, Refusal, SourceSeen, Verdict};

/// What must happen to the first packet of `flow`, whose sender has not been here for long.
#[must_use]
pub fn verdict(cluster: &Cluster, ranges: &Ranges, flow: &Flow) -> Verdict {
    judge(cluster, ranges, flow, None)
}

/// What must happen to the first packet of `flow`, if the last connection of the same source
/// to the same place and by the same node had this end: with `sessionAffinity: ClientIP` and
/// within its time the same one again, if it may still be had.
#[must_use]
pub fn verdict_again(cluster: &Cluster, ranges: &Ranges, flow: &Flow, last: &Last) -> Verdict {
    judge(cluster, ranges, flow, Some(last))
}

fn judge(cluster: &Cluster, ranges: &Ranges, flow: &Flow, last: Option<&Last>) -> Verdict {
    let place = match flow::place(cluster, flow) {
        Ok(place) => place,
        Err(reason) => return Verdict::NotRouted(reason),
    };
    if flow.source.is_ipv4() != flow.destination.is_ipv4() {
        return Verdict::NotRouted(NoRoute::OtherFamily);
    }
    if flow.destination.is_loopback() {
        return direct::loopback(flow, &place);
    }
    if let Some(verdict) = service::verdict(cluster, ranges, flow, &place, last) {
        return verdict;
    }
    match direct::arrival(
        cluster,
        ranges,
        &place,
        flow.source,
        flow.destination,
        flow.port,
    ) {
        Ok(arrival) => Verdict::Delivered([arrival].into()),
        Err(verdict) => verdict,
    }
}
