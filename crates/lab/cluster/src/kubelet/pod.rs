//! One pod's life on its node: a task that brings the pod to what its specification says, from
//! whatever state it finds, each time something happens.

mod containers;
pub(super) mod ending;
mod lifecycle;
mod probes;
mod reboot;
mod report;
mod stopping;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use weft_kube::k8s_openapi::api::core::v1::{ObjectReference, Pod, PodSpec, PodStatus};

use super::backoff::Backoff;
use super::cni::Network;
use super::environment::Facts;
use super::ports::Claim;
use super::probe::{Outcome, Prober, Purpose};
use super::sandbox::{self, Sandbox};
use super::shim::{ContainerState, Events};
use super::status::{self, Life, Record, Verdict};
use super::volumes::{self, Volumes};
use super::{COMPONENT, Shared, sysctls};
use crate::events::Severity;
use lifecycle::HookEnded;
use stopping::{Step, Stop};

/// Before a sandbox, a volume or a status write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Before it is looked again whether a pod that leaves has given its ports back.
const PORTS_RETRY: Duration = Duration::from_millis(50);
/// How often limited volumes are measured (the kubelet's eviction manager: every 10 s).
const MEASURE: Duration = Duration::from_secs(10);
/// Before a volume is tried again for the first time: an account or a certificate comes a moment
/// after its namespace. It doubles each time.
const VOLUME_RETRY: Duration = Duration::from_millis(100);
const MOST_DOUBLINGS: u32 = 5;
/// Kubernetes' default for terminationGracePeriodSeconds.
const GRACE: i64 = 30;
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// What the API says of a pod.
#[derive(Debug, Clone)]
pub(super) struct Update {
    /// The pod.
    pub(super) pod: Arc<Pod>,
    /// Whether the API has it no more.
    pub(super) removed: bool,
}

/// What of a container is not in its status.
#[derive(Debug, Default)]
struct Live {
    backoff: Backoff,
    probers: BTreeMap<Purpose, Probing>,
    /// How far its end has come.
    stop: Option<Stop>,
    /// Nothing is tried before this time.
    again: Option<Instant>,
    /// Why it is ended, if its `postStart` hook failed.
    hook_failed: Option<String>,
}

#[derive(Debug)]
struct Probing {
    prober: Prober,
    in_flight: bool,
}

/// A probe's answer, with the container's id: one of an earlier run does not count.
struct Answered {
    container: String,
    id: String,
    purpose: Purpose,
    outcome: Outcome,
}

/// What a pod's task hears of those it started.
enum Heard {
    Probe(Answered),
    Hook(HookEnded),
    /// A volume holds more than it may, if one does.
    Usage(Option<String>),
}

/// The task of one pod.
pub(super) struct Worker {
    shared: Arc<Shared>,
    updates: watch::Receiver<Update>,
    pod: Arc<Pod>,
    removed: bool,
    reference: ObjectReference,
    sandbox: Option<Sandbox>,
    events: Option<Events>,
    records: BTreeMap<String, Record>,
    live: BTreeMap<String, Live>,
    volumes: Volumes,
    volumes_current: bool,
    /// The versions of what they were written from.
    volume_sources: Vec<Option<String>>,
    volume_attempts: u32,
    retry: Option<Instant>,
    waits_for_network: bool,
    waits_for_ports: bool,
    network: watch::Receiver<Option<Network>>,
    volume_changes: watch::Receiver<u64>,
    start: Timestamp,
    published: Option<PodStatus>,
    /// Since when it is being ended.
    ending: Option<Instant>,
    /// By when everything in it is to have ended.
    winds_down_by: Option<Instant>,
    /// Why the kubelet ends it, if it does.
    verdict: Option<Verdict>,
    /// Whether a container was started in this sandbox.
    begun: bool,
    /// When its limited volumes are measured next; never while that is under way.
    measure: Option<Instant>,
    finished: bool,
    heard_sender: mpsc::UnboundedSender<Heard>,
    heard: mpsc::UnboundedReceiver<Heard>,
}

