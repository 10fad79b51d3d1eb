//! The agent's configuration: `config.yaml` of the ConfigMap `weft`.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use weft_compile::{LocalMode, ProxySettings};
use weft_iptables::{Generation, Options};
use weft_proto::cni::InterfaceName;

use super::fabric::FabricConfig;
use super::proxy::ProxyConfig;
use super::stale::Ended;

/// As written in the file. Unknown fields are errors: a misspelt one would be a
/// setting that silently does not hold.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Config {
    /// The cluster's pod ranges, at most one a family.
    #[serde(rename = "podCIDRs")]
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
    /// Of Services.
    pub(crate) services: Vec<IpNet>,
    /// The API's URL, if the configuration gives one.
    pub(crate) api_server: Option<String>,
}

/// What the agents' configuration says of the cluster's addresses.
pub(crate) fn cluster_ranges(path: &Path) -> Result<ClusterRanges> {
    let config = Config::read(path)?;
    Ok(ClusterRanges {
        api_server: config.api_server(),
        pods: config.pod_cidrs,
        services: config.service_cidrs,
    })
}

impl Config {
    /// Reads and checks a configuration file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the agent's configuration {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("the agent's configuration {}", path.display()))
    }

    /// Checks the text of a configuration file.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let config: Config = serde_norway::from_str(text)?;
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
        Ok(config)
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
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", Config::parse(text).unwrap_err())
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
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.mode, Mode::Nftables);
        assert_eq!(config.pod_cidrs.len(), 2);
        assert_eq!(config.api_server(), None);
    }

    #[test]
    fn who_is_local_is_what_the_file_says_in_every_mode() {
        let local = |rest: &str| {
            let text = format!("podCIDRs: [10.1.0.0/16]\nserviceCIDRs: [10.96.0.0/12]\n{rest}");
            Config::parse(&text).unwrap().proxy().unwrap().local
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
            Config::parse(&text).unwrap().proxy().unwrap()
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
        let named = Config::parse(&bridge("cni0")).unwrap().cni.bridge;
        assert_eq!(named.unwrap().as_str(), "cni0");
        let compat = format!("{iptables}iptables: {{compat: 1.22}}");
        assert!(error(&compat).contains("compat"));
        let config = Config::parse(&format!("{iptables}iptables: {{compat: \"1.23\"}}")).unwrap();
        assert_eq!(config.iptables().unwrap().generation, Generation::V1_23);
    }
}
