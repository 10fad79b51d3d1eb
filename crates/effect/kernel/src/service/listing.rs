//! A family's table in nft's words, as `nft list table` prints it, without a kernel.
//!
//! Only the order and the line breaks of elements are not nft's: those are the kernel's own.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use weft_desired::{Frontend, FrontendKey, NodeNat, Protocol, Table};
use weft_sys::nft::{BaseChain, ChainKind, DataType, Expression, Hook, Policy, Set};
use weft_sys::rtnl::Mac;

use super::installed::{Installed, Slots};
use super::ip_family::IpFamily;
use super::item::{ItemKey, ItemValue, Items, nat_items, service_address};
use super::layout::{Layout, Shape};
use super::rule_text;
use super::view::range;

/// A table in nft's words.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The table's family.
    pub family: IpFamily,
    /// Its sets and maps, by name.
    pub sets: BTreeMap<String, ListedSet>,
    /// Its chains, by name.
    pub chains: BTreeMap<String, ListedChain>,
}

/// A set or a map.
#[derive(Clone, Debug)]
pub struct ListedSet {
    /// `set` or `map`.
    pub kind: &'static str,
    /// Its type, flags and so on, a line each.
    pub properties: Vec<String>,
    /// Its elements.
    pub elements: Vec<String>,
}

/// A chain.
#[derive(Clone, Debug)]
pub struct ListedChain {
    /// `type … hook … priority …; policy …;`, for a chain that the kernel calls.
    pub hook: Option<String>,
    /// Its rules.
    pub rules: Vec<String>,
}

/// What a family's table holds, made anew, for these frontends. `traffic`: whether all packets
/// are counted.
pub fn render(
    family: IpFamily,
    frontends: &Table<FrontendKey, Frontend>,
    nat: &NodeNat,
    traffic: bool,
) -> Listing {
    let ours = || frontends.iter().filter(|(key, _)| family.has(key.address));
    let shape = Shape {
        pods: (&nat.local).into(),
        timeouts: ours().filter_map(|(_, it)| it.value.affinity).collect(),
        traffic,
    };
    let layout = Layout::of(family, &shape);
    let mut items = nat_items(nat, family);
    for (key, entry) in ours() {
        let installed = Installed::new(&entry.value, family, &Slots::default());
        if installed.exclusive {
            items.extend([service_address(key.address)]);
        }
        items.extend(installed.counting_traffic(traffic).items(key, None));
    }
    Listing {
        family,
        sets: sets(&layout, &items),
        chains: chains(family, &layout),
    }
}

impl Listing {
    /// As `nft list table` prints it.
    pub fn text(&self) -> String {
        let mut text = format!(
            "table {} {{\n\tcomment \"Services, made by weft\"\n",
            self.family.table()
        );
        // A String takes all that is written.
        for (name, set) in &self.sets {
            let _ = writeln!(text, "\n\t{} {name} {{", set.kind);
            for property in &set.properties {
                let _ = writeln!(text, "\t\t{property}");
            }
            if !set.elements.is_empty() {
                let elements = set.elements.join(",\n\t\t\t     ");
                let _ = writeln!(text, "\t\telements = {{ {elements} }}");
            }
            text.push_str("\t}\n");
        }
        for (name, chain) in &self.chains {
            let _ = writeln!(text, "\n\tchain {name} {{");
            for line in chain.hook.iter().chain(&chain.rules) {
                let _ = writeln!(text, "\t\t{line}");
            }
            text.push_str("\t}\n");
        }
        text.push_str("}\n");
        text
    }
}

fn sets(layout: &Layout, items: &Items) -> BTreeMap<String, ListedSet> {
    let mut sets: BTreeMap<String, ListedSet> = layout
        .sets
        .values()
        .map(|set| (set.name.clone(), listed(set, layout)))
        .collect();
    for (key, value) in items {
        let name = key.set.name();
        if let (Some(listed), Some(set)) = (sets.get_mut(&*name), layout.sets.get(&*name)) {
            listed.elements.push(element(set, key, value, true));
        }
    }
    sets
}

fn listed(set: &Set, layout: &Layout) -> ListedSet {
    let (word, name): (_, fn(DataType) -> &'static str) = match set.key.contains(&DataType::Number)
    {
        true => ("typeof", DataType::expression),
        false => ("type", type_name),
    };
    let types = |parts: &[DataType]| {
        let names: Vec<&str> = parts.iter().copied().map(name).collect();
        names.join(" . ")
    };
    let mut properties = vec![match set.data.as_slice() {
        [] => format!("{word} {}", types(&set.key)),
        data => format!("{word} {} : {}", types(&set.key), types(data)),
    }];
    let mut rules = layout.rules.values().flatten();
    let filled = rules.any(|rule| {
        let mut expressions = rule.expressions.iter();
        expressions
            .any(|it| matches!(it, Expression::Update { set: name, .. } if *name == set.name))
    });
    if filled {
        properties.push(format!("size {SIZE_OF_FILLED}"));
    }
    let flags = [
        (set.flags.interval, "interval"),
        (set.flags.dynamic, "dynamic"),
        (set.flags.timeout, "timeout"),
    ];
    let flags: Vec<&str> = flags.iter().filter(|(is, _)| *is).map(|it| it.1).collect();
    if !flags.is_empty() {
        properties.push(format!("flags {}", flags.join(",")));
    }
    if set.counter {
        properties.push("counter".to_owned());
    }
    ListedSet {
        kind: if set.data.is_empty() { "set" } else { "map" },
        properties,
        elements: Vec::new(),
    }
}

/// What the kernel gives a set without a size that rules fill (`nft_dynset.c`).
const SIZE_OF_FILLED: u32 = 65_535;

fn type_name(part: DataType) -> &'static str {
    match part {
        DataType::Ipv4Address => "ipv4_addr",
        DataType::Ipv6Address => "ipv6_addr",
        DataType::Protocol => "inet_proto",
        DataType::Port => "inet_service",
        DataType::Number | DataType::NeighbourTarget => "integer",
        DataType::EthernetAddress => "ether_addr",
        DataType::InterfaceName => "ifname",
    }
}

