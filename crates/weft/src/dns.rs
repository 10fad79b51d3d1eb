//! `weft dns`: the cluster's DNS. Watches the API, compiles names, serves them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use futures::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinError;
use tracing::{debug, info, warn};
use weft_compile::{DnsCompiler, DnsSettings};
use weft_desired::DomainName;
use weft_kube::{Access, Interest, Update};
use weft_serve::ListenAddress;
use weft_serve::dns::{PodNames, Records, Server, Settings, nameservers};
use weft_serve::health::{self, Health};

use crate::problems::Problems;

/// UDP threads at most, if not told otherwise: clients share the machine.
const MOST_THREADS: usize = 4;
/// How many updates are taken before the records are brought up to date, if that many wait.
const LARGEST_BATCH: usize = 4096;

/// How long the server waits for the API before it answers with what it knows. Until it
/// listens, what is sent to its port is for the other server of its pod.
const SYNC_PATIENCE: Duration = Duration::from_secs(30);

/// Answers DNS queries for the cluster's Services, and asks others for the rest.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  weft dns                                     in a pod, as deploy/weft.yaml starts it
  weft dns --kubeconfig ~/.kube/config --listen 127.0.0.1:5353 --upstream 192.0.2.53
  dig @127.0.0.1 -p 5353 kubernetes.default.svc.cluster.local")]
pub(crate) struct DnsArgs {
    /// The cluster's domain.
    #[arg(long, default_value = "cluster.local", value_parser = zone)]
    zone: DomainName,
    /// Where to listen, UDP and TCP: `:53` is all addresses of both families. Can be repeated.
    #[arg(long, default_value = ":53")]
    listen: Vec<ListenAddress>,
    /// Other servers on this machine may listen at the same port if they say so too: while
    /// one starts again the others answer.
    #[arg(long)]
    share_port: bool,
    /// Where `/health` is answered; 200 while the process lives.
    #[arg(long, default_value = ":8080")]
    health: ListenAddress,
    /// Where `/ready` is answered; 200 once all Services are known.
    #[arg(long, default_value = ":8181")]
    ready: ListenAddress,
    /// How many seconds clients may keep an answer.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=3600))]
    ttl: u32,
    /// A kubeconfig; without one the pod's service account is used.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The API's URL, instead of what the kubeconfig or the pod's environment says.
    #[arg(long)]
    server: Option<String>,
    /// Who is asked for other names, an address or address and port. Can be repeated;
    /// without it the servers of `--resolv-conf`.
    #[arg(long, value_parser = upstream)]
    upstream: Vec<SocketAddr>,
    /// Where upstream servers are read from.
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// UDP threads; without it one for each core, at most 4.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// After SIGTERM, how many seconds queries are still answered if they do not stop before.
    #[arg(long, default_value_t = 5)]
    lameduck: u32,
}

fn zone(text: &str) -> Result<DomainName> {
    let zone = DomainName::parse(text)?;
    anyhow::ensure!(!zone.as_str().is_empty(), "the root can't be the cluster's");
    Ok(zone)
}

fn upstream(text: &str) -> Result<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, 53).into());
    }
    text.parse()
        .with_context(|| format!("{text:?} is no address like 192.0.2.53 or [2001:db8::53]:53"))
}

/// Runs until SIGTERM.
pub(crate) fn run(args: DnsArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the DNS server's event loop")?;
    runtime.block_on(serve(args))?;
    // What still waits for other servers is not waited for.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: DnsArgs) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let own_addresses =
        weft_sys::udp::local_addresses().context("the addresses of this machine's interfaces")?;
    let upstreams = upstreams(&args, &own_addresses)?;

    let records = Records::new(&args.zone, args.ttl)
        .with_context(|| format!("the zone {}: its name server's name", args.zone))?;
    let records = Arc::new(records);
    let settings = Settings {
        listen: args.listen.clone(),
        share_port: args.share_port,
        threads: threads(args.threads),
        upstreams,
        pod_names: PodNames::Insecure,
        lameduck: Duration::from_secs(args.lameduck.into()),
    };
    let health = Health::default();
    for address in BTreeSet::from([args.health.to_string(), args.ready.to_string()]) {
        let address: ListenAddress = address.parse()?;
        let listener = health::listen(address).with_context(|| {
            format!("can't listen at {address} for health checks; is the port in use?")
        })?;
        tokio::spawn(health::serve(listener, health.clone()));
    }
    if settings.upstreams.is_empty() {
        warn!("no upstream server: names outside of the cluster are refused");
    }

    let access = Access {
        kubeconfig: args.kubeconfig,
        server: args.server,
    };
    let client = weft_kube::connect(&access, "weft").await?;
    let (tell_synced, mut synced) = watch::channel(false);
    let feeder = Feeder {
        compiler: DnsCompiler::new(DnsSettings {
            zone: args.zone.clone(),
            ttl: args.ttl,
            own_addresses: reachable(own_addresses),
        }),
        records: records.clone(),
        synced: tell_synced,
        problems: Problems::default(),
        started: Instant::now(),
    };
    let mut feeding = tokio::spawn(feeder.run(client));
    tokio::select! {
        _ = synced.wait_for(|synced| *synced) => {}
        () = tokio::time::sleep(SYNC_PATIENCE) => {
            warn!("the API does not tell all Services: answering what is known, and other names");
        }
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        ended = &mut feeding => return Err(ended_watch(ended)),
    }
    let server = Server::bind(&settings, records)?;
    info!(
        zone = %args.zone,
        addresses = ?server.addresses(),
        threads = settings.threads,
        upstreams = ?settings.upstreams,
        "DNS server started"
    );
    let announced = async {
        if synced.wait_for(|synced| *synced).await.is_ok() {
            health.set_ready(true);
        }
        std::future::pending::<()>().await;
    };
    let mut failure = None;
    let shutdown = async {
        tokio::select! {
            () = announced => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            ended = &mut feeding => failure = Some(ended),
        }
        info!("ending: answering until nobody asks any more");
        health.set_ready(false);
    };
    server.run(shutdown).await?;
    info!("DNS server ended");
    match failure {
        None => Ok(()),
        Some(ended) => Err(ended_watch(ended)),
    }
}

