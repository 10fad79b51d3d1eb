//! All nodes of a cluster and the parts of its pod ranges that they have.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use thiserror::Error;

use super::{Given, Masks};

/// What parts are cut from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    ranges: Vec<IpNet>,
    masks: Masks,
    reserved: Vec<IpNet>,
}

/// Settings that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// Nothing to give.
    #[error("no pod range is given; give at least one, such as 10.244.0.0/16")]
    NoRange,
    /// An address where a range should stand.
    #[error("{range} has bits set behind its prefix; the range is {}", range.trunc())]
    HostBits {
        /// As given.
        range: IpNet,
    },
    /// Two ranges of one family: a node gets one of each.
    #[error("{first} and {second} are of one family; give one IPv4 and one IPv6 range at most")]
    TwoOfAFamily {
        /// One.
        first: IpNet,
        /// The other.
        second: IpNet,
    },
    /// More masks than ranges.
    #[error("{masks} node masks for {ranges} pod ranges; give one for each range, in their order")]
    TooManyMasks {
        /// Masks.
        masks: usize,
        /// Ranges.
        ranges: usize,
    },
    /// A part that is larger than the range, or has no room for a pod.
    #[error(
        "node mask {mask}: a node's part of {range} is from /{} to /{longest} long",
        range.prefix_len()
    )]
    Mask {
        /// As given.
        mask: u8,
        /// Of which range.
        range: IpNet,
        /// The longest prefix.
        longest: u8,
    },
}

impl Settings {
    /// Parts of these ranges, with prefixes of these lengths: the first mask is the first
    /// range's, and ranges without one get Kubernetes' default. What is reserved nobody gets,
    /// though a range may contain it.
    ///
    /// # Errors
    /// Each says what to change.
    pub fn new(
        ranges: Vec<IpNet>,
        masks: &[u8],
        reserved: Vec<IpNet>,
    ) -> Result<Self, SettingsError> {
        if ranges.is_empty() {
            return Err(SettingsError::NoRange);
        }
        if masks.len() > ranges.len() {
            let (masks, ranges) = (masks.len(), ranges.len());
            return Err(SettingsError::TooManyMasks { masks, ranges });
        }
        let mut all = Masks::default();
        for (index, range) in ranges.iter().copied().enumerate() {
            if range.trunc() != range {
                return Err(SettingsError::HostBits { range });
            }
            let mut before = ranges[..index].iter();
            if let Some(first) = before.find(|it| is_like(it, &range)) {
                let first = *first;
                return Err(SettingsError::TwoOfAFamily {
                    first,
                    second: range,
                });
            }
            if let Some(mask) = masks.get(index).copied() {
                // In longer ones no address is left beside the first and the last.
                let longest = range.max_prefix_len() - 2;
                if mask < range.prefix_len() || mask > longest {
                    return Err(SettingsError::Mask {
                        mask,
                        range,
                        longest,
                    });
                }
                match range {
                    IpNet::V4(_) => all.v4 = mask,
                    IpNet::V6(_) => all.v6 = mask,
                }
            }
        }
        Ok(Self {
            ranges,
            masks: all,
            reserved,
        })
    }
}

fn is_like(a: &IpNet, b: &IpNet) -> bool {
    a.addr().is_ipv4() == b.addr().is_ipv4()
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Something about a node's ranges that a person should know: they stay as they are, because
/// pods have addresses of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Fault {
    /// It was given by somebody else, or before the ranges were changed.
    #[error("{range} is in none of the cluster's pod ranges")]
    Outside {
        /// The node's.
        range: IpNet,
    },
    /// Two nodes have the same addresses.
    #[error("{range} overlaps {other} of Node {holder}")]
    Overlap {
        /// The node's.
        range: IpNet,
        /// The other node's.
        other: IpNet,
        /// The other node.
        holder: String,
    },
    /// It overlaps what nobody should have.
    #[error("{range} overlaps {reserved}, which is no pods'")]
    Reserved {
        /// The node's.
        range: IpNet,
        /// What it overlaps.
        reserved: IpNet,
    },
    /// The node joined when the cluster had fewer families.
    #[error("has none of {range}; ranges once given are never changed, so join the Node anew")]
    Lacks {
        /// The cluster's.
        range: IpNet,
    },
    /// Nothing is left.
    #[error("{range} has no part left for this Node")]
    Exhausted {
        /// The cluster's.
        range: IpNet,
    },
}

/// What every node has.
#[derive(Clone, Debug)]
pub struct NodeRanges {
    settings: Settings,
    held: BTreeMap<String, Vec<IpNet>>,
    given: Given,
}

