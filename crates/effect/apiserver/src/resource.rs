//! The seam between the server and the kinds it serves.
//!
//! A kind is a [`Resource`]: names and columns as data, and a [`Strategy`] for what
//! depends on the kind. The server never looks into `spec` or `status` itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::custom::Scale;
use crate::status::ApiError;

/// A kind of object, as the server serves it.
#[derive(Clone)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// The kind.
    pub kind: String,
    /// The kind of its lists.
    pub list_kind: String,
    /// Plural name: the resource in URLs.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Names kubectl accepts instead.
    pub short_names: Vec<String>,
    /// Groups of kinds kubectl accepts instead, such as `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// The verbs it is served with.
    pub verbs: Vec<String>,
    /// Parts with endpoints of their own.
    pub subresources: Vec<Subresource>,
    /// Columns of its tables, one for each cell of [`Strategy::cells`].
    pub columns: Vec<Column>,
    /// What depends on the kind.
    pub strategy: Arc<dyn Strategy>,
}

/// The verbs of a kind that is stored and can be changed.
pub const ALL_VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// A part of an object with an endpoint of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The path's last element: `status`, `scale`, `binding`, `log`.
    pub name: String,
    /// API group of the body.
    pub group: String,
    /// API version of the body.
    pub version: String,
    /// Kind of the body.
    pub kind: String,
    /// The verbs discovery shows.
    pub verbs: Vec<String>,
}

/// A column of a table (`metav1.TableColumnDefinition`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: String,
    /// OpenAPI type of the cells.
    pub column_type: String,
    /// OpenAPI format; `name` marks the object's name.
    pub format: String,
    /// What the column says.
    pub description: String,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

/// What is wrong with a field; the names are `metav1.CauseType`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldReason {
    /// A value that must be there is not.
    Required,
    /// A value that must be unique occurs twice.
    Duplicate,
    /// A malformed or out-of-bounds value.
    Invalid,
    /// A value that is not of its field's type.
    TypeInvalid,
    /// A value outside an enumeration.
    NotSupported,
    /// A well-formed value that is not allowed here.
    Forbidden,
    /// A text longer than allowed.
    TooLong,
    /// More elements than allowed.
    TooMany,
    /// A reference to something that does not exist.
    NotFound,
    /// The server could not decide.
    Internal,
}

impl FieldReason {
    /// `reason` of a cause in `metav1.Status.details.causes`.
    pub fn as_str(self) -> &'static str {
        match self {
            FieldReason::Required => "FieldValueRequired",
            FieldReason::Duplicate => "FieldValueDuplicate",
            FieldReason::Invalid => "FieldValueInvalid",
            FieldReason::TypeInvalid => "FieldValueTypeInvalid",
            FieldReason::NotSupported => "FieldValueNotSupported",
            FieldReason::Forbidden => "FieldValueForbidden",
            FieldReason::TooLong => "FieldValueTooLong",
            FieldReason::TooMany => "FieldValueTooMany",
            FieldReason::NotFound => "FieldValueNotFound",
            FieldReason::Internal => "InternalError",
        }
    }
}

/// One violation of a kind's rules.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// The field: `spec.ports[0].port`.
    pub path: String,
    /// The class of the violation.
    pub reason: FieldReason,
    /// The text after the path, as Kubernetes words it:
    /// `Invalid value: 70000: must be between 1 and 65535, inclusive`.
    pub message: String,
}

/// A value as a complaint shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

/// A text as Go's `%q` shows it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            _ if letter.is_ascii_control() => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(letter)));
            }
            _ if letter.is_control() => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

