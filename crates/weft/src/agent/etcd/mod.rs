//! `weft fabric etcd`: hosts without Kubernetes. Who they are and which subnet each has stands in
//! etcd, as flannel has it; what the kernel holds for that is the agent's.

mod host;
mod hosts;
mod masquerade;
mod own_addresses;
mod session;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};
use weft_etcd::{Client, Credentials, Endpoint, Tls, TlsFiles};
use weft_kube::Pauses;
use weft_proto::flannel::{NetConf, Pool};
use weft_serve::metrics::{BackEnd, Metrics};

use self::host::Host;
use self::masquerade::Masquerade;
use self::own_addresses::{OwnAddresses, Wish};
use self::session::Session;
use super::forwarding::Forwarding;
use super::network::NetworkChanges;
use super::own_interface::Interface;
use super::subnet_file::SubnetFile;
use super::{AUDIT_INTERVAL, asked, lock, until};
use crate::fabric::told;

/// How many news of etcd wait for the kernel to be written.
const WAITING: usize = 64;
/// Between two looks for a configuration that nobody has written yet.
const CONFIGURATION_PAUSE: Duration = Duration::from_secs(5);

/// Joins hosts without Kubernetes to a network: leases a subnet in etcd, leads to the subnets of
/// the others, and writes what Docker and others need to know of it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  etcdctl put /coreos.com/network/config '{\"Network\":\"10.5.0.0/16\",\"Backend\":{\"Type\":\"vxlan\"}}'
  weft fabric etcd --endpoints http://10.0.0.1:2379,http://10.0.0.2:2379
  weft fabric etcd --endpoints https://10.0.0.1:2379 --etcd-cafile ca.pem \\
    --etcd-certfile host.pem --etcd-keyfile host-key.pem --iface eth1
  weft fabric docker-options        then: what dockerd has to be started with")]
pub(crate) struct EtcdArgs {
    /// etcd's members.
    #[arg(
        long,
        alias = "etcd-endpoints",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379"
    )]
    endpoints: Vec<Endpoint>,
    /// What the keys begin with: PREFIX/config, PREFIX/subnets/…
    #[arg(long, alias = "etcd-prefix", default_value = "/coreos.com/network")]
    prefix: String,
    /// The certificates of the authorities that etcd's may be of.
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// This host's certificate for etcd.
    #[arg(long, requires = "etcd_keyfile", requires = "etcd_cafile")]
    etcd_certfile: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// Who this host is to etcd, where that asks for names (`etcdctl auth enable`).
    #[arg(long, env = "FLANNELD_ETCD_USERNAME", requires = "etcd_password")]
    etcd_username: Option<String>,
    /// The password; better given in the variable, which other users of the host can't see.
    #[arg(
        long,
        env = "FLANNELD_ETCD_PASSWORD",
        hide_env_values = true,
        requires = "etcd_username"
    )]
    etcd_password: Option<String>,
    /// The link or the address of this host that others reach it by; else where the default route
    /// leads.
    #[arg(long)]
    iface: Option<String>,
    /// The same: the first link whose name this regular expression finds something in, or else
    /// the first such address.
    #[arg(long, conflicts_with_all = ["iface", "iface_can_reach"])]
    iface_regex: Option<String>,
    /// The same: the link that leads to this address.
    #[arg(long, conflicts_with = "iface")]
    iface_can_reach: Option<IpAddr>,
    /// The address that others send to, if that is none of this host's own.
    #[arg(long)]
    public_ip: Option<std::net::Ipv4Addr>,
    /// The same for IPv6.
    #[arg(long)]
    public_ipv6: Option<std::net::Ipv6Addr>,
    /// What containers send beyond the network has this host's address; without, that is left to
    /// others, such as Docker.
    #[arg(long)]
    ip_masq: bool,
    /// Where subnet and MTU are told.
    #[arg(long, default_value = "/run/flannel/subnet.env")]
    subnet_file: PathBuf,
    /// Seconds after which a host that is gone is forgotten. flannel's are 24 hours.
    #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(2..))]
    lease_seconds: u64,
    /// Where `weft fabric` asks what this host wants of its kernel.
    #[arg(long, default_value = told::SOCKET)]
    fabric_socket: PathBuf,
    /// Where two of one host meet, so that the second gives up; the agent's own.
    #[arg(long, default_value = "/run/weft/agent.lock")]
    lock: PathBuf,
}

impl EtcdArgs {
    fn tls(&self) -> Result<Option<Tls>> {
        let Some(authorities) = self.etcd_cafile.clone() else {
            if let Some(endpoint) = self.endpoints.iter().find(|it| it.is_tls()) {
                bail!("{endpoint} needs --etcd-cafile: the authority that its certificate is of");
            }
            return Ok(None);
        };
        let own = self.etcd_certfile.clone().zip(self.etcd_keyfile.clone());
        let files = TlsFiles { authorities, own };
        Ok(Some(Tls::read(&files)?))
    }

