//! The front: the process on the machine that a lab lives and dies with.
//!
//! It binds the API's port and makes the lifetime pipe while it has one thread, then clones the
//! lab's PID 1 into new namespaces. When it ends, in whatever way, the kernel kills PID 1 (and
//! with it, everything in its PID namespace): by the parent-death signal, or, if that got lost,
//! by the end of the pipe.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::thread::CapabilitySet;
use tracing::debug;
use weft_netlab::process::{self, Child, IdMap, Spawn};
use weft_netlab::sys_namespace::{self, Kind};

use super::init::{self, FailedStep, InitConfig, Status};
use super::keep::{self, Kept};
use super::pids::{self, LabGroup};
use super::plan::Plan;
use super::state::{self, Claim, Record};

/// Why a lab did not start. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lab's folder on the machine.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The folder in which the lab is kept.
    #[error(transparent)]
    Keep(#[from] keep::Error),
    /// The process has threads already.
    #[error(transparent)]
    Namespace(#[from] sys_namespace::Error),
    /// The API's port is in use.
    #[error(
        "port {port} of 127.0.0.1 is in use; choose another --api-port, or leave it out for a free one"
    )]
    Port {
        /// The port.
        port: u16,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The port of a kept lab is in use.
    #[error(
        "port {port} of 127.0.0.1, at which the lab in {} was reached, is in use; end what uses it, or choose another --api-port (kubeconfigs copied from the lab then name the old one)", folder.display()
    )]
    KeptPort {
        /// The port.
        port: u16,
        /// Where the lab is kept.
        folder: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The machine does not let this user make namespaces, or gives them no power.
    #[error("{what} is not permitted: {message}. {advice}")]
    NotPermitted {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        message: String,
        /// What to change.
        advice: String,
    },
    /// A process could not be started.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The lab's first process said why it gave up.
    #[error("the lab did not start: {0}")]
    Start(String),
    /// A pipe, or the path of the own binary.
    #[error("cannot prepare the lab: {what}")]
    Prepare {
        /// What.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn preparing(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Prepare { what, source }
}

/// A lab that this process runs. Dropped, the lab ends.
#[derive(Debug)]
pub struct Front {
    claim: Claim,
    kept: Option<Kept>,
    record: Record,
    kubeconfig: PathBuf,
    init: Child,
    /// The end of the pipe that nobody else has.
    _lifetime: OwnedFd,
    /// The pipe on which PID 1 talks; it ends when PID 1 does.
    status: Option<OwnedFd>,
    ended: bool,
    /// Removed when everything in it has ended.
    _group: Option<LabGroup>,
}

impl Front {
    /// Starts a lab: returns when its control plane and nodes have been started, not yet ready.
    /// The process must have a single thread. What is durable of the lab goes into `kept`, if there
    /// is one. `report` is told of each step.
    ///
    /// # Errors
    /// [`Error`]; nothing is left of the lab then.
    pub fn start(
        plan: Plan,
        mut kept: Option<Kept>,
        api_port: Option<u16>,
        log_filter: Option<String>,
        mut report: impl FnMut(&str),
    ) -> Result<Self, Error> {
        sys_namespace::require_single_thread("starting a lab")?;
        let began = Instant::now();
        let claim = Claim::new(&plan.name)?;
        let listener = bind(api_port, kept.as_ref())?;
        let api_port = listener
            .local_addr()
            .map_err(preparing("bind the API's port"))?
            .port();
        let (lifetime_read, lifetime) = pipe()?;
        let (config_read, config_write) = pipe()?;
        let (status_read, status_write) = pipe()?;

        let makes_user_namespace = !has_admin_capability();
        let in_user_namespace = makes_user_namespace || !state::is_of_the_machine();
        let binary = std::env::current_exe().map_err(preparing("find the own binary"))?;
        let group = process_group(&plan.name, &mut report);
        let config = InitConfig {
            plan: plan.clone(),
            api_port,
            in_user_namespace,
            binary: binary.clone(),
            log_filter,
            keep: kept.as_ref().map(|kept| kept.folder().to_owned()),
            group: group.as_ref().map(|group| group.path().to_owned()),
        };
        if let Some(kept) = &mut kept {
            kept.describe(&plan, api_port)?;
        }
        let kept_lock = kept
            .as_ref()
            .map(Kept::lock)
            .transpose()
            .map_err(preparing("duplicate a descriptor"))?;
        let make = |map: Option<IdMap>| -> Result<Child, Error> {
            let duplicate = |descriptor: BorrowedFd<'_>| {
                descriptor
                    .try_clone_to_owned()
                    .map_err(preparing("duplicate a descriptor"))
            };
            use std::os::fd::AsFd;
            let null = File::open("/dev/null").map_err(preparing("open /dev/null"))?;
            let mut kinds = vec![Kind::Mount, Kind::Pid, Kind::Net, Kind::Uts, Kind::Ipc];
            let mut spawn = Spawn::new(&binary)
                .arg0("weft")
                .args(["internal", "init"])
                .descriptor(null, 0)
                .descriptor(duplicate(lifetime_read.as_fd())?, init::LIFETIME)
                .descriptor(duplicate(listener.as_fd())?, init::LISTENER)
                .descriptor(duplicate(config_read.as_fd())?, init::CONFIG)
                .descriptor(duplicate(status_write.as_fd())?, init::STATUS)
                .dies_with_parent();
            if let Some(lock) = &kept_lock {
                // Nobody else uses the folder as long as one of the two lives.
                spawn = spawn.descriptor(duplicate(lock.as_fd())?, init::KEPT);
            }
            if let Some(map) = map {
                kinds.push(Kind::User);
                spawn = spawn.id_map(map);
            }
            Ok(spawn.namespaces(&kinds).spawn()?)
        };
        let started = if makes_user_namespace {
            match user_name().and_then(|name| IdMap::granted(&name)) {
                // The helpers may lack their set-user-id bit: then a single id has to do.
                Some(granted) => match make(Some(granted)) {
                    Err(Error::Process(process::Error::IdMap { .. })) => {
                        make(Some(IdMap::only_self()))
                    }
                    other => other,
                },
                None => make(Some(IdMap::only_self())),
            }
        } else {
            make(None)
        };
        let init = started.map_err(explain_refusal)?;
        drop((lifetime_read, config_read, status_write, listener));
        let text = serde_json::to_vec(&config)
            .map_err(|error| preparing("write the configuration")(error.into()))?;
        let mut front = Front {
            kubeconfig: PathBuf::new(),
            record: Record {
                front: rustix::process::getpid().as_raw_nonzero().get(),
                init: init.id(),
                api_port,
                ready: false,
                plan,
            },
            claim,
            kept,
            init,
            _lifetime: lifetime,
            status: None,
            ended: false,
            _group: group,
        };
        File::from(config_write)
            .write_all(&text)
            .map_err(preparing("send the configuration"))?;
        front.follow(status_read, &mut report)?;
        front.claim.record(&front.record)?;
        debug!(took = ?began.elapsed(), "lab started");
        Ok(front)
    }

    /// Listens to PID 1 until it says that everything has been started.
    fn follow(&mut self, status: OwnedFd, report: &mut impl FnMut(&str)) -> Result<(), Error> {
        let mut reader = BufReader::new(File::from(status));
        let mut line = String::new();
        while {
            line.clear();
            reader
                .read_line(&mut line)
                .map_err(preparing("read from the lab's first process"))?
                > 0
        } {
            let status = serde_json::from_str(&line)
                .map_err(|error| preparing("read from the lab's first process")(error.into()))?;
            match status {
                Status::Kubeconfig { text } => self.kubeconfig = self.claim.kubeconfig(&text)?,
                Status::Done { what } => report(&what),
                // Nobody can have asked yet.
                Status::Nodes { .. } => {}
                Status::Started => {
                    // Nothing comes after this line, so nothing is lost in the buffer.
                    self.status = Some(reader.into_inner().into());
                    return Ok(());
                }
                Status::Failed { step, message } => return Err(explain_failure(step, message)),
            }
        }
        let exit = self
            .init
            .wait()
            .map_or_else(|error| error.to_string(), |exit| exit.to_string());
        self.ended = true;
        Err(Error::Start(format!("its first process ended ({exit})")))
    }

    /// What is recorded about the lab.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The folder in which the lab is kept, if it is.
    #[must_use]
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Records that everything has come up.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn set_ready(&mut self) -> Result<(), Error> {
        if let Some(kept) = &mut self.kept {
            kept.set_complete()?;
        }
        self.record.ready = true;
        Ok(self.claim.record(&self.record)?)
    }

    /// The read end of the pipe on which the lab's PID 1 tells, line by line, what changes; it
    /// closes when PID 1 ends. There is one. The lines are for [`Notes`].
    #[must_use]
    pub fn take_end(&mut self) -> Option<OwnedFd> {
        self.status.take()
    }

    /// Who takes note of what changes.
    #[must_use]
    pub fn notes(&self) -> Notes {
        Notes {
            folder: self.claim.folder().to_owned(),
        }
    }

    /// Ends the lab and waits until all its processes are gone.
    pub fn end(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if !self.ended {
            self.ended = true;
            // PID 1 can be waited for only after everything in its namespace is gone.
            self.init.end();
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Takes note of what a lab's PID 1 tells after the start.
#[derive(Debug)]
pub struct Notes {
    folder: PathBuf,
}

impl Notes {
    /// Takes note of one line.
    ///
    /// # Errors
    /// When it is none, or the lab's record cannot be written.
    pub fn take(&self, line: &str) -> Result<(), Error> {
        let status = serde_json::from_str(line)
            .map_err(|error| preparing("read from the lab's first process")(error.into()))?;
        match status {
            Status::Nodes { nodes } => Ok(state::set_nodes(&self.folder, nodes)?),
            Status::Kubeconfig { .. }
            | Status::Done { .. }
            | Status::Started
            | Status::Failed { .. } => Ok(()),
        }
    }
}

/// Binds the API's port: the one asked for, else the one that a kept lab had, else a free one.
/// Where the kernel needs one for limiting what a pod forks. A lab can do without.
fn process_group(lab: &str, report: &mut impl FnMut(&str)) -> Option<LabGroup> {
    if !pids::needs_groups() {
        return None;
    }
    match pids::sweep().and_then(|()| LabGroup::make(lab)) {
        Ok(group) => Some(group),
        Err(error) => {
            let reason = crate::kubelet::chain(&error);
            report(&format!(
                "nothing limits how many processes a pod has: {reason}"
            ));
            None
        }
    }
}

fn bind(asked: Option<u16>, kept: Option<&Kept>) -> Result<TcpListener, Error> {
    let had = kept.and_then(|kept| Some((kept.api_port()?, kept.folder())));
    let wanted = asked.or(had.map(|(port, _)| port)).unwrap_or(0);
    TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).map_err(|source| {
        if source.kind() != io::ErrorKind::AddrInUse {
            return preparing("bind the API's port")(source);
        }
        match had {
            Some((port, folder)) if asked.is_none() => Error::KeptPort {
                port,
                folder: folder.to_owned(),
                source,
            },
            Some(_) | None => Error::Port {
                port: wanted,
                source,
            },
        }
    })
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    process::pipe().map_err(preparing("make a pipe"))
}

/// Whether namespaces can be made without a user namespace. Root in a container may lack it.
fn has_admin_capability() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| {
        sets.effective
            .contains(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN)
    })
}

