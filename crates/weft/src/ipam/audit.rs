//! What does not fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;
use weft_nodestate::{Attachment, Reservation};
use weft_proto::cni::AttachmentKey;

use super::facts::{Facts, Recorded};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// A record whose namespace is gone: no DEL came.
    DeadAttachment,
    /// A record whose namespace is there, with nobody in it, and unknown to its runtime.
    AbandonedAttachment,
    /// A record without namespace and link, of a pod that its runtime has still to remove.
    UnremovedPod,
    /// A record whose link stands, and whose namespace's path is gone.
    UnseenNamespace,
    /// A file among the records that is none.
    DamagedRecord,
    /// An address of a living attachment that is not reserved for it.
    MissingReservation,
    /// A reservation that no record and no namespace accounts for.
    OrphanReservation,
    /// An address of two attachments.
    AddressTwice,
    /// A living attachment without its link.
    MissingLink,
    /// A link of weft's without a record.
    LinkWithoutRecord,
}

/// What can be done about it without a person's judgement.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Repair {
    /// What DEL would do.
    Detach(Box<Attachment>),
    /// Give the address back.
    Free(Reservation),
    /// Reserve the address for its owner.
    Reserve(AttachmentKey, IpAddr),
}

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    /// What it is about: an attachment, an address or a link.
    pub(super) object: String,
    pub(super) text: String,
    pub(super) repair: Option<Repair>,
}

/// Everything that does not fit, in a stable order.
pub(super) fn audit(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let reserved: BTreeMap<IpAddr, &Reservation> = facts
        .reservations
        .iter()
        .map(|reservation| (reservation.address, reservation))
        .collect();
    for damaged in &facts.damaged {
        findings.push(Finding {
            kind: Kind::DamagedRecord,
            object: "record".to_owned(),
            text: format!("{damaged}; DEL of the container still removes everything"),
            repair: None,
        });
    }
    for recorded in &facts.records {
        attachment(facts, &reserved, recorded, &mut findings);
    }
    twice(facts, &mut findings);
    orphans(facts, &mut findings);
    links(facts, &mut findings);
    findings.sort_by(|a, b| (a.kind, &a.object, &a.text).cmp(&(b.kind, &b.object, &b.text)));
    findings
}

fn attachment(
    facts: &Facts,
    reserved: &BTreeMap<IpAddr, &Reservation>,
    recorded: &Recorded,
    findings: &mut Vec<Finding>,
) {
    let record = &recorded.attachment;
    let object = record.key.to_string();
    let mut find = |kind, text: String, repair| {
        findings.push(Finding {
            kind,
            object: object.clone(),
            text,
            repair,
        });
    };
    if !recorded.lives {
        let elsewhere = record
            .addresses
            .iter()
            .find_map(|address| facts.live.get(address).map(|place| (address, place)));
        return match elsewhere {
            Some((address, place)) => find(
                Kind::DeadAttachment,
                format!(
                    "its namespace {} is gone, but {} has {address}: end that container first",
                    record.netns.display(),
                    place.display()
                ),
                None,
            ),
            None => find(
                Kind::DeadAttachment,
                format!("its namespace {} is gone", record.netns.display()),
                Some(Repair::Detach(Box::new(record.clone()))),
            ),
        };
    }
    if recorded.is_abandoned {
        return find(
            Kind::AbandonedAttachment,
            format!(
                "no runtime that was asked has the pod, and no process is in its namespace {}",
                record.netns.display()
            ),
            Some(Repair::Detach(Box::new(record.clone()))),
        );
    }
    if recorded.is_known && !recorded.is_seen && !facts.links.contains_key(&record.host_link) {
        return find(
            Kind::UnremovedPod,
            "its namespace is gone, and its runtime still has the pod: DEL comes when that is removed"
                .to_owned(),
            None,
        );
    }
    if !recorded.is_seen {
        find(
            Kind::UnseenNamespace,
            format!(
                "its namespace's path {} is gone, but its link stands: look from the node itself, \
                 not from a container; if it is so there, delete the pod",
                record.netns.display()
            ),
            None,
        );
    }
    for address in &record.addresses {
        match reserved.get(address) {
            Some(reservation) if reservation.owner.as_ref() == Ok(&record.key) => {}
            None => find(
                Kind::MissingReservation,
                format!("{address} is not reserved"),
                Some(Repair::Reserve(record.key.clone(), *address)),
            ),
            Some(reservation) => {
                let owner = match &reservation.owner {
                    Ok(owner) => owner.to_string(),
                    Err(reason) => reason.clone(),
                };
                find(
                    Kind::MissingReservation,
                    format!("{address} is reserved for another ({owner}): delete one of the pods"),
                    None,
                );
            }
        }
    }
    if !facts.links.contains_key(&record.host_link) {
        find(
            Kind::MissingLink,
            format!("link {} is missing: delete the pod", record.host_link),
            None,
        );
    }
}

