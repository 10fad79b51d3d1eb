//! The life of an object inside a transaction: create and update.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::comparison::Comparison;
use crate::managed::{self, Entry};
use crate::object::Object;
use crate::resource::{FieldError, Operation, Resource, WriteContext};
use crate::status::ApiError;
use crate::store::Tx;
use crate::strict::Document;

/// The longest prefix that `generateName` keeps, and the length of what is added.
const GENERATED_PREFIX: usize = 58;
const GENERATED_SUFFIX: usize = 5;
/// Kubernetes' alphabet for generated names: no vowels, nothing that looks alike.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Attempts to find a generated name that is free.
const NAME_ATTEMPTS: usize = 8;

/// How strictly a body is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// What a write needs to know about its request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) resource: Arc<Resource>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: Option<String>,
    pub(crate) user: String,
    /// Who owns the fields this write sets.
    pub(crate) manager: String,
    pub(crate) now: Timestamp,
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
}

/// What a write did.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    pub(crate) warnings: Vec<String>,
    pub(crate) created: bool,
}

/// `Timestamp` as metadata has it: whole seconds, UTC.
pub(crate) fn time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Why a document can't be read as a kind.
enum Unreadable {
    /// It is of another kind, or of none.
    Identity(ApiError),
    /// Its fields are not the kind's.
    Content(String),
}

impl Unreadable {
    fn in_body(self, resource: &Resource) -> ApiError {
        match self {
            Unreadable::Identity(error) => error,
            Unreadable::Content(why) => ApiError::bad_request(format!(
                "{} in version \"{}\" cannot be handled as a {}: {why}",
                resource.kind, resource.version, resource.kind
            )),
        }
    }

    fn in_patch(self, patched: &Value) -> ApiError {
        match self {
            Unreadable::Identity(error) => error,
            Unreadable::Content(why) => ApiError::unreadable_patch(patched, &why),
        }
    }
}

impl Request {
    fn writer(&self) -> Entry {
        let part = self.subresource.as_deref().unwrap_or_default();
        Entry::new(&self.manager, "Update", part, self.resource.api_version())
    }

    fn context(&self) -> WriteContext<'_> {
        WriteContext {
            user: &self.user,
            now: self.now,
        }
    }

    /// Reads a body as the kind does. Returns the object, and what a lenient client is warned
    /// about.
    pub(crate) fn decode(&self, body: Document) -> Result<(Value, Vec<String>), ApiError> {
        let Document {
            value: mut object,
            duplicates,
        } = body;
        let warnings = self
            .read(&mut object, duplicates)
            .map_err(|unreadable| unreadable.in_body(&self.resource))?;
        Ok((object, warnings))
    }

    /// Reads what a patch made of an object; `duplicates` are those of the patch.
    pub(crate) fn decode_patched(
        &self,
        object: &mut Value,
        duplicates: Vec<String>,
    ) -> Result<Vec<String>, ApiError> {
        self.read(object, duplicates)
            .map_err(|unreadable| unreadable.in_patch(object))
    }

    /// Checks and completes `apiVersion`, `kind` and `metadata`, and reads the rest as the
    /// kind does.
    fn read(&self, object: &mut Value, duplicates: Vec<String>) -> Result<Vec<String>, Unreadable> {
        let resource = &*self.resource;
        let wrong = |why: String| Unreadable::Identity(ApiError::bad_request(why));
        let Some(map) = object.as_object_mut() else {
            return Err(wrong(format!(
                "the body must be an object of kind {}, not {object}",
                resource.kind
            )));
        };
        for (field, wanted) in [
            ("apiVersion", resource.api_version()),
            ("kind", resource.kind.clone()),
        ] {
            match map.get(field) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) if text.is_empty() || *text == wanted => {}
                Some(other) => {
                    let other = other
                        .as_str()
                        .map_or_else(|| other.to_string(), str::to_owned);
                    let what = if field == "kind" {
                        "kind"
                    } else {
                        "API version"
                    };
                    return Err(wrong(format!(
                        "the {what} in the data ({other}) does not match the expected {what} ({wanted})"
                    )));
                }
            }
            map.insert(field.to_owned(), wanted.into());
        }
        let metadata = map.entry("metadata").or_insert(Value::Null);
        if metadata.is_null() {
            *metadata = json!({});
        }
        if !metadata.is_object() {
            return Err(wrong(format!("metadata must be an object, not {metadata}")));
        }
        let decoded = resource.strategy.decode(object);
        if !decoded.mismatches.is_empty() {
            return Err(Unreadable::Content(decoded.mismatches.join(", ")));
        }
        let mut complaints = duplicates;
        complaints.extend(decoded.unknown);
        match self.validation {
            FieldValidation::Strict if !complaints.is_empty() => Err(Unreadable::Content(format!(
                "strict decoding error: {}",
                complaints.join(", ")
            ))),
            FieldValidation::Warn => Ok(complaints),
            FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
        }
    }

    fn place(&self, object: &mut Value) -> Result<(), ApiError> {
        let metadata = &mut object["metadata"];
        let said = metadata["namespace"].as_str().unwrap_or_default();
        if self.resource.namespaced {
            if !said.is_empty() && said != self.namespace {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            metadata["namespace"] = self.namespace.as_str().into();
        } else if !said.is_empty() {
            return Err(ApiError::bad_request(format!(
                "namespace is not allowed on this type: {} \"{said}\"",
                self.resource.kind
            )));
        } else {
            remove(metadata, "namespace");
        }
        Ok(())
    }
}