/// The caller's name in `/etc/passwd`.
fn user_name() -> Option<String> {
    let id = rustix::process::getuid().as_raw().to_string();
    let table = fs::read_to_string("/etc/passwd").ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    })
}

fn explain_refusal(error: Error) -> Error {
    match error {
        Error::Process(process::Error::Clone { source, .. }) => Error::NotPermitted {
            what: "making namespaces",
            advice: advice(),
            message: source.to_string(),
        },
        Error::Process(inner @ process::Error::IdMap { .. }) => Error::NotPermitted {
            what: "mapping ids into a user namespace",
            advice: advice(),
            message: super::supervise::describe(&inner),
        },
        other @ (Error::State(_)
        | Error::Keep(_)
        | Error::KeptPort { .. }
        | Error::Namespace(_)
        | Error::Port { .. }
        | Error::NotPermitted { .. }
        | Error::Process(
            process::Error::Nul(_) | process::Error::Child { .. } | process::Error::Prepare { .. },
        )
        | Error::Start(_)
        | Error::Prepare { .. }) => other,
    }
}

fn explain_failure(step: FailedStep, message: String) -> Error {
    match step {
        FailedStep::Mount => Error::NotPermitted {
            what: "a mount in a namespace of its own",
            advice: advice(),
            message,
        },
        FailedStep::Link => Error::NotPermitted {
            what: "a network link in a namespace of its own",
            advice: advice(),
            message,
        },
        FailedStep::Other => Error::Start(message),
    }
}

