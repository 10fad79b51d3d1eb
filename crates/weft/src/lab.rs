//! `weft lab`: a cluster on this machine.

mod apply;
mod demo;
mod images;
mod inside;
mod node;
mod publish;
mod up;
mod view;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use weft_cluster::lab::{front, state};

use crate::output::{self, Format};

/// How long `down` waits before it becomes rude, and again before it gives up.
const DOWN_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(after_help = output::EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// Which lab a command is about.
#[derive(Debug, clap::Args)]
struct Which {
    /// The lab's name; not needed when only one is up
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Which {
    fn lab(&self) -> Result<state::Lab, state::Error> {
        state::find(self.name.as_deref())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a lab: an API server, nodes and weft itself, in namespaces of their own
    Up(Box<up::Args>),
    /// Bring up a cluster of two nodes, use it, draw the path of a request, and take it down
    #[command(after_help = "\
Examples:
  weft lab demo
  weft lab up          the same cluster, to stay in

It applies examples/hello.yaml (three replicas, a Service, a client) and asks http://hello from
the client until every replica has answered. Nothing of it is left afterwards.")]
    Demo,
    /// Show a lab's nodes, and whether it is ready
    Status {
        #[command(flatten)]
        which: Which,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// List the labs that are up
    List {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// End a lab, and wait until nothing is left of it
    Down {
        #[command(flatten)]
        which: Which,
        /// End all labs of this user
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Add and remove nodes of a running lab, cut their links and mend them
    #[command(subcommand, after_help = output::EXIT_CODES)]
    Node(node::Command),
    /// Reach a Service of a lab at a port of this machine's loopback
    Publish(Box<publish::Args>),
    /// Print the path of a lab's kubeconfig
    #[command(after_help = "\
Examples:
  export KUBECONFIG=$(weft lab kubeconfig)
  kubectl get pods -A
  weft lab kubeconfig --print > ~/.kube/lab")]
    Kubeconfig {
        #[command(flatten)]
        which: Which,
        /// Print the content instead
        #[arg(long)]
        print: bool,
    },
    /// Run a command in a node, in a pod, or in `outside`
    #[command(after_help = "\
Examples:
  weft lab exec node-1 -- ip route
  weft lab exec hello-5b7d-x2x4k -- curl -s http://hello
  weft lab exec -n kube-system weft-dns-7c9f-abcde -- ip addr
  weft lab exec outside -- ping -c1 172.30.0.11")]
    Exec {
        #[command(flatten)]
        which: Which,
        /// The pod's namespace
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// The pod's container [default: its first]
        #[arg(short, long, default_value = "", hide_default_value = true)]
        container: String,
        /// A node, a pod, or `outside`
        target: String,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Open a shell in a node, in a pod, or in `outside`
    Shell {
        #[command(flatten)]
        which: Which,
        /// The pod's namespace
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// The pod's container [default: its first]
        #[arg(short, long, default_value = "", hide_default_value = true)]
        container: String,
        /// A node, a pod, or `outside`
        target: String,
    },
    /// Apply a manifest (`-` for standard input), without kubectl
    Apply {
        #[command(flatten)]
        which: Which,
        /// A file of objects in YAML or JSON; can be given more than once
        #[arg(short, long, required = true, value_name = "FILE")]
        filename: Vec<PathBuf>,
        /// The namespace of objects that name none
        #[arg(short, long, default_value = "default")]
        namespace: String,
    },
    /// List the images that pods of a lab can name
    Images {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Print the logs of a lab's own processes
    Logs {
        #[command(flatten)]
        which: Which,
        /// `apiserver`, `controllers`, or a node; all of them without this
        component: Option<String>,
    },
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Up(args) => return up::run(*args),
        Command::Demo => return demo::run(),
        Command::Status { which, output } => view::status(&which.lab()?, output)?,
        Command::List { output } => view::list(&state::list()?, output)?,
        Command::Down { which, all } => down(&which, all)?,
        Command::Publish(args) => return publish::run(*args),
        Command::Node(command) => node::run(command)?,
        Command::Kubeconfig { which, print } => {
            let path = which.lab()?.kubeconfig();
            if print {
                output::print(std::fs::read_to_string(path)?);
            } else {
                output::say(path.to_string_lossy());
            }
        }
        Command::Exec {
            which,
            namespace,
            container,
            target,
            command,
        } => return inside::exec(&which.lab()?, &target, &namespace, &container, &command),
        Command::Shell {
            which,
            namespace,
            container,
            target,
        } => return inside::shell(&which.lab()?, &target, &namespace, &container),
        Command::Apply {
            which,
            filename,
            namespace,
        } => apply::run(&which.lab()?, &filename, &namespace)?,
        Command::Images { output } => images::run(output)?,
        Command::Logs { which, component } => view::logs(&which.lab()?, component.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn down(which: &Which, all: bool) -> anyhow::Result<()> {
    let labs = if all {
        state::list()?
    } else {
        vec![which.lab()?]
    };
    for lab in &labs {
        front::down(lab, DOWN_PATIENCE)
            .map_err(|error| anyhow::anyhow!("cannot end the lab {}: {error}", lab.name()))?;
        output::say(format!("lab {} is down", lab.name()));
    }
    Ok(())
}
