//! The API server alone: killed while many write.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weft_apiserver::Pki;
use weft_kube::k8s_openapi::api::core::v1::ConfigMap;
use weft_kube::kube::api::{DeleteParams, ListParams, ObjectList, PostParams};
use weft_kube::kube::{self, Api};
use weft_kube::{Access, Client};
use weft_netlab::process::{Child, Spawn};

use crate::lab::PATIENCE;

const WRITERS: usize = 8;
/// What an object is created with, so that the store's log (4 MiB) turns in nearly every round.
const LONG: usize = 100 << 10;

/// What is known of one object; `None`: it is not there.
pub(crate) type Value = Option<u64>;

/// What clients know.
#[derive(Default)]
struct Known {
    /// What the server has acknowledged.
    acknowledged: BTreeMap<String, Value>,
    /// What was asked for and not answered: it may have happened.
    asked: BTreeMap<String, Value>,
    /// The newest version that an answer has named.
    version: u64,
    count: u64,
}

/// A server's folder, and the listener that outlives it.
pub(crate) struct Setting {
    folder: PathBuf,
    listener: TcpListener,
    pub(crate) kubeconfig: PathBuf,
}

impl Setting {
    pub(crate) fn new(folder: &Path) -> Self {
        let pki = Pki::load_or_generate(&folder.join("pki"), "test").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let client = pki.client("admin", "system:masters").unwrap();
        let kubeconfig = folder.join("kubeconfig");
        let text = weft_apiserver::kubeconfig("test", &server, pki.ca_certificate(), &client);
        fs::write(&kubeconfig, text).unwrap();
        Setting {
            folder: folder.to_owned(),
            listener,
            kubeconfig,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    pub(crate) fn start(&self) -> Child {
        self.start_with(&[])
    }

    /// Starts a server with more arguments.
    pub(crate) fn start_with(&self, arguments: &[&str]) -> Child {
        let program = Spawn::new(env!("CARGO_BIN_EXE_weft"));
        self.spawn(program, &self.folder.join("store.redb"), arguments)
    }

    /// Starts a server by a program that takes a server's arguments.
    pub(crate) fn start_as(&self, program: Spawn, store: &Path) -> Child {
        self.spawn(program, store, &[])
    }

    /// What the servers have written.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    fn spawn(&self, program: Spawn, store: &Path, arguments: &[&str]) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .unwrap();
        program
            .args(["internal", "apiserver", "--listen-fd", "3"])
            .args(["--service-cidr", "10.96.0.0/24"])
            .args(["--cluster-domain", "cluster.local"])
            .arg("--pki")
            .arg(self.folder.join("pki"))
            .arg("--store")
            .arg(store)
            .args(arguments.iter().copied())
            .descriptor(File::open("/dev/null").unwrap(), 0)
            .descriptor(log.try_clone().unwrap(), 1)
            .descriptor(log, 2)
            .descriptor(self.listener.try_clone().unwrap(), 3)
            .dies_with_parent()
            .spawn()
            .unwrap()
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A client with connections of its own.
pub(crate) async fn connect(kubeconfig: &Path) -> Api<ConfigMap> {
    let access = Access {
        kubeconfig: Some(kubeconfig.to_owned()),
        ..Access::default()
    };
    let client: Client = weft_kube::connect(&access, "test").await.unwrap();
    Api::namespaced(client, "default")
}

pub(crate) fn config_map(name: &str, value: u64) -> ConfigMap {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": name},
        "data": {"value": value.to_string()},
    }))
    .unwrap()
}

pub(crate) fn value_of(object: &ConfigMap) -> Value {
    object.data.as_ref()?.get("value")?.parse().ok()
}

fn version_of(object: &ConfigMap) -> u64 {
    let version = object.metadata.resource_version.as_deref();
    version.unwrap().parse().unwrap()
}