/// What a person can change about a refusal, by what the machine's settings say.
fn advice() -> String {
    let setting = |name: &str| {
        fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/")))
            .map(|value| value.trim().to_owned())
            .ok()
    };
    // Ubuntu 23.10 and later: a namespace without capabilities (its AppArmor documentation,
    // "Restricted unprivileged user namespaces"); Debian before 11; user_namespaces(7).
    for (name, refusing, allow) in [
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
        ("user.max_net_namespaces", "0", "10000"),
    ] {
        if setting(name).as_deref() == Some(refusing) {
            return format!(
                "The setting {name} is {refusing} here: allow it with `sudo sysctl -w {name}={allow}`, or run weft as root"
            );
        }
    }
    "Run weft as root; inside a container, give the container the privileges for namespaces and \
     mounts (CAP_SYS_ADMIN, CAP_NET_ADMIN, no seccomp or AppArmor profile that forbids them)"
        .to_owned()
}

/// Ends a lab that another process runs, and waits until nothing is left of it.
///
/// # Errors
/// When it belongs to somebody else, or does not end within `patience`.
pub fn down(lab: &state::Lab, patience: Duration) -> io::Result<()> {
    use std::os::fd::AsFd;
    let front = process::open_pid(lab.record.front);
    let init = process::open_pid(lab.record.init);
    // The lock tells whether those ids still are the lab's processes: it was held when they
    // were opened, so they are.
    if !lab.is_up() {
        return Ok(());
    }
    let (front, init) = (front?, init?);
    process::send_signal(front.as_fd(), rustix::process::Signal::TERM)?;
    if !process::wait_for_end(front.as_fd(), patience)? {
        process::send_signal(front.as_fd(), rustix::process::Signal::KILL)?;
        process::wait_for_end(front.as_fd(), patience)?;
    }
    if process::wait_for_end(init.as_fd(), patience)? {
        // Removes the folder if the front could not.
        let _remaining = state::list();
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the lab's first process does not end",
        ))
    }
}
