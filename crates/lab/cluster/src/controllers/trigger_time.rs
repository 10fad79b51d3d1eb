//! When what led to an endpoints object happened: the time a reader measures from to tell how
//! long the network takes to be programmed (annotation
//! `endpoints.kubernetes.io/last-change-trigger-time`).

use std::cell::RefCell;
use std::collections::BTreeMap;

use jiff::Timestamp;
use weft_kube::k8s_openapi::api::core::v1::{Pod, Service};
use weft_kube::kube::{Resource, ResourceExt};
use weft_model::ObjectKey;

use super::backing::selects;
use super::world::World;

/// The annotation.
pub(super) const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What each Service's endpoints were last written for.
#[derive(Debug, Default)]
pub(super) struct TriggerTimes(RefCell<BTreeMap<ObjectKey, Seen>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    service: Option<Timestamp>,
    pods: BTreeMap<String, Timestamp>,
}

/// A Service and its pods at one look, and what is new since the last.
#[derive(Debug)]
pub(super) struct Observed {
    seen: Seen,
    trigger: Option<Timestamp>,
}

impl Observed {
    /// Sets the annotation; without a new trigger an old one must not stay.
    pub(super) fn annotate(&self, annotations: &mut BTreeMap<String, String>) {
        match self.trigger {
            Some(time) => annotations.insert(ANNOTATION.to_owned(), time.to_string()),
            None => annotations.remove(ANNOTATION),
        };
    }
}

impl TriggerTimes {
    /// The earliest change since the last look that was noted; the Service's creation at the
    /// first.
    pub(super) fn observe(&self, world: &World, key: &ObjectKey, service: &Service) -> Observed {
        let pods = world.within::<Pod>(&key.namespace);
        let seen = Seen {
            service: service
                .meta()
                .creation_timestamp
                .as_ref()
                .map(|time| time.0),
            pods: pods
                .filter(|(_, pod)| selects(service, pod))
                .filter_map(|(_, pod)| Some((pod.name_any(), readiness_changed(pod)?)))
                .collect(),
        };
        let trigger = trigger(self.0.borrow().get(key), &seen);
        Observed { seen, trigger }
    }

    /// What was observed has been written.
    pub(super) fn note(&self, key: &ObjectKey, observed: Observed) {
        self.0.borrow_mut().insert(key.clone(), observed.seen);
    }

    /// The Service is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        self.0.borrow_mut().remove(key);
    }
}

fn readiness_changed(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

fn trigger(before: Option<&Seen>, now: &Seen) -> Option<Timestamp> {
    let Some(before) = before else {
        return now.service;
    };
    let pods = now
        .pods
        .iter()
        .filter(|(name, time)| before.pods.get(*name).is_none_or(|old| old < *time))
        .map(|(_, time)| *time);
    let service = now.service.filter(|_| before.service < now.service);
    pods.chain(service).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_new_change_is_the_trigger() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let seen = |service, pods: &[(&str, i64)]| Seen {
            service: Some(at(service)),
            pods: pods
                .iter()
                .map(|(name, second)| ((*name).to_owned(), at(*second)))
                .collect(),
        };
        let first = seen(10, &[("a", 20), ("b", 30)]);
        assert_eq!(trigger(None, &first), Some(at(10)));
        assert_eq!(trigger(Some(&first), &first), None);
        let next = seen(10, &[("a", 40), ("b", 30), ("c", 35)]);
        assert_eq!(trigger(Some(&first), &next), Some(at(35)));
        // A pod that leaves has no time of its own.
        assert_eq!(trigger(Some(&next), &seen(10, &[("b", 30)])), None);
        assert_eq!(trigger(Some(&next), &seen(50, &[])), Some(at(50)));
    }
}
