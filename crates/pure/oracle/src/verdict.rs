//! The answer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_model::{NodeName, ObjectKey, Port};

/// What must happen to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives, at exactly one of these; each of them must be chosen by some of many
    /// connections. Never empty.
    Delivered(BTreeSet<Arrival>),
    /// The sender is told at once that it can't be (a reset, or an ICMP error).
    Refused(Refusal),
    /// It vanishes, and the sender waits.
    Dropped(Loss),
    /// No node has a rule or a route for it: what becomes of it is up to whoever stands
    /// at the end of the default route.
    NotRouted(NoRoute),
}

/// Where and how a packet arrives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arrival {
    /// Its destination when it arrives.
    pub address: IpAddr,
    /// Its destination port when it arrives.
    pub port: Port,
    /// Whose address that is.
    pub to: Receiver,
    /// Its source when it arrives.
    pub source_seen: SourceSeen,
}

/// Who receives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Receiver {
    /// A pod with a network of its own.
    Pod(ObjectKey),
    /// A node; its host-network pods too.
    Node(NodeName),
    /// A host beyond the cluster.
    Outside,
    /// An endpoint with an address of the cluster that nobody has, or that its node
    /// can't be reached for: the slice is older than the rest of the model. The
    /// connection fails, and Kubernetes does not say how.
    Nobody,
}

/// The source a receiver sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceSeen {
    /// The one it was sent with.
    Unchanged,
    /// This address of the node that translated, or sent it on: the sender's own, but for
    /// ports at other nodes and what comes from outside.
    NodeAddress(IpAddr),
}

/// Why a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The Service has no endpoint that takes connections.
    NoEndpoints,
    /// The address is a Service's, and the Service has no such port.
    NoSuchServicePort,
    /// The address is in a node's pod range, and no pod has it.
    UnusedPodAddress,
}

/// Why a packet vanishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The address is in a Service range, and no Service has it.
    UnallocatedServiceAddress,
    /// The Service has endpoints, but none on the node that translates, and its traffic
    /// policy allows no other.
    NoLocalEndpoints,
    /// `loadBalancerSourceRanges` does not have the source.
    SourceNotAdmitted,
    /// It would have to leave with an address of its node, which has none of its family.
    NoNodeAddress,
}

/// Why a packet is not the cluster's to route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// The sender is not in the model, has ended, or is on no node.
    NoSuchSender,
    /// The source is none of the sender's addresses.
    NotTheSenders,
    /// Source and destination are of different families.
    OtherFamily,
    /// Addresses that no router forwards to: multicast, broadcast, link-local,
    /// unspecified.
    NotForwarded,
    /// Pod and Service addresses mean nothing outside of the cluster.
    FromOutside,
    /// The sender's node has no address of the family, and so no route in it.
    SenderHasNoFamily,
    /// The destination's node has no address of the family, or its pod range does not
    /// hold the address.
    ReceiverHasNoRoute,
    /// In the cluster's pod range, and in no node's.
    NoNodesRange,
}
