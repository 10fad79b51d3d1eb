//! Programs in containers on a client's streams: a new one (exec), or the container's own
//! (attach).
//!
//! When the client is gone its program loses its streams, and what is left of its process group
//! is killed: the lab leaves nothing behind that nobody can see. The container's own program
//! goes on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use weft_netlab::process;

use super::channels::{self, Ends, PROTOCOLS};
use super::handshake::{Agreed, agree};
use super::{Body, Refusal};
use crate::kubelet::sandbox;
use crate::kubelet::shim::{Answer, Connection, Request as Question, Session};
use weft_proto::kubelet::{PodName, Streams};

/// What runs.
#[derive(Debug)]
pub(super) enum Program {
    /// A program of the client's: with its arguments.
    Own(Vec<String>),
    /// The container's own.
    First,
}

/// Answers exec and attach.
pub(super) async fn answer(
    request: &mut Request<Incoming>,
    pod: &PodName,
    container: String,
    streams: Streams,
    program: Program,
) -> Result<Response<Body>, Refusal> {
    let folder = sandbox::folder(&pod.namespace, &pod.name);
    let session = open(&folder, &container).await?;
    let (response, protocol, upgrade) = agree(request, &PROTOCOLS)?.into_parts();
    tokio::spawn(async move {
        let socket = match Agreed::socket(upgrade).await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, "a stream did not begin");
                return;
            }
        };
        match program {
            Program::Own(command) => {
                let started = Started::exec(session, &container, streams, command).await;
                exec(socket, protocol, started).await;
            }
            Program::First => {
                let joined = Started::join(session, &container, streams).await;
                attach(socket, protocol, joined, folder, container).await;
            }
        }
    });
    Ok(response)
}

/// A line to the shim of a pod in which the container runs.
async fn open(folder: &Path, container: &str) -> Result<Session, Refusal> {
    let mut session = Session::open(folder).map_err(|_| Refusal::no_container(container))?;
    match session.ask(Question::Status, &[]).await {
        Ok((Answer::Containers(all), _))
            if all
                .iter()
                .any(|one| one.name == container && one.ended.is_none()) =>
        {
            Ok(session)
        }
        Ok(_) => Err(Refusal::no_container(container)),
        Err(error) => Err(Refusal::internal(error)),
    }
}

/// A program whose streams we have.
struct Started {
    session: Session,
    ends: Ends,
    command: Vec<String>,
}

impl Started {
    async fn exec(
        mut session: Session,
        container: &str,
        streams: Streams,
        command: Vec<String>,
    ) -> io::Result<Self> {
        let (ends, theirs) = if streams.terminal {
            let question = Question::Terminal {
                container: container.to_owned(),
            };
            let (_, descriptors) = refused(session.ask(question, &[]).await)?;
            terminal(descriptors, streams)?
        } else {
            pipes(streams)?
        };
        let question = Question::Attach {
            container: container.to_owned(),
            argv: command.clone(),
            terminal: streams.terminal,
        };
        let lent: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
        session.send(question, &lent).await?;
        Ok(Started {
            session,
            ends,
            command,
        })
    }

    async fn join(mut session: Session, container: &str, streams: Streams) -> io::Result<Self> {
        let (output, output_end) = process::pipe()?;
        let (errors, errors_end) = process::pipe()?;
        let question = Question::Join {
            container: container.to_owned(),
            input: streams.input,
        };
        let lent = [output_end.as_fd(), errors_end.as_fd()];
        let (answer, mut given) = refused(session.ask(question, &lent).await)?;
        let on_terminal = matches!(answer, Answer::Joined { terminal: true });
        let given = given.pop();
        let terminal = match &given {
            Some(given) if on_terminal => Some(given.try_clone()?),
            Some(_) | None => None,
        };
        let input = match given.filter(|_| streams.input) {
            Some(given) => Some(channels::writer(given)?),
            None => None,
        };
        // What is not wanted is closed here, and forgotten there at the next write.
        let wanted = |pipe: OwnedFd, wanted: bool| wanted.then(|| channels::reader(pipe));
        Ok(Started {
            session,
            ends: Ends {
                input,
                output: wanted(output, streams.output).transpose()?,
                errors: wanted(errors, streams.errors).transpose()?,
                terminal,
            },
            command: Vec::new(),
        })
    }
}

