//! Probes: when to ask, and what the answers mean.

use std::time::{Duration, Instant};

use weft_kube::k8s_openapi::api::core::v1::Probe;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Whether the container has started; the other probes wait for it.
    Startup,
    /// Whether the container gets traffic.
    Readiness,
    /// Whether the container is restarted.
    Liveness,
}

impl Purpose {
    /// As in Kubernetes' events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Startup => "Startup",
            Purpose::Readiness => "Readiness",
            Purpose::Liveness => "Liveness",
        }
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Success,
    /// Good enough, with what is odd about it.
    Doubtful(String),
    /// Not so, with what was said.
    Failure(String),
}

/// What follows from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Below its threshold: what was true stays true.
    Unchanged,
    /// The threshold of successes is reached.
    Passed,
    /// The threshold of failures is reached.
    Failed,
}

/// Times and thresholds of a probe, with Kubernetes' defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Before the first question.
    pub initial_delay: Duration,
    /// Between questions.
    pub period: Duration,
    /// Until an answer counts as failure.
    pub timeout: Duration,
    /// Successes in a row that pass.
    pub successes: u32,
    /// Failures in a row that fail.
    pub failures: u32,
}

impl Schedule {
    /// Reads a probe's times and thresholds.
    #[must_use]
    pub fn of(probe: &Probe) -> Self {
        let positive = |value: Option<i32>, default: u32| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        let seconds = |value| Duration::from_secs(u64::from(value));
        Schedule {
            initial_delay: seconds(positive(probe.initial_delay_seconds, 0)),
            period: seconds(positive(probe.period_seconds, 10)),
            timeout: seconds(positive(probe.timeout_seconds, 1)),
            successes: positive(probe.success_threshold, 1),
            failures: positive(probe.failure_threshold, 3),
        }
    }
}

/// The state of one probe of one running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prober {
    schedule: Schedule,
    next: Instant,
    last: Option<bool>,
    run: u32,
}

impl Prober {
    /// A probe of a container that was started at `started`.
    #[must_use]
    pub fn new(schedule: Schedule, started: Instant) -> Self {
        Prober {
            next: started + schedule.initial_delay,
            schedule,
            last: None,
            run: 0,
        }
    }

    /// When the next question is due.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.next
    }

    /// How long an answer may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.schedule.timeout
    }

    /// Notes that a question was put at `now`: the next is due a period later.
    pub fn asked(&mut self, now: Instant) {
        self.next = now + self.schedule.period;
    }

    /// Takes an answer. Past its threshold every further one has the same verdict.
    pub fn answered(&mut self, success: bool) -> Verdict {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        if success {
            if self.run >= self.schedule.successes {
                Verdict::Passed
            } else {
                Verdict::Unchanged
            }
        } else if self.run >= self.schedule.failures {
            Verdict::Failed
        } else {
            Verdict::Unchanged
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schedule(value: serde_json::Value) -> Schedule {
        Schedule::of(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn defaults_are_kubernetes_own() {
        assert_eq!(
            schedule(json!({})),
            Schedule {
                initial_delay: Duration::ZERO,
                period: Duration::from_secs(10),
                timeout: Duration::from_secs(1),
                successes: 1,
                failures: 3,
            }
        );
    }

    #[test]
    fn thresholds_count_answers_in_a_row() {
        let start = Instant::now();
        let settings = json!({"successThreshold": 2, "failureThreshold": 3});
        let mut prober = Prober::new(schedule(settings), start);
        let verdicts: Vec<_> = [true, false, true, true, false, false, false, false, true]
            .into_iter()
            .map(|answer| match prober.answered(answer) {
                Verdict::Unchanged => '-',
                Verdict::Passed => 'P',
                Verdict::Failed => 'F',
            })
            .collect();
        assert_eq!(verdicts.into_iter().collect::<String>(), "---P--FF-");
    }

    #[test]
    fn questions_come_after_the_delay_and_then_each_period() {
        let start = Instant::now();
        let settings = json!({"initialDelaySeconds": 5, "periodSeconds": 2});
        let mut prober = Prober::new(schedule(settings), start);
        assert_eq!(prober.due(), start + Duration::from_secs(5));
        prober.asked(start + Duration::from_secs(6));
        assert_eq!(prober.due(), start + Duration::from_secs(8));
    }
}
