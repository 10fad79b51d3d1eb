//! Queries per second of weft's DNS in a pod, beside unbound in a pod of the same node.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::lab::{Lab, wait};
use crate::report::{Report, Samples, Unit};

const PEER: &str = "unbound, the same names as local data";

/// A Service's address, no address of a family, and no such name: what resolvers of pods ask.
const QUERIES: &str = "\
kubernetes.default.svc.cluster.local A
kube-dns.kube-system.svc.cluster.local A
kubernetes.default.svc.cluster.local AAAA
missing.default.svc.cluster.local A
";

pub(crate) fn measure(weft: &Path, pairs: usize, report: &mut Report) -> anyhow::Result<()> {
    report.section("DNS (dnsperf on the node, the server in a pod of the node, UDP)");
    if !Path::new("/usr/sbin/unbound").exists() {
        report.note("no peer: install unbound");
        return Ok(());
    }
    let lab = Lab::up(weft, 1)?;
    let threads = std::thread::available_parallelism()?.get().min(4);
    let config = format!(
        "server:\n interface: 0.0.0.0\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n \
         directory: \"/tmp\"\n use-syslog: no\n access-control: 0.0.0.0/0 allow\n \
         num-threads: {threads}\n so-reuseport: yes\n local-zone: \"cluster.local.\" static\n \
         local-data: \"cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5\"\n \
         local-data: \"kubernetes.default.svc.cluster.local. 5 A 10.96.0.1\"\n \
         local-data: \"kube-dns.kube-system.svc.cluster.local. 5 A 10.96.0.10\"\n"
    );
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unbound"},
        "spec": {"containers": [{
            "name": "unbound", "image": "debian",
            "command": ["sh", "-c", "printf %s \"$CONFIG\" >/tmp/unbound.conf && exec unbound -d -c /tmp/unbound.conf"],
            "env": [{"name": "CONFIG", "value": config}],
        }]},
    });
    lab.apply(&pod.to_string(), &["unbound"])?;
    let theirs = lab.address("unbound")?;
    let ours = dns_pod(&lab)?;
    lab.output(
        "node-1",
        ["sh", "-c", &format!("printf %s '{QUERIES}' >/tmp/queries")],
    )?;
    for server in [&ours, &theirs] {
        wait(&format!("{server} answers"), || {
            let at = format!("@{server}");
            let name = "kubernetes.default.svc.cluster.local";
            let answer = lab.output(
                "node-1",
                ["dig", "+short", "+time=1", "+tries=1", &at, name],
            );
            Ok(answer.is_ok_and(|text| text.trim() == "10.96.0.1"))
        })?;
    }
    let (mut our_rates, mut their_rates) = (Samples::default(), Samples::default());
    for _ in 0..pairs {
        our_rates.push(rate(&lab, &ours)?);
        their_rates.push(rate(&lab, &theirs)?);
    }
    report.pairs(
        &format!("queries per second, {threads} threads"),
        Unit::Rate("q/s"),
        &our_rates,
        PEER,
        &their_rates,
    );
    Ok(())
}

/// The address of the DNS pod on node-1, by what the node's own kernel says.
fn dns_pod(lab: &Lab) -> anyhow::Result<String> {
    let list = |arguments: &[&'static str]| -> anyhow::Result<Vec<Value>> {
        let command = ["ip", "-j", "-4"].iter().chain(arguments).copied();
        Ok(serde_json::from_str(&lab.output("node-1", command)?)?)
    };
    let link = list(&["link"])?
        .into_iter()
        .find(|link| {
            let alias = link["ifalias"].as_str().unwrap_or_default();
            alias.starts_with("weft:kube-system/weft-dns-")
        })
        .context("no link of a DNS pod on node-1")?;
    list(&["route"])?
        .into_iter()
        .find(|route| route["dev"] == link["ifname"])
        .and_then(|route| route["dst"].as_str().map(str::to_owned))
        .with_context(|| format!("no route to the DNS pod behind {}", link["ifname"]))
}

fn rate(lab: &Lab, server: &str) -> anyhow::Result<f64> {
    let told = lab.output(
        "node-1",
        [
            "dnsperf",
            "-s",
            server,
            "-d",
            "/tmp/queries",
            "-c",
            "16",
            "-T",
            "1",
            "-l",
            "1",
        ],
    )?;
    told.lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("Queries per second:")?
                .trim()
                .parse()
                .ok()
        })
        .with_context(|| format!("dnsperf told no rate: {told}"))
}
