//! Sans-IO codecs and state machines: CNI and DNS.

pub mod cni;
pub mod dns;
