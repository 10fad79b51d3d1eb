//! The pod's own settings, with errors in the plugin's words.

use std::os::fd::BorrowedFd;

use weft_kernel::sysctl;
use weft_proto::cni::{Attach, Code, Error};

use super::chain;

/// Writes what the configuration says.
pub(super) fn apply(request: &Attach, pod: BorrowedFd<'_>) -> Result<(), Error> {
    for setting in &request.sysctls {
        let path = setting.path(&request.key.interface);
        sysctl::write_in(pod, &path, &setting.value)
            .map_err(|error| failed(request, &path, &error))?;
    }
    Ok(())
}

/// What differs, in words.
pub(super) fn verify(request: &Attach, pod: BorrowedFd<'_>) -> Result<Vec<String>, Error> {
    let mut differences = Vec::new();
    for setting in &request.sysctls {
        let path = setting.path(&request.key.interface);
        let now = sysctl::read_in(pod, &path).map_err(|error| failed(request, &path, &error))?;
        // The kernel prints a list with tabs, whatever it was written with.
        if !now.split_whitespace().eq(setting.value.split_whitespace()) {
            differences.push(format!(
                "setting {path} is {now:?}, not {:?}",
                setting.value
            ));
        }
    }
    Ok(differences)
}

fn failed(request: &Attach, path: &str, error: &sysctl::Error) -> Error {
    Error::new(
        Code::InvalidConfig,
        format!("sysctl: {path} of {}: {}", request.key, chain(error)),
    )
}
