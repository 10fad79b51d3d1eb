//! From the model of the cluster to the desired state of one node, key by key.
//!
//! [`Compiler`] holds both and keeps the second a function of the first: a change
//! recompiles the keys it touches and tells which items are different now. What one
//! key becomes is said by the modules: [`service`], [`fabric`], [`attachment`]…

pub mod attachment;
mod choice;
mod claim;
mod compiler;
mod dns;
pub mod endpoints;
pub mod fabric;
pub mod frontend;
pub mod health_check;
pub mod service;
mod services;
mod settings;
pub mod subsets;

pub use compiler::{Compiler, Problem, Touched};
pub use dns::{DnsCompiler, DnsSettings};
pub use settings::{
    FabricBackend, FabricSettings, LocalMode, NodePortsAt, ProxySettings, Settings,
};
