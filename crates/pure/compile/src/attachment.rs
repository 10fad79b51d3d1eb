//! A pod's attachment to its node: from the record to the link, its routes and its
//! neighbours' names.
//!
//! Input is the attachment record, not the API: a pod's link stands when the API and
//! the agent are down. The plugin compiles one record when it attaches a pod, the
//! agent compiles all of them, and both get the same items.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use weft_desired::{
    Bridge, Entry, NextHop, Origin, PodLink, PodLinkKey, Route, RouteKey, RouteOwner, mark,
};
use weft_model::ObjectKey;

/// The pod's IPv4 router: an address no network uses, which the pod reaches by a
/// permanent neighbour entry alone (RFC 3927 range; the address other routed pod
/// networks use too).
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pod's IPv6 router.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// IFALIASZ in the kernel is 256, the closing zero included.
const LONGEST_ALIAS: usize = 255;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// One pod's attachment as its record tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Which container, which interface.
    pub key: PodLinkKey,
    /// SHA-256 of `CONTAINER/INTERFACE`: the link's name and Ethernet addresses come
    /// out of it, so they are known before the link is made and after its record is lost.
    pub digest: Digest,
    /// Whose it is, if the runtime said so.
    pub pod: Option<ObjectKey>,
    /// Bytes.
    pub mtu: u32,
    /// The pod's addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// The node's own addresses, at most one a family.
    pub node_addresses: Vec<IpAddr>,
    /// The Ethernet address that the pod's end was asked to have.
    pub mac: Option<[u8; 6]>,
    /// What the pod sends by this interface; `None`: everything.
    pub routes: Option<Vec<IpNet>>,
    /// The bridge it is a port of; `None`: routed.
    pub bridge: Option<Place>,
}

/// The bridge of a network, as a record tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The network.
    pub network: Arc<str>,
    /// The bridge's name.
    pub name: Arc<str>,
    /// The pods' routers, one a subnet.
    pub gateways: Vec<IpNet>,
    /// Whether it is cut off from the node's other pods.
    pub isolated: bool,
}

impl Place {
    /// The bridge on the node, with an MTU in bytes.
    pub fn bridge(&self, mtu: u32) -> Bridge {
        Bridge {
            name: self.name.clone(),
            alias: cut(format!("{}{}", mark::BRIDGE_ALIAS, self.network)).into(),
            mac: bridge_mac(&self.name),
            mtu,
            addresses: self.gateways.clone(),
            isolated: self.isolated,
        }
    }
}

/// What a node holds for one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentItems {
    /// The link.
    pub link: (PodLinkKey, Entry<PodLink>),
    /// On the node: a route to each of the pod's addresses.
    pub routes: Vec<(RouteKey, Entry<Route>)>,
}

/// The items of one attachment.
pub fn attachment(attachment: &Attachment) -> AttachmentItems {
    let host_name: Arc<str> = host_name(&attachment.digest).into();
    let (namespace, name): (Arc<str>, Arc<str>) = match &attachment.pod {
        Some(pod) => (pod.namespace.clone(), pod.name.clone()),
        None => (Arc::from(""), attachment.key.container.clone()),
    };
    let origin = Origin {
        kind: if attachment.pod.is_some() {
            "Pod"
        } else {
            "Container"
        },
        namespace,
        name,
        generation: 0,
    };
    let bridge = attachment.bridge.as_ref();
    let reached = match bridge {
        None => attachment.addresses.as_slice(),
        // The route to the bridge's own network leads to all of its pods.
        Some(_) => &[],
    };
    let routes = reached
        .iter()
        .map(|address| {
            let key = RouteKey {
                owner: RouteOwner::Pod,
                destination: IpNet::from(*address),
            };
            let value = Route::from(NextHop::Link {
                device: host_name.clone(),
            });
            let origin = origin.clone();
            (key, Entry { value, origin })
        })
        .collect();
    let network = |address: IpAddr| match bridge {
        None => (IpNet::from(address), Some(gateway_like(address))),
        Some(place) => {
            let mut gateways = place.gateways.iter();
            match gateways.find(|gateway| gateway.contains(&address)) {
                None => (IpNet::from(address), None),
                Some(gateway) => (
                    IpNet::new(address, gateway.prefix_len()).unwrap_or(IpNet::from(address)),
                    Some(gateway.addr()),
                ),
            }
        }
    };
    let (addresses, gateways): (Vec<IpNet>, Vec<Option<IpAddr>>) =
        attachment.addresses.iter().copied().map(network).unzip();
    let gateways: Vec<IpAddr> = gateways.into_iter().flatten().collect();
    let link = PodLink {
        alias: alias(attachment).into(),
        host_name,
        mtu: attachment.mtu,
        host_mac: mac(&attachment.digest, HOST_MAC),
        pod_mac: attachment
            .mac
            .unwrap_or_else(|| mac(&attachment.digest, POD_MAC)),
        routes: match &attachment.routes {
            None => gateways.iter().copied().map(everything_like).collect(),
            Some(routes) => routes
                .iter()
                .copied()
                .filter(|route| {
                    let is_same = |gateway: &IpAddr| gateway.is_ipv4() == route.addr().is_ipv4();
                    gateways.iter().any(is_same)
                })
                .collect(),
        },
        gateways,
        addresses,
        // An address of a family the pod does not speak is of no use on its link.
        node_addresses: attachment
            .node_addresses
            .iter()
            .copied()
            .filter(|node| {
                let addresses = &attachment.addresses;
                bridge.is_none() && addresses.iter().any(|pod| pod.is_ipv4() == node.is_ipv4())
            })
            .collect(),
        bridge: bridge.map(|place| place.bridge(attachment.mtu)),
    };
    let entry = Entry {
        value: link,
        origin,
    };
    AttachmentItems {
        link: (attachment.key.clone(), entry),
        routes,
    }
}

