//! A kind of object: a row of data.

use jiff::Timestamp;
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use crate::protobuf::written;
use crate::read::{int, list, map_mut, text};
use crate::{FieldError, print};

/// Whether objects of a kind live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One set of names a cluster.
    Cluster,
    /// One set of names a namespace.
    Namespaced,
}

/// A part of an object with an endpoint of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The path's last element: `status`, `scale`, `binding`, `log`.
    pub name: &'static str,
    /// API version of the body (`v1`, `autoscaling/v1`), where it is not the parent's.
    pub api_version: &'static str,
    /// Kind of the body.
    pub kind: &'static str,
    /// The verbs discovery shows.
    pub verbs: &'static [&'static str],
}

/// A column of `kubectl get`, as `metav1.TableColumnDefinition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading, as the server writes it (kubectl upper-cases it).
    pub name: &'static str,
    /// OpenAPI type of the cells.
    pub column_type: &'static str,
    /// OpenAPI format; `name` marks the object's name.
    pub format: &'static str,
    /// What the column says.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

/// How a kind shows objects that another group stores.
#[derive(Clone, Copy)]
pub(crate) struct View {
    /// The group that stores them, under the same plural.
    pub(crate) group: &'static str,
    /// Makes a stored object one of this kind.
    pub(crate) read: fn(&mut Value),
    /// Makes an object of this kind what is stored.
    pub(crate) store: fn(&mut Value),
}

/// Everything an API server has to know about a kind.
#[derive(Clone, Copy)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The kind of its lists.
    pub list_kind: &'static str,
    /// Plural name: the resource in URLs.
    pub plural: &'static str,
    /// Singular name.
    pub singular: &'static str,
    /// Names kubectl accepts instead.
    pub short_names: &'static [&'static str],
    /// Groups of kinds kubectl accepts instead, such as `all`.
    pub categories: &'static [&'static str],
    /// Namespaced or not.
    pub scope: Scope,
    /// The verbs discovery shows.
    pub verbs: &'static [&'static str],
    /// Parts with endpoints of their own.
    pub subresources: &'static [Subresource],
    /// Columns, one for each cell of [`Kind::cells`].
    pub columns: &'static [Column],
    pub(crate) cells: fn(&Value, Timestamp) -> Vec<Value>,
    pub(crate) schema: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) definition: &'static str,
    pub(crate) defaults: fn(&mut Value),
    pub(crate) create: fn(&mut Value),
    pub(crate) update: fn(&mut Value, &Value),
    /// Rules of every version of an object.
    pub(crate) validate: fn(&Value) -> Vec<FieldError>,
    /// Rules of a new object only.
    pub(crate) validate_new: fn(&Value) -> Vec<FieldError>,
    /// Rules between an object and the one it replaces.
    pub(crate) validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// Rules of an object written at its `status` endpoint.
    pub(crate) validate_status: fn(&Value, &Value) -> Vec<FieldError>,
    /// What `metadata.name` must look like.
    pub(crate) name_syntax: fn(&str, bool) -> Vec<String>,
    /// Field selectors besides `metadata.name` and `metadata.namespace`.
    pub(crate) selectable: &'static [&'static str],
    /// Whether `metadata.generation` counts changes of the spec.
    pub(crate) counts_generation: bool,
    /// Set where the objects are another kind's in another form.
    pub(crate) view: Option<View>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.kind)
    }
}

