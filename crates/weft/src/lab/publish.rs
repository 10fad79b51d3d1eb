//! `weft lab publish`: a Service of a lab for the machine's own programs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use weft_cluster::lab::enter;
use weft_cluster::lab::publish::{self, Publication, Published, Record, Target};
use weft_cluster::lab::state::Lab;
use weft_kube::Access;

use super::Which;
use super::up::{Progress, detach, runtime};
use crate::output::{self, Format, InUse, NotThere, Usage, table};

/// How long `--stop` waits.
const STOPPING: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weft lab publish hello                         at a free port of 127.0.0.1; Ctrl-C ends it
  weft lab publish shop/web:http 127.0.0.1:8080
  weft lab publish hello 8080 --detach           in the background, until the lab ends or
  weft lab publish --stop 8080                   this does it
  weft lab publish --list

Connections are carried to sockets on the lab's nodes, so that they meet the Service as a program on
a node does: its address, its rules, whatever endpoints there are at the time. The machine gets no
route. A headless Service is reached at one of its ready endpoints. TCP only.")]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// The Service's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The Service; its port by number or name, if it has several: [NAMESPACE/]SERVICE[:PORT]
    #[arg(value_name = "SERVICE[:PORT]", required_unless_present_any = ["list", "stop"])]
    service: Option<Target>,
    /// Where on this machine [default: a free port of 127.0.0.1]
    #[arg(value_name = "[127.0.0.1:]PORT", value_parser = listen_address)]
    listen: Option<SocketAddr>,
    /// Allow an address that other machines reach
    #[arg(long)]
    expose: bool,
    /// Return when connections are taken, and go on in the background
    #[arg(long)]
    detach: bool,
    /// List what is published of the lab
    #[arg(long, conflicts_with_all = ["service", "stop", "detach"])]
    list: bool,
    /// End what is published at this port or address
    #[arg(long, value_name = "[127.0.0.1:]PORT", conflicts_with_all = ["service", "detach"], value_parser = listen_address)]
    stop: Option<SocketAddr>,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// The background process's end of the pipe to the command that waits for it
    #[arg(long, hide = true)]
    background_fd: Option<i32>,
}

/// `PORT`, or an address with a port.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse().map_err(|_| {
        format!("{text:?} is no port and no address with a port, such as 127.0.0.1:8080")
    })
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let lab = args.which.lab()?;
    if args.list {
        list(&lab, args.output)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(address) = args.stop {
        stop(&lab, address)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.detach && args.background_fd.is_none() {
        return detach(None);
    }
    let mut progress = Progress::new(args.background_fd)?;
    let result = serve(&args, &lab, &mut progress);
    if let Err(error) = &result {
        progress.failed(error);
    }
    result.map(|()| ExitCode::SUCCESS)
}

fn serve(args: &Args, lab: &Lab, progress: &mut Progress) -> anyhow::Result<()> {
    let target = args.service.clone().context("no Service is named")?;
    let target = target.in_namespace(&args.namespace);
    let listener = bind(args)?;
    let address = listener.local_addr().context("cannot tell the port")?;
    publish::allow_many_connections();
    // Everything that a thread would be in the way of comes before the runtime.
    enter::enter_user_namespace(lab)?;
    runtime()?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let access = Access {
            kubeconfig: Some(lab.kubeconfig()),
            ..Access::default()
        };
        let client = weft_kube::connect(&access, "weft").await?;
        let publication = Publication::new(&client, lab.name(), target.clone()).await?;
        let published = Published {
            namespace: target.namespace.clone(),
            service: target.service.clone(),
            port: target.port.clone(),
            address,
            pid: rustix::process::getpid().as_raw_nonzero().get(),
        };
        let _record = Record::new(lab.folder(), &published)
            .context("cannot record it in the lab's folder")?;
        match args.output {
            Format::Table => progress.line(&format!("{target} is at {address}")),
            Format::Json => progress.line(&json_of(&published).to_string()),
        }
        progress.settled();
        tokio::select! {
            ended = publication.serve(listener, lab) => {
                ended?;
                progress.line(&format!("lab {} has ended", lab.name()));
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        Ok(())
    })
}

fn bind(args: &Args) -> anyhow::Result<TcpListener> {
    let address = args.listen.unwrap_or((Ipv4Addr::LOCALHOST, 0).into());
    if !address.ip().is_loopback() && !args.expose {
        return Err(Usage(format!(
            "{} can be reached from other machines; choose a loopback address such as 127.0.0.1, or say --expose",
            address.ip()
        ))
        .into());
    }
    TcpListener::bind(address).map_err(|error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            return InUse(format!(
                "{address} is in use; choose another port, or leave it out for a free one"
            ))
            .into();
        }
        anyhow::Error::from(error).context(format!("cannot listen on {address}"))
    })
}

fn json_of(published: &Published) -> serde_json::Value {
    json!({
        "namespace": published.namespace,
        "service": published.service,
        "port": published.port,
        "address": published.address,
        "pid": published.pid,
    })
}

fn list(lab: &Lab, format: Format) -> anyhow::Result<()> {
    let published = publish::list(lab.folder())?;
    match format {
        Format::Json => {
            let items: Vec<_> = published.iter().map(json_of).collect();
            output::say(serde_json::to_string_pretty(&items)?);
        }
        Format::Table if published.is_empty() => output::note("nothing is published"),
        Format::Table => {
            let rows: Vec<_> = published
                .iter()
                .map(|one| {
                    vec![
                        one.address.to_string(),
                        one.namespace.clone(),
                        one.service.clone(),
                        one.port.clone().unwrap_or_else(|| "-".to_owned()),
                        one.pid.to_string(),
                    ]
                })
                .collect();
            let header = ["ADDRESS", "NAMESPACE", "SERVICE", "PORT", "PID"];
            output::print(table(&header, &rows));
        }
    }
    Ok(())
}

fn stop(lab: &Lab, address: SocketAddr) -> anyhow::Result<()> {
    let published = publish::list(lab.folder())?;
    let found = published.iter().find(|one| one.address == address);
    let found = found.ok_or_else(|| {
        let there: Vec<_> = published
            .iter()
            .map(|one| one.address.to_string())
            .collect();
        NotThere(format!(
            "nothing of lab {} is published at {address}; these are: {}",
            lab.name(),
            if there.is_empty() {
                "none".to_owned()
            } else {
                there.join(", ")
            }
        ))
    })?;
    if !publish::stop(lab.folder(), found, STOPPING)? {
        anyhow::bail!(
            "the process {} that publishes {address} does not end",
            found.pid
        );
    }
    output::say(format!(
        "{}/{} is no longer at {address}",
        found.namespace, found.service
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_loopback() {
        assert_eq!(
            listen_address("8080").unwrap().to_string(),
            "127.0.0.1:8080"
        );
        assert_eq!(listen_address("[::1]:80").unwrap().to_string(), "[::1]:80");
        assert!(listen_address("127.0.0.1").is_err());
        assert!(listen_address("99999").is_err());
    }
}
