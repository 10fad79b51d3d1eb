//! The conditions of a Deployment: whether enough of its pods serve (Available), and whether
//! its rollout gets anywhere, and in time (Progressing). Reasons and messages are those of
//! Kubernetes' Deployment controller: `kubectl rollout status` reads them.

use std::time::Duration;

use jiff::Timestamp;
use weft_kube::k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const COMPLETE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// A Deployment's pods, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) wanted: i32,
    pub(super) total: i32,
    pub(super) updated: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
    /// How many pods may be missing before the Deployment is unavailable.
    pub(super) tolerated: i32,
}

impl Counts {
    fn complete(&self) -> bool {
        self.updated == self.wanted && self.total == self.wanted && self.available == self.wanted
    }

    /// Whether a rollout is further than when its status was last written.
    fn further_than(&self, before: &DeploymentStatus) -> bool {
        let number = |count: Option<i32>| count.unwrap_or(0);
        let outdated = number(before.replicas) - number(before.updated_replicas);
        self.updated > number(before.updated_replicas)
            || self.total - self.updated < outdated
            || self.ready > number(before.ready_replicas)
            || self.available > number(before.available_replicas)
    }
}

/// A rollout, as far as its conditions are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rollout<'a> {
    /// What was written last.
    pub(super) before: &'a DeploymentStatus,
    pub(super) counts: Counts,
    pub(super) paused: bool,
    /// `spec.progressDeadlineSeconds`. None: it may take for ever.
    pub(super) deadline: Option<Duration>,
    /// The name of the replica set it leads to.
    pub(super) set: Option<&'a str>,
    /// Whether that was created just now.
    pub(super) created: bool,
}

/// A condition without its times.
struct Verdict {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
    /// Whether the clock of the deadline starts anew though nothing else is different.
    moved: bool,
}

impl Rollout<'_> {
    /// The conditions now, and in how long they may be others by time alone.
    pub(super) fn conditions(
        &self,
        now: Timestamp,
    ) -> (Vec<DeploymentCondition>, Option<Duration>) {
        let present = |kind: &str| {
            let all = self.before.conditions.iter().flatten();
            all.into_iter().find(|condition| condition.type_ == kind)
        };
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let mut conditions = vec![self.available().at(present(AVAILABLE), now)];
        let before = present(PROGRESSING);
        let progressing = match self.progressing(before, now) {
            Some(verdict) => Some(verdict.at(before, now)),
            None => before.cloned(),
        };
        let again = progressing
            .as_ref()
            .and_then(|condition| self.left(condition, now));
        conditions.extend(progressing);
        (conditions, again)
    }

    fn available(&self) -> Verdict {
        let counts = self.counts;
        let enough = counts.available >= counts.wanted - counts.tolerated;
        let (status, reason, message) = if enough {
            (
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
            )
        } else {
            (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        };
        Verdict {
            kind: AVAILABLE,
            status,
            reason,
            message: message.to_owned(),
            moved: false,
        }
    }

    /// What is new about its progress; nothing: what was said still holds.
    fn progressing(&self, before: Option<&DeploymentCondition>, now: Timestamp) -> Option<Verdict> {
        let verdict = |status, reason, message: String, moved| {
            Some(Verdict {
                kind: PROGRESSING,
                status,
                reason,
                message,
                moved,
            })
        };
        let reason = before.and_then(|before| before.reason.as_deref());
        if self.paused {
            return verdict("Unknown", PAUSED, "Deployment is paused".to_owned(), false);
        }
        if reason == Some(PAUSED) {
            return verdict("Unknown", RESUMED, "Deployment is resumed".to_owned(), true);
        }
        let set = self.set?;
        let quoted = format!("{set:?}");
        if self.counts.complete() {
            let message = format!("ReplicaSet {quoted} has successfully progressed.");
            return verdict("True", COMPLETE, message, false);
        }
        let about = before.and_then(|before| before.message.as_deref());
        if reason != Some(RESUMED) && !about.is_some_and(|about| about.contains(&quoted)) {
            return if self.created {
                let message = format!("Created new replica set {quoted}");
                verdict("True", "NewReplicaSetCreated", message, true)
            } else {
                let message = format!("Found new replica set {quoted}");
                verdict("True", "FoundNewReplicaSet", message, true)
            };
        }
        // To be scaled is no rollout.
        if reason == Some(COMPLETE) && self.counts.total == self.counts.updated {
            return None;
        }
        if self.counts.further_than(self.before) {
            let message = format!("ReplicaSet {quoted} is progressing.");
            return verdict("True", "ReplicaSetUpdated", message, true);
        }
        if self.left(before?, now).is_some_and(|left| left.is_zero()) {
            let message = format!("ReplicaSet {quoted} has timed out progressing.");
            return verdict("False", TIMED_OUT, message, false);
        }
        None
    }

    /// How much of the deadline is left. None: there is none, or it is over.
    fn left(&self, condition: &DeploymentCondition, now: Timestamp) -> Option<Duration> {
        let over = [COMPLETE, TIMED_OUT, PAUSED];
        if over.map(Some).contains(&condition.reason.as_deref()) {
            return None;
        }
        let since = condition.last_update_time.as_ref()?.0;
        let passed = u64::try_from(now.as_second() - since.as_second()).unwrap_or(0);
        Some(self.deadline?.saturating_sub(Duration::from_secs(passed)))
    }
}

