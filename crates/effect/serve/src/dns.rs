//! The cluster's DNS server.
//!
//! [`Records`] hold what is answered, in wire form; a [`Responder`] answers from them
//! without any I/O; [`Server`] has the sockets. UDP runs on threads of its own, each with
//! its own socket and nothing shared but the records. TCP, and questions that other
//! servers must answer, run on the caller's tokio runtime.

mod forward;
mod pod;
mod records;
mod resolv_conf;
mod responder;
mod server;
mod tcp;
mod udp;

pub use records::Records;
pub use resolv_conf::nameservers;
pub use responder::{Chain, Outcome, PodNames, Responder, Transport};
pub use server::{Error, Server, Settings};
