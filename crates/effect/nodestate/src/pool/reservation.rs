//! A reservation's file, as host-local writes it.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_proto::cni::{AttachmentKey, ContainerId, InterfaceName};

use crate::durable;

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

/// What an owner's reservations say. They are one file.
pub(super) struct Content {
    text: String,
    first: Option<PathBuf>,
}

impl Content {
    pub(super) fn of(owner: &AttachmentKey) -> Self {
        Self::of_text(owner_text(owner))
    }

    /// A reservation as another wrote it.
    pub(super) fn of_text(text: String) -> Self {
        Self { text, first: None }
    }

    /// Makes a reservation at a path that does not exist. Whoever has the lock may find it empty
    /// if the writer died.
    pub(super) fn put(&mut self, path: &Path) -> io::Result<()> {
        match &self.first {
            Some(first) => fs::hard_link(first, path),
            None => {
                durable::create(path, self.text.as_bytes())?;
                self.first = Some(path.to_owned());
                Ok(())
            }
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
