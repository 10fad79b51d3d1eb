//! `weft service`: Services as a node translates them.

mod render;

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
    /// Print the rules that a node would have for the Services of some manifests
    Render(render::Args),
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Render(args) => render::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
