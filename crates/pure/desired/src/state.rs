//! Everything one node must hold.

use crate::{Frontend, FrontendKey, NodeNat, Route, RouteKey, Table};

/// The desired state of one node, as far as its kernel is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Routes to other nodes' pods.
    pub routes: Table<RouteKey, Route>,
    /// Service addresses and where they lead.
    pub frontends: Table<FrontendKey, Frontend>,
    /// What address translation must know besides.
    pub nat: NodeNat,
}
