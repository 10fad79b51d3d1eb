//! The `ipam` section: which addresses may be given out.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::Value;

use super::fields::{Fields, invalid, items, missing, parse, text, unsupported};
use super::{DEFAULT_DATA_DIR, Error, Remark};

/// Addresses from `first` to `last`, both included, in `subnet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The subnet, without host bits.
    pub subnet: IpNet,
    /// The lowest address to give out.
    pub first: IpAddr,
    /// The highest address to give out.
    pub last: IpAddr,
    /// `gateway`: the subnet's router, where the configuration says it.
    pub gateway: Option<IpAddr>,
}

impl Range {
    /// All addresses of a subnet that a pod can have: without the network's and the
    /// broadcast address (IPv4) or the subnet router's anycast address (IPv6, RFC
    /// 4291 section 2.6.1), except in subnets of one or two addresses (RFC 3021,
    /// RFC 6164).
    pub fn of(subnet: IpNet) -> Self {
        let subnet = subnet.trunc();
        let low = number(subnet.network());
        let high = number(subnet.broadcast());
        let (first, last) = match subnet {
            IpNet::V4(net) if net.prefix_len() < 31 => (low + 1, high - 1),
            IpNet::V6(net) if net.prefix_len() < 127 => (low + 1, high),
            IpNet::V4(_) | IpNet::V6(_) => (low, high),
        };
        Self {
            subnet,
            first: address(first, subnet.addr().is_ipv4()),
            last: address(last, subnet.addr().is_ipv4()),
            gateway: None,
        }
    }

    /// Whether an address is in the range.
    pub fn contains(&self, candidate: IpAddr) -> bool {
        candidate.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&candidate)
    }

    /// How many addresses the range has, at most `u128::MAX`.
    pub fn size(&self) -> u128 {
        (number(self.last) - number(self.first)).saturating_add(1)
    }
}

/// Ranges of one family, from which a pod gets one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet {
    /// At least one range, all of one family, none overlapping.
    pub ranges: Vec<Range>,
}

impl RangeSet {
    /// Whether an address is in one of the ranges.
    pub fn contains(&self, candidate: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(candidate))
    }

    /// Whether the set is of IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.ranges
            .first()
            .is_some_and(|range| range.first.is_ipv4())
    }

    /// How many addresses the set has, at most `u128::MAX`.
    pub fn size(&self) -> u128 {
        self.ranges
            .iter()
            .fold(0, |sum, range| sum.saturating_add(range.size()))
    }
}

/// What the `ipam` section says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    /// At most one set a family; the index of a set is the suffix of its
    /// `last_reserved_ip` file. Empty only where the command needs no range.
    pub sets: Vec<RangeSet>,
    /// Addresses that no pod gets by itself: routers, what the section excludes, and what it
    /// reserves for those who ask.
    pub reserved: BTreeSet<IpAddr>,
    /// Of them, those that nobody gets who asks either.
    pub excluded: BTreeSet<IpAddr>,
    /// Addresses that the runtime asks for, at most one a set.
    pub asked: Vec<IpAddr>,
    /// `routes`: what the pod sends by this interface; `None`: everything.
    pub routes: Option<Vec<IpNet>>,
}

/// A longer list costs every ADD more than a smaller range would.
const LONGEST_LIST: usize = 4096;

impl Ipam {
    /// Gives out nothing.
    pub(super) fn nothing() -> Self {
        Self {
            sets: Vec::new(),
            reserved: BTreeSet::new(),
            excluded: BTreeSet::new(),
            asked: Vec::new(),
            routes: None,
        }
    }

    /// Notes that the runtime asks for an address, at a path.
    pub(super) fn ask(&mut self, path: &str, address: IpAddr) -> Result<(), Error> {
        if !self.sets.iter().any(|set| set.contains(address)) {
            return Err(invalid(
                path,
                &format!("{address} is in none of ipam.ranges"),
            ));
        }
        if self.excluded.contains(&address) {
            return Err(invalid(
                path,
                &format!("{address} is excluded, or a range's gateway"),
            ));
        }
        self.asked.push(address);
        Ok(())
    }
}

