//! The section `fabric` of the agent's configuration, and what the agent tells other nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use weft_compile::fabric::Uplinks;
use weft_compile::{FabricBackend, FabricSettings};
use weft_desired::{Desired, IpFamily};
use weft_model::{Announced, Node, Vtep};

use weft_proto::flannel::Backend;

use super::own_interface::Interface;

/// How pods of different nodes reach each other: the name of a back end, or that and more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FabricConfig {
    section: Section,
    /// What flannel's configuration says, where that is there.
    flannel: Option<FabricSettings>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Section {
    #[serde(rename = "type")]
    kind: Option<Kind>,
    /// The tunnels' network identifier.
    vni: Option<u32>,
    /// The tunnels' UDP port, or that of type udp.
    port: Option<u16>,
    /// Whether nodes on a network of this node's are reached without a tunnel.
    direct_routing: Option<bool>,
    /// Bytes of the largest packet in a tunnel.
    mtu: Option<u32>,
    /// By which link others reach the node.
    interface: Option<InterfaceSection>,
    /// Tests of the ways to other nodes.
    self_test: SelfTestSection,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SelfTestSection {
    /// The UDP port where agents ask each other; 0: they do not.
    port: Option<u16>,
}

/// One of these.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct InterfaceSection {
    /// The link's name, or an address.
    name: Option<String>,
    /// What is found in the link's name, or in an address.
    regex: Option<String>,
    /// Ranges that the addresses are in.
    cidr: Option<OneOrMore<IpNet>>,
    /// Where the link leads.
    can_reach: Option<OneOrMore<IpAddr>>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T: Clone> OneOrMore<T> {
    fn all(&self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::More(more) => more.clone(),
        }
    }
}

impl InterfaceSection {
    fn interface(&self) -> Result<Interface> {
        let name = self.name.as_deref().map(|name| Ok(Interface::named(name)));
        let regex = self.regex.as_deref().map(|text| {
            let regex = Interface::like(text);
            regex.context("fabric.interface.regex")
        });
        let cidr = self.cidr.as_ref().map(|it| Ok(Interface::Within(it.all())));
        let reach = self.can_reach.as_ref();
        let reach = reach.map(|it| Ok(Interface::CanReach(it.all())));
        let mut said = [name, regex, cidr, reach].into_iter().flatten();
        match (said.next(), said.next()) {
            (Some(interface), None) => interface,
            _ => bail!("fabric.interface: say one of name, regex, cidr and canReach"),
        }
    }
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
    /// Where agents ask each other whether they are reached; 0: nowhere.
    pub(super) fn self_test_port(&self) -> u16 {
        self.section
            .self_test
            .port
            .unwrap_or(super::self_test::PORT)
    }

    /// By what others are to reach the node, if that is said.
    pub(super) fn interface(&self) -> Result<Option<Interface>> {
        let section = self.section.interface.as_ref();
        section.map(InterfaceSection::interface).transpose()
    }

    /// The back end is what flannel's configuration says.
    ///
    /// # Errors
    /// It is said here too.
    pub(super) fn take_flannel(&mut self, backend: &Backend) -> Result<()> {
        let Section {
            kind,
            vni,
            port,
            direct_routing,
            mtu,
            interface: _,
            self_test: _,
        } = &self.section;
        let said = [
            (kind.is_some(), "type"),
            (vni.is_some(), "vni"),
            (port.is_some(), "port"),
            (direct_routing.is_some(), "directRouting"),
            (mtu.is_some(), "mtu"),
        ];
        if let Some((_, field)) = said.into_iter().find(|(said, _)| *said) {
            bail!(
                "Backend.Type: {}, but fabric.{field} is said in config.yaml too; leave one of \
                 them out",
                backend.name()
            );
        }
        self.flannel = Some(of_flannel(backend));
        Ok(())
    }

