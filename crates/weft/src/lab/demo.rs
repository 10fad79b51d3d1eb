//! `weft lab demo`: a cluster comes up, is used as a person would use it, and goes.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::process::Command;
use weft_cluster::lab::boot::{self, Cluster};
use weft_cluster::lab::front::Front;
use weft_cluster::lab::plan::{Chosen, Families, Plan, Request};
use weft_cluster::lab::settings::NodeSettings;
use weft_kube::k8s_openapi::api::core::v1::{Pod, Service};
use weft_kube::kube::api::ListParams;
use weft_kube::kube::{Api, ResourceExt};

use super::up::{Progress, attend};
use crate::output::table;

const MANIFEST: &str = include_str!("../../../../examples/hello.yaml");
const CLIENT: &str = "client";
const SERVICE: &str = "hello";
const REPLICAS: usize = 3;
/// Enough for each of three replicas to be chosen at least once, but for one run in 10^17.
const MOST_REQUESTS: usize = 100;
/// How long the cluster may take to become ready, and hello after it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the pods.
const LOOK: Duration = Duration::from_millis(20);

pub(super) fn run() -> anyhow::Result<ExitCode> {
    let plan = Plan::new(&Request {
        name: format!("demo-{}", std::process::id()),
        nodes: Some(2),
        node_names: Vec::new(),
        families: Families::Ipv4,
        pod_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        node_cidrs: Vec::new(),
        chosen: Chosen::default(),
        zones: Vec::new(),
        settings: NodeSettings::default(),
    })?;
    let began = Instant::now();
    let mut progress = Progress::new(None)?;
    progress.line("A cluster of two nodes, in namespaces of this machine:");
    let mut steps = Steps::default();
    let code = attend(
        plan,
        None,
        None,
        PATIENCE,
        &mut progress,
        async |front, cluster, progress| {
            steps.took("cluster ready", began.elapsed());
            tour(front, cluster, progress, &mut steps).await
        },
    )?;
    steps.took("in all, taken down again", began.elapsed());
    progress.line(&format!("\n{}", steps.table()));
    Ok(code)
}

