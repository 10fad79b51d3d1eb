//! How Services are translated: the part of the configuration that `kube-proxy` has too,
//! with its names.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::Deserialize;
use weft_compile::{LocalMode, NodePortsAt, ProxySettings};

use super::stale::Ended;

/// `proxy` in the configuration file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
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
        Ok(ProxySettings {
            node_ports_at: self.node_ports_at()?,
            local: self.local()?,
            masquerade_all: self.masquerade_all,
            localhost_node_ports: false,
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
        };
        assert_eq!(found.unwrap(), expected);
        assert_eq!(settings("{}").unwrap(), ProxySettings::default());
        let found =
            settings("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}");
        assert_eq!(found.unwrap().local, LocalMode::Bridge("cni0".into()));
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
        ] {
            let error = format!("{:#}", settings(text).unwrap_err());
            assert!(error.starts_with(field), "{error}");
        }
    }
}
