//! `weft service cleanup`: what translates Services is gone afterwards.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use rustix::io::Errno;
use serde_json::json;
use weft_desired::IpFamily;
use weft_kernel::iptables::{self, Leftover, Whose};
use weft_kernel::sysctl::{self, Scope, Setting};
use weft_kernel::{kube_proxy, service};
use weft_sys::nft::{Connection, TableName};
use weft_sys::rtnl::Conversation;

use crate::agent::lock;
use crate::output::{self, Format, InUse, NotPermitted};

/// Removes all by which weft translates Services on this node: its tables of nf_tables, and its
/// chains of iptables in both variants and families.
///
/// Connections that are translated go on: conntrack has them. Pods stay as they are, their
/// links, routes and host ports (`weft-host-ports`) too: those are the CNI plugin's, and go with
/// the pods. What pods send out of the cluster is no longer masqueraded. It is refused while an
/// agent runs, and does nothing where nothing is.
///
/// With --kube-proxy the same for kube-proxy: its chains of iptables, its tables of nf_tables,
/// and of mode ipvs the device kube-ipvs0. Virtual servers and ipsets of that mode are left, and
/// named. Stop kube-proxy first: it writes all of it again.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  weft service cleanup --dry-run
  weft service cleanup
  weft service cleanup --kube-proxy
  weft lab exec node-1 -- weft service cleanup --dry-run -o json

Exit codes: 0 all is removed, or there was nothing; 3 not permitted; 4 an agent or kube-proxy runs.")]
pub(super) struct Args {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove what kube-proxy left too
    #[arg(long)]
    kube_proxy: bool,
    /// Where the agent of this node holds its lock
    #[arg(long, default_value = "/run/weft/agent.lock")]
    lock: PathBuf,
    /// As text, or as JSON
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Something to remove.
enum Trace {
    /// weft's table of a family.
    Table(service::IpFamily),
    /// Chains of iptables.
    Chains(Box<Leftover>),
    /// One of kube-proxy's tables.
    KubeProxyTable(TableName),
    /// kube-proxy's device of mode ipvs.
    IpvsDevice,
}

impl Trace {
    fn describe(&self) -> String {
        match self {
            Trace::Table(family) => format!("nf_tables table {}", family.table()),
            Trace::Chains(leftover) => {
                let whose = match leftover.whose {
                    Whose::Ours => "weft's",
                    Whose::Anybodys => "kube-proxy's",
                };
                format!(
                    "iptables ({}, {}): {whose} {} chains and {} jumps to them",
                    leftover.variant.name(),
                    leftover.family,
                    leftover.report.removed,
                    leftover.report.jumps
                )
            }
            Trace::KubeProxyTable(table) => format!("nf_tables table {table}"),
            Trace::IpvsDevice => format!("device {} with its addresses", kube_proxy::IPVS_DEVICE),
        }
    }

    /// Whether a kube-proxy that runs may have written it since weft did.
    fn is_shared_with_kube_proxy(&self) -> bool {
        matches!(self, Trace::Chains(leftover) if leftover.whose == Whose::Ours)
    }

