//! The body of a fuzz target.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{AddResult, Environment, Request, Version, version_answer};

/// Reads `data` as a request and writes every answer to it. `data` is five variables,
/// each ended by a zero byte (command, container, interface, namespace, arguments),
/// then standard input. Must not panic, whatever `data` is.
pub fn exercise(data: &[u8]) {
    let mut parts = data.splitn(6, |byte| *byte == 0);
    let mut variables = Vec::new();
    for name in [
        "CNI_COMMAND",
        "CNI_CONTAINERID",
        "CNI_IFNAME",
        "CNI_NETNS",
        "CNI_ARGS",
    ] {
        let value = parts.next().unwrap_or_default();
        variables.push((name, OsString::from_vec(value.to_vec())));
    }
    let input = parts.next().unwrap_or_default();
    let lookup = |name: &str| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.clone())
    };
    let request = match Environment::read(lookup) {
        Ok(environment) => Request::parse(&environment, input),
        Err(error) => {
            error.to_json(Version::NEWEST);
            return;
        }
    };
    match request {
        Err(refusal) => {
            refusal.error.to_json(refusal.version);
        }
        Ok(Request::Add(attach) | Request::Check(attach)) => {
            if let Some(previous) = attach.previous {
                for version in Version::ALL {
                    previous.to_json(version);
                }
                let _ = previous.followed_by(AddResult::default());
            }
        }
        Ok(Request::Version(version)) => {
            version_answer(version);
        }
        Ok(Request::Loopback(loopback)) => {
            loopback.answer().to_json(loopback.version);
        }
        Ok(Request::Del(_) | Request::Gc(_) | Request::Status(_)) => {}
    }
}
