//! The CNI plugin: what runs when `CNI_COMMAND` is set.
//!
//! One process, no threads but a short one (that works while the kernel sees a link out), no
//! runtime, no argument parser: an ADD is a few files and three netlink conversations.
//!
//! Order of an ADD: the addresses, the record that names them, the kernel; and a DEL goes the
//! other way. So whatever stands in the kernel has a record, whatever is reserved has a record or
//! names its owner itself, and any step can be the last one a process lived to do.

mod add;
mod bandwidth;
mod chained;
mod check;
mod collect;
mod del;
mod gate;
mod host_port;
mod link;
pub mod live;
mod loopback;
mod node;
pub mod pod_rules;
mod status;
mod sysctl;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use weft_compile::attachment;
use weft_desired::{PodLink, PodLinkKey};
use weft_model::ObjectKey;
use weft_nodestate::{Attachment, Attachments, PoolError, RecordError, digest};
use weft_proto::cni::{
    AttachmentKey, Code, Environment, Error, Refusal, Request, Version, version_answer,
};
use weft_sys::{memory, namespace};

/// Bytes: no configuration comes near it, and a runtime gone mad ends here.
const LONGEST_CONFIGURATION: u64 = 4 << 20;

/// Serves one request: environment and standard input to standard output.
pub fn run() -> ExitCode {
    memory::share_one_arena();
    let (text, code) = match answer() {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(refusal) => {
            note(&refusal.error);
            (refusal.error.to_json(refusal.version), ExitCode::FAILURE)
        }
    };
    if text.is_empty() {
        return code;
    }
    let mut output = io::stdout().lock();
    match writeln!(output, "{text}").and_then(|()| output.flush()) {
        Ok(()) => code,
        // Nobody reads the answer any more; the runtime will call DEL.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Removes everything a record stands for, as DEL does.
///
/// # Errors
/// [`Error`]: what is left, and why; DEL can be tried again.
pub fn detach(records: &Attachments, record: &Attachment) -> Result<(), Error> {
    del::undo(records, record)
}

fn answer() -> Result<String, Refusal> {
    let newest = |error| Refusal {
        version: Version::NEWEST,
        error,
    };
    let environment = Environment::read(|name| std::env::var_os(name)).map_err(newest)?;
    let request = Request::parse(&environment, &read_input().map_err(newest)?)?;
    for remark in request.remarks() {
        note(&format_args!("network configuration: {remark}"));
    }
    let version = request.version();
    match &request {
        Request::Version(version) => Ok(version_answer(*version)),
        Request::Add(attach) => add::add(attach).map(|result| result.to_json(version)),
        Request::Loopback(request) => loopback::answer(request),
        Request::Del(detach) => del::del(detach).map(|()| String::new()),
        Request::Check(attach) => check::check(attach).map(|()| String::new()),
        Request::Gc(collect) => collect::gc(collect).map(|()| String::new()),
        Request::Status(status) => status::status(status).map(|()| String::new()),
    }
    .map_err(|error| Refusal { version, error })
}

fn read_input() -> Result<Vec<u8>, Error> {
    let mut input = Vec::new();
    io::stdin()
        .lock()
        .take(LONGEST_CONFIGURATION + 1)
        .read_to_end(&mut input)
        .map_err(|source| {
            Error::new(
                Code::Io,
                format!("standard input: cannot read the network configuration: {source}"),
            )
        })?;
    if input.len() as u64 > LONGEST_CONFIGURATION {
        return Err(Error::new(
            Code::Decode,
            format!("standard input: more than {LONGEST_CONFIGURATION} bytes of configuration"),
        ));
    }
    Ok(input)
}

/// What a record says, as `compile` wants it.
fn facts(record: &Attachment) -> attachment::Attachment {
    attachment::Attachment {
        key: link_key(&record.key),
        digest: digest(&record.key),
        pod: record
            .pod
            .as_ref()
            .map(|pod| ObjectKey::new(&pod.namespace, &pod.name)),
        mtu: record.mtu,
        addresses: record.addresses.clone(),
        node_addresses: record.node_addresses.clone(),
        mac: record.mac,
        routes: record.routes.clone(),
        bridge: record.bridge.as_ref().map(|bridge| attachment::Place {
            network: Arc::from(record.network.as_str()),
            name: Arc::from(bridge.name.as_str()),
            gateways: bridge.gateways.clone(),
            isolated: bridge.isolated,
        }),
    }
}

fn compiled(record: &Attachment) -> PodLink {
    attachment::attachment(&facts(record)).link.1.value
}

fn link_key(key: &AttachmentKey) -> PodLinkKey {
    PodLinkKey {
        container: Arc::from(key.container.as_str()),
        interface: Arc::from(key.interface.as_str()),
    }
}

/// The pod's namespace, which must not be the one the node's links are in.
fn open_namespace(path: &str) -> Result<OwnedFd, Error> {
    let namespace = namespace::open(path).map_err(|error| {
        if let namespace::Error::Open { source, .. } = &error
            && source.kind() == io::ErrorKind::NotFound
        {
            return Error::new(
                Code::UnknownContainer,
                format!("CNI_NETNS: there is no network namespace {path}"),
            )
            .with_details("the container ended before it was attached");
        }
        Error::new(
            Code::InvalidEnvironment,
            format!("CNI_NETNS: {}", chain(&error)),
        )
    })?;
    let same = || -> io::Result<bool> {
        let own = namespace::current_net().map_err(io::Error::other)?;
        Ok(namespace::identity(own.as_fd())? == namespace::identity(namespace.as_fd())?)
    };
    match same() {
        Ok(false) => Ok(namespace),
        Ok(true) => Err(Error::new(
            Code::InvalidEnvironment,
            format!("CNI_NETNS: {path} is the node's own network namespace"),
        )
        .with_details("a pod on the host network is not attached")),
        Err(source) => Err(Error::new(
            Code::InvalidEnvironment,
            format!("CNI_NETNS: cannot examine {path}: {source}"),
        )),
    }
}

fn pool_error(error: &PoolError) -> Error {
    match error {
        PoolError::Io { .. } | PoolError::Unrecorded(_) => Error::new(Code::Io, error.to_string()),
        PoolError::Taken { .. } => Error::new(Code::TryAgain, error.to_string())
            .with_details("try again when its owner has ended, or ask for another address"),
        PoolError::Exhausted { .. } => Error::new(Code::TryAgain, error.to_string()).with_details(
            "try again when a pod of this node has ended, or give the node a larger range",
        ),
    }
}

fn record_error(error: &RecordError) -> Error {
    Error::new(Code::Io, error.to_string())
}

/// An error with everything that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some of our messages hold their cause already.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// One line for the runtime's log.
fn note(what: &dyn std::fmt::Display) {
    // A runtime that closed the stream does not want it.
    let _ = writeln!(io::stderr(), "weft cni: {what}");
}
