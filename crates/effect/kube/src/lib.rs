//! Watches the Kubernetes API, decodes it into the model and writes events.
//!
//! The only crate that knows the Kubernetes client. It re-exports the client and the
//! API types, for the lab's controllers and kubelet, which work on API objects.

mod access;
mod announced;
mod decode;
mod election;
mod events;
mod leadership;
mod node_ranges;
mod node_status;
mod pauses;
mod transport;
mod watch;

pub use access::{Access, AccessError, connect};
pub use announced::announce;
pub use election::Terms;
pub use events::{ServiceEvents, Warning};
pub use k8s_openapi;
pub use kube;
pub use kube::Client;
pub use leadership::{Candidate, Leading};
pub use node_ranges::{RangedNode, RangedUpdate, give_node_ranges, watch_node_ranges};
pub use node_status::{NetworkState, NodeEvents, NodeWarning, tell_network_state};
pub use pauses::Pauses;
pub use watch::{Interest, Pods, Update, Watched, watch};

pub use decode::{endpoint_slice, namespace, node, pod, service};
