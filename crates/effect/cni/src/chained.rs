//! weft behind the plugin that made the pod's interface (`link` is `none`).
//!
//! It adds the pod's settings and its ports on the node, keeps no record, and reserves
//! nothing: what it did follows from `prevResult`, which DEL has too.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use weft_proto::cni::{AddResult, Attach, AttachmentKey, Detach, Error, Interface};

use super::{host_port, node, note, sysctl};

/// Passes `previous` through.
pub(super) fn add(
    request: &Attach,
    namespace: BorrowedFd<'_>,
    previous: &AddResult,
) -> Result<AddResult, Error> {
    sysctl::apply(request, namespace)?;
    let pod = addresses(&request.key, Some(&request.netns), previous);
    let ports = host_port::compiled(&request.mappings, &request.node_addresses, &pod);
    if !ports.is_empty() {
        let mut rules = node::rules()?;
        host_port::set(&mut rules, &request.key, &ports, &pod, device(previous))?;
    }
    Ok(previous.clone())
}

/// What differs, in words.
pub(super) fn verify(request: &Attach, namespace: BorrowedFd<'_>) -> Result<Vec<String>, Error> {
    let mut differences = sysctl::verify(request, namespace)?;
    if let Some(previous) = &request.previous {
        let pod = addresses(&request.key, Some(&request.netns), previous);
        let ports = host_port::compiled(&request.mappings, &request.node_addresses, &pod);
        if !ports.is_empty() {
            differences.extend(host_port::verify(&request.key, &ports)?);
        }
    }
    Ok(differences)
}

/// Closes the pod's ports. The settings go with its namespace.
pub(super) fn del(request: &Detach) -> Result<(), Error> {
    let Some(previous) = &request.previous else {
        note(&format_args!(
            "no prevResult tells what {} had: ports of the node are left as they are",
            request.key
        ));
        return Ok(());
    };
    let pod = addresses(&request.key, request.netns.as_deref(), previous);
    match pod.is_empty() {
        true => Ok(()),
        false => {
            let mut rules = node::rules()?;
            host_port::set(&mut rules, &request.key, &[], &pod, device(previous))
        }
    }
}

/// The addresses of the pod's interface, at most one a family.
fn addresses(key: &AttachmentKey, netns: Option<&str>, previous: &AddResult) -> Vec<IpAddr> {
    let is_own = |there: &Interface| {
        there.name == key.interface.as_str()
            && match (netns, &there.sandbox) {
                (Some(netns), Some(sandbox)) => sandbox == netns,
                (None, Some(_)) => true,
                (_, None) => false,
            }
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in &previous.ips {
        let interface = ip
            .interface
            .and_then(|index| previous.interfaces.get(index));
        let address = ip.address.addr();
        let mut known = addresses.iter();
        if interface.is_none_or(is_own) && !known.any(|other| other.is_ipv4() == address.is_ipv4())
        {
            addresses.push(address);
        }
    }
    addresses
}

/// The device on the node that the pod's packets come in by: the first that the plugins before
/// named, which is a bridge if there is one.
fn device(previous: &AddResult) -> &str {
    let mut interfaces = previous.interfaces.iter();
    interfaces
        .find(|there| there.sandbox.is_none())
        .map_or("lo", |there| there.name.as_str())
}
