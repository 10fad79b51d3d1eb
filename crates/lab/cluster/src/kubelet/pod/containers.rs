//! A pod's containers: started in order, held back after failures, asked to end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use weft_kube::k8s_openapi::api::core::v1::{
    ConfigMap, Container, LifecycleHandler, PodSpec, Secret,
};
use weft_kube::kube;

use super::{GRACE, RETRY, Worker};
use crate::events::Severity;
use crate::kubelet::environment::Facts;
use crate::kubelet::hooks::When;
use crate::kubelet::last_words;
use crate::kubelet::plan;
use crate::kubelet::sandbox;
use crate::kubelet::services;
use crate::kubelet::shim::{Answer, ContainerPlan, ContainerState, Request};
use crate::kubelet::status::{self, Life, Termination};

/// Kubernetes' words for a container that waits.
const IMAGE_FAILED: &str = "ErrImagePull";
const NOT_STARTED: &str = "RunContainerError";
const HOOK_FAILED: &str = "PostStartHookError";

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
            if !done && !self.begun {
                return;
            }
        }
        for container in &spec.containers {
            self.start_if_needed(container, policy).await;
            // As Kubernetes: the next one starts after this one's hook.
            let hooked = self
                .records
                .get(&container.name)
                .is_some_and(|record| record.hooked);
            if hooked {
                return;
            }
        }
    }

    /// Whether a container that ended so is started again.
    fn comes_back(&self, name: &str, code: i32) -> bool {
        let spec = self.pod.spec.as_ref();
        let policy = spec.and_then(|spec| spec.restart_policy.as_deref());
        let mut inits = spec
            .into_iter()
            .flat_map(|spec| spec.init_containers.iter().flatten());
        let init = inits.find(|container| container.name == name);
        match policy {
            _ if init.is_some_and(status::is_sidecar) => true,
            Some("Never") => false,
            Some("OnFailure") => code != 0,
            _ => init.is_none() || code != 0,
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
        if live.again.is_some_and(|again| now < again) {
            return;
        }
        if live.backoff.waiting(now) {
            let wait = live.backoff.current();
            self.hold_back(name, &wait);
            return;
        }
        self.start_container(container).await;
    }

    /// A container that ended, or has no image, waits for its next start.
    fn hold_back(&mut self, name: &str, wait: &str) {
        let pod = format!("{}_{}({})", self.name(), self.namespace(), self.uid());
        let image = self
            .spec_of(name)
            .and_then(|container| container.image.clone())
            .unwrap_or_default();
        let Some(record) = self.records.get_mut(name) else {
            return;
        };
        match &record.life {
            Life::Waiting { reason, message } if reason == IMAGE_FAILED => {
                let because = message.clone().unwrap_or_default();
                let text = format!("Back-off pulling image {image:?}");
                record.life = Life::Waiting {
                    reason: "ImagePullBackOff".to_owned(),
                    message: Some(format!("{text}: {IMAGE_FAILED}: {because}")),
                };
                self.note_container(name, Severity::Normal, "BackOff", text);
                let text = "Error: ImagePullBackOff";
                self.note_container(name, Severity::Warning, "Failed", text);
                return;
            }
            Life::Ended(end) => record.last = Some(end.clone()),
            Life::Waiting { reason, .. } if reason == NOT_STARTED || reason == HOOK_FAILED => {}
            Life::Waiting { .. } | Life::Running(_) => return,
        }
        record.life = Life::Waiting {
            reason: "CrashLoopBackOff".to_owned(),
            message: Some(format!(
                "back-off {wait} restarting failed container={name} pod={pod}"
            )),
        };
        record.ready = false;
        record.started = false;
        let text = format!("Back-off restarting failed container {name} in pod {pod}");
        self.note_container(name, Severity::Warning, "BackOff", text);
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
                self.begun |= super::is_regular(&self.pod, name);
                let hook = container.lifecycle.as_ref();
                match hook.and_then(|lifecycle| lifecycle.post_start.clone()) {
                    Some(hook) => self.run_post_start(name, hook),
                    None => self.begin_probes(name, Instant::now(), false, false),
                }
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
        self.not_started(name, id, reason);
    }

    fn run_post_start(&mut self, name: &str, hook: LifecycleHandler) {
        if let Some(record) = self.records.get_mut(name) {
            record.hooked = true;
            record.ready = false;
            record.started = false;
        }
        self.run_hook(name, When::PostStart, hook, None);
    }

    /// The runtime made a container and could not start its program.
    fn not_started(&mut self, name: &str, id: String, reason: String) {
        let end = Termination {
            id,
            code: 128,
            signal: 0,
            reason: "StartError".to_owned(),
            message: Some(reason.clone()),
            started: Some(Timestamp::UNIX_EPOCH),
            ended: Some(Timestamp::now()),
        };
        let comes_back = self.comes_back(name, end.code);
        if let Some(record) = self.records.get_mut(name) {
            if comes_back {
                record.last = Some(end);
                record.life = Life::Waiting {
                    reason: NOT_STARTED.to_owned(),
                    message: Some(reason.clone()),
                };
            } else {
                record.life = Life::Ended(end);
            }
        }
        let live = self.live.entry(name.to_owned()).or_default();
        live.backoff.ended(Instant::now(), Duration::ZERO);
        let text = format!("Error: {reason}");
        self.note_container(name, Severity::Warning, "Failed", text);
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
                // The first word is heard for a moment, then that nothing is tried for a while.
                live.again = Some(Instant::now() + RETRY);
                let text = format!("Pulling image {image:?}");
                self.note_container(name, Severity::Normal, "Pulling", text);
                let text = format!("Failed to pull image {image:?}: {message}");
                self.note_container(name, Severity::Warning, "Failed", text);
                self.note_container(name, Severity::Warning, "Failed", "Error: ErrImagePull");
                (IMAGE_FAILED, message)
            }
            plan::Error::Environment(_) | plan::Error::Configuration(_) => {
                live.again = Some(Instant::now() + RETRY);
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

    pub(super) fn container_ended(&mut self, state: ContainerState) {
        let Some(end) = state.ended else { return };
        let init = self.is_init(&state.name);
        let comes_back = self.comes_back(&state.name, end.code);
        let message = self.last_words(&state, end.code);
        let Some(record) = self.records.get_mut(&state.name) else {
            return;
        };
        if record.id.as_ref() != Some(&state.id) {
            return;
        }
        let hook_failed = self
            .live
            .get_mut(&state.name)
            .and_then(|live| live.hook_failed.take());
        let at = end.at;
        let end = Termination {
            id: state.id,
            code: end.code,
            signal: end.signal,
            reason: if end.code == 0 { "Completed" } else { "Error" }.to_owned(),
            message,
            started: Some(state.started),
            ended: Some(at),
        };
        let ran = at.duration_since(state.started);
        record.ready = end.code == 0 && init;
        record.started = false;
        record.hooked = false;
        match hook_failed {
            Some(reason) if comes_back => {
                record.last = Some(end);
                record.life = Life::Waiting {
                    reason: HOOK_FAILED.to_owned(),
                    message: Some(reason),
                };
            }
            Some(_) | None => record.life = Life::Ended(end),
        }
        let live = self.live.entry(state.name.clone()).or_default();
        live.probers.clear();
        live.stop = None;
        let ran = Duration::try_from(ran).unwrap_or_default();
        live.backoff.ended(Instant::now(), ran);
    }

    /// What a container leaves behind about its end.
    fn last_words(&self, state: &ContainerState, code: i32) -> Option<String> {
        let container = self.spec_of(&state.name)?;
        let file = last_words::file(self.uid(), &state.name, state.attempt);
        let log = plan::log(&self.pod, &state.name, state.attempt);
        last_words::read(container, code, &file, &log)
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
