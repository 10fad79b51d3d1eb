//! Everything one node must hold.

use crate::{Frontend, FrontendKey, NodeNat, Route, RouteKey, ServicePort, ServicePortKey, Table};

/// The desired state of one node, as far as its kernel is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Routes to other nodes' pods.
    pub routes: Table<RouteKey, Route>,
    /// The ports of Services.
    pub services: Table<ServicePortKey, ServicePort>,
    /// What follows from them and from the node's addresses: Service addresses and where they lead.
    pub frontends: Table<FrontendKey, Frontend>,
    /// What address translation must know besides.
    pub nat: NodeNat,
}