impl Kind {
    /// `apiVersion` of its objects: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            return self.version.to_owned();
        }
        format!("{}/{}", self.group, self.version)
    }

    /// Whether its objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The group under which its objects are stored; its own but for a kind that is another
    /// one in another form.
    pub fn stored_group(&self) -> &'static str {
        self.view.map_or(self.group, |view| view.group)
    }

    /// Whether its objects are stored as clients read them.
    pub fn reads_as_stored(&self) -> bool {
        self.view.is_none()
    }

    /// Makes a stored object what clients of this kind read.
    pub fn read_stored(&self, object: &mut Value) {
        if let Some(view) = self.view {
            (view.read)(object);
        }
    }

    /// Makes an object of this kind what is stored.
    pub fn store(&self, object: &mut Value) {
        if let Some(view) = self.view {
            (view.store)(object);
        }
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|one| one.name == name)
    }

    /// The row of `kubectl get` for one object: one cell per [`Kind::columns`].
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.cells)(object, now)
    }

    /// What marks the row of one object as over: `metav1.TableRowCondition`s.
    pub fn row_conditions(&self, object: &Value) -> Vec<Value> {
        match self.kind {
            "Pod" => print::pod_conditions(object),
            _ => Vec::new(),
        }
    }

    /// Fills in what Kubernetes fills in where the document is silent.
    pub fn set_defaults(&self, object: &mut Value) {
        (self.defaults)(object);
        written::fill(self, object);
    }

    /// The object with everything that Kubernetes always writes of this kind, null where
    /// nothing is said. `{}` stands for a new object.
    pub fn written(&self, object: &Value) -> Value {
        let mut object = object.clone();
        written::fill_with_nulls(self, &mut object);
        object
    }

    /// Paths of what a write at the `status` endpoint leaves as it is.
    pub fn outside_status(&self) -> &'static [&'static [&'static str]] {
        match self.kind {
            "Pod" => &[
                &["spec"],
                &["metadata", "deletionTimestamp"],
                &["metadata", "ownerReferences"],
            ],
            "Deployment" => &[&["spec"], &["metadata", "labels"]],
            _ => &[&["spec"]],
        }
    }

    /// The name of the kind's schema in OpenAPI: `io.k8s.api.core.v1.Service`.
    pub fn definition(&self) -> &'static str {
        self.definition
    }

    /// Whether a PUT creates an object that is not there: what Kubernetes' strategies call
    /// `AllowCreateOnUpdate`.
    pub fn creates_on_update(&self) -> bool {
        const CREATED: [&str; 10] = [
            "Service",
            "Endpoints",
            "Event",
            "LimitRange",
            "Lease",
            "Role",
            "RoleBinding",
            "ClusterRole",
            "ClusterRoleBinding",
            "RuntimeClass",
        ];
        CREATED.contains(&self.kind)
    }

    /// Whether a delete is answered with the object's last state and not with a Status: what
    /// Kubernetes' stores call `ReturnDeletedObject`.
    pub fn shows_deleted(&self) -> bool {
        const SHOWN: [&str; 9] = [
            "Namespace",
            "Pod",
            "PodTemplate",
            "Service",
            "ServiceAccount",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "ResourceQuota",
            "StorageClass",
        ];
        SHOWN.contains(&self.kind)
    }

    /// Why the object of this name may never be deleted: a cluster needs these Namespaces
    /// (Kubernetes' NamespaceLifecycle admission).
    pub fn forbids_deletion(&self, name: &str) -> Option<&'static str> {
        let needed =
            self.kind == "Namespace" && matches!(name, "default" | "kube-system" | "kube-public");
        needed.then_some("this namespace may not be deleted")
    }

    /// Seconds an object lives on after a delete: a pod that runs somewhere has time to
    /// end, everything else goes at once.
    pub fn grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        if self.kind != "Pod" {
            return None;
        }
        let ended = matches!(text(object, &["status", "phase"]), "Succeeded" | "Failed");
        if text(object, &["spec", "nodeName"]).is_empty() || ended {
            return Some(0);
        }
        let period = requested
            .or_else(|| int(object, &["spec", "terminationGracePeriodSeconds"]))
            .unwrap_or(0);
        // As in Kubernetes: less than nothing is as little as there is.
        Some(if period < 0 { 1 } else { period })
    }

    /// Whether garbage collection looks at the objects of this kind.
    pub fn collects_dependents(&self) -> bool {
        self.kind != "Event"
    }

    /// Marks an object whose deletion begins: a Namespace terminates.
    pub fn begin_delete(&self, object: &mut Value) {
        if self.kind != "Namespace" {
            return;
        }
        if let Some(status) = map_mut(object, &["status"]) {
            status.insert("phase".to_owned(), "Terminating".into());
        }
        if let Some(metadata) = map_mut(object, &["metadata"]) {
            // It is given no time, and Kubernetes does not even say so.
            metadata.remove("deletionGracePeriodSeconds");
        }
    }

    /// Whether something besides `metadata.finalizers` still holds a deleted object: a
    /// Namespace waits until it is empty.
    pub fn holds_deletion(&self, object: &Value) -> bool {
        self.kind == "Namespace" && !list(object, &["spec", "finalizers"]).is_empty()
    }

    /// Names of the field selectors this kind has besides `metadata.*`.
    pub fn field_selectors(&self) -> &'static [&'static str] {
        self.selectable
    }

    /// The value a field selector compares: `None` for a field that can't be selected by,
    /// empty for one that is unset.
    pub fn field_value(&self, object: &Value, field: &str) -> Option<String> {
        let known = self.selectable.contains(&field)
            || field == "metadata.name"
            || (field == "metadata.namespace" && self.namespaced());
        if !known {
            return None;
        }
        if field == "source" {
            return Some(event_source(object).to_owned());
        }
        let mut here = object;
        for part in field.split('.') {
            match here.get(part) {
                Some(next) => here = next,
                None => return Some(unset(field)),
            }
        }
        Some(match here {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => here.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => unset(field),
        })
    }
}

/// Who reported an Event, under the older name or the newer.
fn event_source(event: &Value) -> &str {
    match text(event, &["source", "component"]) {
        "" => text(event, &["reportingComponent"]),
        component => component,
    }
}

/// A boolean that is not set selects as `false`, anything else as the empty text.
fn unset(field: &str) -> String {
    match field {
        "spec.hostNetwork" | "spec.unschedulable" => "false".to_owned(),
        _ => String::new(),
    }
}