/// An element in nft's words; without what it counts and says for one that is deleted.
pub(super) fn element(set: &Set, key: &ItemKey, value: &ItemValue, whole: bool) -> String {
    let mut text = if key.set.is_ranges() {
        span(&set.key, key.key.as_slice(), value.data.as_slice())
    } else if key.set.has_key_ends() {
        with_last_range(&set.key, key.key.as_slice(), value.data.as_slice())
    } else {
        values(&set.key, key.key.as_slice())
    };
    if !whole {
        return text;
    }
    if set.counter {
        text.push_str(" counter packets 0 bytes 0");
    }
    if let Some(comment) = &value.comment {
        let _ = write!(text, " comment \"{comment}\"");
    }
    if !set.data.is_empty() {
        let _ = write!(text, " : {}", values(&set.data, value.data.as_slice()));
    }
    text
}

/// The parts of a key or of data.
fn values(parts: &[DataType], mut bytes: &[u8]) -> String {
    let mut texts = Vec::new();
    for part in parts {
        let (value, rest) = bytes.split_at(part.padded_length().min(bytes.len()));
        texts.push(single(*part, value));
        bytes = rest;
    }
    texts.join(" . ")
}

fn single(part: DataType, value: &[u8]) -> String {
    let read = || {
        Some(match part {
            DataType::Ipv4Address => Ipv4Addr::from(*value.first_chunk::<4>()?).to_string(),
            DataType::Ipv6Address | DataType::NeighbourTarget => {
                Ipv6Addr::from(*value.first_chunk::<16>()?).to_string()
            }
            DataType::Protocol => {
                let number = *value.first()?;
                Protocol::from_number(number).map_or(number.to_string(), |it| it.to_string())
            }
            DataType::Port => u16::from_be_bytes(*value.first_chunk::<2>()?).to_string(),
            DataType::Number => u32::from_ne_bytes(*value.first_chunk::<4>()?).to_string(),
            DataType::EthernetAddress => Mac(*value.first_chunk::<6>()?).to_string(),
            DataType::InterfaceName => {
                format!(
                    "\"{}\"",
                    String::from_utf8_lossy(value).trim_end_matches('\0')
                )
            }
        })
    };
    read().unwrap_or_default()
}

/// A range from a key to the one before another; to the last key of all if there is none.
fn span(parts: &[DataType], first: &[u8], behind: &[u8]) -> String {
    let mut last = behind.to_vec();
    if last.is_empty() {
        last = vec![0xff; first.len()];
    } else {
        for byte in last.iter_mut().rev() {
            let (less, borrowed) = byte.overflowing_sub(1);
            *byte = less;
            if !borrowed {
                break;
            }
        }
    }
    let text = values(parts, first);
    range(first, &last).map_or(text, net)
}

/// A key whose last part is a range.
fn with_last_range(parts: &[DataType], first: &[u8], last: &[u8]) -> String {
    let Some((part, others)) = parts.split_last() else {
        return String::new();
    };
    let start = first.len().saturating_sub(part.padded_length());
    let (start, (from, to)) = (&first[..start], (&first[start..], last.get(start..)));
    let address = single(*part, from);
    let sources = to.and_then(|to| range(from, to)).map_or(address, net);
    format!("{} . {sources}", values(others, start))
}

/// nft prints a range of one as an address.
fn net(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

fn chains(family: IpFamily, layout: &Layout) -> BTreeMap<String, ListedChain> {
    layout
        .chains
        .iter()
        .map(|(name, chain)| {
            let rules = layout.rules.get(name).into_iter().flatten();
            let listed = ListedChain {
                hook: chain.base.as_ref().map(hook),
                rules: rules
                    .map(|rule| rule_text::rule(family, &layout.sets, rule))
                    .collect(),
            };
            (name.clone(), listed)
        })
        .collect()
}

fn hook(base: &BaseChain) -> String {
    let kind = match base.kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    };
    let hook = match base.hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    };
    let policy = match base.policy {
        Policy::Accept => "accept",
        Policy::Drop => "drop",
    };
    let priority = priority(base.hook, base.priority);
    format!("type {kind} hook {hook} priority {priority}; policy {policy};")
}

/// By the name that is not more than 10 away, if it is one of this hook's (nft's `rule.c`).
fn priority(hook: Hook, priority: i32) -> String {
    let names = [
        ("raw", -300, None),
        ("mangle", -150, None),
        ("dstnat", -100, Some(Hook::Prerouting)),
        ("filter", 0, None),
        ("security", 50, None),
        ("srcnat", 100, Some(Hook::Postrouting)),
    ];
    let near = names
        .into_iter()
        .find(|(_, value, _)| (priority - value).abs() <= 10);
    match near {
        Some((name, value, only)) if only.is_none_or(|only| only == hook) => {
            match priority - value {
                0 => name.to_owned(),
                more @ 1.. => format!("{name} + {more}"),
                less => format!("{name} - {}", -less),
            }
        }
        Some(_) | None => priority.to_string(),
    }
}
