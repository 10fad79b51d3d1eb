//! The Container Network Interface: how a runtime speaks to a network plugin.
//!
//! Environment and standard input go in as text, [`Request`] comes out; an
//! [`AddResult`] or an [`Error`] goes in and the text for standard output comes
//! out. Nothing here reads an environment, a file or a clock.
//!
//! Source: the CNI specification 1.1.0
//! (<https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md>), and the
//! older result formats back to 0.3.0.

mod asked;
mod bandwidth;
mod config;
mod environment;
mod error;
mod exercise;
mod fields;
mod gate;
mod link;
mod loopback;
mod name;
mod port_mapping;
mod ranges;
mod request;
mod result;
mod sysctl;
mod version;

pub use bandwidth::{Bandwidth, Limit};
pub use config::{Config, DEFAULT_DATA_DIR, DEFAULT_MTU, DEFAULT_STATE_DIR, Remark};
pub use environment::{Command, Environment, PodIdentity};
pub use error::{Code, Error};
pub use exercise::exercise;
pub use gate::{Gate, NodeQuestion, PodQuestion, Question, Word, exercise_gate};
pub use link::{Bridge, DEFAULT_BRIDGE, Link};
pub use loopback::Loopback;
pub use name::{AttachmentKey, ContainerId, InterfaceName, InvalidName, NetworkName};
pub use port_mapping::PortMapping;
pub use ranges::{Ipam, Range, RangeSet};
pub use request::{Attach, Collect, Detach, Refusal, Request, Status};
pub use result::{AddResult, Dns, Interface, IpConfig, Route, version_answer};
pub use sysctl::Sysctl;
pub use version::Version;
