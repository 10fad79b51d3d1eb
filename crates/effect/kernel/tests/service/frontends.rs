//! What is desired: frontends of the scene's pods, and tables that hold them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use weft_desired::{
    Backend, Entry, Frontend, FrontendKey, LocalDetection, Masquerade, NodeNat, Origin, Otherwise,
    Outside, Protocol, SocketKey, Table,
};
use weft_kernel::service::{IpFamily, ServiceTable};
use weft_netlab::probe::{Answer, Outcome};
use weft_sys::nft::Connection;

use crate::scene::Lab;
use crate::scene::pod::pod_addresses;

/// The scene with three pods.
pub(crate) fn lab() -> Lab {
    Lab::new(3)
}

impl Lab {
    pub(crate) fn adopt(&self) -> ServiceTable {
        ServiceTable::adopt(self.nft(), &IpFamily::BOTH).unwrap()
    }

    pub(crate) fn nft(&self) -> Connection {
        Connection::in_namespace(self.node.as_fd()).unwrap()
    }

    /// A table with these frontends.
    pub(crate) fn table(&self, frontends: &Table<FrontendKey, Frontend>) -> ServiceTable {
        let mut table = self.adopt();
        table.reconcile(frontends, &nat()).unwrap();
        table
    }

    pub(crate) fn list(&self) -> String {
        self.node.output("nft", ["-a", "list", "ruleset"]).unwrap()
    }
}

#[track_caller]
pub(crate) fn answer(outcome: Outcome) -> Answer {
    outcome
        .answer()
        .unwrap_or_else(|| panic!("no answer: {outcome:?}"))
        .clone()
}

pub(crate) fn nat() -> NodeNat {
    NodeNat {
        pod_ranges: nets(&["10.244.0.0/16", "fd00:10:244::/56"]),
        service_ranges: nets(&["10.96.0.0/12", "fd00:10:96::/112"]),
        node_addresses: own_addresses(),
        own_addresses: own_addresses(),
        local: LocalDetection::Ranges(nets(&["10.244.0.0/16", "fd00:10:244::/56"])),
        local_pods: (1..=3)
            .flat_map(|number| {
                pod_addresses(number).map(|a| (a, format!("default/pod-{number}").into()))
            })
            .collect(),
        ..NodeNat::default()
    }
}

pub(crate) fn own_addresses() -> BTreeSet<IpAddr> {
    ["172.30.0.11", "fd00:172:30::11"]
        .map(|address| address.parse().unwrap())
        .into()
}

pub(crate) fn nets<T: std::str::FromStr<Err: std::fmt::Debug> + Ord>(
    texts: &[&str],
) -> BTreeSet<T> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The Service's address in each family.
pub(crate) fn service(number: u8) -> [IpAddr; 2] {
    [
        format!("10.96.0.{number}").parse().unwrap(),
        format!("fd00:10:96::{number}").parse().unwrap(),
    ]
}

pub(crate) fn key(address: IpAddr, protocol: Protocol) -> FrontendKey {
    SocketKey {
        address,
        protocol,
        port: 80,
    }
}

pub(crate) fn frontend(label: &str, family: usize, pods: &[u8]) -> Frontend {
    Frontend::new(
        label.into(),
        pods.iter()
            .map(|number| Backend {
                address: pod_addresses(*number)[family],
                port: 8080,
            })
            .collect(),
    )
}

pub(crate) fn entry(value: Frontend) -> Entry<Frontend> {
    Entry {
        value,
        origin: Origin {
            kind: "Service",
            namespace: "default".into(),
            name: "web".into(),
            generation: 1,
        },
    }
}

/// A Service with TCP and UDP at port 80 of both families.
pub(crate) fn frontends(services: &[(u8, &str, &[u8])]) -> Table<FrontendKey, Frontend> {
    let mut table = Table::new();
    for (number, label, pods) in services {
        for (family, address) in service(*number).into_iter().enumerate() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let value = entry(frontend(label, family, pods));
                table.insert(key(address, protocol), value);
            }
        }
    }
    table
}

pub(crate) fn at(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 80)
}

/// Both families' node addresses at a node port.
pub(crate) fn node_port() -> [FrontendKey; 2] {
    ["172.30.0.11", "fd00:172:30::11"].map(|address| SocketKey {
        address: address.parse().unwrap(),
        protocol: Protocol::Tcp,
        port: 30080,
    })
}

pub(crate) fn socket_of(key: &FrontendKey) -> SocketAddr {
    SocketAddr::new(key.address, key.port)
}

/// Frontends at the node's addresses, changed in some way for each family.
pub(crate) fn at_node_ports(
    pods: &[u8],
    change: impl Fn(usize, &mut Frontend),
) -> Table<FrontendKey, Frontend> {
    let keys = node_port().into_iter().enumerate();
    keys.map(|(family, key)| {
        let mut value = Frontend {
            exclusive: false,
            masquerade: Masquerade::All,
            ..frontend("default/web:http", family, pods)
        };
        change(family, &mut value);
        (key, entry(value))
    })
    .collect()
}

pub(crate) fn local(family: usize, pods: &[u8]) -> Outside {
    Outside {
        backends: frontend("", family, pods).backends,
        otherwise: Otherwise::Drop,
    }
}
