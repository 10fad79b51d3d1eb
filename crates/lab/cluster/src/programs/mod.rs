//! weft's own small image programs, for pods that need something to talk to.

mod http;

use std::io;
use std::net::{IpAddr, SocketAddr};

use http::{Reply, Request};

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such program.
    #[error("there is no program {0:?}; there are: echo, serve-hostname, agnhost, pause")]
    Unknown(String),
    /// Its arguments.
    #[error("program {program}: {reason}")]
    Arguments {
        /// Which.
        program: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The kernel refused.
    #[error("program {program}: cannot {action}")]
    System {
        /// Which.
        program: &'static str,
        /// What was tried.
        action: &'static str,
        /// The answer.
        source: io::Error,
    },
}

/// Runs a program until a SIGTERM or SIGINT; what it is answering then, it answers to the end.
///
/// # Errors
/// [`Error`].
pub fn run(name: &str, args: &[String]) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System {
            program: "weft program",
            action: "start",
            source,
        })?;
    runtime.block_on(async {
        match name {
            "echo" => http::serve("echo", port("echo", args, 8080)?, echo).await,
            "serve-hostname" => {
                let port = port("serve-hostname", args, 9376)?;
                http::serve("serve-hostname", port, serve_hostname).await
            }
            "pause" => pause().await,
            "agnhost" => agnhost(args).await,
            other => Err(Error::Unknown(other.to_owned())),
        }
    })
}

async fn agnhost(args: &[String]) -> Result<(), Error> {
    let rest = args.get(1..).unwrap_or_default();
    match args.first().map(String::as_str) {
        None | Some("pause") => pause().await,
        Some("serve-hostname") => {
            http::serve("agnhost", port("agnhost", rest, 9376)?, serve_hostname).await
        }
        Some("netexec") => http::serve("agnhost", port("agnhost", rest, 8080)?, netexec).await,
        Some(other) => Err(Error::Arguments {
            program: "agnhost",
            reason: format!("{other:?} is not one of pause, serve-hostname, netexec"),
        }),
    }
}

async fn pause() -> Result<(), Error> {
    http::ended("pause").await
}

/// The port to listen on: `--port N`, `--http-port N` (also with `=`), or a bare number. Flags
/// that change nothing here are passed over.
fn port(program: &'static str, args: &[String], default: u16) -> Result<u16, Error> {
    let mut args = args.iter();
    let mut port = default;
    while let Some(argument) = args.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let text = match name {
            "--port" | "--http-port" => value.or_else(|| args.next().cloned()),
            other if other.chars().all(|c| c.is_ascii_digit()) => Some(other.to_owned()),
            _ => continue,
        };
        let text = text.unwrap_or_default();
        port = text.parse().map_err(|_| Error::Arguments {
            program,
            reason: format!("{text:?} is not a port from 1 to 65535"),
        })?;
    }
    Ok(port)
}

fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// An address as people know it: an IPv4 client of a dual-stack socket is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn serve_hostname(_: &Request) -> Reply {
    Reply::text(hostname())
}

/// Who answers, and who asked.
fn echo(request: &Request) -> Reply {
    let pod = variable("POD_NAME").unwrap_or_else(hostname);
    let mut lines = vec![format!("pod: {pod}")];
    if let Some(namespace) = variable("POD_NAMESPACE") {
        lines.push(format!("namespace: {namespace}"));
    }
    if let Some(node) = variable("NODE_NAME") {
        lines.push(format!("node: {node}"));
    }
    let addresses: Vec<String> = own_addresses(request)
        .iter()
        .map(IpAddr::to_string)
        .collect();
    lines.push(format!("addresses: {}", addresses.join(" ")));
    lines.push(format!("client: {}", canonical(request.client)));
    lines.push(format!("request: {} {}", request.method, request.path));
    Reply::text(lines.join("\n") + "\n")
}

/// The addresses that the pod has: what Kubernetes says (`POD_IPS`), else the one asked.
fn own_addresses(request: &Request) -> Vec<IpAddr> {
    let told: Vec<IpAddr> = variable("POD_IPS")
        .or_else(|| variable("POD_IP"))
        .unwrap_or_default()
        .split(',')
        .filter_map(|text| text.trim().parse().ok())
        .collect();
    if told.is_empty() {
        vec![canonical(request.server).ip()]
    } else {
        told
    }
}

/// The part of agnhost's netexec that network tests ask most.
fn netexec(request: &Request) -> Reply {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    match path {
        "/" => Reply::text(format!("NOW: {}", jiff::Timestamp::now())),
        "/hostname" | "/hostName" => Reply::text(hostname()),
        "/clientip" => Reply::text(canonical(request.client).to_string()),
        "/healthz" | "/readyz" => Reply::text(String::new()),
        "/echo" => {
            let message = query.split('&').find_map(|pair| pair.strip_prefix("msg="));
            Reply::text(message.unwrap_or_default().to_owned())
        }
        _ => Reply::not_found(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_in_several_forms() {
        let args = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        for (given, expected) in [
            (args(&[]), 1),
            (args(&["--http-port=8080", "--udp-port=-1"]), 8080),
            (args(&["--port", "9000"]), 9000),
            (args(&["7"]), 7),
        ] {
            assert_eq!(port("echo", &given, 1).unwrap(), expected, "{given:?}");
        }
        assert!(port("echo", &args(&["--port=x"]), 1).is_err());
    }

    #[test]
    fn an_unknown_program_names_those_there_are() {
        let error = run("nothing", &[]).unwrap_err().to_string();
        assert!(error.contains("serve-hostname"), "{error}");
    }
}
