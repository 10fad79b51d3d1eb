//! What makes a started lab a working cluster: weft's own manifest, applied through the API as
//! on any cluster, and the wait until the nodes and DNS are ready.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;
use weft_kube::k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use weft_kube::k8s_openapi::api::core::v1::{Event, Node, Pod};
use weft_kube::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weft_kube::kube::api::{ListParams, Patch, PatchParams};
use weft_kube::kube::core::{DynamicObject, GroupVersionKind};
use weft_kube::kube::discovery::{ApiCapabilities, ApiResource, Scope, pinned_kind};
use weft_kube::kube::{self, Api};
use weft_kube::{Access, AccessError, Client};

use super::plan::Plan;

/// Who the API says has set the fields that the lab applies.
const FIELD_MANAGER: &str = "weft-lab";

/// The pause between two looks at what is not there yet.
const LOOK_AGAIN: Duration = Duration::from_millis(40);

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);

/// What can go wrong between a started lab and a working one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client for the API.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The API did not answer in time.
    #[error("the API server did not become ready within {patience:?}: {last}")]
    NotReady {
        /// How long was waited.
        patience: Duration,
        /// The last answer.
        last: String,
    },
    /// A manifest is not YAML, or not an object.
    #[error("{name}: document {document}: {message}")]
    Manifest {
        /// The file's name.
        name: String,
        /// Its number in the file, from 1.
        document: usize,
        /// What is wrong.
        message: String,
    },
    /// The API refused something.
    #[error("{object}: {message}")]
    Refused {
        /// What was to be done with which object.
        object: String,
        /// The API's answer.
        message: String,
    },
    /// The cluster did not come up in time.
    #[error("the cluster did not become ready within {patience:?}: {missing}")]
    Incomplete {
        /// How long was waited.
        patience: Duration,
        /// What was missing.
        missing: String,
    },
}

/// One object that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Kind and name, as `deployment.apps/hello`.
    pub object: String,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
}

/// How the cluster stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Snapshot {
    /// The nodes, by name.
    pub nodes: Vec<NodeState>,
    /// Available replicas of the cluster's DNS.
    pub dns_available: i32,
    /// Pods by phase.
    pub pods: BTreeMap<String, usize>,
}

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Whether its kubelet says it is ready.
    pub ready: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its pod ranges.
    pub pod_cidrs: Vec<String>,
    /// Running pods on it.
    pub pods: usize,
}

/// A lab's cluster, through its API.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// Statuses up to this version are of an earlier life of a kept lab: they say nothing.
    since: u64,
}

impl Cluster {
    /// Through an administrator's kubeconfig.
    ///
    /// # Errors
    /// [`Error::Access`].
    pub async fn connect(kubeconfig: &Path) -> Result<Self, Error> {
        let access = Access {
            kubeconfig: Some(kubeconfig.to_owned()),
            ..Access::default()
        };
        let client = weft_kube::connect(&access, "weft").await?;
        Ok(Cluster { client, since: 0 })
    }

    /// Takes nothing for true of a node or pod that was written up to this version of the API.
    #[must_use]
    pub fn since(self, version: u64) -> Self {
        Cluster {
            since: version,
            ..self
        }
    }

    fn is_fresh(&self, metadata: &ObjectMeta) -> bool {
        let version = metadata.resource_version.as_deref();
        version
            .and_then(|version| version.parse().ok())
            .is_none_or(|version: u64| version > self.since)
    }

