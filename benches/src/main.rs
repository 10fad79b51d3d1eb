//! Measures what weft claims, beside a peer or the kernel's own limit in the same run.
//!
//! A comparison is made of interleaved pairs (weft, peer, weft, peer, …), so that what else
//! the machine does meets both. Its figure is a ratio, and what may be claimed is the lower
//! 95 % bound of the ratios' median.

#![expect(
    clippy::print_stdout,
    reason = "a program that prints what it measures"
)]

mod agent;
mod api;
mod cni;
mod dns;
mod fabric;
mod lab;
mod memory;
mod report;
mod services;
mod stream;
mod throughput;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use report::Report;

/// Measure weft beside its peers, on this machine, in namespaces of its own.
#[derive(Debug, Parser)]
#[command(
    name = "benches/run",
    max_term_width = 100,
    after_help = "\
Sections:
  lab         `weft lab up` of two nodes, to both Ready and to DNS available; of five nodes; and
              the whole of `weft lab demo`
  workloads   100 pods on two nodes from `kubectl apply` to Ready; one pod from its scheduling to
              Running; a change of readiness from the probe's answer to every node's kernel; memory
              and processor time of 200 idle pods
  memory      what every process of a two-node lab keeps resident
  cni         the plugin's ADD and DEL beside bridge + host-local + portmap (Debian's package
              containernetworking-plugins), DEL beside the kernel's own deletion of a link; 200 pods
              at once, beside as many processes that only make a link; ADD and `weft ipam check`
              with 65,000 addresses taken
  services    programming of 10,000 and 30,000 Services of 10 endpoints, beside `nft -f` and
              `iptables-restore` of the same state; a change at 100 and at 30,000; the mode
              iptables; what packets
              find meanwhile, first ones at 10 and at 30,000, and throughput beside no rule; an
              agent with all of them: its memory; a rolling update under load
  dns         queries per second of `weft dns` in a pod beside unbound in a pod
  api         the API server with 10,000 Services and EndpointSlices: lists, memory, restart; durable
              writes and 1,000 watchers beside etcd (Debian's package etcd-server), beside the
              disk's own syncs, and beside a server that only writes and syncs
  throughput  TCP from pod to pod across nodes beside the same links wired by hand
  fabric      TCP and request-response between pods of two nodes: udp beside the kernel's vxlan and
              beside a packet a system call; vxlan and host-gw beside the same made by hand; an
              agent with 1,000 other nodes: until routes lead to all, a change of one, memory;
              packets lost while an agent is killed and started 20 times

A ratio above 1 means that weft is better. `>=` gives the lower 95 % bound of the median ratio:
the claim. A section whose peer is not installed says so and is left out. Needs root.

Examples:
  benches/run                                   everything; some 20 minutes
  benches/run services --part agent             one part of a section
  benches/run api -o json                       one section, for machines
  benches/run api --services 500 --watchers 100 --pairs 5     a short look"
)]
struct Args {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// How many labs of two nodes are brought up
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// How many pairs a comparison has (at least 5: fewer have no 95 % bound)
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u16).range(5..))]
    pairs: u16,
    /// How many Services and EndpointSlices the API server has
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    services: u32,
    /// How many watchers a write reaches
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u32).range(10..=10_000))]
    watchers: u32,
    /// Of `services` only this
    #[arg(long, value_enum, value_name = "PART")]
    part: Vec<services::Part>,
    /// Of `cni` only this
    #[arg(long, value_enum, value_name = "PART")]
    cni_part: Vec<cni::Part>,
    /// Of `fabric` only this
    #[arg(long, value_enum, value_name = "PART")]
    fabric_part: Vec<fabric::Part>,
    /// The binary to measure
    #[arg(long, default_value = "target/release/weft", value_name = "PATH")]
    weft: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    Lab,
    Workloads,
    Memory,
    Cni,
    Services,
    Dns,
    Api,
    Throughput,
    Fabric,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    let done = cni::bare::work().unwrap_or_else(|| measure(&Args::parse()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("benches/run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> anyhow::Result<()> {
    let weft = args
        .weft
        .canonicalize()
        .with_context(|| format!("no binary at {}: run `make bench`", args.weft.display()))?;
    let mut report = Report::new(args.output == Output::Text);
    report.machine(&weft)?;
    for section in Section::value_variants() {
        if args.sections.is_empty() || args.sections.contains(section) {
            run(*section, args, &weft, &mut report).with_context(|| format!("{section:?}"))?;
        }
    }
    if args.output == Output::Json {
        println!("{}", report.json());
    }
    Ok(())
}

fn run(section: Section, args: &Args, weft: &Path, report: &mut Report) -> anyhow::Result<()> {
    let pairs = usize::from(args.pairs);
    match section {
        Section::Lab => lab::measure(weft, usize::from(args.runs), report),
        Section::Workloads => workloads::measure(weft, report),
        Section::Memory => memory::measure(weft, report),
        Section::Cni => cni::measure(weft, pairs, &args.cni_part, report),
        Section::Services => services::measure(weft, pairs, &args.part, report),
        Section::Dns => dns::measure(weft, pairs, report),
        Section::Api => {
            let sizes = api::Sizes {
                services: args.services,
                watchers: args.watchers,
                pairs,
            };
            api::measure(weft, sizes, report)
        }
        Section::Throughput => throughput::measure(weft, pairs, report),
        Section::Fabric => fabric::measure(weft, pairs, &args.fabric_part, report),
    }
}
