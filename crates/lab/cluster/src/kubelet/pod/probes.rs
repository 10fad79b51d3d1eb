//! A pod's probes: which are due, and what their answers change.

use std::collections::BTreeMap;
use std::time::Instant;

use weft_kube::k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{Answered, Heard, Probing, Worker, seconds};
use crate::events::Severity;
use crate::kubelet::probe::{Outcome, Prober, Purpose, Schedule, Verdict};
use crate::kubelet::probing;
use crate::kubelet::status::Life;

impl Worker {
    /// A container runs since `born`. `ready` and `started` are what its probes said before.
    pub(super) fn begin_probes(&mut self, name: &str, born: Instant, ready: bool, started: bool) {
        let mut probers = BTreeMap::new();
        if let Some(container) = self.spec_of(name) {
            for (purpose, probe) in [
                (Purpose::Startup, &container.startup_probe),
                (Purpose::Readiness, &container.readiness_probe),
                (Purpose::Liveness, &container.liveness_probe),
            ] {
                if let Some(probe) = probe
                    .as_ref()
                    .filter(|_| !(started && purpose == Purpose::Startup))
                {
                    let prober = Prober::new(Schedule::of(probe), born);
                    probers.insert(
                        purpose,
                        Probing {
                            prober,
                            in_flight: false,
                        },
                    );
                }
            }
        }
        if let Some(record) = self.records.get_mut(name) {
            record.started = !probers.contains_key(&Purpose::Startup);
            record.ready = record.started && (ready || !probers.contains_key(&Purpose::Readiness));
        }
        let live = self.live.entry(name.to_owned()).or_default();
        live.probers = probers;
        live.stop = None;
    }

    /// Puts the questions that are due, each in a task of its own.
    pub(super) fn ask_probes(&mut self, spec: &PodSpec) {
        let now = Instant::now();
        let pod_ip = self.pod_ips().first().copied();
        let Some(sandbox) = &self.sandbox else { return };
        let containers = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        for container in containers {
            let Some(record) = self.records.get(&container.name) else {
                continue;
            };
            let (Life::Running(_), Some(id)) = (&record.life, &record.id) else {
                continue;
            };
            let Some(live) = self.live.get_mut(&container.name) else {
                continue;
            };
            if live.stop.is_some() || record.hooked {
                continue;
            }
            for (purpose, probing) in &mut live.probers {
                let waits = !record.started && *purpose != Purpose::Startup;
                if waits || probing.in_flight || now < probing.prober.due() {
                    continue;
                }
                let probe = match purpose {
                    Purpose::Startup => &container.startup_probe,
                    Purpose::Readiness => &container.readiness_probe,
                    Purpose::Liveness => &container.liveness_probe,
                };
                let Some(probe) = probe.clone() else { continue };
                probing.prober.asked(now);
                probing.in_flight = true;
                let timeout = probing.prober.timeout();
                let (container, id, purpose) = (container.clone(), id.clone(), *purpose);
                let (shim, sender) = (sandbox.connection().clone(), self.heard_sender.clone());
                tokio::spawn(async move {
                    let outcome = probing::ask(&probe, &container, pod_ip, &shim, timeout).await;
                    let answered = Answered {
                        container: container.name,
                        id,
                        purpose,
                        outcome,
                    };
                    let _pod_is_gone = sender.send(Heard::Probe(answered));
                });
            }
        }
    }

    pub(super) async fn answered(&mut self, answered: Answered) {
        let Answered {
            container: name,
            id,
            purpose,
            outcome,
        } = answered;
        let (Some(record), Some(live)) = (self.records.get_mut(&name), self.live.get_mut(&name))
        else {
            return;
        };
        let current = record.id.as_ref() == Some(&id) && matches!(record.life, Life::Running(_));
        let Some(probing) = live.probers.get_mut(&purpose).filter(|_| current) else {
            return;
        };
        probing.in_flight = false;
        let verdict = probing
            .prober
            .answered(!matches!(outcome, Outcome::Failure(_)));
        match (purpose, verdict) {
            (Purpose::Startup, Verdict::Passed) => {
                live.probers.remove(&Purpose::Startup);
                record.started = true;
                record.ready = !live.probers.contains_key(&Purpose::Readiness);
            }
            (Purpose::Readiness, Verdict::Passed) => record.ready = true,
            (Purpose::Readiness, Verdict::Failed) => record.ready = false,
            (Purpose::Liveness, Verdict::Passed)
            | (Purpose::Startup | Purpose::Liveness, Verdict::Failed)
            | (_, Verdict::Unchanged) => {}
        }
        match outcome {
            Outcome::Success => {}
            Outcome::Doubtful(reason) => {
                let text = format!("{} probe warning: {reason}", purpose.name());
                self.note_container(&name, Severity::Warning, "ProbeWarning", text);
            }
            Outcome::Failure(reason) => {
                let text = format!("{} probe failed: {reason}", purpose.name());
                self.note_container(&name, Severity::Warning, "Unhealthy", text);
            }
        }
        if verdict == Verdict::Failed && purpose != Purpose::Readiness {
            let text = format!(
                "Container {name} failed {} probe, will be restarted",
                purpose.name().to_lowercase()
            );
            self.note_container(&name, Severity::Normal, "Killing", text);
            let own = self
                .spec_of(&name)
                .and_then(|container| own_grace(container, purpose));
            let grace = seconds(own.unwrap_or_else(|| self.grace()));
            self.stop(&name, grace).await;
        }
    }
}

/// `terminationGracePeriodSeconds` of the probe that ends a container; none for that of its pod.
fn own_grace(container: &Container, purpose: Purpose) -> Option<i64> {
    let probe = match purpose {
        Purpose::Startup => &container.startup_probe,
        Purpose::Liveness => &container.liveness_probe,
        // It ends nothing.
        Purpose::Readiness => return None,
    };
    probe.as_ref()?.termination_grace_period_seconds
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_probe_that_ends_a_container_may_have_a_grace_of_its_own() {
        let container: Container = serde_json::from_value(json!({
            "name": "c",
            "startupProbe": {"terminationGracePeriodSeconds": 7},
            "livenessProbe": {"terminationGracePeriodSeconds": 3},
            "readinessProbe": {"terminationGracePeriodSeconds": 5},
        }))
        .unwrap();
        assert_eq!(own_grace(&container, Purpose::Startup), Some(7));
        assert_eq!(own_grace(&container, Purpose::Liveness), Some(3));
        assert_eq!(own_grace(&container, Purpose::Readiness), None);
        let plain = Container::default();
        assert_eq!(own_grace(&plain, Purpose::Liveness), None);
    }
}