/// What is to be done next.
enum Next {
    /// Nothing before this time or an event.
    Wait(Option<Instant>),
    /// The pod is gone.
    Gone,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, mut updates: watch::Receiver<Update>) -> Self {
        let Update { pod, removed } = updates.borrow_and_update().clone();
        let (heard_sender, heard) = mpsc::unbounded_channel();
        let known = pod.status.as_ref();
        let start = known
            .and_then(|status| status.start_time.as_ref())
            .map_or_else(Timestamp::now, |time| time.0);
        let finished = known
            .and_then(|status| status.phase.as_deref())
            .is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
        let records = first_records(&pod);
        let measure = (!volumes::limited(&pod).is_empty()).then(Instant::now);
        Worker {
            reference: reference(&pod),
            network: shared.network.clone(),
            volume_changes: shared.cache.volumes_changed(),
            shared,
            updates,
            pod,
            removed,
            sandbox: None,
            events: None,
            live: records
                .keys()
                .map(|name| (name.clone(), Live::default()))
                .collect(),
            records,
            volumes: Volumes::default(),
            volumes_current: false,
            volume_sources: Vec::new(),
            volume_attempts: 0,
            retry: None,
            waits_for_network: false,
            waits_for_ports: false,
            start,
            published: None,
            ending: None,
            winds_down_by: None,
            verdict: None,
            begun: false,
            measure,
            finished,
            heard_sender,
            heard,
        }
    }

    /// Runs until the pod is gone.
    pub(super) async fn run(mut self) {
        self.adopt().await;
        loop {
            let Next::Wait(until) = self.sync().await else {
                return;
            };
            let failed = !self.publish().await;
            let again = failed.then(|| Instant::now() + RETRY);
            self.wait(earliest([until, again])).await;
        }
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn note(&self, severity: Severity, reason: &'static str, message: impl Into<String>) {
        self.shared
            .recorder
            .note(&self.reference, COMPONENT, severity, reason, message);
    }

    fn note_container(
        &self,
        container: &str,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let mut reference = self.reference.clone();
        reference.field_path = Some(format!("spec.containers{{{container}}}"));
        self.shared
            .recorder
            .note(&reference, COMPONENT, severity, reason, message);
    }

    fn host_ips(&self) -> Vec<std::net::IpAddr> {
        self.shared.config.node_addresses.clone()
    }

    fn pod_ips(&self) -> Vec<std::net::IpAddr> {
        if sandbox::in_node_network(&self.pod) {
            return self.host_ips();
        }
        match (&self.sandbox, &self.published) {
            (Some(sandbox), _) => sandbox.addresses(),
            // What has ended keeps the address it had.
            (None, Some(status)) => status
                .pod_ips
                .iter()
                .flatten()
                .filter_map(|entry| entry.ip.parse().ok())
                .collect(),
            (None, None) => Vec::new(),
        }
    }

    /// Takes over what an earlier kubelet left running.
    async fn adopt(&mut self) {
        let Some((sandbox, events, containers)) = Sandbox::adopt(&self.pod).await else {
            return self.begin_again();
        };
        tracing::info!(pod = self.name(), namespace = self.namespace(), "adopted");
        self.sandbox = Some(sandbox);
        self.events = Some(events);
        for state in containers {
            let Some(record) = self.records.get_mut(&state.name) else {
                continue;
            };
            record.restarts = state.attempt;
            record.id = Some(state.id.clone());
            self.begun |= is_regular(&self.pod, &state.name);
            match state.ended {
                None => {
                    let (ready, started) = (record.ready, record.started);
                    let since = state.started;
                    record.life = Life::Running(since);
                    let ran = Timestamp::now().duration_since(since);
                    let ran = Duration::try_from(ran).unwrap_or_default();
                    let born = Instant::now().checked_sub(ran).unwrap_or_else(Instant::now);
                    self.begin_probes(&state.name, born, ready, started);
                }
                Some(_) => self.container_ended(state),
            }
        }
    }

    /// Waits for the next thing to happen, and notes it.
    async fn wait(&mut self, until: Option<Instant>) {
        if self.waits_for_network && self.network.borrow_and_update().is_some() {
            return;
        }
        let (waits_for_network, refreshes) = (self.waits_for_network, self.has_written_volumes());
        let sleep = tokio::time::sleep_until(
            until
                .unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
                .into(),
        );
        let next_event = async {
            match &mut self.events {
                Some(events) => events.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.updates.changed() => {
                match changed {
                    Ok(()) => {
                        let update = self.updates.borrow_and_update().clone();
                        let (old, new) = (&self.pod.metadata, &update.pod.metadata);
                        if (&old.labels, &old.annotations) != (&new.labels, &new.annotations) {
                            // Volumes may tell of them.
                            self.volumes_current = false;
                        }
                        self.pod = update.pod;
                        self.removed = update.removed;
                    }
                    // The kubelet ends; its tasks end with it.
                    Err(_) => std::future::pending().await,
                }
            }
            event = next_event => match event {
                Some(state) => self.container_ended(state),
                None => self.lost().await,
            },
            Some(heard) = self.heard.recv() => match heard {
                Heard::Probe(answered) => self.answered(answered).await,
                Heard::Hook(ended) => self.hook_ended(ended).await,
                Heard::Usage(exceeded) => self.measured(exceeded),
            },
            _ = self.network.changed(), if waits_for_network => {}
            _ = self.volume_changes.changed(), if refreshes => self.volumes_may_have_changed(),
            () = sleep => {}
        }
    }

    fn has_written_volumes(&self) -> bool {
        let mut volumes = self
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten());
        volumes.any(|volume| {
            volume.config_map.is_some() || volume.secret.is_some() || volume.projected.is_some()
        })
    }

    /// Brings the pod nearer to what it should be.
    async fn sync(&mut self) -> Next {
        let pod = Arc::clone(&self.pod);
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        if self.removed || pod.metadata.deletion_timestamp.is_some() {
            return self.end().await;
        }
        self.press_on().await;
        self.judge(spec);
        let phase = status::phase(spec, &self.records, self.finished);
        if self.verdict.is_some() || phase == "Succeeded" || phase == "Failed" {
            return self.conclude().await;
        }
        let now = Instant::now();
        if self.waits_for_ports {
            return Next::Wait(Some(now + PORTS_RETRY));
        }
        let held = self.retry.is_some_and(|retry| now < retry);
        if !held {
            self.retry = None;
        }
        if self.volumes.are_due(Timestamp::now()) {
            self.volumes_current = false;
        }
        if self.sandbox.is_none() && (held || !self.make_sandbox().await) {
            return Next::Wait(self.next_wake());
        }
        let has_volumes = match (self.volumes_current, held) {
            (true, _) => true,
            (false, false) => self.make_volumes().await,
            (false, true) => self.runs(),
        };
        if !has_volumes {
            return Next::Wait(self.next_wake());
        }
        self.start_containers(spec).await;
        self.ask_probes(spec);
        self.measure_volumes();
        // What was just started or refused may decide the phase.
        let phase = status::phase(spec, &self.records, self.finished);
        if phase == "Succeeded" || phase == "Failed" {
            return Next::Wait(Some(Instant::now()));
        }
        Next::Wait(self.next_wake())
    }

    /// Ends a pod that asks for what it may not have, or has run longer than it may.
    fn judge(&mut self, spec: &PodSpec) {
        if self.verdict.is_some() || self.finished {
            return;
        }
        let fresh = self.sandbox.is_none();
        if let Some(message) = sysctls::forbidden(spec).filter(|_| fresh) {
            return self.reject("SysctlForbidden", message);
        }
        // One that runs already has them, whoever came first to a kubelet that starts.
        let ports = self.shared.ports.take(self.uid(), &self.pod);
        self.waits_for_ports = fresh && ports == Claim::Awaited;
        if let Claim::Refused(message) = ports
            && fresh
        {
            return self.reject("NodePorts", message);
        }
        if deadline(spec, self.start).is_some_and(|deadline| deadline <= Timestamp::now()) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.note(Severity::Normal, "DeadlineExceeded", message);
            self.verdict = Some(Verdict {
                reason: "DeadlineExceeded",
                message: message.to_owned(),
            });
        }
    }

    fn reject(&mut self, reason: &'static str, message: String) {
        self.note(Severity::Warning, reason, message.clone());
        self.verdict = Some(Verdict { reason, message });
    }

    fn measure_volumes(&mut self) {
        let due = self.measure.is_some_and(|due| due <= Instant::now());
        if !due {
            return;
        }
        self.measure = None;
        let (volumes, sender) = (volumes::limited(&self.pod), self.heard_sender.clone());
        tokio::task::spawn_blocking(move || {
            let exceeded = volumes.into_iter().find(volumes::Limited::is_exceeded);
            let _pod_is_gone = sender.send(Heard::Usage(exceeded.map(|volume| volume.message)));
        });
    }

    fn measured(&mut self, exceeded: Option<String>) {
        self.measure = Some(Instant::now() + MEASURE);
        if let Some(message) = exceeded.filter(|_| self.verdict.is_none()) {
            self.reject("Evicted", message);
        }
    }

    fn runs(&self) -> bool {
        self.records.values().any(Record::running)
    }

    fn next_wake(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut times: Vec<Option<Instant>> = vec![self.retry, self.measure];
        for (name, live) in &self.live {
            let Some(record) = self.records.get(name) else {
                continue;
            };
            if record.running() {
                if let Some(stop) = live.stop {
                    times.push((stop.step != Step::Killed).then_some(stop.deadline));
                    continue;
                }
                for (purpose, probing) in &live.probers {
                    let due = record.started || *purpose == Purpose::Startup;
                    times.push((due && !probing.in_flight).then(|| probing.prober.due()));
                }
            } else {
                times.push(live.backoff.until().filter(|until| *until > now));
                times.push(live.again.filter(|again| *again > now));
            }
        }
        let spec = self.pod.spec.as_ref();
        let ends = spec.and_then(|spec| deadline(spec, self.start));
        // One that could not be had is asked for again with the next attempt.
        let asks = self.sandbox.is_some() && self.retry.is_none();
        let renew = self.volumes.renew().filter(|_| asks);
        for time in [renew, ends].into_iter().flatten() {
            let left = time.duration_since(Timestamp::now());
            times.push(Some(now + Duration::try_from(left).unwrap_or_default()));
        }
        earliest(times)
    }

    async fn make_sandbox(&mut self) -> bool {
        let network = if sandbox::in_node_network(&self.pod) {
            None
        } else {
            let network = self.network.borrow_and_update().clone();
            match network {
                Some(network) => Some(network),
                None => {
                    if !self.waits_for_network {
                        self.note(
                            Severity::Warning,
                            "NetworkNotReady",
                            format!("network is not ready: {}", super::node::NETWORK_NOT_READY),
                        );
                    }
                    self.waits_for_network = true;
                    return false;
                }
            }
        };
        self.waits_for_network = false;
        let weft = self.shared.config.weft.clone();
        let pod = Arc::clone(&self.pod);
        // The volumes are fetched while the network is set up.
        let (sandbox, ()) = tokio::join!(Sandbox::create(&weft, &pod, network), async {
            self.prepare_volumes_early().await;
        });
        match sandbox {
            Ok((sandbox, events)) => {
                self.sandbox = Some(sandbox);
                self.events = Some(events);
                true
            }
            Err(error) => {
                let message = super::chain(&error);
                tracing::warn!(
                    pod = self.name(),
                    namespace = self.namespace(),
                    error = message,
                    "no sandbox"
                );
                self.note(
                    Severity::Warning,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {message}"),
                );
                self.retry = Some(Instant::now() + RETRY);
                false
            }
        }
    }

    /// Volumes need no address unless the downward API tells one.
    async fn prepare_volumes_early(&mut self) {
        if !volumes::tell_addresses(&self.pod) {
            // A failure is told by the attempt that counts.
            if let Ok(()) = self.prepare_volumes().await {
                self.volumes_current = true;
            }
        }
    }

    async fn prepare_volumes(&mut self) -> Result<(), volumes::Error> {
        let pod = Arc::clone(&self.pod);
        let (host_ips, pod_ips) = (self.host_ips(), self.pod_ips());
        let facts = Facts {
            pod: &pod,
            host_ips: &host_ips,
            pod_ips: &pod_ips,
            config_maps: &BTreeMap::new(),
            secrets: &BTreeMap::new(),
            allocatable: self.shared.allocatable,
        };
        let shared = Arc::clone(&self.shared);
        self.volume_sources = volumes::sources(&pod, &shared.cache);
        self.volumes
            .prepare(&shared.client, &shared.cache, &facts)
            .await
    }

    /// Looks whether what the volumes are written from has changed.
    fn volumes_may_have_changed(&mut self) {
        if volumes::sources(&self.pod, &self.shared.cache) != self.volume_sources {
            self.volumes_current = false;
            self.retry = self.retry.filter(|_| self.sandbox.is_none());
        }
    }

    async fn make_volumes(&mut self) -> bool {
        match self.prepare_volumes().await {
            Ok(()) => {
                self.volumes_current = true;
                self.volume_attempts = 0;
                true
            }
            Err(error) => {
                self.note(Severity::Warning, "FailedMount", super::chain(&error));
                let pause = VOLUME_RETRY * 2_u32.pow(self.volume_attempts.min(MOST_DOUBLINGS));
                self.volume_attempts = self.volume_attempts.saturating_add(1);
                self.retry = Some(Instant::now() + pause);
                // What runs goes on with the volumes it has.
                self.runs()
            }
        }
    }

    /// The shim is gone, and everything with it.
    async fn lost(&mut self) {
        self.events = None;
        let Some(sandbox) = self.sandbox.take() else {
            return;
        };
        sandbox.remove().await;
        let now = Timestamp::now();
        let mut states = Vec::new();
        for (name, record) in &self.records {
            if let Life::Running(since) = record.life {
                states.push(ContainerState {
                    name: name.clone(),
                    id: record.id.clone().unwrap_or_default(),
                    attempt: record.restarts,
                    pid: 0,
                    started: since,
                    ended: Some(super::shim::Ended {
                        at: now,
                        code: 137,
                        signal: SIGKILL,
                    }),
                });
            }
        }
        for state in states {
            self.container_ended(state);
        }
        if self.ending.is_none() && !self.finished {
            self.note(
                Severity::Normal,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
        }
        self.initialize_anew();
    }

    /// A new sandbox is initialized anew.
    fn initialize_anew(&mut self) {
        self.begun = false;
        let inits: Vec<String> = self
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten())
            .map(|container| container.name.clone())
            .collect();
        for name in inits {
            if let Some(record) = self.records.get_mut(&name) {
                record.life = Record::new("PodInitializing").life;
                record.ready = false;
                record.started = false;
            }
        }
    }
}

