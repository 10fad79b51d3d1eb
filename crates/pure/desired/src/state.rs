//! Everything one node must hold.

use crate::{
    Frontend, FrontendKey, HealthCheck, NodeNat, Route, RouteKey, ServiceKey, ServicePort,
    ServicePortKey, Table,
};

/// The desired state of one node, as far as its kernel and its health checks are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
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
