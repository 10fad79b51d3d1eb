//! A pod's containers: started in order, held back after failures, asked to end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use weft_kube::k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Secret};
use weft_kube::kube;

use super::{GRACE, RETRY, SIGKILL, SIGTERM, Worker};
use crate::events::Severity;
use crate::kubelet::environment::Facts;
use crate::kubelet::plan;
use crate::kubelet::sandbox;
use crate::kubelet::services;
use crate::kubelet::shim::{Answer, ContainerPlan, ContainerState, Request};
use crate::kubelet::status::{self, Life, Termination};

impl Worker {
    /// Starts what should run and does not, in order.
    pub(super) async fn start_containers(&mut self, spec: &PodSpec) {
        let policy = spec.restart_policy.as_deref().unwrap_or("Always");
        for container in spec.init_containers.iter().flatten() {
            let sidecar = status::is_sidecar(container);
            let rule = if sidecar {
                "Always"
            } else if policy == "Always" {
                "OnFailure"
            } else {
                policy
            };
            self.start_if_needed(container, rule).await;
            let done = self
                .records
                .get(&container.name)
                .is_some_and(|record| match &record.life {
                    Life::Ended(end) => !sidecar && end.code == 0,
                    Life::Running(_) => sidecar && record.started,
                    Life::Waiting { .. } => false,
                });
            let begun = spec.containers.iter().any(|container| {
                self.records
                    .get(&container.name)
                    .is_some_and(|record| record.id.is_some())
            });
            if !done && !begun {
                return;
            }
        }
        for container in &spec.containers {
            self.start_if_needed(container, policy).await;
        }
    }

    async fn start_if_needed(&mut self, container: &Container, policy: &str) {
        let name = &container.name;
        let now = Instant::now();
        let Some(record) = self.records.get(name) else {
            return;
        };
        let wanted = match &record.life {
            Life::Running(_) => false,
            Life::Waiting { .. } => true,
            Life::Ended(end) => match policy {
                "Always" => true,
                "Never" => false,
                _ => end.code != 0,
            },
        };
        if !wanted {
            return;
        }
        let live = self.live.entry(name.clone()).or_default();
        if live.backoff.waiting(now) {
            let wait = live.backoff.current();
            self.hold_back(name, &wait);
            return;
        }
        self.start_container(container).await;
    }

    /// A container that ended waits for its next start.
    fn hold_back(&mut self, name: &str, wait: &str) {
        let pod = format!("{}_{}({})", self.name(), self.namespace(), self.uid());
        let Some(record) = self.records.get_mut(name) else {
            return;
        };
        if let Life::Ended(end) = &record.life {
            record.last = Some(end.clone());
            record.life = Life::Waiting {
                reason: "CrashLoopBackOff".to_owned(),
                message: Some(format!(
                    "back-off {wait} restarting failed container={name} pod={pod}"
                )),
            };
            record.ready = false;
            record.started = false;
            self.note_container(
                name,
                Severity::Warning,
                "BackOff",
                format!("Back-off restarting failed container {name} in pod {pod}"),
            );
        }
    }

    async fn start_container(&mut self, container: &Container) {
        let name = container.name.as_str();
        let image = container.image.clone().unwrap_or_default();
        let record = self.records.get(name);
        let restarts = record.map_or(0, |record| record.restarts + u32::from(record.id.is_some()));
        let planned = match self.plan(container, restarts).await {
            Ok(planned) => planned,
            Err(error) => {
                self.not_planned(name, &image, &error);
                return;
            }
        };
        self.note_container(
            name,
            Severity::Normal,
            "Pulled",
            format!("Container image {image:?} already present on machine"),
        );
        let Some(sandbox) = &self.sandbox else { return };
        let id = planned.id.clone();
        let asked = sandbox
            .connection()
            .ask(Request::Start(Box::new(planned)))
            .await;
        let Some(record) = self.records.get_mut(name) else {
            return;
        };
        if let Life::Ended(end) = &record.life {
            record.last = Some(end.clone());
        }
        record.restarts = restarts;
        record.id = Some(id.clone());
        let reason = match asked {
            Ok(Answer::Started(state)) => {
                record.life = Life::Running(state.started);
                self.forget_logs(name, restarts);
                self.note_container(
                    name,
                    Severity::Normal,
                    "Created",
                    format!("Created container {name}"),
                );
                self.note_container(
                    name,
                    Severity::Normal,
                    "Started",
                    format!("Started container {name}"),
                );
                self.begin_probes(name, Instant::now(), false, false);
                return;
            }
            Ok(Answer::Refused(reason)) => reason,
            Ok(
                Answer::Done
                | Answer::Containers(_)
                | Answer::Executed { .. }
                | Answer::Terminal
                | Answer::Joined { .. },
            ) => "the pod's shim answers something else".to_owned(),
            // Its connection ends too, and with that the sandbox is made anew.
            Err(error) => error.to_string(),
        };
        let now = Timestamp::now();
        record.life = Life::Ended(Termination {
            id,
            code: 128,
            signal: 0,
            reason: "StartError".to_owned(),
            message: Some(reason.clone()),
            started: Some(Timestamp::UNIX_EPOCH),
            ended: Some(now),
        });
        self.live
            .entry(name.to_owned())
            .or_default()
            .backoff
            .failed(Instant::now());
        self.note_container(
            name,
            Severity::Warning,
            "Failed",
            format!("Error: {reason}"),
        );
    }

