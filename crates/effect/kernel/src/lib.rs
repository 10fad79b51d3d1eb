//! Reads the kernel into desired's types and applies plans to it.

pub mod bandwidth;
pub mod bridge;
pub mod bridge_rules;
mod expression;
pub mod fabric_view;
pub mod flow;
pub mod host_port;
pub mod iptables;
pub mod kube_proxy;
pub mod leftovers;
pub mod link;
mod plugin_table;
pub mod pod_link;
pub mod pod_rules;
pub mod route;
pub mod router;
pub mod service;
pub mod sysctl;
pub mod tunnel;
pub mod udp_tunnel;
