//! What the table is made of: sets, chains and rules. All of them stand from the start;
//! a Service is only elements.
//!
//! A *frontend key* is `daddr . l4proto . th dport`. Its way, for the first packet of a
//! connection:
//!
//! ```text
//! -300 output               the agent's questions to clients pass conntrack by
//! -110 prerouting, output   key @restricted, and not key . saddr @sources   dropped
//!                           (counted by key @not-admitted)
//!                           key @refused            TCP reset, or ICMP port unreachable
//!                           key @dropped            dropped
//! -110 prerouting           key @dropped-outside, not from a pod            dropped
//! -100 prerouting           key @split, not from a pod                      goto local-pick
//! -100 prerouting, output   key @frontends          goto pick
//!      pick                 dnat saddr . key map @affinity
//!                           key @size-N             goto pick-N          (N: 1 to 8)
//!                           key @hash-…             goto pick-source, pick-five-tuple
//!                           key @size-large         jump pick-large      (N: 12 and up)
//!                           dnat key . 0            the choice that never fails
//!      pick-N               dnat key . random mod N, then key . 0
//!      pick-source …        dnat key . hash of the client mod 1021, then key . 0
//!  -95 prerouting, output   only where bytes are counted: translated, original
//!                           key @traffic-in, answers @traffic-out
//!  -90 output, 0 forward    key @dropped               dropped
//!                           daddr @service-addresses   refused: no such port
//!                           daddr @service-ranges      dropped: no such Service
//!  -10 postrouting, input   translated, original key . who answers @remembered,
//!                           original key @sticky-T     update @affinity timeout T
//!  100 postrouting          translated, saddr . daddr @hairpin                masquerade
//!                           translated, original key @masquerade-all          masquerade
//!                           the same @masquerade-node, from the node itself   masquerade
//!                           the same @masquerade-outside, not from a pod      masquerade
//!                           from a pod to outside the cluster, to no group    masquerade
//! ```
//!
//! What `nft` lists of it, `nft -f` takes: so what a connection was before translation is asked
//! once for each protocol, and a hash has no more of the client than fits behind a key in nft's
//! registers. nft 1.0.6 aborts on a rule that puts two addresses of IPv6 into a map, as
//! remembering clients does, however it is written.
//!
//! What the node sends itself is never from beyond the cluster: only what comes in through
//! a device is asked whether a pod sent it.
//!
//! Each family has a table of its own: concatenated keys have typed addresses, and the
//! rules need no test of the family. The number of rules is the same for any number of
//! Services; only a new affinity timeout adds some: one a protocol, as wherever it is asked what
//! a connection was before translation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_desired::LocalDetection;
use weft_sys::nft::{Chain, Rule, Set};

use super::ip_family::IpFamily;
use super::rules;
use super::set::SetId;

/// What a table is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) sets: BTreeMap<String, Set>,
    pub(super) chains: BTreeMap<String, Chain>,
    /// By chain, in their order.
    pub(super) rules: BTreeMap<String, Vec<Rule>>,
}

/// What a layout depends on besides the family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) pods: PodMatch,
    /// For how many seconds clients are remembered, where they are.
    pub(super) timeouts: BTreeSet<u32>,
    /// Whether all of a translated connection's packets are counted.
    pub(super) traffic: bool,
}

/// How a packet from a pod is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum PodMatch {
    /// Its source is in the set.
    #[default]
    Source,
    /// It came in through this device.
    Device(Arc<str>),
    /// It came in through a device whose name starts so.
    DevicePrefix(Arc<str>),
    /// It is not told.
    Nothing,
}

impl From<&LocalDetection> for PodMatch {
    fn from(detection: &LocalDetection) -> Self {
        match detection {
            LocalDetection::Ranges(_) => PodMatch::Source,
            LocalDetection::Bridge(device) => PodMatch::Device(device.clone()),
            LocalDetection::InterfacePrefix(start) => PodMatch::DevicePrefix(start.clone()),
            LocalDetection::Nothing => PodMatch::Nothing,
        }
    }
}

impl Layout {
    /// The layout of a family's table.
    pub(super) fn of(family: IpFamily, shape: &Shape) -> Self {
        let sets = SetId::all(&shape.timeouts, shape.traffic)
            .into_iter()
            .map(|set| set.definition(family))
            .map(|set| (set.name.clone(), set))
            .collect();
        let (chains, rules) = rules::write(family, shape);
        Self {
            sets,
            chains,
            rules,
        }
    }

    /// What differs in `found`, in words; `None` if nothing does.
    pub(super) fn difference(&self, found: &Layout) -> Option<String> {
        fn part<V: PartialEq>(
            what: &str,
            ours: &BTreeMap<String, V>,
            found: &BTreeMap<String, V>,
        ) -> Option<String> {
            let missing = ours.keys().find(|name| !found.contains_key(*name));
            let foreign = found.keys().find(|name| !ours.contains_key(*name));
            let changed = ours
                .iter()
                .find(|(name, value)| found.get(*name) != Some(*value));
            match (missing, foreign, changed) {
                (Some(name), _, _) => Some(format!("{what} {name} is missing")),
                (None, Some(name), _) => Some(format!("{what} {name} is not of this layout")),
                (None, None, Some((name, _))) => Some(format!("{what} {name} differs")),
                (None, None, None) => None,
            }
        }
        part("set", &self.sets, &found.sets)
            .or_else(|| part("chain", &self.chains, &found.chains))
            .or_else(|| part("the rules of chain", &self.rules, &found.rules))
    }
}