/// How long each step took.
#[derive(Default)]
struct Steps(Vec<(&'static str, Duration)>);

impl Steps {
    fn took(&mut self, what: &'static str, time: Duration) {
        self.0.push((what, time));
    }

    fn table(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .0
            .iter()
            .map(|(what, time)| vec![(*what).to_owned(), format!("{:.2} s", time.as_secs_f64())])
            .collect();
        table(&["STEP", "TIME"], &rows)
    }
}

async fn tour(
    front: &Front,
    cluster: &Cluster,
    progress: &mut Progress,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    let lab = front.record().plan.name.as_str();
    progress.line("\n$ weft lab apply -f examples/hello.yaml");
    let began = Instant::now();
    let objects = boot::objects("examples/hello.yaml", MANIFEST)?;
    for applied in cluster.apply(&objects, "default").await? {
        progress.line(&format!("{} applied", applied.object));
    }
    let world = World::wait_until_ready(cluster).await?;
    steps.took(
        "three replicas, a Service and a client ready",
        began.elapsed(),
    );

    progress.line(&format!(
        "\n$ weft lab exec {CLIENT} -- curl http://{SERVICE}"
    ));
    let began = Instant::now();
    let answers = ask_until_all_answered(lab, &world, progress).await?;
    steps.took("every replica has answered", began.elapsed());

    progress.line(&format!("\n{}", world.table()));
    let resolved = inside_client(lab, &["getent", "ahosts", SERVICE]).await?;
    progress.line(&world.path(&answers, &resolved)?);
    Ok(())
}

/// What the demo talks about.
struct World {
    nodes: Vec<Vec<String>>,
    node_address: BTreeMap<String, String>,
    pods: BTreeMap<String, Pod>,
    service_address: String,
}

/// One answer of a replica.
struct Answer {
    pod: String,
    /// The client's address, as the replica saw it.
    seen: String,
}

impl World {
    async fn wait_until_ready(cluster: &Cluster) -> anyhow::Result<Self> {
        let pods: Api<Pod> = Api::namespaced(cluster.client().clone(), "default");
        let deadline = Instant::now() + PATIENCE;
        let pods = loop {
            let list = pods
                .list(&ListParams::default())
                .await
                .context("listing the pods")?;
            let ready = list.items.iter().filter(|pod| is_ready(pod)).count();
            if ready == REPLICAS + 1 {
                break list.items;
            }
            if Instant::now() > deadline {
                bail!(
                    "after {PATIENCE:?} only {ready} of {} pods are ready; `kubectl describe pods` says why",
                    REPLICAS + 1
                );
            }
            tokio::time::sleep(LOOK).await;
        };
        let services: Api<Service> = Api::namespaced(cluster.client().clone(), "default");
        let service = services.get(SERVICE).await.context("the Service hello")?;
        let snapshot = cluster.snapshot().await?;
        Ok(Self {
            node_address: snapshot
                .nodes
                .iter()
                .map(|node| (node.name.clone(), node.addresses.join(",")))
                .collect(),
            nodes: snapshot
                .nodes
                .iter()
                .map(|node| {
                    vec![
                        format!("node {}", node.name),
                        node.addresses.join(","),
                        node.pod_cidrs.join(","),
                    ]
                })
                .collect(),
            pods: pods.into_iter().map(|pod| (pod.name_any(), pod)).collect(),
            service_address: service
                .spec
                .and_then(|spec| spec.cluster_ip)
                .unwrap_or_default(),
        })
    }

    fn address(&self, pod: &str) -> &str {
        self.pods
            .get(pod)
            .and_then(|pod| pod.status.as_ref()?.pod_ip.as_deref())
            .unwrap_or_default()
    }

    fn node(&self, pod: &str) -> &str {
        self.pods
            .get(pod)
            .and_then(|pod| pod.spec.as_ref()?.node_name.as_deref())
            .unwrap_or_default()
    }

    fn table(&self) -> String {
        let mut rows = self.nodes.clone();
        rows.push(vec![
            format!("service {SERVICE}"),
            self.service_address.clone(),
            String::new(),
        ]);
        rows.extend(self.pods.keys().map(|name| {
            vec![
                format!("pod {name}"),
                self.address(name).to_owned(),
                format!("on {}", self.node(name)),
            ]
        }));
        table(&["WHAT", "ADDRESS", ""], &rows)
    }

    /// The way of one request, to another node if one went there.
    fn path(&self, answers: &[Answer], resolved: &str) -> anyhow::Result<String> {
        let here = self.node(CLIENT);
        let answer = answers
            .iter()
            .find(|answer| self.node(&answer.pod) != here)
            .or_else(|| answers.first())
            .context("no answer to draw the path of")?;
        let there = self.node(&answer.pod);
        let name = resolved
            .lines()
            .find_map(|line| line.split_whitespace().nth(2))
            .unwrap_or(SERVICE);
        let address = resolved.split_whitespace().next().unwrap_or_default();
        let crossing = if here == there {
            format!("     |  stays on {here}")
        } else {
            format!(
                "     |  from {here} ({}) to {there} ({}), by {here}'s route to {there}'s pods",
                self.node_address.get(here).map_or("", String::as_str),
                self.node_address.get(there).map_or("", String::as_str),
            )
        };
        Ok(format!(
            "The path of one request:\n\n\
             \x20 pod {CLIENT}, {} on {here}\n\
             \x20    |  asks weft's DNS for {SERVICE}: {name} is {address}\n\
             \x20    |  connects to {address}, port 80\n\
             \x20    v\n\
             \x20 Service {SERVICE}, {}:80\n\
             \x20    |  {here}'s kernel chooses an endpoint: {}, port 8080\n\
             {crossing}\n\
             \x20    v\n\
             \x20 pod {}, {} on {there}\n\
             \x20       sees the client as {}: nothing was hidden on the way\n",
            self.address(CLIENT),
            self.service_address,
            self.address(&answer.pod),
            answer.pod,
            self.address(&answer.pod),
            answer.seen,
        ))
    }
}

fn is_ready(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn ask_until_all_answered(
    lab: &str,
    world: &World,
    progress: &mut Progress,
) -> anyhow::Result<Vec<Answer>> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut answers = Vec::new();
    for _ in 0..MOST_REQUESTS {
        let url = format!("http://{SERVICE}");
        let said = inside_client(lab, &["curl", "-sS", "--max-time", "5", &url]).await?;
        let field = |name: &str| {
            said.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .map(str::to_owned)
                .with_context(|| format!("{url} answered without a line {name:?}: {said:?}"))
        };
        let answer = Answer {
            pod: field("pod")?,
            seen: field("client")?,
        };
        progress.line(&format!(
            "pod {} on {}",
            answer.pod,
            world.node(&answer.pod)
        ));
        *counts.entry(answer.pod.clone()).or_default() += 1;
        answers.push(answer);
        if counts.len() == REPLICAS {
            progress.line(&format!(
                "{} requests, and every replica has answered",
                answers.len()
            ));
            return Ok(answers);
        }
    }
    bail!(
        "after {MOST_REQUESTS} requests only {} of {REPLICAS} replicas have answered: {}",
        counts.len(),
        counts.into_keys().collect::<Vec<_>>().join(", ")
    )
}

/// Runs a command in the client's pod, as a person would, and returns what it printed.
async fn inside_client(lab: &str, command: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("/proc/self/exe")
        .args(["lab", "exec", "--name", lab, CLIENT, "--"])
        .args(command)
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run the own binary")?;
    if !output.status.success() {
        bail!(
            "in pod {CLIENT} `{}` failed ({}): {}",
            command.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
