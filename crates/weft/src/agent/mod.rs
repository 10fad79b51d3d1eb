//! `weft agent`: one per node. Watches the API, compiles what this node must hold, and
//! makes the kernel hold it.

mod announcing;
mod arriving;
mod asked;
mod availability;
mod config;
mod datagrams;
pub(crate) mod etcd;
mod fabric;
mod fabric_watch;
mod forwarding;
mod gate;
mod held;
mod kernel;
pub(crate) mod lock;
mod network;
mod node_reports;
mod own_interface;
pub(crate) mod plugin;
mod pod_rules;
mod proxy;
mod reporting;
mod retry;
mod rule_changes;
mod self_test;
mod serving;
mod socket;
mod stale;
mod stood;
mod subnet_file;
mod ways;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use futures::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};
use weft_compile::fabric::ReachedAt;
use weft_compile::{Compiler, FabricBackend, Settings, Touched};
use weft_kube::{Access, Interest, NodeEvents, Pods, ServiceEvents, Update};
use weft_model::NodeName;
use weft_proto::cni::InterfaceName;
use weft_serve::health::Health;
use weft_serve::metrics::{BackEnd, Metrics, Sync};
use weft_serve::proxy_health::ProxyHealth;

use self::announcing::Announcing;
use self::arriving::{Arriving, Burst};
use self::asked::Asked;
use self::availability::Availability;
pub(crate) use self::config::cluster_ranges;
use self::config::{Config, Mode};
use self::fabric_watch::Unwritten;
use self::held::HeldPorts;
use self::kernel::{Kernel, Outcome};
use self::network::NetworkChanges;
use self::node_reports::NodeReports;
use self::plugin::{Directories, NodeNetwork};
use self::pod_rules::PodRules;
use self::reporting::Reporter;
use self::retry::{Extent, Failure, Retry};
use self::rule_changes::RuleChanges;
use self::self_test::SelfTest;
use self::subnet_file::SubnetFile;
use self::ways::Ways;
use crate::fabric::told::{self, Question, Told};
use crate::problems::Problems;

/// How often everything is read back from the kernel and compared, whether or not
/// anything changed: somebody else may have changed the kernel.
const AUDIT_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is looked whether the network configuration is there: without it no pod of
/// the node starts.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long an agent that was killed may still hold the tables: the kernel closes its
/// sockets a moment after the process is gone.
const ADOPTION_PATIENCE: Duration = Duration::from_secs(5);
/// How many changes are compiled before the kernel is written, if that many wait.
const LARGEST_BATCH: usize = 4096;

/// Programs this node: routes to other nodes' pods, Services, and what the CNI plugin needs.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  weft agent --config /etc/weft/config.yaml --node-name node-1
  weft agent --config config.yaml --kubeconfig ~/.kube/config --node-name node-1")]
pub(crate) struct AgentArgs {
    /// The configuration: `config.yaml` of the ConfigMap weft.
    #[arg(long, default_value = "/etc/weft/config.yaml")]
    config: PathBuf,
    /// flannel's configuration, if there is one (the ConfigMap kube-flannel-cfg); without, it is
    /// net-conf.json beside the other one, if that is there.
    #[arg(long, value_name = "FILE")]
    net_conf: Option<PathBuf>,
    /// This node's name in the API.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// A kubeconfig; without one the pod's service account is used.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The address that other nodes send to, if that is none of this node's own: one of a family.
    /// The annotation flannel.alpha.coreos.com/public-ip-overwrite comes before it.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    public_ip: Vec<IpAddr>,
    /// Where the container runtime looks for CNI plugins.
    #[arg(long, default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
    /// Where the container runtime looks for the network configuration.
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// What flannel writes of a node, for tools that read it; empty: nowhere.
    #[arg(
        long,
        default_value = "/run/flannel/subnet.env",
        value_parser = subnet_file::path_or_nothing()
    )]
    subnet_file: PathBuf,
    /// Where the CNI plugin asks whether a pod's policies are in force.
    #[arg(long, default_value = "/run/weft/gate.sock")]
    gate_socket: PathBuf,
    /// Where `weft fabric` asks what this agent wants.
    #[arg(long, default_value = told::SOCKET)]
    fabric_socket: PathBuf,
    /// Where two agents of one node meet, so that the second gives up.
    #[arg(long, default_value = "/run/weft/agent.lock")]
    lock: PathBuf,
}

