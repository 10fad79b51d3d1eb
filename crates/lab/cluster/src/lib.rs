//! The one-machine cluster: the lab's processes, scheduler, workload controllers and kubelet.

pub mod api;
pub mod controllers;
pub mod events;
pub mod kubelet;
pub mod lab;
pub mod placement;
pub mod programs;
pub mod upstreams;
