//! Services programmed into nf_tables, beside `nft -f` of the same state.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use weft_desired::{
    Backend, Entry, Frontend, FrontendKey, NodeNat, Origin, Protocol, SocketKey, Table,
};
use weft_kernel::service::{IpFamily, ServiceTable};
use weft_netlab::Namespace;
use weft_sys::nft::Connection;

use crate::report::{Report, Samples, Unit};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 3;
const PEER: &str = "nft -f";
/// Changes in one member of a pair.
const CHANGES: u32 = 50;

/// The address of a Service: in 10.96.0.0/12.
fn service(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + number)
}

/// The address of an endpoint: in 10.128.0.0/9, outside the Services.
fn endpoint(service: u32, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a80_0000 + service * 8 + number)
}

fn key(number: u32) -> FrontendKey {
    SocketKey {
        address: IpAddr::V4(service(number)),
        protocol: Protocol::Tcp,
        port: 80,
    }
}

/// A Service with endpoints of these numbers.
fn frontend(number: u32, endpoints: impl IntoIterator<Item = u32>) -> Frontend {
    Frontend::new(
        format!("default/service-{number}:http").into(),
        endpoints
            .into_iter()
            .map(|position| Backend {
                address: IpAddr::V4(endpoint(number, position)),
                port: 8080,
            })
            .collect(),
    )
}

fn desired() -> Table<FrontendKey, Frontend> {
    (0..SERVICES)
        .map(|number| {
            let origin = Origin {
                kind: "Service",
                namespace: "default".into(),
                name: format!("service-{number}").as_str().into(),
                generation: 1,
            };
            let value = frontend(number, 0..ENDPOINTS);
            (key(number), Entry { value, origin })
        })
        .collect()
}

fn nat() -> anyhow::Result<NodeNat> {
    Ok(NodeNat {
        pod_ranges: ["10.128.0.0/9".parse()?].into(),
        service_ranges: ["10.96.0.0/12".parse()?].into(),
        node_addresses: [IpAddr::from([172, 30, 0, 11])].into(),
        ..NodeNat::default()
    })
}

fn adopt(namespace: &Namespace) -> anyhow::Result<ServiceTable> {
    let connection = Connection::in_namespace(namespace.as_fd())?;
    Ok(ServiceTable::adopt(connection, &[IpFamily::V4])?)
}

/// Time of `nft -f -` with this input.
fn nft(namespace: &Namespace, input: &str) -> anyhow::Result<Duration> {
    let mut command = namespace.command("nft")?;
    let started = Instant::now();
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    let mut pipe = child.stdin.take().context("no standard input")?;
    pipe.write_all(input.as_bytes())?;
    drop(pipe);
    let status = child.wait()?;
    let took = started.elapsed();
    if !status.success() {
        bail!("nft -f: {status}");
    }
    Ok(took)
}

pub(crate) fn measure(pairs: usize, report: &mut Report) -> anyhow::Result<()> {
    report.section("Services in nf_tables (10,000 Services of 3 endpoints, IPv4)");
    let (desired, nat) = (desired(), nat()?);
    let ours = Namespace::new("weft")?;
    let mut table = adopt(&ours)?;
    table.reconcile(&desired, &nat)?;
    let listing = readable(&ours.output("nft", ["list", "ruleset"])?);

    let (mut our_full, mut their_full) = (Samples::default(), Samples::default());
    for _ in 0..pairs {
        let fresh = Namespace::new("fresh")?;
        let started = Instant::now();
        adopt(&fresh)?.reconcile(&desired, &nat)?;
        our_full.push_time(started.elapsed());
        their_full.push_time(nft(&Namespace::new("fresh")?, &listing)?);
    }
    report.pairs(
        "everything, into an empty kernel",
        Unit::Seconds,
        &our_full,
        PEER,
        &their_full,
    );

    let mut again = Samples::default();
    let mut adoption = Samples::default();
    for _ in 0..pairs {
        // A table has one owner.
        drop(table);
        let started = Instant::now();
        table = adopt(&ours)?;
        table.reconcile(&desired, &nat)?;
        adoption.push_time(started.elapsed());
        let started = Instant::now();
        table.reconcile(&desired, &nat)?;
        again.push_time(started.elapsed());
    }
    report.spread(
        "start beside a kernel that holds it all",
        Unit::Seconds,
        &adoption,
    );
    report.spread("full pass without a difference", Unit::Seconds, &again);

    let theirs = Namespace::new("peer")?;
    nft(&theirs, &listing)?;
    let (mut our_medians, mut our_all) = (Samples::default(), Samples::default());
    let mut their_change = Samples::default();
    let mut number = 0;
    for pair in 0..pairs {
        let mut batch = Samples::default();
        for _ in 0..CHANGES {
            // Another Service each time, all over the address range.
            number = (number + 7919) % SERVICES;
            let other = [0, 1, ENDPOINTS + u32::try_from(pair % 2)?];
            let changed = frontend(number, other);
            let started = Instant::now();
            table.apply([(key(number), Some(&changed))])?;
            batch.push_time(started.elapsed());
        }
        our_medians.push(batch.median());
        our_all.extend(&batch);
        let element = element(&listing, service(number))?;
        let change = format!(
            "delete element ip weft endpoints {{ {element} }}\nadd element ip weft endpoints {{ {element} }}\n"
        );
        their_change.push_time(nft(&theirs, &change)?);
    }
    report.compare(
        "one endpoint replaced by another",
        Unit::Seconds,
        (&our_medians, &our_all),
        PEER,
        (&their_change, &their_change),
    );
    Ok(())
}

/// What nft 1.0.6 reads back of its own list: all elements, and all rules but a few, the same few
/// with any number of Services, whose keys it lists but has no types for. Nor does it take the
/// name of a statement for a chain's, and a table that it owns would end with it.
fn readable(listing: &str) -> String {
    listing
        .replace("chain masquerade {", "chain postrouting {")
        .lines()
        .filter(|line| {
            !["numgen random mod", "ct original proto-dst", "flags owner"]
                .iter()
                .any(|unread| line.contains(unread))
        })
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// An endpoint of a Service as `nft list ruleset` writes it, key and value.
fn element(listing: &str, address: Ipv4Addr) -> anyhow::Result<String> {
    let start = format!("{address} . tcp . 80 . ");
    let from = listing
        .find(&start)
        .with_context(|| format!("no endpoint of {address} in nft's list"))?;
    let rest = &listing[from..];
    let end = rest
        .find([',', '}'])
        .context("an element of nft's list has no end")?;
    Ok(rest[..end].split_whitespace().collect::<Vec<_>>().join(" "))
}
