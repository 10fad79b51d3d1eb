//! `weft fabric routes`: what the kernel has beside what the agent wants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use ipnet::IpNet;
use serde_json::{Value, json};
use weft_desired::RouteOwner;
use weft_kernel::route::{self, Actual};
use weft_sys::rtnl::Conversation;

use super::asking;
use super::told::{Route, SOCKET, Told};
use crate::output::{self, Format};

/// Lists the routes to other nodes' pods.
///
/// The kernel says what there is (routes with protocol 72), the agent what it wants and which
/// Node that follows from. STATE is ok; missing; other, where something else stands; taken,
/// where somebody else has a route to the destination; leftover, where nothing is wanted; or ?,
/// where no agent runs.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  weft fabric routes
  weft fabric routes -o json
  weft lab exec node-1 -- weft fabric routes")]
pub(super) struct Args {
    /// As a table or as JSON
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Where the agent is asked
    #[arg(long, default_value = SOCKET)]
    socket: PathBuf,
}

/// One destination.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    destination: IpNet,
    /// Of ours, as the kernel has it.
    standing: Option<String>,
    wanted: Option<Route>,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Missing,
    Other,
    Taken { protocol: u8 },
    Leftover,
    Unknown,
}

impl State {
    fn word(&self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Missing => "missing",
            State::Other => "other",
            State::Taken { .. } => "taken",
            State::Leftover => "leftover",
            State::Unknown => "?",
        }
    }

    fn text(&self, wanted: Option<&Route>) -> String {
        match (self, wanted) {
            (State::Other, Some(wanted)) => format!("other: wanted is {}", wanted.next_hop),
            (State::Taken { protocol }, _) => format!("taken by a route of proto {protocol}"),
            (state, _) => state.word().to_owned(),
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut conversation = Conversation::open().context("a netlink socket for routes")?;
    let actual = route::read(&mut conversation).context("the routes of this node")?;
    let told = asking::wanted(&args.socket)?;
    let rows = rows(&actual, told.as_ref());
    match args.output {
        Format::Json => {
            let all: Vec<Value> = rows.iter().map(as_json).collect();
            let node = told.as_ref().map(|told| &told.node);
            let backend = told.as_ref().map(|told| &told.backend);
            let all = json!({"node": node, "backend": backend, "routes": all});
            output::say(serde_json::to_string_pretty(&all)?);
        }
        Format::Table if rows.is_empty() => output::note("no routes to other nodes' pods"),
        Format::Table => {
            let header = ["DESTINATION", "NEXT HOP", "ORIGIN", "GENERATION", "STATE"];
            let rows: Vec<_> = rows.iter().map(line).collect();
            output::print(output::table(&header, &rows));
        }
    }
    Ok(())
}

fn rows(actual: &Actual, told: Option<&Told>) -> Vec<Row> {
    let ours = actual.ours.iter();
    let standing: BTreeMap<IpNet, String> = ours
        .filter(|(key, _)| key.owner == RouteOwner::Fabric)
        .map(|(key, route)| (key.destination, route.to_string()))
        .collect();
    let wanted: BTreeMap<IpNet, &Route> = told
        .into_iter()
        .flat_map(|told| &told.routes)
        .map(|route| (route.destination, route))
        .collect();
    let all: BTreeSet<IpNet> = standing.keys().chain(wanted.keys()).copied().collect();
    let row = |destination: IpNet| {
        let (there, wanted) = (standing.get(&destination), wanted.get(&destination));
        let state = match (there, wanted) {
            (_, None) if told.is_none() => State::Unknown,
            (_, None) => State::Leftover,
            (Some(there), Some(wanted)) if *there == wanted.next_hop => State::Ok,
            (Some(_), Some(_)) => State::Other,
            (None, Some(_)) => match actual.foreign.get(&destination) {
                Some(foreign) => State::Taken {
                    protocol: foreign.protocol,
                },
                None => State::Missing,
            },
        };
        Row {
            destination,
            standing: there.cloned(),
            wanted: wanted.map(|route| (*route).clone()),
            state,
        }
    };
    all.into_iter().map(row).collect()
}

fn line(row: &Row) -> Vec<String> {
    let wanted = row.wanted.as_ref();
    let next_hop = row.standing.clone();
    let next_hop = next_hop.or_else(|| wanted.map(|route| route.next_hop.clone()));
    let origin = wanted.map(|route| format!("{} {}", route.origin.kind, route.origin.name));
    let generation = wanted.map(|route| route.origin.generation.to_string());
    let dash = || "-".to_owned();
    vec![
        row.destination.to_string(),
        next_hop.unwrap_or_else(dash),
        origin.unwrap_or_else(dash),
        generation.unwrap_or_else(dash),
        row.state.text(wanted),
    ]
}

fn as_json(row: &Row) -> Value {
    json!({
        "destination": row.destination,
        "kernel": row.standing,
        "wanted": row.wanted.as_ref().map(|route| &route.next_hop),
        "origin": row.wanted.as_ref().map(|route| &route.origin),
        "state": row.state.word(),
    })
}

#[cfg(test)]
mod tests {
    use weft_desired::{NextHop, RouteKey};
    use weft_kernel::route::Foreign;

    use super::super::told::Source;
    use super::*;

    #[test]
    fn what_stands_is_compared_with_what_is_wanted() {
        let net = |n: u8| -> IpNet { format!("10.244.{n}.0/24").parse().unwrap() };
        let via = |n: u8| NextHop::Gateway {
            address: [172, 30, 0, n].into(),
        };
        let mut actual = Actual::default();
        for n in [1, 2, 5] {
            let key = RouteKey {
                owner: RouteOwner::Fabric,
                destination: net(n),
            };
            let next_hop = via(n);
            actual.ours.insert(key, next_hop.into());
        }
        let foreign = Foreign {
            protocol: 4,
            metric: 0,
        };
        actual.foreign.insert(net(4), foreign);
        let wanted = |destination: u8, hop: u8| Route {
            destination: net(destination),
            next_hop: via(hop).to_string(),
            origin: Source {
                kind: "Node".to_owned(),
                name: format!("node-{destination}"),
                generation: 0,
            },
        };
        let told = Told {
            routes: vec![wanted(1, 1), wanted(2, 9), wanted(3, 3), wanted(4, 4)],
            ..Told::default()
        };
        let states = |told: Option<&Told>| -> Vec<(IpNet, State)> {
            let rows = rows(&actual, told).into_iter();
            rows.map(|row| (row.destination, row.state)).collect()
        };
        let expected = [
            (net(1), State::Ok),
            (net(2), State::Other),
            (net(3), State::Missing),
            (net(4), State::Taken { protocol: 4 }),
            (net(5), State::Leftover),
        ];
        assert_eq!(states(Some(&told)), expected);
        let unknown = [1, 2, 5].map(|n| (net(n), State::Unknown));
        assert_eq!(states(None), unknown);
    }
}
