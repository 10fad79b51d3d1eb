//! Who sends where, and what it meets.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use weft_desired::IpFamily;
use weft_netlab::Namespace;
use weft_netlab::probe::{self, Outcome};

use crate::node::{BackEnd, Node};
use crate::scene::{PATIENCE, SILENCE};

/// Enough that each of three is met, but for once in ten million times.
const TIMES: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Pod(u8),
    Node,
    Outside,
}

/// Whom the server sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The client.
    Itself,
    /// The client's connection as the node's.
    AsNode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meets {
    /// Each of these servers, and nobody else.
    Each(&'static [&'static str], Seen),
    /// It is told at once that there is nobody.
    Refusal,
    /// Nothing.
    Silence,
    /// A refusal by weft's own rules; kube-proxy's leave it to the routes, which lead to no
    /// answer.
    RefusalOrNoAnswer,
}

/// Who sends, where in each family, and what it meets there.
type Row<'a> = (From, &'a dyn Fn(IpFamily) -> SocketAddr, Meets);

/// Tries rows in both families, by TCP and by UDP.
#[track_caller]
pub(crate) fn check(node: &Node, rows: &[Row<'_>]) {
    for family in IpFamily::BOTH {
        for (from, to, meets) in rows {
            for protocol in ["tcp", "udp"] {
                let to = to(family);
                if let Err(met) = try_row(node, *from, to, *meets, protocol) {
                    let back_end = node.back_end;
                    panic!("{back_end:?}: {from:?} to {protocol} {to}: not {meets:?}: {met}");
                }
            }
        }
    }
}

fn try_row(
    node: &Node,
    from: From,
    to: SocketAddr,
    meets: Meets,
    protocol: &str,
) -> Result<(), String> {
    let client = client(node, from);
    let ask = |patience| match protocol {
        "tcp" => probe::tcp(client, to, patience).unwrap(),
        _ => probe::udp(client, to, patience).unwrap(),
    };
    match meets {
        Meets::Each(servers, seen) => {
            let mut met = BTreeSet::new();
            for _ in 0..TIMES {
                let outcome = ask(PATIENCE);
                let answer = outcome.answer().ok_or_else(|| format!("{outcome:?}"))?;
                if !servers.contains(&answer.name.as_str()) {
                    return Err(format!("{answer:?}"));
                }
                // Ports tell nothing: where an earlier connection from the same one is still
                // remembered, the kernel takes another.
                let masqueraded = answer.from.ip() != answer.local.ip();
                // What a node sends has its address already.
                let own = from == From::Node && !masqueraded;
                if masqueraded != (seen == Seen::AsNode) && !own {
                    return Err(format!("{answer:?}"));
                }
                met.insert(answer.name.clone());
                if met.len() == servers.len() {
                    return Ok(());
                }
            }
            Err(format!("{met:?}"))
        }
        Meets::Refusal => {
            let outcome = ask(PATIENCE);
            let refused = outcome == Outcome::Refused || is_stopped_here(from, &outcome);
            refused.then_some(()).ok_or(format!("{outcome:?}"))
        }
        Meets::Silence => {
            let outcome = ask(SILENCE);
            let silent = outcome == Outcome::TimedOut || is_stopped_here(from, &outcome);
            silent.then_some(()).ok_or(format!("{outcome:?}"))
        }
        Meets::RefusalOrNoAnswer => {
            let (outcome, is_met) = match node.back_end {
                BackEnd::Nftables => {
                    let outcome = ask(PATIENCE);
                    let is_met = outcome == Outcome::Refused || is_stopped_here(from, &outcome);
                    (outcome, is_met)
                }
                BackEnd::Iptables => {
                    let outcome = ask(SILENCE);
                    let is_met = !outcome.is_answered();
                    (outcome, is_met)
                }
            };
            is_met.then_some(()).ok_or(format!("{outcome:?}"))
        }
    }
}

/// The node's own packet is refused and dropped before it is sent, and the sender is told.
fn is_stopped_here(from: From, outcome: &Outcome) -> bool {
    from == From::Node && matches!(outcome, Outcome::Unreachable(_))
}

pub(crate) fn client(node: &Node, from: From) -> &Namespace {
    match from {
        From::Pod(number) => &node.lab.pods[usize::from(number) - 1],
        From::Node => &node.lab.node,
        From::Outside => &node.lab.outside,
    }
}