/// Runs until SIGTERM. What the kernel holds stays in force afterwards.
pub(crate) fn run(args: AgentArgs) -> Result<ExitCode> {
    let _lock = lock::take(&args.lock)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the agent's event loop")?;
    runtime.block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: AgentArgs) -> Result<()> {
    let config = Config::read(&args.config, args.net_conf.as_deref())?;
    for field in &config.without_effect {
        warn!(field, "flannel's configuration: has no effect");
    }
    let node = NodeName::from(args.node_name.as_str());
    let ready = Health::default();
    let health = ProxyHealth::default();
    let metrics = Metrics::new(match config.mode {
        Mode::Nftables => BackEnd::Nftables,
        Mode::Iptables => BackEnd::Iptables,
    })?;
    if let Some(at) = config.proxy.healthz_address()? {
        let answering = serving::health(health.clone(), ready.clone(), metrics.clone());
        tokio::spawn(serving::serve("health", at, answering));
    }
    if let Some(at) = config.proxy.metrics_address()? {
        let answering = serving::metrics(config.mode.to_string(), metrics.clone());
        tokio::spawn(serving::serve("metrics", at, answering));
    }

    let directories = Directories {
        binaries: args.cni_bin_dir,
        configurations: args.cni_conf_dir,
    };
    // Before a plugin that may have other rules: it knows of its own pod alone, and those of an
    // earlier version would lack what the new rules look for.
    let mut pod_rules = PodRules::default();
    pod_rules.look();
    directories.install_binary()?;
    // Always there, so that pods that were to wait start when they no longer are.
    let gate = gate::listen(&args.gate_socket)?;
    tokio::spawn(gate::serve(gate, ready.clone()));
    let mut questions = asked::listen(&args.fabric_socket)?;
    let subnet_file = SubnetFile {
        path: args.subnet_file,
        networks: config.pod_cidrs.clone(),
        masquerades: true,
    };
    let ranges = [&*config.pod_cidrs, &config.service_cidrs].concat();
    let mut kernel = Kernel::adopt(
        &ranges,
        config.iptables(),
        config.proxy.ended(),
        metrics.forwarded_in_datagrams(),
        ADOPTION_PATIENCE,
    )
    .await?;
    kernel.count_bytes(config.nftables.count_bytes);
    kernel.be_reached_by(config.fabric.interface()?);
    let mut network = NetworkChanges::subscribe()?;
    let mut rules = RuleChanges::on(kernel.rule_changes()?)?;
    info!(%node, mode = %config.mode, "agent started");

    let access = Access {
        kubeconfig: args.kubeconfig,
        server: config.api_server(),
    };
    let client = weft_kube::connect(&access, "weft").await?;
    let interest = Interest {
        nodes: true,
        pods: Some(Pods::OnNode(node.clone())),
        services: true,
        endpoint_slices: true,
        endpoint_names: false,
        namespaces: false,
    };
    let proxy = config.proxy()?;
    let held = config.proxy.holds_node_ports().then(HeldPorts::default);
    let events = ServiceEvents::start(&client, "weft", &args.node_name);
    let settings = Settings {
        node: node.clone(),
        service_ranges: config.service_cidrs,
        proxy,
        fabric: config.fabric.settings()?,
    };
    let announcing = Announcing::new(client.clone(), settings.node.clone());
    let node_events = NodeEvents::start(&client, "weft", &node);
    let (self_test, mut news) = SelfTest::start(config.fabric.self_test_port());
    let mut agent = Agent {
        backend: settings.fabric.backend,
        node: node.clone(),
        announcing,
        public: args.public_ip,
        availability: Availability::new(client.clone(), node.clone()),
        node_reports: NodeReports::new(node.clone(), node_events.clone()),
        unwritten: Unwritten::default(),
        ways: Ways::new(node.clone(), node_events, metrics.clone()),
        self_test,
        metrics: metrics.clone(),
        compiler: Compiler::new(settings),
        kernel,
        held,
        directories,
        subnet_file,
        bridge: config.cni.bridge,
        gate: config.cni.wait_for_policy.then_some(args.gate_socket),
        in_sync: false,
        arriving: Arriving::default(),
        burst: Burst::default(),
        pending: Touched::default(),
        retry: Retry::default(),
        problems: Problems::default(),
        reporter: Reporter::new(health, metrics, node, events),
        ready,
    };

    // Without them tunnels that stand would be taken for unwanted.
    agent.compiler.set_uplinks(agent.kernel.uplinks()?);
    agent.look_at_addresses();
    let mut updates = Box::pin(weft_kube::watch(&client, &interest).ready_chunks(LARGEST_BATCH));
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut audit = tokio::time::interval(AUDIT_INTERVAL);
    audit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    audit.reset();
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let retry_at = agent.retry.at();
        tokio::select! {
            Some(batch) = updates.next() => agent.take(batch),
            () = until(retry_at) => agent.reconcile(Why::Retry),
            Some(asked) = questions.recv() => agent.answer(asked),
            Some(news) = news.recv() => agent.learn(news),
            changed = network.settled(|event| agent.kernel.is_news(event)) => {
                changed?;
                // What tunnels are like follows from them.
                agent.look_at_addresses();
                agent.repair_routes();
            }
            changed = rules.settled() => {
                changed?;
                if agent.repair_rules() {
                    rules.looked();
                }
            }
            _ = audit.tick() => {
                agent.look_at_addresses();
                agent.audit();
                pod_rules.audit();
            }
            _ = look.tick() => {
                agent.restore_configuration();
                agent.node_reports.tell(std::time::Instant::now());
                agent.ask_for_node_ports();
                // Where nothing tells of changes, and if a burst hid one.
                if !rules.rests() && agent.repair_rules() {
                    rules.looked();
                }
                pod_rules.look();
                if agent.burst.is_over() {
                    agent.tighten();
                }
            }
            _ = terminate.recv() => {
                info!("agent stops; what the kernel holds stays in force");
                return Ok(());
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Why everything is read back and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// All watches are in sync for the first time.
    Start,
    /// A write failed.
    Retry,
    /// It is time.
    Audit,
    /// Somebody else may have changed rules.
    Disturbed,
    /// Somebody took the network configuration away.
    ConfigurationGone,
}

impl Why {
    fn as_str(self) -> &'static str {
        match self {
            Why::Start => "start",
            Why::Retry => "retry",
            Why::Audit => "audit",
            Why::Disturbed => "rules changed",
            Why::ConfigurationGone => "network configuration gone",
        }
    }

    /// Whether what differs then was changed by somebody else.
    fn finds_damage(self) -> bool {
        match self {
            Why::Audit | Why::Disturbed => true,
            Why::Start | Why::Retry | Why::ConfigurationGone => false,
        }
    }
}

struct Agent {
    node: NodeName,
    compiler: Compiler,
    backend: FabricBackend,
    announcing: Announcing,
    /// Where other nodes send to, as a person says.
    public: Vec<IpAddr>,
    availability: Availability,
    node_reports: NodeReports,
    unwritten: Unwritten,
    self_test: SelfTest,
    ways: Ways,
    metrics: Metrics,
    kernel: Kernel,
    /// Sockets behind node ports, if there are to be any.
    held: Option<HeldPorts>,
    directories: Directories,
    subnet_file: SubnetFile,
    /// What pods are ports of, if they are to be.
    bridge: Option<InterfaceName>,
    /// Where ADD asks about policies, if it is to.
    gate: Option<PathBuf>,
    /// Whether all watches have reported everything once. Before that nothing is written:
    /// what the kernel holds is a better truth than half a cluster.
    in_sync: bool,
    arriving: Arriving,
    burst: Burst,
    pending: Touched,
    retry: Retry,
    problems: Problems,
    reporter: Reporter,
    ready: Health,
}

impl Agent {
    /// Compiles a batch of updates, then writes what they made different.
    fn take(&mut self, batch: Vec<Update>) {
        let mut first_sync = false;
        let mut changes = Vec::with_capacity(batch.len());
        for update in batch {
            match update {
                Update::Change(change) => changes.push(change),
                Update::Happened(at) => self.reporter.happened(at),
                Update::InSync(kind) => debug!(%kind, "watch in sync"),
                Update::AllInSync => first_sync = !self.in_sync,
                Update::Interrupted(kind, error) => {
                    warn!(%kind, error = %format!("{error:#}"), "watch interrupted; what is known stays in force");
                }
            }
        }
        self.reporter.arrived(&changes, Instant::now());
        let count = changes.len();
        let touched = self.compiler.apply_all(changes);
        match self.in_sync {
            true => {
                self.pending.merge(touched);
                self.burst.came(count);
            }
            // All of it is compared when all is there.
            false if self.arriving.grows_by(count) => self.compiler.tighten(),
            false => {}
        }
        if first_sync || self.in_sync {
            self.hold_node_ports();
        }
        if first_sync {
            self.in_sync = true;
            // The lists as they came from the API are gone: writing takes their room.
            self.compiler.tighten();
            weft_sys::memory::give_back();
            self.reconcile(Why::Start);
            weft_sys::memory::give_back();
        } else if self.in_sync && !self.pending.is_empty() {
            self.write_pending();
        } else if self.in_sync && !self.retry.holds_changes() {
            self.reporter.nothing_to_write();
        }
        self.report_problems();
    }

    /// Before their rules are written: a port that another program has gets none.
    fn hold_node_ports(&mut self) {
        let Some(held) = &mut self.held else {
            return;
        };
        let taken = held.hold(
            self.compiler.node_ports(),
            &self.compiler.desired().nat,
            &self.reporter.health_check_ports(),
            std::time::Instant::now(),
        );
        self.pending
            .merge(self.compiler.set_taken_node_ports(taken));
        self.reporter.taken(self.compiler.taken_node_ports());
    }

    /// Asks again for node ports that others had: those may have ended.
    fn ask_for_node_ports(&mut self) {
        if self.in_sync && self.held.as_ref().is_some_and(HeldPorts::lacks) {
            self.hold_node_ports();
            if !self.pending.is_empty() {
                self.write_pending();
            }
            self.report_problems();
        }
    }

    /// Tells who asks on the node.
    fn answer(&self, Asked { question, answer }: Asked) {
        let told = match question {
            Question::State => Told::new(&self.compiler, &self.node, fabric::name(self.backend)),
            Question::Check => return self.self_test.check(answer),
        };
        match serde_json::to_string(&told) {
            // Who asked may have gone.
            Ok(text) => drop(answer.send(text)),
            Err(error) => warn!(%error, "a question about the fabric is not answered"),
        }
    }

    fn report_problems(&mut self) {
        let problems = self.compiler.problems();
        self.reporter.problems(problems.len());
        self.node_reports
            .problems(&problems, std::time::Instant::now());
        self.problems.report(problems);
    }

    /// Writes only what is pending.
    fn write_pending(&mut self) {
        self.reporter.waits();
        self.follow_own_node();
        // A failed write leaves the kernel unknown: the retry reads all of it.
        if self.retry.holds_changes() {
            return;
        }
        let touched = std::mem::take(&mut self.pending);
        let began = Instant::now();
        let mut written = self.kernel.apply(self.compiler.desired(), &touched);
        if let Ok(outcome) = &written {
            let desired = self.compiler.desired();
            let took = began.elapsed();
            self.reporter.wrote_part(desired, &touched, outcome, took);
            self.report_unwritten(outcome);
        }
        if touched.own_node || touched.tunnels {
            written = written.map(|outcome| self.open_for_pods(outcome));
        }
        self.settle(written, "change", Extent::Part);
        if touched.own_node || touched.tunnels || !touched.routes.is_empty() {
            self.follow_ways();
        }
    }

    /// Reads everything back and repairs what differs.
    fn reconcile(&mut self, why: Why) {
        if !self.in_sync {
            return;
        }
        self.follow_own_node();
        // What could not be written before differs too, and nobody damaged it.
        let unwritten = !self.pending.is_empty() || self.retry.at().is_some();
        let repairs = why.finds_damage() && !unwritten;
        self.pending = Touched::default();
        let began = Instant::now();
        let written = self.kernel.reconcile(self.compiler.desired());
        if let Ok(outcome) = &written {
            let desired = self.compiler.desired();
            self.reporter.wrote_all(desired, outcome, began.elapsed());
            if outcome.writes > 0 {
                let (why, writes) = (why.as_str(), outcome.writes);
                if repairs {
                    warn!(why, writes, "somebody else changed the kernel: repaired");
                    self.reporter.repaired(why);
                } else {
                    info!(why, writes, "kernel brought to the desired state");
                }
            }
        }
        let written = written.map(|outcome| self.open_for_pods(outcome));
        self.settle(written, why.as_str(), Extent::Everything);
        self.follow_ways();
    }

    /// Looks after what others may have changed. Where the kernel tells that nobody has, its
    /// tables are not read.
    fn audit(&mut self) {
        if self.retry.at().is_some() || !self.pending.is_empty() || !self.in_sync {
            return self.reconcile(Why::Audit);
        }
        let written = self.kernel.audit(self.compiler.desired());
        if let Ok(outcome) = &written
            && outcome.writes > 0
        {
            let (why, writes) = (Why::Audit.as_str(), outcome.writes);
            warn!(why, writes, "somebody else changed the kernel: repaired");
            self.reporter.repaired(why);
        }
        let written = written.map(|outcome| self.open_for_pods(outcome));
        self.settle(written, "audit", Extent::Everything);
        self.follow_ways();
        self.tighten();
    }

    /// Gives back what changes left: those of nodes come one by one, where a cluster grows.
    fn tighten(&mut self) {
        self.compiler.tighten_nodes();
        weft_sys::memory::give_back();
    }

    /// After links, addresses or routes changed: the kernel takes routes away with what
    /// they led through, and does not bring them back. The MTU may be another one too.
    fn repair_routes(&mut self) {
        if self.in_sync && !self.retry.holds_changes() {
            let written = self.kernel.repair_routes(self.compiler.desired());
            if let Ok(outcome) = &written
                && outcome.writes > 0
            {
                info!(
                    writes = outcome.writes,
                    "routes to other nodes' pods repaired"
                );
                self.reporter.repaired("network change");
            }
            let written = written.map(|outcome| self.open_for_pods(outcome));
            self.settle(written, "network change", Extent::Part);
            self.follow_ways();
        }
    }

    /// Node ports answer at the node's own addresses, whatever those are now, and its networks
    /// are the ones that other nodes are reached by.
    fn look_at_addresses(&mut self) {
        match self.kernel.uplinks() {
            Ok(mut uplinks) => {
                uplinks.narrow = self.ways.narrow();
                let touched = self.compiler.set_uplinks(uplinks);
                self.pending.merge(touched);
            }
            Err(error) => warn!(error = %format!("{error:#}"), "tunnels stay as they are"),
        }
        match self.kernel.own_addresses() {
            Ok(addresses) => {
                let touched = self.compiler.set_own_addresses(addresses);
                self.pending.merge(touched);
            }
            Err(error) => warn!(error = %format!("{error:#}"), "node ports stay where they are"),
        }
        if self.in_sync {
            self.hold_node_ports();
        }
        if self.in_sync && !self.pending.is_empty() {
            self.write_pending();
        }
    }

    /// After a write: plans to try again, if anything could not be written.
    fn settle(&mut self, written: Result<Outcome>, why: &'static str, extent: Extent) {
        let (failure, error) = match written {
            Ok(outcome) => match outcome.problems.split_first() {
                None => return self.retry.succeeded(extent),
                Some((first, [])) => (Failure::Single, first.clone()),
                Some((first, rest)) => {
                    let error = format!("{first} (and {} more)", rest.len());
                    (Failure::Single, error)
                }
            },
            Err(error) => (Failure::Unknown, format!("{error:#}")),
        };
        let sync = match extent {
            Extent::Everything => Sync::Full,
            Extent::Part => Sync::Partial,
        };
        self.reporter.failed(failure, sync);
        let pause = self.retry.failed(Instant::now(), extent, failure);
        warn!(
            why,
            error,
            ?pause,
            "the kernel is not in the desired state; trying again"
        );
    }

    /// Whether load balancers are to send connections here. A node that is gone is as it was.
    fn follow_own_node(&self) {
        if let Some(node) = self.compiler.own_node() {
            self.reporter.set_eligible(!node.leaving);
        }
    }

    /// Opens the node for pods once it has what they need. A route to one peer that can't
    /// be written keeps no other traffic waiting.
    fn open_for_pods(&mut self, mut outcome: Outcome) -> Outcome {
        let opened = self.announce();
        self.report_fabric(&outcome, &opened);
        match opened {
            Ok(Some(unwritten)) | Err(unwritten) => {
                outcome.problems.push(format!("{unwritten:#}"));
            }
            Ok(None) => {}
        }
        outcome
    }

    /// Repairs rules if somebody else may have changed them. Returns whether all were read.
    fn repair_rules(&mut self) -> bool {
        if !self.in_sync || self.retry.holds_changes() {
            return false;
        }
        match self.kernel.is_disturbed() {
            Ok(false) => return false,
            Ok(true) => self.reconcile(Why::Disturbed),
            Err(error) => self.settle(Err(error), "looking at rules", Extent::Everything),
        }
        true
    }

    /// Writes the network configuration again if somebody took it away.
    fn restore_configuration(&mut self) {
        if self.ready.ready() && !self.directories.has_configuration() {
            self.reconcile(Why::ConfigurationGone);
        }
    }

    /// Tells the CNI plugin what this node's pods need, and the world that this node
    /// carries traffic. Returns what others may miss, though pods start.
    fn announce(&mut self) -> Result<Option<anyhow::Error>> {
        let Some(node) = self.compiler.own_node() else {
            return Ok(None);
        };
        if node.pod_cidrs.is_empty() || node.internal_ips.is_empty() {
            return Ok(None);
        }
        let desired = self.compiler.desired();
        let standing = self.kernel.standing();
        if let Some(announced) = fabric::announced(
            node,
            desired,
            self.backend,
            &standing,
            &fabric::OwnAddresses {
                public: &self.public,
                uplinks: self.compiler.uplinks(),
            },
        ) {
            self.announcing.announce(node, announced);
        }
        let network = NodeNetwork {
            ranges: node.pod_cidrs.clone(),
            addresses: node.internal_ips.clone(),
            mtu: self.compiler.mtu().with_context(|| {
                let uplinks = self.compiler.uplinks();
                if let ReachedAt::Missing(reason) = &uplinks.reached_at {
                    return format!("fabric.interface: {reason}");
                }
                let own = uplinks.local(node);
                format!("no link has this node's address {own:?}; is it the right node?")
            })?,
            bridge: self.bridge.clone(),
            masquerade_beyond: None,
            gate: self.gate.clone(),
        };
        // For others to read: pods start without it.
        let told = self.subnet_file.write(&network.ranges, network.mtu);
        // Last: it tells the runtime that pods can start.
        if self.directories.write_configuration(&network)? {
            info!(ranges = ?network.ranges, mtu = network.mtu, "node open for pods");
        }
        self.ready.set_ready(true);
        Ok(told.err())
    }
}
