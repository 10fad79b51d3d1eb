//! From a container in a pod's specification to what its shim is told to start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weft_kube::k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::environment::{self, Facts};
use super::images;
use super::last_words;
use super::names::{self, ClusterDns, Resolver};
use super::shim::{ContainerPlan, Identity, MountPlan};
use super::sub_path;
use super::volumes::{self, Volumes};

/// The weft binary in every pod.
const WEFT: &str = "/usr/local/bin/weft";

/// Why a container cannot be planned, as the pod's status tells it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nothing stands for the image.
    #[error(transparent)]
    Image(#[from] images::Missing),
    /// Its environment.
    #[error(transparent)]
    Environment(#[from] environment::Error),
    /// Its mounts or its user.
    #[error("{0}")]
    Configuration(String),
}

/// What a plan depends on beyond the pod.
#[derive(Debug)]
pub(super) struct Context<'a> {
    /// The pod's facts for variables.
    pub(super) facts: &'a Facts<'a>,
    /// The Services' variables.
    pub(super) services: &'a [(String, String)],
    /// The pod's volumes.
    pub(super) volumes: &'a Volumes,
    /// The pod's folder.
    pub(super) folder: &'a Path,
    /// The weft binary on the node.
    pub(super) weft: &'a Path,
    /// The machine's file system on the node.
    pub(super) machine: &'a Path,
}

/// Where the files that the kubelet writes for every container of a pod lie.
fn etc(folder: &Path) -> PathBuf {
    folder.join("etc")
}

/// Writes hostname, hosts and resolv.conf of a pod.
///
/// # Errors
/// When the pod's folder cannot be written to.
pub(super) fn write_names(
    folder: &Path,
    facts: &Facts<'_>,
    dns: &ClusterDns,
) -> std::io::Result<()> {
    let pod = facts.pod;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    let in_node_network = spec.host_network.unwrap_or(false);
    let hosts = if in_node_network {
        let nodes_own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        names::node_hosts(&nodes_own, aliases)
    } else {
        let domain = names::subdomain(pod, &dns.domain);
        names::pod_hosts(
            facts.pod_ips,
            &names::hostname(pod),
            domain.as_deref(),
            aliases,
        )
    };
    let nodes_own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let resolver = names::resolver(spec, namespace, Some(dns), &Resolver::parse(&nodes_own));
    let folder = etc(folder);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("hosts"), hosts)?;
    std::fs::write(folder.join("resolv.conf"), resolver.text())?;
    std::fs::write(folder.join("hostname"), format!("{}\n", hostname(pod)))
}

fn hostname(pod: &Pod) -> String {
    let in_node_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    if in_node_network {
        let name = rustix::system::uname();
        return name.nodename().to_string_lossy().into_owned();
    }
    names::hostname(pod)
}

/// Where a run of a container writes its log.
pub(super) fn log(pod: &Pod, container: &str, attempt: u32) -> PathBuf {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let folder = format!("/var/log/pods/{namespace}_{name}_{uid}");
    Path::new(&folder)
        .join(container)
        .join(format!("{attempt}.log"))
}

/// Plans the start of a container.
///
/// # Errors
/// [`Error`].
pub(super) fn container(
    container: &Container,
    id: String,
    attempt: u32,
    context: &Context<'_>,
) -> Result<ContainerPlan, Error> {
    let pod = context.facts.pod;
    let image = container.image.as_deref().unwrap_or_default();
    let mut env = environment::compose(container, context.facts, context.services)?;
    let known: BTreeMap<String, String> = env.iter().cloned().collect();
    for (name, value) in [
        ("PATH", images::PATH.to_owned()),
        ("HOSTNAME", hostname(pod)),
        ("HOME", "/root".to_owned()),
    ] {
        if !known.contains_key(name) {
            env.insert(0, (name.to_owned(), value));
        }
    }
    let expanded = |words: Option<&Vec<String>>| -> Vec<String> {
        words
            .into_iter()
            .flatten()
            .map(|word| environment::expand(word, &known))
            .collect()
    };
    let command = images::command(
        image,
        &expanded(container.command.as_ref()),
        &expanded(container.args.as_ref()),
        |program| images::exists_on(context.machine, program),
    )?;
    let security = container.security_context.as_ref();
    let mut mounts = mounts(container, context, &known)?;
    let words = container.termination_message_path.as_deref();
    if let Some(target) = words.filter(|target| !target.is_empty()) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let file = last_words::file(uid, &container.name, attempt);
        last_words::prepare(&file).map_err(|error| {
            Error::Configuration(format!("cannot write {}: {error}", file.display()))
        })?;
        mounts.push(MountPlan {
            source: file,
            target: target.to_owned(),
            read_only: false,
            inside: None,
        });
    }
    Ok(ContainerPlan {
        name: container.name.clone(),
        id,
        attempt,
        argv: command.argv,
        env,
        directory: container.working_dir.clone().unwrap_or_default(),
        scratch: context.folder.join("containers").join(&container.name),
        machine: context.machine.to_owned(),
        files: command
            .files
            .iter()
            .map(|(path, content)| ((*path).to_owned(), (*content).to_owned()))
            .collect(),
        mounts,
        read_only_root: security
            .and_then(|security| security.read_only_root_filesystem)
            .unwrap_or(false),
        privileged: security
            .and_then(|security| security.privileged)
            .unwrap_or(false),
        identity: identity(pod, container)?,
        log: log(pod, &container.name, attempt),
        input: container.stdin.unwrap_or(false),
        input_once: container.stdin_once.unwrap_or(false),
        terminal: container.tty.unwrap_or(false),
    })
}

