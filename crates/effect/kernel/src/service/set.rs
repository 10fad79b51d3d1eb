//! The table's sets.

use std::borrow::Cow;
use std::collections::BTreeSet;

use weft_desired::{HASH_SLOTS, HashOf, SizeClass};
use weft_sys::nft::{DataType, Set, SetFlags};

use super::ip_family::IpFamily;

/// For whom a frontend's endpoints are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Scope {
    /// Everybody.
    All,
    /// Clients beyond the cluster of a frontend that gives them this node's only.
    Local,
}

impl Scope {
    pub(super) const BOTH: [Scope; 2] = [Scope::All, Scope::Local];

    /// The size classes of its frontends. Of endpoints on one node there are never
    /// thousands (the kubelet's default is at most 110 pods), and the rules for them would
    /// not fit into one transaction of an unprivileged socket.
    pub(super) fn classes(self) -> impl Iterator<Item = SizeClass> {
        SizeClass::all().filter(move |class| match self {
            Scope::All => true,
            Scope::Local => class.slots <= MOST_LOCAL,
        })
    }

    /// How many endpoints a frontend has at most; others get no connections.
    pub(super) fn most_backends(self) -> usize {
        let largest = self.classes().last();
        largest.map_or(0, |class| class.slots as usize)
    }

    /// What names of sets and chains start with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Scope::All => "",
            Scope::Local => "local-",
        }
    }
}

/// A direction of a Service's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Way {
    /// From clients to endpoints.
    In,
    /// Answers.
    Out,
}

impl Way {
    pub(super) const BOTH: [Way; 2] = [Way::In, Way::Out];
}

/// The sets, in the order in which elements of a frontend are added; they are removed in
/// the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum SetId {
    /// Pod ranges of the cluster.
    Pods,
    /// Ranges whose sources are taken for pods of the cluster.
    PodSources,
    /// Addresses of the cluster's nodes.
    Nodes,
    /// This node's own addresses.
    Own,
    /// This node's own pods, each with itself.
    Hairpin,
    /// Addresses that are a Service's alone.
    ServiceAddresses,
    /// The ranges Service addresses are taken from.
    ServiceRanges,
    /// Frontend key and slot to an endpoint's address and port.
    Endpoints(Scope),
    /// Frontends with affinity, each with its endpoints: what may be remembered.
    Remembered,
    /// Frontends with affinity of so many seconds.
    Sticky(u32),
    /// Source and frontend key to the endpoint it had. The kernel's own, filled by rules.
    Affinity,
    /// Frontends whose clients that are no pods are masqueraded.
    MasqueradeOutside,
    /// Frontends whose clients are masqueraded.
    MasqueradeAll,
    /// Frontends whose clients on this node are masqueraded.
    MasqueradeNode,
    /// Frontends with the sources they admit.
    Sources,
    /// Frontends that admit some sources only.
    Restricted,
    /// Frontends of one size class, by its number of slots.
    Size(Scope, u32),
    /// Frontends of a size class that is not exact.
    Large(Scope),
    /// Frontends whose slots are chosen by a hash.
    Hashed(Scope, HashOf),
    /// Frontends that give clients beyond the cluster other endpoints.
    Split,
    /// Frontends that admit some sources only; each element counts what came from others.
    NotAdmitted,
    /// All frontends; each element counts its connections. Those without endpoints too: what
    /// was counted stays when the last endpoint goes and another comes.
    Frontends,
    /// All frontends, where bytes are counted: each element counts packets in this direction.
    Traffic(Way),
    /// Frontends without, whose clients are told.
    Refused,
    /// Frontends without, whose clients are told nothing.
    Dropped,
    /// Frontends without any for clients beyond the cluster, who are told nothing.
    DroppedOutside,
}

/// Whose elements a set has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Of frontends.
    Frontends,
    /// Of what the node's address translation knows besides.
    Node,
    /// Of frontends' addresses.
    Addresses,
    /// Of nobody: rules fill it.
    Kernel,
}

impl SetId {
    /// The sets of a table that remembers clients for these times, and counts bytes or does
    /// not.
    pub(super) fn all(timeouts: &BTreeSet<u32>, traffic: bool) -> Vec<SetId> {
        let sizes = |scope: Scope| scope.classes().map(move |it| SetId::Size(scope, it.slots));
        let mut all = vec![
            SetId::Pods,
            SetId::PodSources,
            SetId::Nodes,
            SetId::Own,
            SetId::Hairpin,
            SetId::ServiceAddresses,
            SetId::ServiceRanges,
            SetId::Remembered,
            SetId::Affinity,
            SetId::MasqueradeOutside,
            SetId::MasqueradeAll,
            SetId::MasqueradeNode,
            SetId::Sources,
            SetId::Restricted,
            SetId::NotAdmitted,
            SetId::Split,
            SetId::Frontends,
            SetId::Refused,
            SetId::Dropped,
            SetId::DroppedOutside,
        ];
        for scope in Scope::BOTH {
            all.extend([SetId::Endpoints(scope), SetId::Large(scope)]);
            all.extend(sizes(scope));
            all.extend(HashOf::ALL.map(|hash| SetId::Hashed(scope, hash)));
        }
        all.extend(timeouts.iter().copied().map(SetId::Sticky));
        if traffic {
            all.extend(Way::BOTH.map(SetId::Traffic));
        }
        all
    }

