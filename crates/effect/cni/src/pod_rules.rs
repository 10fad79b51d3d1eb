//! What a pod may send and as whom it leaves the cluster, with errors in the plugin's words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use weft_desired::{Bridge, OtherLink, PodRules, mark};
use weft_kernel::pod_rules::{self, Subjects};
use weft_kernel::{bridge_rules, router};
use weft_nodestate::{Attachment, Attachments};
use weft_proto::cni::{AttachmentKey, Code, Error, InterfaceName};
use weft_sys::nft::Connection;
use weft_sys::rtnl::Conversation;

use super::node::{self, Node};
use super::{chain, compiled, live, note, record_error};

/// The rules about an attachment, among those of the pod's other interfaces.
fn compiled_rules(record: &Attachment, siblings: &[&Attachment]) -> PodRules {
    let link = compiled(record);
    let others = || siblings.iter().filter(|other| other.key != record.key);
    let mut other_addresses = record.other_addresses.clone();
    other_addresses.extend(others().flat_map(|other| &other.addresses));
    PodRules {
        other_links: others()
            .map(|other| OtherLink {
                link: other.host_link.as_str().into(),
                is_port: other.bridge.is_some(),
                is_guarded: other.anti_spoofing,
            })
            .collect(),
        other_addresses,
        addresses: record.addresses.clone(),
        is_port: record.bridge.is_some(),
        mac: link.pod_mac,
        is_guarded: record.anti_spoofing,
        masquerade_beyond: record.masquerade_beyond.clone(),
        comment: link
            .alias
            .strip_prefix(mark::LINK_ALIAS)
            .unwrap_or(&link.alias)
            .into(),
        link: link.host_name,
    }
}

/// Makes the rules about an attachment what its record says. `inside` is about the pod's
/// namespace; `is_new`: there was no record before.
pub(super) fn set(
    node: &mut Node,
    inside: &mut Conversation,
    records: &Attachments,
    record: &Attachment,
    is_new: bool,
) -> Result<(), Error> {
    let rules = of(records, record, inside)?;
    if rules.masquerade_beyond.is_some() {
        forward(&mut node.links, record)?;
    }
    let write = match is_new {
        true => pod_rules::begin,
        false => pod_rules::set,
    };
    write(&mut node.rules, &rules).map_err(|error| {
        failed(
            &record.key,
            "write the rules about what it sends",
            &chain(&error),
        )
    })
}

/// Removes the rules about a link and these addresses.
pub(super) fn clear(
    rules: &mut Connection,
    key: &AttachmentKey,
    link: &str,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    pod_rules::clear(rules, link, addresses)
        .map_err(|error| failed(key, "remove the rules about what it sends", &chain(&error)))
}

/// What differs, in words.
pub(super) fn verify(
    records: &Attachments,
    record: &Attachment,
    pod: BorrowedFd<'_>,
) -> Result<Vec<String>, Error> {
    let rules = of(records, record, &mut inside(&record.key, pod)?)?;
    pod_rules::deviations(&rules).map_err(|error| {
        failed(
            &record.key,
            "check the rules about what it sends",
            &chain(&error),
        )
    })
}

/// Whether the tables that the recorded attachments have their parts in have their rules.
///
/// # Errors
/// The records can't be listed, or the rules not be read.
pub fn stand(records: &Attachments) -> anyhow::Result<bool> {
    let records = readable(records)?;
    let has_bridges = records.iter().any(|record| record.bridge.is_some());
    let all: Vec<PodRules> = records.iter().map(|it| compiled_rules(it, &[])).collect();
    Ok(pod_rules::stand(&all)? && (!has_bridges || bridge_rules::stand()?))
}

/// Writes what is missing of the rules about all attachments and their bridges, after somebody
/// else's hands. Says whether anything was.
///
/// # Errors
/// The records can't be listed, or the rules neither be read nor written.
pub fn restore(records: &Attachments) -> anyhow::Result<bool> {
    let before = readable(records)?;
    let of_bridges = restore_bridges(&before)?;
    let all: Vec<PodRules> = before.iter().map(|record| among(record, &before)).collect();
    if !pod_rules::restore(&all)? {
        return Ok(of_bridges);
    }
    forget_gone(records, before)?;
    Ok(true)
}

fn readable(records: &Attachments) -> anyhow::Result<Vec<Attachment>> {
    Ok(records.list()?.into_iter().flatten().collect())
}

/// After rules were written by these records: a DEL may have come in between, and its rules have
/// to go again.
fn forget_gone(records: &Attachments, mut written: Vec<Attachment>) -> anyhow::Result<()> {
    loop {
        let now = readable(records)?;
        written.retain(|record| !now.contains(record));
        if written.is_empty() {
            return Ok(());
        }
        let mut cleared = Subjects::default();
        let mut rules = Connection::open()?;
        for gone in written {
            pod_rules::clear(&mut rules, &gone.host_link, &gone.addresses)?;
            cleared.addresses.extend(gone.addresses);
            cleared.links.insert(gone.host_link);
        }
        written = set_heirs(records, &cleared)?;
    }
}

/// Writes the rules about everybody who has one of these links or addresses: an ADD may have come
/// with it before its rules were cleared. The records are read after that, so that an ADD that is
/// not seen here writes its rules later. Says who they are.
fn set_heirs(records: &Attachments, cleared: &Subjects) -> anyhow::Result<Vec<Attachment>> {
    let all = readable(records)?;
    let is_heir = |record: &&Attachment| {
        let mut addresses = record.addresses.iter();
        cleared.links.contains(&record.host_link)
            || addresses.any(|address| cleared.addresses.contains(address))
    };
    let heirs: Vec<Attachment> = all.iter().filter(is_heir).cloned().collect();
    let mut rules = Connection::open()?;
    for heir in &heirs {
        pod_rules::set(&mut rules, &among(heir, &all))?;
    }
    Ok(heirs)
}

