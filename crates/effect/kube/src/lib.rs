//! Watches the Kubernetes API, decodes it into the model and writes events.
//!
//! The only crate that knows the Kubernetes client. It re-exports the client and the
//! API types, for the lab's controllers and kubelet, which work on API objects.

mod access;
mod announced;
mod decode;
mod events;
mod pauses;
mod transport;
mod watch;

pub use access::{Access, AccessError, connect};
pub use announced::announce;
pub use events::{ServiceEvents, Warning};
pub use k8s_openapi;
pub use kube;
pub use kube::Client;
pub use pauses::Pauses;
pub use watch::{Interest, Pods, Update, Watched, watch};

pub use decode::{endpoint_slice, namespace, node, pod, service};
