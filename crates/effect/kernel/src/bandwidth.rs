//! How fast a pod may send and receive: a token bucket on the node's end of its link for what
//! goes to the pod; for what comes from it, a device that everything goes through first, with a
//! bucket of its own (`ifb`, which comes back to the link it was taken from, so that all rules
//! still see where a packet came in).
//!
//! The first goes with the link. The device does not, and has to be removed by its name.

use weft_desired::{PodBandwidth, Shape, mark};
use weft_sys::netlink;
use weft_sys::rtnl::{Batch, Conversation, Held, Link, TokenBucket};

/// Bytes are never kept waiting longer than this, in microseconds: what comes faster is dropped,
/// and its sender slows down. The plugin `bandwidth` has the same.
const LATENCY: u64 = 25_000;

/// Why a pod's bandwidth could not be limited.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel lacks a part that it takes.
    #[error("this kernel has no {part}: load the module, or start a kernel that has it")]
    Missing {
        /// The module, or what may be missing.
        part: &'static str,
        /// What the kernel said.
        source: netlink::Error,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] netlink::Error),
}

/// The names a pod's limits go by on its node.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The node's end of the pod's link.
    pub link: &'a str,
    /// The device that what the pod sends goes through.
    pub device: &'a str,
    /// That device's alias: the ownership mark.
    pub alias: &'a str,
}

/// Limits a link that has no limits.
///
/// # Errors
/// See [`Error`]; some of the limits may be in force.
pub fn limit(node: &mut Conversation, names: Names<'_>, limits: PodBandwidth) -> Result<(), Error> {
    if limits == PodBandwidth::default() {
        return Ok(());
    }
    let link = node.link_by_name(names.link)?;
    if let Some(shape) = limits.to_pod {
        node.set_token_bucket(link.index, bucket(shape, &link))
            .map_err(without("token buckets (sch_tbf)"))?;
    }
    if let Some(shape) = limits.from_pod {
        let device = node
            .add_intermediate(names.device, link.mtu, names.alias)
            .map_err(without("intermediate devices (ifb)"))?;
        node.set_token_bucket(device.index, bucket(shape, &link))
            .map_err(without("token buckets (sch_tbf)"))?;
        node.set_up(device.index)?;
        node.redirect_received(link.index, device.index)
            .map_err(without(
                "way to redirect what a link receives (sch_ingress, cls_u32 and act_mirred)",
            ))?;
    }
    Ok(())
}

/// Removes all limits of a link, and the device, whether the link is there or not.
///
/// # Errors
/// [`Error::Kernel`].
pub fn release(node: &mut Conversation, link: &str, device: &str) -> Result<(), Error> {
    if let Some(link) = node.find_link(link)? {
        let mut batch = Batch::new();
        batch
            .remove_token_bucket(link.index)
            .receive_directly(link.index);
        // Refused where there is nothing to remove.
        let _ = node.run(&batch)?;
    }
    remove_device(node, device)
}

/// Removes the device alone: the link is gone, and its limits with it.
///
/// # Errors
/// [`Error::Kernel`].
pub fn remove_device(node: &mut Conversation, device: &str) -> Result<(), Error> {
    match node.find_link(device)? {
        Some(found) if found.kind.as_deref() == Some(DEVICE) => {
            match node.delete_link(found.index) {
                Err(error) if !error.is_absent() => Err(error.into()),
                Ok(()) | Err(_) => Ok(()),
            }
        }
        // Nobody's, or somebody else's.
        Some(_) | None => Ok(()),
    }
}

/// The devices on this node that what pods send goes through.
///
/// # Errors
/// See [`netlink::Error`].
pub fn devices(node: &mut Conversation) -> Result<Vec<Link>, netlink::Error> {
    let mut links = node.links()?;
    links.retain(|link| {
        link.kind.as_deref() == Some(DEVICE) && link.name.starts_with(mark::DEVICE_NAME)
    });
    Ok(links)
}

/// What is not as [`limit`] makes it, in words.
///
/// # Errors
/// [`Error::Kernel`].
pub fn deviations(
    node: &mut Conversation,
    names: Names<'_>,
    limits: PodBandwidth,
) -> Result<Vec<String>, Error> {
    let mut deviations = Vec::new();
    // A link that is missing is said elsewhere.
    let Some(link) = node.find_link(names.link)? else {
        return Ok(deviations);
    };
    if let Some(shape) = limits.to_pod {
        let held = node.token_bucket(link.index)?;
        deviations.extend(difference("receives", held, shape, &link));
    }
    if let Some(shape) = limits.from_pod {
        let device = node.find_link(names.device)?;
        match device {
            Some(device) if device.up => {
                let held = node.token_bucket(device.index)?;
                deviations.extend(difference("sends", held, shape, &link));
                if node.redirected_to(link.index)? != Some(device.index) {
                    deviations.push(format!(
                        "what the pod sends does not go through {}",
                        names.device
                    ));
                }
            }
            Some(_) => deviations.push(format!("device {} is down", names.device)),
            None => deviations.push(format!("device {} is missing", names.device)),
        }
    }
    Ok(deviations)
}

/// The kind of device.
const DEVICE: &str = "ifb";

fn difference(does: &str, held: Option<Held>, shape: Shape, link: &Link) -> Option<String> {
    let wanted = bucket(shape, link);
    let wanted = Held {
        rate: wanted.rate,
        limit: wanted.limit,
    };
    match held {
        Some(held) if held == wanted => None,
        Some(held) => Some(format!(
            "what the pod {does} is limited to {} bytes/s with {} waiting, not to {} with {}",
            held.rate, held.limit, wanted.rate, wanted.limit
        )),
        None => Some(format!("what the pod {does} is not limited")),
    }
}

/// No packet passes that is longer than the burst, with its Ethernet header.
fn bucket(shape: Shape, link: &Link) -> TokenBucket {
    /// ETH_HLEN and a VLAN's tag.
    const HEADER: u32 = 14 + 4;
    let burst = shape.burst.max(link.mtu.saturating_add(HEADER));
    let waiting = u128::from(shape.rate) * u128::from(LATENCY) / 1_000_000;
    let limit = waiting.saturating_add(u128::from(burst));
    TokenBucket {
        rate: shape.rate,
        burst,
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    }
}

/// ENOENT for queues, filters and actions, EOPNOTSUPP for kinds of devices.
fn without(part: &'static str) -> impl FnOnce(netlink::Error) -> Error {
    move |source| match source.errno() {
        Some(netlink::Errno::NOENT | netlink::Errno::OPNOTSUPP) => Error::Missing { part, source },
        Some(_) | None => Error::Kernel(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: netlink::Errno) -> netlink::Error {
        netlink::Error::Refused {
            operation: "set the token bucket of link",
            object: "weft0".to_owned(),
            failure: netlink::Failure {
                errno,
                text: Some("Specified qdisc kind is unknown".to_owned()),
                offset: None,
            },
        }
    }

    #[test]
    fn a_kernel_without_a_part_is_told_from_one_that_refuses() {
        for errno in [netlink::Errno::NOENT, netlink::Errno::OPNOTSUPP] {
            let error = without("token buckets (sch_tbf)")(refused(errno));
            assert!(error.to_string().contains("no token buckets (sch_tbf)"));
        }
        let error = without("token buckets")(refused(netlink::Errno::PERM));
        assert!(matches!(error, Error::Kernel(_)), "{error}");
    }
}
