//! A pod's volumes on its node: folders that its containers mount.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use weft_kube::k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use weft_kube::k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath,
    PersistentVolume, PersistentVolumeClaim, Pod, ProjectedVolumeSource, Secret, ServiceAccount,
    ServiceAccountTokenProjection, Volume,
};
use weft_kube::kube::Api;
use weft_kube::kube::api::PostParams;
use weft_kube::{Client, k8s_openapi, kube};

use super::cache::Cache;
use super::environment::{self, Facts};
use super::files::{Files, write_atomically};
use super::shim::MemoryVolume;

/// Where the kubelet keeps pods' volumes.
pub const PODS: &str = "/var/lib/kubelet/pods";
/// How long a token is asked for: Kubernetes' own for pods, an hour and 7 s.
const TOKEN_SECONDS: i64 = 3607;
/// How old a token becomes, however long it would hold: a day.
const TOKEN_OLDEST: i64 = 24 * 60 * 60;
const DEFAULT_MODE: i32 = 0o644;
const EMPTY_DIR: &str = "empty-dir";

/// Why a volume cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something it refers to does not exist.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
    Setup {
        /// The volume.
        volume: String,
        /// What is missing.
        reason: String,
    },
    /// The API could not be asked.
    #[error("MountVolume.SetUp failed for volume {volume:?} : the API did not answer: {source}")]
    Api {
        /// The volume.
        volume: String,
        /// What happened.
        source: kube::Error,
    },
    /// The node's file system.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {}: {source}", path.display())]
    File {
        /// The volume.
        volume: String,
        /// Which file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// A token and when it is to be replaced.
#[derive(Debug, Clone)]
struct Token {
    text: String,
    renew: Timestamp,
}

/// The volumes of one pod.
#[derive(Debug, Default)]
pub struct Volumes {
    /// Where each lies on the node.
    pub paths: BTreeMap<String, PathBuf>,
    tokens: BTreeMap<(String, String), Token>,
}

impl Volumes {
    /// When the first token is due to be renewed.
    #[must_use]
    pub fn renew(&self) -> Option<Timestamp> {
        self.tokens.values().map(|token| token.renew).min()
    }

    /// Whether a token is to be replaced by now.
    #[must_use]
    pub fn are_due(&self, now: Timestamp) -> bool {
        self.renew().is_some_and(|renew| renew <= now)
    }

    /// Makes every volume of the pod, or brings them up to date.
    ///
    /// # Errors
    /// The first volume that cannot be made.
    pub async fn prepare(
        &mut self,
        client: &Client,
        cache: &Cache,
        facts: &Facts<'_>,
    ) -> Result<(), Error> {
        let pod = facts.pod;
        let base = base_of(pod);
        for volume in volumes_of(pod) {
            let mut maker = Maker {
                volumes: self,
                client,
                cache,
                facts,
                name: &volume.name,
            };
            let path = maker.make(volume, &base).await?;
            self.paths.insert(volume.name.clone(), path);
        }
        Ok(())
    }
}

/// The folder of a pod's volumes.
fn base_of(pod: &Pod) -> PathBuf {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    Path::new(PODS).join(uid).join("volumes")
}

fn volumes_of(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.volumes.iter().flatten())
}

fn is_memory(source: &EmptyDirVolumeSource) -> bool {
    source.medium.as_deref() == Some("Memory")
}

/// How many bytes an emptyDir may hold; 0 is no limit.
fn limit(source: &EmptyDirVolumeSource) -> Option<u64> {
    let limit = environment::quantity_value(&source.size_limit.as_ref()?.0)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a quantity of bytes, and saturating"
    )]
    let bytes = limit as u64;
    (bytes > 0).then_some(bytes)
}

fn empty_dir(pod: &Pod, name: &str) -> PathBuf {
    base_of(pod)
        .join(format!("kubernetes.io~{EMPTY_DIR}"))
        .join(name)
}

/// The pod's volumes in memory.
#[must_use]
pub fn in_memory(pod: &Pod) -> Vec<MemoryVolume> {
    let sources = volumes_of(pod).filter_map(|volume| Some((volume, volume.empty_dir.as_ref()?)));
    sources
        .filter(|(_, source)| is_memory(source))
        .map(|(volume, source)| MemoryVolume {
            path: empty_dir(pod, &volume.name),
            size: limit(source),
        })
        .collect()
}

