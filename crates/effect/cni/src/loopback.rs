//! weft as the plugin `loopback`: a runtime calls it for the device `lo` of each pod.

use std::os::fd::AsFd;

use weft_proto::cni::{Code, Command, Error, Loopback};
use weft_sys::rtnl::{Conversation, Link};

use super::{chain, open_namespace};

/// The text for standard output.
pub(super) fn answer(request: &Loopback) -> Result<String, Error> {
    let netns = request.netns.as_deref().unwrap_or_default();
    match request.command {
        Command::Add => {
            let (mut inside, link) = device(netns)?;
            inside
                .set_up(link.index)
                .map_err(|error| failed("switch lo on", netns, &error))?;
            Ok(request.answer().to_json(request.version))
        }
        Command::Check => match device(netns)? {
            (_, link) if link.up => Ok(String::new()),
            _ => Err(Error::new(
                Code::CheckFailed,
                format!("lo in {netns} is down"),
            )),
        },
        // The device goes with its namespace.
        Command::Del | Command::Gc | Command::Status | Command::Version => Ok(String::new()),
    }
}

fn device(netns: &str) -> Result<(Conversation, Link), Error> {
    let namespace = open_namespace(netns)?;
    let failed = |error| failed("look at lo", netns, &error);
    let mut inside = Conversation::in_namespace(namespace.as_fd()).map_err(failed)?;
    let link = inside.link_by_name("lo").map_err(failed)?;
    Ok((inside, link))
}

fn failed(what: &str, netns: &str, error: &dyn std::error::Error) -> Error {
    Error::new(
        Code::Kernel,
        format!("cannot {what} in {netns}: {}", chain(error)),
    )
}
