//! `sysctl`: settings of the pod's network namespace, as the plugin tuning takes them.

use serde_json::Value;

use super::fields::{Fields, invalid, text};
use super::{Error, InterfaceName};

/// Stands for the interface's name, as in the plugin tuning.
const INTERFACE: &str = "IFNAME";

/// A setting of the pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    key: Vec<String>,
    /// The value as it is written.
    pub value: String,
}

impl Sysctl {
    /// The file under `/proc/sys`, with the interface's name put in.
    pub fn path(&self, interface: &InterfaceName) -> String {
        let parts: Vec<&str> = self
            .key
            .iter()
            .map(|part| match part.as_str() {
                INTERFACE => interface.as_str(),
                part => part,
            })
            .collect();
        parts.join("/")
    }
}

pub(super) fn sysctls(path: &str, section: Option<&Value>) -> Result<Vec<Sysctl>, Error> {
    let Some(section) = section else {
        return Ok(Vec::new());
    };
    Fields::of(path, section)?;
    let mut sysctls = Vec::new();
    for (key, value) in section.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        let value = text(&path, value)?;
        if value.is_empty() || value.len() > 1024 || value.chars().any(char::is_control) {
            return Err(invalid(&path, "is no value of a setting"));
        }
        // A device's name may hold dots; then the key is written with slashes.
        let separator = if key.contains('/') { '/' } else { '.' };
        let parts: Vec<String> = key.split(separator).map(str::to_owned).collect();
        let is_part = |part: &String| {
            let known = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            !part.is_empty() && part != "." && part != ".." && part.chars().all(known)
        };
        if parts.len() < 3 || parts[0] != "net" || !parts.iter().all(is_part) {
            return Err(invalid(
                &path,
                "is not a setting of a network namespace, such as net.ipv4.ip_unprivileged_port_start",
            ));
        }
        sysctls.push(Sysctl {
            key: parts,
            value: value.to_owned(),
        });
    }
    Ok(sysctls)
}
