//! Sans-IO codecs and state machines: CNI, DNS, SPDY, the kubelet's requests.

pub mod cni;
pub mod dns;
pub mod kubelet;
pub mod spdy;
