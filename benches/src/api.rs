//! The lab's API server with 10,000 Services and their EndpointSlices, beside Debian's etcd and the
//! disk's own limit.
//!
//! The clients are a Go program (`benches/api`). What writes and watches in it speaks HTTP/2 by
//! itself, over TLS and the same few lines for each server: Go's own client took more processor
//! time than the servers, so that it measured itself.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use weft_netlab::Namespace;
use weft_netlab::process::{Child, Spawn};

use crate::memory::Memory;
use crate::report::{Report, Samples, Unit};

/// Of all clients of one program together. The writer whose write is watched has one of its own.
const CONNECTIONS: u32 = 10;
/// Writers at once, and bytes of what each writes.
const WRITERS: [u32; 2] = [1, 64];
const VALUE: usize = 1024;
/// How long writing lasts in one member of a pair.
const WRITING: Duration = Duration::from_secs(1);
/// Writes in one member of a pair that reach all watchers.
const FANOUTS: u32 = 50;
const LISTS: u32 = 20;
const RESTARTS: u32 = 5;
const PEER: &str = "etcd (Debian)";

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Services, and EndpointSlices of ten endpoints.
    pub(crate) services: u32,
    pub(crate) watchers: u32,
    pub(crate) pairs: usize,
}

/// A server under measurement; dropped, it is killed.
pub(crate) struct Server(Child);