impl FieldError {
    /// A malformed or out-of-bounds value.
    pub fn invalid(path: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            path: path.into(),
            reason: FieldReason::Invalid,
            message: format!("Invalid value: {}: {detail}", shown(value)),
        }
    }

    /// A value that must be given.
    pub fn required(path: impl Into<String>, detail: &str) -> Self {
        let mut message = "Required value".to_owned();
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        Self {
            path: path.into(),
            reason: FieldReason::Required,
            message,
        }
    }

    /// A value outside those that are allowed.
    pub fn not_supported(path: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        Self {
            path: path.into(),
            reason: FieldReason::NotSupported,
            message: format!(
                "Unsupported value: {value:?}: supported values: {}",
                supported.join(", ")
            ),
        }
    }

    /// A text longer than `longest` bytes.
    pub fn too_long(path: impl Into<String>, longest: usize) -> Self {
        Self {
            path: path.into(),
            reason: FieldReason::TooLong,
            message: format!("Too long: may not be more than {longest} bytes"),
        }
    }

    /// A value that is not of its field's type.
    pub(crate) fn type_invalid(path: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            reason: FieldReason::TypeInvalid,
            ..Self::invalid(path, value, detail)
        }
    }

    /// A value outside an enumeration.
    pub(crate) fn unsupported(path: impl Into<String>, value: &Value, allowed: &[Value]) -> Self {
        let allowed: Vec<String> = allowed
            .iter()
            .map(|one| match one.as_str() {
                Some(_) => one.to_string(),
                None => Value::from(one.to_string()).to_string(),
            })
            .collect();
        let allowed = allowed.join(", ");
        Self {
            path: path.into(),
            reason: FieldReason::NotSupported,
            message: format!("Unsupported value: {value}: supported values: {allowed}"),
        }
    }

    /// A value that occurs twice.
    pub(crate) fn duplicate(path: impl Into<String>, value: &Value) -> Self {
        Self {
            path: path.into(),
            reason: FieldReason::Duplicate,
            message: format!("Duplicate value: {value}"),
        }
    }

    /// A list or map with more than `most` elements.
    pub(crate) fn too_many(path: impl Into<String>, actual: u64, most: u64) -> Self {
        let unit = if most == 1 { "item" } else { "items" };
        Self {
            path: path.into(),
            reason: FieldReason::TooMany,
            message: format!("Too many: {actual}: must have at most {most} {unit}"),
        }
    }

    /// A value that is not allowed here.
    pub fn forbidden(path: impl Into<String>, detail: &str) -> Self {
        Self {
            path: path.into(),
            reason: FieldReason::Forbidden,
            message: format!("Forbidden: {detail}"),
        }
    }
}

/// How a strategic merge patch treats a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchList {
    /// The patch's list replaces the object's.
    Replace,
    /// Elements with the same value of this field are the same element.
    ByKey(String),
    /// Elements are scalars and are united.
    Set,
}

/// How server-side apply owns a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyList {
    /// One owner for the whole list.
    Atomic,
    /// An owner for each scalar.
    Set,
    /// An owner for each element, found by these fields.
    Map(Vec<String>),
}

/// What decoding a body found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Complaints of strict decoding, such as `unknown field "spec.replcas"`.
    pub unknown: Vec<String>,
    /// Values that are not of their field's type: the request can't be read.
    pub mismatches: Vec<String>,
}

/// Who and when: what a strategy may know about the request.
#[derive(Clone, Copy, Debug)]
pub struct WriteContext<'a> {
    /// The user who writes.
    pub user: &'a str,
    /// Now.
    pub now: Timestamp,
}

/// What depends on the kind. Objects are JSON documents with `apiVersion`, `kind` and
/// `metadata` set by the server.
///
/// A create runs `decode`, `default`, `prepare_create`, [`Admission::admit`], `validate`;
/// an update the same with `prepare_update` and `validate_update`.
pub trait Strategy: Send + Sync {
    /// Looks for unknown fields and wrong types, and drops what is unknown.
    fn decode(&self, object: &mut Value) -> Decoded {
        let _ = object;
        Decoded::default()
    }

    /// Fills in what Kubernetes fills in where the document is silent.
    fn default(&self, object: &mut Value) {
        let _ = object;
    }

    /// Drops what a client may not set on create, sets what the server sets.
    fn prepare_create(&self, object: &mut Value, context: WriteContext<'_>) {
        let _ = (object, context);
    }

    /// Keeps what an update may not change (at the main endpoint such as status, at the
    /// endpoint of a `subresource` everything else), and counts `metadata.generation`.
    fn prepare_update(
        &self,
        object: &mut Value,
        old: &Value,
        subresource: Option<&str>,
        context: WriteContext<'_>,
    ) {
        let _ = (object, old, subresource, context);
    }