/// Creates, replaces and deletes objects of its own until the server is gone.
async fn write(api: Api<ConfigMap>, prefix: String, known: Arc<Mutex<Known>>) {
    for number in 0.. {
        // Each object is created, then replaced, then two of three are deleted.
        let name = format!("{prefix}-{}", number / 3);
        let wanted = match number % 3 {
            0 => Some(number),
            1 => Some(number + 1),
            _ if number / 3 % 3 == 0 => continue,
            _ => None,
        };
        let before = {
            let mut known = known.lock().unwrap();
            known.asked.insert(name.clone(), wanted);
            known.version
        };
        let done: kube::Result<Option<u64>> = match wanted {
            Some(value) if number % 3 == 0 => {
                let mut object = config_map(&name, value);
                let data = object.data.get_or_insert_default();
                data.insert("long".to_owned(), "x".repeat(LONG));
                let created = api.create(&PostParams::default(), &object).await;
                created.map(|object| Some(version_of(&object)))
            }
            Some(value) => {
                let object = config_map(&name, value);
                let replaced = api.replace(&name, &PostParams::default(), &object).await;
                replaced.map(|object| Some(version_of(&object)))
            }
            None => {
                let deleted = api.delete(&name, &DeleteParams::default()).await;
                deleted.map(|_| None)
            }
        };
        let version = match done {
            Ok(version) => version,
            Err(kube::Error::Api(refused)) => panic!("{name}: {refused:?}"),
            Err(_) => return,
        };
        let mut known = known.lock().unwrap();
        if let Some(version) = version {
            assert!(version > before, "{name}: {version} after {before}");
            known.version = known.version.max(version);
        }
        known.asked.remove(&name);
        known.acknowledged.insert(name, wanted);
        known.count += 1;
    }
}

/// Everything that was acknowledged is there, and nothing that nobody has asked for.
fn check(known: &mut Known, found: &BTreeMap<String, u64>) {
    let asked = std::mem::take(&mut known.asked);
    let names = asked.keys().chain(known.acknowledged.keys()).cloned();
    let names: Vec<String> = names.collect();
    for name in &names {
        let acknowledged = known.acknowledged.get(name).copied().flatten();
        let actual = found.get(name).copied();
        assert!(
            actual == acknowledged || asked.get(name) == Some(&actual),
            "{name}: {actual:?} is stored, {acknowledged:?} was acknowledged, {:?} was asked for",
            asked.get(name)
        );
        known.acknowledged.insert(name.clone(), actual);
    }
    for name in found.keys() {
        assert!(known.acknowledged.contains_key(name), "{name} from nowhere");
    }
}

/// The list of a server that starts: a client gives up on a connection before a slow machine's
/// server has read its store.
async fn first_list(api: &Api<ConfigMap>) -> ObjectList<ConfigMap> {
    loop {
        match api.list(&ListParams::default()).await {
            Err(kube::Error::Service(_)) => {}
            answered => return answered.unwrap(),
        }
    }
}

/// Kills the server so many times.
pub(crate) fn killed_while_writing(rounds: usize) {
    let folder = tempfile::tempdir().unwrap();
    let setting = Setting::new(folder.path());
    let runtime = runtime();
    let known = Arc::new(Mutex::new(Known::default()));
    for round in 0..=rounds {
        let server = setting.start();
        runtime.block_on(async {
            let api = connect(&setting.kubeconfig).await;
            let list = tokio::time::timeout(PATIENCE, first_list(&api)).await;
            let list = list.expect("the server starts again");
            let version: u64 = list.metadata.resource_version.unwrap().parse().unwrap();
            let found = list.items.iter().filter_map(|object| {
                // What every namespace has by itself has no value.
                Some((object.metadata.name.clone()?, value_of(object)?))
            });
            let before = {
                let mut known = known.lock().unwrap();
                assert!(version >= known.version, "round {round}");
                check(&mut known, &found.collect());
                known.count
            };
            if round == rounds {
                return;
            }
            let mut writers = tokio::task::JoinSet::new();
            for writer in 0..WRITERS {
                let api = connect(&setting.kubeconfig).await;
                let prefix = format!("round-{round}-{writer}");
                writers.spawn(write(api, prefix, Arc::clone(&known)));
            }
            // At another moment in every round.
            let enough = before + 20 + (round as u64 * 37) % 150;
            let reached = async {
                while known.lock().unwrap().count < enough {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(PATIENCE, reached)
                .await
                .expect("writes go on");
            server.end();
            while let Some(ended) = writers.join_next().await {
                ended.unwrap();
            }
        });
    }
}