impl Verdict {
    /// With the times of the last transition, and of the last update.
    fn at(self, before: Option<&DeploymentCondition>, now: Timestamp) -> DeploymentCondition {
        let same_status = before.filter(|before| before.status == self.status);
        let same = same_status.filter(|before| {
            !self.moved
                && before.reason.as_deref() == Some(self.reason)
                && before.message.as_deref() == Some(&self.message)
        });
        let now = Time(now);
        DeploymentCondition {
            type_: self.kind.to_owned(),
            status: self.status.to_owned(),
            reason: Some(self.reason.to_owned()),
            message: Some(self.message),
            last_transition_time: same_status
                .and_then(|before| before.last_transition_time.clone())
                .or(Some(now.clone())),
            last_update_time: same
                .and_then(|before| before.last_update_time.clone())
                .or(Some(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a rollout step by step, and tells reason and status of Progressing after each.
    struct Story {
        status: DeploymentStatus,
        second: i64,
    }

    impl Story {
        fn new() -> Self {
            Self {
                status: DeploymentStatus::default(),
                second: 1_000,
            }
        }

        fn step(&mut self, rollout: impl FnOnce(&mut Rollout<'_>)) -> (String, Option<u64>) {
            let before = self.status.clone();
            let mut step = Rollout {
                before: &before,
                counts: Counts {
                    wanted: 2,
                    ..Counts::default()
                },
                paused: false,
                deadline: Some(Duration::from_secs(10)),
                set: Some("new"),
                created: false,
            };
            rollout(&mut step);
            let now = Timestamp::from_second(self.second).unwrap();
            let (conditions, again) = step.conditions(now);
            let progressing = &conditions[1];
            let said = format!(
                "{} {}",
                progressing.status,
                progressing.reason.as_deref().unwrap()
            );
            self.status = DeploymentStatus {
                replicas: Some(step.counts.total),
                updated_replicas: Some(step.counts.updated),
                ready_replicas: Some(step.counts.ready),
                available_replicas: Some(step.counts.available),
                conditions: Some(conditions),
                ..DeploymentStatus::default()
            };
            (said, again.map(|left| left.as_secs()))
        }
    }

    fn counts(total: i32, updated: i32, available: i32) -> Counts {
        Counts {
            wanted: 2,
            total,
            updated,
            ready: available,
            available,
            tolerated: 0,
        }
    }

    #[test]
    fn a_rollout_that_does_not_move_is_over_after_its_deadline() {
        let mut story = Story::new();
        let said = story.step(|step| step.created = true);
        assert_eq!(said, ("True NewReplicaSetCreated".to_owned(), Some(10)));
        story.second += 4;
        let said = story.step(|step| step.counts = counts(3, 1, 2));
        assert_eq!(said, ("True ReplicaSetUpdated".to_owned(), Some(10)));
        story.second += 9;
        let said = story.step(|step| step.counts = counts(3, 1, 2));
        assert_eq!(said, ("True ReplicaSetUpdated".to_owned(), Some(1)));
        story.second += 1;
        let said = story.step(|step| step.counts = counts(3, 1, 2));
        assert_eq!(said, ("False ProgressDeadlineExceeded".to_owned(), None));
        // Late is not never; and going back is a rollout of its own.
        let said = story.step(|step| step.counts = counts(3, 2, 2));
        assert_eq!(said.0, "True ReplicaSetUpdated");
        let said = story.step(|step| {
            step.counts = counts(3, 2, 2);
            step.set = Some("old");
        });
        assert_eq!(said, ("True FoundNewReplicaSet".to_owned(), Some(10)));
        let said = story.step(|step| {
            step.counts = counts(2, 2, 2);
            step.set = Some("old");
        });
        assert_eq!(said, ("True NewReplicaSetAvailable".to_owned(), None));
    }

    #[test]
    fn what_is_complete_stays_so_when_a_pod_dies_or_more_are_wanted() {
        let mut story = Story::new();
        story.step(|step| step.counts = counts(2, 2, 2));
        story.second += 1_000;
        for counts in [counts(2, 2, 1), counts(1, 1, 1)] {
            let said = story.step(|step| step.counts = counts);
            assert_eq!(said, ("True NewReplicaSetAvailable".to_owned(), None));
        }
    }

    #[test]
    fn a_pause_does_not_count() {
        let mut story = Story::new();
        story.step(|step| step.created = true);
        story.second += 9;
        let said = story.step(|step| step.paused = true);
        assert_eq!(said, ("Unknown DeploymentPaused".to_owned(), None));
        story.second += 1_000;
        let said = story.step(|_| ());
        assert_eq!(said, ("Unknown DeploymentResumed".to_owned(), Some(10)));
        story.second += 10;
        let said = story.step(|_| ());
        assert_eq!(said, ("False ProgressDeadlineExceeded".to_owned(), None));
    }

    #[test]
    fn without_a_deadline_it_may_take_for_ever() {
        let mut story = Story::new();
        story.step(|step| step.created = true);
        story.second += 1_000_000;
        let said = story.step(|step| step.deadline = None);
        assert_eq!(said, ("True NewReplicaSetCreated".to_owned(), None));
    }
}