    /// The kind's rules for a new object, metadata included.
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let _ = object;
        Vec::new()
    }

    /// The kind's rules for a changed object, metadata included.
    fn validate_update(
        &self,
        object: &Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Vec<FieldError> {
        let _ = (old, subresource);
        self.validate(object)
    }

    /// How a strategic merge patch treats the list at `path`: names of the fields that
    /// lead there, without indices. `None`: the kind has no strategic merge patch.
    fn patch_list(&self, path: &[&str]) -> Option<PatchList> {
        let _ = path;
        Some(PatchList::Replace)
    }

    /// How server-side apply owns the list at `path`.
    fn apply_list(&self, path: &[&str]) -> ApplyList {
        let _ = path;
        ApplyList::Atomic
    }

    /// Whether server-side apply owns the map at `path` whole.
    fn apply_map_is_atomic(&self, path: &[&str]) -> bool {
        let _ = path;
        false
    }

    /// The object with everything that its kind always writes, null where nothing is said:
    /// what owners of fields are found by. `{}` stands for a new object.
    fn written(&self, object: &Value) -> Value {
        object.clone()
    }

    /// Paths of what a write at the endpoint of the status leaves as it is.
    fn outside_status(&self) -> &'static [&'static [&'static str]] {
        &[&["spec"]]
    }

    /// `metav1.TableRowCondition`s of an object's row in a table: what marks a row as one that
    /// is over.
    fn row_conditions(&self, _object: &Value) -> Vec<Value> {
        Vec::new()
    }

    /// The row of a table for one object: one cell per [`Resource::columns`].
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value>;

    /// Names of the field selectors besides `metadata.name` and `metadata.namespace`.
    fn field_names(&self) -> Cow<'_, [&str]> {
        Cow::Borrowed(&[])
    }

    /// The value a field selector compares; empty for a field that is unset.
    fn field_value(&self, object: &Value, field: &str) -> String {
        let _ = (object, field);
        String::new()
    }

    /// The OpenAPI v3 schema of the kind, where the server has no document for its group.
    fn schema(&self) -> Option<Value> {
        None
    }

    /// Whether a PUT creates an object that is not there.
    fn creates_on_update(&self) -> bool {
        false
    }

    /// Whether a delete is answered with the object's last state and not with a Status.
    fn shows_deleted(&self) -> bool {
        false
    }

    /// Changes whenever [`Strategy::schema`] does, where that is cheaper to say.
    fn schema_mark(&self) -> Option<String> {
        None
    }

    /// What a client that writes this object is told besides the answer.
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let _ = (object, old);
        Vec::new()
    }

    /// What a client is told because this version is going to end.
    fn deprecation(&self) -> Option<&str> {
        None
    }

    /// Name and UID of the definition that makes this kind, if one does.
    fn definition(&self) -> Option<(&str, &str)> {
        None
    }

    /// Where replicas stand, if it is not where workloads have them.
    fn scale(&self) -> Option<&Scale> {
        None
    }

    /// Whether a replacement must say the version that it replaces.
    fn needs_version(&self) -> bool {
        false
    }

    /// Turns true when the kind is no longer served like this: watches end.
    fn ended(&self) -> Option<tokio::sync::watch::Receiver<bool>> {
        None
    }

    /// Whether the text of a stored object is what clients read. `version` is the object's.
    fn reads_as_stored(&self, json: &[u8], version: u64) -> bool {
        let _ = (json, version);
        true
    }

    /// The group whose objects these are, where the kind is another one in another form: its
    /// objects are stored among that group's of the same plural.
    fn stored_group(&self) -> Option<&str> {
        None
    }

    /// Makes a stored object what clients read: in their version of the kind, and by the
    /// schema of today.
    fn read_stored(&self, object: &mut Value) {
        let _ = object;
    }

    /// Makes an object what is stored.
    fn store(&self, object: &mut Value) {
        let _ = object;
    }

    /// Why the object of this name may never be deleted.
    fn forbids_deletion(&self, name: &str) -> Option<&'static str> {
        let _ = name;
        None
    }

    /// Seconds the object lives on after a delete, from what the request asks for; `None`: the
    /// kind's objects are given no time.
    fn grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let _ = (object, requested);
        None
    }

    /// Whether anybody deletes or orphans what the kind's objects own: else no deletion of
    /// one may wait for it.
    fn collects_dependents(&self) -> bool {
        true
    }

    /// Marks an object whose deletion begins, such as a Namespace's phase.
    fn begin_delete(&self, object: &mut Value) {
        let _ = object;
    }

    /// Whether something besides `metadata.finalizers` still holds a deleted object.
    fn holds_deletion(&self, object: &Value) -> bool {
        let _ = object;
        false
    }
}

/// A write an [`Admission`] is asked about, before it is validated.
pub enum Operation<'a> {
    /// A new object.
    Create {
        /// The object; allocations are written into it.
        object: &'a mut Value,
    },
    /// A changed object.
    Update {
        /// The object as it will be; allocations are written into it.
        object: &'a mut Value,
        /// The object as it is.
        old: &'a Value,
    },
    /// An object that goes away.
    Delete {
        /// The object as it is.
        old: &'a Value,
    },
}

/// Stateful allocation, such as Service addresses and node ports.
///
/// Calls come from one thread, in the order of commits. After each `admit` or group of
/// them comes exactly one `commit` or `rollback`.
pub trait Admission: Send {
    /// Forgets everything and takes what `objects` hold (without `managedFields`). Called at start, and after a
    /// commit that the disk refused.
    fn repair(&mut self, objects: &mut dyn Iterator<Item = (&Resource, Value)>);

    /// Whether objects of this kind hold what is allocated: only those are shown to `repair`.
    fn concerns(&self, resource: &Resource) -> bool {
        let _ = resource;
        true
    }

