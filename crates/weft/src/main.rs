//! weft: a Kubernetes network in one binary.

mod agent;
mod cni_command;
mod controller;
mod diff;
mod dns;
mod fabric;
mod internal;
mod ipam;
mod lab;
mod manifest;
mod output;
mod problems;
mod service;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A Kubernetes network in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    max_term_width = 100,
    after_help = output::EXIT_CODES
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring up a cluster network on this machine, and work with it
    Lab(lab::Args),
    /// Program a node's network: what the DaemonSet runs on every node
    Agent(agent::AgentArgs),
    /// Give nodes their pod ranges: what a cluster needs once
    ///
    /// For clusters whose kube-controller-manager does not (`--allocate-node-cidrs=false`). A Node
    /// without spec.podCIDRs gets of each pod range the first part that nobody has, once and for
    /// all; when the Node is gone its part is free again. What Nodes have already stays as it is: a
    /// range beyond the cluster's, or one that two Nodes have, is named in an Event and in the log.
    ///
    /// Several can run: one leads, by the Lease, and another takes over when it ends.
    Controller(controller::ControllerArgs),
    /// Answer the cluster's DNS queries
    Dns(dns::DnsArgs),
    /// Show what manifests would change in a node's kernel, and for which connections
    Diff(diff::Args),
    /// Look at Services as a node translates them
    Service(service::Args),
    /// Look at how this node reaches the pods of others
    Fabric(fabric::Args),
    /// Look after the pod addresses of this node
    Ipam(ipam::Args),
    /// Put the CNI plugin on this node, or take it away
    Cni(cni_command::Args),
    /// Small programs that stand in for images in a lab
    #[command(hide = true)]
    Program {
        /// Which
        name: String,
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What the lab starts for itself
    #[command(hide = true)]
    Internal(internal::Args),
}

fn main() -> ExitCode {
    // The runtime calls a CNI plugin by executing it with this variable set (CNI specification,
    // "Section 2: Execution Protocol").
    if std::env::var_os("CNI_COMMAND").is_some() {
        return weft_cni::run();
    }
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Lab(args) => {
            output::log_for_person();
            lab::run(args)
        }
        Command::Agent(args) => {
            output::log_for_machine();
            agent::run(args)
        }
        Command::Controller(args) => {
            output::log_for_machine();
            controller::run(args)
        }
        Command::Dns(args) => {
            output::log_for_machine();
            dns::run(args)
        }
        Command::Diff(args) => {
            output::log_for_person();
            Ok(diff::run(&args))
        }
        Command::Service(args) => {
            output::log_for_person();
            service::run(args)
        }
        Command::Fabric(args) => {
            match args.is_daemon() {
                true => output::log_for_machine(),
                false => output::log_for_person(),
            }
            fabric::run(args)
        }
        Command::Ipam(args) => {
            output::log_for_person();
            ipam::run(args)
        }
        Command::Cni(args) => {
            output::log_for_person();
            cni_command::run(args)
        }
        Command::Program { name, arguments } => {
            output::log_for_machine();
            weft_cluster::programs::run(&name, &arguments)
                .map(|()| ExitCode::SUCCESS)
                .map_err(Into::into)
        }
        Command::Internal(args) => {
            output::log_for_machine();
            internal::run(args)
        }
    };
    match result {
        Ok(code) => output::ending(code),
        Err(error) => {
            output::complain(&error);
            output::exit_code(&error)
        }
    }
}
