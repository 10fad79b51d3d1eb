//! The agent's configuration: `config.yaml` of the ConfigMap `weft`.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use weft_compile::{LocalMode, ProxySettings};
use weft_iptables::{Generation, Options};
use weft_proto::cni::InterfaceName;
use weft_proto::flannel::NetConf;

use super::fabric::FabricConfig;
use super::proxy::ProxyConfig;
use super::stale::Ended;

/// flannel's configuration: the key of the ConfigMap kube-flannel-cfg.
const NET_CONF: &str = "net-conf.json";

/// As written in the file. Unknown fields are errors: a misspelt one would be a
/// setting that silently does not hold.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Config {
    /// The cluster's pod ranges, at most one a family; or those of net-conf.json.
    #[serde(rename = "podCIDRs", default)]
    pub(super) pod_cidrs: Vec<IpNet>,
    /// The cluster's Service ranges, at most one a family.
    #[serde(rename = "serviceCIDRs")]
    pub(super) service_cidrs: Vec<IpNet>,
    /// The API's URL; empty for the pod's own environment or the kubeconfig.
    #[serde(default)]
    pub(super) api_server: String,
    /// How pods of different nodes reach each other.
    #[serde(default)]
    pub(super) fabric: FabricConfig,
    /// How Services are translated.
    #[serde(default)]
    pub(super) mode: Mode,
    /// How, beside what Services say themselves.
    #[serde(default)]
    pub(super) proxy: ProxyConfig,
    /// What the CNI plugin is told.
    #[serde(default)]
    pub(super) cni: Cni,
    /// What holds in mode nftables.
    #[serde(default)]
    pub(super) nftables: Nftables,
    /// What holds in mode iptables.
    #[serde(default)]
    pub(super) iptables: Iptables,
    /// How long the prefixes of nodes' parts of the pod ranges are to be, if net-conf.json says so.
    #[serde(skip)]
    node_masks: Vec<u8>,
    /// Fields of net-conf.json that have no effect.
    #[serde(skip)]
    pub(super) without_effect: Vec<String>,
}

/// The section `cni`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Cni {
    /// The bridge that pods are ports of; without, their links are routed.
    #[serde(deserialize_with = "bridge_name")]
    pub(super) bridge: Option<InterfaceName>,
    /// Whether a pod starts only when the agent says that its policies are in force.
    pub(super) wait_for_policy: bool,
}

fn bridge_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<InterfaceName>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    let name = text.map(InterfaceName::try_from).transpose();
    name.map_err(|error| D::Error::custom(format_args!("cni.bridge: {error}")))
}

/// The section `nftables`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Nftables {
    /// Whether all packets of connections to Services are counted, not only the connections.
    pub(super) count_bytes: bool,
}

/// The section `iptables`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Iptables {
    /// Which generation of kube-proxy's chains.
    pub(super) compat: Compat,
    /// The bit of the mark that stands for "masquerade".
    pub(super) masquerade_bit: u8,
    /// Whether node ports answer at 127.0.0.1 too.
    pub(super) localhost_node_ports: bool,
}

impl Default for Iptables {
    /// kube-proxy's.
    fn default() -> Self {
        Self {
            compat: Compat::Current,
            masquerade_bit: 14,
            localhost_node_ports: true,
        }
    }
}

/// Generations of kube-proxy's chains.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) enum Compat {
    /// kube-proxy 1.26 and later.
    #[default]
    #[serde(rename = "current")]
    Current,
    /// kube-proxy 1.23.
    #[serde(rename = "1.23")]
    V1_23,
}

/// Service back ends.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// nf_tables, over netlink.
    #[default]
    Nftables,
    /// kube-proxy's chains, by iptables' programs.
    Iptables,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
        })
    }
}

/// What a cluster's addresses are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterRanges {
    /// Of pods, the primary family's first.
    pub(crate) pods: Vec<IpNet>,
    /// How long the prefixes of nodes' parts of those are to be, if that is said.
    pub(crate) node_masks: Vec<u8>,
    /// Of Services.
    pub(crate) services: Vec<IpNet>,
    /// The API's URL, if the configuration gives one.
    pub(crate) api_server: Option<String>,
}

/// What the agents' configuration says of the cluster's addresses.
pub(crate) fn cluster_ranges(path: &Path) -> Result<ClusterRanges> {
    let config = Config::read(path, None)?;
    Ok(ClusterRanges {
        api_server: config.api_server(),
        node_masks: config.node_masks,
        pods: config.pod_cidrs,
        services: config.service_cidrs,
    })
}

