//! `weft lab status`, `list` and `logs`.

use std::time::Duration;

use serde_json::json;
use weft_cluster::lab::boot::{Cluster, Snapshot};
use weft_cluster::lab::enter;
use weft_cluster::lab::state::Lab;

use crate::output::{self, Format, NotThere, table};

/// How long `status` waits for the API.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn list(labs: &[Lab], format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => {
            let items: Vec<_> = labs
                .iter()
                .map(|lab| {
                    json!({
                        "name": lab.name(),
                        "ready": lab.record.ready,
                        "nodes": lab.record.plan.nodes.len(),
                        "apiPort": lab.record.api_port,
                        "pid": lab.record.front,
                        "kubeconfig": lab.kubeconfig(),
                    })
                })
                .collect();
            output::say(serde_json::to_string_pretty(&items)?);
        }
        Format::Table if labs.is_empty() => output::note("no lab is up"),
        Format::Table => {
            let rows: Vec<_> = labs
                .iter()
                .map(|lab| {
                    vec![
                        lab.name().to_owned(),
                        if lab.record.ready {
                            "ready"
                        } else {
                            "starting"
                        }
                        .to_owned(),
                        lab.record.plan.nodes.len().to_string(),
                        format!("https://127.0.0.1:{}", lab.record.api_port),
                        lab.record.front.to_string(),
                    ]
                })
                .collect();
            output::print(table(&["NAME", "STATUS", "NODES", "API", "PID"], &rows));
        }
    }
    Ok(())
}

pub(super) fn status(lab: &Lab, format: Format) -> anyhow::Result<()> {
    let snapshot = super::up::runtime()?.block_on(async {
        let look = async {
            Cluster::connect(&lab.kubeconfig())
                .await?
                .snapshot()
                .await
                .map_err(anyhow::Error::from)
        };
        tokio::time::timeout(PATIENCE, look)
            .await
            .map_err(|_| anyhow::anyhow!("the API server of lab {} does not answer", lab.name()))?
    })?;
    match format {
        Format::Json => {
            let plan = &lab.record.plan;
            let value = json!({
                "name": lab.name(),
                "ready": lab.record.ready,
                "api": format!("https://127.0.0.1:{}", lab.record.api_port),
                "kubeconfig": lab.kubeconfig(),
                "podCIDRs": plan.pod_cidrs,
                "serviceCIDRs": plan.service_cidrs,
                "nodeCIDRs": plan.node_cidrs,
                "cluster": snapshot,
            });
            output::say(serde_json::to_string_pretty(&value)?);
        }
        Format::Table => {
            let state = if lab.record.ready {
                "ready"
            } else {
                "starting"
            };
            output::say(format!(
                "lab {}: {state}, API at https://127.0.0.1:{}\n",
                lab.name(),
                lab.record.api_port
            ));
            output::print(nodes(&snapshot));
            output::say(format!("\n{}", summary(&snapshot)));
        }
    }
    Ok(())
}

/// The nodes as a table.
pub(super) fn nodes(snapshot: &Snapshot) -> String {
    let rows: Vec<_> = snapshot
        .nodes
        .iter()
        .map(|node| {
            let state = if node.ready {
                "Ready".to_owned()
            } else {
                format!("NotReady ({})", node.reason)
            };
            vec![
                node.name.clone(),
                state,
                node.addresses.join(","),
                node.pod_cidrs.join(","),
                node.pods.to_string(),
            ]
        })
        .collect();
    table(&["NODE", "STATUS", "ADDRESS", "POD RANGE", "PODS"], &rows)
}

/// Pods and DNS in one line.
pub(super) fn summary(snapshot: &Snapshot) -> String {
    let pods: Vec<_> = snapshot
        .pods
        .iter()
        .map(|(phase, count)| format!("{count} {}", phase.to_lowercase()))
        .collect();
    format!(
        "pods: {}; DNS replicas available: {}",
        if pods.is_empty() {
            "none".to_owned()
        } else {
            pods.join(", ")
        },
        snapshot.dns_available
    )
}

pub(super) fn logs(lab: &Lab, component: Option<&str>) -> anyhow::Result<()> {
    let known = enter::logs(&lab.record);
    match component {
        Some(component) if known.iter().any(|name| name == component) => {
            output::print(text(lab, component)?);
        }
        Some(component) => {
            return Err(NotThere(format!(
                "{component:?} has no log in this lab; these have: {}",
                known.join(", ")
            ))
            .into());
        }
        None => {
            for component in &known {
                for line in text(lab, component)?.lines() {
                    output::say(format!("{component}: {line}"));
                }
            }
        }
    }
    Ok(())
}

fn text(lab: &Lab, component: &str) -> anyhow::Result<String> {
    let bytes = std::fs::read(enter::log_file(&lab.record, component))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
