//! Asks the agent of this node.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use super::told::{Question, Told};
use crate::output::{self, NotPermitted, NotThere};

/// An agent that is busy answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the agent says.
///
/// # Errors
/// [`NotThere`] if no agent answers.
pub(super) fn ask<T: DeserializeOwned>(socket: &Path, question: Question) -> Result<T> {
    let what = || format!("the agent at {}", socket.display());
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(NotThere(format!(
                "no agent answers at {}: is this a node, and does its agent run? On a node of a \
                 lab: weft lab exec node-1 -- weft fabric …",
                socket.display()
            ))
            .into());
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let text = format!("{}: only root may ask the agent", socket.display());
            return Err(NotPermitted(text).into());
        }
        Err(error) => return Err(error).with_context(what),
    };
    let patience = match question {
        // As long as it takes: seconds for each 32 nodes that do not answer.
        Question::Check => None,
        Question::State => Some(PATIENCE),
    };
    stream.set_read_timeout(patience).with_context(what)?;
    let line = serde_json::to_string(&question)? + "\n";
    stream.write_all(line.as_bytes()).with_context(what)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(what)?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} said {text:?}; is it of this version?", what()))
}

/// What the agent wants, if there is one: what the kernel holds can be shown without.
pub(super) fn wanted(socket: &Path) -> Result<Option<Told>> {
    match ask(socket, Question::State) {
        Ok(told) => Ok(Some(told)),
        Err(error) if error.is::<NotThere>() => {
            output::note(format!("{error:#}; what it wants is not known"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
