//! Frontends and addresses as elements of sets, and back.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use weft_desired::{
    Backend, Difference, FrontendKey, LocalDetection, NodeNat, Protocol, difference,
};
use weft_sys::nft;

use super::ip_family::IpFamily;
use super::set::{Content, SetId};

/// A key or a map's data: at most a frontend key and an endpoint of IPv6.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes {
    length: u8,
    bytes: [u8; LONGEST],
}

const LONGEST: usize = 44;

impl Default for Bytes {
    fn default() -> Self {
        Self {
            length: 0,
            bytes: [0; LONGEST],
        }
    }
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
    pub(super) fn push(&mut self, part: &[u8]) {
        let start = usize::from(self.length);
        self.bytes[start..start + part.len()].copy_from_slice(part);
        self.length = (start + part.len()).next_multiple_of(4) as u8;
    }

    pub(super) fn push_address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.push(&address.octets()),
            IpAddr::V6(address) => self.push(&address.octets()),
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
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
    /// the range goes up to the last key; for one whose keys have several parts: the last
    /// key of the range.
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
/// in the reverse order of sets. Ranges are removed before others are added, those in one
/// part of their key too: the kernel takes none that overlaps one that is there.
pub(super) fn steps<'a>(old: &'a Items, new: &'a Items) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    let mut additions = Vec::new();
    let mut removals = Vec::new();
    let first = |key: &ItemKey| key.set.is_ranges() || key.set.has_key_ends();
    for difference in difference(old, new, |old, new| old == new) {
        match difference {
            Difference::Add(key, value) => additions.push(Step::Add(key, value)),
            Difference::Change(key, old, new) if first(key) => {
                steps.push(Step::Remove(key, old));
                additions.push(Step::Add(key, new));
            }
            Difference::Change(key, old, new) => additions.push(Step::Replace(key, old, new)),
            Difference::Remove(key, value) if first(key) => {
                steps.push(Step::Remove(key, value));
            }
            Difference::Remove(key, value) => removals.push(Step::Remove(key, value)),
        }
    }
    steps.extend(additions);
    steps.extend(removals.into_iter().rev());
    steps
}

/// The slots that elements of one frontend fill.
#[cfg(test)]
pub(super) fn slots(items: &Items, scope: super::set::Scope) -> BTreeMap<u32, Backend> {
    items
        .iter()
        .filter(|(key, _)| key.set == SetId::Endpoints(scope))
        .filter_map(|(key, value)| slot_of(key.key).zip(backend_of(value.data)))
        .collect()
}

pub(super) fn frontend_bytes(key: &FrontendKey) -> Bytes {
    let mut bytes = Bytes::default();
    bytes.push_address(key.address);
    bytes.push(&[key.protocol.number()]);
    bytes.push(&key.port.to_be_bytes());
    bytes
}

pub(super) fn slot_bytes(mut frontend: Bytes, slot: u32) -> Bytes {
    frontend.push(&slot.to_ne_bytes());
    frontend
}

/// The keys of a frontend's slots, in their order: none is filled behind one that is empty.
pub(super) fn slot_keys(frontend: &FrontendKey, room: u32) -> Vec<Bytes> {
    let frontend = frontend_bytes(frontend);
    let slots = 0..room;
    slots.map(|slot| slot_bytes(frontend, slot)).collect()
}

pub(super) fn slot_of(key: Bytes) -> Option<u32> {
    let bytes = key.as_slice().last_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// The address that bytes start with.
pub(super) fn address_at_start(bytes: &[u8], family: IpFamily) -> Option<IpAddr> {
    split_address(bytes, family).map(|(address, _)| address)
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

pub(super) fn backend_of(data: Bytes) -> Option<Backend> {
    let family = if data.length == 8 {
        IpFamily::V4
    } else {
        IpFamily::V6
    };
    let (address, rest) = split_address(data.as_slice(), family)?;
    let port = u16::from_be_bytes(*rest.first_chunk()?);
    Some(Backend { address, port })
}

/// An endpoint's address and port.
pub(super) fn backend_bytes(backend: &Backend) -> Bytes {
    let mut bytes = Bytes::default();
    bytes.push_address(backend.address);
    bytes.push(&backend.port.to_be_bytes());
    bytes
}

/// The frontend an element belongs to; `None` for elements that belong to none.
pub(super) fn frontend_of(key: &ItemKey, family: IpFamily) -> Option<FrontendKey> {
    match key.set.content() {
        Content::Frontends => socket_at_start(key.key.as_slice(), family),
        Content::Node | Content::Addresses | Content::Kernel => None,
    }
}

/// The frontend key that bytes start with.
fn socket_at_start(bytes: &[u8], family: IpFamily) -> Option<FrontendKey> {
    let (address, rest) = split_address(bytes, family)?;
    let [protocol, _, _, _, high, low, ..] = rest else {
        return None;
    };
    Some(FrontendKey {
        address,
        protocol: Protocol::from_number(*protocol)?,
        port: u16::from_be_bytes([*high, *low]),
    })
}

/// What the kernel remembers: a client, the frontend and the endpoint it had.
pub(super) fn remembered(
    element: &nft::Element,
    family: IpFamily,
) -> Option<(IpAddr, FrontendKey, Backend)> {
    let (client, rest) = split_address(&element.key, family)?;
    let frontend = socket_at_start(rest, family)?;
    let backend = backend_of(Bytes::new(&element.data)?)?;
    Some((client, frontend, backend))
}

/// An address that has a frontend.
pub(super) fn service_address(address: IpAddr) -> (ItemKey, ItemValue) {
    let mut key = Bytes::default();
    key.push_address(address);
    let set = SetId::ServiceAddresses;
    (ItemKey { set, key }, plain())
}

/// A comment as it will be read back, so that a long one is not written again and again.
pub(super) fn comment(text: &Arc<str>) -> Option<Arc<str>> {
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
    // Made at once, a map has no empty room.
    let mut items = Vec::new();
    let mut ranges = vec![
        (SetId::Pods, &nat.pod_ranges),
        (SetId::ServiceRanges, &nat.service_ranges),
    ];
    if let LocalDetection::Ranges(sources) = &nat.local {
        ranges.push((SetId::PodSources, sources));
    }
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
            items.push((ItemKey { set, key }, value));
        }
    }
    for (set, addresses) in [
        (SetId::Nodes, &nat.node_addresses),
        (SetId::Own, &nat.own_addresses),
    ] {
        for address in addresses.iter().filter(|a| family.has(**a)) {
            let mut key = Bytes::default();
            key.push_address(*address);
            items.push((ItemKey { set, key }, plain()));
        }
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
        items.push((ItemKey { set, key }, value));
    }
    items.into_iter().collect()
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