    /// Allocates for a write, or refuses it.
    fn admit(&mut self, resource: &Resource, operation: Operation<'_>) -> Result<(), Refusal>;

    /// The writes since the last `commit` or `rollback` stand.
    fn commit(&mut self);

    /// The writes since the last `commit` or `rollback` did not happen.
    fn rollback(&mut self);

    /// Whether writes of this kind can have companions.
    fn has_companions(&self, resource: &Resource) -> bool {
        let _ = resource;
        false
    }

    /// What else changes in the transaction in which `old` becomes `new`: both are stored
    /// objects of this kind, absent before a create and after a removal.
    fn companions(
        &mut self,
        resource: &Resource,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Vec<Companion> {
        let _ = (resource, old, new);
        Vec::new()
    }

    /// What the last `repair` found missing or left over, once.
    fn outstanding(&mut self) -> Vec<Companion> {
        Vec::new()
    }
}

/// A cluster-wide object that exists because of another one. It is neither allocated for nor
/// validated.
#[derive(Clone, Debug, PartialEq)]
pub enum Companion {
    /// This object exists: it is made if none has its name.
    Needed(Value),
    /// No object of this name exists.
    Ended {
        /// Its API version.
        api_version: String,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// Why an [`Admission`] refuses a write.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// The object breaks rules: 422 Invalid.
    Invalid(Vec<FieldError>),
    /// The write is not allowed: 403 Forbidden.
    Forbidden(String),
    /// Nothing left to allocate: 500 InternalError.
    Exhausted(String),
}

impl Refusal {
    pub(crate) fn into_error(self, resource: &Resource, name: &str) -> ApiError {
        match self {
            Refusal::Invalid(errors) => ApiError::invalid(resource, name, &errors),
            Refusal::Forbidden(why) => ApiError::forbidden(resource, name, &why),
            Refusal::Exhausted(why) => ApiError::internal(why),
        }
    }
}

/// Admission that allocates nothing.
pub struct NoAdmission;

impl Admission for NoAdmission {
    fn repair(&mut self, _: &mut dyn Iterator<Item = (&Resource, Value)>) {}

    fn admit(&mut self, _: &Resource, _: Operation<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn commit(&mut self) {}

    fn rollback(&mut self) {}
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.api_version(), self.plural)
    }
}

impl Resource {
    /// `apiVersion` of its objects: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// `plural.group`, or `plural` for the core group: how messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `Kind.group`, or `Kind` for the core group: how validation errors name it.
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind.clone()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    /// The name of its collection in the store; one for all versions of the group.
    pub fn collection(&self) -> String {
        let group = self.strategy.stored_group().unwrap_or(&self.group);
        format!("{group}/{}", self.plural)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|one| one.name == name)
    }
}

/// `version` for the core group, `group/version` otherwise.
pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// All kinds a server serves.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
    /// For collections that may hold objects of which no version is served.
    stored: BTreeMap<String, Arc<Resource>>,
}

impl Registry {
    /// A registry of `resources`; of two with one group, version and plural the last.
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Self {
        let resources = resources
            .into_iter()
            .map(|one| {
                let key = (one.group.clone(), one.version.clone(), one.plural.clone());
                (key, Arc::new(one))
            })
            .collect();
        Self {
            resources,
            stored: BTreeMap::new(),
        }
    }

    /// Puts a resource in the place of the one with its group, version and plural.
    pub(crate) fn replace(&mut self, resource: Resource) {
        let key = (
            resource.group.clone(),
            resource.version.clone(),
            resource.plural.clone(),
        );
        self.resources.insert(key, Arc::new(resource));
    }

    /// These resources, and `served` where they do not hide one of these. `stored` are for
    /// collections that may hold objects of which no version is served.
    pub(crate) fn with(
        &self,
        served: impl IntoIterator<Item = Arc<Resource>>,
        stored: impl IntoIterator<Item = Arc<Resource>>,
    ) -> Self {
        let mut all = self.clone();
        for one in served {
            let key = (one.group.clone(), one.version.clone(), one.plural.clone());
            all.resources.entry(key).or_insert(one);
        }
        let stored = stored.into_iter().map(|one| (one.collection(), one));
        all.stored = stored.collect();
        all
    }

    /// The resource with this group, version and plural name.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The resource of this `apiVersion` and kind.
    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.iter()
            .find(|one| one.kind == kind && one.api_version() == api_version)
    }

    /// One resource that is stored in `collection`.
    pub fn find_collection(&self, collection: &str) -> Option<&Arc<Resource>> {
        let (group, plural) = collection.split_once('/')?;
        self.iter()
            .find(|one| one.group == group && one.plural == plural)
            .or_else(|| self.stored.get(collection))
    }

    /// All resources, by group, version and plural name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }
}
