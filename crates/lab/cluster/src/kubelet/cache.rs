//! What pods refer to, kept by watching: Services for variables, ConfigMaps and Secrets for
//! variables and volumes.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use weft_kube::Client;
use weft_kube::k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use weft_kube::kube::runtime::watcher::{self, Event};
use weft_kube::kube::{Api, Resource};

/// By namespace and name.
type Objects<K> = BTreeMap<(String, String), Arc<K>>;

/// All objects of one kind.
#[derive(Debug)]
pub struct Store<K> {
    objects: Arc<Mutex<Objects<K>>>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Store {
            objects: Arc::clone(&self.objects),
        }
    }
}

impl<K> Store<K> {
    fn new() -> Self {
        Store {
            objects: Arc::new(Mutex::new(BTreeMap::new())),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Objects<K>) -> T) -> T {
        work(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One object.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.with(|objects| {
            objects
                .get(&(namespace.to_owned(), name.to_owned()))
                .cloned()
        })
    }

    /// All of them, in order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.with(|objects| objects.values().cloned().collect())
    }
}

/// The kubelet's caches.
#[derive(Clone)]
pub struct Cache {
    client: Client,
    services: Store<Service>,
    config_maps: Store<ConfigMap>,
    secrets: Store<Secret>,
    services_synced: watch::Receiver<u64>,
    volumes_changed: watch::Receiver<u64>,
}

impl Cache {
    /// Starts watching.
    #[must_use]
    pub fn start(client: Client) -> Self {
        let (services_changed, services_synced) = watch::channel(0);
        let (changed, volumes_changed) = watch::channel(0);
        let changed = Arc::new(changed);
        Cache {
            services: follow(client.clone(), Arc::new(services_changed)),
            config_maps: follow(client.clone(), Arc::clone(&changed)),
            secrets: follow(client.clone(), changed),
            client,
            services_synced,
            volumes_changed,
        }
    }

    /// Every Service, once they are known at all.
    pub async fn services(&self) -> Vec<Arc<Service>> {
        let mut synced = self.services_synced.clone();
        // An error means that the watch has ended with the kubelet.
        let _ended = synced.wait_for(|count| *count > 0).await;
        self.services.all()
    }

    /// A ConfigMap. One that the watch has not told of yet is asked for.
    ///
    /// # Errors
    /// When the API cannot be asked.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, weft_kube::kube::Error> {
        if let Some(found) = self.config_maps.get(namespace, name) {
            return Ok(Some(found));
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        Ok(api.get_opt(name).await?.map(Arc::new))
    }

    /// A Secret. One that the watch has not told of yet is asked for.
    ///
    /// # Errors
    /// When the API cannot be asked.
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Secret>>, weft_kube::kube::Error> {
        if let Some(found) = self.secrets.get(namespace, name) {
            return Ok(Some(found));
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        Ok(api.get_opt(name).await?.map(Arc::new))
    }

    /// The version of a ConfigMap that the watch knows.
    #[must_use]
    pub fn config_map_version(&self, namespace: &str, name: &str) -> Option<String> {
        let found = self.config_maps.get(namespace, name)?;
        found.metadata.resource_version.clone()
    }

    /// The version of a Secret that the watch knows.
    #[must_use]
    pub fn secret_version(&self, namespace: &str, name: &str) -> Option<String> {
        let found = self.secrets.get(namespace, name)?;
        found.metadata.resource_version.clone()
    }

    /// Counts the changes of ConfigMaps and Secrets.
    #[must_use]
    pub fn volumes_changed(&self) -> watch::Receiver<u64> {
        self.volumes_changed.clone()
    }
}

fn follow<K>(client: Client, changed: Arc<watch::Sender<u64>>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let store = Store::new();
    let target = store.clone();
    tokio::spawn(async move {
        let key = |object: &K| {
            let metadata = object.meta();
            (
                metadata.namespace.clone().unwrap_or_default(),
                metadata.name.clone().unwrap_or_default(),
            )
        };
        let mut listed = BTreeMap::new();
        let mut listing = false;
        let api: Api<K> = Api::all(client);
        let stream = watcher::watcher(api, watcher::Config::default());
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => {
                    listing = true;
                    listed.clear();
                }
                Ok(Event::InitApply(object)) => {
                    listed.insert(key(&object), Arc::new(object));
                }
                Ok(Event::InitDone) => {
                    listing = false;
                    target.with(|objects| *objects = std::mem::take(&mut listed));
                }
                Ok(Event::Apply(object)) => {
                    target.with(|objects| objects.insert(key(&object), Arc::new(object)));
                }
                Ok(Event::Delete(object)) => {
                    target.with(|objects| objects.remove(&key(&object)));
                }
                Err(error) => {
                    tracing::debug!(%error, kind = %K::kind(&()), "watch interrupted");
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                    continue;
                }
            }
            if !listing {
                changed.send_modify(|count| *count += 1);
            }
        }
    });
    store
}