pub(crate) fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Creates an object from a body that was decoded.
pub(crate) fn create(
    tx: &mut Tx<'_>,
    request: &Request,
    mut object: Value,
    warnings: Vec<String>,
) -> Result<Written, ApiError> {
    if request.dry_run {
        tx.set_dry_run();
    }
    let resource = &*request.resource;
    request.place(&mut object)?;
    if !text(&object["metadata"], "resourceVersion").is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let managed = object["metadata"].get("managedFields").cloned();
    for field in [
        "managedFields",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        remove(&mut object["metadata"], field);
    }
    crate::custom::still_served(tx, request)?;
    resource.strategy.default(&mut object);
    let owners = match managed {
        // Server-side apply knows already.
        Some(managed) => managed,
        None => {
            let now = time_text(request.now);
            let owners = managed::created(&object, request.writer(), resource, &now);
            managed::write(&mut object, &owners);
            object["metadata"]["managedFields"].take()
        }
    };
    remove(&mut object["metadata"], "managedFields");
    resource
        .strategy
        .prepare_create(&mut object, request.context());
    accepts_new(tx, request)?;
    choose_name(tx, request, &mut object)?;
    let name = text(&object["metadata"], "name").to_owned();
    if tx.get(resource, &request.namespace, &name).is_some() {
        return Err(ApiError::already_exists(resource, &name));
    }
    object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    object["metadata"]["creationTimestamp"] = time_text(request.now).into();
    if !owners.is_null() {
        object["metadata"]["managedFields"] = owners;
    }
    tx.admit(
        resource,
        &name,
        Operation::Create {
            object: &mut object,
        },
    )?;
    let errors = resource.strategy.validate(&object);
    if !errors.is_empty() {
        return Err(ApiError::invalid(resource, &name, &errors));
    }
    let mut warnings = warnings;
    warnings.extend(resource.strategy.warnings(&object, None));
    Ok(Written {
        object: tx.put(resource, object, None),
        warnings,
        created: true,
    })
}

/// Creates what an update of a kind that allows it did not find. The version the client has
/// seen is forgotten with the object; the object it means by its UID is not this one.
pub(crate) fn create_by_update(
    tx: &mut Tx<'_>,
    request: &Request,
    mut object: Value,
    warnings: Vec<String>,
) -> Result<Written, ApiError> {
    let uid = text(&object["metadata"], "uid");
    if !uid.is_empty() {
        return Err(wrong_uid(&request.resource, &request.name, uid, ""));
    }
    for field in ["resourceVersion", "managedFields"] {
        remove(&mut object["metadata"], field);
    }
    create(tx, request, object, warnings)
}

/// The namespace must be there, and not be going away.
fn accepts_new(tx: &Tx<'_>, request: &Request) -> Result<(), ApiError> {
    if !request.resource.namespaced {
        return Ok(());
    }
    let Some(namespaces) = tx.registry().find("", "v1", "namespaces") else {
        return Ok(());
    };
    let Some(namespace) = tx.get(namespaces, "", &request.namespace) else {
        return Err(ApiError::not_found(namespaces, &request.namespace));
    };
    if namespace.value()["metadata"]
        .get("deletionTimestamp")
        .is_some()
    {
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            request.namespace
        );
        let mut error = ApiError::forbidden(&request.resource, &request.name, &why);
        error.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {} is being terminated", request.namespace),
            "field": "metadata.namespace",
        }]);
        return Err(error);
    }
    Ok(())
}