    /// Removes the logs of a container's runs before the last one, as the kubelet removes the
    /// containers themselves (its maximum-dead-containers-per-container is 1).
    fn forget_logs(&self, container: &str, attempt: u32) {
        let folder = format!(
            "/var/log/pods/{}_{}_{}/{container}",
            self.namespace(),
            self.name(),
            self.uid()
        );
        let run = |name: &std::ffi::OsStr| -> Option<u32> {
            name.to_str()?.split_once(".log")?.0.parse().ok()
        };
        let listed = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        for old in listed.filter(|entry| {
            run(&entry.file_name()).is_some_and(|run| run.saturating_add(1) < attempt)
        }) {
            if let Err(error) = std::fs::remove_file(old.path()) {
                tracing::warn!(path = %old.path().display(), %error, "an old log stays");
            }
        }
    }

    fn not_planned(&mut self, name: &str, image: &str, error: &plan::Error) {
        let message = error.to_string();
        let live = self.live.entry(name.to_owned()).or_default();
        let (reason, text) = match error {
            plan::Error::Image(_) => {
                live.backoff.failed(Instant::now());
                self.note_container(
                    name,
                    Severity::Warning,
                    "Failed",
                    format!("Failed to pull image {image:?}: {message}"),
                );
                self.note_container(name, Severity::Warning, "Failed", "Error: ErrImagePull");
                let text = format!("Back-off pulling image {image:?}: ErrImagePull: {message}");
                ("ImagePullBackOff", text)
            }
            plan::Error::Environment(_) | plan::Error::Configuration(_) => {
                self.retry = Some(Instant::now() + RETRY);
                self.note_container(
                    name,
                    Severity::Warning,
                    "Failed",
                    format!("Error: {message}"),
                );
                ("CreateContainerConfigError", message)
            }
        };
        if let Some(record) = self.records.get_mut(name) {
            if let Life::Ended(end) = &record.life {
                record.last = Some(end.clone());
            }
            record.life = Life::Waiting {
                reason: reason.to_owned(),
                message: Some(text),
            };
        }
    }