fn twice(facts: &Facts, findings: &mut Vec<Finding>) {
    let mut owners: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for recorded in facts.records.iter().filter(|recorded| recorded.lives) {
        for address in &recorded.attachment.addresses {
            let owner = recorded.attachment.key.to_string();
            owners.entry(*address).or_default().push(owner);
        }
    }
    for (address, owners) in owners.into_iter().filter(|(_, owners)| owners.len() > 1) {
        findings.push(Finding {
            kind: Kind::AddressTwice,
            object: address.to_string(),
            text: format!("{} have it: delete all but one", owners.join(" and ")),
            repair: None,
        });
    }
}

fn orphans(facts: &Facts, findings: &mut Vec<Finding>) {
    let recorded: BTreeMap<&AttachmentKey, &Attachment> = facts
        .records
        .iter()
        .map(|recorded| (&recorded.attachment.key, &recorded.attachment))
        .collect();
    for reservation in &facts.reservations {
        let address = reservation.address;
        let owner = match &reservation.owner {
            Ok(owner) => match recorded.get(owner) {
                Some(record) if record.addresses.contains(&address) => continue,
                // A pod of the plugin that had the pool before, whose DEL is still to come.
                None if facts.has_container(owner.container.as_str()) => continue,
                Some(_) => format!("{owner}, whose record has other addresses"),
                None => format!("{owner}, which has no record"),
            },
            Err(reason) => format!("nobody: {reason}"),
        };
        // A pod of the plugin that had the pool before.
        if facts.live.contains_key(&address) {
            continue;
        }
        findings.push(Finding {
            kind: Kind::OrphanReservation,
            object: address.to_string(),
            text: format!("is reserved for {owner}, and in no namespace"),
            repair: (!facts.sees_part()).then(|| Repair::Free(reservation.clone())),
        });
    }
}

