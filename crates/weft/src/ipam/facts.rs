//! What records, reservations, links and namespaces say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use weft_kernel::pod_link;
use weft_nodestate::{Attachment, Reservation};
use weft_runtime::Runtime;
use weft_sys::rtnl::Conversation;

use super::Node;
use weft_cni::live;

/// An attachment's record, and whether its namespace is there.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) attachment: Attachment,
    /// Whether the namespace is at its path, as seen from here.
    pub(super) is_seen: bool,
    /// Whether a container runtime that was asked still has the pod.
    pub(super) is_known: bool,
    /// Whether runtimes were asked and know nothing of it, no process is in its namespace, and
    /// no ADD takes so long.
    pub(super) is_abandoned: bool,
    pub(super) lives: bool,
}

/// Everything that is known of a network on this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) records: Vec<Recorded>,
    /// Files among the records that are none, in words.
    pub(super) damaged: Vec<String>,
    pub(super) reservations: Vec<Reservation>,
    /// The node's ends of weft's links, with their aliases.
    pub(super) links: BTreeMap<String, String>,
    /// Links that records of other networks account for.
    pub(super) foreign_links: BTreeSet<String>,
    /// Addresses in use, with a namespace that has them.
    pub(super) live: BTreeMap<IpAddr, PathBuf>,
    /// Containers that the runtimes have, if any were asked.
    pub(super) known: Option<BTreeSet<String>>,
}

/// Whom to ask besides the kernel.
#[derive(Debug, clap::Args)]
pub(super) struct Runtimes {
    /// A container runtime's socket, such as /run/containerd/containerd.sock: what it has is not
    /// called leaked, and what it does not have and no process is in is
    #[arg(long = "runtime", value_name = "SOCKET")]
    sockets: Vec<PathBuf>,
}

/// A runtime lists a pod when its ADD has ended. The kubelet gives both two minutes
/// (`runtimeRequestTimeout`), and people set it to several.
const LONGEST_START: Duration = Duration::from_secs(600);

impl Facts {
    /// Whether a runtime that was asked has a container.
    pub(super) fn has_container(&self, id: &str) -> bool {
        self.known.as_ref().is_some_and(|known| known.contains(id))
    }

    /// Whether there are namespaces that can't be seen from here, so that an address in none of
    /// those that can be may be in use all the same.
    pub(super) fn sees_part(&self) -> bool {
        self.records
            .iter()
            .any(|recorded| recorded.lives && !recorded.is_seen)
    }

    pub(super) fn gather(node: &Node, runtimes: &Runtimes) -> Result<Self> {
        let asked = Asked::of(runtimes)?;
        let mut facts = Facts {
            // Reservations first: an ADD that runs meanwhile writes its record right after them.
            reservations: node.pool.list()?,
            live: live::addresses().context("the addresses of the network namespaces")?,
            known: asked.as_ref().map(|asked| asked.known.clone()),
            ..Facts::default()
        };
        let mut kernel = Conversation::open().context("the node's links")?;
        for link in pod_link::list(&mut kernel).context("the node's links")? {
            facts
                .links
                .insert(link.name, link.alias.unwrap_or_default());
        }
        for listed in node.records.list()? {
            match listed {
                Err(damaged) => facts.damaged.push(damaged.to_string()),
                Ok(attachment) if attachment.network != node.network => {
                    facts.foreign_links.insert(attachment.host_link);
                }
                Ok(attachment) => {
                    let is_seen = live::has_namespace(&attachment.netns, attachment.netns_inode);
                    // A veth end does not outlive its peer's namespace, and from a container
                    // the node's namespaces have no paths.
                    let is_known = facts.has_container(attachment.key.container.as_str());
                    // An ADD that is under way gives its link the alias after the name.
                    let stands = is_seen
                        || facts.links.contains_key(&attachment.host_link)
                        || kernel
                            .find_link(&attachment.host_link)
                            .context("the node's links")?
                            .is_some();
                    let is_abandoned = is_seen
                        && asked
                            .as_ref()
                            .is_some_and(|asked| asked.leaves(&attachment))
                        && is_old(node.records.written(&attachment.key));
                    facts.records.push(Recorded {
                        attachment,
                        is_seen,
                        is_known,
                        is_abandoned,
                        lives: stands || is_known,
                    });
                }
            }
        }
        Ok(facts)
    }
}

/// What runtimes and processes say.
struct Asked {
    known: BTreeSet<String>,
    /// The namespaces that processes are in; unknown if the runtimes' can't be seen from here.
    inhabited: Option<BTreeSet<u64>>,
}

impl Asked {
    fn of(runtimes: &Runtimes) -> Result<Option<Self>> {
        if runtimes.sockets.is_empty() {
            return Ok(None);
        }
        let mut known = BTreeSet::new();
        let mut sees_all = true;
        for socket in &runtimes.sockets {
            let runtime = Runtime::at(socket);
            known.extend(runtime.sandboxes()?.into_iter().map(|sandbox| sandbox.id));
            sees_all &= runtime.is_seen()?;
        }
        let inhabited = match sees_all {
            true => Some(live::inhabited().context("the network namespaces of processes")?),
            false => None,
        };
        Ok(Some(Self { known, inhabited }))
    }

    /// Whether neither a runtime has the pod nor a process is in its namespace.
    fn leaves(&self, attachment: &Attachment) -> bool {
        let is_empty = match (&self.inhabited, attachment.netns_inode) {
            (Some(inhabited), Some(inode)) => !inhabited.contains(&inode),
            (Some(_) | None, Some(_) | None) => false,
        };
        is_empty && !self.known.contains(attachment.key.container.as_str())
    }
}

fn is_old(written: Option<SystemTime>) -> bool {
    let age = written.and_then(|written| written.elapsed().ok());
    age.is_some_and(|age| age > LONGEST_START)
}
