//! A reservation's file, as host-local writes it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_proto::cni::{AttachmentKey, ContainerId, InterfaceName};

use super::{PoolError, failed};
use crate::durable::{self, Durability};

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

/// The file reservations are links to; its own name goes when this is dropped.
pub(super) struct Content {
    pub(super) path: PathBuf,
}

impl Content {
    pub(super) fn write(directory: &Path, owner: &AttachmentKey) -> Result<Self, PoolError> {
        let name = format!("{}.{}", owner.container, owner.interface);
        Self::named(directory, &name, &owner_text(owner))
    }

    /// A reservation as another wrote it.
    pub(super) fn of_text(directory: &Path, text: &str) -> Result<Self, PoolError> {
        Self::named(directory, "adopted", text)
    }

    fn named(directory: &Path, name: &str, text: &str) -> Result<Self, PoolError> {
        let process = std::process::id();
        let path = directory.join(format!(".{process}.{name}"));
        durable::write_new(&path, text.as_bytes(), Durability::Process)
            .map_err(|source| failed("write", &path, source))?;
        Ok(Self { path })
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        // A name left behind has a dot in front and reserves nothing.
        let _ = fs::remove_file(&self.path);
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
