//! What this node's kernel has of Services, by whatever back end.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use anyhow::Context;
use rustix::io::Errno;
use serde_json::{Value, json};
use weft_desired::{
    Backend, Door, FrontendKey, HashOf, IpFamily, Masquerade, Observed, Otherwise, Reason, Volume,
};
use weft_kernel::service::Wanted;
use weft_kernel::{iptables, service};
use weft_sys::nft::Connection;

use crate::output::{NotPermitted, NotThere};

/// How wide the answer of a command that lists is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shown {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// JSON for programs
    Json,
}

/// Who translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Nftables,
    Iptables,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
        }
    }
}

/// One frontend of one back end.
pub(super) struct Row {
    pub(super) mode: Mode,
    pub(super) key: FrontendKey,
    pub(super) seen: Observed,
}

/// All that the kernel has.
pub(super) struct Standing {
    /// By Service, then by address.
    pub(super) rows: Vec<Row>,
    /// Packets turned away on this node, by reason.
    pub(super) turned_away: BTreeMap<String, u64>,
}

impl Standing {
    /// Reads nf_tables and iptables of this network namespace: all, or what fits; an error if
    /// nothing does.
    pub(super) fn read(which: Option<&Which>) -> anyhow::Result<Self> {
        let standing = Self::read_some(&|key, label| which.is_none_or(|it| it.fits(key, label)))?;
        match which {
            Some(which) if standing.rows.is_empty() => {
                let text = format!(
                    "this node's kernel has no Service {which}; `weft service list` shows which \
                     it has"
                );
                Err(NotThere(text).into())
            }
            Some(_) | None => Ok(standing),
        }
    }

    fn read_some(wanted: Wanted<'_>) -> anyhow::Result<Self> {
        let mut standing = Self {
            rows: Vec::new(),
            turned_away: BTreeMap::new(),
        };
        let mut nft = Connection::open().context("a netlink socket for nf_tables")?;
        let tables =
            service::view_of(&mut nft, &service::IpFamily::BOTH, wanted).map_err(refused)?;
        let chains = match iptables::view(&IpFamily::BOTH) {
            // Where there is no iptables nobody has rules of it.
            Err(iptables::Error::Missing(_)) => None,
            chains => chains?,
        };
        let found = [(Mode::Nftables, tables), (Mode::Iptables, chains)];
        if found.iter().all(|(_, view)| view.is_none()) {
            return Err(NotThere(
                "this network namespace has neither a table `weft` of nf_tables nor chains \
                 KUBE-SERVICES of iptables: no agent has programmed Services here. On a node of \
                 a lab: weft lab exec node-1 -- weft service list"
                    .to_owned(),
            )
            .into());
        }
        for (mode, view) in found {
            let Some(view) = view else { continue };
            let rows = view.frontends.into_iter();
            // Of iptables' rules all are read in any case.
            let rows = rows.filter(|(key, seen)| wanted(key, &seen.label));
            standing
                .rows
                .extend(rows.map(|(key, seen)| Row { mode, key, seen }));
            for (reason, packets) in view.turned_away {
                *standing.turned_away.entry(reason).or_default() += packets;
            }
        }
        let order = |row: &Row| (row.seen.label.clone(), row.seen.door, row.key);
        standing.rows.sort_by_key(order);
        Ok(standing)
    }
}

fn refused(error: service::Error) -> anyhow::Error {
    match &error {
        service::Error::Kernel(cause) if cause.errno() == Some(Errno::PERM) => NotPermitted(
            "nf_tables answers only to who may administer the network (CAP_NET_ADMIN): \
             run this as root"
                .to_owned(),
        )
        .into(),
        service::Error::Kernel(_) | service::Error::Owned { .. } | service::Error::Unsettled => {
            error.into()
        }
    }
}

