//! The registry of all kinds, those that definitions describe included.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;
use tokio::sync::watch;

use super::definition::{Definition, Version, is_true};
use super::strategy::Custom;
use super::{COLLECTION, Common, columns, rules};
use crate::body::hash;
use crate::object::Object;
use crate::resource::{ALL_VERBS, Registry, Resource, Subresource};
use crate::state::{Change, Event};

/// Keeps the registry in step with the definitions in the store.
pub(crate) struct Catalog {
    /// The kinds that are always there.
    fixed: Arc<Registry>,
    registry: Arc<RwLock<Arc<Registry>>>,
    /// `None`: this server serves no definitions.
    common: Option<Common>,
    kinds: BTreeMap<Box<str>, Kinds>,
}

/// What one definition makes.
struct Kinds {
    /// A hash of what it is made of; as long as that stays, so do they.
    source: String,
    resources: Vec<Arc<Resource>>,
    /// For what is stored of it, whatever is served.
    storage: Option<Arc<Resource>>,
    ended: watch::Sender<bool>,
}

impl Catalog {
    pub(crate) fn new(registry: Arc<RwLock<Arc<Registry>>>, common: Option<Common>) -> Self {
        let fixed = registry
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Self {
            fixed,
            registry,
            common,
            kinds: BTreeMap::new(),
        }
    }

    /// Takes the definitions there are.
    pub(crate) fn load(&mut self, definitions: impl Iterator<Item = Arc<Object>>) {
        for definition in definitions {
            self.take(&definition);
        }
        self.publish();
    }

    /// Takes committed changes of definitions.
    pub(crate) fn absorb(&mut self, changes: &[(String, Arc<Event>)]) {
        let mut changed = false;
        for (_, event) in changes.iter().filter(|(name, _)| name == COLLECTION) {
            changed |= match event.change {
                Change::Added | Change::Modified => self.take(&event.object),
                Change::Deleted => match self.kinds.remove(&event.object.name) {
                    Some(kinds) => {
                        kinds.ended.send_replace(true);
                        true
                    }
                    None => false,
                },
            };
        }
        if changed {
            self.publish();
        }
    }

    /// Whether the definition's kinds are others now.
    fn take(&mut self, text: &Arc<Object>) -> bool {
        let Some(common) = self.common.clone() else {
            return false;
        };
        let object = text.value();
        let source = serde_json::json!([
            object["metadata"]["uid"],
            object["spec"],
            object["status"]["acceptedNames"],
            is_true(&object, "Established"),
        ]);
        let source = hash([source.to_string().as_bytes()]);
        let held = self.kinds.get(&text.name);
        if held.is_some_and(|held| held.source == source) {
            return false;
        }
        for warning in rules::warnings(&object) {
            tracing::info!(
                definition = &*text.name,
                warning,
                "a definition is served with less than it asks for"
            );
        }
        let established = is_true(&object, "Established");
        let definition = Arc::new(Definition::read(&object));
        let (ended, end) = watch::channel(false);
        let build = |at: usize| {
            let version = &definition.versions[at];
            let api_version = format!("{}/{}", definition.group, version.name);
            let strategy = Custom {
                definition: definition.clone(),
                at,
                common: common.clone(),
                text: text.clone(),
                since: text.version,
                ended: end.clone(),
                beginning: format!("{{\"apiVersion\":{},", Value::from(api_version)),
            };
            Arc::new(resource(&definition, version, strategy))
        };
        let versions = definition.versions.iter().enumerate();
        let served = versions
            .clone()
            .filter(|(_, one)| established && one.served);
        let resources = served.map(|(at, _)| build(at)).collect();
        let storage = versions
            .clone()
            .find(|(_, one)| one.storage)
            .map(|(at, _)| build(at));
        let kinds = Kinds {
            source,
            resources,
            storage,
            ended,
        };
        if let Some(held) = self.kinds.insert(text.name.clone(), kinds) {
            held.ended.send_replace(true);
        }
        true
    }

    fn publish(&self) {
        let served = self
            .kinds
            .values()
            .flat_map(|kinds| kinds.resources.iter().cloned());
        let stored = self
            .kinds
            .values()
            .filter_map(|kinds| kinds.storage.clone());
        let registry = self.fixed.with(served, stored);
        *self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
    }
}

fn resource(definition: &Definition, version: &Version, strategy: Custom) -> Resource {
    let names = &definition.names;
    let verbs = ["get", "patch", "update"].map(str::to_owned).to_vec();
    let mut subresources = Vec::new();
    if version.has_status {
        subresources.push(Subresource {
            name: "status".to_owned(),
            group: definition.group.clone(),
            version: version.name.clone(),
            kind: names.kind.clone(),
            verbs: verbs.clone(),
        });
    }
    if version.scale.is_some() {
        subresources.push(Subresource {
            name: "scale".to_owned(),
            group: "autoscaling".to_owned(),
            version: "v1".to_owned(),
            kind: "Scale".to_owned(),
            verbs,
        });
    }
    Resource {
        group: definition.group.clone(),
        version: version.name.clone(),
        kind: names.kind.clone(),
        list_kind: names.list_kind.clone(),
        plural: names.plural.clone(),
        singular: names.singular.clone(),
        short_names: names.short_names.clone(),
        categories: names.categories.clone(),
        namespaced: definition.namespaced,
        verbs: ALL_VERBS.map(str::to_owned).to_vec(),
        subresources,
        columns: columns::headings(&version.columns),
        strategy: Arc::new(strategy),
    }
}