/// Why the watch, which has no end, ended.
fn ended_watch(ended: Result<(), JoinError>) -> anyhow::Error {
    ended
        .err()
        .map_or_else(
            || anyhow::anyhow!("the API's stream of changes ended"),
            anyhow::Error::from,
        )
        .context("watching the API")
}

fn threads(wanted: Option<u16>) -> usize {
    wanted.map_or_else(
        || std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_THREADS)),
        usize::from,
    )
}

/// The servers for other names. One that would be this very server is left out: it would
/// ask itself without end.
fn upstreams(args: &DnsArgs, own: &BTreeSet<IpAddr>) -> Result<Vec<SocketAddr>> {
    let named = if args.upstream.is_empty() {
        from_file(&args.resolv_conf)?
    } else {
        args.upstream.clone()
    };
    let ports: BTreeSet<u16> = args
        .listen
        .iter()
        .map(|address| match address {
            ListenAddress::All(port) => *port,
            ListenAddress::One(address) => address.port(),
        })
        .collect();
    let (own, others): (Vec<_>, Vec<_>) = named
        .into_iter()
        .partition(|server| own.contains(&server.ip()) && ports.contains(&server.port()));
    for server in own {
        warn!(%server, "an upstream server is this one itself; it is not asked");
    }
    Ok(others)
}

fn from_file(path: &Path) -> Result<Vec<SocketAddr>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(nameservers(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| {
            format!(
                "upstream servers from {}; name them by --upstream",
                path.display()
            )
        }),
    }
}

/// Addresses at which others reach this server: what an endpoint can have.
fn reachable(addresses: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    addresses
        .into_iter()
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        })
        .collect()
}

/// Brings what the API says into the records.
struct Feeder {
    compiler: DnsCompiler,
    records: Arc<Records>,
    /// Told when all Services are known.
    synced: watch::Sender<bool>,
    problems: Problems,
    started: Instant,
}

impl Feeder {
    async fn run(mut self, client: weft_kube::Client) {
        let names: Vec<DomainName> = self.compiler.names().cloned().collect();
        self.publish(names);
        let interest = Interest {
            services: true,
            endpoint_slices: true,
            endpoint_names: true,
            namespaces: true,
            ..Interest::default()
        };
        let mut updates = weft_kube::watch(&client, &interest).ready_chunks(LARGEST_BATCH);
        while let Some(batch) = updates.next().await {
            self.take(batch);
        }
    }

    fn take(&mut self, batch: Vec<Update>) {
        let mut changes = Vec::with_capacity(batch.len());
        let mut complete = false;
        for update in batch {
            match update {
                Update::Change(change) => changes.push(change),
                Update::Happened(_) => {}
                Update::InSync(kind) => debug!(%kind, "in sync"),
                Update::AllInSync => complete = true,
                Update::Interrupted(kind, error) => {
                    warn!(%kind, %error, "the watch broke and is tried again; what is known is answered");
                }
            }
        }
        let touched = self.compiler.apply_all(changes);
        if !touched.is_empty() {
            self.publish(touched);
        }
        self.problems.report(self.compiler.problems());
        if complete {
            self.records.set_in_sync();
            self.synced.send_replace(true);
            info!(
                names = self.compiler.names().count(),
                after_ms = self.started.elapsed().as_millis(),
                "all Services are known"
            );
        }
    }

    fn publish(&mut self, names: impl IntoIterator<Item = DomainName>) {
        for name in names {
            let records = self.compiler.records(&name).map(|entry| entry.value);
            if let Err(error) = self.records.set(&name, records.as_ref()) {
                warn!(%name, %error, "a name can't be answered");
            }
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // Serials are 32-bit numbers that wrap around (RFC 1982).
        self.records
            .set_serial((now.as_secs() & u64::from(u32::MAX)) as u32);
    }
}
