//! The lab: a cluster on one machine, in namespaces.
//!
//! ```text
//! front (weft lab up)            on the machine: port, lifetime pipe, record
//! └─ PID 1 of the lab            own mount, PID, network, UTS, IPC (and user) namespaces
//!    ├─ API server, controllers
//!    ├─ outside                  a node without kubelet: what is beyond the cluster
//!    └─ node-1, node-2, …        PID 1 of namespaces of their own
//!       ├─ kubelet
//!       └─ pods
//! ```

mod advertised;
pub mod boot;
pub mod control;
mod credentials;
pub mod cuts;
pub mod drain;
pub mod enter;
pub mod front;
pub mod init;
pub mod keep;
pub mod membership;
pub mod node;
mod nodes;
pub mod paths;
pub mod pids;
pub mod plan;
pub mod publish;
pub mod requests;
pub mod rootfs;
pub mod settings;
pub mod state;
mod supervise;
mod telling;
mod terminal;