/// An answer that is a refusal as an error.
fn refused(answer: io::Result<(Answer, Vec<OwnedFd>)>) -> io::Result<(Answer, Vec<OwnedFd>)> {
    match answer {
        Ok((Answer::Refused(reason), _)) => Err(io::Error::other(reason)),
        other => other,
    }
}

/// Our ends of a terminal, and the program's.
fn terminal(descriptors: Vec<OwnedFd>, streams: Streams) -> io::Result<(Ends, Vec<OwnedFd>)> {
    let [ours, theirs] = <[OwnedFd; 2]>::try_from(descriptors)
        .map_err(|_| io::Error::other("the pod's shim gave no terminal"))?;
    let input = streams.input.then(|| ours.try_clone()).transpose()?;
    let ends = Ends {
        input: input.map(channels::writer).transpose()?,
        terminal: Some(ours.try_clone()?),
        // Read also where nobody wants it: a full terminal would hold the program back.
        output: Some(channels::reader(ours)?),
        errors: None,
    };
    Ok((ends, vec![theirs.try_clone()?, theirs.try_clone()?, theirs]))
}

/// Our ends of three pipes, and the program's.
fn pipes(streams: Streams) -> io::Result<(Ends, Vec<OwnedFd>)> {
    let mut ends = Ends::default();
    let mut theirs: Vec<OwnedFd> = Vec::with_capacity(3);
    if streams.input {
        let (end, ours) = process::pipe()?;
        ends.input = Some(channels::writer(ours)?);
        theirs.push(end);
    } else {
        theirs.push(File::open("/dev/null")?.into());
    }
    for (wanted, ours) in [
        (streams.output, &mut ends.output),
        (streams.errors, &mut ends.errors),
    ] {
        if wanted {
            let (pipe, end) = process::pipe()?;
            *ours = Some(channels::reader(pipe)?);
            theirs.push(end);
        } else {
            theirs.push(File::options().write(true).open("/dev/null")?.into());
        }
    }
    Ok((ends, theirs))
}

async fn exec(socket: super::handshake::Socket, protocol: &str, started: io::Result<Started>) {
    let (ends, exit) = match started {
        Ok(started) => (started.ends, Ok((started.session, started.command))),
        Err(error) => (Ends::default(), Err(error)),
    };
    let status = async {
        let (mut session, command) = match exit {
            Ok(started) => started,
            Err(error) => return failure(&error.to_string()),
        };
        match session.answer().await {
            Ok((Answer::Executed { code: 0, .. }, _)) => success(),
            Ok((Answer::Executed { code, .. }, _)) => nonzero(code, &command),
            Ok((Answer::Refused(reason), _)) => failure(&reason),
            Ok(_) => failure("the pod's shim answers something else"),
            Err(error) => failure(&error.to_string()),
        }
    };
    channels::carry(socket, protocol, ends, async || {}, status).await;
}

async fn attach(
    socket: super::handshake::Socket,
    protocol: &str,
    joined: io::Result<Started>,
    folder: PathBuf,
    container: String,
) {
    let (ends, session) = match joined {
        Ok(joined) => (joined.ends, Ok(Mutex::new(joined.session))),
        Err(error) => (Ends::default(), Err(error)),
    };
    let status = async {
        match &session {
            // The outputs end with the container, and then all is said.
            Ok(_) => ended(&folder, &container).await,
            Err(error) => failure(&error.to_string()),
        }
    };
    let closed = async || {
        if let Ok(session) = &session {
            let question = Question::CloseInput {
                container: container.clone(),
            };
            // A shim that is gone has closed everything.
            let _gone = session.lock().await.send(question, &[]).await;
        }
    };
    channels::carry(socket, protocol, ends, closed, status).await;
}

/// Waits for the container's end, or its pod's.
async fn ended(folder: &Path, container: &str) -> Value {
    let Ok((connection, mut events)) = Connection::open(folder) else {
        return success();
    };
    // It may have ended before anybody listened.
    let running = match connection.ask(Question::Status).await {
        Ok(Answer::Containers(all)) => all
            .iter()
            .any(|one| one.name == container && one.ended.is_none()),
        Ok(_) | Err(_) => false,
    };
    if running {
        while let Some(state) = events.recv().await {
            if state.name == container {
                break;
            }
        }
    }
    success()
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn nonzero(code: i32, command: &[String]) -> Value {
    let command = command.join(" ");
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: error executing command [{command}], exit code {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn failure(why: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: error executing command in container: {why}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": format!("error executing command in container: {why}")}]},
        "code": 500,
    })
}
