//! A folder in which a lab's durable state outlives it, for `weft lab up --keep`.
//!
//! ```text
//! lock               held by the front that uses the folder, and by its lab's PID 1
//! lab.json           what the lab is; written once the lab was started
//! pki/               the certificate authority and the key of service-account tokens
//! store.redb         the API server's objects, and their log: store.redb.log0, store.redb.log1
//! nodes/NAME/        of each node: /var/lib/weft, /var/lib/cni, /var/lib/kubelet, /var/log
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use weft_apiserver::StoreError;

use super::plan::{self, Chosen, Families, NodePlan, Plan, Request};
use super::settings::{Capacity, NodeSettings, ZONE};

/// The layout of the folder.
const FORMAT: u32 = 1;
/// The version of weft that knows what is in the folder.
const VERSION: &str = env!("CARGO_PKG_VERSION");

const LOCK: &str = "lock";
const DESCRIPTION: &str = "lab.json";
/// The API server's store.
pub(super) const STORE: &str = "store.redb";
/// The certificate authority.
pub(super) const PKI: &str = "pki";
/// The nodes' own state.
pub(super) const NODES: &str = "nodes";

/// How long a process that was killed may take to end.
const DYING: Duration = Duration::from_secs(1);
/// How long the rest of a lab whose front was killed may take to let go of the folder.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A lab that runs has it.
    #[error(
        "--keep {}: a lab that is up uses this folder; end that lab first (`weft lab list`), or choose another folder", .0.display()
    )]
    InUse(PathBuf),
    /// It has something else in it.
    #[error(
        "--keep {}: the folder is not empty and holds no lab; choose an empty or new one", .0.display()
    )]
    Foreign(PathBuf),
    /// It was made by a weft that may have understood it differently.
    #[error(
        "--keep {}: the lab in this folder was made by weft {found}, and this is weft {VERSION}; use that version, or choose another folder", folder.display()
    )]
    Version {
        /// The folder.
        folder: PathBuf,
        /// Who made it.
        found: String,
    },
    /// What is asked for is not what it holds.
    #[error(
        "--keep {}: {flag} {asked} contradicts the lab in this folder, which has {held}; leave {flag} out, or choose another folder", folder.display()
    )]
    Contradiction {
        /// The folder.
        folder: PathBuf,
        /// The flag.
        flag: &'static str,
        /// Its value.
        asked: String,
        /// What the lab has.
        held: String,
    },
    /// A file that the lab cannot do without.
    #[error(
        "--keep {}: {} is missing or damaged, so the lab cannot be brought back; restore it from a copy, or choose another folder", folder.display(), file.display()
    )]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// The file in it.
        file: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The store.
    #[error("--keep {}: the lab cannot be brought back", folder.display())]
    Store {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// A request that cannot be met.
    #[error(transparent)]
    Plan(#[from] plan::Error),
    /// A file or folder.
    #[error("--keep: cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn on<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// What the flags say; what they do not say, the folder decides.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `--name`.
    pub name: Option<String>,
    /// `--nodes`.
    pub nodes: Option<usize>,
    /// `--node-name`.
    pub node_names: Vec<String>,
    /// `--ip-family`.
    pub families: Option<Families>,
    /// `--pod-cidr`.
    pub pod_cidrs: Vec<ipnet::IpNet>,
    /// `--service-cidr`.
    pub service_cidrs: Vec<ipnet::IpNet>,
    /// `--node-cidr`.
    pub node_cidrs: Vec<ipnet::IpNet>,
    /// `--node-address` and `--node-pod-cidr`.
    pub chosen: Chosen,
    /// `--zone`.
    pub zones: Vec<String>,
    /// `--node-capacity`.
    pub capacity: Option<Capacity>,
}

impl Asked {
    /// A lab without a folder, or with a new one.
    ///
    /// # Errors
    /// When the flags do not fit together.
    pub fn plan(&self) -> Result<Plan, plan::Error> {
        Plan::new(&Request {
            name: self.name.clone().unwrap_or_else(|| "weft".to_owned()),
            nodes: self.nodes,
            node_names: self.node_names.clone(),
            families: self.families.unwrap_or(Families::Ipv4),
            pod_cidrs: self.pod_cidrs.clone(),
            service_cidrs: self.service_cidrs.clone(),
            node_cidrs: self.node_cidrs.clone(),
            chosen: self.chosen.clone(),
            zones: self.zones.clone(),
            settings: NodeSettings {
                capacity: self.capacity.unwrap_or_default(),
                ..NodeSettings::default()
            },
        })
    }
}

/// What the folder says about its lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Description {
    format: u32,
    version: String,
    /// Where the API server was reached: kubeconfigs name it.
    api_port: u16,
    /// Whether the lab has been ready: weft itself is applied.
    complete: bool,
    /// The nodes with which the lab began: what the flags said then they may go on saying.
    #[serde(default)]
    first_nodes: Vec<NodePlan>,
    plan: Plan,
}

