//! What a node's rules depend on beside the objects of the API, as flags; and those objects as
//! files have them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_compile::{Compiler, LocalMode, NodePortsAt, ProxySettings, Settings};
use weft_desired::{Desired, IpFamily};
use weft_iptables::{Generation, Options};
use weft_model::{Change, NodeName};

use crate::output::Usage;

/// Which rules.
#[derive(Debug, Parser)]
pub(crate) struct RuleArgs {
    /// Which back end's rules
    #[arg(long, value_enum, default_value_t = Mode::Iptables)]
    pub(crate) mode: Mode,
    /// The node whose rules: which endpoints are its own, and what its addresses are
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) node: String,
    /// The pods' ranges, at most one a family
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) cluster_cidr: Vec<IpNet>,
    /// Services' ranges, at most one a family (mode nftables: what is sent there and is no
    /// Service's is dropped)
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) service_cidr: Vec<IpNet>,
    /// How pods' packets are told from others: cluster-cidr, node-cidr, bridge:NAME,
    /// prefix:NAME, none [default: as the agent: cluster-cidr, in mode nftables node-cidr]
    #[arg(long, value_name = "HOW")]
    pub(crate) detect_local: Option<DetectLocal>,
    /// Which generation of kube-proxy's chains
    #[arg(long, value_enum, default_value_t = Compat::Current)]
    pub(crate) iptables_compat: Compat,
    /// Masquerade all that is sent to cluster addresses
    #[arg(long, default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = false)]
    pub(crate) masquerade_all: bool,
    /// The bit of the mark that stands for "masquerade"
    #[arg(long, value_name = "BIT", default_value_t = 14, value_parser = clap::value_parser!(u8).range(0..=31))]
    pub(crate) masquerade_bit: u8,
    /// Where node ports answer: ranges, or `primary` [default: everywhere]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) nodeport_addresses: Vec<String>,
    /// Whether node ports answer at 127.0.0.1 too
    #[arg(long, default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = true)]
    pub(crate) localhost_nodeports: bool,
    /// Count what kube-proxy counts, where the kernel has nfacct
    #[arg(long)]
    pub(crate) nfacct: bool,
    /// Count bytes, in mode nftables
    #[arg(long)]
    pub(crate) count_bytes: bool,
    /// Only this family's rules [default: of each family that a Service has]
    #[arg(long, value_enum)]
    pub(crate) family: Option<FamilyName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Iptables,
    Nftables,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Compat {
    /// kube-proxy 1.26 and later
    Current,
    /// kube-proxy 1.23
    #[value(name = "1.23")]
    V1_23,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FamilyName {
    Ipv4,
    Ipv6,
}

/// `--detect-local`.
#[derive(Clone, Debug)]
pub(crate) enum DetectLocal {
    ClusterCidr,
    NodeCidr,
    Bridge(String),
    Prefix(String),
    None,
}

impl FromStr for DetectLocal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("bridge", name)) if !name.is_empty() => Ok(Self::Bridge(name.to_owned())),
            Some(("prefix", name)) if !name.is_empty() => Ok(Self::Prefix(name.to_owned())),
            None if text == "cluster-cidr" => Ok(Self::ClusterCidr),
            None if text == "node-cidr" => Ok(Self::NodeCidr),
            None if text == "none" => Ok(Self::None),
            Some(_) | None => {
                Err("give cluster-cidr, node-cidr, bridge:NAME, prefix:NAME or none".to_owned())
            }
        }
    }
}

impl RuleArgs {
    /// The objects that changes make, compiled for the node. Without a kernel to ask, it has
    /// the addresses that it is known by.
    pub(crate) fn compile(&self, changes: Vec<Change>) -> anyhow::Result<Compiler> {
        self.compile_for(&self.node, changes)
    }