/// A bridge stays after its pods, so that no DEL makes these rules wrong. Where attachments
/// disagree about it, whatever one of them says may stand, and a bridge that was cut off is again.
fn restore_bridges(records: &[Attachment]) -> anyhow::Result<bool> {
    let mut bridges: BTreeMap<Arc<str>, Vec<Bridge>> = BTreeMap::new();
    for bridge in records.iter().filter_map(|record| compiled(record).bridge) {
        let told = bridges.entry(bridge.name.clone()).or_default();
        if !told.contains(&bridge) {
            told.push(bridge);
        }
    }
    let mut was_missing = false;
    for told in bridges.values() {
        let mut stands = false;
        for bridge in told {
            stands = stands || bridge_rules::hold(bridge)?;
        }
        let strictest = told.iter().max_by_key(|bridge| bridge.isolated);
        if let (false, Some(bridge)) = (stands, strictest) {
            bridge_rules::set(bridge)?;
            was_missing = true;
        }
    }
    Ok(was_missing)
}

/// The rules about an attachment, with those of the same container found among all.
fn among(record: &Attachment, all: &[Attachment]) -> PodRules {
    let is_same = |other: &&Attachment| other.key.container == record.key.container;
    compiled_rules(record, &all.iter().filter(is_same).collect::<Vec<_>>())
}

/// Removes what is said of links that are neither recorded nor there, and of addresses that are
/// neither recorded nor in any namespace. What is said was read before the records and the links
/// are; what looks dead is looked at again before it goes.
/// Addresses are looked at only where all namespaces can be seen.
pub(super) fn sweep(records: &Attachments, sees_all: bool) -> Result<(), Error> {
    let failed = |what: &str, error: &dyn std::error::Error| {
        Error::new(Code::Kernel, format!("cannot {what}: {}", chain(error)))
    };
    let mut dead = pod_rules::subjects().map_err(|error| failed("list rules", &error))?;
    if !sees_all {
        dead.addresses.clear();
    }
    for _look in 0..2 {
        if dead.links.is_empty() && dead.addresses.is_empty() {
            return Ok(());
        }
        let recorded = records.list().map_err(|error| record_error(&error))?;
        for record in recorded.iter().flatten() {
            dead.links.remove(&record.host_link);
            for address in &record.addresses {
                dead.addresses.remove(address);
            }
        }
        let links = Conversation::open()
            .and_then(|mut node| node.links())
            .map_err(|error| failed("list links", &error))?;
        for link in links {
            dead.links.remove(&link.name);
        }
        if !dead.addresses.is_empty() {
            let live = live::addresses().map_err(|error| failed("look for addresses", &error))?;
            dead.addresses.retain(|address| !live.contains_key(address));
        }
    }
    let mut rules = node::rules()?;
    for link in &dead.links {
        pod_rules::clear(&mut rules, link, &[]).map_err(|error| failed("remove rules", &error))?;
        note(&format_args!("rules about link {link} are gone"));
    }
    let addresses: Vec<IpAddr> = dead.addresses.iter().copied().collect();
    if !addresses.is_empty() {
        // A name that no link has.
        pod_rules::clear(&mut rules, "", &addresses)
            .map_err(|error| failed("remove rules", &error))?;
    }
    for address in addresses {
        note(&format_args!("rules about address {address} are gone"));
    }
    set_heirs(records, &dead)
        .and_then(|heirs| forget_gone(records, heirs))
        .map_err(|error| Error::new(Code::Kernel, format!("cannot restore rules: {error:#}")))
}

/// The pod's other interfaces are those in its namespace: looking for them among all records would
/// take the longer the more pods there are.
fn of(
    records: &Attachments,
    record: &Attachment,
    inside: &mut Conversation,
) -> Result<PodRules, Error> {
    let links = inside
        .links()
        .map_err(|error| failed(&record.key, "list the interfaces", &chain(&error)))?;
    let mut siblings = Vec::new();
    for link in links.iter().filter(|link| !link.loopback) {
        let Ok(interface) = InterfaceName::try_from(link.name.as_str()) else {
            continue;
        };
        let key = AttachmentKey {
            container: record.key.container.clone(),
            interface,
        };
        if key != record.key {
            // What can't be read says nothing; its own CHECK tells.
            siblings.extend(records.read(&key).ok().flatten());
        }
    }
    Ok(compiled_rules(record, &siblings.iter().collect::<Vec<_>>()))
}

/// A conversation about a pod's namespace.
pub(super) fn inside(key: &AttachmentKey, pod: BorrowedFd<'_>) -> Result<Conversation, Error> {
    Conversation::in_namespace(pod)
        .map_err(|error| failed(key, "list the interfaces", &chain(&error)))
}

/// Whoever masquerades hands packets on: no agent has made the node a router, perhaps.
fn forward(links: &mut Conversation, record: &Attachment) -> Result<(), Error> {
    let failed =
        |error: router::Error| failed(&record.key, "make the node a router", &chain(&error));
    if record.addresses.iter().any(IpAddr::is_ipv4) {
        router::forward_v4().map_err(failed)?;
    }
    if record.addresses.iter().any(IpAddr::is_ipv6) {
        router::forward_v6(links).map_err(failed)?;
    }
    Ok(())
}

fn failed(key: &AttachmentKey, what: &str, why: &str) -> Error {
    Error::new(Code::Kernel, format!("cannot {what}, of {key}: {why}"))
}
