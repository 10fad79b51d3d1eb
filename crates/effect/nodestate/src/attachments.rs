//! Attachment records: what ADD made and DEL has to undo.
//!
//! One JSON file an attachment, `CONTAINER-INTERFACE.json`, written when its addresses are
//! reserved and before the kernel is touched. What it tells of is in the kernel and ends with it:
//! records survive the process that writes them, and nothing more is asked of them.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weft_proto::cni::{AttachmentKey, ContainerId, InterfaceName, NetworkName};

use crate::durable;

/// The layout of the file; a record of another one is not guessed at.
const FORMAT: u32 = 1;
const SUFFIX: &str = ".json";
/// `Documentation/admin-guide/sysctl/kernel.rst`, `random`: another one each time it is read.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";
/// No record is written that is longer; a longer file is not ours.
const LONGEST_RECORD: u64 = 64 * 1024;

/// What was, or is being, attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Which container, which interface.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// The network's name, and with it the pool's.
    pub network: NetworkName,
    /// Where the pool is (`ipam.dataDir`).
    pub data_dir: PathBuf,
    /// The path of the pod's network namespace.
    pub netns: PathBuf,
    /// The namespace's inode: a path may lead to another namespace later.
    #[serde(default)]
    pub netns_inode: Option<u64>,
    /// The name of the link's end on the node.
    pub host_link: String,
    /// Bytes.
    pub mtu: u32,
    /// The pod's addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// The node's own addresses, at most one a family.
    #[serde(default)]
    pub node_addresses: Vec<IpAddr>,
    /// The Ethernet address that the pod's end was asked to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<[u8; 6]>,
    /// What the pod sends by this interface; absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<IpNet>>,
    /// The bridge that the link's end on the node is a port of; absent: routed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Bridge>,
    /// Whether packets that the pod sends from an address that is not its own are dropped.
    #[serde(default)]
    pub anti_spoofing: bool,
    /// Addresses of the pod's other interfaces that other plugins made before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_addresses: Vec<IpAddr>,
    /// Beyond these ranges the pod's connections have the node's address; absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade_beyond: Option<Vec<IpNet>>,
    /// Whose it is, if the runtime said so.
    #[serde(default)]
    pub pod: Option<Pod>,
}

/// A bridge of pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// The pods' routers, with the length of their networks.
    pub gateways: Vec<IpNet>,
    /// Whether it is cut off from the node's other pods.
    #[serde(default)]
    pub isolated: bool,
}

/// SHA-256 of `CONTAINER/INTERFACE`, from which a link's names on the node come.
pub fn digest(key: &AttachmentKey) -> [u8; 32] {
    Sha256::digest(key.to_string()).into()
}

/// A pod's identity in the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; empty if the runtime did not say.
    #[serde(default)]
    pub uid: String,
}

#[derive(Serialize, Deserialize)]
struct File<A> {
    format: u32,
    #[serde(flatten)]
    attachment: A,
}

/// A record that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("attachment record {}: cannot {action}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The content is not a record.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// A file among the records that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("attachment record {} is damaged: {reason}", path.display())]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// One file of the directory: nothing vanishes because it is unreadable.
pub type Listed = Result<Attachment, Damaged>;

/// The directory of records.
#[derive(Clone, Debug)]
pub struct Attachments {
    directory: PathBuf,
}