impl Server {
    fn pid(&self) -> anyhow::Result<u32> {
        Ok(u32::try_from(self.0.id())?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A port that is free at this moment.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// What weft's API server and its clients are started with.
pub(crate) struct Api<'a> {
    weft: &'a Path,
    program: &'a Path,
    folder: PathBuf,
    /// Outlives the server: clients wait in it.
    listener: TcpListener,
    address: SocketAddr,
    namespace: Option<&'a Namespace>,
}

impl<'a> Api<'a> {
    /// On the loopback address of a namespace, or of the machine.
    pub(crate) fn new(
        weft: &'a Path,
        program: &'a Path,
        folder: &Path,
        namespace: Option<&'a Namespace>,
    ) -> anyhow::Result<Self> {
        let listener = match namespace {
            Some(namespace) => namespace.run(|| TcpListener::bind("127.0.0.1:0"))??,
            None => TcpListener::bind("127.0.0.1:0")?,
        };
        Ok(Api {
            weft,
            program,
            folder: folder.to_owned(),
            address: listener.local_addr()?,
            listener,
            namespace,
        })
    }

    /// Runs a client to its end.
    pub(crate) fn run(&self, command: &str, flags: &[&str]) -> anyhow::Result<Value> {
        run(self.client(command)?.args(flags))
    }

    pub(crate) fn start(&self) -> anyhow::Result<Server> {
        let log = File::create(self.folder.join("apiserver.log"))?;
        let child = Spawn::new(self.weft)
            .args(["internal", "apiserver", "--cluster-domain", "cluster.local"])
            .args(["--service-cidr", "10.96.0.0/12"])
            .args(["--listen-fd", "3"])
            .arg("--pki")
            .arg(self.folder.join("pki"))
            .arg("--store")
            .arg(self.folder.join("store.redb"))
            .descriptor(File::open("/dev/null")?, 0)
            .descriptor(log.try_clone()?, 1)
            .descriptor(log, 2)
            .descriptor(self.listener.try_clone()?, 3)
            .dies_with_parent()
            .spawn()?;
        Ok(Server(child))
    }

    fn client(&self, command: &str) -> anyhow::Result<Command> {
        let mut client = match self.namespace {
            Some(namespace) => namespace.command(self.program)?,
            None => Command::new(self.program),
        };
        client
            .arg(command)
            .arg(format!("-url=https://{}", self.address))
            .arg(format!("-pki={}", self.folder.join("pki").display()))
            .arg(format!("-connections={CONNECTIONS}"));
        Ok(client)
    }

    /// Waits until the server answers with what it has.
    pub(crate) fn ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.folder.join("pki/ca.crt").exists() {
            if Instant::now() > deadline {
                bail!("the API server does not start");
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.run("ready", &[]).map(drop)
    }
}

/// An etcd that its clients reach as they reach weft: over TLS, with certificates of one authority.
fn etcd(api: &Api<'_>, port: u16, peer_port: u16) -> anyhow::Result<Server> {
    let folder = &api.folder;
    let pki = folder.join("pki");
    let certificate = folder.join("etcd.pem");
    run(Command::new(api.program)
        .arg("certificate")
        .arg(format!("-pki={}", pki.display()))
        .arg(format!("-file={}", certificate.display())))?;
    let url = format!("https://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let child = Spawn::new("/usr/bin/etcd")
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--listen-client-urls", &url])
        .args(["--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(["--log-level", "error", "--client-cert-auth"])
        .arg("--cert-file")
        .arg(&certificate)
        .arg("--key-file")
        .arg(&certificate)
        .arg("--trusted-ca-file")
        .arg(pki.join("ca.crt"))
        .descriptor(null.try_clone()?, 0)
        .descriptor(null.try_clone()?, 1)
        .descriptor(null, 2)
        .dies_with_parent()
        .spawn()?;
    Ok(Server(child))
}

fn run(command: &mut Command) -> anyhow::Result<Value> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    if output.stdout.is_empty() {
        return Ok(Value::Null);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn seconds(told: &Value, of: &str) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for value in told[of].as_array().context("no times")? {
        samples.push(value.as_f64().context("a time is no number")?);
    }
    Ok(samples)
}

pub(crate) fn measure(weft: &Path, sizes: Sizes, report: &mut Report) -> anyhow::Result<()> {
    let Sizes {
        services, pairs, ..
    } = sizes;
    report.section(&format!(
        "the API ({services} Services, {services} EndpointSlices of 10 endpoints)"
    ));
    let Some(program) = build()? else {
        report.note("no Go toolchain for the clients: left out");
        return Ok(());
    };
    // Not on a tmpfs: a sync of one costs nothing.
    let folder = tempfile::Builder::new().tempdir_in("target")?;
    let api = Api::new(weft, &program, folder.path(), None)?;
    let server = filled(&api, services, report)?;
    let server = restarts(&api, server, report)?;
    let port = free_port()?;
    let peer = match etcd(&api, port, free_port()?) {
        Ok(peer) => Some(peer),
        Err(error) => {
            report.note(&format!(
                "no etcd beside it ({error}): Debian's package is etcd-server"
            ));
            None
        }
    };
    let etcd = peer.is_some().then(|| {
        vec![
            format!("-etcd=127.0.0.1:{port}"),
            format!("-pki={}", api.folder.join("pki").display()),
            format!("-connections={CONNECTIONS}"),
        ]
    });
    let minimal = Minimal::start(&api)?;
    report.note(
        "writes: each client has one on its way; \"the disk\" is threads that write records of as many \
         bytes, one sync for all that wait; others are reached over TLS and HTTP/2, 10 connections",
    );
    for writers in WRITERS {
        writes(&api, etcd.as_deref(), &minimal, writers, pairs, report)?;
    }
    drop(minimal);
    fanouts(&api, etcd.as_deref(), sizes, report)?;
    let memory = Memory::of(server.pid()?)?;
    report.value(
        "resident memory after it all",
        Unit::Kibibytes,
        memory.resident() as f64,
    );
    Ok(())
}

/// A server with so many of each, and what they cost.
fn filled(api: &Api<'_>, services: u32, report: &mut Report) -> anyhow::Result<Server> {
    let server = api.start()?;
    api.ready()?;
    let began = Instant::now();
    run(api
        .client("fill")?
        .args([format!("-count={services}"), "-clients=64".to_owned()]))?;
    let created = f64::from(2 * services) / began.elapsed().as_secs_f64();
    report.value("objects created", Unit::Rate("per second"), created);
    lists(api, report)?;
    let memory = Memory::of(server.pid()?)?;
    report.value("resident memory", Unit::Kibibytes, memory.resident() as f64);
    for (what, name) in [
        ("the store's file", "store.redb"),
        ("one of the two parts of its log", "store.redb.log0"),
    ] {
        let file = fs::metadata(api.folder.join(name))?.len();
        report.value(what, Unit::Kibibytes, file as f64 / 1024.0);
    }
    Ok(server)
}

fn restarts(api: &Api<'_>, server: Server, report: &mut Report) -> anyhow::Result<Server> {
    let mut server = server;
    let mut restarts = Samples::default();
    for _ in 0..RESTARTS {
        drop(server);
        let started = Instant::now();
        server = api.start()?;
        api.ready()?;
        restarts.push_time(started.elapsed());
    }
    report.spread("kill -9, start, first answer", Unit::Seconds, &restarts);
    Ok(server)
}

/// The program of the clients; `None` without Go.
pub(crate) fn build() -> anyhow::Result<Option<PathBuf>> {
    let program = std::env::current_dir()?.join("target/bench-api");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir("benches/api")
        .status();
    match built {
        Ok(status) if status.success() => Ok(Some(program)),
        Ok(status) => bail!("go build of benches/api: {status}"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn lists(api: &Api<'_>, report: &mut Report) -> anyhow::Result<()> {
    for (what, path) in [
        ("Services", "/api/v1/services"),
        ("EndpointSlices", "/apis/discovery.k8s.io/v1/endpointslices"),
    ] {
        for limit in [0, 500] {
            let told = run(api.client("list")?.args([
                format!("-path={path}"),
                format!("-count={LISTS}"),
                format!("-limit={limit}"),
            ]))?;
            let mebibytes = told["bytes"].as_f64().unwrap_or_default() / f64::from(1 << 20);
            let how = match limit {
                0 => "at once".to_owned(),
                limit => format!("in pages of {limit}"),
            };
            report.spread(
                &format!("list of {what} {how} ({mebibytes:.1} MiB)"),
                Unit::Seconds,
                &seconds(&told, "seconds")?,
            );
        }
    }
    Ok(())
}

/// A server that only puts what it is sent into a file, with group commit: what HTTP, TLS and the
/// client alone cost.
struct Minimal {
    // Ends with its input.
    server: std::process::Child,
    url: String,
}

impl Minimal {
    fn start(api: &Api<'_>) -> anyhow::Result<Self> {
        let mut server = Command::new(api.program)
            .arg("minimal")
            .arg(format!("-pki={}", api.folder.join("pki").display()))
            .arg(format!("-file={}", api.folder.join("minimal").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        let output = server.stdout.take().context("it has no output")?;
        BufReader::new(output).read_line(&mut address)?;
        Ok(Self {
            server,
            url: format!("https://{}", address.trim()),
        })
    }
}

impl Drop for Minimal {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}

/// Durable writes of so many clients at once, beside etcd, beside the disk, and beside a server
/// that does nothing else.
fn writes(
    api: &Api<'_>,
    etcd: Option<&[String]>,
    minimal: &Minimal,
    writers: u32,
    pairs: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let flags = [
        format!("-clients={writers}"),
        format!("-size={VALUE}"),
        format!("-duration={}ms", WRITING.as_millis()),
    ];
    let rate = |told: Value| told["rate"].as_f64().context("no rate");
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let (mut disk, mut ready) = (Samples::default(), Samples::default());
    let mut least = Samples::default();
    for _ in 0..pairs {
        ours.push(rate(run(api.client("put")?.args(&flags))?)?);
        if let Some(etcd) = etcd {
            theirs.push(rate(run(Command::new(api.program)
                .arg("put")
                .args(etcd)
                .args(&flags))?)?);
        }
        disk.push(synced(&api.folder, writers, Room::Growing)?);
        ready.push(synced(&api.folder, writers, Room::Prepared)?);
        let mut client = api.client("put")?;
        // The last one counts.
        client.arg(format!("-url={}", minimal.url)).args(&flags);
        least.push(rate(run(&mut client)?)?);
    }
    let unit = Unit::Rate("per second");
    let name = format!("durable writes of 1 KiB by {writers} at once");
    if etcd.is_some() {
        report.pairs(&name, unit, &ours, PEER, &theirs);
    }
    report.pairs(&name, unit, &ours, "the disk, group commit", &disk);
    let peer = "the disk, group commit into prepared room";
    report.pairs(&name, unit, &ours, peer, &ready);
    let peer = "a server that only writes and syncs";
    report.pairs(&name, unit, &ours, peer, &least);
    Ok(())
}

/// What waits for the disk, and how far it has come.
#[derive(Default)]
struct Queue {
    waiting: Vec<u8>,
    /// Records that wait, and those that are on the disk, by number.
    next: u64,
    done: u64,
    syncing: bool,
}

/// Where records are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Behind the end of a file, so that each sync brings the file's metadata along.
    Growing,
    /// Over what was written before, as weft's own log does, from the beginning again at its end.
    Prepared,
}

/// How long prepared room is, in bytes.
const PREPARED: u64 = 4 << 20;

/// Records a second that so many writers can bring to the disk. Each waits until its record is
/// there before it has the next one; all that wait share one write and one sync.
fn synced(folder: &Path, writers: u32, room: Room) -> anyhow::Result<f64> {
    let path = folder.join("synced");
    let mut file = File::create(&path)?;
    if room == Room::Prepared {
        file.write_all(&vec![0; PREPARED as usize])?;
        file.sync_all()?;
        file.rewind()?;
    }
    let queue = Mutex::new(Queue::default());
    let moved = Condvar::new();
    let started = Instant::now();
    let counts: Vec<std::io::Result<u64>> = thread::scope(|scope| {
        let all: Vec<_> = (0..writers)
            .map(|_| scope.spawn(|| write_on(&file, room, &queue, &moved, started + WRITING)))
            .collect();
        all.into_iter()
            .map(|one| one.join().unwrap_or(Err(std::io::ErrorKind::Other.into())))
            .collect()
    });
    let mut sum = 0;
    for count in counts {
        sum += count?;
    }
    fs::remove_file(path)?;
    Ok(sum as f64 / started.elapsed().as_secs_f64())
}

/// One writer: one record after the other, each on the disk before the next.
fn write_on(
    mut file: &File,
    room: Room,
    queue: &Mutex<Queue>,
    moved: &Condvar,
    end: Instant,
) -> std::io::Result<u64> {
    let lock = || -> MutexGuard<'_, Queue> { queue.lock().unwrap_or_else(PoisonError::into_inner) };
    let record = [b'x'; VALUE];
    let mut count = 0;
    while Instant::now() < end {
        let mut queued = lock();
        queued.waiting.extend_from_slice(&record);
        queued.next += 1;
        let own = queued.next;
        while queued.done < own {
            if queued.syncing {
                queued = moved.wait(queued).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queued.syncing = true;
            let batch = std::mem::take(&mut queued.waiting);
            let last = queued.next;
            drop(queued);
            let beyond = |at: u64| at + batch.len() as u64 > PREPARED;
            let placed = match room {
                Room::Growing => Ok(()),
                Room::Prepared => file.stream_position().and_then(|at| match beyond(at) {
                    true => file.rewind(),
                    false => Ok(()),
                }),
            };
            let written = placed
                .and_then(|()| file.write_all(&batch))
                .and_then(|()| file.sync_data());
            queued = lock();
            queued.syncing = false;
            queued.done = last;
            moved.notify_all();
            written?;
        }
        drop(queued);
        count += 1;
    }
    Ok(count)
}

/// One write, told to all watchers.
fn fanouts(
    api: &Api<'_>,
    etcd: Option<&[String]>,
    sizes: Sizes,
    report: &mut Report,
) -> anyhow::Result<()> {
    let flags = [
        format!("-clients={}", sizes.watchers),
        format!("-count={FANOUTS}"),
        format!("-size={VALUE}"),
    ];
    let (mut ours, mut theirs) = (Fanouts::default(), Fanouts::default());
    for _ in 0..sizes.pairs.min(10) {
        ours.add(&run(api.client("fanout")?.args(&flags))?)?;
        if let Some(etcd) = etcd {
            let mut client = Command::new(api.program);
            theirs.add(&run(client.arg("fanout").args(etcd).args(&flags))?)?;
        }
    }
    let name = format!(
        "from a write to {} watchers of {CONNECTIONS} connections",
        sizes.watchers
    );
    let part = |samples: &Samples, share| 1e3 * samples.percentile(share);
    if etcd.is_some() {
        let (all, every) = ((&ours.medians, &ours.all), (&theirs.medians, &theirs.all));
        report.compare(&name, Unit::Seconds, all, PEER, every);
        for (whose, fanouts) in [("weft", &ours), (PEER, &theirs)] {
            report.note(&format!(
                "  {whose}: the writer was answered after {:.1} ms (p99 {:.1}); the clients took {:.0} ms of processors",
                part(&fanouts.acknowledged, 0.5),
                part(&fanouts.acknowledged, 0.99),
                part(&fanouts.processor, 0.5),
            ));
        }
    } else {
        report.spread(&name, Unit::Seconds, &ours.all);
    }
    Ok(())
}

/// What members of pairs have told.
#[derive(Debug, Default)]
struct Fanouts {
    medians: Samples,
    all: Samples,
    /// Until the writer is answered, its part of the whole.
    acknowledged: Samples,
    /// Of the clients, in seconds for each write.
    processor: Samples,
}

impl Fanouts {
    fn add(&mut self, told: &Value) -> anyhow::Result<()> {
        let times = seconds(told, "seconds")?;
        self.acknowledged.extend(&seconds(told, "acknowledged")?);
        self.medians.push(times.median());
        self.all.extend(&times);
        let processor = told["cpu"].as_f64().context("no processor time")?;
        self.processor.push(processor);
        Ok(())
    }
}
