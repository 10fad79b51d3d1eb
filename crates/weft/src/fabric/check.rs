//! `weft fabric check`: tries the ways to all other nodes, now.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use serde_json::json;

use super::asking;
use super::findings::{Outcome, Tested};
use super::told::{Question, SOCKET};
use crate::output::{self, Format};

/// Tries the ways from this node to all others, now.
///
/// NODE: the other node's own address answers. TUNNEL: the other end of the tunnel answers,
/// inside. MTU: the largest packet that this node's link takes gets there whole; a smaller
/// number is the largest that does, which the routes to that node's pods then say. CHECKSUM: a
/// packet whose checksum the kernel leaves to the device arrives through the tunnel. "no agent"
/// is a node that is reached and where nobody answers (its agent is not weft's, or is away).
///
/// Ends with 1 if something fails.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  weft fabric check
  weft fabric check -o json
  weft lab exec node-1 -- weft fabric check")]
pub(super) struct Args {
    /// As a table or as JSON
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Where the agent is asked
    #[arg(long, default_value = SOCKET)]
    socket: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let tested: Option<Vec<Tested>> = asking::ask(&args.socket, Question::Check)?;
    let mut tested = tested.context(
        "the ways to other nodes are not tried: fabric.selfTest.port is 0, or this is a host without \
         Kubernetes; weft fabric routes and weft fabric peers show what leads there",
    )?;
    tested.sort_by(|a, b| (&a.node, a.range).cmp(&(&b.node, b.range)));
    let fails = tested.iter().any(|one| one.findings.fails());
    match args.output {
        Format::Json => {
            let all = json!({"ok": !fails, "peers": tested});
            output::say(serde_json::to_string_pretty(&all)?);
        }
        Format::Table if tested.is_empty() => {
            output::note("no other node's pods are reached from here");
        }
        Format::Table => {
            let header = ["PEER", "RANGE", "WAY", "NODE", "TUNNEL", "MTU", "CHECKSUM"];
            let rows: Vec<_> = tested.iter().map(line).collect();
            output::print(output::table(&header, &rows));
        }
    }
    Ok(match fails {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn line(tested: &Tested) -> Vec<String> {
    let Tested {
        node,
        range,
        way,
        findings,
    } = tested;
    let mtu = match (findings.mtu, findings.path_mtu) {
        (Outcome::Fails, Some(found)) => format!("{found}, not {}", findings.packet),
        (outcome, _) => outcome.to_string(),
    };
    vec![
        node.clone(),
        range.to_string(),
        way.clone(),
        findings.node.to_string(),
        findings.tunnel.to_string(),
        mtu,
        findings.checksum.to_string(),
    ]
}