/// What a pod's volumes are written from: the versions that the watches know.
#[must_use]
pub fn sources(pod: &Pod, cache: &Cache) -> Vec<Option<String>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut versions = Vec::new();
    for volume in volumes_of(pod) {
        let parts = volume
            .projected
            .iter()
            .flat_map(|own| own.sources.iter().flatten());
        let maps = volume.config_map.iter().map(|map| &map.name);
        let maps = maps.chain(
            parts
                .clone()
                .filter_map(|part| Some(&part.config_map.as_ref()?.name)),
        );
        let secrets = volume
            .secret
            .iter()
            .filter_map(|secret| secret.secret_name.as_ref());
        let secrets = secrets.chain(parts.filter_map(|part| Some(&part.secret.as_ref()?.name)));
        versions.extend(maps.map(|name| cache.config_map_version(namespace, name)));
        versions.extend(secrets.map(|name| cache.secret_version(namespace, name)));
    }
    versions
}

/// Whether a volume of the pod tells its addresses, which are known only in its sandbox.
#[must_use]
pub fn tell_addresses(pod: &Pod) -> bool {
    volumes_of(pod)
        .flat_map(|volume| {
            let own = volume
                .downward_api
                .iter()
                .flat_map(|own| own.items.iter().flatten());
            let parts = volume
                .projected
                .iter()
                .flat_map(|own| own.sources.iter().flatten());
            let parts = parts.filter_map(|part| part.downward_api.as_ref());
            own.chain(parts.flat_map(|part| part.items.iter().flatten()))
        })
        .filter_map(|item| item.field_ref.as_ref())
        .any(|field| field.field_path.starts_with("status."))
}

/// A volume whose use is limited and not by the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    path: PathBuf,
    bytes: u64,
    /// What is said of it when it holds more.
    pub message: String,
}

/// The pod's limited volumes on disk.
#[must_use]
pub fn limited(pod: &Pod) -> Vec<Limited> {
    let sources = volumes_of(pod).filter_map(|volume| Some((volume, volume.empty_dir.as_ref()?)));
    sources
        .filter(|(_, source)| !is_memory(source))
        .filter_map(|(volume, source)| {
            let text = &source.size_limit.as_ref()?.0;
            Some(Limited {
                path: empty_dir(pod, &volume.name),
                bytes: limit(source)?,
                message: format!(
                    "Usage of EmptyDir volume {:?} exceeds the limit {text:?}. ",
                    volume.name
                ),
            })
        })
        .collect()
}

impl Limited {
    /// Whether it holds more than it may.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        used(&self.path) > self.bytes
    }
}

/// How much a folder takes on disk (stat(2): blocks are of 512 bytes).
fn used(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        let below = if metadata.is_dir() {
            used(&entry.path())
        } else {
            0
        };
        Some(metadata.blocks().saturating_mul(512).saturating_add(below))
    });
    sizes.fold(0, u64::saturating_add)
}

/// Removes everything kept for pods other than these.
pub fn remove_all_but(uids: &[String]) {
    for entry in std::fs::read_dir(PODS).into_iter().flatten().flatten() {
        if let Some(uid) = entry.file_name().to_str()
            && !uids.iter().any(|known| known == uid)
        {
            remove(uid);
        }
    }
}

/// Removes everything kept for a pod.
pub fn remove(uid: &str) {
    let path = Path::new(PODS).join(uid);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "a pod's volumes stay");
        }
        Ok(()) | Err(_) => {}
    }
}

struct Maker<'a> {
    volumes: &'a mut Volumes,
    client: &'a Client,
    cache: &'a Cache,
    facts: &'a Facts<'a>,
    name: &'a str,
}