/// What every version of the description has.
#[derive(Deserialize)]
struct Origin {
    format: u32,
    version: String,
}

/// A folder that this process holds.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    lock: File,
    description: Option<Description>,
    /// The newest version of the store as the last lab left it.
    since: u64,
}

impl Kept {
    /// Makes the folder if it is missing, locks it, and looks at what it holds.
    ///
    /// # Errors
    /// [`Error`]; nothing was changed then.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(on("make the folder", folder))?;
        let folder = fs::canonicalize(folder).map_err(on("find the folder", folder))?;
        let description = read(&folder)?;
        if description.is_none() && !is_unused(&folder)? {
            return Err(Error::Foreign(folder));
        }
        let lock = lock(&folder)?;
        let mut kept = Kept {
            // Whoever held the lock may have changed it.
            description: read(&folder)?,
            folder,
            lock,
            since: 0,
        };
        kept.check()?;
        Ok(kept)
    }

    /// Whether everything that the lab needs is there and can be read.
    fn check(&mut self) -> Result<(), Error> {
        if self.description.is_none() {
            return Ok(());
        }
        for file in ["ca.crt", "ca.key", "sa.key"] {
            let file = Path::new(PKI).join(file);
            fs::read(self.folder.join(&file)).map_err(|source| Error::Damaged {
                folder: self.folder.clone(),
                file,
                source,
            })?;
        }
        let store = self.folder.join(STORE);
        let deadline = Instant::now() + PATIENCE;
        let version = loop {
            match weft_apiserver::stored_version(&store) {
                // The API server of a killed front's lab is about to end.
                Err(StoreError::InUse { .. }) if Instant::now() < deadline => {
                    thread::sleep(LOOK_AGAIN);
                }
                other => break other,
            }
        };
        let version = version.map_err(|source| Error::Store {
            folder: self.folder.clone(),
            source,
        })?;
        match version {
            Some(version) => self.since = version,
            // A lab that was killed before its API server had begun.
            None if !self.is_complete() => {}
            None => {
                return Err(Error::Damaged {
                    folder: self.folder.clone(),
                    file: STORE.into(),
                    source: io::ErrorKind::NotFound.into(),
                });
            }
        }
        Ok(())
    }

    /// The lab that is to be: the one that the folder holds, or a new one.
    ///
    /// # Errors
    /// [`Error::Contradiction`], or flags that do not fit together.
    pub fn plan(&self, asked: &Asked) -> Result<Plan, Error> {
        let Some(description) = &self.description else {
            return Ok(asked.plan()?);
        };
        let held = &description.plan;
        self.agree("--name", asked.name.as_deref(), held.name.as_str())?;
        // The command that began the lab stays good when nodes have come and gone.
        let first = match description.first_nodes.as_slice() {
            [] => &held.nodes,
            first => first,
        };
        let as_first = asked.nodes == Some(first.len());
        let count = asked.nodes.filter(|_| !as_first);
        self.agree("--nodes", count, held.nodes.len())?;
        self.agree(
            "--ip-family",
            asked.families.map(Families::flag_value),
            held.families.flag_value(),
        )?;
        let names: Vec<String> = held.nodes.iter().map(|node| node.name.clone()).collect();
        for (position, name) in asked.node_names.iter().enumerate() {
            if first.get(position).is_some_and(|node| node.name == *name) {
                continue;
            }
            let there = names.get(position).map_or("no such node", String::as_str);
            self.agree("--node-name", Some(name.as_str()), there)?;
        }
        self.agree_on_settings(asked, first)?;
        let or_held = |asked: &Vec<ipnet::IpNet>, held: &Vec<ipnet::IpNet>| {
            if asked.is_empty() { held } else { asked }.clone()
        };
        let merged = Plan::new(&Request {
            name: held.name.clone(),
            nodes: Some(names.len()),
            node_names: names,
            families: held.families,
            pod_cidrs: or_held(&asked.pod_cidrs, &held.pod_cidrs),
            service_cidrs: or_held(&asked.service_cidrs, &held.service_cidrs),
            node_cidrs: or_held(&asked.node_cidrs, &held.node_cidrs),
            chosen: Chosen::default(),
            zones: Vec::new(),
            settings: NodeSettings::default(),
        })?;
        if let Some((flag, asked, held)) = asked.chosen.contradicted_by(first) {
            self.agree(flag, Some(asked), held)?;
        }
        for (flag, merged, held) in [
            ("--pod-cidr", &merged.pod_cidrs, &held.pod_cidrs),
            ("--service-cidr", &merged.service_cidrs, &held.service_cidrs),
            ("--node-cidr", &merged.node_cidrs, &held.node_cidrs),
        ] {
            self.agree(flag, Some(list(merged)), list(held))?;
        }
        Ok(held.clone())
    }

    /// What is said of nodes is said of those with which the lab began.
    fn agree_on_settings(&self, asked: &Asked, first: &[NodePlan]) -> Result<(), Error> {
        for (position, node) in first.iter().enumerate() {
            self.agree("--node-capacity", asked.capacity, node.settings.capacity)?;
            let Some(turn) = position.checked_rem(asked.zones.len()) else {
                continue;
            };
            let held = node.settings.labels.get(ZONE);
            let held = held.map_or("no zone", String::as_str);
            self.agree("--zone", asked.zones.get(turn).map(String::as_str), held)?;
        }
        Ok(())
    }

    fn agree<T>(&self, flag: &'static str, asked: Option<T>, held: T) -> Result<(), Error>
    where
        T: PartialEq + ToString,
    {
        match asked {
            Some(asked) if asked != held => Err(Error::Contradiction {
                folder: self.folder.clone(),
                flag,
                asked: asked.to_string(),
                held: held.to_string(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The port at which the lab's API server was reached.
    #[must_use]
    pub fn api_port(&self) -> Option<u16> {
        Some(self.description.as_ref()?.api_port)
    }

    /// Whether the lab has been ready before: weft itself is applied already.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.description
            .as_ref()
            .is_some_and(|description| description.complete)
    }

    /// The newest version of the store as the last lab left it: what was written after it is
    /// known to be of this lab's life. 0 for a new lab.
    #[must_use]
    pub fn since(&self) -> u64 {
        self.since
    }

    /// The lock, for another process that uses the folder.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(super) fn lock(&self) -> io::Result<OwnedFd> {
        self.lock.as_fd().try_clone_to_owned()
    }

    /// Records what the lab is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn describe(&mut self, plan: &Plan, api_port: u16) -> Result<(), Error> {
        let before = self.description.as_ref();
        self.write(Description {
            format: FORMAT,
            version: VERSION.to_owned(),
            api_port,
            complete: self.is_complete(),
            first_nodes: before.map_or(&plan.nodes, |it| &it.first_nodes).clone(),
            plan: plan.clone(),
        })
    }

    /// Records that the lab has been ready.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_complete(&mut self) -> Result<(), Error> {
        match self.description.clone() {
            Some(description) if !description.complete => self.write(Description {
                complete: true,
                ..description
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn write(&mut self, description: Description) -> Result<(), Error> {
        write(&self.folder, &description)?;
        self.description = Some(description);
        Ok(())
    }
}

/// Records that the lab in a folder has these nodes. Only the lab's PID 1 does so, once the lab
/// has been ready: its front no longer writes then.
pub(super) fn set_nodes(folder: &Path, nodes: &[NodePlan]) -> Result<(), Error> {
    let path = folder.join(DESCRIPTION);
    let missing = || on("read", &path)(io::ErrorKind::NotFound.into());
    let mut description = read(folder)?.ok_or_else(missing)?;
    description.plan.nodes = nodes.to_vec();
    write(folder, &description)
}

fn write(folder: &Path, description: &Description) -> Result<(), Error> {
    let path = folder.join(DESCRIPTION);
    let fresh = path.with_extension("new");
    let text =
        serde_json::to_vec_pretty(description).map_err(|error| on("write", &path)(error.into()))?;
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&fresh, &path))
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(on("write", &path))
}

fn list(ranges: &[ipnet::IpNet]) -> String {
    let texts: Vec<_> = ranges.iter().map(ToString::to_string).collect();
    texts.join(",")
}

fn read(folder: &Path) -> Result<Option<Description>, Error> {
    let path = folder.join(DESCRIPTION);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(on("read", &path)(error)),
    };
    let damaged = |error: serde_json::Error| Error::Damaged {
        folder: folder.to_owned(),
        file: DESCRIPTION.into(),
        source: error.into(),
    };
    let origin: Origin = serde_json::from_slice(&text).map_err(damaged)?;
    if origin.format != FORMAT || origin.version != VERSION {
        return Err(Error::Version {
            folder: folder.to_owned(),
            found: origin.version,
        });
    }
    serde_json::from_slice(&text).map(Some).map_err(damaged)
}

/// Whether the folder has nothing in it but what a start that failed early leaves.
fn is_unused(folder: &Path) -> Result<bool, Error> {
    for entry in fs::read_dir(folder).map_err(on("list", folder))? {
        let name = entry.map_err(on("list", folder))?.file_name();
        // A file system's own folder does not count.
        let known = [LOCK, PKI, NODES, "lab.new", "lost+found"];
        let store = name.as_encoded_bytes().starts_with(STORE.as_bytes());
        if !store && !known.iter().any(|known| name == **known) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Locks the folder, and notes in the lock which front has it.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join(LOCK);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(on("open", &path))?;
    let began = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(on("lock", &path)(error.into())),
        }
        // The rest of a lab whose front was killed goes by itself; a front that was killed
        // just now may not have ended yet.
        let patience = if has_front(&path) { DYING } else { PATIENCE };
        if began.elapsed() >= patience {
            return Err(Error::InUse(folder.to_owned()));
        }
        thread::sleep(LOOK_AGAIN);
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(on("write", &path))?;
    Ok(file)
}

/// Whether the front that the lock names is still there.
fn has_front(lock: &Path) -> bool {
    let front = fs::read_to_string(lock).unwrap_or_default();
    front.trim().parse().is_ok_and(|front: u32| {
        let stat = fs::read_to_string(format!("/proc/{front}/stat")).unwrap_or_default();
        // A process that has ended and was not waited for is none (proc(5), stat, field 3).
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        state.is_some_and(|state| !state.starts_with(['Z', 'X']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str) -> Asked {
        Asked {
            name: Some(name.to_owned()),
            ..Asked::default()
        }
    }

    /// A folder with a lab of three nodes in it.
    fn kept(folder: &Path) -> Kept {
        let mut kept = Kept::open(folder).unwrap();
        let plan = kept
            .plan(&Asked {
                nodes: Some(3),
                pod_cidrs: vec!["10.7.0.0/16".parse().unwrap()],
                ..asked("three")
            })
            .unwrap();
        kept.describe(&plan, 40_123).unwrap();
        fs::create_dir_all(folder.join(PKI)).unwrap();
        for file in ["ca.crt", "ca.key", "sa.key"] {
            fs::write(folder.join(PKI).join(file), "x").unwrap();
        }
        kept
    }

    #[test]
    fn a_folder_tells_what_the_flags_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let plan = kept(folder.path()).plan(&Asked::default()).unwrap();
        let again = Kept::open(folder.path()).unwrap();
        assert_eq!(again.plan(&Asked::default()).unwrap(), plan);
        assert_eq!(again.api_port(), Some(40_123));
        assert_eq!(plan.nodes.len(), 3);
        // Flags that say what is so are no contradiction.
        let same = Asked {
            nodes: Some(3),
            node_names: vec!["node-1".to_owned()],
            families: Some(Families::Ipv4),
            pod_cidrs: vec!["10.7.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            ..asked("three")
        };
        assert_eq!(again.plan(&same).unwrap(), plan);
    }

    #[test]
    fn flags_that_contradict_the_folder_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(folder.path());
        let said = |asked: Asked| kept.plan(&asked).unwrap_err().to_string();
        let cases = [
            (asked("other"), "--name other", "three"),
            (
                Asked {
                    nodes: Some(2),
                    ..Asked::default()
                },
                "--nodes 2",
                "has 3",
            ),
            (
                Asked {
                    families: Some(Families::Dual),
                    ..Asked::default()
                },
                "--ip-family dual",
                "has ipv4",
            ),
            (
                Asked {
                    node_names: vec!["alpha".to_owned()],
                    ..Asked::default()
                },
                "--node-name alpha",
                "has node-1",
            ),
            (
                Asked {
                    pod_cidrs: vec!["10.8.0.0/16".parse().unwrap()],
                    ..Asked::default()
                },
                "--pod-cidr 10.8.0.0/16",
                "has 10.7.0.0/16",
            ),
        ];
        for (asked, flag, held) in cases {
            let text = said(asked);
            assert!(text.contains(flag) && text.contains(held), "{text}");
        }
    }

    #[test]
    fn nodes_that_came_and_went_are_kept_and_the_first_command_stays_good() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = kept(folder.path()).plan(&Asked::default()).unwrap();
        plan.nodes.remove(0);
        let extra = NodePlan {
            name: "gpu".to_owned(),
            ..plan.nodes[0].clone()
        };
        plan.nodes.extend([
            extra.clone(),
            NodePlan {
                name: "x".to_owned(),
                ..extra
            },
        ]);
        set_nodes(folder.path(), &plan.nodes).unwrap();

        let mut again = Kept::open(folder.path()).unwrap();
        for nodes in [None, Some(3), Some(4)] {
            let asked = Asked {
                nodes,
                node_names: vec!["node-1".to_owned()],
                ..Asked::default()
            };
            assert_eq!(again.plan(&asked).unwrap(), plan, "{nodes:?}");
        }
        let five = Asked {
            nodes: Some(5),
            ..Asked::default()
        };
        let error = again.plan(&five).unwrap_err().to_string();
        assert!(
            error.contains("--nodes 5") && error.contains("has 4"),
            "{error}"
        );
        // Another start does not forget what the first one was.
        again.describe(&plan, 40_123).unwrap();
        drop(again);
        let again = Kept::open(folder.path()).unwrap();
        let three = Asked {
            nodes: Some(3),
            ..Asked::default()
        };
        assert_eq!(again.plan(&three).unwrap(), plan);
    }

    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = kept(folder.path());
        let second = Kept::open(folder.path()).unwrap_err();
        assert!(matches!(second, Error::InUse(_)), "{second}");
        drop(first);
        Kept::open(folder.path()).unwrap();
    }

    #[test]
    fn what_cannot_be_brought_back_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let say = || Kept::open(folder.path()).unwrap_err().to_string();
        fs::write(folder.path().join("thesis.txt"), "x").unwrap();
        assert!(say().contains("holds no lab"), "{}", say());
        fs::remove_file(folder.path().join("thesis.txt")).unwrap();

        kept(folder.path()).set_complete().unwrap();
        assert!(say().contains("store.redb is missing"), "{}", say());
        fs::write(folder.path().join(STORE), "not a database").unwrap();
        let error = Kept::open(folder.path()).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("store.redb"), "{cause}");
        fs::remove_file(folder.path().join(PKI).join("ca.key")).unwrap();
        assert!(say().contains("pki/ca.key is missing"), "{}", say());

        let description = folder.path().join(DESCRIPTION);
        let text = fs::read_to_string(&description).unwrap();
        fs::write(&description, text.replace(VERSION, "99.0.0")).unwrap();
        assert!(say().contains("made by weft 99.0.0"), "{}", say());
        fs::write(&description, "{").unwrap();
        assert!(
            say().contains("lab.json is missing or damaged"),
            "{}",
            say()
        );
    }
}
