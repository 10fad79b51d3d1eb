//! What follows from a Service's port for a back end that only knows where packets go.

use std::net::IpAddr;

use weft_desired::{
    Frontend, IpFamily, Masquerade, NodeNat, ServicePort, ServicePortKey, SocketKey,
};

/// The frontends of one port of a Service.
pub fn frontends(
    key: &ServicePortKey,
    port: &ServicePort,
    nat: &NodeNat,
) -> Vec<(SocketKey, Frontend)> {
    let mut frontends = Vec::new();
    if let Some(address) = port.cluster_address {
        let reach = port.internal();
        let frontend = Frontend {
            label: port.label.clone(),
            backends: reach.backends,
            otherwise: reach.otherwise,
            outside: None,
            sources: None,
            affinity: port.affinity,
            masquerade: if nat.masquerade_all {
                Masquerade::All
            } else {
                Masquerade::Outside
            },
            serving: port.endpoints.serving.clone(),
        };
        frontends.push((socket(key, address, port.port), frontend));
    }
    frontends
}

/// What stands for a node port whatever the node's addresses are.
pub(crate) fn node_port_socket(key: &ServicePortKey, node_port: u16) -> SocketKey {
    let unspecified: IpAddr = match key.family {
        IpFamily::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpFamily::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    socket(key, unspecified, node_port)
}

pub(crate) fn socket(key: &ServicePortKey, address: IpAddr, port: u16) -> SocketKey {
    SocketKey {
        address,
        protocol: key.protocol,
        port,
    }
}
