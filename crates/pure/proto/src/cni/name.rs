//! Names that become file and device names, so they are checked once, here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A name that breaks its rules; says which.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {rule}")]
pub struct InvalidName {
    text: String,
    rule: &'static str,
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                match $check(&text) {
                    Ok(()) => Ok(Self(text)),
                    Err(rule) => Err(InvalidName { text, rule }),
                }
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidName;

            fn try_from(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_name! {
    /// `CNI_CONTAINERID`: a letter or digit, then letters, digits, `_`, `.` and `-`,
    /// at most 200 bytes (it is part of a file's name, and those end at 255).
    ContainerId, check_identifier
}
checked_name! {
    /// `name` of a network configuration; the rules of [`ContainerId`].
    NetworkName, check_identifier
}
checked_name! {
    /// `CNI_IFNAME`: 1 to 15 bytes, no `/`, `:` or white space, not `.`, `..` or `lo`.
    InterfaceName, check_interface
}

fn check_identifier(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        Err("is empty")
    } else if bytes.len() > 200 {
        Err("is longer than 200 bytes")
    } else if !bytes[0].is_ascii_alphanumeric() {
        Err("must start with a letter or a digit")
    } else if !bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
    {
        Err("may hold only letters, digits, '_', '.' and '-'")
    } else {
        Ok(())
    }
}

// The specification's rules and those of dev_valid_name() in net/core/dev.c.
fn check_interface(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        Err("is empty")
    } else if text.len() > 15 {
        Err("is longer than 15 bytes, the kernel's limit for a device's name")
    } else if text == "." || text == ".." {
        Err("is not a device's name")
    } else if text == "lo" {
        Err("is the loopback device, which every namespace has already")
    } else if text
        .chars()
        .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
    {
        Err("may not hold '/', ':', white space or control characters")
    } else {
        Ok(())
    }
}

/// One interface of one container in one network: what ADD makes and DEL removes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentKey {
    /// `CNI_CONTAINERID`.
    pub container: ContainerId,
    /// `CNI_IFNAME`.
    pub interface: InterfaceName,
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.interface)
    }
}
