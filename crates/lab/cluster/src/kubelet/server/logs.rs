//! Containers' logs, from their files in the format of the Container Runtime Interface.
//!
//! As in Kubernetes only the newest file of a container is read, and whoever follows it goes on
//! in the next one when it is set aside.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use weft_kube::k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use weft_kube::kube::Api;

use super::{Body, Refusal};
use crate::kubelet::shim::{Answer, Connection, Events, Request};
use crate::kubelet::{Shared, sandbox};
use weft_proto::kubelet::{LogOptions, PodName};

/// How much of a file is read at once.
const PIECE: usize = 64 * 1024;
/// How many pieces may wait for a client that does not read.
const WAITING: usize = 4;

/// Answers a request for a log.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    name: &PodName,
    container: &str,
    options: LogOptions,
) -> Result<Response<Body>, Refusal> {
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), &name.namespace);
    let pod = api
        .get_opt(&name.name)
        .await
        .map_err(Refusal::internal)?
        .ok_or_else(|| {
            let text = format!("pod {:?} not found", name.name);
            Refusal::new(StatusCode::NOT_FOUND, text)
        })?;
    let folder = folder(&pod, name, container);
    let log = choose(&pod, name, container, options.previous, &folder)?;
    let running = if options.follow {
        Running::watch(name, container, &log).await
    } else {
        None
    };
    let (pieces, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let reader = match Reader::open(log, options) {
            Ok(reader) => reader,
            Err(error) => {
                tracing::debug!(%error, "a log is not there");
                return;
            }
        };
        if let Err(error) = reader.run(&pieces, running).await {
            tracing::debug!(%error, "a log's reading ended");
        }
    });
    let frames = stream::unfold(receiver, |mut receiver| async {
        let piece: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// Where the logs of a container are.
fn folder(pod: &Pod, name: &PodName, container: &str) -> PathBuf {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    PathBuf::from(format!(
        "/var/log/pods/{}_{}_{uid}/{container}",
        name.namespace, name.name
    ))
}

/// The log file that a request means; refused in the kubelet's words where there is none.
fn choose(
    pod: &Pod,
    name: &PodName,
    container: &str,
    previous: bool,
    folder: &Path,
) -> Result<PathBuf, Refusal> {
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
    let pod_name = &name.name;
    let status = pod.status.as_ref();
    let statuses = |list: fn(
        &weft_kube::k8s_openapi::api::core::v1::PodStatus,
    ) -> &Option<Vec<ContainerStatus>>| {
        status
            .and_then(|status| list(status).as_ref())
            .into_iter()
            .flatten()
    };
    let status = statuses(|status| &status.container_statuses)
        .chain(statuses(|status| &status.init_container_statuses))
        .find(|status| status.name == container)
        .ok_or_else(|| {
            bad(format!(
                "container {container:?} in pod {pod_name:?} is not available"
            ))
        })?;
    let attempts = attempts(folder);
    let state = status.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let has_last = status
        .last_state
        .as_ref()
        .is_some_and(|state| state.terminated.is_some());
    // Of a container that waits for its next start, the newest log is that of its last run.
    let back = usize::from(previous && waiting.is_none());
    if previous && !has_last {
        return Err(bad(format!(
            "previous terminated container {container:?} in pod {pod_name:?} not found"
        )));
    }
    if let Some(waiting) = waiting
        && !has_last
    {
        let reason = match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" => "image can't be pulled".to_owned(),
            "ImagePullBackOff" => "trying and failing to pull image".to_owned(),
            reason => reason.to_owned(),
        };
        return Err(bad(format!(
            "container {container:?} in pod {pod_name:?} is waiting to start: {reason}"
        )));
    }
    let attempt = attempts
        .len()
        .checked_sub(1 + back)
        .and_then(|index| attempts.get(index));
    match attempt {
        Some(attempt) => Ok(folder.join(format!("{attempt}.log"))),
        None if previous => Err(bad(format!(
            "previous terminated container {container:?} in pod {pod_name:?} not found"
        ))),
        None => Err(bad(format!(
            "container {container:?} in pod {pod_name:?} is terminated"
        ))),
    }
}

/// The runs of a container that have a log, the newest last.
fn attempts(folder: &Path) -> Vec<u32> {
    let mut attempts: Vec<u32> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_suffix(".log")?.parse().ok()
        })
        .collect();
    attempts.sort_unstable();
    attempts
}

/// Tells when a log may have grown, and when its container has ended.
struct Running {
    changes: pipe::Receiver,
    events: Events,
    /// Keeps the events coming.
    _connection: Connection,
    container: String,
    attempt: u32,
}

