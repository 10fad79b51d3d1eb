//! The end of a container: asked for, waited for, at last enforced.

use std::time::{Duration, Instant};

use super::{SIGKILL, SIGTERM, Worker, earliest};
use crate::events::Severity;
use crate::kubelet::hooks::When;
use crate::kubelet::shim::{Answer, Request};
use crate::kubelet::status::is_sidecar;

/// What a container has left to end by itself after its hook, or those it waited for, took all
/// the time there was (kubelet's minimumGracePeriodInSeconds).
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// How long the shim has to tell of what was killed.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How far the end of a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Its `preStop` hook runs.
    Hook,
    /// It was asked to end.
    Asked,
    /// It was killed.
    Killed,
}

/// A container that is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stop {
    /// When the next step is due at the latest.
    pub(super) deadline: Instant,
    pub(super) step: Step,
}

impl Worker {
    /// Ends a container: its hook, then SIGTERM, and SIGKILL when `grace` is over. One that is
    /// being ended already is given no more time than that.
    pub(super) async fn stop(&mut self, name: &str, grace: Duration) {
        let deadline = Instant::now() + grace;
        let hook = self
            .spec_of(name)
            .and_then(|container| container.lifecycle.as_ref()?.pre_stop.clone())
            .filter(|_| !grace.is_zero());
        let live = self.live.entry(name.to_owned()).or_default();
        if let Some(stop) = &mut live.stop {
            stop.deadline = stop.deadline.min(deadline);
            return;
        }
        let step = match hook {
            Some(_) => Step::Hook,
            None if grace.is_zero() => Step::Killed,
            None => Step::Asked,
        };
        let deadline = match step {
            Step::Killed => deadline + LAST_WORDS,
            Step::Hook | Step::Asked => deadline,
        };
        live.stop = Some(Stop { deadline, step });
        match (step, hook) {
            (Step::Hook, Some(hook)) => self.run_hook(name, When::PreStop, hook, Some(grace)),
            (Step::Killed, _) => self.signal(name, SIGKILL).await,
            (Step::Hook | Step::Asked, _) => self.signal(name, SIGTERM).await,
        }
    }

    /// The `preStop` hook of a container is done.
    pub(super) async fn ask_after_hook(&mut self, name: &str) {
        let now = Instant::now();
        let stop = self.live.get_mut(name).and_then(|live| live.stop.as_mut());
        if let Some(stop) = stop.filter(|stop| stop.step == Step::Hook) {
            stop.step = Step::Asked;
            stop.deadline = stop.deadline.max(now + LEAST_GRACE);
            self.signal(name, SIGTERM).await;
        }
    }

    /// Takes the next step with every container whose time is over.
    pub(super) async fn press_on(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (name, live) in &mut self.live {
            let runs = self
                .records
                .get(name)
                .is_some_and(|record| record.running());
            let Some(stop) = live.stop.as_mut().filter(|_| runs) else {
                continue;
            };
            if stop.deadline > now {
                continue;
            }
            match stop.step {
                Step::Hook => {
                    *stop = Stop {
                        deadline: now + LEAST_GRACE,
                        step: Step::Asked,
                    };
                    due.push((name.clone(), SIGTERM));
                }
                Step::Asked => {
                    *stop = Stop {
                        deadline: now + LAST_WORDS,
                        step: Step::Killed,
                    };
                    due.push((name.clone(), SIGKILL));
                }
                Step::Killed => {}
            }
        }
        for (name, signal) in due {
            self.signal(&name, signal).await;
        }
    }

    /// Ends what runs: all at once, and the sidecars after what they serve, the last one first.
    /// Returns when it has to be looked at again; `None` once nothing runs any more.
    pub(super) async fn wind_down(
        &mut self,
        deadline: Instant,
        grace: Duration,
    ) -> Option<Instant> {
        let now = Instant::now();
        // What is being ended already has no more time than the pod, and less if that is cut.
        let sooner = self.winds_down_by.is_none_or(|before| deadline < before);
        self.winds_down_by = Some(deadline);
        let running = self.running();
        let (sidecars, others): (Vec<_>, Vec<_>) =
            running.iter().cloned().partition(|(_, sidecar)| *sidecar);
        let left = deadline.saturating_duration_since(now);
        let their_turn = if now >= deadline {
            sidecars.len()
        } else {
            usize::from(others.is_empty())
        };
        let mut asked: Vec<(String, Duration)> =
            others.into_iter().map(|(name, _)| (name, left)).collect();
        let least = if grace.is_zero() { grace } else { LEAST_GRACE };
        let turns = sidecars.into_iter().rev().take(their_turn);
        asked.extend(turns.map(|(name, _)| (name, left.max(least))));
        for (name, grace) in asked {
            let first = self.live.get(&name).is_none_or(|live| live.stop.is_none());
            if first {
                let text = format!("Stopping container {name}");
                self.note_container(&name, Severity::Normal, "Killing", text);
            }
            if first || sooner {
                self.stop(&name, grace).await;
            }
        }
        self.press_on().await;
        earliest(running.iter().map(
            |(name, _)| match self.live.get(name).and_then(|live| live.stop) {
                Some(stop) if stop.step == Step::Killed && stop.deadline <= now => None,
                Some(stop) => Some(stop.deadline),
                None => Some(deadline),
            },
        ))
    }

    /// What runs, in the order of the specification, and whether it is a sidecar.
    fn running(&self) -> Vec<(String, bool)> {
        let spec = self.pod.spec.iter();
        let all = spec.flat_map(|spec| {
            let inits = spec.init_containers.iter().flatten();
            let inits = inits.map(|container| (container, is_sidecar(container)));
            inits.chain(spec.containers.iter().map(|container| (container, false)))
        });
        all.filter(|(container, _)| {
            let record = self.records.get(&container.name);
            record.is_some_and(|record| record.running())
        })
        .map(|(container, sidecar)| (container.name.clone(), sidecar))
        .collect()
    }

    async fn signal(&self, name: &str, signal: i32) {
        let Some(sandbox) = &self.sandbox else { return };
        let request = Request::Signal {
            container: name.to_owned(),
            signal,
        };
        let refused = match sandbox.connection().ask(request).await {
            Ok(Answer::Refused(reason)) => reason,
            Ok(_) => return,
            Err(error) => error.to_string(),
        };
        tracing::debug!(
            pod = self.name(),
            container = name,
            signal,
            refused,
            "no signal"
        );
    }
}