fn choose_name(tx: &Tx<'_>, request: &Request, object: &mut Value) -> Result<(), ApiError> {
    let resource = &*request.resource;
    let metadata = &mut object["metadata"];
    let name = text(metadata, "name");
    if !request.name.is_empty() && !name.is_empty() && name != request.name {
        return Err(wrong_name(name, &request.name));
    }
    if !name.is_empty() {
        return check_name(resource, name);
    }
    if !request.name.is_empty() {
        metadata["name"] = request.name.as_str().into();
        return check_name(resource, &request.name);
    }
    let prefix = text(metadata, "generateName");
    if prefix.is_empty() {
        let error = FieldError::required("metadata.name", "name or generateName is required");
        return Err(ApiError::invalid(resource, "", &[error]));
    }
    let end = (0..=prefix.len().min(GENERATED_PREFIX))
        .rev()
        .find(|at| prefix.is_char_boundary(*at))
        .unwrap_or(0);
    let prefix = &prefix[..end];
    let mut name = String::new();
    for _ in 0..NAME_ATTEMPTS {
        let random = uuid::Uuid::new_v4();
        // The version and variant bits sit in bytes 6 and 8.
        let suffix = random.as_bytes()[..6].iter().take(GENERATED_SUFFIX);
        name = prefix.to_owned();
        name.extend(suffix.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])));
        if tx.get(resource, &request.namespace, &name).is_none() {
            break;
        }
    }
    check_name(resource, &name)?;
    metadata["name"] = name.into();
    Ok(())
}

/// What no name may be, whatever its kind allows: it is an element of a path.
fn check_name(resource: &Resource, name: &str) -> Result<(), ApiError> {
    let why = match name {
        "." | ".." => format!("may not be '{name}'"),
        _ if name.contains('/') => "may not contain '/'".to_owned(),
        _ if name.contains('%') => "may not contain '%'".to_owned(),
        _ => return Ok(()),
    };
    let error = FieldError::invalid("metadata.name", &name.into(), &why);
    Err(ApiError::invalid(resource, name, &[error]))
}

fn wrong_name(said: &str, asked: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({said}) does not match the name on the URL ({asked})"
    ))
}

/// A patch can't make an object another one. (Whoever sends an object whole says by its UID
/// which one is meant, and meets a conflict.)
pub(crate) fn keeps_uid(
    request: &Request,
    previous: &Object,
    object: &Value,
) -> Result<(), ApiError> {
    let uid = &object["metadata"]["uid"];
    if uid.is_null() || *uid == *previous.uid {
        return Ok(());
    }
    let error = FieldError::invalid("metadata.uid", uid, "field is immutable");
    // Kubernetes looks at metadata for all kinds and for the kind, and counts both.
    Err(ApiError::invalid(
        &request.resource,
        &request.name,
        &[error.clone(), error],
    ))
}

/// The object a request names.
pub(crate) fn existing(tx: &Tx<'_>, request: &Request) -> Result<Arc<Object>, ApiError> {
    tx.get(&request.resource, &request.namespace, &request.name)
        .ok_or_else(|| ApiError::not_found(&request.resource, &request.name))
}

/// Replaces `previous` with a body that was decoded.
pub(crate) fn update(
    tx: &mut Tx<'_>,
    request: &Request,
    previous: Arc<Object>,
    object: Value,
    warnings: Vec<String>,
) -> Result<Written, ApiError> {
    replace(tx, request, previous, object, None, warnings)
}

/// Replaces `previous` with what server-side apply made of it; `owners` own its fields.
pub(crate) fn apply_update(
    tx: &mut Tx<'_>,
    request: &Request,
    previous: Arc<Object>,
    object: Value,
    owners: &[Entry],
    warnings: Vec<String>,
) -> Result<Written, ApiError> {
    replace(tx, request, previous, object, Some(owners), warnings)
}