impl Running {
    /// `None` when the run that the log is of has ended.
    async fn watch(name: &PodName, container: &str, log: &Path) -> Option<Self> {
        let attempt = log.file_stem()?.to_str()?.parse().ok()?;
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&inotify, log.parent()?, flags).ok()?;
        let changes = crate::kubelet::waitable(inotify).ok()?;
        let folder = sandbox::folder(&name.namespace, &name.name);
        let (connection, events) = Connection::open(&folder).ok()?;
        let Ok(Answer::Containers(all)) = connection.ask(Request::Status).await else {
            return None;
        };
        let runs = all
            .iter()
            .any(|one| one.name == container && one.attempt == attempt && one.ended.is_none());
        runs.then(|| Running {
            changes,
            events,
            _connection: connection,
            container: container.to_owned(),
            attempt,
        })
    }

    /// Waits for a change. Returns whether the container still runs.
    async fn changed(&mut self) -> bool {
        let mut buffer = [0_u8; 4096];
        loop {
            tokio::select! {
                ready = self.changes.readable() => match ready.and_then(|()| self.changes.try_read(&mut buffer)) {
                    Ok(_) => return true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return false,
                },
                event = self.events.recv() => match event {
                    Some(state) if state.name == self.container && state.attempt == self.attempt => return false,
                    Some(_) => {}
                    None => return false,
                },
            }
        }
    }
}

/// A client that does not read any more, or has enough.
#[derive(Debug)]
enum End {
    Enough,
    Failed(io::Error),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Enough => f.write_str("the client has enough"),
            End::Failed(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        End::Failed(error)
    }
}

/// Reads a log.
struct Reader {
    path: PathBuf,
    file: File,
    options: LogOptions,
    /// The beginning of a line whose end was not there yet.
    rest: Vec<u8>,
    /// Whether the last line went on.
    partial: bool,
    left: Option<u64>,
}

impl Reader {
    fn open(path: PathBuf, options: LogOptions) -> io::Result<Self> {
        let mut file = File::open(&path)?;
        if let Some(lines) = options.tail {
            let start = tail(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Reader {
            path,
            file,
            left: options.limit,
            options,
            rest: Vec::new(),
            partial: false,
        })
    }

    async fn run(
        mut self,
        pieces: &mpsc::Sender<Bytes>,
        mut running: Option<Running>,
    ) -> Result<(), End> {
        loop {
            self.read(pieces).await?;
            if self.next_file()? {
                continue;
            }
            let Some(watch) = &mut running else {
                return Ok(());
            };
            let alive = tokio::select! {
                alive = watch.changed() => alive,
                () = pieces.closed() => return Err(End::Enough),
            };
            if !alive {
                // What it said at last.
                running = None;
            }
        }
    }

    /// Everything that is in the file now.
    async fn read(&mut self, pieces: &mpsc::Sender<Bytes>) -> Result<(), End> {
        let mut buffer = vec![0; PIECE];
        loop {
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.rest.extend_from_slice(&buffer[..count]);
            let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
                continue;
            };
            let rest = self.rest.split_off(end + 1);
            let lines = std::mem::replace(&mut self.rest, rest);
            let mut out = self.show(&lines);
            if let Some(left) = &mut self.left {
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                out.truncate(most);
                *left -= out.len() as u64;
            }
            if !out.is_empty() && pieces.send(out.into()).await.is_err() {
                return Err(End::Enough);
            }
            if self.left == Some(0) {
                return Err(End::Enough);
            }
        }
    }

    /// The lines as they were said.
    fn show(&mut self, lines: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(lines.len());
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let Some(line) = Line::parse(line) else {
                continue;
            };
            if self
                .options
                .stream
                .is_some_and(|wanted| wanted.as_bytes() != line.stream)
            {
                continue;
            }
            if let Some(since) = self.options.since
                && line.time().is_none_or(|time| time < since)
            {
                continue;
            }
            if self.options.timestamps && !self.partial {
                out.extend_from_slice(line.stamp);
                out.push(b' ');
            }
            out.extend_from_slice(line.text);
            self.partial = line.partial;
            if !line.partial {
                out.push(b'\n');
            }
        }
        out
    }

    /// Goes on in the file after this one, where it has been set aside. Files that came and went
    /// meanwhile are passed over.
    fn next_file(&mut self) -> io::Result<bool> {
        let own = self.file.metadata()?.ino();
        let newest = match std::fs::metadata(&self.path) {
            Ok(newest) => newest.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if newest == own {
            return Ok(false);
        }
        // It may have got its last lines before it was set aside.
        if self.file.stream_position()? < self.file.metadata()?.len() {
            return Ok(true);
        }
        let aside = super::super::shim::set_aside(&self.path);
        let position = aside
            .iter()
            .position(|path| std::fs::metadata(path).is_ok_and(|about| about.ino() == own));
        let next = position
            .and_then(|position| aside.get(position + 1))
            .unwrap_or(&self.path);
        self.file = File::open(next)?;
        Ok(true)
    }
}

/// Where the last `lines` lines begin.
fn tail(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut left = lines;
    let mut buffer = vec![0; PIECE];
    let whole = end;
    while end > 0 {
        let count = usize::try_from(end).unwrap_or(PIECE).min(PIECE);
        let start = end - count as u64;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut buffer[..count])?;
        for at in (0..count).rev() {
            // The newline at the very end ends the last line.
            if buffer[at] == b'\n' && start + at as u64 + 1 != whole {
                left -= 1;
                if left == 0 {
                    return Ok(start + at as u64 + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// A line of a log file.
struct Line<'a> {
    stamp: &'a [u8],
    stream: &'a [u8],
    partial: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (stamp, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Line {
            stamp,
            stream,
            partial: tag == b"P",
            text: parts.next().unwrap_or_default(),
        })
    }

    fn time(&self) -> Option<jiff::Timestamp> {
        std::str::from_utf8(self.stamp).ok()?.parse().ok()
    }
}
