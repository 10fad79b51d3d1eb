//! Allocation of Service addresses and node ports.
//!
//! A range has two bands: what is allocated without being asked for comes from the upper
//! one first, so that addresses people ask for by number seldom collide with it
//! (Kubernetes' KEP-3070 and KEP-3668 give the sizes). Nothing here is random: the caller
//! passes a seed, which says where the search begins.

mod band;
mod cluster_ip;
mod families;
mod node_port;
mod objects;
mod service;

pub use cluster_ip::ClusterIpAllocator;
pub use node_port::NodePortAllocator;
pub use objects::{AddressObjects, is_of_a_service, restored_address_object};
pub use service::{AllocationFailure, ServiceAllocator, ServiceRanges};

/// Why an address or port could not be allocated; the texts are Kubernetes'.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// Nothing is left.
    #[error("range is full")]
    Full,
    /// Somebody has the address.
    #[error("provided IP is already allocated")]
    AddressTaken,
    /// The address is outside the range.
    #[error(
        "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
    )]
    AddressOutside {
        /// The address asked for.
        address: String,
        /// The range of the cluster.
        range: String,
    },
    /// Somebody has the port.
    #[error("provided port is already allocated")]
    PortTaken,
    /// The port is outside the range.
    #[error("provided port is not in the valid range. The range of valid ports is {low}-{high}")]
    PortOutside {
        /// First port of the range.
        low: u16,
        /// Last port of the range.
        high: u16,
    },
}
