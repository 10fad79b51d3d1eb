//! Sans-IO codecs and state machines: CNI, CRI, DNS, flannel, gRPC, SPDY, the kubelet's requests.

pub mod cni;
pub mod cri;
pub mod dns;
pub mod flannel;
pub mod grpc;
pub mod kubelet;
pub mod packet;
pub mod path_probe;
pub mod protobuf;
pub mod spdy;
