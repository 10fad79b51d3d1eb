//! The section `fabric` of the agent's configuration, and what the agent tells other nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Result, bail};
use ipnet::IpNet;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use weft_compile::{FabricBackend, FabricSettings};
use weft_desired::{Desired, IpFamily};
use weft_model::{Announced, Node, Vtep};

/// How pods of different nodes reach each other: the name of a back end, or that and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FabricConfig(Section);

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Section {
    #[serde(rename = "type")]
    kind: Kind,
    /// The tunnels' network identifier.
    vni: Option<u32>,
    /// The tunnels' UDP port, or that of type udp.
    port: Option<u16>,
    /// Whether nodes on a network of this node's are reached without a tunnel.
    direct_routing: bool,
    /// Bytes of the largest packet in a tunnel.
    mtu: Option<u32>,
}

/// Back ends.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// Routes through the other nodes' own addresses.
    #[default]
    HostGw,
    /// VXLAN.
    Vxlan,
    /// UDP datagrams that are packets.
    Udp,
    /// Routes where nodes are on one network, else VXLAN.
    Auto,
}

impl FabricConfig {
    /// What the compiler makes of it.
    pub(super) fn settings(self) -> Result<FabricSettings> {
        let Section {
            kind,
            vni,
            port,
            direct_routing,
            mtu,
        } = self.0;
        let default = FabricSettings::default();
        let vni = vni.unwrap_or(default.vni);
        if vni == 0 || vni >= 1 << 24 {
            bail!("fabric.vni: {vni} is no network identifier (1 to 16777215); flannel takes 1");
        }
        if port == Some(0) {
            bail!(
                "fabric.port: 0 is no UDP port; flannel takes 8472 for vxlan (RFC 7348 has 4789), \
                 and 8285 for udp"
            );
        }
        if mtu.is_some_and(|mtu| mtu < 1280) {
            bail!("fabric.mtu: no less than 1280 bytes, the least that IPv6 works with");
        }
        let (backend, direct_routing) = match kind {
            Kind::HostGw => (FabricBackend::HostGw, true),
            Kind::Vxlan => (FabricBackend::Vxlan, direct_routing),
            Kind::Udp => (FabricBackend::Udp, direct_routing),
            Kind::Auto => (FabricBackend::Vxlan, true),
        };
        let ports = match backend {
            FabricBackend::Udp => (None, port),
            FabricBackend::HostGw | FabricBackend::Vxlan => (port, None),
        };
        Ok(FabricSettings {
            backend,
            vni,
            port: ports.0.unwrap_or(default.port),
            datagrams: true,
            udp_port: ports.1.unwrap_or(default.udp_port),
            direct_routing,
            mtu,
        })
    }
}

impl<'de> Deserialize<'de> for FabricConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrSection;

        impl<'de> Visitor<'de> for NameOrSection {
            type Value = FabricConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("host-gw, vxlan, udp or auto, or a section with that as its type")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<FabricConfig, E> {
                let kind = Kind::deserialize(StrDeserializer::new(name))?;
                Ok(FabricConfig(Section {
                    kind,
                    ..Section::default()
                }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FabricConfig, A::Error> {
                Section::deserialize(MapAccessDeserializer::new(map)).map(FabricConfig)
            }
        }

        deserializer.deserialize_any(NameOrSection)
    }
}

/// What flannel calls a back end.
pub(super) fn name(backend: FabricBackend) -> &'static str {
    match backend {
        FabricBackend::HostGw => "host-gw",
        FabricBackend::Vxlan => "vxlan",
        FabricBackend::Udp => "udp",
    }
}

/// What there is by which this node takes packets from others.
pub(super) struct Standing<'a> {
    /// Tunnels, with their devices' numbers.
    pub(super) tunnels: &'a BTreeMap<IpFamily, u32>,
    /// Whether datagrams are.
    pub(super) datagrams: bool,
}

/// What this node has to tell the others: how it is reached, by the tunnels that stand. While
/// none does that should, nobody is told to send through one.
pub(super) fn announced(
    own: &Node,
    desired: &Desired,
    backend: FabricBackend,
    standing: &Standing<'_>,
) -> Option<Announced> {
    let vtep = |family: IpFamily| {
        let tunnel = &desired.tunnels.get(&family)?.value;
        standing.tunnels.contains_key(&family).then_some(Vtep {
            vni: tunnel.vni,
            mac: tunnel.mac,
        })
    };
    let (vtep_v4, vtep_v6) = (vtep(IpFamily::V4), vtep(IpFamily::V6));
    let takes = match backend {
        FabricBackend::HostGw => true,
        FabricBackend::Vxlan => vtep_v4.is_some() || vtep_v6.is_some(),
        FabricBackend::Udp => standing.datagrams,
    };
    if !takes {
        return None;
    }
    // What a person says instead is for flannel's nodes there too.
    let public = |range: &IpNet| {
        let mut overwrites = own.announced.overwrites.iter().copied();
        let instead = overwrites.find(|it| it.is_ipv4() == range.addr().is_ipv4());
        instead.or_else(|| own.address_like(range.addr()))
    };
    let mut public_ips: Vec<IpAddr> = own.pod_cidrs.iter().filter_map(public).collect();
    public_ips.sort();
    public_ips.dedup();
    Some(Announced {
        backend: Some(name(backend).into()),
        public_ips,
        overwrites: Vec::new(),
        vtep_v4,
        vtep_v6,
        faults: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<FabricSettings> {
        serde_norway::from_str::<FabricConfig>(text)?.settings()
    }

    #[test]
    fn a_name_is_enough_and_a_section_says_more() {
        let vxlan = FabricSettings {
            backend: FabricBackend::Vxlan,
            ..FabricSettings::default()
        };
        assert_eq!(settings("vxlan").unwrap(), vxlan);
        let auto = FabricSettings {
            direct_routing: true,
            ..vxlan.clone()
        };
        assert_eq!(settings("auto").unwrap(), auto);
        let same = settings("{type: vxlan, directRouting: true}").unwrap();
        assert_eq!(same, auto);
        let more = FabricSettings {
            vni: 42,
            port: 4789,
            mtu: Some(1400),
            ..vxlan
        };
        let text = "{type: vxlan, vni: 42, port: 4789, mtu: 1400}";
        assert_eq!(settings(text).unwrap(), more);
        let udp = settings("{type: udp, port: 9000, mtu: 1300}").unwrap();
        let expected = FabricSettings {
            backend: FabricBackend::Udp,
            udp_port: 9000,
            mtu: Some(1300),
            ..FabricSettings::default()
        };
        assert_eq!(udp, expected);
        let host_gw = settings("host-gw").unwrap();
        assert_eq!(host_gw.backend, FabricBackend::HostGw);
    }

    #[test]
    fn errors_name_the_field() {
        let error = |text: &str| format!("{:#}", settings(text).unwrap_err());
        for (text, words) in [
            ("ipip", "unknown variant `ipip`"),
            ("{type: vxlan, vin: 1}", "unknown field `vin`"),
            ("{type: vxlan, vni: 16777216}", "fabric.vni: 16777216"),
            ("{type: vxlan, port: 0}", "fabric.port: 0"),
            ("{type: vxlan, mtu: 576}", "fabric.mtu"),
            ("7", "host-gw, vxlan, udp or auto"),
        ] {
            assert!(error(text).contains(words), "{text}: {}", error(text));
        }
    }
}