    /// The same for a node that is not the one named.
    pub(crate) fn compile_for(&self, node: &str, changes: Vec<Change>) -> anyhow::Result<Compiler> {
        let settings = Settings {
            node: NodeName::from(node),
            service_ranges: self.service_cidr.clone(),
            proxy: self.proxy()?,
            fabric: Default::default(),
        };
        let mut compiler = Compiler::new(settings);
        compiler.apply_all(changes);
        let own = compiler.own_node().into_iter();
        let known = own.flat_map(|node| node.internal_ips.iter().copied());
        let known: BTreeSet<IpAddr> = known.collect();
        compiler.set_own_addresses(known);
        Ok(compiler)
    }

    fn proxy(&self) -> anyhow::Result<ProxySettings> {
        let node_ports_at = match &self.nodeport_addresses[..] {
            [] => NodePortsAt::All,
            [word] if word == "primary" => NodePortsAt::Primary,
            ranges => {
                let ranges = ranges.iter().map(|range| {
                    let parsed: Result<IpNet, _> = range.parse();
                    parsed.map_err(|_| {
                        let text =
                            format!("--nodeport-addresses {range}: give ranges, or `primary`");
                        anyhow::Error::from(Usage(text))
                    })
                });
                NodePortsAt::Within(ranges.collect::<anyhow::Result<BTreeSet<IpNet>>>()?)
            }
        };
        let detect_local = match (&self.detect_local, self.mode) {
            (Some(how), _) => how,
            (None, Mode::Iptables) => &DetectLocal::ClusterCidr,
            (None, Mode::Nftables) => &DetectLocal::NodeCidr,
        };
        let local = match detect_local {
            DetectLocal::ClusterCidr => {
                LocalMode::Ranges(self.cluster_cidr.iter().copied().collect())
            }
            DetectLocal::NodeCidr => LocalMode::NodeRanges,
            DetectLocal::Bridge(name) => LocalMode::Bridge(name.as_str().into()),
            DetectLocal::Prefix(name) => LocalMode::InterfacePrefix(name.as_str().into()),
            DetectLocal::None => LocalMode::Nothing,
        };
        Ok(ProxySettings {
            node_ports_at,
            local,
            masquerade_all: self.masquerade_all,
            localhost_node_ports: self.localhost_nodeports,
            by_chance: match self.mode {
                Mode::Iptables => true,
                Mode::Nftables => false,
            },
        })
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            generation: match self.iptables_compat {
                Compat::Current => Generation::Current,
                Compat::V1_23 => Generation::V1_23,
            },
            masquerade_bit: self.masquerade_bit,
            counters: self.nfacct,
            ..Options::default()
        }
    }

    /// The families that any of these has.
    pub(crate) fn families_of<const N: usize>(&self, all: [&Desired; N]) -> BTreeSet<IpFamily> {
        let families = all.into_iter().flat_map(|desired| self.families(desired));
        families.collect()
    }

    pub(crate) fn families(&self, desired: &Desired) -> Vec<IpFamily> {
        match self.family {
            Some(FamilyName::Ipv4) => vec![IpFamily::V4],
            Some(FamilyName::Ipv6) => vec![IpFamily::V6],
            None => {
                let used: BTreeSet<IpFamily> =
                    desired.services.keys().map(|key| key.family).collect();
                if used.is_empty() {
                    vec![IpFamily::V4]
                } else {
                    used.into_iter().collect()
                }
            }
        }
    }
}

/// What an object changes in the model; nothing if it is of a kind that no rule depends on.
pub(crate) fn decode(from: &str, mut object: Value) -> anyhow::Result<Option<Change>> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    if kind != "Node" && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = "default".into();
    }
    let change = match kind.as_str() {
        "Service" => weft_kube::service(&typed(from, object)?),
        "EndpointSlice" => weft_kube::endpoint_slice(&typed(from, object)?),
        "Node" => weft_kube::node(&typed(from, object)?),
        "Pod" => weft_kube::pod(&typed(from, object)?),
        _ => None,
    };
    Ok(change)
}

fn typed<T: DeserializeOwned>(from: &str, object: Value) -> anyhow::Result<T> {
    let name = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let what = format!(
        "{from}: {} {}/{}",
        object["kind"].as_str().unwrap_or_default(),
        name("namespace"),
        name("name")
    );
    serde_json::from_value(object)
        .map_err(|error| Usage(format!("{what} is not as the API has it: {error}")).into())
}