fn links(facts: &Facts, findings: &mut Vec<Finding>) {
    let recorded: BTreeSet<&str> = facts
        .records
        .iter()
        .map(|recorded| recorded.attachment.host_link.as_str())
        .collect();
    for (name, alias) in &facts.links {
        if recorded.contains(name.as_str()) || facts.foreign_links.contains(name) {
            continue;
        }
        findings.push(Finding {
            kind: Kind::LinkWithoutRecord,
            object: name.clone(),
            text: format!("belongs to {alias}, and has no record: delete that pod"),
            repair: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn key(container: &str) -> AttachmentKey {
        AttachmentKey {
            container: container.try_into().unwrap(),
            interface: "eth0".try_into().unwrap(),
        }
    }

    fn recorded(container: &str, addresses: &[&str], lives: bool) -> Recorded {
        let attachment = Attachment {
            key: key(container),
            network: "weft".try_into().unwrap(),
            data_dir: PathBuf::from("/data"),
            netns: PathBuf::from("/run/netns/x"),
            netns_inode: None,
            host_link: format!("weft-{container}"),
            mtu: 1500,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            node_addresses: Vec::new(),
            mac: None,
            routes: None,
            bridge: None,
            anti_spoofing: true,
            other_addresses: Vec::new(),
            masquerade_beyond: None,
            pod: None,
        };
        Recorded {
            attachment,
            is_seen: lives,
            is_known: false,
            is_abandoned: false,
            lives,
        }
    }

    fn reserved(address: &str, owner: &str) -> Reservation {
        Reservation {
            address: address.parse().unwrap(),
            owner: match owner {
                "" => Err("it is empty".to_owned()),
                owner => Ok(key(owner)),
            },
        }
    }

    fn sound() -> Facts {
        Facts {
            records: vec![recorded("a", &["10.0.0.1"], true)],
            reservations: vec![reserved("10.0.0.1", "a")],
            links: [("weft-a".to_owned(), "weft:default/a".to_owned())].into(),
            live: [("10.0.0.1".parse().unwrap(), PathBuf::from("/proc/7"))].into(),
            ..Facts::default()
        }
    }

    fn found(facts: &Facts) -> Vec<(Kind, String, bool)> {
        audit(facts)
            .into_iter()
            .map(|finding| (finding.kind, finding.object, finding.repair.is_some()))
            .collect()
    }

    #[test]
    fn what_fits_is_no_finding() {
        assert_eq!(audit(&sound()), []);
        // A pod of the plugin that had the pool before.
        let mut facts = sound();
        facts.reservations.push(reserved("10.0.0.9", "theirs"));
        facts
            .live
            .insert("10.0.0.9".parse().unwrap(), PathBuf::from("/proc/9"));
        assert_eq!(audit(&facts), []);
    }

    #[test]
    fn each_kind_is_found() {
        let one = |change: &dyn Fn(&mut Facts)| {
            let mut facts = sound();
            change(&mut facts);
            found(&facts)
        };
        let is = |kind, object: &str, repaired| vec![(kind, object.to_owned(), repaired)];
        assert_eq!(
            one(&|facts| {
                facts.records.push(recorded("b", &["10.0.0.2"], false));
                facts.reservations.push(reserved("10.0.0.2", "b"));
            }),
            is(Kind::DeadAttachment, "b/eth0", true)
        );
        // Its address is in a namespace all the same: never freed by itself.
        assert_eq!(
            one(&|facts| facts.records[0].lives = false),
            is(Kind::DeadAttachment, "a/eth0", false)
        );
        // The runtime says otherwise: it will call DEL.
        let mut unremoved = sound();
        unremoved.links.clear();
        unremoved.live.clear();
        unremoved.records[0].is_seen = false;
        unremoved.records[0].is_known = true;
        unremoved.known = Some(["a".to_owned(), "theirs".to_owned()].into());
        unremoved.reservations.push(reserved("10.0.0.9", "theirs"));
        assert_eq!(found(&unremoved), is(Kind::UnremovedPod, "a/eth0", false));
        assert_eq!(
            one(&|facts| facts.records[0].is_abandoned = true),
            is(Kind::AbandonedAttachment, "a/eth0", true)
        );
        // From a container: what is not seen is not freed either.
        let mut unseen = sound();
        unseen.records[0].is_seen = false;
        unseen.reservations.push(reserved("10.0.0.9", "theirs"));
        assert_eq!(
            found(&unseen),
            [
                (Kind::UnseenNamespace, "a/eth0".to_owned(), false),
                (Kind::OrphanReservation, "10.0.0.9".to_owned(), false),
            ]
        );
        assert_eq!(
            one(&|facts| facts.damaged.push("x is damaged".to_owned())),
            is(Kind::DamagedRecord, "record", false)
        );
        assert_eq!(
            one(&|facts| facts.reservations.clear()),
            is(Kind::MissingReservation, "a/eth0", true)
        );
        for owner in ["gone", "", "a"] {
            assert_eq!(
                one(&|facts| facts.reservations.push(reserved("10.0.0.3", owner))),
                is(Kind::OrphanReservation, "10.0.0.3", true)
            );
        }
        assert_eq!(
            one(&|facts| facts.links.clear()),
            is(Kind::MissingLink, "a/eth0", false)
        );
        assert_eq!(
            one(&|facts| {
                facts.links.insert("weft-z".to_owned(), String::new());
                facts.links.insert("weft-y".to_owned(), String::new());
                facts.foreign_links.insert("weft-y".to_owned());
            }),
            is(Kind::LinkWithoutRecord, "weft-z", false)
        );
        let twice = one(&|facts| {
            facts.records.push(recorded("b", &["10.0.0.1"], true));
            facts.links.insert("weft-b".to_owned(), String::new());
        });
        assert_eq!(twice[0].0, Kind::MissingReservation);
        assert_eq!(twice[1], (Kind::AddressTwice, "10.0.0.1".to_owned(), false));
    }
}