    async fn plan(
        &self,
        container: &Container,
        attempt: u32,
    ) -> Result<ContainerPlan, plan::Error> {
        let api = |error: kube::Error| plan::Error::Configuration(error.to_string());
        let folder = match &self.sandbox {
            Some(sandbox) => sandbox.folder().to_owned(),
            None => sandbox::folder(self.namespace(), self.name()),
        };
        let (config_maps, secrets) = self.referred(container).await.map_err(api)?;
        let (host_ips, pod_ips) = (self.host_ips(), self.pod_ips());
        let facts = Facts {
            pod: &self.pod,
            host_ips: &host_ips,
            pod_ips: &pod_ips,
            config_maps: &config_maps,
            secrets: &secrets,
            allocatable: self.shared.allocatable,
        };
        plan::write_names(&folder, &facts, &self.shared.dns).map_err(|error| {
            plan::Error::Configuration(format!("cannot write {}: {error}", folder.display()))
        })?;
        let links = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.enable_service_links)
            .unwrap_or(true);
        let known = self.shared.cache.services().await;
        let services =
            services::variables(known.iter().map(AsRef::as_ref), self.namespace(), links);
        let context = plan::Context {
            facts: &facts,
            services: &services,
            volumes: &self.volumes,
            folder: &folder,
            weft: &self.shared.config.weft,
            machine: &self.shared.config.machine,
        };
        plan::container(container, sandbox::new_id(), attempt, &context)
    }

    /// The ConfigMaps and Secrets that a container's variables refer to.
    async fn referred(
        &self,
        container: &Container,
    ) -> Result<(BTreeMap<String, ConfigMap>, BTreeMap<String, Secret>), kube::Error> {
        let sources = container.env_from.iter().flatten();
        let values = || {
            container
                .env
                .iter()
                .flatten()
                .filter_map(|env| env.value_from.as_ref())
        };
        let maps = sources
            .clone()
            .filter_map(|source| Some(source.config_map_ref.as_ref()?.name.clone()))
            .chain(
                values().filter_map(|value| Some(value.config_map_key_ref.as_ref()?.name.clone())),
            );
        let secrets = sources
            .filter_map(|source| Some(source.secret_ref.as_ref()?.name.clone()))
            .chain(values().filter_map(|value| Some(value.secret_key_ref.as_ref()?.name.clone())));
        let (mut found_maps, mut found_secrets) = (BTreeMap::new(), BTreeMap::new());
        for name in maps {
            if let Some(object) = self
                .shared
                .cache
                .config_map(self.namespace(), &name)
                .await?
            {
                found_maps.insert(name, ConfigMap::clone(&object));
            }
        }
        for name in secrets {
            if let Some(object) = self.shared.cache.secret(self.namespace(), &name).await? {
                found_secrets.insert(name, Secret::clone(&object));
            }
        }
        Ok((found_maps, found_secrets))
    }

    pub(super) fn spec_of(&self, name: &str) -> Option<&Container> {
        let spec = self.pod.spec.as_ref()?;
        spec.init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .find(|container| container.name == name)
    }

    pub(super) fn grace(&self) -> i64 {
        self.pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(GRACE)
    }

    /// Asks a container to end; it is killed when the time is over.
    pub(super) async fn stop(&mut self, name: &str, grace: Duration) {
        let live = self.live.entry(name.to_owned()).or_default();
        live.stop = Some((Instant::now() + grace, false));
        self.signal(name, SIGTERM).await;
    }

    pub(super) async fn signal(&self, name: &str, signal: i32) {
        let Some(sandbox) = &self.sandbox else { return };
        let request = Request::Signal {
            container: name.to_owned(),
            signal,
        };
        match sandbox.connection().ask(request).await {
            Ok(Answer::Refused(reason)) => {
                tracing::debug!(
                    pod = self.name(),
                    container = name,
                    signal,
                    reason,
                    "no signal"
                );
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(pod = self.name(), container = name, signal, %error, "no signal");
            }
        }
    }

    pub(super) async fn kill_late(&mut self) {
        let now = Instant::now();
        let mut late = Vec::new();
        for (name, live) in &mut self.live {
            if let Some((deadline, killed)) = &mut live.stop
                && !*killed
                && *deadline <= now
            {
                *killed = true;
                late.push(name.clone());
            }
        }
        for name in late {
            self.signal(&name, SIGKILL).await;
        }
    }

    pub(super) fn container_ended(&mut self, state: ContainerState) {
        let Some(end) = state.ended else { return };
        let init = self.is_init(&state.name);
        let Some(record) = self.records.get_mut(&state.name) else {
            return;
        };
        if record.id.as_ref() != Some(&state.id) {
            return;
        }
        record.life = Life::Ended(Termination {
            id: state.id,
            code: end.code,
            signal: end.signal,
            reason: if end.code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: None,
            started: Some(state.started),
            ended: Some(end.at),
        });
        record.ready = end.code == 0 && init;
        let ran = Duration::try_from(end.at.duration_since(state.started)).unwrap_or_default();
        let live = self.live.entry(state.name.clone()).or_default();
        live.probers.clear();
        live.stop = None;
        live.backoff.ended(Instant::now(), ran);
        if let Some(record) = self.records.get_mut(&state.name) {
            record.started = false;
        }
    }

    fn is_init(&self, name: &str) -> bool {
        let inits = self
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten());
        inits.into_iter().any(|container| container.name == name)
    }
}
