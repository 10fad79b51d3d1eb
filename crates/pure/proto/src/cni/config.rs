//! The network configuration on standard input.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::asked::{Asked, asked};
use super::fields::{Fields, invalid, missing, parse, text};
use super::gate::gate;
use super::link::{is_absent, link};
use super::ranges::{absolute, data_dir, ipam};
use super::result::{Dns, dns};
use super::sysctl::sysctls;
use super::{
    AddResult, Bandwidth, Code, Error, Gate, Ipam, Link, NetworkName, PortMapping, Sysctl, Version,
};

/// Where host-local keeps its reservations, and so do we (`ipam.dataDir`).
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";
/// Where attachment records are kept, in `attachments` (`stateDir`).
pub const DEFAULT_STATE_DIR: &str = "/run/weft";
/// Bytes; Ethernet's, for a configuration that says nothing.
pub const DEFAULT_MTU: u32 = 1500;

/// RFC 791: what every IPv4 host takes.
const SMALLEST_MTU: u32 = 576;
/// RFC 8200 section 5.
const SMALLEST_MTU_IPV6: u32 = 1280;
/// ETH_MAX_MTU in the kernel, what a veth takes.
const LARGEST_MTU: u32 = 65535;

/// Something in the configuration that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The field's path, such as `ipam.ranges[0].gatway`.
    pub field: String,
    /// What about it.
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.text)
    }
}

/// What every command needs: enough to find what belongs to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `cniVersion`.
    pub version: Version,
    /// `name`.
    pub network: NetworkName,
    /// `stateDir`: [`DEFAULT_STATE_DIR`] unless given.
    pub state_dir: String,
    /// `ipam.dataDir`: [`DEFAULT_DATA_DIR`] unless given.
    pub data_dir: String,
    /// `link` is `none`: another plugin of the list made the interface and gave out the
    /// addresses.
    pub is_chained: bool,
    /// Fields without effect, for the log.
    pub remarks: Vec<Remark>,
}

/// What only ADD, CHECK and STATUS need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkConfig {
    pub(super) link: Link,
    pub(super) mtu: u32,
    pub(super) node_addresses: Vec<IpAddr>,
    pub(super) mappings: Vec<PortMapping>,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) bandwidth: Bandwidth,
    pub(super) anti_spoofing: bool,
    pub(super) masquerade_beyond: Option<Vec<IpNet>>,
    pub(super) sysctls: Vec<Sysctl>,
    pub(super) gate: Option<Gate>,
    pub(super) ipam: Ipam,
    pub(super) dns: Dns,
    pub(super) previous: Option<AddResult>,
}

/// Text to JSON.
pub(super) fn decode(input: &[u8]) -> Result<Value, Error> {
    if input.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::new(
            Code::Decode,
            "standard input: the network configuration is missing",
        ));
    }
    serde_json::from_slice(input).map_err(|error| {
        Error::new(
            Code::Decode,
            format!("standard input: the network configuration is not JSON: {error}"),
        )
    })
}

/// `cniVersion`, which has to be known before anything can be answered.
pub(super) fn version(document: &Value) -> Result<Version, Error> {
    let mut fields = Fields::of("", document)?;
    // An absent version means 0.1.0 (specification, section 1).
    let text = fields.take_text("cniVersion")?.unwrap_or("0.1.0");
    Version::parse(text).ok_or_else(|| {
        Error::new(
            Code::IncompatibleVersion,
            format!("cniVersion: {text:?} is not supported"),
        )
        .with_details(format!("supported are {}", Version::list()))
    })
}

impl Config {
    pub(super) fn read(version: Version, document: &Value) -> Result<Self, Error> {
        let mut fields = Fields::of("", document)?;
        let name = fields.take_text("name")?.ok_or_else(|| missing("name"))?;
        let network = NetworkName::try_from(name)
            .map_err(|complaint| invalid("name", &complaint.to_string()))?;
        Ok(Self {
            version,
            network,
            state_dir: absolute(&mut fields, "stateDir", DEFAULT_STATE_DIR)?,
            data_dir: data_dir(document)?,
            is_chained: is_absent(document),
            remarks: Vec::new(),
        })
    }
}

