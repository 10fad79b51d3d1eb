//! What records, reservations, links and namespaces say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use weft_kernel::pod_link;
use weft_nodestate::{Attachment, Reservation};
use weft_sys::rtnl::Conversation;

use super::Node;
use crate::cni::live;

/// An attachment's record, and whether its namespace is there.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) attachment: Attachment,
    /// Whether the namespace is at its path, as seen from here.
    pub(super) is_seen: bool,
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
}

impl Facts {
    /// Whether there are namespaces that can't be seen from here, so that an address in none of
    /// those that can be may be in use all the same.
    pub(super) fn sees_part(&self) -> bool {
        self.records
            .iter()
            .any(|recorded| recorded.lives && !recorded.is_seen)
    }

    pub(super) fn gather(node: &Node) -> Result<Self> {
        let mut facts = Facts {
            // Reservations first: an ADD that runs meanwhile writes its record before them.
            reservations: node.pool.list()?,
            live: live::addresses().context("the addresses of the network namespaces")?,
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
                    let lives = is_seen || facts.links.contains_key(&attachment.host_link);
                    facts.records.push(Recorded {
                        attachment,
                        is_seen,
                        lives,
                    });
                }
            }
        }
        Ok(facts)
    }
}