    fn credentials(&self) -> Option<Credentials> {
        let both = self.etcd_username.clone().zip(self.etcd_password.clone());
        both.map(|(user, password)| Credentials { user, password })
    }

    fn wish(&self) -> Result<Wish> {
        let regex = self.iface_regex.as_deref().map(Interface::like);
        let named = self.iface.as_deref().map(Interface::named);
        let reach = self.iface_can_reach.map(|to| Interface::CanReach(vec![to]));
        Ok(Wish {
            interface: regex
                .transpose()
                .context("--iface-regex")?
                .or(named)
                .or(reach),
            public_v4: self.public_ip,
            public_v6: self.public_ipv6,
        })
    }
}

/// Runs until SIGTERM. What the kernel holds, and the lease, stay in force afterwards.
pub(crate) fn run(args: EtcdArgs) -> Result<()> {
    let _lock = lock::take(&args.lock)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the event loop")?;
    runtime.block_on(serve(args))
}

async fn serve(args: EtcdArgs) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut network = NetworkChanges::subscribe()?;
    let client = Client::new(args.endpoints.clone(), args.tls()?, args.credentials());
    let prefix = args.prefix.trim_end_matches('/').to_owned();
    let conf = tokio::select! {
        conf = configuration(&client, &prefix) => conf?,
        _ = terminate.recv() => return Ok(()),
    };
    if conf.v4.is_none() {
        bail!("EnableIPv4: leases in etcd are named by an IPv4 subnet; set it to true");
    }
    let networks: Vec<IpNet> = conf.pools().map(|pool: &Pool| pool.network).collect();
    // Nobody asks for them here.
    let counters = Metrics::new(BackEnd::Nftables)?.forwarded_in_datagrams();
    let mut forwarding = Forwarding::take_up(&networks, counters)?;
    let own = OwnAddresses::find(&args.wish()?, &networks, &mut forwarding)?;
    info!(
        addresses = ?own.local, public = ?own.public, ?networks, backend = conf.backend.name(),
        "host started"
    );
    let masquerade = Masquerade::take_up(args.ip_masq, &networks).await?;
    let subnet_file = SubnetFile {
        path: args.subnet_file,
        networks,
        masquerades: args.ip_masq,
    };
    let (news, mut heard) = mpsc::channel(WAITING);
    let (wanted, wishes) = watch::channel(own.holder(&conf.backend));
    let session = Session {
        client,
        prefix,
        seconds: args.lease_seconds,
        conf: conf.clone(),
        previous: subnet_file.subnets(),
        wanted: wishes,
        news,
        lease: None,
    };
    tokio::spawn(session.run());
    let mut questions = asked::listen(&args.fabric_socket)?;
    let mut host = Host::new(&conf, own, forwarding, masquerade, subnet_file, wanted)?;
    let mut audit = tokio::time::interval(AUDIT_INTERVAL);
    audit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    audit.reset();
    loop {
        let retry_at = host.retry_at();
        tokio::select! {
            Some(news) = heard.recv() => host.take(news),
            Some(asked) = questions.recv() => host.answer(asked),
            () = until(retry_at) => host.write("retry"),
            changed = network.settled(|event| host.is_news(event)) => {
                changed?;
                host.look("network change");
            }
            _ = audit.tick() => host.look("audit"),
            _ = terminate.recv() => {
                info!("host stops; what the kernel holds and the lease stay in force");
                return Ok(());
            }
        }
    }
}

/// The key of the network's configuration.
fn configuration_key(prefix: &str) -> String {
    format!("{prefix}/config")
}

/// Waits for etcd to have a configuration, which must be one.
async fn configuration(client: &Client, prefix: &str) -> Result<NetConf> {
    let key = configuration_key(prefix);
    let mut pauses = Pauses::default();
    loop {
        let pause = match client.list(&key).await {
            Ok(listing) => {
                let mut entries = listing.entries.iter();
                if let Some(entry) = entries.find(|entry| entry.key == key) {
                    let conf =
                        NetConf::parse(&entry.value).with_context(|| format!("etcd's {key}"))?;
                    for field in &conf.unknown {
                        warn!(key, field, "has no effect");
                    }
                    return Ok(conf);
                }
                warn!(
                    key,
                    "etcd has no configuration of the network there; waiting for one"
                );
                CONFIGURATION_PAUSE
            }
            Err(error) => {
                let pause = pauses.next().unwrap_or(CONFIGURATION_PAUSE);
                warn!(%error, ?pause, "the network's configuration can't be read; trying again");
                pause
            }
        };
        sleep(pause).await;
    }
}