    /// What the compiler makes of it.
    pub(super) fn settings(&self) -> Result<FabricSettings> {
        if let Some(settings) = &self.flannel {
            return Ok(settings.clone());
        }
        let Section {
            kind,
            vni,
            port,
            direct_routing,
            mtu,
            interface: _,
            self_test: _,
        } = self.section;
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
        let direct_routing = direct_routing.unwrap_or_default();
        let (backend, direct_routing) = match kind.unwrap_or_default() {
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
                Ok(FabricConfig {
                    section: Section {
                        kind: Some(kind),
                        ..Section::default()
                    },
                    flannel: None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FabricConfig, A::Error> {
                let section = Section::deserialize(MapAccessDeserializer::new(map))?;
                Ok(FabricConfig {
                    section,
                    flannel: None,
                })
            }
        }

        deserializer.deserialize_any(NameOrSection)
    }
}

/// What flannel's configuration says of the back end.
pub(super) fn of_flannel(backend: &Backend) -> FabricSettings {
    let default = FabricSettings {
        datagrams: true,
        ..FabricSettings::default()
    };
    match backend {
        Backend::HostGw => FabricSettings {
            backend: FabricBackend::HostGw,
            direct_routing: true,
            ..default
        },
        Backend::Vxlan {
            vni,
            port,
            mtu,
            direct_routing,
        } => FabricSettings {
            backend: FabricBackend::Vxlan,
            vni: *vni,
            port: *port,
            mtu: *mtu,
            direct_routing: *direct_routing,
            ..default
        },
        Backend::Udp { port } => FabricSettings {
            backend: FabricBackend::Udp,
            udp_port: *port,
            ..default
        },
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

/// Where others reach this node.
pub(super) struct OwnAddresses<'a> {
    /// What a person says of this node, at its start.
    pub(super) public: &'a [IpAddr],
    /// Its links.
    pub(super) uplinks: &'a Uplinks,
}

/// What this node has to tell the others: how it is reached, by the tunnels that stand. While
/// none does that should, nobody is told to send through one.
pub(super) fn announced(
    own: &Node,
    desired: &Desired,
    backend: FabricBackend,
    standing: &Standing<'_>,
    reached_at: &OwnAddresses<'_>,
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
    let OwnAddresses { public, uplinks } = reached_at;
    let said = own.announced.overwrites.iter().chain(*public);
    let all = || said.clone().chain(uplinks.local(own)).copied();
    let public = |range: &IpNet| all().find(|it| it.is_ipv4() == range.addr().is_ipv4());
    let mut public_ips: Vec<IpAddr> = own.pod_cidrs.iter().filter_map(public).collect();
    if public_ips.is_empty() {
        return None;
    }
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
    use weft_compile::fabric::ReachedAt;

    use super::*;

    fn settings(text: &str) -> Result<FabricSettings> {
        serde_norway::from_str::<FabricConfig>(text)?.settings()
    }

    #[test]
    fn a_name_is_enough_and_a_section_says_more() {
        let vxlan = FabricSettings {
            backend: FabricBackend::Vxlan,
            // Every agent has what sends them.
            datagrams: true,
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
            ..vxlan.clone()
        };
        let text = "{type: vxlan, vni: 42, port: 4789, mtu: 1400}";
        assert_eq!(settings(text).unwrap(), more);
        let udp = settings("{type: udp, port: 9000, mtu: 1300}").unwrap();
        let expected = FabricSettings {
            backend: FabricBackend::Udp,
            udp_port: 9000,
            mtu: Some(1300),
            ..vxlan.clone()
        };
        assert_eq!(udp, expected);
        let port = |text| {
            serde_norway::from_str::<FabricConfig>(text)
                .unwrap()
                .self_test_port()
        };
        assert_eq!((port("vxlan"), port("{selfTest: {port: 0}}")), (10256, 0));
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
            ("{interface: {nmae: eth1}}", "unknown field `nmae`"),
        ] {
            assert!(error(text).contains(words), "{text}: {}", error(text));
        }
    }

    #[test]
    fn what_a_person_says_of_a_node_is_where_others_send_to() {
        let addresses = |all: &[&str]| -> Vec<IpAddr> {
            all.iter().map(|text| text.parse().unwrap()).collect()
        };
        let node = |overwrites: &[&str]| Node {
            name: "node-1".into(),
            generation: 0,
            labels: Default::default(),
            internal_ips: addresses(&["172.30.0.11", "fd00::11"]),
            pod_cidrs: ["10.244.1.0/24", "fd00:10:244:1::/64"]
                .map(|range| range.parse().unwrap())
                .into(),
            announced: Announced {
                overwrites: addresses(overwrites),
                ..Announced::default()
            },
            leaving: false,
        };
        let said = |overwrites: &[&str], public: &[&str], reached_at: ReachedAt| {
            let standing = Standing {
                tunnels: &BTreeMap::new(),
                datagrams: false,
            };
            let own = OwnAddresses {
                public: &addresses(public),
                uplinks: &Uplinks {
                    reached_at,
                    ..Uplinks::default()
                },
            };
            let (node, backend) = (node(overwrites), FabricBackend::HostGw);
            let said = announced(&node, &Desired::default(), backend, &standing, &own);
            let public = said.map(|said| said.public_ips).unwrap_or_default();
            public.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let object = said(&[], &[], ReachedAt::Object);
        assert_eq!(object, ["172.30.0.11", "fd00::11"]);
        let chosen = || ReachedAt::Chosen(addresses(&["10.9.0.1", "10.9.0.2", "fd09::1"]));
        assert_eq!(said(&[], &[], chosen()), ["10.9.0.1", "fd09::1"]);
        let public = ["203.0.113.1"];
        assert_eq!(said(&[], &public, chosen()), ["203.0.113.1", "fd09::1"]);
        let both = said(&["198.51.100.1", "2001:db8::1"], &public, chosen());
        assert_eq!(both, ["198.51.100.1", "2001:db8::1"]);
        // Nobody is led to an address that a person did not choose.
        let missing = ReachedAt::Missing("no eth7".to_owned());
        assert!(said(&[], &[], missing).is_empty());
    }

    #[test]
    fn one_way_to_choose_a_link_is_said() {
        let interface = |text: &str| {
            let text = format!("{{type: vxlan, interface: {text}}}");
            let config = serde_norway::from_str::<FabricConfig>(&text)?;
            config.interface()
        };
        let shown = |text| interface(text).unwrap().unwrap().to_string();
        assert_eq!(shown("{name: eth1}"), "a link eth1 that is up");
        assert_eq!(shown("{cidr: 10.0.0.0/8}"), "a link in 10.0.0.0/8");
        let both = "{canReach: [192.0.2.1, \"2001:db8::1\"]}";
        assert_eq!(shown(both), "a link that leads to 192.0.2.1, 2001:db8::1");
        let none = serde_norway::from_str::<FabricConfig>("vxlan").unwrap();
        assert!(none.interface().unwrap().is_none());
        let error = |text| format!("{:#}", interface(text).unwrap_err());
        assert!(error("{}").contains("one of name, regex"));
        assert!(error("{name: eth1, cidr: 10.0.0.0/8}").contains("one of name, regex"));
        assert!(error("{regex: '('}").starts_with("fabric.interface.regex"));
    }
}