/// Which Services a command is about.
#[derive(Clone, Debug)]
pub(super) enum Which {
    /// `NAME`, `NAMESPACE/NAME`, either with `:PORT`'s name.
    Named {
        namespace: Option<String>,
        name: String,
        port: Option<String>,
    },
    /// `ADDRESS` or `ADDRESS:PORT`.
    At(IpAddr, Option<u16>),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self::At(socket.ip(), Some(socket.port())));
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return Ok(Self::At(address, None));
        }
        let (namespace, rest) = match text.split_once('/') {
            Some((namespace, rest)) => (Some(namespace.to_owned()), rest),
            None => (None, text),
        };
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port.to_owned())),
            None => (rest, None),
        };
        if name.is_empty() || name.contains('/') || namespace.as_deref() == Some("") {
            return Err("give NAME, NAMESPACE/NAME, ADDRESS or ADDRESS:PORT".to_owned());
        }
        Ok(Self::Named {
            namespace,
            name: name.to_owned(),
            port,
        })
    }
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Which::Named {
                namespace,
                name,
                port,
            } => {
                if let Some(namespace) = namespace {
                    write!(f, "{namespace}/")?;
                }
                f.write_str(name)?;
                match port {
                    Some(port) => write!(f, ":{port}"),
                    None => Ok(()),
                }
            }
            Which::At(address, Some(port)) => {
                write!(f, "at {}", SocketAddr::new(*address, *port))
            }
            Which::At(address, None) => write!(f, "at {address}"),
        }
    }
}

impl Which {
    fn fits(&self, key: &FrontendKey, label: &str) -> bool {
        match self {
            Which::At(address, port) => {
                let everywhere =
                    key.address.is_unspecified() && key.address.is_ipv4() == address.is_ipv4();
                // A port of every address says nothing of one address.
                (key.address == *address || everywhere && port.is_some())
                    && port.is_none_or(|port| port == key.port)
            }
            Which::Named {
                namespace,
                name,
                port,
            } => {
                let service = Service::of(label);
                // The kernel keeps 127 bytes of a label.
                let cut = label.len() >= 127;
                let same =
                    |kept: &str, wanted: &str| kept == wanted || cut && wanted.starts_with(kept);
                namespace
                    .as_ref()
                    .is_none_or(|namespace| service.namespace == namespace)
                    && same(service.name, name)
                    && port.as_ref().is_none_or(|port| same(service.port, port))
            }
        }
    }
}

/// A label's parts.
pub(super) struct Service<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) port: &'a str,
}

impl<'a> Service<'a> {
    pub(super) fn of(label: &'a str) -> Self {
        let (namespace, rest) = label.split_once('/').unwrap_or_default();
        let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
        Self {
            namespace,
            name,
            port,
        }
    }
}

/// As Kubernetes calls it.
pub(super) fn door(door: Door) -> &'static str {
    match door {
        Door::ClusterIp => "ClusterIP",
        Door::NodePort => "NodePort",
        Door::External => "External",
    }
}

/// `10.96.0.10:53/udp`, and `*` for every address of the node.
pub(crate) fn frontend(key: &FrontendKey) -> String {
    let FrontendKey {
        address,
        protocol,
        port,
    } = key;
    if address.is_unspecified() {
        let family = if address.is_ipv6() { "[*]" } else { "*" };
        return format!("{family}:{port}/{protocol}");
    }
    format!("{}/{protocol}", SocketAddr::new(*address, *port))
}

/// A reason in a person's words.
pub(super) fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NoEndpoints => "no endpoints",
        Reason::NoLocalEndpoints => "no endpoints on this node",
        Reason::SourceNotAdmitted => "source not admitted",
    }
}

fn reason_field(reason: Reason) -> &'static str {
    match reason {
        Reason::NoEndpoints => "noEndpoints",
        Reason::NoLocalEndpoints => "noLocalEndpoints",
        Reason::SourceNotAdmitted => "sourceNotAdmitted",
    }
}

/// Whose source becomes the node's.
pub(super) fn masquerade(masquerade: Masquerade) -> &'static str {
    match masquerade {
        Masquerade::Outside => "clients that are no pods",
        Masquerade::All => "all clients",
        Masquerade::Node => "the node itself",
    }
}

/// `12`, or what happens instead of an endpoint.
pub(super) fn endpoints(seen: &Observed) -> String {
    match seen.turned_away {
        Some(Otherwise::Refuse) => "none: refused".to_owned(),
        Some(Otherwise::Drop) => "none: dropped".to_owned(),
        None => slots_of(&seen.backends).len().to_string(),
    }
}

/// The endpoints, each with the slots that it stands in.
pub(super) fn slots_of(backends: &BTreeMap<u32, Backend>) -> BTreeMap<Backend, Vec<u32>> {
    let mut slots: BTreeMap<Backend, Vec<u32>> = BTreeMap::new();
    for (slot, backend) in backends {
        slots.entry(*backend).or_default().push(*slot);
    }
    slots
}

/// What clients beyond the cluster get, if it is something else.
pub(super) fn outside(seen: &Observed) -> String {
    match &seen.outside {
        None => "-".to_owned(),
        Some(outside) if outside.backends.is_empty() => "none: dropped".to_owned(),
        Some(outside) => slots_of(&outside.backends).len().to_string(),
    }
}