/// An item of a list of addresses and ranges (`10.244.1.64/28`); gives it as a range.
fn listed(path: &str, value: &Value, into: &mut BTreeSet<IpAddr>) -> Result<IpNet, Error> {
    let text = text(path, value)?;
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => subnet(path, text)?,
    };
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    if bits > LONGEST_LIST.ilog2() {
        return Err(invalid(
            path,
            &format!("{net} has more than {LONGEST_LIST} addresses; end the range before it"),
        ));
    }
    let low = number(net.network());
    into.extend((0..1_u128 << bits).map(|offset| address(low + offset, net.addr().is_ipv4())));
    if into.len() > LONGEST_LIST {
        return Err(invalid(
            path,
            &format!("makes more than {LONGEST_LIST} addresses; choose smaller ranges"),
        ));
    }
    Ok(net)
}

/// `routes`, as host-local has them: what goes by this interface. The router is always weft's.
fn routes(fields: &mut Fields<'_>, remarks: &mut Vec<Remark>) -> Result<Option<Vec<IpNet>>, Error> {
    if fields.take("routes").is_none() {
        return Ok(None);
    }
    let mut routes = Vec::new();
    for (path, value) in fields.take_list("routes")? {
        let mut fields = Fields::of(&path, value)?;
        let place = fields.path("dst");
        let text = fields.take_text("dst")?.ok_or_else(|| missing(&place))?;
        let net: IpNet = parse(&place, text, "a range such as 10.96.0.0/12")?;
        if let Some(gateway) = fields.take("gw") {
            return Err(unsupported(
                &fields.path("gw"),
                gateway,
                "the pod's router is the node itself; leave it out",
            ));
        }
        fields.finish(remarks);
        routes.push(net.trunc());
    }
    Ok(Some(routes))
}

/// `ipam.dataDir`, checked.
pub(super) fn data_dir(document: &Value) -> Result<String, Error> {
    match document.get("ipam") {
        None | Some(Value::Null) => Ok(DEFAULT_DATA_DIR.to_owned()),
        Some(section) => {
            let mut fields = Fields::of("ipam", section)?;
            absolute(&mut fields, "dataDir", DEFAULT_DATA_DIR)
        }
    }
}

/// A directory given by an absolute path.
pub(super) fn absolute<'a>(
    fields: &mut Fields<'a>,
    key: &'a str,
    default: &str,
) -> Result<String, Error> {
    match fields.take_text(key)? {
        None => Ok(default.to_owned()),
        Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(path.to_owned()),
        Some(path) => Err(invalid(
            &fields.path(key),
            &format!("{path:?} is not an absolute path"),
        )),
    }
}