/// What is known of the pod's containers from its status in the API; containers that are to run
/// again after a restart of the node wait.
fn first_records(pod: &Pod) -> BTreeMap<String, Record> {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let statuses = status
        .iter()
        .flat_map(|status| {
            let inits = status.init_container_statuses.iter().flatten();
            inits.chain(status.container_statuses.iter().flatten())
        })
        .map(|status| (status.name.clone(), status::remembered(status)))
        .collect::<BTreeMap<_, _>>();
    let inits = spec
        .into_iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let reason = spec.map_or("ContainerCreating", status::creating);
    let containers = spec.into_iter().flat_map(|spec| &spec.containers);
    inits
        .chain(containers)
        .map(|container| {
            let name = container.name.clone();
            let record = statuses.get(&name).cloned();
            (name, record.unwrap_or_else(|| Record::new(reason)))
        })
        .collect()
}

/// When a pod's time is over (`activeDeadlineSeconds`).
fn deadline(spec: &PodSpec, start: Timestamp) -> Option<Timestamp> {
    let seconds = spec.active_deadline_seconds?;
    start
        .checked_add(jiff::SignedDuration::from_secs(seconds))
        .ok()
}

/// Whether a container is none of the init containers.
fn is_regular(pod: &Pod, name: &str) -> bool {
    let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.any(|container| container.name == name)
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// As long as anything is waited for, 68 years: the API takes times that no clock can be set to.
const LONGEST: u64 = i32::MAX as u64;

fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0).min(LONGEST))
}

fn earliest(times: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
    times.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_can_be_added_to_now() {
        assert_eq!(seconds(-1), Duration::ZERO);
        assert_eq!(seconds(30), Duration::from_secs(30));
        assert!(Instant::now().checked_add(seconds(i64::MAX)).is_some());
    }
}