fn replace(
    tx: &mut Tx<'_>,
    request: &Request,
    previous: Arc<Object>,
    mut object: Value,
    owners: Option<&[Entry]>,
    warnings: Vec<String>,
) -> Result<Written, ApiError> {
    if request.dry_run {
        tx.set_dry_run();
    }
    let resource = &*request.resource;
    let old = previous.value();
    request.place(&mut object)?;
    check_identity(request, &previous, &object)?;
    let subresource = request.subresource.as_deref();
    let disowned = owners.is_none() && subresource.is_none() && drops_owners(&object);
    let said = object["metadata"]
        .as_object_mut()
        .and_then(|metadata| metadata.remove("managedFields"))
        .filter(|_| subresource.is_none());
    carry_identity(&mut object, &old);
    resource.strategy.default(&mut object);
    let part = subresource.unwrap_or_default();
    let change = match owners {
        None if !disowned => managed::change(&old, &object, part, resource),
        None | Some(_) => Comparison::default(),
    };
    // A scale is a way to say a part of the spec: the rules of the whole object apply.
    let subresource = subresource.filter(|part| *part != "scale");
    resource
        .strategy
        .prepare_update(&mut object, &old, subresource, request.context());
    object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    check_finalizers(resource, &request.name, &object, &old)?;
    let admitted = Operation::Update {
        object: &mut object,
        old: &old,
    };
    tx.admit(resource, &request.name, admitted)?;
    let errors = resource
        .strategy
        .validate_update(&object, &old, subresource);
    if !errors.is_empty() {
        return Err(ApiError::invalid(resource, &request.name, &errors));
    }
    let mut warnings = warnings;
    if subresource.is_none() {
        warnings.extend(resource.strategy.warnings(&object, Some(&old)));
    }
    match owners {
        Some(owners) => managed::write(&mut object, owners),
        None if disowned => remove(&mut object["metadata"], "managedFields"),
        None => {
            let (writer, now) = (request.writer(), time_text(request.now));
            if said.is_some() || !managed::stay(&mut object, &change, &writer, &now) {
                let held = managed::named_or_held(&said.unwrap_or_default(), &old);
                let owners = managed::follow(held, &change, writer, &now);
                managed::write(&mut object, &owners);
            }
        }
    }
    if object == old {
        return Ok(Written {
            object: previous,
            warnings,
            created: false,
        });
    }
    let object = if is_released(resource, &object) {
        tx.admit(resource, &request.name, Operation::Delete { old: &object })?;
        // As in Kubernetes: this change is never stored. Who watches is told of the end of what
        // was there, and who asked of what it would have become.
        let last = Arc::new(Object::new(&object, previous.version));
        tx.remove(resource, previous);
        last
    } else {
        tx.put(resource, object, Some(previous))
    };
    Ok(Written {
        object,
        warnings,
        created: false,
    })
}

fn check_identity(request: &Request, previous: &Object, object: &Value) -> Result<(), ApiError> {
    let resource = &*request.resource;
    let metadata = &object["metadata"];
    let name = text(metadata, "name");
    if name.is_empty() {
        let error = FieldError::required("metadata.name", "name or generateName is required");
        return Err(ApiError::invalid(resource, &request.name, &[error]));
    }
    if name != request.name {
        return Err(wrong_name(name, &request.name));
    }
    match text(metadata, "resourceVersion") {
        "" | "0" if resource.strategy.needs_version() => {
            let error = FieldError {
                path: "metadata.resourceVersion".to_owned(),
                reason: crate::resource::FieldReason::Invalid,
                message: "Invalid value: 0x0: must be specified for an update".to_owned(),
            };
            return Err(ApiError::invalid(resource, name, &[error]));
        }
        "" | "0" => {}
        version if version.parse() == Ok(previous.version) => {}
        version if version.parse::<u64>().is_err() => {
            let error = FieldError::invalid(
                "metadata.resourceVersion",
                &version.into(),
                "must be a decimal number",
            );
            return Err(ApiError::invalid(resource, name, &[error]));
        }
        _ => return Err(ApiError::stale(resource, name)),
    }
    let uid = text(metadata, "uid");
    if !uid.is_empty() && uid != &*previous.uid {
        return Err(wrong_uid(resource, name, uid, &previous.uid));
    }
    Ok(())
}

pub(crate) fn wrong_uid(resource: &Resource, name: &str, asked: &str, held: &str) -> ApiError {
    let why =
        format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {held}");
    ApiError::conflict(resource, name, &why)
}

/// What the server wrote into metadata stays as it is.
fn carry_identity(object: &mut Value, old: &Value) {
    const CARRIED: [&str; 7] = [
        "managedFields",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
    ];
    for field in CARRIED {
        match old["metadata"].get(field) {
            Some(value) => object["metadata"][field] = value.clone(),
            None => remove(&mut object["metadata"], field),
        }
    }
}

/// Whether a client resets who owns what, as Kubernetes lets it: with an empty list, or
/// with one empty entry.
fn drops_owners(object: &Value) -> bool {
    let managed = &object["metadata"]["managedFields"];
    *managed == json!([]) || *managed == json!([{}])
}

pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn check_finalizers(
    resource: &Resource,
    name: &str,
    object: &Value,
    old: &Value,
) -> Result<(), ApiError> {
    if old["metadata"].get("deletionTimestamp").is_none() {
        return Ok(());
    }
    let held = finalizers(old);
    let added: Vec<&str> = finalizers(object)
        .into_iter()
        .filter(|one| !held.contains(one))
        .collect();
    if added.is_empty() {
        return Ok(());
    }
    let added: Vec<String> = added.iter().map(|one| format!("{one:?}")).collect();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        added.join(", ")
    );
    let error = FieldError::forbidden("metadata.finalizers", &why);
    Err(ApiError::invalid(resource, name, &[error.clone(), error]))
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(crate) fn is_released(resource: &Resource, object: &Value) -> bool {
    let metadata = &object["metadata"];
    metadata.get("deletionTimestamp").is_some()
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && finalizers(object).is_empty()
        && !resource.strategy.holds_deletion(object)
}