fn mounts(
    container: &Container,
    context: &Context<'_>,
    known: &BTreeMap<String, String>,
) -> Result<Vec<MountPlan>, Error> {
    let own = etc(context.folder);
    let mut mounts: Vec<MountPlan> = ["hosts", "hostname", "resolv.conf"]
        .into_iter()
        .map(|name| MountPlan {
            source: own.join(name),
            target: format!("/etc/{name}"),
            read_only: false,
            inside: None,
        })
        .collect();
    mounts.push(MountPlan {
        source: context.weft.to_owned(),
        target: WEFT.to_owned(),
        read_only: true,
        inside: None,
    });
    let volumes = context
        .facts
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let written_by_kubelet: Vec<&str> = volumes
        .filter(|volume| {
            volume.empty_dir.is_none()
                && volume.host_path.is_none()
                && volume.persistent_volume_claim.is_none()
        })
        .map(|volume| volume.name.as_str())
        .collect();
    let memory: Vec<PathBuf> = volumes::in_memory(context.facts.pod)
        .into_iter()
        .map(|volume| volume.path)
        .collect();
    let mut wanted: Vec<_> = container.volume_mounts.iter().flatten().collect();
    // A mount inside another comes after it.
    wanted.sort_by_key(|mount| mount.mount_path.matches('/').count());
    for mount in wanted {
        let base = context.volumes.paths.get(&mount.name).ok_or_else(|| {
            Error::Configuration(format!(
                "volume {:?} of mount {} does not exist in the pod",
                mount.name, mount.mount_path
            ))
        })?;
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (_, Some(expression)) => environment::expand(expression, known),
            (Some(path), None) => path.clone(),
            (None, None) => String::new(),
        };
        let shims = memory.contains(base);
        mounts.push(MountPlan {
            source: if shims {
                stays_inside(&sub)?;
                base.join(&sub)
            } else {
                part_of(base, &sub)?
            },
            inside: shims.then(|| base.clone()),
            target: mount.mount_path.clone(),
            read_only: mount.read_only.unwrap_or(false)
                || written_by_kubelet.contains(&mount.name.as_str()),
        });
    }
    Ok(mounts)
}

fn refused(sub: &str, reason: impl std::fmt::Display) -> Error {
    Error::Configuration(format!(
        "failed to prepare subPath {sub:?} for volumeMount: {reason}"
    ))
}

fn stays_inside(sub: &str) -> Result<(), Error> {
    if sub.starts_with('/') || sub.split('/').any(|part| part == "..") {
        return Err(refused(sub, "it leads out of the volume"));
    }
    Ok(())
}

/// A part of a volume; made as a folder where it does not exist.
fn part_of(volume: &Path, sub: &str) -> Result<PathBuf, Error> {
    if sub.is_empty() {
        return Ok(volume.to_owned());
    }
    stays_inside(sub)?;
    sub_path::make(volume, &volume.join(sub)).map_err(|error| refused(sub, error))
}

fn identity(pod: &Pod, container: &Container) -> Result<Option<Identity>, Error> {
    let pods = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let user = own
        .and_then(|own| own.run_as_user)
        .or_else(|| pods.and_then(|pods| pods.run_as_user));
    let group = own
        .and_then(|own| own.run_as_group)
        .or_else(|| pods.and_then(|pods| pods.run_as_group));
    let must_not_be_root = own
        .and_then(|own| own.run_as_non_root)
        .or_else(|| pods.and_then(|pods| pods.run_as_non_root))
        .unwrap_or(false);
    if must_not_be_root && user.unwrap_or(0) == 0 {
        return Err(Error::Configuration(
            "container has runAsNonRoot and image will run as root".to_owned(),
        ));
    }
    if user.is_none() && group.is_none() {
        return Ok(None);
    }
    let id = |value: Option<i64>| u32::try_from(value.unwrap_or(0)).unwrap_or(0);
    let extra = pods
        .and_then(|pods| pods.supplemental_groups.clone())
        .unwrap_or_default();
    let volumes_group = pods.and_then(|pods| pods.fs_group);
    Ok(Some(Identity {
        user: id(user),
        group: id(group),
        groups: extra
            .into_iter()
            .chain(volumes_group)
            .map(|group| id(Some(group)))
            .collect(),
    }))
}
