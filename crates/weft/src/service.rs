//! `weft service`: Services as a node translates them.

mod cleanup;
mod describe;
mod list;
mod render;
pub(crate) mod scene;
mod standing;
mod stats;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Looks at Services as a node translates them.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the Services that this node's kernel translates
    List(list::Args),
    /// Show all that this node's kernel has of a Service
    Describe(describe::Args),
    /// Show what this node's kernel has counted of Services
    Stats(stats::Args),
    /// Remove all that translates Services from this node
    Cleanup(cleanup::Args),
    /// Print the rules that a node would have for the Services of some manifests
    Render(render::Args),
}

/// An address, protocol and port, as they are printed everywhere.
pub(crate) use self::standing::frontend as frontend_text;

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(args) => list::run(&args)?,
        Command::Describe(args) => describe::run(&args)?,
        Command::Stats(args) => stats::run(&args)?,
        Command::Cleanup(args) => cleanup::run(&args)?,
        Command::Render(args) => render::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
