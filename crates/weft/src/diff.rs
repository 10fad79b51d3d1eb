//! `weft diff`: what manifests would change in a node's kernel, and for which connections.

mod state;
mod verdicts;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};
use weft_compile::Compiler;
use weft_desired::{Difference, View, difference};
use weft_iptables::{Listing, Programme};
use weft_kernel::service::{self, Operation, Side};
use weft_sys::nft::Connection;

use self::state::State;
use self::verdicts::Shift;
use crate::manifest;
use crate::output::{self, Format, Usage};
use crate::service::scene::{Mode, RuleArgs};

/// Shows what manifests would change in a node's kernel, operation by operation, and which
/// connections would fare differently.
///
/// Takes Services, EndpointSlices, Nodes and Pods; what else the files hold is passed over. A
/// manifest is laid over the object that the cluster has: fields that it leaves out stay. A
/// Service without an address in either has none to show. Endpoints are those of the
/// EndpointSlices, of the cluster's and of the manifests': what controllers would make of another
/// selector or target port is not foretold.
///
/// The cluster is asked through the API (--kubeconfig, or as kubectl finds it), or read from
/// files (--from). Slots of endpoints are those that the kernel has, if this is run where the
/// node's tables are; else those of a kernel that was filled at once.
#[derive(Debug, Parser)]
#[command(
    mut_arg("mode", |mode| mode.default_value("nftables")),
    after_help = "\
Examples:
  weft diff -f service.yaml --node node-1
  kubectl get services,endpointslices,nodes,pods -A -o yaml > cluster.yaml
  weft diff -f service.yaml --from cluster.yaml --node node-1 --service-cidr 10.96.0.0/12
  weft diff -f service.yaml --from cluster.yaml --node node-1 --mode iptables -o json

Exit codes: 0 nothing would change; 1 something would; more than 1 it could not be told."
)]
pub(crate) struct Args {
    /// The manifests, as YAML or JSON; `-` for standard input
    #[arg(short = 'f', long = "filename", required = true, num_args = 1.., value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The cluster as it is, instead of the API: what `kubectl get -o yaml` printed
    #[arg(long, num_args = 1.., value_name = "FILE")]
    from: Vec<PathBuf>,
    /// The kubeconfig for the API
    #[arg(long, conflicts_with = "from")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    rules: RuleArgs,
    /// As text, or as JSON
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// As `kubectl diff` has them.
const CHANGES: u8 = 1;
/// The least code of an error.
const ERROR: u8 = 2;

pub(crate) fn run(args: &Args) -> ExitCode {
    match compare(args) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(CHANGES),
        Err(error) => {
            output::complain(&error);
            ExitCode::from(output::code(&error).max(ERROR))
        }
    }
}

/// What would be different.
struct Found {
    /// By table; of iptables, the lines for `iptables-restore`.
    operations: Vec<(String, Vec<String>)>,
    shifts: Vec<Shift>,
}

fn compare(args: &Args) -> anyhow::Result<bool> {
    let mut state = if args.from.is_empty() {
        State::of_api(args.kubeconfig.clone())?
    } else {
        State::of_files(&args.from)?
    };
    let before = state.changes()?;
    for file in &args.files {
        for object in manifest::objects(file)? {
            state.apply(object);
        }
    }
    let after = state.changes()?;
    let only = only_node(&args.rules, &state)?;
    let node = only.as_deref().unwrap_or(&args.rules.node);
    let compile = |changes| args.rules.compile_for(node, changes);
    let (before, after) = (compile(before)?, compile(after)?);
    for problem in after.problems() {
        output::note(format!("weft: {problem}"));
    }
    let found = Found {
        operations: match args.rules.mode {
            Mode::Nftables => elements(args, &before, &after),
            Mode::Iptables => lines(args, &before, &after),
        },
        shifts: verdicts::shifts(&before, &after, node, &args.rules.service_cidr),
    };
    let any = !found.operations.is_empty() || !found.shifts.is_empty();
    match args.output {
        Format::Json => output::say(serde_json::to_string_pretty(&as_json(&found))?),
        Format::Table => say(&found),
    }
    Ok(any)
}

/// The only node, if none is named.
fn only_node(rules: &RuleArgs, state: &State) -> anyhow::Result<Option<String>> {
    if !rules.node.is_empty() {
        return Ok(None);
    }
    let nodes = state.nodes();
    match nodes.as_slice() {
        [only] => Ok(Some(only.clone())),
        [] => Ok(None),
        nodes => Err(Usage(format!(
            "--node: say which node's kernel; the cluster has {}",
            nodes.join(", ")
        ))
        .into()),
    }
}

/// What a kernel that can be asked has.
fn live() -> Option<View> {
    let mut connection = Connection::open().ok()?;
    service::view(&mut connection, &service::IpFamily::BOTH)
        .ok()
        .flatten()
}

fn elements(args: &Args, before: &Compiler, after: &Compiler) -> Vec<(String, Vec<String>)> {
    fn side(compiler: &Compiler) -> Side<'_> {
        Side {
            frontends: &compiler.desired().frontends,
            nat: &compiler.desired().nat,
        }
    }
    let live = live();
    let families = args.rules.families_of([before.desired(), after.desired()]);
    families
        .into_iter()
        .map(service::IpFamily::from)
        .map(|family| {
            let operations = service::plan(family, side(before), side(after), live.as_ref());
            let lines = operations.iter().map(|it| line(family, it)).collect();
            (family.table().to_string(), lines)
        })
        .filter(|(_, lines): &(String, Vec<String>)| !lines.is_empty())
        .collect()
}

fn line(family: service::IpFamily, operation: &Operation) -> String {
    let Operation { add, set, element } = operation;
    let verb = if *add { "add" } else { "delete" };
    format!("{verb} element {} {set} {{ {element} }}", family.table())
}

fn lines(args: &Args, before: &Compiler, after: &Compiler) -> Vec<(String, Vec<String>)> {
    let (before, after) = (before.desired(), after.desired());
    let changed: Vec<_> = difference(&before.services, &after.services, |a, b| a == b)
        .into_iter()
        .map(|step| match step {
            Difference::Add(key, new) | Difference::Change(key, _, new) => (key, Some(&new.value)),
            Difference::Remove(key, _) => (key, None),
        })
        .collect();
    let families = args.rules.families_of([before, after]);
    families
        .into_iter()
        .map(|family| {
            let mut programme = Programme::new(family, args.rules.options());
            programme.reconcile(&before.services, &before.nat, &Listing::default());
            let restore = programme.apply(changed.iter().copied(), &after.services);
            let text = restore.text();
            let lines = text.lines().map(str::to_owned).collect();
            (format!("iptables {family}"), lines)
        })
        .filter(|(_, lines): &(String, Vec<String>)| !lines.is_empty())
        .collect()
}

fn say(found: &Found) {
    for (table, lines) in &found.operations {
        output::say(format!("{table}:"));
        for line in lines {
            output::say(format!("  {line}"));
        }
    }
    if !found.shifts.is_empty() {
        output::say("connections:");
    }
    for shift in &found.shifts {
        output::say(format!("  {shift}"));
    }
}

fn as_json(found: &Found) -> Value {
    let operations: Vec<Value> = found
        .operations
        .iter()
        .map(|(table, lines)| json!({"table": table, "operations": lines}))
        .collect();
    let connections: Vec<Value> = found.shifts.iter().map(Shift::as_json).collect();
    json!({"tables": operations, "connections": connections})
}