    /// The client, for what this type does not do.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits until the API answers and has its first objects.
    ///
    /// # Errors
    /// [`Error::NotReady`].
    pub async fn wait_for_api(&self, patience: Duration) -> Result<(), Error> {
        use weft_kube::k8s_openapi::api::core::v1::Namespace;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let deadline = Instant::now() + patience;
        loop {
            let last = match timeout(REQUEST, namespaces.get_opt("kube-system")).await {
                Ok(Ok(Some(_))) => return Ok(()),
                Ok(Ok(None)) => "namespace kube-system is not there yet".to_owned(),
                Ok(Err(error)) => describe(&error),
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() >= deadline {
                return Err(Error::NotReady { patience, last });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Applies objects on the server's side, in their order. `namespace` is for those that need
    /// one and name none.
    ///
    /// # Errors
    /// The first object that was refused.
    pub async fn apply(&self, objects: &[Value], namespace: &str) -> Result<Vec<Applied>, Error> {
        let mut kinds: BTreeMap<(String, String), (ApiResource, ApiCapabilities)> = BTreeMap::new();
        let mut done = Vec::with_capacity(objects.len());
        for object in objects {
            let text = |field: &str| object.pointer(field).and_then(Value::as_str);
            let (api_version, kind) = (
                text("/apiVersion").unwrap_or_default().to_owned(),
                text("/kind").unwrap_or_default().to_owned(),
            );
            let name = text("/metadata/name").unwrap_or_default();
            let label = format!("{}/{name}", kind.to_lowercase());
            let refused = |error: kube::Error| Error::Refused {
                object: format!("applying {label}"),
                message: describe(&error),
            };
            let key = (api_version.clone(), kind.clone());
            if !kinds.contains_key(&key) {
                let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
                let wanted = GroupVersionKind::gvk(group, version, &kind);
                let found = pinned_kind(&self.client, &wanted).await.map_err(refused)?;
                kinds.insert(key.clone(), found);
            }
            let Some((resource, capabilities)) = kinds.get(&key) else {
                continue;
            };
            let own = text("/metadata/namespace").unwrap_or(namespace);
            let (api, placed): (Api<DynamicObject>, _) = match capabilities.scope {
                Scope::Namespaced => (
                    Api::namespaced_with(self.client.clone(), own, resource),
                    Some(own.to_owned()),
                ),
                Scope::Cluster => (Api::all_with(self.client.clone(), resource), None),
            };
            api.patch(
                name,
                &PatchParams::apply(FIELD_MANAGER).force(),
                &Patch::Apply(object),
            )
            .await
            .map_err(refused)?;
            let kind = kind.to_lowercase();
            done.push(Applied {
                object: if resource.group.is_empty() {
                    format!("{kind}/{name}")
                } else {
                    format!("{kind}.{}/{name}", resource.group)
                },
                namespace: placed,
            });
        }
        Ok(done)
    }

    /// Looks at nodes, pods and DNS.
    ///
    /// # Errors
    /// When the API refuses or does not answer.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let all = ListParams::default();
        let nodes: Api<Node> = Api::all(self.client.clone());
        let pods: Api<Pod> = Api::all(self.client.clone());
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), "kube-system");
        let refused = |what: &str| {
            let object = format!("listing {what}");
            move |error: kube::Error| Error::Refused {
                object,
                message: describe(&error),
            }
        };
        let nodes = nodes.list(&all).await.map_err(refused("nodes"))?;
        let pods = pods.list(&all).await.map_err(refused("pods"))?;
        let dns = deployments
            .get_opt("weft-dns")
            .await
            .map_err(refused("deployments"))?;

        let dns_available = dns
            .and_then(|dns| dns.status?.available_replicas)
            .unwrap_or(0);
        // The Deployment's status may be older than what became of its pods.
        let dns_ready = pods
            .iter()
            .filter(|pod| is_dns(pod) && is_ready(pod) && self.is_fresh(&pod.metadata))
            .count();
        let dns_available = dns_available.min(i32::try_from(dns_ready).unwrap_or(i32::MAX));

        let mut by_phase = BTreeMap::new();
        let mut running: BTreeMap<String, usize> = BTreeMap::new();
        for pod in &pods {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
            let phase = phase.unwrap_or_else(|| "Pending".to_owned());
            if phase == "Running"
                && self.is_fresh(&pod.metadata)
                && let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone())
            {
                *running.entry(node).or_default() += 1;
            }
            *by_phase.entry(phase).or_default() += 1;
        }
        let mut nodes: Vec<NodeState> = nodes
            .into_iter()
            .map(|node| {
                let state = node_state(&node, &running);
                if self.is_fresh(&node.metadata) {
                    return state;
                }
                NodeState {
                    ready: false,
                    reason: "its kubelet has not said yet".to_owned(),
                    ..state
                }
            })
            .collect();
        nodes.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(Snapshot {
            nodes,
            dns_available,
            pods: by_phase,
        })
    }