/// The whole section.
pub(super) fn ipam(section: Option<&Value>, remarks: &mut Vec<Remark>) -> Result<Ipam, Error> {
    let section = section.ok_or_else(|| missing("ipam"))?;
    let mut fields = Fields::of("ipam", section)?;
    match fields.take("type") {
        None => return Err(missing("ipam.type")),
        Some(Value::String(kind)) if kind == "weft" => {}
        Some(other) => {
            return Err(unsupported(
                "ipam.type",
                other,
                "weft gives out addresses itself, write \"weft\"",
            ));
        }
    }
    fields.ignore(&["dataDir"]);
    let mut kept = Vec::new();
    let mut excluded = BTreeSet::new();
    for (path, value) in fields.take_list("exclude")? {
        kept.push((listed(&path, value, &mut excluded)?, path));
    }
    let mut reserved = BTreeSet::new();
    for (path, value) in fields.take_list("reserve")? {
        kept.push((listed(&path, value, &mut reserved)?, path));
    }
    let routes = routes(&mut fields, remarks)?;
    let mut sets: Vec<RangeSet> = Vec::new();
    for (path, value) in fields.take_list("ranges")? {
        match value {
            // A list is a set of its own, as in host-local's configuration.
            Value::Array(_) => {
                let mut set = RangeSet { ranges: Vec::new() };
                for (path, value) in items(&path, value)? {
                    let range = range(&path, value, &mut excluded, remarks)?;
                    if set
                        .ranges
                        .first()
                        .is_some_and(|first| first.first.is_ipv4() != range.first.is_ipv4())
                    {
                        return Err(invalid(
                            &path,
                            "is of another family than the range before it; \
                             a set has one family",
                        ));
                    }
                    no_overlap(&path, &range, sets.iter().chain([&set]))?;
                    set.ranges.push(range);
                }
                if set.ranges.is_empty() {
                    return Err(invalid(&path, "is an empty set of ranges"));
                }
                if sets.iter().any(|other| other.is_ipv4() == set.is_ipv4()) {
                    return Err(invalid(
                        &path,
                        "is a second set of its family, and a pod gets one address of a \
                         family; put the ranges into one set",
                    ));
                }
                sets.push(set);
            }
            // Ranges outside of lists are gathered by family.
            Value::String(_) | Value::Object(_) => {
                let range = range(&path, value, &mut excluded, remarks)?;
                no_overlap(&path, &range, &sets)?;
                match sets
                    .iter_mut()
                    .find(|set| set.is_ipv4() == range.first.is_ipv4())
                {
                    Some(set) => set.ranges.push(range),
                    None => sets.push(RangeSet {
                        ranges: vec![range],
                    }),
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                return Err(Fields::of(&path, value)
                    .err()
                    .unwrap_or_else(|| missing(&path)));
            }
        }
    }
    if sets.is_empty() {
        return Err(invalid(
            "ipam.ranges",
            "names no range; a node's pod range is needed, such as \"10.244.1.0/24\"",
        ));
    }
    fields.finish(remarks);
    let is_outside = |net: &IpNet| {
        let mut ranges = sets.iter().flat_map(|set| &set.ranges);
        !ranges.any(|range| range.subnet.contains(net) || net.contains(&range.subnet))
    };
    let outside = kept.into_iter().filter(|(net, _)| is_outside(net));
    remarks.extend(outside.map(|(net, field)| Remark {
        field,
        text: format!("has no effect: {net} is in none of ipam.ranges"),
    }));
    reserved.extend(&excluded);
    Ok(Ipam {
        sets,
        reserved,
        excluded,
        asked: Vec::new(),
        routes,
    })
}

fn range(
    path: &str,
    value: &Value,
    excluded: &mut BTreeSet<IpAddr>,
    remarks: &mut Vec<Remark>,
) -> Result<Range, Error> {
    if let Value::String(text) = value {
        return subnet(path, text).map(Range::of);
    }
    let mut fields = Fields::of(path, value)?;
    let subnet_path = fields.path("subnet");
    let net = subnet(
        &subnet_path,
        fields
            .take_text("subnet")?
            .ok_or_else(|| missing(&subnet_path))?,
    )?;
    let mut range = Range::of(net);
    let mut bound = |key: &'static str| -> Result<Option<IpAddr>, Error> {
        let Some(text) = fields.take_text(key)? else {
            return Ok(None);
        };
        let path = fields.path(key);
        let address: IpAddr = parse(&path, text, "an IP address")?;
        if net.contains(&address) {
            Ok(Some(address))
        } else {
            Err(invalid(&path, &format!("{address} is not in {net}")))
        }
    };
    if let Some(first) = bound("rangeStart")? {
        range.first = first;
    }
    if let Some(last) = bound("rangeEnd")? {
        range.last = last;
    }
    range.gateway = bound("gateway")?;
    excluded.extend(range.gateway);
    if range.first > range.last {
        return Err(invalid(
            path,
            &format!("ends at {} before it starts at {}", range.last, range.first),
        ));
    }
    fields.finish(remarks);
    Ok(range)
}

fn subnet(path: &str, text: &str) -> Result<IpNet, Error> {
    let net: IpNet = parse(path, text, "a range such as 10.244.1.0/24")?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(invalid(
            path,
            &format!("{net} has host bits set; the range is {}", net.trunc()),
        ))
    }
}

fn no_overlap<'a>(
    path: &str,
    range: &Range,
    sets: impl IntoIterator<Item = &'a RangeSet>,
) -> Result<(), Error> {
    let other = sets.into_iter().flat_map(|set| &set.ranges).find(|other| {
        other.first.is_ipv4() == range.first.is_ipv4()
            && other.first <= range.last
            && range.first <= other.last
    });
    match other {
        None => Ok(()),
        Some(other) => Err(invalid(
            path,
            &format!(
                "{}-{} overlaps {}-{}",
                range.first, range.last, other.first, other.last
            ),
        )),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(short) if ipv4 => IpAddr::V4(Ipv4Addr::from(short)),
        Ok(_) | Err(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}