impl Maker<'_> {
    fn namespace(&self) -> &str {
        self.facts
            .pod
            .metadata
            .namespace
            .as_deref()
            .unwrap_or("default")
    }

    fn wrong(&self, reason: impl Into<String>) -> Error {
        Error::Setup {
            volume: self.name.to_owned(),
            reason: reason.into(),
        }
    }

    fn file(&self, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let (volume, path) = (self.name.to_owned(), path.to_owned());
        move |source| Error::File {
            volume,
            path,
            source,
        }
    }

    fn api(&self) -> impl FnOnce(kube::Error) -> Error {
        let volume = self.name.to_owned();
        move |source| Error::Api { volume, source }
    }

    async fn make(&mut self, volume: &Volume, base: &Path) -> Result<PathBuf, Error> {
        let folder = |plugin: &str| {
            base.join(format!("kubernetes.io~{plugin}"))
                .join(&volume.name)
        };
        if let Some(source) = &volume.empty_dir {
            let folder = folder(EMPTY_DIR);
            if is_memory(source) {
                // The pod's shim mounts it.
                return Ok(folder);
            }
            fs::create_dir_all(&folder).map_err(self.file(&folder))?;
            fs::set_permissions(&folder, Permissions::from_mode(0o777))
                .map_err(self.file(&folder))?;
            return Ok(folder);
        }
        if let Some(source) = &volume.host_path {
            return self.host_path(source);
        }
        if let Some(source) = &volume.persistent_volume_claim {
            return self.claim(&source.claim_name).await;
        }
        let mut files = Files::new();
        let folder = if let Some(source) = &volume.config_map {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            self.config_map(
                &source.name,
                source.items.as_deref(),
                source.optional,
                mode,
                &mut files,
            )
            .await?;
            folder("configmap")
        } else if let Some(source) = &volume.secret {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let name = source.secret_name.as_deref().unwrap_or_default();
            self.secret(
                name,
                source.items.as_deref(),
                source.optional,
                mode,
                &mut files,
            )
            .await?;
            folder("secret")
        } else if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            self.downward(
                source.items.as_deref().unwrap_or_default(),
                mode,
                &mut files,
            )?;
            folder("downward-api")
        } else if let Some(source) = &volume.projected {
            self.projected(source, &mut files).await?;
            folder("projected")
        } else {
            return Err(self.wrong(
                "the lab's kubelet knows emptyDir, hostPath, persistentVolumeClaim, configMap, secret, downwardAPI and projected volumes",
            ));
        };
        self.write(&folder, &files)?;
        Ok(folder)
    }

    fn write(&self, folder: &Path, files: &Files) -> Result<(), Error> {
        write_atomically(folder, files).map_err(self.file(folder))
    }

    /// The folder of the volume that a claim of the pod's namespace is bound to.
    async fn claim(&self, name: &str) -> Result<PathBuf, Error> {
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), self.namespace());
        let claim = claims.get_opt(name).await.map_err(self.api())?;
        let claim =
            claim.ok_or_else(|| self.wrong(format!("persistentvolumeclaim {name:?} not found")))?;
        let bound = claim
            .status
            .is_some_and(|status| status.phase.as_deref() == Some("Bound"));
        let volume = claim
            .spec
            .and_then(|spec| spec.volume_name)
            .filter(|_| bound);
        let volume = volume.ok_or_else(|| self.wrong(format!("PVC {name} is not bound")))?;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let found = volumes.get_opt(&volume).await.map_err(self.api())?;
        let spec = found.and_then(|volume| volume.spec).unwrap_or_default();
        if let Some(source) = &spec.host_path {
            return self.host_path(source);
        }
        if let Some(source) = spec.local {
            let path = PathBuf::from(source.path);
            // Unlike a hostPath a local volume has to be there.
            fs::metadata(&path).map_err(self.file(&path))?;
            return Ok(path);
        }
        Err(self.wrong(format!(
            "persistentvolume {volume:?} is neither hostPath nor local, which is what the lab's kubelet mounts"
        )))
    }

    fn host_path(&self, source: &HostPathVolumeSource) -> Result<PathBuf, Error> {
        let path = PathBuf::from(&source.path);
        let kind = source.type_.as_deref().unwrap_or_default();
        let make_folder = |folder: &Path| fs::create_dir_all(folder).map_err(self.file(folder));
        match kind {
            "DirectoryOrCreate" => make_folder(&path)?,
            "FileOrCreate" => {
                if let Some(parent) = path.parent() {
                    make_folder(parent)?;
                }
                fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&path)
                    .map_err(self.file(&path))?;
            }
            // Container runtimes make a folder for a path that is not there.
            "" if !path.exists() => make_folder(&path)?,
            _ => {}
        }
        let is = fs::metadata(&path).map(|metadata| metadata.file_type());
        let fits = is.as_ref().is_ok_and(|is| match kind {
            "Directory" | "DirectoryOrCreate" => is.is_dir(),
            "File" | "FileOrCreate" => is.is_file(),
            "Socket" => is.is_socket(),
            "CharDevice" => is.is_char_device(),
            "BlockDevice" => is.is_block_device(),
            _ => true,
        });
        if fits {
            return Ok(path);
        }
        let what = match kind {
            "Directory" | "DirectoryOrCreate" => "directory",
            "File" | "FileOrCreate" => "file",
            "Socket" => "socket file",
            "CharDevice" => "character device",
            _ => "block device",
        };
        Err(self.wrong(format!(
            "hostPath type check failed: {} is not a {what}",
            source.path
        )))
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), Error> {
        let found = self
            .cache
            .config_map(self.namespace(), name)
            .await
            .map_err(self.api())?;
        let entries = match &found {
            Some(object) => config_map_entries(object),
            None if optional.unwrap_or(false) => return Ok(()),
            None => return Err(self.wrong(format!("configmap {name:?} not found"))),
        };
        self.choose(&entries, items, optional, mode, files)
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), Error> {
        let found = self
            .cache
            .secret(self.namespace(), name)
            .await
            .map_err(self.api())?;
        let entries = match &found {
            Some(object) => secret_entries(object),
            None if optional.unwrap_or(false) => return Ok(()),
            None => return Err(self.wrong(format!("secret {name:?} not found"))),
        };
        self.choose(&entries, items, optional, mode, files)
    }

    /// All keys under their own names, or the chosen ones under theirs.
    fn choose(
        &self,
        entries: &BTreeMap<String, Vec<u8>>,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), Error> {
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, value) in entries {
                files.insert(key.clone(), (value.clone(), bits(mode)));
            }
            return Ok(());
        };
        for item in items {
            match entries.get(&item.key) {
                Some(value) => {
                    let mode = bits(item.mode.unwrap_or(mode));
                    files.insert(self.inside(&item.path)?, (value.clone(), mode));
                }
                None if optional.unwrap_or(false) => {}
                None => {
                    return Err(self.wrong(format!("references non-existent key: {}", item.key)));
                }
            }
        }
        Ok(())
    }

    fn inside(&self, path: &str) -> Result<String, Error> {
        let bad =
            path.starts_with('/') || path.split('/').any(|part| part == ".." || part.is_empty());
        if bad {
            return Err(self.wrong(format!("the path {path:?} does not stay inside the volume")));
        }
        Ok(path.to_owned())
    }

    fn downward(
        &self,
        items: &[DownwardAPIVolumeFile],
        mode: i32,
        files: &mut Files,
    ) -> Result<(), Error> {
        for item in items {
            let text = if let Some(selector) = &item.field_ref {
                environment::field(selector, self.facts)
            } else if let Some(selector) = &item.resource_field_ref {
                let wanted = selector.container_name.as_deref().unwrap_or_default();
                let containers = self.facts.pod.spec.iter().flat_map(|spec| &spec.containers);
                let container = containers
                    .into_iter()
                    .find(|container| container.name == wanted)
                    .ok_or_else(|| self.wrong(format!("container {wanted:?} not found")))?;
                environment::resource(selector, container, self.facts.allocatable)
            } else {
                Ok(String::new())
            };
            let text = text.map_err(|error| self.wrong(error.to_string()))?;
            let mode = bits(item.mode.unwrap_or(mode));
            files.insert(self.inside(&item.path)?, (text.into_bytes(), mode));
        }
        Ok(())
    }

    async fn projected(
        &mut self,
        source: &ProjectedVolumeSource,
        files: &mut Files,
    ) -> Result<(), Error> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for part in source.sources.iter().flatten() {
            if let Some(part) = &part.service_account_token {
                let token = self.token(part).await?;
                files.insert(self.inside(&part.path)?, (token.into_bytes(), bits(mode)));
            }
            if let Some(part) = &part.config_map {
                let items = part.items.as_deref();
                self.config_map(&part.name, items, part.optional, mode, files)
                    .await?;
            }
            if let Some(part) = &part.secret {
                let items = part.items.as_deref();
                self.secret(&part.name, items, part.optional, mode, files)
                    .await?;
            }
            if let Some(part) = &part.downward_api {
                self.downward(part.items.as_deref().unwrap_or_default(), mode, files)?;
            }
        }
        Ok(())
    }

    fn account(&self) -> String {
        let spec = self.facts.pod.spec.as_ref();
        spec.and_then(|spec| spec.service_account_name.clone())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned())
    }

    async fn token(&mut self, source: &ServiceAccountTokenProjection) -> Result<String, Error> {
        let metadata = &self.facts.pod.metadata;
        let audience = source.audience.clone().unwrap_or_default();
        let key = (self.name.to_owned(), audience.clone());
        let now = Timestamp::now();
        if let Some(token) = self
            .volumes
            .tokens
            .get(&key)
            .filter(|token| now < token.renew)
        {
            return Ok(token.text.clone());
        }
        let account = self.account();
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: if audience.is_empty() {
                    Vec::new()
                } else {
                    vec![audience]
                },
                expiration_seconds: Some(source.expiration_seconds.unwrap_or(TOKEN_SECONDS)),
                bound_object_ref: Some(
                    k8s_openapi::api::authentication::v1::BoundObjectReference {
                        api_version: Some("v1".to_owned()),
                        kind: Some("Pod".to_owned()),
                        name: metadata.name.clone(),
                        uid: metadata.uid.clone(),
                    },
                ),
            },
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), self.namespace());
        let answer = api
            .create_token_request(&account, &PostParams::default(), &request)
            .await
            .map_err(self.api())?;
        let status = answer
            .status
            .ok_or_else(|| self.wrong("the API gave no token"))?;
        let token = Token {
            text: status.token.clone(),
            renew: renewal(now, status.expiration_timestamp.0),
        };
        self.volumes.tokens.insert(key, token);
        Ok(status.token)
    }
}

