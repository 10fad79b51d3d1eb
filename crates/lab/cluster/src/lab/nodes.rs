//! The nodes of a lab as its PID 1 has them: started, ended, cut off, at a person's request.
//!
//! Of a kept lab what is to be is written down before it is done, so that a start after a crash
//! at any moment finds either the old nodes or the new ones.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tracing::{debug, error, info, warn};
use weft_netlab::barrier;
use weft_netlab::link::Network;
use weft_netlab::process::{self, Child, Exit};
use weft_netlab::sys_namespace::{self, Kind};

use super::credentials::Credentials;
use super::cuts::{Cuts, Peer};
use super::init::{Error, InitConfig, OUTSIDE, Status, component, on};
use super::membership::{self, Complaint, NodeRequest};
use super::node::{self, KubeletCredentials, NodeConfig};
use super::plan::NodePlan;
use super::requests::{self, Answer, NodeStanding, Request};
use super::settings::NodeSettings;
use super::supervise::describe;
use super::telling::Telling;
use super::{keep, paths};

/// The bridge that is the node network.
pub(super) const BRIDGE: &str = "br0";

/// How long everything in a node may take to end. PID 1 does nothing else meanwhile.
const ENDING: Duration = Duration::from_secs(20);

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Membership(#[from] membership::Error),
    #[error(transparent)]
    Failed(#[from] Error),
    #[error("{0}")]
    Because(String),
}

impl From<weft_netlab::Error> for Refusal {
    fn from(error: weft_netlab::Error) -> Self {
        Refusal::Failed(error.into())
    }
}

impl Refusal {
    fn answer(&self) -> Answer {
        Answer::Refused {
            kind: match self {
                Refusal::Membership(error) => error.kind(),
                Refusal::Because(_) => Complaint::DoesNotFit,
                Refusal::Failed(_) => Complaint::Failed,
            },
            message: describe(self),
        }
    }
}

/// A node that was started.
struct Started {
    /// `None` once it has ended.
    child: Option<Child>,
    port: String,
}

/// The nodes of a lab, `outside` among them.
pub(super) struct Nodes {
    config: InitConfig,
    credentials: Credentials,
    network: Network,
    started: BTreeMap<String, Started>,
    /// Ports are numbered, and no number is used again.
    next_port: usize,
    cuts: Cuts,
}

impl Nodes {
    /// Starts `outside` and the nodes of the plan.
    ///
    /// # Errors
    /// The first step that failed.
    pub(super) fn start(
        config: InitConfig,
        credentials: Credentials,
        network: Network,
    ) -> Result<Self, Error> {
        let outside = NodePlan {
            name: OUTSIDE.to_owned(),
            addresses: config.plan.outside.clone(),
            pod_cidrs: Vec::new(),
            settings: NodeSettings::default(),
        };
        let plans = config.plan.nodes.clone();
        let mut nodes = Nodes {
            config,
            credentials,
            network,
            started: BTreeMap::new(),
            next_port: 0,
            cuts: Cuts::default(),
        };
        nodes.sweep()?;
        for node in std::iter::once(&outside).chain(&plans) {
            nodes.spawn(node)?;
        }
        Ok(nodes)
    }

    /// Notes the end of a child that is no service.
    pub(super) fn ended(&mut self, pid: i32, exit: Exit) {
        let node = self.started.iter_mut().find(|(_, started)| {
            started
                .child
                .as_ref()
                .is_some_and(|child| child.id() == pid)
        });
        match node {
            Some((node, started)) => {
                started.child = None;
                error!(%node, %exit, "a node's first process ended: the node is gone");
            }
            None => debug!(pid, %exit, "reaped an orphan"),
        }
    }

    /// Attends to whoever is at the door. The front is told when the nodes have become others.
    pub(super) fn attend(&mut self, door: &UnixListener, front: &mut Telling<'_>) {
        let caller = match door.accept() {
            Ok((caller, _)) => caller,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return warn!(%error, "a request cannot be taken"),
        };
        let attended = caller
            .set_nonblocking(false)
            .and_then(|()| requests::serve(&caller, |request| self.answer(request, front)));
        if let Err(error) = attended {
            debug!(%error, "a caller went before he was answered");
        }
    }

    fn answer(&mut self, request: Request, front: &mut Telling<'_>) -> Answer {
        info!(?request, "asked");
        let before = self.config.plan.nodes.len();
        let result = match request {
            Request::Add(request) => self.add(&request),
            Request::Remove { node } => self.remove(&node),
            Request::Cut { node, peer } => self.cut(&node, &peer),
            Request::Heal { node, peer } => self.heal(&node, &peer),
            Request::List => Ok(self.standing(|_| true, false)),
        };
        if self.config.plan.nodes.len() != before {
            let nodes = self.config.plan.nodes.clone();
            front.say(Status::Nodes { nodes });
        }
        result.unwrap_or_else(|refusal| {
            warn!(error = %describe(&refusal), "refused");
            refusal.answer()
        })
    }

    fn standing(&self, which: impl Fn(&str) -> bool, changed: bool) -> Answer {
        let nodes = self.config.plan.nodes.iter();
        let nodes = nodes.filter(|node| which(&node.name)).map(|node| {
            let started = self.started.get(&node.name);
            NodeStanding {
                name: node.name.clone(),
                addresses: node.addresses.iter().map(IpNet::addr).collect(),
                running: started.is_some_and(|started| started.child.is_some()),
                cut: self.cuts.of(&node.name),
            }
        });
        Answer::Nodes {
            nodes: nodes.collect(),
            changed,
        }
    }

    fn add(&mut self, request: &NodeRequest) -> Result<Answer, Refusal> {
        let mut started = self.started.keys();
        if let Some(leaving) = started.find(|name| self.is_leaving(name)) {
            // Its addresses, and its name, may still be in use.
            return Err(membership::Error::Leaving(leaving.clone()).into());
        }
        let node = self.config.plan.new_node(request)?;
        let before = self.config.plan.nodes.clone();
        let after = before.iter().chain([&node]).cloned().collect();
        self.set_nodes(after)?;
        if let Err(error) = self.spawn(&node) {
            self.set_nodes(before)?;
            return Err(error.into());
        }
        self.tell_hosts();
        Ok(self.standing(|name| name == node.name, true))
    }

    /// Removes a node, or what a removal that failed halfway has left of it.
    fn remove(&mut self, name: &str) -> Result<Answer, Refusal> {
        if !self.is_leaving(name) {
            let others = self.config.plan.nodes_without(name)?;
            self.set_nodes(others)?;
        }
        let mut cuts = self.cuts.clone();
        if cuts.heal(name, &Peer::Everything) {
            self.set_cuts(cuts)?;
        }
        self.end(name)?;
        if self.config.keep.is_some() {
            remove_folder(&paths::durable_node(name))?;
        }
        // Only now is nothing left that another attempt would have to do.
        self.started.remove(name);
        info!(node = name, "node removed");
        self.tell_hosts();
        Ok(self.standing(|_| false, true))
    }

    /// Whether a node is out of the plan, and something of it is still there.
    fn is_leaving(&self, name: &str) -> bool {
        name != OUTSIDE && self.started.contains_key(name) && self.config.plan.node(name).is_err()
    }

    fn cut(&mut self, node: &str, peer: &Peer) -> Result<Answer, Refusal> {
        self.check(node, peer)?;
        let mut cuts = self.cuts.clone();
        let changed = cuts.cut(node, peer);
        if changed {
            self.set_cuts(cuts)?;
        }
        Ok(self.standing(|name| name == node, changed))
    }

    fn heal(&mut self, node: &str, peer: &Peer) -> Result<Answer, Refusal> {
        self.check(node, peer)?;
        let mut cuts = self.cuts.clone();
        let changed = cuts.heal(node, peer);
        if changed {
            self.set_cuts(cuts)?;
        }
        Ok(self.standing(|name| name == node, changed))
    }

    /// Whether there is such a link.
    fn check(&self, node: &str, peer: &Peer) -> Result<(), Refusal> {
        let mut ends = vec![node];
        if let Peer::Node(other) = peer {
            if other == node {
                let reason = format!("{node:?} has no link to itself; name another node");
                return Err(Refusal::Because(reason));
            }
            if other != OUTSIDE {
                ends.push(other);
            }
        }
        for end in ends {
            self.config.plan.node(end)?;
            let started = self.started.get(end);
            if started.is_none_or(|started| started.child.is_none()) {
                let reason = format!(
                    "node {end:?} has ended, so it has no link; remove it (`weft lab node remove {end}`)"
                );
                return Err(Refusal::Because(reason));
            }
        }
        Ok(())
    }

    /// Makes the kernel's links so, then takes note.
    fn set_cuts(&mut self, cuts: Cuts) -> Result<(), Refusal> {
        let port = |name: &str| Some(self.started.get(name)?.port.clone());
        let (before, after) = (self.cuts.barriers(port), cuts.barriers(port));
        if before != after {
            barrier::set(&after)?;
        }
        for (name, started) in &self.started {
            // With a node that has ended its port is gone.
            if started.child.is_none() || cuts.is_off(name) == self.cuts.is_off(name) {
                continue;
            }
            if cuts.is_off(name) {
                self.network.down(&started.port)?;
            } else {
                self.network.up(&started.port)?;
            }
        }
        self.cuts = cuts;
        Ok(())
    }

    /// What is to be, on disk first if the lab is kept.
    fn set_nodes(&mut self, nodes: Vec<NodePlan>) -> Result<(), Error> {
        if self.config.keep.is_some() {
            keep::set_nodes(&paths::durable(), &nodes)?;
        }
        self.config.plan.nodes = nodes;
        Ok(())
    }

    /// Starts a node; when that fails, nothing of it is left.
    fn spawn(&mut self, node: &NodePlan) -> Result<(), Error> {
        let port = format!("port{}", self.next_port);
        self.next_port += 1;
        let mut started = Started { child: None, port };
        let spawned = self.spawn_at(node, &mut started);
        if spawned.is_err() {
            if let Some(child) = started.child.take() {
                child.end();
            }
            // With its namespace the other end goes, and the port with that, if not at once.
            let _goes_by_itself = self.network.delete_if_there(&started.port);
            let _not_written = fs::remove_file(paths::node_pid(&node.name));
            return spawned;
        }
        debug!(node = %node.name, "node started");
        self.started.insert(node.name.clone(), started);
        Ok(())
    }

    fn spawn_at(&mut self, node: &NodePlan, started: &mut Started) -> Result<(), Error> {
        let config = &self.config;
        let log = paths::log(&node.name);
        let (settings, settings_end) =
            process::pipe().map_err(on("make a pipe for", Path::new(&node.name)))?;
        let mut spawn = component(config, &node.name, "node")
            .map_err(on("open the log", &log))?
            .args(["--name", &node.name])
            .namespaces(&[Kind::Mount, Kind::Pid, Kind::Net, Kind::Uts, Kind::Ipc])
            .descriptor(settings, node::CONFIG);
        if config.in_user_namespace {
            spawn = spawn.arg("--in-user-namespace");
        }
        if config.keep.is_some() {
            spawn = spawn.arg("--keep");
        }
        let child = spawn.spawn()?;
        let pid = u32::try_from(child.id()).unwrap_or_default();
        started.child = Some(child);

        let port = &started.port;
        let inside = sys_namespace::of_process(pid, Kind::Net)?;
        self.network.veth(port, "eth0", inside.as_fd())?;
        self.network.port(BRIDGE, port)?;
        self.network.alias(port, &node.name)?;

        let record = paths::node_pid(&node.name);
        fs::write(&record, pid.to_string()).map_err(on("write", &record))?;

        // The settings come last: they tell the node that its link is there.
        let settings = NodeConfig {
            node: node.clone(),
            plan: config.plan.clone(),
            kubelet: if node.name == OUTSIDE {
                None
            } else {
                Some(KubeletCredentials {
                    kubeconfig: self.credentials.kubelet(&node.name)?,
                    serving: self.credentials.serving(node)?,
                })
            },
        };
        let text = serde_json::to_vec(&settings)?;
        File::from(settings_end)
            .write_all(&text)
            .map_err(on("send the settings of", Path::new(&node.name)))
    }

    /// Ends a node, whatever is left of it. What fails can be tried again.
    fn end(&mut self, name: &str) -> Result<(), Error> {
        if let Some(started) = self.started.get_mut(name) {
            if let Some(child) = &started.child {
                let late = || Error::Watch(io::ErrorKind::TimedOut.into());
                // It may have ended by itself a moment ago.
                let _ended_already = child.signal(rustix::process::Signal::KILL);
                if !process::wait_for_end(child.pidfd(), ENDING).map_err(Error::Watch)? {
                    return Err(late());
                }
                let _reaped_already = child.wait();
                started.child = None;
            }
            self.network.delete_if_there(&started.port)?;
        }
        for record in [paths::node_pid(name), paths::log(name)] {
            match fs::remove_file(&record) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(on("remove", &record)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Tells every node which others there are. A node that ends meanwhile need not know.
    fn tell_hosts(&self) {
        let text = node::hosts(&self.config.plan);
        for (name, started) in &self.started {
            let Some(child) = &started.child else {
                continue;
            };
            let folder = PathBuf::from(format!("/proc/{}/root/etc", child.id()));
            let fresh = folder.join("hosts.new");
            let written =
                fs::write(&fresh, &text).and_then(|()| fs::rename(&fresh, folder.join("hosts")));
            if let Err(error) = written {
                warn!(node = %name, %error, "does not know the others' new addresses");
            }
        }
    }

    /// Of a kept lab: the folders of nodes whose removal was interrupted.
    fn sweep(&self) -> Result<(), Error> {
        let folder = paths::durable().join(keep::NODES);
        if self.config.keep.is_none() || !folder.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(&folder).map_err(on("list", &folder))? {
            let name = entry.map_err(on("list", &folder))?.file_name();
            let known = name == OUTSIDE
                || (self.config.plan.nodes.iter()).any(|node| name == node.name.as_str());
            if !known {
                remove_folder(&folder.join(name))?;
            }
        }
        Ok(())
    }
}

fn remove_folder(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(on("remove the folder", folder)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
