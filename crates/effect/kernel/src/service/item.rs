//! Frontends and addresses as elements of sets, and back.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use weft_desired::{
    Backend, Difference, FrontendKey, NodeNat, Otherwise, Protocol, SizeClass, difference,
};
use weft_sys::nft;

use super::layout::{IpFamily, SetId};

/// A key or a map's data: at most two IPv6 addresses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bytes {
    length: u8,
    bytes: [u8; 32],
}

impl Bytes {
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        let mut value = Self::default();
        value.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        value.length = bytes.len() as u8;
        Some(value)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Appends a part, filled up to a word. Parts are chosen so that they fit.
    fn push(&mut self, part: &[u8]) {
        let start = usize::from(self.length);
        self.bytes[start..start + part.len()].copy_from_slice(part);
        self.length = (start + part.len()).next_multiple_of(4) as u8;
    }

    fn push_address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.push(&address.octets()),
            IpAddr::V6(address) => self.push(&address.octets()),
        }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Bytes {}

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bytes {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

/// Which element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ItemKey {
    pub(super) set: SetId,
    pub(super) key: Bytes,
}

/// What an element holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ItemValue {
    /// A map's data. For a set of ranges: the first key behind the range, or nothing if
    /// the range goes up to the last key.
    pub(super) data: Bytes,
    /// Who it is there for.
    pub(super) comment: Option<Arc<str>>,
}

/// Elements.
pub(super) type Items = BTreeMap<ItemKey, ItemValue>;

/// One step between two states of elements.
#[derive(Clone, Debug)]
pub(super) enum Step<'a> {
    Add(&'a ItemKey, &'a ItemValue),
    Replace(&'a ItemKey, &'a ItemValue, &'a ItemValue),
    Remove(&'a ItemKey, &'a ItemValue),
}

/// The steps from one state to another: what is added, set by set, then what is removed,
/// in the reverse order of sets. Ranges are removed before others are added: the kernel
/// takes none that overlaps one that is there.
pub(super) fn steps<'a>(old: &'a Items, new: &'a Items) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    let mut additions = Vec::new();
    let mut removals = Vec::new();
    for difference in difference(old, new, |old, new| old == new) {
        match difference {
            Difference::Add(key, value) => additions.push(Step::Add(key, value)),
            Difference::Change(key, old, new) if key.set.is_ranges() => {
                steps.push(Step::Remove(key, old));
                additions.push(Step::Add(key, new));
            }
            Difference::Change(key, old, new) => additions.push(Step::Replace(key, old, new)),
            Difference::Remove(key, value) if key.set.is_ranges() => {
                steps.push(Step::Remove(key, value));
            }
            Difference::Remove(key, value) => removals.push(Step::Remove(key, value)),
        }
    }
    steps.extend(additions);
    steps.extend(removals.into_iter().rev());
    steps
}

/// A frontend as it stands in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Installed {
    /// `namespace/name:port`.
    pub(super) label: Arc<str>,
    /// Slot by slot.
    pub(super) slots: Vec<Backend>,
    /// What happens without any.
    pub(super) otherwise: Otherwise,
}

impl Installed {
    /// The elements of this frontend, without the slots that `known` has just so.
    pub(super) fn items(&self, key: &FrontendKey, known: Option<&Installed>) -> Items {
        let known: &[Backend] = match known {
            Some(known) if known.label == self.label => &known.slots,
            Some(_) | None => &[],
        };
        let key = frontend_bytes(key);
        let mut items = Items::new();
        let mut put = |set, key, data, comment| {
            items.insert(ItemKey { set, key }, ItemValue { data, comment });
        };
        let none = Bytes::default();
        let label = comment(&self.label);
        let Some(class) = SizeClass::of(self.slots.len()) else {
            let set = match self.otherwise {
                Otherwise::Refuse => SetId::Refused,
                Otherwise::Drop => SetId::Dropped,
            };
            put(set, key, none, label);
            return items;
        };
        put(SetId::Frontends, key, none, label.clone());
        put(SetId::MasqueradeOutside, key, none, None);
        put(SetId::Size(class.slots), key, none, None);
        if !class.is_exact() {
            put(SetId::Large, key, none, None);
        }
        for (slot, backend) in self.slots.iter().enumerate() {
            if known.get(slot) != Some(backend) {
                let mut data = Bytes::default();
                data.push_address(backend.address);
                data.push(&backend.port.to_be_bytes());
                put(
                    SetId::Endpoints,
                    slot_bytes(key, slot as u32),
                    data,
                    label.clone(),
                );
            }
        }
        items
    }
}

/// The slots that elements of one frontend fill.
pub(super) fn slots(items: &Items) -> BTreeMap<u32, Backend> {
    items
        .iter()
        .filter(|(key, _)| key.set == SetId::Endpoints)
        .filter_map(|(key, value)| slot_of(key.key).zip(backend_of(value.data)))
        .collect()
}

