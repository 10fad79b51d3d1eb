//! Pods' names, which are made of their addresses: `10-244-1-5.default.pod.<zone>`.

use std::net::IpAddr;

use super::records::Records;

/// What such a name stands for.
pub(super) enum Pod {
    Address(IpAddr),
    /// The name above all pods of a namespace.
    Namespace,
}

/// Reads a name below `pod.<zone>`, whose zone begins at `zone_at`; `None`: it is no
/// pod's, or its namespace does not exist.
pub(super) fn find(records: &Records, name: &[u8], zone_at: usize) -> Option<Pod> {
    let labels = split(&name[..zone_at])?;
    let (address, namespace) = match labels.as_slice() {
        [namespace, b"pod"] => (None, namespace),
        [address, namespace, b"pod"] => (Some(address), namespace),
        _ => return None,
    };
    let address = match address {
        Some(label) => Some(parse(std::str::from_utf8(label).ok()?)?),
        None => None,
    };
    let length = u8::try_from(namespace.len()).ok()?;
    let mut of_services = vec![length];
    of_services.extend_from_slice(namespace);
    of_services.extend_from_slice(b"\x03svc");
    of_services.extend_from_slice(records.cluster_zone().as_bytes());
    records
        .with(&of_services, |entry| entry.is_some())
        .then(|| address.map_or(Pod::Namespace, Pod::Address))
}

/// The labels of a name's beginning; `None` for more than a pod's name has.
fn split(mut name: &[u8]) -> Option<Vec<&[u8]>> {
    let mut labels = Vec::with_capacity(3);
    while let Some((length, rest)) = name.split_first() {
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        if labels.len() == 3 {
            return None;
        }
        labels.push(label);
        name = rest;
    }
    Some(labels)
}

/// An address with dashes in place of dots or colons.
fn parse(label: &str) -> Option<IpAddr> {
    let v4 = label.bytes().filter(|byte| *byte == b'-').count() == 3 && !label.contains("--");
    let separator = if v4 { "." } else { ":" };
    label.replace('-', separator).parse().ok()
}