/// The name of a link's end on the node: [`mark::LINK_NAME`] and ten hexadecimal digits, one name
/// for an attachment whatever else is known of it, so that DEL finds the link without
/// a record.
pub fn host_name(digest: &Digest) -> String {
    digest[..5]
        .iter()
        .fold(String::from(mark::LINK_NAME), |mut name, byte| {
            name.push(hex(byte >> 4));
            name.push(hex(byte & 15));
            name
        })
}

/// The name of the device that what comes from a link goes through while its rate is limited.
pub fn device_of(host_name: &str) -> String {
    let digits = host_name.strip_prefix(mark::LINK_NAME).unwrap_or(host_name);
    format!("{}{digits}", mark::DEVICE_NAME)
}

/// The pod's router in the family of one of its addresses.
fn gateway_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
        IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
    }
}

fn everything_like(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn alias(attachment: &Attachment) -> String {
    cut(match &attachment.pod {
        Some(pod) => format!("{}{pod}", mark::LINK_ALIAS),
        None => format!(
            "{}{}/{}",
            mark::LINK_ALIAS,
            attachment.key.container,
            attachment.key.interface
        ),
    })
}

fn cut(mut alias: String) -> String {
    let mut end = alias.len().min(LONGEST_ALIAS);
    while !alias.is_char_boundary(end) {
        end -= 1;
    }
    alias.truncate(end);
    alias
}

// Where in the digest the ends' Ethernet addresses begin; the name has what is before.
const POD_MAC: usize = 5;
const HOST_MAC: usize = 11;

/// Of a private kind (IEEE 802, locally administered, not a group).
fn mac(digest: &Digest, offset: usize) -> [u8; 6] {
    let mut mac = [0; 6];
    mac.copy_from_slice(&digest[offset..offset + 6]);
    mac[0] = (mac[0] & 0xfc) | 0x02;
    mac
}

/// Of a private kind too: two bytes for weft, and a hash of the name (FNV-1a), so that bridges
/// of one node differ. With a mark in its address a bridge is known before its alias is set.
fn bridge_mac(name: &str) -> [u8; 6] {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let [_, a, b, c] = hash.to_be_bytes();
    [0x02, b'w', b'f', a, b, c]
}

fn hex(digit: u8) -> char {
    char::from_digit(u32::from(digit), 16).unwrap_or('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Digest = [
        0xd7, 0x2e, 0x03, 0x2f, 0xed, 0xd9, 0x4c, 0x16, 0xf3, 0x12, 0x50, 0xb1, 0x84, 0x5e, 0xb1,
        0xce, 0xaf, 0x0e, 0x6a, 0xa0, 0x79, 0x21, 0x1c, 0x27, 0x39, 0x31, 0x8c, 0x32, 0x90, 0xc7,
        0x40, 0xd8,
    ];

    fn key(container: &str) -> PodLinkKey {
        PodLinkKey {
            container: container.into(),
            interface: "eth0".into(),
        }
    }

    fn sample() -> Attachment {
        Attachment {
            key: key("c1"),
            digest: DIGEST,
            pod: Some(ObjectKey::new("default", "web-0")),
            mtu: 1450,
            addresses: vec![
                "10.244.1.5".parse().unwrap(),
                "fd00:10:244:1::5".parse().unwrap(),
            ],
            node_addresses: vec!["172.30.0.11".parse().unwrap()],
            mac: None,
            routes: None,
            bridge: None,
        }
    }

    #[test]
    fn a_link_and_a_route_for_every_address() {
        let items = attachment(&sample());
        let (_, link) = &items.link;
        assert_eq!(&*link.value.host_name, "weftd72e032fed");
        assert_eq!(&*link.value.alias, "weft:default/web-0");
        assert_eq!(link.origin.to_string(), "Pod default/web-0");
        assert_eq!(
            link.value.gateways,
            ["169.254.1.1", "fe80::1"].map(|g| g.parse::<IpAddr>().unwrap())
        );
        let destinations: Vec<String> = items
            .routes
            .iter()
            .map(|(key, _)| key.destination.to_string())
            .collect();
        assert_eq!(destinations, ["10.244.1.5/32", "fd00:10:244:1::5/128"]);
    }

    #[test]
    fn a_further_interface_has_the_address_and_routes_that_were_asked_for() {
        let routes = ["10.96.0.0/12", "fd00:96::/108"].map(|net| net.parse().unwrap());
        let items = attachment(&Attachment {
            mac: Some([2, 0, 0, 0, 0, 9]),
            routes: Some(routes.to_vec()),
            addresses: vec!["10.244.1.5".parse().unwrap()],
            ..sample()
        });
        let link = items.link.1.value;
        assert_eq!(link.pod_mac, [2, 0, 0, 0, 0, 9]);
        // No route of a family that the pod does not speak.
        assert_eq!(link.routes, routes[..1]);
        let whole = attachment(&sample()).link.1.value;
        let whole: Vec<String> = whole.routes.iter().map(ToString::to_string).collect();
        assert_eq!(whole, ["0.0.0.0/0", "::/0"]);
    }

    #[test]
    fn a_port_of_a_bridge_has_its_network_and_router() {
        let items = attachment(&Attachment {
            bridge: Some(Place {
                network: "weft".into(),
                name: "cni0".into(),
                gateways: ["10.244.9.1/24", "10.244.1.254/24", "fd00:10:244:1::1/64"]
                    .map(|net| net.parse().unwrap())
                    .to_vec(),
                isolated: true,
            }),
            ..sample()
        });
        assert!(items.routes.is_empty());
        let link = items.link.1.value;
        let words = |nets: &[IpNet]| -> Vec<String> { nets.iter().map(IpNet::to_string).collect() };
        assert_eq!(
            words(&link.addresses),
            ["10.244.1.5/24", "fd00:10:244:1::5/64"]
        );
        assert_eq!(
            link.gateways,
            ["10.244.1.254", "fd00:10:244:1::1"].map(|g| g.parse::<IpAddr>().unwrap())
        );
        assert_eq!(words(&link.routes), ["0.0.0.0/0", "::/0"]);
        assert!(link.node_addresses.is_empty());
        let bridge = link.bridge.unwrap();
        assert_eq!(
            (&*bridge.name, &*bridge.alias),
            ("cni0", "weft:bridge/weft")
        );
        assert_eq!((bridge.mtu, bridge.addresses.len()), (1450, 3));
        assert_eq!(bridge.mac[..3], [0x02, b'w', b'f']);
        assert_ne!(bridge.mac, bridge_mac("cni1"));
    }

    #[test]
    fn names_fit_the_kernel_and_differ() {
        let long = Attachment {
            pod: Some(ObjectKey::new(&"é".repeat(200), "x")),
            ..sample()
        };
        let items = attachment(&long);
        assert!(items.link.1.value.alias.len() <= LONGEST_ALIAS);
        let name = &items.link.1.value.host_name;
        assert!(name.len() <= 15 && device_of(name).len() <= 15);
        assert_ne!(device_of(name), **name);
        let link = &items.link.1.value;
        assert_ne!(link.pod_mac, link.host_mac);
        // Locally administered, and no group.
        assert_eq!((link.pod_mac[0] & 3, link.host_mac[0] & 3), (2, 2));
    }

    #[test]
    fn without_a_pod_the_container_is_the_mark() {
        let items = attachment(&Attachment {
            pod: None,
            ..sample()
        });
        assert_eq!(&*items.link.1.value.alias, "weft:c1/eth0");
        assert_eq!(items.link.1.origin.to_string(), "Container c1");
    }
}