fn frontend_bytes(key: &FrontendKey) -> Bytes {
    let mut bytes = Bytes::default();
    bytes.push_address(key.address);
    bytes.push(&[key.protocol.number()]);
    bytes.push(&key.port.to_be_bytes());
    bytes
}

fn slot_bytes(mut frontend: Bytes, slot: u32) -> Bytes {
    frontend.push(&slot.to_ne_bytes());
    frontend
}

fn slot_of(key: Bytes) -> Option<u32> {
    let bytes = key.as_slice().last_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// The address at the start, and what follows.
fn split_address(bytes: &[u8], family: IpFamily) -> Option<(IpAddr, &[u8])> {
    match family {
        IpFamily::V4 => {
            let (address, rest) = bytes.split_first_chunk::<4>()?;
            Some((IpAddr::V4(Ipv4Addr::from(*address)), rest))
        }
        IpFamily::V6 => {
            let (address, rest) = bytes.split_first_chunk::<16>()?;
            Some((IpAddr::V6(Ipv6Addr::from(*address)), rest))
        }
    }
}

fn backend_of(data: Bytes) -> Option<Backend> {
    let family = if data.length == 8 {
        IpFamily::V4
    } else {
        IpFamily::V6
    };
    let (address, rest) = split_address(data.as_slice(), family)?;
    let port = u16::from_be_bytes(*rest.first_chunk()?);
    Some(Backend { address, port })
}

/// The frontend an element belongs to; `None` for elements that belong to none.
pub(super) fn frontend_of(key: &ItemKey, family: IpFamily) -> Option<FrontendKey> {
    match key.set {
        SetId::Pods
        | SetId::Nodes
        | SetId::Hairpin
        | SetId::ServiceAddresses
        | SetId::ServiceRanges => None,
        SetId::Endpoints
        | SetId::MasqueradeOutside
        | SetId::Size(_)
        | SetId::Large
        | SetId::Frontends
        | SetId::Refused
        | SetId::Dropped => {
            let (address, rest) = split_address(key.key.as_slice(), family)?;
            let [protocol, _, _, _, high, low, ..] = rest else {
                return None;
            };
            Some(FrontendKey {
                address,
                protocol: Protocol::from_number(*protocol)?,
                port: u16::from_be_bytes([*high, *low]),
            })
        }
    }
}

/// An address that has a frontend.
pub(super) fn service_address(address: IpAddr) -> (ItemKey, ItemValue) {
    let mut key = Bytes::default();
    key.push_address(address);
    let set = SetId::ServiceAddresses;
    (ItemKey { set, key }, plain())
}

/// A comment as it will be read back, so that a long one is not written again and again.
fn comment(text: &Arc<str>) -> Option<Arc<str>> {
    let kept = nft::comment(text);
    Some(if kept.len() == text.len() {
        text.clone()
    } else {
        kept.into()
    })
}

fn plain() -> ItemValue {
    ItemValue {
        data: Bytes::default(),
        comment: None,
    }
}

/// What address translation must know besides frontends, as elements of one family.
pub(super) fn nat_items(nat: &NodeNat, family: IpFamily) -> Items {
    let mut items = Items::new();
    let ranges = [
        (SetId::Pods, &nat.pod_ranges),
        (SetId::ServiceRanges, &nat.service_ranges),
    ];
    for (set, ranges) in ranges {
        let ranges: Vec<IpNet> = ranges
            .iter()
            .copied()
            .filter(|range| family.has(range.addr()))
            .collect();
        // The kernel takes no ranges that overlap.
        for range in IpNet::aggregate(&ranges) {
            let mut key = Bytes::default();
            key.push_address(range.network());
            let value = ItemValue {
                data: behind(range.broadcast()),
                comment: None,
            };
            items.insert(ItemKey { set, key }, value);
        }
    }
    for address in nat.node_addresses.iter().filter(|a| family.has(**a)) {
        let mut key = Bytes::default();
        key.push_address(*address);
        let set = SetId::Nodes;
        items.insert(ItemKey { set, key }, plain());
    }
    for (address, pod) in nat.local_pods.iter().filter(|(a, _)| family.has(**a)) {
        let mut key = Bytes::default();
        key.push_address(*address);
        key.push_address(*address);
        let value = ItemValue {
            data: Bytes::default(),
            comment: comment(pod),
        };
        let set = SetId::Hairpin;
        items.insert(ItemKey { set, key }, value);
    }
    items
}

/// The address behind one; nothing behind the last.
fn behind(address: IpAddr) -> Bytes {
    let next = match address {
        IpAddr::V4(address) => u32::from(address)
            .checked_add(1)
            .map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(address) => u128::from(address)
            .checked_add(1)
            .map(|next| IpAddr::V6(next.into())),
    };
    let mut bytes = Bytes::default();
    if let Some(next) = next {
        bytes.push_address(next);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> FrontendKey {
        FrontendKey {
            address: address.parse().unwrap(),
            protocol: Protocol::Udp,
            port: 53,
        }
    }

    fn installed(address: &str, count: u16) -> Installed {
        Installed {
            label: "kube-system/kube-dns:dns".into(),
            slots: (1..=count)
                .map(|port| Backend {
                    address: address.parse().unwrap(),
                    port,
                })
                .collect(),
            otherwise: Otherwise::Refuse,
        }
    }

    #[test]
    fn elements_say_whose_they_are_and_what_is_in_the_slots() {
        for (family, service, pod) in [
            (IpFamily::V4, "10.96.0.10", "10.244.1.2"),
            (IpFamily::V6, "fd00:10:96::a", "fd00:10:244:1::2"),
        ] {
            for count in [0, 1, 8, 9, 100] {
                let (key, installed) = (key(service), installed(pod, count));
                let items = installed.items(&key, None);
                assert!(items.keys().all(|k| frontend_of(k, family) == Some(key)));
                let slots = slots(&items);
                assert_eq!(slots.into_values().collect::<Vec<_>>(), installed.slots);
            }
        }
    }

    #[test]
    fn without_endpoints_a_frontend_is_in_the_set_that_says_what_happens_then() {
        let key = key("10.96.0.10");
        for (otherwise, set) in [
            (Otherwise::Refuse, SetId::Refused),
            (Otherwise::Drop, SetId::Dropped),
        ] {
            let sets = |count| -> Vec<SetId> {
                let installed = Installed {
                    otherwise,
                    ..installed("10.244.1.2", count)
                };
                let items = installed.items(&key, None);
                items.keys().map(|key| key.set).collect()
            };
            assert_eq!(sets(0), [set]);
            assert!(!sets(1).contains(&set));
        }
    }

    #[test]
    fn a_label_is_as_long_as_the_kernel_gives_it_back() {
        let key = key("10.96.0.10");
        let long: Arc<str> = format!("{}/{}:dns", "n".repeat(63), "s".repeat(63)).into();
        let installed = Installed {
            label: long.clone(),
            ..installed("10.244.1.2", 2)
        };
        let nat = NodeNat {
            local_pods: [("10.244.1.2".parse().unwrap(), long.clone())].into(),
            ..NodeNat::default()
        };
        let mut items = installed.items(&key, None);
        items.extend(nat_items(&nat, IpFamily::V4));
        let comments: Vec<_> = items.values().filter_map(|v| v.comment.clone()).collect();
        assert_eq!(comments.len(), 4);
        for comment in comments {
            assert_eq!(comment.len(), 127);
            assert!(long.starts_with(&*comment));
        }
    }

    #[test]
    fn a_change_of_one_slot_is_a_change_of_one_element() {
        let key = key("10.96.0.10");
        let old = installed("10.244.1.2", 100);
        let mut new = old.clone();
        new.slots[7].port = 1007;
        let (before, after) = (old.items(&key, Some(&new)), new.items(&key, Some(&old)));
        let steps = steps(&before, &after);
        assert!(matches!(steps[..], [Step::Replace(key, ..)] if key.set == SetId::Endpoints));
    }

    #[test]
    fn what_a_frontend_leads_to_is_there_before_it_and_goes_after_it() {
        let key = key("10.96.0.10");
        let items = installed("10.244.1.2", 9).items(&key, None);
        let nothing = Items::new();
        let sets = |steps: Vec<Step<'_>>| -> Vec<SetId> {
            let mut sets: Vec<SetId> = steps
                .iter()
                .map(|step| match step {
                    Step::Add(key, _) | Step::Replace(key, ..) | Step::Remove(key, _) => key.set,
                })
                .collect();
            sets.dedup();
            sets
        };
        let mut expected = vec![
            SetId::Endpoints,
            SetId::MasqueradeOutside,
            SetId::Size(12),
            SetId::Large,
            SetId::Frontends,
        ];
        assert_eq!(sets(steps(&nothing, &items)), expected);
        expected.reverse();
        assert_eq!(sets(steps(&items, &nothing)), expected);
    }

    #[test]
    fn ranges_that_overlap_become_one_and_the_last_has_no_end() {
        let nat = NodeNat {
            pod_ranges: [
                "10.244.0.0/16",
                "10.244.1.0/24",
                "10.245.0.0/16",
                "255.0.0.0/8",
            ]
            .map(|range| range.parse().unwrap())
            .into(),
            ..NodeNat::default()
        };
        let ranges: Vec<_> = nat_items(&nat, IpFamily::V4)
            .into_iter()
            .map(|(key, value)| (key.key.as_slice().to_vec(), value.data.as_slice().to_vec()))
            .collect();
        let expected = vec![
            (vec![10, 244, 0, 0], vec![10, 246, 0, 0]),
            (vec![255, 0, 0, 0], vec![]),
        ];
        assert_eq!(ranges, expected);
        assert!(nat_items(&nat, IpFamily::V6).is_empty());
    }
}
