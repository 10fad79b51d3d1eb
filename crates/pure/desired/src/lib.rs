//! What one node must hold in its kernel and its sockets, and the difference
//! between two such states.
//!
//! Everything is a table from a key to a value; an [`Entry`] adds the [`Origin`],
//! which explains the value and takes no part in equality. `weft-compile` fills
//! these tables, `weft-kernel` and `weft-serve` make them true.

mod bandwidth;
mod dns;
mod health_check;
mod host_port;
mod link;
pub mod mark;
mod net;
mod node_nat;
mod observed;
mod origin;
mod placement;
mod pod_rules;
mod route;
mod service;
mod service_port;
mod sharing;
mod state;
mod table;
mod tunnel;

pub use bandwidth::{PodBandwidth, Shape};
pub use dns::{DnsTable, DomainName, NameRecords, NotADomainName, ServiceRecord};
pub use health_check::{HealthCheck, ServiceKey};
pub use host_port::HostPort;
pub use link::{Bridge, PodLink, PodLinkKey};
pub use net::{IpFamily, Protocol, SocketKey};
pub use node_nat::{LocalDetection, NodeNat, NodePortAddresses};
pub use observed::{Door, Observed, ObservedOutside, Reason, Tally, View, Volume};
pub use origin::{Entry, Origin};
pub use placement::{MOST_BACKENDS, SizeClass, place, place_shares};
pub use pod_rules::{OtherLink, PodRules};
pub use route::{NextHop, Route, RouteKey, RouteOwner};
pub use service::{Backend, Frontend, FrontendKey, Masquerade, Otherwise, Outside};
pub use service_port::{Policy, PortEndpoints, Reach, ServicePort, ServicePortKey};
pub use sharing::{HASH_SLOTS, HashOf, Sharing, hash_table, shares};
pub use state::Desired;
pub use table::{Difference, Table, difference};
pub use tunnel::{Tunnel, TunnelPeer, UdpPeer, UdpTunnel};