impl LinkConfig {
    /// `variables` is what `CNI_ARGS` asks for.
    pub(super) fn read(
        document: &Value,
        variables: Asked,
        remarks: &mut Vec<Remark>,
    ) -> Result<Self, Error> {
        let mut fields = Fields::of("", document)?;
        fields.ignore(&[
            "cniVersion",
            "name",
            "type",
            "stateDir",
            "cniVersions",
            "disableCheck",
            "disableGC",
            "capabilities",
            "cni.dev/valid-attachments",
            "cni.dev/attachments",
        ]);
        let section = fields.take("ipam");
        let mut ipam = match (is_absent(document), section) {
            (false, section) => ipam(section, remarks)?,
            (true, None) => Ipam::nothing(),
            (true, Some(_)) => {
                return Err(invalid(
                    "ipam",
                    "the plugin that made the link gives out its addresses; with link none \
                     leave it out",
                ));
            }
        };
        let link = link(&mut fields, &mut ipam)?;
        let mtu = fields.take_u32("mtu")?;
        if let (Link::Absent, Some(_)) = (&link, mtu) {
            remarks.push(anothers("mtu"));
        }
        let mtu = mtu.unwrap_or(DEFAULT_MTU);
        let smallest = if ipam.sets.iter().all(super::RangeSet::is_ipv4) {
            SMALLEST_MTU
        } else {
            SMALLEST_MTU_IPV6
        };
        if !(smallest..=LARGEST_MTU).contains(&mtu) {
            return Err(invalid(
                "mtu",
                &format!("{mtu} is not between {smallest} and {LARGEST_MTU}"),
            ));
        }
        let mut node_addresses: Vec<IpAddr> = Vec::new();
        for (path, value) in fields.take_list("nodeAddresses")? {
            let address: IpAddr = parse(&path, text(&path, value)?, "an IP address")?;
            if ipam.sets.iter().any(|set| set.contains(address)) {
                return Err(invalid(&path, &format!("{address} is in the pods' range")));
            }
            if node_addresses
                .iter()
                .any(|other| other.is_ipv4() == address.is_ipv4())
            {
                return Err(invalid(
                    &path,
                    &format!("{address} is a second address of its family"),
                ));
            }
            node_addresses.push(address);
        }
        let asked = asked(
            fields.take("runtimeConfig"),
            fields.take("args"),
            variables,
            remarks,
        )?;
        // Where another plugin makes the link, runtimes ask it too.
        if link != Link::Absent {
            for (path, address) in &asked.addresses {
                ipam.ask(path, *address)?;
            }
        }
        let anti_spoofing = fields.take_bool("antiSpoofing")?;
        let masquerade_beyond = masquerade_beyond(&mut fields, &ipam)?;
        let gate = gate(fields.take("policyGate"), remarks)?;
        if link == Link::Absent {
            let bandwidth = asked
                .bandwidth
                .is_limited()
                .then_some("runtimeConfig.bandwidth");
            let masquerade = masquerade_beyond.is_some().then_some("ipMasq");
            let guard = (anti_spoofing == Some(true)).then_some("antiSpoofing");
            let gate = gate.is_some().then_some("policyGate");
            if let Some(field) = bandwidth.or(masquerade).or(guard).or(gate) {
                return Err(invalid(
                    field,
                    "weft has it for links that it makes; with link none it is the other plugin's",
                ));
            }
        }
        let sysctls = sysctls("sysctl", fields.take("sysctl"))?;
        let dns = dns("dns", fields.take("dns"), remarks)?;
        if link == Link::Absent && dns != Dns::default() {
            remarks.push(anothers("dns"));
        }
        let previous = fields
            .take("prevResult")
            .map(|value| AddResult::read("prevResult", value, remarks))
            .transpose()?;
        fields.finish(remarks);
        Ok(Self {
            link,
            mtu,
            node_addresses,
            mappings: asked.mappings,
            mac: asked.mac,
            bandwidth: asked.bandwidth,
            anti_spoofing: anti_spoofing.unwrap_or(true),
            masquerade_beyond,
            sysctls,
            gate,
            ipam,
            dns,
            previous,
        })
    }
}

/// Of what only the plugin that makes the link can see to.
fn anothers(field: &str) -> Remark {
    Remark {
        field: field.to_owned(),
        text: "has no effect with link none: it is for the plugin that makes the link".to_owned(),
    }
}

/// The ranges beyond which a pod's connections get the node's address (`ipMasq`): the cluster's
/// (`clusterCIDRs`), or the network's own if it names none.
fn masquerade_beyond(fields: &mut Fields<'_>, ipam: &Ipam) -> Result<Option<Vec<IpNet>>, Error> {
    let mut ranges: Vec<IpNet> = Vec::new();
    for (path, value) in fields.take_list("clusterCIDRs")? {
        let range: IpNet = parse(&path, text(&path, value)?, "a range such as 10.244.0.0/16")?;
        ranges.push(range.trunc());
    }
    if fields.take_bool("ipMasq")? != Some(true) {
        if !ranges.is_empty() {
            return Err(invalid(
                "clusterCIDRs",
                "says where ipMasq ends, and ipMasq is not true: set it, or leave clusterCIDRs out",
            ));
        }
        return Ok(None);
    }
    if ranges.is_empty() {
        let sets = ipam.sets.iter();
        ranges.extend(sets.flat_map(|set| set.ranges.iter().map(|range| range.subnet)));
    }
    // Ranges of a set may not overlap in nf_tables.
    Ok(Some(IpNet::aggregate(&ranges)))
}
