//! The sockets weft serves: DNS, and what tells others how a process and its node are.

pub mod dns;
pub mod forwarder;
pub mod health;
pub mod http_server;
mod listen;
mod listener;
pub mod metrics;
pub mod proxy_health;
pub mod service_health;

pub use listen::{ListenAddress, NotAListenAddress};
