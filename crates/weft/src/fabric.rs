//! `weft fabric`: how this node reaches the pods of others.

mod asking;
mod check;
mod docker_options;
pub(crate) mod findings;
mod peers;
mod routes;
pub(crate) mod told;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::agent::etcd;

/// Looks at how this node reaches the pods of others, or sees to it without Kubernetes.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the routes to other nodes' pods: those in the kernel, and those the agent wants
    Routes(routes::Args),
    /// List the nodes whose pods are reached from here, and by which way
    Peers(peers::Args),
    /// Try the ways to all other nodes, now
    Check(check::Args),
    /// Print what a Docker daemon needs to be on this node's pod network
    DockerOptions(docker_options::Args),
    /// Join hosts without Kubernetes to a network: subnets are leased in etcd, as flannel does it
    Etcd(Box<etcd::EtcdArgs>),
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Routes(args) => routes::run(&args)?,
        Command::Peers(args) => peers::run(&args)?,
        Command::Check(args) => return check::run(&args),
        Command::DockerOptions(args) => docker_options::run(&args)?,
        Command::Etcd(args) => etcd::run(*args)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Whether it runs until it is told to end.
    pub(crate) fn is_daemon(&self) -> bool {
        match self.command {
            Command::Etcd(_) => true,
            Command::Routes(_)
            | Command::Peers(_)
            | Command::Check(_)
            | Command::DockerOptions(_) => false,
        }
    }
}
