//! A reservation's file, as host-local writes it.

use std::net::IpAddr;

use weft_proto::cni::{AttachmentKey, ContainerId, InterfaceName};

/// What host-local writes between container and interface.
const SEPARATOR: &str = "\r\n";

/// A file in a network's directory that is named by an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The address.
    pub address: IpAddr,
    /// Whose it is, or what the file holds instead.
    pub owner: Result<AttachmentKey, String>,
}

/// What an owner's reservations say, and those that were made with it.
pub(super) struct Content {
    pub(super) text: String,
    pub(super) reserved: Vec<IpAddr>,
}

impl Content {
    pub(super) fn of(owner: &AttachmentKey) -> Self {
        Self::of_text(owner_text(owner))
    }

    /// A reservation as another wrote it.
    pub(super) fn of_text(text: String) -> Self {
        Self {
            text,
            reserved: Vec::new(),
        }
    }
}

fn owner_text(owner: &AttachmentKey) -> String {
    format!("{}{SEPARATOR}{}", owner.container, owner.interface)
}

/// Old versions of host-local wrote the container alone.
pub(super) fn belongs_to(text: &str, owner: &AttachmentKey) -> bool {
    let text = text.trim();
    text == owner_text(owner) || text == owner.container.as_str()
}

pub(super) fn parse_owner(text: &str) -> Result<AttachmentKey, String> {
    let (container, interface) = text
        .trim()
        .split_once(SEPARATOR)
        .ok_or_else(|| format!("{text:?} is not a container and an interface"))?;
    Ok(AttachmentKey {
        container: ContainerId::try_from(container).map_err(|error| error.to_string())?,
        interface: InterfaceName::try_from(interface).map_err(|error| error.to_string())?,
    })
}