impl Config {
    /// Reads and checks a configuration file, and flannel's, which may be beside it.
    pub(super) fn read(path: &Path, net_conf: Option<&Path>) -> Result<Self> {
        let what = || format!("the agent's configuration {}", path.display());
        let text = std::fs::read_to_string(path).with_context(what)?;
        let beside = path.with_file_name(NET_CONF);
        let flannel = match net_conf {
            Some(path) => Some((path, std::fs::read(path))),
            None => match std::fs::read(&beside) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                read => Some((&*beside, read)),
            },
        };
        let flannel = match flannel {
            None => None,
            Some((path, read)) => {
                let what = || format!("flannel's configuration {}", path.display());
                let text = read.with_context(what)?;
                Some(NetConf::parse(&text).with_context(what)?)
            }
        };
        Self::parse(&text, flannel.as_ref()).with_context(what)
    }

    /// Checks the text of a configuration file, with what flannel's says beside it.
    pub(super) fn parse(text: &str, flannel: Option<&NetConf>) -> Result<Self> {
        let mut config: Config = serde_norway::from_str(text)?;
        if let Some(flannel) = flannel {
            config.take_flannel(flannel).context(NET_CONF)?;
        }
        one_per_family("podCIDRs", &config.pod_cidrs)?;
        one_per_family("serviceCIDRs", &config.service_cidrs)?;
        for pods in &config.pod_cidrs {
            for services in &config.service_cidrs {
                if pods.contains(services) || services.contains(pods) {
                    bail!("podCIDRs {pods} and serviceCIDRs {services} overlap; give ranges apart");
                }
            }
        }
        if config.iptables.masquerade_bit > 31 {
            bail!("iptables.masqueradeBit: a mark has the bits 0 to 31; kube-proxy takes 14");
        }
        config.proxy.settings()?;
        config.fabric.settings()?;
        config.fabric.interface()?;
        Ok(config)
    }

    /// Nodes' ranges and how they are reached are as flannel's configuration says. What of it is
    /// said here too has to be the same.
    fn take_flannel(&mut self, flannel: &NetConf) -> Result<()> {
        let networks: Vec<IpNet> = flannel.pools().map(|pool| pool.network).collect();
        if self.pod_cidrs.is_empty() {
            self.pod_cidrs = networks;
        } else {
            let here: BTreeSet<IpNet> = self.pod_cidrs.iter().copied().collect();
            if here != networks.iter().copied().collect() {
                bail!(
                    "Network: {networks:?}, but podCIDRs of config.yaml are {:?}; say the same, \
                     or leave podCIDRs out",
                    self.pod_cidrs
                );
            }
        }
        let of = |range: &IpNet| flannel.pools().find(|pool| pool.network == *range);
        let pools = self.pod_cidrs.iter().filter_map(of);
        self.node_masks = pools.map(|pool| pool.subnet_len).collect();
        self.without_effect.clone_from(&flannel.unknown);
        self.fabric.take_flannel(&flannel.backend)
    }

    /// How Services are translated, whatever they say themselves.
    pub(super) fn proxy(&self) -> Result<ProxySettings> {
        let mut settings = self.proxy.settings()?;
        match self.mode {
            Mode::Nftables => {}
            Mode::Iptables => {
                if !self.proxy.says_who_is_local() {
                    // As kube-proxy is mostly set up.
                    settings.local = LocalMode::Ranges(self.pod_cidrs.iter().copied().collect());
                }
                settings.localhost_node_ports = self.iptables.localhost_node_ports;
                settings.by_chance = true;
            }
        }
        Ok(settings)
    }

    /// What mode iptables asks of the rules; none in other modes.
    pub(super) fn iptables(&self) -> Option<Options> {
        match self.mode {
            Mode::Nftables => None,
            Mode::Iptables => Some(Options {
                generation: match self.iptables.compat {
                    Compat::Current => Generation::Current,
                    Compat::V1_23 => Generation::V1_23,
                },
                masquerade_bit: self.iptables.masquerade_bit,
                reset_refused: self.proxy.ended() == Ended::Everything,
                ..Options::default()
            }),
        }
    }

    /// The API's URL, if the configuration gives one.
    pub(super) fn api_server(&self) -> Option<String> {
        (!self.api_server.is_empty()).then(|| self.api_server.clone())
    }
}

