//! Who has which ports of the node: a pod that was bound here by hand may want what another has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use weft_kube::k8s_openapi::api::core::v1::Pod;

use crate::placement::ports::{TAKEN, exclude, is_claiming};

/// Pods with ports of the node, by UID, and whether each is leaving.
#[derive(Debug, Default)]
pub(crate) struct Taken(Mutex<BTreeMap<String, (Arc<Pod>, bool)>>);

/// Whether a pod has its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// It has.
    Held,
    /// It will: who has them is leaving.
    Awaited,
    /// It can't have them; Kubernetes' words for that.
    Refused(String),
}

impl Taken {
    /// Takes the pod's ports until they are given back.
    pub(super) fn take(&self, uid: &str, pod: &Arc<Pod>) -> Claim {
        if !is_claiming(pod) {
            return Claim::Held;
        }
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = taken.iter().filter(|(other, _)| *other != uid);
        let mut against = others
            .filter(|(_, (other, _))| exclude(pod, other))
            .peekable();
        if against.peek().is_none() {
            taken.insert(uid.to_owned(), (Arc::clone(pod), false));
            Claim::Held
        } else if against.all(|(_, (_, leaves))| *leaves) {
            Claim::Awaited
        } else {
            let why = format!("Pod was rejected: Predicate NodePorts failed: {TAKEN}");
            Claim::Refused(why)
        }
    }

    /// The pod is being ended.
    pub(super) fn leave(&self, uid: &str) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, leaves)) = taken.get_mut(uid) {
            *leaves = true;
        }
    }

    /// The pod has ended.
    pub(super) fn give_back(&self, uid: &str) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_is_waited_for() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [
            {"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}}))
        .unwrap();
        let (pod, taken) = (Arc::new(pod), Taken::default());
        assert_eq!(taken.take("a", &pod), Claim::Held);
        assert_eq!(taken.take("a", &pod), Claim::Held);
        assert!(matches!(taken.take("b", &pod), Claim::Refused(_)));
        taken.leave("a");
        assert_eq!(taken.take("b", &pod), Claim::Awaited);
        taken.give_back("a");
        assert_eq!(taken.take("b", &pod), Claim::Held);
    }
}
