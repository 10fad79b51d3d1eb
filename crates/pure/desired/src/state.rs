//! Everything one node must hold.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::{
    Entry, Frontend, FrontendKey, HealthCheck, IpFamily, NodeNat, Route, RouteKey, ServiceKey,
    ServicePort, ServicePortKey, Table, Tunnel, TunnelPeer, UdpPeer, UdpTunnel,
};

/// The desired state of one node, as far as its kernel and its health checks are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Devices that lead to other nodes.
    pub tunnels: Table<IpFamily, Tunnel>,
    /// What is at their other ends.
    pub tunnel_peers: Table<IpAddr, TunnelPeer>,
    /// The device whose packets go to other nodes in UDP datagrams.
    pub udp_tunnel: Option<Entry<UdpTunnel>>,
    /// Who takes them.
    pub udp_peers: Table<Ipv4Net, UdpPeer>,
    /// The addresses that such are taken from: other nodes'.
    pub udp_senders: BTreeSet<Ipv4Addr>,
    /// Routes to other nodes' pods.
    pub routes: Table<RouteKey, Route>,
    /// The ports of Services.
    pub services: Table<ServicePortKey, ServicePort>,
    /// What follows from them and from the node's addresses: Service addresses and where they lead.
    pub frontends: Table<FrontendKey, Frontend>,
    /// What load balancers are told of Services.
    pub health_checks: Table<ServiceKey, HealthCheck>,
    /// What address translation must know besides.
    pub nat: NodeNat,
}