    /// Waits until every node of the plan is ready and DNS is available. `report` is told of
    /// each node, and of DNS, once.
    ///
    /// # Errors
    /// [`Error::Incomplete`], with what was missing and what the cluster's events say about it.
    pub async fn wait_until_ready(
        &self,
        plan: &Plan,
        patience: Duration,
        mut report: impl FnMut(&str),
    ) -> Result<Snapshot, Error> {
        let deadline = Instant::now() + patience;
        let mut told: Vec<String> = Vec::new();
        loop {
            let missing = match timeout(REQUEST, self.snapshot()).await {
                Ok(Ok(snapshot)) => {
                    let missing = missing(plan, &snapshot);
                    let mut news: Vec<String> = snapshot
                        .nodes
                        .iter()
                        .filter(|node| node.ready)
                        .map(|node| format!("{} ready", node.name))
                        .collect();
                    if snapshot.dns_available > 0 {
                        news.push("DNS available".to_owned());
                    }
                    for news in news {
                        if !told.contains(&news) {
                            report(&news);
                            told.push(news);
                        }
                    }
                    if missing.is_empty() {
                        return Ok(snapshot);
                    }
                    missing.join("; ")
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API does not answer".to_owned(),
            };
            if Instant::now() >= deadline {
                return Err(Error::Incomplete {
                    patience,
                    missing: format!("{missing}{}", self.warnings().await),
                });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// [`Error::Incomplete`], with what was missing.
    pub async fn wait_for_node(&self, name: &str, patience: Duration) -> Result<NodeState, Error> {
        let deadline = Instant::now() + patience;
        loop {
            let missing = match timeout(REQUEST, self.snapshot()).await {
                Ok(Ok(snapshot)) => {
                    match snapshot.nodes.into_iter().find(|node| node.name == name) {
                        Some(node) if node.ready => return Ok(node),
                        Some(node) => format!("{name} is not ready ({})", node.reason),
                        None => format!("{name} has not registered"),
                    }
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API does not answer".to_owned(),
            };
            if Instant::now() >= deadline {
                return Err(Error::Incomplete {
                    patience,
                    missing: format!("{missing}{}", self.warnings().await),
                });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The last warning events, for a person to see why.
    async fn warnings(&self) -> String {
        let events: Api<Event> = Api::all(self.client.clone());
        let listed = timeout(REQUEST, events.list(&ListParams::default())).await;
        let Ok(Ok(listed)) = listed else {
            return String::new();
        };
        let mut lines: Vec<String> = listed
            .into_iter()
            .filter(|event| event.type_.as_deref() == Some("Warning"))
            .map(|event| {
                format!(
                    "\n  {}/{}: {}",
                    event
                        .involved_object
                        .kind
                        .unwrap_or_default()
                        .to_lowercase(),
                    event.involved_object.name.unwrap_or_default(),
                    event.message.unwrap_or_default()
                )
            })
            .collect();
        lines.dedup();
        let from = lines.len().saturating_sub(5);
        lines.split_off(from).concat()
    }

    /// Which agents run and which do not, for a status.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn agents(&self) -> Result<(i32, i32), Error> {
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), "kube-system");
        let set = sets
            .get_opt("weft-agent")
            .await
            .map_err(|error| Error::Refused {
                object: "reading daemonset.apps/weft-agent".to_owned(),
                message: describe(&error),
            })?;
        let status = set.and_then(|set| set.status);
        Ok(status.map_or((0, 0), |status| {
            (status.number_ready, status.desired_number_scheduled)
        }))
    }
}

/// Without ranges no node is ready, and no pod starts that waits for one.
fn missing(plan: &Plan, snapshot: &Snapshot) -> Vec<String> {
    let waits = plan.leaves_node_ranges;
    let mut missing: Vec<String> = plan
        .nodes
        .iter()
        .filter_map(
            |node| match snapshot.nodes.iter().find(|state| state.name == node.name) {
                Some(state) if state.ready || waits => None,
                Some(state) => Some(format!("{} is not ready ({})", node.name, state.reason)),
                None => Some(format!("{} has not registered", node.name)),
            },
        )
        .collect();
    if snapshot.dns_available < 1 && !waits {
        missing.push("no replica of weft-dns is available".to_owned());
    }
    missing
}

/// Whether a pod is one of the cluster's DNS.
fn is_dns(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    pod.metadata.namespace.as_deref() == Some("kube-system")
        && labels
            .and_then(|labels| labels.get("k8s-app"))
            .map(String::as_str)
            == Some("kube-dns")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    conditions
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn node_state(node: &Node, running: &BTreeMap<String, usize>) -> NodeState {
    let name = node.metadata.name.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let spec = node.spec.clone().unwrap_or_default();
    let condition = status
        .conditions
        .unwrap_or_default()
        .into_iter()
        .find(|condition| condition.type_ == "Ready");
    let ready = condition
        .as_ref()
        .is_some_and(|condition| condition.status == "True");
    let reason = match condition {
        Some(_) if ready => String::new(),
        Some(condition) => condition
            .message
            .filter(|message| !message.is_empty())
            .or(condition.reason)
            .unwrap_or_default(),
        None => "the kubelet has not said yet".to_owned(),
    };
    NodeState {
        ready,
        reason,
        addresses: status
            .addresses
            .unwrap_or_default()
            .into_iter()
            .filter(|address| address.type_ == "InternalIP")
            .map(|address| address.address)
            .collect(),
        pod_cidrs: spec
            .pod_cidrs
            .or_else(|| spec.pod_cidr.map(|range| vec![range]))
            .unwrap_or_default(),
        pods: running.get(&name).copied().unwrap_or(0),
        name,
    }
}

pub(super) fn describe(error: &kube::Error) -> String {
    // The API's own words name the field, the value and what is allowed.
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    super::supervise::describe(error)
}

/// The objects of a manifest: YAML documents, or JSON. A `List` stands for its items.
///
/// # Errors
/// [`Error::Manifest`].
pub fn objects(name: &str, text: &str) -> Result<Vec<Value>, Error> {
    let mut found = Vec::new();
    for (position, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let wrong = |message: String| Error::Manifest {
            name: name.to_owned(),
            document: position + 1,
            message,
        };
        let value: Value =
            serde::Deserialize::deserialize(document).map_err(|error| wrong(error.to_string()))?;
        match &value {
            Value::Null => continue,
            Value::Object(_) => {}
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(wrong("is not an object".to_owned()));
            }
        }
        if value["kind"] == "List" {
            if let Some(items) = value["items"].as_array() {
                found.extend(items.iter().cloned());
            }
            continue;
        }
        for field in ["/apiVersion", "/kind", "/metadata/name"] {
            if value.pointer(field).and_then(Value::as_str).is_none() {
                return Err(wrong(format!(
                    "{}: Required value",
                    field.trim_start_matches('/').replace('/', ".")
                )));
            }
        }
        found.push(value);
    }
    Ok(found)
}

/// weft's own manifest with a lab's ranges, API address and DNS address in it: what a person
/// would set before applying it to a cluster.
///
/// # Errors
/// [`Error::Manifest`] when the manifest does not have the places to set.
pub fn own_manifest(text: &str, plan: &Plan) -> Result<Vec<Value>, Error> {
    const NAME: &str = "deploy/weft.yaml";
    let mut objects = objects(NAME, text)?;
    let dns: Vec<String> = plan.dns_service().iter().map(ToString::to_string).collect();
    let families: Vec<&str> = plan
        .service_cidrs
        .iter()
        .map(|range| {
            if range.addr().is_ipv4() {
                "IPv4"
            } else {
                "IPv6"
            }
        })
        .collect();
    let mut set = 0;
    for (position, object) in objects.iter_mut().enumerate() {
        let is =
            |kind: &str, name: &str| object["kind"] == kind && object["metadata"]["name"] == name;
        if is("ConfigMap", "weft") {
            let lines = [
                ("podCIDRs", json!(plan.pod_cidrs)),
                ("serviceCIDRs", json!(plan.service_cidrs)),
                ("apiServer", json!(plan.api_url_inside())),
            ];
            let file = object["data"]["config.yaml"].as_str().unwrap_or_default();
            let changed = with_lines(file, &lines).map_err(|key| Error::Manifest {
                name: NAME.to_owned(),
                document: position + 1,
                message: format!("data[config.yaml] has no line {key:?} to set"),
            })?;
            object["data"]["config.yaml"] = Value::String(changed);
            set += 1;
        } else if is("Service", "kube-dns") {
            let policy = if families.len() > 1 {
                "RequireDualStack"
            } else {
                "SingleStack"
            };
            object["spec"]["clusterIP"] = json!(dns.first());
            object["spec"]["clusterIPs"] = json!(dns);
            object["spec"]["ipFamilies"] = json!(families);
            object["spec"]["ipFamilyPolicy"] = json!(policy);
            set += 1;
        }
    }
    if set == 2 {
        debug!(objects = objects.len(), "own manifest");
        Ok(objects)
    } else {
        Err(Error::Manifest {
            name: NAME.to_owned(),
            document: objects.len(),
            message: "ConfigMap weft or Service kube-dns is missing".to_owned(),
        })
    }
}

/// A flat YAML text with the values of some keys replaced; comments stay.
fn with_lines<'a>(text: &str, values: &[(&'a str, Value)]) -> Result<String, &'a str> {
    let mut left: Vec<&str> = values.iter().map(|(key, _)| *key).collect();
    let changed: Vec<String> = text
        .lines()
        .map(|line| {
            let found = values.iter().find(|(key, _)| {
                line.strip_prefix(key)
                    .is_some_and(|rest| rest.starts_with(':'))
            });
            match found {
                Some((key, value)) => {
                    left.retain(|other| other != key);
                    // JSON is YAML.
                    format!("{key}: {value}")
                }
                None => line.to_owned(),
            }
        })
        .collect();
    match left.first() {
        Some(key) => Err(key),
        None => Ok(changed.join("\n") + "\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::{Chosen, Families, Request};

    fn plan(families: Families) -> Plan {
        Plan::new(&Request {
            name: "weft".to_owned(),
            nodes: None,
            node_names: Vec::new(),
            families,
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_cidrs: Vec::new(),
            chosen: Chosen::default(),
            zones: Vec::new(),
            settings: crate::lab::settings::NodeSettings::default(),
        })
        .unwrap()
    }

    #[test]
    fn the_shipped_manifest_takes_a_labs_settings() {
        let shipped = include_str!("../../../../../deploy/weft.yaml");
        let objects = own_manifest(shipped, &plan(Families::Ipv6)).unwrap();
        let find = |kind: &str, name: &str| {
            objects
                .iter()
                .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
                .unwrap()
        };
        let service = find("Service", "kube-dns");
        assert_eq!(service["spec"]["clusterIPs"], json!(["fd00:10:96::a"]));
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv6"]));
        assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
        let config = find("ConfigMap", "weft")["data"]["config.yaml"]
            .as_str()
            .unwrap();
        assert!(
            config.contains("podCIDRs: [\"fd00:10:244::/56\"]\n"),
            "{config}"
        );
        assert!(
            config.contains("apiServer: \"https://[fd00:172:30::1]:6443\"\n"),
            "{config}"
        );
        assert!(config.contains("# How Services"), "comments stay: {config}");
    }

    #[test]
    fn a_manifest_that_is_none_is_named() {
        let say = |text: &str| objects("f.yaml", text).unwrap_err().to_string();
        assert_eq!(say("a\n"), "f.yaml: document 1: is not an object");
        assert_eq!(
            say("apiVersion: v1\nkind: Pod\n---\nkind: Pod\n"),
            "f.yaml: document 1: metadata.name: Required value"
        );
        assert!(say("a: [").starts_with("f.yaml: document 1: "));
        assert_eq!(
            objects("f", "---\n---\n# nothing\n").unwrap(),
            Vec::<Value>::new()
        );
    }
}