/// When a token is due to be renewed: after four fifths of its life, and after a day at the latest,
/// as Kubernetes' kubelet does it.
fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.as_second().saturating_sub(now.as_second());
    let after = (life.max(10) / 5 * 4).min(TOKEN_OLDEST);
    let renew = now.checked_add(jiff::SignedDuration::from_secs(after));
    renew.unwrap_or(now)
}

fn bits(mode: i32) -> u32 {
    mode.unsigned_abs() & 0o777
}

/// A ConfigMap's entries as bytes.
fn config_map_entries(object: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = object.data.iter().flatten();
    let binary = object.binary_data.iter().flatten();
    text.map(|(key, value)| (key.clone(), value.clone().into_bytes()))
        .chain(binary.map(|(key, value)| (key.clone(), value.0.clone())))
        .collect()
}

fn secret_entries(object: &Secret) -> BTreeMap<String, Vec<u8>> {
    let entries = object.data.iter().flatten();
    entries
        .map(|(key, value)| (key.clone(), value.0.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_in_time() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let after = |life: i64| {
            let expires = Timestamp::from_second(1_000_000 + life).unwrap();
            renewal(now, expires).as_second() - now.as_second()
        };
        assert_eq!(after(600), 480);
        assert_eq!(after(3600), 2880);
        assert_eq!(after(7 * 86_400), 86_400);
        // One that is over, by a clock that is ahead, is not asked for without end.
        assert_eq!(after(-5), 8);
        assert_eq!(after(1), 8);
    }

    #[test]
    fn volumes_are_due_with_their_first_token() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let token = |renew| Token {
            text: String::new(),
            renew: at(renew),
        };
        let mut volumes = Volumes::default();
        assert!(!volumes.are_due(at(5_000)));
        for (volume, renew) in [("late", 3_000), ("early", 2_000)] {
            let key = (volume.to_owned(), String::new());
            volumes.tokens.insert(key, token(renew));
        }
        assert!(!volumes.are_due(at(1_999)));
        assert!(volumes.are_due(at(2_000)));
    }
}
