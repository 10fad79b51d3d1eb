//! The TUN device whose packets go to other nodes in UDP datagrams.
//!
//! It stays when the agent ends, and its routes with it; the next agent takes its queues. A device
//! is ours as tunnels are: by its alias, or because it has flannel's name and no other program
//! keeps us from taking it over.

use std::net::IpAddr;

use weft_desired::{UdpTunnel, mark};
use weft_sys::rtnl::{self, Conversation, Link};
use weft_sys::tun::Queue;

use crate::tunnel::{Device, Problem, Report, uplink};

/// The driver's name.
const KIND: &str = "tun";

/// A device that stands.
#[derive(Debug)]
pub struct Raised {
    /// Its number.
    pub index: u32,
    /// Its queues; empty if they are held already.
    pub queues: Vec<Queue>,
}

/// Makes the device: to be called before routes lead there. `held` is the number of the device
/// whose queues are open; of any other so many are opened.
///
/// # Errors
/// Why there is none.
pub fn raise(
    conversation: &mut Conversation,
    tunnel: &UdpTunnel,
    held: Option<u32>,
    queues: usize,
    report: &mut Report,
) -> Result<Raised, Problem> {
    let refused = |error| Problem::Refused {
        device: tunnel.name.clone(),
        error,
    };
    let local = IpAddr::V4(tunnel.local);
    let uplink = uplink(conversation, &tunnel.name, local)?;
    let found = conversation.find_link(&tunnel.name).map_err(refused)?;
    if let Some(other) = found
        .as_ref()
        .filter(|link| link.kind.as_deref() != Some(KIND))
    {
        return Err(Problem::NameTaken {
            device: tunnel.name.clone(),
            kind: other.kind.clone().unwrap_or_else(|| "hardware".to_owned()),
        });
    }
    let is_held = found.as_ref().is_some_and(|link| Some(link.index) == held);
    let queues = if is_held {
        Vec::new()
    } else {
        report.writes += usize::from(found.is_none());
        open(conversation, tunnel, found.as_ref(), queues)?
    };
    let link = conversation.link_by_name(&tunnel.name).map_err(refused)?;
    let device = Device {
        name: &tunnel.name,
        local,
        mac: None,
        address: IpAddr::V4(tunnel.range.network()),
        mtu: tunnel.mtu,
    };
    device.adjust(conversation, &uplink, &link, report)?;
    Ok(Raised {
        index: link.index,
        queues,
    })
}

fn open(
    conversation: &mut Conversation,
    tunnel: &UdpTunnel,
    found: Option<&Link>,
    count: usize,
) -> Result<Vec<Queue>, Problem> {
    let all = || (0..count).map(|_| Queue::open(&tunnel.name)).collect();
    let opened: std::io::Result<Vec<Queue>> = all();
    let opened = match (opened, found.filter(|link| is_ours(link))) {
        // Made in a way that does not suit: ours are made anew.
        (Err(error), Some(link)) if is_unsuited(&error) => {
            conversation
                .delete_link(link.index)
                .map_err(|error| Problem::Refused {
                    device: tunnel.name.clone(),
                    error,
                })?;
            all()
        }
        (opened, _) => opened,
    };
    opened.map_err(|source| Problem::Tun {
        device: tunnel.name.clone(),
        source,
    })
}

/// Whether it is the device that keeps its queues from being opened.
fn is_unsuited(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidInput, ResourceBusy};
    matches!(error.kind(), InvalidInput | ResourceBusy)
}

fn is_ours(link: &Link) -> bool {
    link.alias.as_deref() == Some(mark::TUNNEL_ALIAS) && link.kind.as_deref() == Some(KIND)
}

/// Removes such devices that are not wanted any more: to be called when no route leads there.
///
/// # Errors
/// A failure of the conversation.
pub fn clear(
    conversation: &mut Conversation,
    wanted: Option<&UdpTunnel>,
    report: &mut Report,
) -> Result<(), rtnl::Error> {
    for link in conversation.links()? {
        if !is_ours(&link) || wanted.is_some_and(|tunnel| *tunnel.name == *link.name) {
            continue;
        }
        match conversation.delete_link(link.index) {
            Ok(()) => report.writes += 1,
            Err(error) if error.is_absent() => {}
            Err(error) => report.problems.push(Problem::Refused {
                device: link.name.into(),
                error,
            }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[test]
    fn only_a_device_that_does_not_suit_is_made_anew() {
        // EBUSY, EINVAL.
        for unsuited in [16, 22] {
            assert!(is_unsuited(&Error::from_raw_os_error(unsuited)));
        }
        // EPERM, ENOENT, EINTR, ENOMEM, EACCES, ENODEV, ENFILE, EMFILE.
        for beside in [1, 2, 4, 12, 13, 19, 23, 24] {
            assert!(!is_unsuited(&Error::from_raw_os_error(beside)));
        }
    }
}