impl Attachments {
    /// The records under a state directory (`/run/weft`). Makes nothing yet.
    pub fn under(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("attachments"),
        }
    }

    /// Where the records are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The record of an attachment, if there is one.
    ///
    /// # Errors
    /// [`RecordError::Io`], and [`RecordError::Damaged`] for content that is no record
    /// or the record of another attachment.
    pub fn read(&self, key: &AttachmentKey) -> Result<Option<Attachment>, RecordError> {
        let path = self.path(key);
        match read_text(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read it", &path, source)),
            Ok(text) => Ok(Some(decode(&path, &text)?)),
        }
    }

    /// Writes a record, replacing the one that was there.
    ///
    /// # Errors
    /// [`RecordError::Io`]; the record that was there stays.
    pub fn write(&self, attachment: &Attachment) -> Result<(), RecordError> {
        durable::create_directory(&self.directory)
            .map_err(|source| failed("create the directory", &self.directory, source))?;
        let path = self.path(&attachment.key);
        let file = File {
            format: FORMAT,
            attachment,
        };
        let text = serde_json::to_vec_pretty(&file)
            .map_err(|error| failed("encode it", &path, error.into()))?;
        let name = file_name(&attachment.key);
        let temporary = self
            .directory
            .join(format!(".{}.{name}", std::process::id()));
        durable::replace(&path, &temporary, &text)
            .map_err(|source| failed("write it", &path, source))
    }

    /// Tells these records from those that were here before them: it ends with the directory,
    /// which in `/run` ends with the boot. Makes it if there is none.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub(crate) fn life(&self) -> Result<String, RecordError> {
        let path = self.directory.join("life");
        let temporary = self.directory.join(format!(".{}.life", std::process::id()));
        match fs::read_to_string(&path) {
            Ok(life) => return Ok(life),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed("read it", &path, source)),
        }
        // Another may do the same: the first name stands, and has its content.
        let make = || {
            durable::create_directory(&self.directory)?;
            durable::write_new(&temporary, &fs::read(RANDOM)?)?;
            let named = match fs::hard_link(&temporary, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                named => named,
            };
            fs::remove_file(&temporary)?;
            named?;
            fs::read_to_string(&path)
        };
        make().map_err(|source| failed("make it", &path, source))
    }

    /// Removes a record. Returns whether there was one.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn remove(&self, key: &AttachmentKey) -> Result<bool, RecordError> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(failed("remove it", &path, source)),
            Ok(()) => Ok(true),
        }
    }

    /// When a record was written last; `None` if there is none, or nobody can tell.
    pub fn written(&self, key: &AttachmentKey) -> Option<SystemTime> {
        fs::metadata(self.path(key)).ok()?.modified().ok()
    }

    /// Removes what writers that died left: files that never got their names.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn sweep(&self) -> Result<(), RecordError> {
        durable::sweep(&self.directory)
            .map_err(|source| failed("list the directory", &self.directory, source))
    }

    /// Every record, in the order of their files' names. A directory that is not
    /// there is empty.
    ///
    /// # Errors
    /// [`RecordError::Io`] if the directory can't be read; a file that can't be read is
    /// an item.
    pub fn list(&self) -> Result<Vec<Listed>, RecordError> {
        Ok(self
            .names()?
            .into_iter()
            .filter_map(|name| self.load(&name))
            .collect())
    }

    /// The names of all records' files, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>, RecordError> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed("list the directory", &self.directory, source)),
            Ok(entries) => entries,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry =
                entry.map_err(|source| failed("list the directory", &self.directory, source))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Names with a dot in front are records being written.
            if !name.starts_with('.') && name.ends_with(SUFFIX) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// One listed file; `None` if it has been removed meanwhile.
    pub(crate) fn load(&self, name: &str) -> Option<Listed> {
        let path = self.directory.join(name);
        match read_text(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(Damaged {
                path,
                reason: format!("cannot read it: {error}"),
            })),
            Ok(text) => Some(decode(&path, &text)),
        }
    }

    fn path(&self, key: &AttachmentKey) -> PathBuf {
        self.directory.join(file_name(key))
    }
}

/// `CONTAINER-INTERFACE.json`. A `-` or `%` of the interface's name is written as in a
/// URL, so that the last `-` always parts the two: `a-b`/`c` and `a`/`b-c` differ.
fn file_name(key: &AttachmentKey) -> String {
    let interface = key
        .interface
        .as_str()
        .replace('%', "%25")
        .replace('-', "%2D");
    format!("{}-{interface}{SUFFIX}", key.container)
}

fn key_of(name: &str) -> Option<AttachmentKey> {
    let (container, interface) = name.strip_suffix(SUFFIX)?.rsplit_once('-')?;
    let interface = interface.replace("%2D", "-").replace("%25", "%");
    Some(AttachmentKey {
        container: ContainerId::try_from(container).ok()?,
        interface: InterfaceName::try_from(interface).ok()?,
    })
}

fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > LONGEST_RECORD {
        return Err(io::Error::other(format!(
            "{} bytes is more than any record has",
            metadata.len()
        )));
    }
    fs::read(path)
}

fn decode(path: &Path, text: &[u8]) -> Listed {
    let damaged = |reason: String| Damaged {
        path: path.to_owned(),
        reason,
    };
    if text.is_empty() {
        return Err(damaged("it is empty".to_owned()));
    }
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } =
        serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
    if format != FORMAT {
        return Err(damaged(format!(
            "it has format {format}, and this program reads format {FORMAT}"
        )));
    }
    let file: File<Attachment> =
        serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
    let named = path
        .file_name()
        .and_then(OsStr::to_str)
        .and_then(key_of)
        .ok_or_else(|| damaged("its name is not that of a record".to_owned()))?;
    if named != file.attachment.key {
        return Err(damaged(format!(
            "it is the record of {}, not of {named}",
            file.attachment.key
        )));
    }
    if file.attachment.addresses.is_empty() {
        return Err(damaged("it has no address".to_owned()));
    }
    Ok(file.attachment)
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> RecordError {
    RecordError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
