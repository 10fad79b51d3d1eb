//! `weft fabric peers`: the nodes whose pods are reached from here.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use serde_json::{Value, json};
use weft_desired::RouteOwner;
use weft_kernel::{fabric_view, route};
use weft_sys::rtnl::{Conversation, Mac};

use super::asking;
use super::told::{Peer, Question, SOCKET, Told, ethernet};
use crate::output::{self, Format};

/// Lists the nodes whose pods are reached from here.
///
/// A line is a node's range of pods. WAY is direct (a route to the node's own address), vxlan
/// (through a tunnel) or udp (in datagrams); MISSING is what of it the kernel lacks: the route, and for a tunnel its
/// device, the neighbour and the forwarding entry. A node that is left out is there with the
/// reason.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  weft fabric peers
  weft fabric peers -o json
  weft lab exec node-1 -- weft fabric peers")]
pub(super) struct Args {
    /// As a table or as JSON
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Where the agent is asked
    #[arg(long, default_value = SOCKET)]
    socket: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let told: Told = asking::ask(&args.socket, Question::State)?;
    let mut conversation = Conversation::open().context("a netlink socket for routes")?;
    let kernel = Standing {
        routes: route::read(&mut conversation).context("the routes of this node")?,
        tunnels: fabric_view::tunnels(&mut conversation).context("the tunnels of this node")?,
    };
    match args.output {
        Format::Json => {
            let peers = told.peers.iter();
            let peers: Vec<Value> = peers.map(|peer| as_json(peer, &kernel)).collect();
            let all = json!({
                "node": told.node,
                "backend": told.backend,
                "peers": peers,
                "leftOut": told.problems,
            });
            output::say(serde_json::to_string_pretty(&all)?);
        }
        Format::Table => table(&told, &kernel),
    }
    Ok(())
}

fn table(told: &Told, kernel: &Standing) {
    let header = [
        "NODE", "RANGE", "WAY", "ADDRESS", "DEVICE", "TUNNEL", "MAC", "MISSING",
    ];
    let rows: Vec<_> = told.peers.iter().map(|peer| line(peer, kernel)).collect();
    if rows.is_empty() {
        output::note("no other node's pods are reached from here");
    } else {
        output::print(output::table(&header, &rows));
    }
    for problem in &told.problems {
        output::say(format!("left out: {}: {}", problem.node, problem.reason));
    }
}

/// What the kernel has.
struct Standing {
    routes: route::Actual,
    tunnels: Vec<fabric_view::Tunnel>,
}

impl Standing {
    /// What of a way to a peer is not there.
    fn lacks(&self, peer: &Peer) -> Vec<&'static str> {
        let mut lacking = Vec::new();
        let mut keys = self.routes.ours.keys();
        let stands =
            keys.any(|key| key.owner == RouteOwner::Fabric && key.destination == peer.range);
        if !stands {
            lacking.push("route");
        }
        let (Some(device), Some(address), Some(mac)) =
            (&peer.device, peer.tunnel_address, &peer.mac)
        else {
            return lacking;
        };
        let Some(tunnel) = self.tunnels.iter().find(|it| *it.name == **device) else {
            lacking.push("device");
            return lacking;
        };
        let is_theirs = |found: &Mac| ethernet(found.0) == *mac;
        if !tunnel.neighbours.get(&address).is_some_and(is_theirs) {
            lacking.push("neighbour");
        }
        let mut entries = tunnel.forwardings.iter();
        if !entries.any(|(found, remote)| is_theirs(found) && Some(*remote) == peer.address) {
            lacking.push("forwarding entry");
        }
        lacking
    }
}

fn line(peer: &Peer, kernel: &Standing) -> Vec<String> {
    let dash = || "-".to_owned();
    let lacking = kernel.lacks(peer);
    vec![
        peer.node.clone(),
        peer.range.to_string(),
        peer.way.clone(),
        peer.address
            .map_or_else(dash, |address| address.to_string()),
        peer.device.as_ref().map_or_else(dash, ToString::to_string),
        peer.tunnel_address
            .map_or_else(dash, |address| address.to_string()),
        peer.mac.clone().unwrap_or_else(dash),
        if lacking.is_empty() {
            dash()
        } else {
            lacking.join(", ")
        },
    ]
}

fn as_json(peer: &Peer, kernel: &Standing) -> Value {
    let mut value = json!(peer);
    if let Value::Object(fields) = &mut value {
        fields.insert("missing".to_owned(), json!(kernel.lacks(peer)));
    }
    value
}
