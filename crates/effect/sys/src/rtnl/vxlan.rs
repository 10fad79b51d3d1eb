//! VXLAN devices (RFC 7348).

use std::net::IpAddr;

use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo};

use super::link::described;
use super::{Conversation, Error, Link, Mac};

/// What makes a VXLAN device what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network identifier, 24 bits.
    pub vni: u32,
    /// The UDP port that it sends to and listens on.
    pub port: u16,
    /// The source address of what it sends.
    pub local: Option<IpAddr>,
    /// The number of the link it sends through; `None`: whichever the routes say.
    pub device: Option<u32>,
    /// Whether it learns from what it receives where an Ethernet address is.
    pub learning: bool,
}

/// A VXLAN device to make. What is `None` is left to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct VxlanSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is.
    pub vxlan: Vxlan,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Largest packet, in bytes.
    pub mtu: Option<u32>,
    /// Its alias.
    pub alias: Option<&'a str>,
}

impl Conversation {
    /// Makes a VXLAN device and returns it, down.
    ///
    /// # Errors
    /// [`Error::is_exists`] if the name is taken, or another device has the same network
    /// identifier and port.
    pub fn add_vxlan(&mut self, spec: VxlanSpec<'_>) -> Result<Link, Error> {
        let vxlan = spec.vxlan;
        let mut data = vec![
            InfoVxlan::Id(vxlan.vni),
            InfoVxlan::Port(vxlan.port),
            InfoVxlan::Learning(vxlan.learning),
        ];
        data.extend(vxlan.device.map(InfoVxlan::Link));
        data.extend(vxlan.local.map(|local| match local {
            IpAddr::V4(local) => InfoVxlan::Local(local),
            IpAddr::V6(local) => InfoVxlan::Local6(local),
        }));
        let mut message = described(spec.name, spec.mac, spec.mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(data)),
        ]));
        let object = format!("vxlan {} (id {})", spec.name, vxlan.vni);
        self.make(object, &message, spec.name, spec.alias)
    }
}

/// What a device's own data say.
pub(super) fn read(data: &[InfoVxlan]) -> Vxlan {
    let mut vxlan = Vxlan {
        vni: 0,
        port: 0,
        local: None,
        device: None,
        learning: false,
    };
    for part in data {
        // The library's enum is non-exhaustive.
        if let InfoVxlan::Id(vni) = part {
            vxlan.vni = *vni;
        } else if let InfoVxlan::Port(port) = part {
            vxlan.port = *port;
        } else if let InfoVxlan::Local(local) = part {
            vxlan.local = Some(IpAddr::V4(*local));
        } else if let InfoVxlan::Local6(local) = part {
            vxlan.local = Some(IpAddr::V6(*local));
        } else if let InfoVxlan::Link(index) = part {
            vxlan.device = Some(*index).filter(|index| *index != 0);
        } else if let InfoVxlan::Learning(learning) = part {
            vxlan.learning = *learning;
        }
    }
    vxlan
}
