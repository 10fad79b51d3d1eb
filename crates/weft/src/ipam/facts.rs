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
                    let lives = live::has_namespace(&attachment.netns, attachment.netns_inode);
                    facts.records.push(Recorded { attachment, lives });
                }
            }
        }
        Ok(facts)
    }
}