impl NodeRanges {
    /// Of a cluster without nodes.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            held: BTreeMap::new(),
            given: Given::default(),
        }
    }

    /// The node exists and has these, or none.
    pub fn observe(&mut self, node: &str, ranges: Vec<IpNet>) {
        if !ranges.is_empty() {
            self.given.take_back(node);
        }
        self.held.insert(node.to_owned(), ranges);
    }

    /// The node is gone: what it had is free.
    pub fn remove(&mut self, node: &str) {
        self.held.remove(node);
        self.given.take_back(node);
    }

    /// The nodes that have none.
    pub fn without(&self) -> impl Iterator<Item = &str> {
        let without = self.held.iter().filter(|(_, ranges)| ranges.is_empty());
        without.map(|(node, _)| node.as_str())
    }

    /// What the node has, or else is to have: of each range the first part that is free. It is
    /// the node's from now on, until it is gone or has others.
    ///
    /// # Errors
    /// [`Fault::Exhausted`]; the node gets none then, of no range.
    pub fn give(&mut self, node: &str) -> Result<Vec<IpNet>, Fault> {
        if let Some(held) = self.held.get(node).filter(|ranges| !ranges.is_empty()) {
            return Ok(held.clone());
        }
        let Settings {
            ranges,
            masks,
            reserved,
        } = &self.settings;
        let held = self.held.values().flatten();
        let taken = reserved.iter().chain(held).copied().collect();
        let given = self.given.give(node, ranges, *masks, &[], taken);
        given.map_err(|range| Fault::Exhausted { range })
    }

    /// What as many of these nodes are to have as there is room for in `most`, and who gets
    /// nothing. What one can't have no other can: the rest is not looked through again.
    pub fn give_some<'a>(
        &mut self,
        nodes: impl IntoIterator<Item = &'a str>,
        most: usize,
    ) -> (BTreeMap<String, Vec<IpNet>>, BTreeMap<String, Fault>) {
        let mut given = BTreeMap::new();
        let mut refused = BTreeMap::new();
        let mut exhausted: Option<Fault> = None;
        for node in nodes {
            if given.len() == most {
                break;
            }
            // What it was given before, and does not have yet, is still its own.
            let outcome = match &exhausted {
                Some(fault) if !self.given.contains(node) => Err(fault.clone()),
                Some(_) | None => self.give(node),
            };
            match outcome {
                Ok(ranges) => {
                    given.insert(node.to_owned(), ranges);
                }
                Err(fault) => {
                    refused.insert(node.to_owned(), fault.clone());
                    exhausted = Some(fault);
                }
            }
        }
        (given, refused)
    }

    /// What is wrong with the ranges that nodes have, by node.
    pub fn faults(&self) -> BTreeMap<String, BTreeSet<Fault>> {
        let mut faults: BTreeMap<String, BTreeSet<Fault>> = BTreeMap::new();
        let mut found = |node: &str, fault| {
            faults.entry(node.to_owned()).or_default().insert(fault);
        };
        let Settings {
            ranges, reserved, ..
        } = &self.settings;
        let mut all: Vec<(IpNet, &str)> = Vec::new();
        for (node, held) in self.held.iter().filter(|(_, held)| !held.is_empty()) {
            for range in held {
                all.push((range.trunc(), node));
                if !ranges.iter().any(|cluster| cluster.contains(range)) {
                    found(node, Fault::Outside { range: *range });
                }
                if let Some(taken) = reserved.iter().find(|it| overlaps(it, range)) {
                    let (range, reserved) = (*range, *taken);
                    found(node, Fault::Reserved { range, reserved });
                }
            }
            for range in ranges {
                if !held.iter().any(|held| is_like(held, range)) {
                    found(node, Fault::Lacks { range: *range });
                }
            }
        }
        // In order, one that contains others comes before them: each is compared with those
        // around it.
        all.sort();
        let mut around: Vec<(IpNet, &str)> = Vec::new();
        for (range, node) in all {
            while around
                .pop_if(|(outer, _)| !outer.contains(&range))
                .is_some()
            {}
            if let Some((other, holder)) = around.last().copied().filter(|it| it.1 != node) {
                let overlap = |range, other, holder: &str| Fault::Overlap {
                    range,
                    other,
                    holder: holder.to_owned(),
                };
                found(node, overlap(range, other, holder));
                found(holder, overlap(other, range, node));
            }
            around.push((range, node));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn settings(ranges: &[&str], masks: &[u8], reserved: &[&str]) -> Settings {
        let nets = |texts: &[&str]| texts.iter().copied().map(net).collect();
        Settings::new(nets(ranges), masks, nets(reserved)).unwrap()
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let error = |ranges: &[&str], masks: &[u8]| {
            let ranges = ranges.iter().copied().map(net).collect();
            Settings::new(ranges, masks, Vec::new())
                .unwrap_err()
                .to_string()
        };
        assert!(error(&[], &[]).starts_with("no pod range"));
        assert!(error(&["10.0.0.1/16"], &[]).contains("the range is 10.0.0.0/16"));
        assert!(error(&["10.0.0.0/16", "10.1.0.0/16"], &[]).contains("of one family"));
        assert!(error(&["10.0.0.0/16"], &[24, 64]).starts_with("2 node masks for 1"));
        assert!(error(&["10.0.0.0/16"], &[15]).contains("from /16 to /30"));
        assert!(error(&["10.0.0.0/16", "fd00::/48"], &[24, 127]).contains("from /48 to /126"));
    }

    #[test]
    fn what_others_have_is_kept_and_what_is_odd_is_named() {
        let ranges = ["10.244.0.0/22", "fd00:10:244::/56"];
        let settings = settings(&ranges, &[24, 64], &["10.244.1.0/28"]);
        let mut nodes = NodeRanges::new(settings);
        nodes.observe("a", vec![net("10.244.0.0/24"), net("fd00:10:244::/64")]);
        nodes.observe("b", vec![net("192.168.7.0/24"), net("fd00:10:244::/63")]);
        nodes.observe("c", vec![net("10.244.2.0/25")]);
        nodes.observe("d", Vec::new());
        assert_eq!(nodes.without().collect::<Vec<_>>(), ["d"]);
        let given = nodes.give("d").unwrap();
        assert_eq!(given, [net("10.244.3.0/24"), net("fd00:10:244:2::/64")]);
        let a = nodes.give("a").unwrap();
        assert_eq!(a, [net("10.244.0.0/24"), net("fd00:10:244::/64")]);
        nodes.observe("e", Vec::new());
        let range = net(ranges[0]);
        assert_eq!(nodes.give("e"), Err(Fault::Exhausted { range }));

        let said: Vec<String> = nodes
            .faults()
            .into_iter()
            .flat_map(|(node, faults)| faults.into_iter().map(move |it| format!("{node}: {it}")))
            .collect();
        assert_eq!(
            said,
            [
                "a: fd00:10:244::/64 overlaps fd00:10:244::/63 of Node b",
                "b: 192.168.7.0/24 is in none of the cluster's pod ranges",
                "b: fd00:10:244::/63 overlaps fd00:10:244::/64 of Node a",
                "c: has none of fd00:10:244::/56; ranges once given are never changed, so join \
                 the Node anew",
            ]
        );
        // The first is gone, and its part is the next one's; nobody gets what b has.
        nodes.remove("a");
        let given = nodes.give("e").unwrap();
        assert_eq!(given, [net("10.244.0.0/24"), net("fd00:10:244:3::/64")]);
        nodes.observe("f", vec![net("10.244.1.0/24"), net("fd00:10:244:9::/64")]);
        let faults = nodes.faults();
        let reserved = faults["f"].iter().next().unwrap().to_string();
        assert!(reserved.ends_with("which is no pods'"), "{reserved}");
    }

    #[test]
    fn many_ask_at_once_and_what_is_left_is_given_to_the_first_and_to_whom_it_was_promised() {
        let mut nodes = NodeRanges::new(settings(&["10.244.0.0/22"], &[24], &[]));
        let names = ["a", "b", "c", "d", "e", "f", "z"];
        for name in names {
            nodes.observe(name, Vec::new());
        }
        // Its write failed.
        assert_eq!(nodes.give("z").unwrap(), [net("10.244.0.0/24")]);
        let (given, refused) = nodes.give_some(names, 2);
        assert_eq!(given["a"], [net("10.244.1.0/24")]);
        assert_eq!(given["b"], [net("10.244.2.0/24")]);
        assert_eq!((given.len(), refused.len()), (2, 0));
        let (given, refused) = nodes.give_some(names, 64);
        assert_eq!(given.keys().collect::<Vec<_>>(), ["a", "b", "c", "z"]);
        assert_eq!(given["z"], [net("10.244.0.0/24")]);
        let range = net("10.244.0.0/22");
        let exhausted = Fault::Exhausted { range };
        let expected = ["d", "e", "f"].map(|node| (node.to_owned(), exhausted.clone()));
        assert_eq!(refused, expected.into());
    }

    #[test]
    fn what_somebody_else_was_faster_to_give_is_not_kept_twice() {
        let mut nodes = NodeRanges::new(settings(&["10.244.0.0/23"], &[24], &[]));
        nodes.observe("a", Vec::new());
        assert_eq!(nodes.give("a").unwrap(), [net("10.244.0.0/24")]);
        nodes.observe("a", vec![net("10.244.1.0/24")]);
        nodes.observe("b", Vec::new());
        assert_eq!(nodes.give("b").unwrap(), [net("10.244.0.0/24")]);
    }

    /// What happens to a cluster.
    #[derive(Clone, Debug)]
    enum Step {
        Joins(u8),
        Leaves(u8),
        /// It asks, and the write's outcome is told by the watch, or not yet.
        Asks(u8, bool),
        /// Somebody else gives it one.
        Brings(u8, u8),
        /// This controller ends, and another begins with a list.
        Anew,
    }

    fn step() -> impl Strategy<Value = Step> {
        let node = || 0..20u8;
        prop_oneof![
            3 => node().prop_map(Step::Joins),
            2 => node().prop_map(Step::Leaves),
            6 => (node(), any::<bool>()).prop_map(|(node, told)| Step::Asks(node, told)),
            1 => (node(), 0..16u8).prop_map(|(node, part)| Step::Brings(node, part)),
            1 => Just(Step::Anew),
        ]
    }

    proptest! {
        /// The API's objects are the truth that the test keeps itself: a range once written never
        /// changes, what is written overlaps no other node's, and a node is refused only when no
        /// part is free.
        #[test]
        fn no_two_nodes_ever_get_what_overlaps(steps in proptest::collection::vec(step(), 1..200)) {
            let cluster = net("10.244.0.0/20");
            let settings = settings(&["10.244.0.0/20"], &[24], &[]);
            let mut nodes = NodeRanges::new(settings.clone());
            let mut api: BTreeMap<String, Option<IpNet>> = BTreeMap::new();
            // What was written, and the watch does not tell yet.
            let mut untold: BTreeSet<String> = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Joins(node) => {
                        let name = format!("n{node}");
                        if !api.contains_key(&name) {
                            api.insert(name.clone(), None);
                            nodes.observe(&name, Vec::new());
                        }
                    }
                    Step::Leaves(node) => {
                        let name = format!("n{node}");
                        api.remove(&name);
                        untold.remove(&name);
                        nodes.remove(&name);
                    }
                    Step::Asks(node, told) => {
                        let name = format!("n{node}");
                        let Some(has) = api.get(&name).copied() else { continue };
                        match nodes.give(&name) {
                            Ok(given) => {
                                if let Some(has) = has {
                                    prop_assert_eq!(&given, &[has]);
                                    continue;
                                }
                                prop_assert_eq!(given.len(), 1);
                                prop_assert!(cluster.contains(&given[0]));
                                for (other, range) in &api {
                                    let clash = range.is_some_and(|it| overlaps(&it, &given[0]));
                                    prop_assert!(!clash, "{} and {}: {}", name, other, given[0]);
                                }
                                api.insert(name.clone(), Some(given[0]));
                                if told {
                                    nodes.observe(&name, given);
                                } else {
                                    untold.insert(name);
                                }
                            }
                            Err(_) => {
                                let IpNet::V4(within) = cluster else { unreachable!() };
                                let mut parts = within.subnets(24).unwrap().map(IpNet::V4);
                                let taken = |part: &IpNet| {
                                    api.values().flatten().any(|it| overlaps(it, part))
                                };
                                prop_assert!(parts.all(|part| taken(&part)));
                            }
                        }
                    }
                    Step::Brings(node, part) => {
                        let name = format!("n{node}");
                        let part = net(&format!("10.244.{part}.0/24"));
                        let free = !api.values().flatten().any(|it| overlaps(it, &part));
                        if free && api.get(&name) == Some(&None) {
                            api.insert(name.clone(), Some(part));
                            nodes.observe(&name, vec![part]);
                        }
                    }
                    Step::Anew => {
                        nodes = NodeRanges::new(settings.clone());
                        untold.clear();
                        for (name, range) in &api {
                            nodes.observe(name, range.iter().copied().collect());
                        }
                    }
                }
            }
            for name in untold {
                nodes.observe(&name, api[&name].iter().copied().collect());
            }
            prop_assert_eq!(nodes.faults(), BTreeMap::new());
        }
    }
}
