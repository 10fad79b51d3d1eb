//! The system calls weft stands on: netlink, nf_tables, namespaces, mounts,
//! processes, TUN devices and batched sockets. The only crate with unsafe code.

pub mod conntrack;
pub mod datagrams;
pub mod ethtool;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod nft;
pub mod probe;
pub mod process;
pub mod rtnl;
pub mod segment;
pub mod tun;
pub mod udp;
pub mod xtables;
