//! A pod's link in the kernel, with errors in the plugin's words.

use std::os::fd::BorrowedFd;

use weft_desired::PodLink;
use weft_kernel::{bridge, bridge_rules, pod_link};
use weft_proto::cni::{AttachmentKey, Code, Error};
use weft_sys::rtnl::Conversation;

use super::{chain, node, note};

/// Makes the link. One that an earlier attempt left is kept if it is whole and made
/// anew if it is not. `is_new`: there was no earlier attempt, as far as is known.
pub(super) fn attach(
    host: &mut Conversation,
    inside: &mut Conversation,
    pod: BorrowedFd<'_>,
    key: &AttachmentKey,
    link: &PodLink,
    is_new: bool,
) -> Result<(), Error> {
    let interface = key.interface.as_str();
    let failed = |error: &dyn std::error::Error| {
        Error::new(
            Code::Kernel,
            format!("cannot attach {key}: {}", chain(error)),
        )
    };
    let refused = |error: &bridge::Error| match error {
        bridge::Error::Conflict { .. } => Error::new(Code::InvalidConfig, chain(error)),
        bridge::Error::Kernel { .. } | bridge::Error::Setting { .. } => failed(error),
    };
    rules(key, link)?;
    let explained = |error: pod_link::Error| {
        if let pod_link::Error::Bridge(error) = &error {
            return refused(error);
        }
        let answer = failed(&error);
        if is_taken(&error) {
            answer.with_details(format!(
                "the pod has a {interface} or one of the routes {:?} already (a further interface \
                 of a pod needs ipam.routes), or the node has a route to one of {:?}",
                link.routes, link.addresses
            ))
        } else {
            answer
        }
    };
    if is_new {
        match pod_link::set_up(host, inside, pod, interface, link) {
            Ok(_) => return Ok(()),
            Err(error) if !is_taken(&error) => return Err(explained(error)),
            Err(_) => {}
        }
    }
    if host
        .find_link(&link.host_name)
        .map_err(|error| failed(&error))?
        .is_some()
    {
        // What is wrong with the bridge is no reason to make its ports anew.
        if let Some(bridge) = &link.bridge {
            bridge::stand(host, bridge).map_err(|error| refused(&error))?;
        }
        let deviations = pod_link::check(host, pod, interface, link);
        if deviations.is_ok_and(|deviations| deviations.is_empty()) {
            return Ok(());
        }
        remove(host, &link.host_name)?;
    }
    let made = pod_link::set_up(host, inside, pod, interface, link);
    made.map(drop).map_err(explained)
}

/// The rules about the link's bridge. They come first: no pod is on it before they hold.
fn rules(key: &AttachmentKey, link: &PodLink) -> Result<(), Error> {
    let Some(bridge) = &link.bridge else {
        return Ok(());
    };
    bridge_rules::set(bridge).map_err(|error| {
        Error::new(
            Code::Kernel,
            format!(
                "cannot write the rules of bridge {} for {key}: {}",
                bridge.name,
                chain(&error)
            ),
        )
    })
}

/// Removes a link by the name of its end on the node; the other end, its addresses and
/// all routes go with it. No link is no error. `meanwhile` runs when nothing comes by it any more.
pub(super) fn detach<T: Send>(
    host: &mut Conversation,
    name: &str,
    meanwhile: impl FnOnce(&mut Conversation) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    match removable(host, name)? {
        None => meanwhile(host),
        Some(index) => pod_link::delete_while(host, index, meanwhile)
            .map_err(|error| not_removed(name, &error))?,
    }
}

/// What differs between the kernel and the link, in words.
pub(super) fn verify(
    key: &AttachmentKey,
    pod: BorrowedFd<'_>,
    link: &PodLink,
) -> Result<Vec<String>, Error> {
    let failed = |error: &dyn std::error::Error| {
        Error::new(
            Code::Kernel,
            format!("cannot check {key}: {}", chain(error)),
        )
    };
    let interface = key.interface.as_str();
    let deviations = pod_link::check(&mut node::links()?, pod, interface, link)
        .map_err(|error| failed(&error))?;
    let mut words: Vec<String> = deviations.iter().map(ToString::to_string).collect();
    if let Some(bridge) = &link.bridge
        && !bridge_rules::hold(bridge).map_err(|error| failed(&error))?
    {
        words.push(format!(
            "the rules of bridge {} are not in force",
            bridge.name
        ));
    }
    Ok(words)
}

fn remove(host: &mut Conversation, name: &str) -> Result<(), Error> {
    let Some(index) = removable(host, name)? else {
        return Ok(());
    };
    match host.delete_link(index) {
        Err(error) if !error.is_absent() => Err(not_removed(name, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The number of the link, if there is one that is an attachment's.
fn removable(host: &mut Conversation, name: &str) -> Result<Option<u32>, Error> {
    match pod_link::find(host, name) {
        Ok(found) => Ok(found),
        // Whoever made it died before the alias was set; the name is a hash of this very
        // attachment, so it was an ADD of it.
        Err(pod_link::Error::Foreign { kind, alias, .. }) if kind == "veth" && alias.is_empty() => {
            let link = host.find_link(name);
            let link = link.map_err(|error| not_removed(name, &error))?;
            Ok(link.map(|link| link.index))
        }
        // DEL has to end well: what is not ours is not left by us.
        Err(error @ pod_link::Error::Foreign { .. }) => {
            note(&chain(&error));
            Ok(None)
        }
        Err(
            error @ (pod_link::Error::Host { .. }
            | pod_link::Error::Pod { .. }
            | pod_link::Error::Bridge(_)
            | pod_link::Error::HostSetting { .. }
            | pod_link::Error::Setting { .. }),
        ) => Err(not_removed(name, &error)),
    }
}

fn not_removed(name: &str, error: &dyn std::error::Error) -> Error {
    Error::new(
        Code::Kernel,
        format!("cannot remove link {name}: {}", chain(error)),
    )
}

fn is_taken(error: &pod_link::Error) -> bool {
    match error {
        pod_link::Error::Host { source, .. } | pod_link::Error::Pod { source, .. } => {
            source.is_exists()
        }
        pod_link::Error::Setting { .. }
        | pod_link::Error::HostSetting { .. }
        | pod_link::Error::Bridge(_)
        | pod_link::Error::Foreign { .. } => false,
    }
}
