//! A pod's link in the kernel, with errors in the plugin's words.

use std::os::fd::BorrowedFd;

use weft_desired::PodLink;
use weft_kernel::{bridge, bridge_rules, pod_link};
use weft_proto::cni::{AttachmentKey, Code, Error};
use weft_sys::rtnl::Conversation;

use super::{chain, note};

/// Makes the link. One that an earlier attempt left is kept if it is whole and made
/// anew if it is not.
pub(super) fn attach(
    key: &AttachmentKey,
    pod: BorrowedFd<'_>,
    link: &PodLink,
) -> Result<(), Error> {
    let mut host = conversation()?;
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
    if host
        .find_link(&link.host_name)
        .map_err(|error| failed(&error))?
        .is_some()
    {
        // What is wrong with the bridge is no reason to make its ports anew.
        if let Some(bridge) = &link.bridge {
            bridge::stand(&mut host, bridge).map_err(|error| refused(&error))?;
        }
        let deviations = pod_link::check(&mut host, pod, interface, link);
        if deviations.is_ok_and(|deviations| deviations.is_empty()) {
            return Ok(());
        }
        remove(&mut host, &link.host_name)?;
    }
    pod_link::set_up(&mut host, pod, interface, link).map_err(|error| {
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
    })?;
    Ok(())
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
/// all routes go with it. No link is no error.
pub(super) fn detach(host_name: &str) -> Result<(), Error> {
    remove(&mut conversation()?, host_name)
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
    let deviations = pod_link::check(&mut conversation()?, pod, interface, link)
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
    let failed = |error: &dyn std::error::Error| {
        Error::new(
            Code::Kernel,
            format!("cannot remove link {name}: {}", chain(error)),
        )
    };
    match pod_link::tear_down(host, name) {
        Ok(_) => Ok(()),
        // Whoever made it died before the alias was set; the name is a hash of this very
        // attachment, so it was an ADD of it.
        Err(pod_link::Error::Foreign { kind, alias, .. }) if kind == "veth" && alias.is_empty() => {
            match host.delete_link_by_name(name) {
                Err(error) if !error.is_absent() => Err(failed(&error)),
                Ok(()) | Err(_) => Ok(()),
            }
        }
        // DEL has to end well: what is not ours is not left by us.
        Err(error @ pod_link::Error::Foreign { .. }) => {
            note(&chain(&error));
            Ok(())
        }
        Err(
            error @ (pod_link::Error::Host { .. }
            | pod_link::Error::Pod { .. }
            | pod_link::Error::Bridge(_)
            | pod_link::Error::HostSetting { .. }
            | pod_link::Error::Setting { .. }),
        ) => Err(failed(&error)),
    }
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

fn conversation() -> Result<Conversation, Error> {
    Conversation::open().map_err(|error| {
        Error::new(
            Code::Kernel,
            format!("cannot talk to the kernel about links: {}", chain(&error)),
        )
    })
}