/// A row for programs.
pub(super) fn as_json(row: &Row) -> Value {
    let Row { mode, key, seen } = row;
    let service = Service::of(&seen.label);
    json!({
        "namespace": service.namespace,
        "name": service.name,
        "portName": service.port,
        "kind": door(seen.door),
        "mode": mode.name(),
        "address": key.address,
        "port": key.port,
        "protocol": key.protocol.to_string(),
        "endpoints": endpoints_json(&seen.backends),
        "hash": seen.hash.map(|hash| match hash {
            HashOf::Source => "source",
            HashOf::FiveTuple => "five-tuple",
        }),
        "withoutEndpoints": seen.turned_away.map(|otherwise| match otherwise {
            Otherwise::Refuse => "refuse",
            Otherwise::Drop => "drop",
        }),
        "outsideEndpoints": seen.outside.as_ref().map(|outside| endpoints_json(&outside.backends)),
        "sourceRanges": seen.sources,
        "affinitySeconds": seen.affinity,
        "rememberedClients": seen.remembered,
        "masquerade": seen.masquerade.map(|whose| match whose {
            Masquerade::Outside => "outside",
            Masquerade::All => "all",
            Masquerade::Node => "node",
        }),
        "connections": seen.tally.connections,
        "traffic": seen.tally.traffic.map(traffic_json),
        "turnedAway": turned_away_json(&seen.tally.turned_away),
    })
}

/// Endpoints by their first slots, with how many they have.
fn endpoints_json(backends: &BTreeMap<u32, Backend>) -> Vec<Value> {
    let mut endpoints: Vec<_> = slots_of(backends).into_iter().collect();
    endpoints.sort_by(|(_, one), (_, other)| one.cmp(other));
    let endpoint = |(it, slots): (Backend, Vec<u32>)| {
        json!({
            "slot": slots.first(),
            "slots": slots.len(),
            "address": it.address,
            "port": it.port,
        })
    };
    endpoints.into_iter().map(endpoint).collect()
}

pub(super) fn traffic_json((sent, answered): (Volume, Volume)) -> Value {
    let volume = |it: Volume| json!({"packets": it.packets, "bytes": it.bytes});
    json!({"in": volume(sent), "out": volume(answered)})
}

pub(super) fn turned_away_json(turned_away: &BTreeMap<Reason, u64>) -> Value {
    let fields = turned_away
        .iter()
        .map(|(reason, packets)| (reason_field(*reason).to_owned(), json!(packets)));
    Value::Object(fields.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, address: &str, port: u16) -> Row {
        let mut seen = Observed::new(Door::ClusterIp);
        seen.label = label.into();
        let key = FrontendKey {
            address: address.parse().unwrap(),
            protocol: weft_desired::Protocol::Tcp,
            port,
        };
        let mode = Mode::Nftables;
        Row { mode, key, seen }
    }

    fn fits(which: &str, row: &Row) -> bool {
        which
            .parse::<Which>()
            .unwrap()
            .fits(&row.key, &row.seen.label)
    }

    #[test]
    fn services_are_found_by_name_and_by_address() {
        let web = row("shop/web:http", "10.96.0.12", 80);
        for which in [
            "web",
            "shop/web",
            "shop/web:http",
            "web:http",
            "10.96.0.12",
            "10.96.0.12:80",
        ] {
            assert!(fits(which, &web), "{which}");
        }
        for which in [
            "we",
            "default/web",
            "web:https",
            "10.96.0.12:81",
            "10.96.0.1",
        ] {
            assert!(!fits(which, &web), "{which}");
        }
        let six = row("shop/six", "fd00::12", 80);
        assert!(fits("fd00::12", &six) && fits("[fd00::12]:80", &six) && fits("six", &six));
        let everywhere = row("shop/web", "0.0.0.0", 30080);
        assert!(fits("172.30.0.11:30080", &everywhere) && !fits("172.30.0.11", &everywhere));
        assert!("a/b/c".parse::<Which>().is_err() && "/a".parse::<Which>().is_err());
    }

    #[test]
    fn a_label_that_the_kernel_cut_is_found_by_the_whole_name() {
        let (namespace, name) = ("n".repeat(63), "s".repeat(63));
        let cut = row(&format!("{namespace}/{name}:http")[..127], "10.96.0.12", 80);
        assert!(fits(&format!("{namespace}/{name}"), &cut));
        assert!(!fits(&format!("{namespace}/other"), &cut));
    }
}
