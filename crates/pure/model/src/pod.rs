//! Pods.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{LabelSet, NodeName, ObjectKey, Uid};

/// A pod, as far as the network is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.labels`.
    #[serde(default)]
    pub labels: LabelSet,
    /// `spec.nodeName`, once the pod is bound.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// `status.podIPs`. A host-network pod's are its node's.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// `spec.hostNetwork`: the pod has no network of its own.
    #[serde(default)]
    pub host_network: bool,
    /// Phase Succeeded or Failed: its addresses may already be somebody else's.
    #[serde(default)]
    pub finished: bool,
    /// Condition Ready.
    #[serde(default)]
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    #[serde(default)]
    pub terminating: bool,
    /// `spec.hostname`, if given.
    #[serde(default)]
    pub hostname: Option<Arc<str>>,
    /// `spec.subdomain`, if given.
    #[serde(default)]
    pub subdomain: Option<Arc<str>>,
}
