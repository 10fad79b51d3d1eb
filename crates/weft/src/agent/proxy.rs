//! How Services are translated: the part of the configuration that `kube-proxy` has too,
//! with its names.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::Deserialize;
use weft_compile::{LocalMode, NodePortsAt, ProxySettings};
use weft_serve::ListenAddress;

use super::stale::Ended;

/// `proxy` in the configuration file.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ProxyConfig {
    /// Ranges of the addresses at which node ports answer, or only `primary`. Empty: all.
    #[serde(default)]
    node_port_addresses: Vec<String>,
    /// Whether every connection to a Service's own address gets the node's.
    #[serde(default)]
    masquerade_all: bool,
    /// How pods' packets are told from those from beyond the cluster. Without it the
    /// mode says.
    #[serde(default)]
    detect_local_mode: Option<DetectLocalMode>,
    /// For `ClusterCIDR`; the configuration's `podCIDRs` serve others.
    #[serde(default, rename = "clusterCIDR")]
    cluster_cidr: String,
    /// For the other modes.
    #[serde(default)]
    detect_local: DetectLocal,
    /// Whether connections by TCP are reset when their endpoint is gone. Those by UDP are
    /// ended in any case.
    #[serde(default)]
    reset_gone_connections: bool,
    /// Whether a socket of the agent stands behind each node port, so that no other program
    /// takes it and `ss` shows it.
    #[serde(default)]
    hold_node_ports: bool,
    /// Where it is told whether the node's Services are kept up to date; empty: nowhere.
    #[serde(default = "default_healthz")]
    healthz_bind_address: String,
    /// Where metrics are; empty: nowhere.
    #[serde(default = "default_metrics")]
    metrics_bind_address: String,
}

fn default_healthz() -> String {
    "0.0.0.0:10256".to_owned()
}

fn default_metrics() -> String {
    "127.0.0.1:10249".to_owned()
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            node_port_addresses: Vec::new(),
            masquerade_all: false,
            detect_local_mode: None,
            cluster_cidr: String::new(),
            detect_local: DetectLocal::default(),
            reset_gone_connections: false,
            hold_node_ports: false,
            healthz_bind_address: default_healthz(),
            metrics_bind_address: default_metrics(),
        }
    }
}

/// `detectLocalMode`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
enum DetectLocalMode {
    /// By the ranges in `clusterCIDR`.
    #[serde(rename = "ClusterCIDR")]
    ClusterCidr,
    /// By the node's own pod ranges.
    #[serde(rename = "NodeCIDR")]
    NodeCidr,
    /// By the bridge they come through.
    BridgeInterface,
    /// By the start of the name of the device they come through.
    InterfaceNamePrefix,
}

/// `detectLocal`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DetectLocal {
    #[serde(default)]
    bridge_interface: String,
    #[serde(default)]
    interface_name_prefix: String,
}

/// `IFNAMSIZ`, without the end.
const LONGEST_DEVICE: usize = 15;

impl ProxyConfig {
    /// Checks it, and says what it means.
    pub(super) fn settings(&self) -> Result<ProxySettings> {
        self.healthz_address()?;
        self.metrics_address()?;
        Ok(ProxySettings {
            node_ports_at: self.node_ports_at()?,
            local: self.local()?,
            masquerade_all: self.masquerade_all,
            localhost_node_ports: false,
            by_chance: false,
        })
    }

    /// Which connections are ended when their endpoint is gone.
    pub(super) fn ended(&self) -> Ended {
        if self.reset_gone_connections {
            Ended::Everything
        } else {
            Ended::Datagrams
        }
    }

    /// Whether sockets stand behind node ports.
    pub(super) fn holds_node_ports(&self) -> bool {
        self.hold_node_ports
    }

    /// Whether it says how pods' packets are told from others.
    pub(super) fn says_who_is_local(&self) -> bool {
        self.detect_local_mode.is_some()
    }

    /// `healthzBindAddress`, if there is to be one.
    pub(super) fn healthz_address(&self) -> Result<Option<ListenAddress>> {
        listen_address("proxy.healthzBindAddress", &self.healthz_bind_address)
    }

    /// `metricsBindAddress`, if there is to be one.
    pub(super) fn metrics_address(&self) -> Result<Option<ListenAddress>> {
        listen_address("proxy.metricsBindAddress", &self.metrics_bind_address)
    }

    fn node_ports_at(&self) -> Result<NodePortsAt> {
        match self.node_port_addresses.as_slice() {
            [] => Ok(NodePortsAt::All),
            [only] if only == "primary" => Ok(NodePortsAt::Primary),
            texts => ranges("proxy.nodePortAddresses", texts.iter().map(String::as_str))
                .map(NodePortsAt::Within),
        }
    }