fn one_per_family(field: &str, ranges: &[IpNet]) -> Result<()> {
    if ranges.is_empty() {
        bail!("{field}: give at least one range, such as 10.244.0.0/16");
    }
    for (index, range) in ranges.iter().enumerate() {
        let is_v4 = |range: &IpNet| matches!(range, IpNet::V4(_));
        if ranges[..index]
            .iter()
            .any(|other| is_v4(other) == is_v4(range))
        {
            bail!(
                "{field}[{index}]: {range} is the second range of its family; give one IPv4 and one IPv6 range at most"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use weft_compile::{FabricBackend, FabricSettings};

    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", Config::parse(text, None).unwrap_err())
    }

    #[test]
    fn the_deployed_configuration_is_valid() {
        let manifests = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/weft.yaml"
        ));
        let text = serde_norway::Deserializer::from_str(manifests)
            .map(|document| serde_json::Value::deserialize(document).unwrap())
            .find(|object| object["kind"] == "ConfigMap")
            .map(|object| object["data"]["config.yaml"].as_str().unwrap().to_owned())
            .unwrap();
        let config = Config::parse(&text, None).unwrap();
        assert_eq!(config.mode, Mode::Nftables);
        assert_eq!(config.pod_cidrs.len(), 2);
        assert_eq!(config.api_server(), None);
    }

    #[test]
    fn who_is_local_is_what_the_file_says_in_every_mode() {
        let local = |rest: &str| {
            let text = format!("podCIDRs: [10.1.0.0/16]\nserviceCIDRs: [10.96.0.0/12]\n{rest}");
            Config::parse(&text, None).unwrap().proxy().unwrap().local
        };
        let said = "proxy: {detectLocalMode: NodeCIDR}";
        assert_eq!(local(said), LocalMode::NodeRanges);
        assert_eq!(
            local(&format!("mode: iptables\n{said}")),
            LocalMode::NodeRanges
        );
        assert_eq!(local("mode: nftables"), LocalMode::NodeRanges);
        let pods = LocalMode::Ranges(["10.1.0.0/16".parse().unwrap()].into());
        assert_eq!(local("mode: iptables"), pods);
    }

    #[test]
    fn what_holds_for_every_client_is_the_same_in_every_mode() {
        let settings = |mode: &str| {
            let text = format!(
                "podCIDRs: [10.1.0.0/16]\nserviceCIDRs: [10.96.0.0/12]\nmode: {mode}\n\
                 proxy: {{masqueradeAll: true, nodePortAddresses: [10.0.0.0/8, \"fd00::/8\"], \
                 detectLocalMode: NodeCIDR}}"
            );
            Config::parse(&text, None).unwrap().proxy().unwrap()
        };
        let (nftables, iptables) = (settings("nftables"), settings("iptables"));
        assert!(nftables.masquerade_all);
        // Only iptables' packets can come from 127.0.0.1.
        assert!(iptables.localhost_node_ports);
        let at_home = ProxySettings {
            localhost_node_ports: true,
            by_chance: true,
            ..nftables
        };
        assert_eq!(iptables, at_home);
        for mode in ["nftables", "iptables"] {
            let text = format!(
                "podCIDRs: [10.1.0.0/16]\nserviceCIDRs: [10.96.0.0/12]\nmode: {mode}\n\
                 proxy: {{nodePortAddresses: [10.0.0.0]}}"
            );
            assert!(
                error(&text).starts_with("proxy.nodePortAddresses"),
                "{mode}"
            );
        }
    }

    #[test]
    fn errors_name_the_field() {
        assert!(error("podCIDRs: [10.0.0.0/8]\nserviceCIDRs: [10.96.0.0/12]").contains("overlap"));
        assert!(error("podCIDRs: []\nserviceCIDRs: [10.96.0.0/12]").starts_with("podCIDRs: give"));
        assert!(
            error("podCIDRs: [10.1.0.0/16, 10.2.0.0/16]\nserviceCIDRs: [10.96.0.0/12]")
                .starts_with("podCIDRs[1]")
        );
        assert!(error("podCIDR: [10.1.0.0/16]").contains("podCIDR"));
        assert!(
            error("podCIDRs: [10.1.0.0/16]\nserviceCIDRs: [10.96.0.0/12]\nmode: ebpf")
                .contains("mode")
        );
        let iptables = "podCIDRs: [10.1.0.0/16]\nserviceCIDRs: [10.96.0.0/12]\nmode: iptables\n";
        let bit = format!("{iptables}iptables: {{masqueradeBit: 32}}");
        assert!(error(&bit).starts_with("iptables.masqueradeBit"));
        let bridge = |name| format!("{iptables}cni: {{bridge: {name}}}");
        assert!(error(&bridge("a/b")).contains("cni.bridge"));
        let named = Config::parse(&bridge("cni0"), None).unwrap().cni.bridge;
        assert_eq!(named.unwrap().as_str(), "cni0");
        let compat = format!("{iptables}iptables: {{compat: 1.22}}");
        assert!(error(&compat).contains("compat"));
        let config =
            Config::parse(&format!("{iptables}iptables: {{compat: \"1.23\"}}"), None).unwrap();
        assert_eq!(config.iptables().unwrap().generation, Generation::V1_23);
    }

    /// As kube-flannel's manifest has it.
    const FLANNEL: &str = r#"{
        "Network": "10.244.0.0/16", "EnableNFTables": false,
        "IPv6Network": "fd00:10:244::/48", "EnableIPv6": true, "SubnetLen": 25,
        "Backend": {"Type": "vxlan", "VNI": 7, "Port": 4789, "DirectRouting": true, "MTU": 1400}
    }"#;

    fn with_flannel(config: &str, flannel: &str) -> Result<Config> {
        let config = format!("serviceCIDRs: [10.96.0.0/12]\n{config}");
        let flannel = NetConf::parse(flannel.as_bytes())?;
        Config::parse(&config, Some(&flannel))
    }

    #[test]
    fn flannel_s_configuration_is_taken_as_flannel_s() {
        let config = with_flannel("", FLANNEL).unwrap();
        let ranges = ["10.244.0.0/16", "fd00:10:244::/48"].map(|it| it.parse().unwrap());
        assert_eq!(config.pod_cidrs, ranges);
        assert_eq!(config.node_masks, [25, 64]);
        let vxlan = FabricSettings {
            backend: FabricBackend::Vxlan,
            vni: 7,
            port: 4789,
            direct_routing: true,
            mtu: Some(1400),
            datagrams: true,
            ..FabricSettings::default()
        };
        assert_eq!(config.fabric.settings().unwrap(), vxlan);
        // What flannel has flags for may be said beside it, and so may the same ranges, in the
        // order of their importance.
        let more = "podCIDRs: [\"fd00:10:244::/48\", 10.244.0.0/16]\n\
                    fabric: {interface: {name: eth1}}";
        let config = with_flannel(more, FLANNEL).unwrap();
        assert_eq!(config.pod_cidrs, [ranges[1], ranges[0]]);
        assert_eq!(config.node_masks, [64, 25]);
        assert!(config.fabric.interface().unwrap().is_some());
        let plain = |backend: &str| {
            let text = format!(r#"{{"Network": "10.244.0.0/16", "Backend": {backend}}}"#);
            let config = with_flannel("", &text).unwrap();
            config.fabric.settings().unwrap().backend
        };
        assert_eq!(plain(r#"{"Type": "host-gw"}"#), FabricBackend::HostGw);
        assert_eq!(plain(r#"{"Type": "udp"}"#), FabricBackend::Udp);
    }

    #[test]
    fn what_flannel_s_configuration_gets_wrong_is_named() {
        let said = |config: &str, flannel: &str| {
            format!("{:#}", with_flannel(config, flannel).unwrap_err())
        };
        let change = |from: &str, to: &str| FLANNEL.replace(from, to);
        for (flannel, field) in [
            ("{", "no JSON"),
            (&*change("10.244.0.0/16", "10.244.0.0"), "Network: "),
            (&change("fd00:10:244::/48", "10.0.0.0/8"), "IPv6Network: "),
            (
                &change("true, \"SubnetLen\"", "7, \"SubnetLen\""),
                "EnableIPv6: ",
            ),
            (&change("\"vxlan\"", "\"ipsec\""), "Backend.Type: "),
            (&change("\"VNI\": 7", "\"VNI\": 16777216"), "Backend.VNI: "),
            (&change("4789", "70000"), "Backend.Port: "),
            (
                &change("true, \"MTU\"", "1, \"MTU\""),
                "Backend.DirectRouting: ",
            ),
            (&change("1400", "7"), "Backend.MTU: "),
        ] {
            let said = said("", flannel);
            assert!(said.contains(field), "{field}: {said}");
        }
        let elsewhere = said("podCIDRs: [10.1.0.0/16]", FLANNEL);
        assert!(
            elsewhere.contains("Network: ") && elsewhere.contains("10.1.0.0/16"),
            "{elsewhere}"
        );
        let twice = said("fabric: host-gw", FLANNEL);
        assert!(
            twice.contains("Backend.Type: vxlan, but fabric.type"),
            "{twice}"
        );
        let inside = r#"{"Network": "10.96.0.0/16", "Backend": {"Type": "vxlan"}}"#;
        assert!(said("", inside).contains("overlap"));
    }
}