    /// The set's name in the table.
    pub(super) fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            SetId::Pods => "pod-ranges",
            SetId::PodSources => "pod-sources",
            SetId::Nodes => "node-addresses",
            SetId::Own => "own-addresses",
            SetId::Hairpin => "hairpin",
            SetId::ServiceAddresses => "service-addresses",
            SetId::ServiceRanges => "service-ranges",
            SetId::Endpoints(Scope::All) => "endpoints",
            SetId::Endpoints(Scope::Local) => "local-endpoints",
            SetId::Remembered => "remembered",
            SetId::Sticky(seconds) => return Cow::Owned(format!("{STICKY}{seconds}")),
            SetId::Affinity => "affinity",
            SetId::MasqueradeOutside => "masquerade-outside",
            SetId::MasqueradeAll => "masquerade-all",
            SetId::MasqueradeNode => "masquerade-node",
            SetId::Sources => "sources",
            SetId::Restricted => "restricted",
            SetId::Size(scope, slots) => {
                return Cow::Owned(format!("{}size-{slots}", scope.prefix()));
            }
            SetId::Hashed(Scope::All, HashOf::Source) => "hash-source",
            SetId::Hashed(Scope::All, HashOf::FiveTuple) => "hash-five-tuple",
            SetId::Hashed(Scope::Local, HashOf::Source) => "local-hash-source",
            SetId::Hashed(Scope::Local, HashOf::FiveTuple) => "local-hash-five-tuple",
            SetId::Large(Scope::All) => "size-large",
            SetId::Large(Scope::Local) => "local-size-large",
            SetId::Split => "split",
            SetId::NotAdmitted => "not-admitted",
            SetId::Frontends => "frontends",
            SetId::Traffic(Way::In) => "traffic-in",
            SetId::Traffic(Way::Out) => "traffic-out",
            SetId::Refused => "refused",
            SetId::Dropped => "dropped",
            SetId::DroppedOutside => "dropped-outside",
        })
    }

    /// The seconds for which a set of this name says that clients are remembered.
    pub(super) fn timeout_of(name: &str) -> Option<u32> {
        name.strip_prefix(STICKY)?.parse().ok()
    }

    /// How many slots a frontend has that is in this set, and of which scope.
    pub(super) fn room(self) -> Option<(Scope, u32)> {
        if let SetId::Size(scope, slots) = self {
            return Some((scope, slots));
        }
        let SetId::Hashed(scope, _) = self else {
            return None;
        };
        Some((scope, HASH_SLOTS))
    }

    pub(super) fn content(self) -> Content {
        match self {
            SetId::Pods
            | SetId::PodSources
            | SetId::Nodes
            | SetId::Own
            | SetId::Hairpin
            | SetId::ServiceRanges => Content::Node,
            SetId::ServiceAddresses => Content::Addresses,
            SetId::Affinity => Content::Kernel,
            SetId::Endpoints(_)
            | SetId::Remembered
            | SetId::Sticky(_)
            | SetId::MasqueradeOutside
            | SetId::MasqueradeAll
            | SetId::MasqueradeNode
            | SetId::Sources
            | SetId::Restricted
            | SetId::Size(..)
            | SetId::Large(_)
            | SetId::Hashed(..)
            | SetId::Split
            | SetId::NotAdmitted
            | SetId::Frontends
            | SetId::Traffic(_)
            | SetId::Refused
            | SetId::Dropped
            | SetId::DroppedOutside => Content::Frontends,
        }
    }

    /// Whether its elements are ranges with a start and an end of their own.
    pub(super) fn is_ranges(self) -> bool {
        matches!(self, SetId::Pods | SetId::PodSources | SetId::ServiceRanges)
    }

    /// Whether its elements are ranges in one part of their key.
    pub(super) fn has_key_ends(self) -> bool {
        self == SetId::Sources
    }

    /// Whether each element counts the packets that found it. Only sets that are looked up
    /// once for a packet do.
    pub(super) fn counts(self) -> bool {
        matches!(
            self,
            SetId::NotAdmitted
                | SetId::Frontends
                | SetId::Traffic(_)
                | SetId::Refused
                | SetId::Dropped
                | SetId::DroppedOutside
        )
    }

    pub(super) fn definition(self, family: IpFamily) -> Set {
        let address = family.address_type();
        let frontend = || vec![address, DataType::Protocol, DataType::Port];
        let endpoint = || vec![address, DataType::Port];
        let (key, data) = match self {
            SetId::Pods
            | SetId::PodSources
            | SetId::Nodes
            | SetId::Own
            | SetId::ServiceAddresses
            | SetId::ServiceRanges => (vec![address], Vec::new()),
            SetId::Hairpin => (vec![address, address], Vec::new()),
            SetId::Endpoints(_) => ([frontend(), vec![DataType::Number]].concat(), endpoint()),
            SetId::Remembered => ([frontend(), endpoint()].concat(), Vec::new()),
            SetId::Affinity => ([vec![address], frontend()].concat(), endpoint()),
            SetId::Sources => ([frontend(), vec![address]].concat(), Vec::new()),
            SetId::Sticky(_)
            | SetId::MasqueradeOutside
            | SetId::MasqueradeAll
            | SetId::MasqueradeNode
            | SetId::Restricted
            | SetId::Size(..)
            | SetId::Large(_)
            | SetId::Hashed(..)
            | SetId::Split
            | SetId::NotAdmitted
            | SetId::Frontends
            | SetId::Traffic(_)
            | SetId::Refused
            | SetId::Dropped
            | SetId::DroppedOutside => (frontend(), Vec::new()),
        };
        let filled_by_rules = self.content() == Content::Kernel;
        Set {
            name: self.name().into_owned(),
            key,
            data,
            flags: SetFlags {
                interval: self.is_ranges() || self.has_key_ends(),
                timeout: filled_by_rules,
                dynamic: filled_by_rules,
            },
            timeout: None,
            counter: self.counts(),
            comment: None,
        }
    }
}

/// The largest size class of [`Scope::Local`].
const MOST_LOCAL: u32 = 454;

/// What the names of sets of frontends with affinity start with.
const STICKY: &str = "sticky-";