    fn local(&self) -> Result<LocalMode> {
        let device = |name: &str, field| {
            if name.is_empty() || name.len() > LONGEST_DEVICE {
                bail!("proxy.detectLocal.{field}: give a device's name of 1 to 15 bytes");
            }
            Ok(name.into())
        };
        let Some(mode) = self.detect_local_mode else {
            return Ok(LocalMode::default());
        };
        Ok(match mode {
            DetectLocalMode::NodeCidr => LocalMode::NodeRanges,
            DetectLocalMode::ClusterCidr if self.cluster_cidr.is_empty() => {
                bail!("proxy.clusterCIDR: detectLocalMode ClusterCIDR needs it, like 10.244.0.0/16")
            }
            DetectLocalMode::ClusterCidr => {
                let texts = self.cluster_cidr.split(',').map(str::trim);
                LocalMode::Ranges(ranges("proxy.clusterCIDR", texts)?)
            }
            DetectLocalMode::BridgeInterface => LocalMode::Bridge(device(
                &self.detect_local.bridge_interface,
                "bridgeInterface",
            )?),
            DetectLocalMode::InterfaceNamePrefix => LocalMode::InterfacePrefix(device(
                &self.detect_local.interface_name_prefix,
                "interfaceNamePrefix",
            )?),
        })
    }
}

/// 0.0.0.0 and :: are all addresses, as for everything written in Go.
fn listen_address(field: &str, text: &str) -> Result<Option<ListenAddress>> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text
        .parse()
        .with_context(|| format!("{field}: {text:?} is not like 0.0.0.0:10256"))?;
    Ok(Some(match address {
        ListenAddress::One(one) if one.ip().is_unspecified() => ListenAddress::All(one.port()),
        address @ (ListenAddress::All(_) | ListenAddress::One(_)) => address,
    }))
}

fn ranges<'a>(field: &str, texts: impl Iterator<Item = &'a str>) -> Result<BTreeSet<IpNet>> {
    texts
        .map(|text| {
            text.parse::<IpNet>()
                .map(|range| range.trunc())
                .with_context(|| format!("{field}: {text:?} is not a range like 192.0.2.0/24"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<ProxySettings> {
        serde_norway::from_str::<ProxyConfig>(text)?.settings()
    }

    #[test]
    fn names_are_those_of_kube_proxy() {
        let found = settings(
            "nodePortAddresses: [primary]\nmasqueradeAll: true\ndetectLocalMode: ClusterCIDR\n\
             clusterCIDR: 10.244.0.0/16, fd00:10:244::/56",
        );
        let ranges = ["10.244.0.0/16", "fd00:10:244::/56"].map(|text| text.parse().unwrap());
        let expected = ProxySettings {
            node_ports_at: NodePortsAt::Primary,
            local: LocalMode::Ranges(ranges.into()),
            masquerade_all: true,
            localhost_node_ports: false,
            by_chance: false,
        };
        assert_eq!(found.unwrap(), expected);
        assert_eq!(settings("{}").unwrap(), ProxySettings::default());
        let found =
            settings("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}");
        assert_eq!(found.unwrap().local, LocalMode::Bridge("cni0".into()));
    }

    #[test]
    fn an_address_without_a_host_is_all_and_an_empty_one_is_none() {
        let addresses = |text: &str| {
            let config = serde_norway::from_str::<ProxyConfig>(text).unwrap();
            let show = |address: Result<Option<ListenAddress>>| {
                address.unwrap().map(|address| address.to_string())
            };
            (
                show(config.healthz_address()),
                show(config.metrics_address()),
            )
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(addresses("{}"), (some(":10256"), some("127.0.0.1:10249")));
        let text = "healthzBindAddress: '[::]:1'\nmetricsBindAddress: ''";
        assert_eq!(addresses(text), (some(":1"), None));
    }

    #[test]
    fn errors_name_the_field() {
        for (text, field) in [
            (
                "nodePortAddresses: [primary, 10.0.0.0/8]",
                "proxy.nodePortAddresses",
            ),
            ("detectLocalMode: ClusterCIDR", "proxy.clusterCIDR"),
            (
                "detectLocalMode: InterfaceNamePrefix",
                "proxy.detectLocal.interfaceNamePrefix",
            ),
            ("metricsBindAddress: 10249", "proxy.metricsBindAddress"),
            (
                "healthzBindAddress: localhost:1",
                "proxy.healthzBindAddress",
            ),
        ] {
            let error = format!("{:#}", settings(text).unwrap_err());
            assert!(error.starts_with(field), "{error}");
        }
    }
}