    fn remove(&self, handles: &mut Handles) -> anyhow::Result<()> {
        match self {
            Trace::Table(family) => {
                service::remove(&mut handles.nft, *family).map_err(refused)?;
            }
            Trace::Chains(leftover) => {
                if leftover.whose == Whose::Ours {
                    // Before the rule goes that keeps neighbours out of 127.0.0.0/8.
                    sysctl::set(Setting::RouteLocalnet(Scope::All, false))?;
                }
                leftover.remove()?;
            }
            Trace::KubeProxyTable(table) => kube_proxy::remove_table(&mut handles.nft, table)?,
            Trace::IpvsDevice => kube_proxy::remove_ipvs_device(&mut handles.routes)?,
        }
        Ok(())
    }
}

struct Handles {
    nft: Connection,
    routes: Conversation,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut handles = Handles {
        nft: Connection::open().context("a netlink socket for nf_tables")?,
        routes: Conversation::open().context("a netlink socket for devices")?,
    };
    // Who may only look finds that out here, and makes no lock.
    let mut traces = traces(&mut handles, args.kube_proxy)?;
    let _lock = match args.dry_run {
        true => None,
        false => {
            let held = lock::take(&args.lock)?;
            traces = self::traces(&mut handles, args.kube_proxy)?;
            Some(held)
        }
    };
    if !args.dry_run && traces.iter().any(Trace::is_shared_with_kube_proxy) && runs_kube_proxy() {
        let text = "kube-proxy runs on this node, and its chains of iptables have the names of \
                    weft's: stop it first, or leave the chains to it";
        return Err(InUse(text.into()).into());
    }
    let mut removed = Vec::new();
    for trace in &traces {
        let what = trace.describe();
        if !args.dry_run {
            let removal = trace.remove(&mut handles);
            removal.with_context(|| format!("cannot remove {what}"))?;
        }
        if args.output == Format::Table {
            let verb = if args.dry_run {
                "would remove"
            } else {
                "removed"
            };
            output::say(format!("{verb} {what}"));
        }
        removed.push(what);
    }
    let left = if args.kube_proxy {
        left_of_ipvs()
    } else {
        Vec::new()
    };
    match args.output {
        Format::Json => {
            let all = json!({"dryRun": args.dry_run, "removed": removed, "left": left});
            output::say(serde_json::to_string_pretty(&all)?);
        }
        Format::Table => {
            if removed.is_empty() {
                output::note("nothing to remove");
            }
            for what in left {
                output::note(format!("left: {what}"));
            }
        }
    }
    Ok(())
}

/// All there is to remove, in the order in which it goes: chains before tables, so that
/// where both translate there is never a moment with neither.
fn traces(handles: &mut Handles, of_kube_proxy: bool) -> anyhow::Result<Vec<Trace>> {
    let tables = service::present(&mut handles.nft, &service::IpFamily::BOTH);
    let tables = tables.map_err(refused)?;
    let chains = match iptables::leftovers(&IpFamily::BOTH) {
        // Where there is no iptables nobody has rules of it.
        Err(iptables::Error::Missing(_)) => Vec::new(),
        found => found?,
    };
    let ours = |leftover: &Leftover| of_kube_proxy || leftover.whose == Whose::Ours;
    let chains = chains.into_iter().filter(ours).map(Box::new);
    let mut traces: Vec<Trace> = chains.map(Trace::Chains).collect();
    traces.extend(tables.into_iter().map(Trace::Table));
    if of_kube_proxy {
        let tables = kube_proxy::tables(&mut handles.nft)?;
        traces.extend(tables.into_iter().map(Trace::KubeProxyTable));
        if kube_proxy::has_ipvs_device(&mut handles.routes)? {
            traces.push(Trace::IpvsDevice);
        }
    }
    Ok(traces)
}

/// Whether a process of this network namespace is a kube-proxy.
fn runs_kube_proxy() -> bool {
    let Ok(here) = std::fs::read_link("/proc/self/ns/net") else {
        return false;
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut folders = processes.map(|entry| entry.path());
    folders.any(|process| {
        std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name == "kube-proxy\n")
            && std::fs::read_link(process.join("ns/net")).is_ok_and(|there| there == here)
    })
}

/// What of kube-proxy's mode ipvs has to be removed by its own programs.
fn left_of_ipvs() -> Vec<String> {
    // Three lines of head, as `ipvsadm -l` prints them.
    let servers = std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default();
    let servers = servers.lines().filter(|line| {
        let kinds = ["TCP ", "UDP ", "SCTP", "FWM "];
        kinds.iter().any(|kind| line.starts_with(kind))
    });
    match servers.count() {
        0 => Vec::new(),
        count => vec![format!(
            "{count} virtual servers of ipvs, which may be others' too (`ipvsadm --clear` \
             removes all), and ipsets named KUBE-… (`ipset destroy`)"
        )],
    }
}

fn refused(error: service::Error) -> anyhow::Error {
    match &error {
        service::Error::Owned { .. } => InUse(error.to_string()).into(),
        service::Error::Kernel(cause) if cause.errno() == Some(Errno::PERM) => {
            NotPermitted("only who may administer the network can do this: run it as root".into())
                .into()
        }
        service::Error::Kernel(_) | service::Error::Unsettled => error.into(),
    }
}
