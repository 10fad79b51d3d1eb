//! Lists and the beginnings of watches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::{Api, Call, include};
use crate::body::{Answer, document, stream, whole};
use crate::negotiate::{Encoding, Shape, negotiate};
use crate::object::Object;
use crate::resource::Resource;
use crate::route::Route;
use crate::selector::Selector;
use crate::state::Forgotten;
use crate::status::ApiError;
use crate::table::{metadata_only, row, table};
use crate::watch::{Encoder, Scope, Watcher};

/// A watch without `timeoutSeconds` lasts this long, and up to twice as long, so that
/// clients that came together do not come back together.
const WATCH_SECONDS: u64 = 1800;
/// Lists longer than this, in bytes, are sent in pieces.
const STREAM_FROM: usize = 1 << 20;
/// The length of those pieces, in bytes.
const PIECE: usize = 64 << 10;

/// Objects selected by a list, or a page of them.
pub(crate) struct Selected {
    pub(crate) version: u64,
    pub(crate) objects: Vec<Arc<Object>>,
    next: Option<String>,
    remaining: Option<usize>,
}

/// Where a list goes on: the version it began with, and the last key it told.
fn continue_token(version: u64, last: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": version, "start": last}).to_string())
}

fn read_token(token: &str) -> Result<(Option<u64>, String), ApiError> {
    let invalid =
        || ApiError::bad_request("continue key is not valid: it is not one of this server's");
    let decoded = URL_SAFE_NO_PAD
        .decode(token.trim_end_matches('='))
        .map_err(|_| invalid())?;
    let token: Value = serde_json::from_slice(&decoded).map_err(|_| invalid())?;
    let start = token["start"].as_str().ok_or_else(invalid)?.to_owned();
    match token["rv"].as_u64() {
        Some(0) => Ok((None, start)),
        Some(version) => Ok((Some(version), start)),
        None => Err(invalid()),
    }
}

fn scope_namespace(route: &Route) -> Option<&str> {
    (!route.namespace.is_empty()).then_some(route.namespace.as_str())
}

fn selector(call: &Call, route: &Route) -> Result<Selector, ApiError> {
    let labels = call.query.get("labelSelector");
    let fields = call.query.get("fieldSelector");
    Selector::parse(&route.resource, labels, fields)
}

impl Api {
    /// The version a list is asked for: `None` for now.
    fn list_version(&self, call: &Call) -> Result<Option<u64>, ApiError> {
        let text = call.query.get("resourceVersion");
        let matching = call.query.get("resourceVersionMatch");
        if !matches!(matching, "" | "Exact" | "NotOlderThan") {
            return Err(ApiError::bad_request(format!(
                "resourceVersionMatch: Unsupported value: {matching:?}: supported values: \"Exact\", \"NotOlderThan\""
            )));
        }
        if text.is_empty() || text == "0" {
            if !matching.is_empty() && (text.is_empty() || matching == "Exact") {
                return Err(ApiError::bad_request(format!(
                    "resourceVersionMatch: Forbidden: {matching:?} needs a resourceVersion other than {text:?}"
                )));
            }
            return Ok(None);
        }
        let asked: u64 = version_number(text)?;
        let current = self.store.version();
        if asked > current {
            return Err(ApiError::version_too_large(asked, current));
        }
        Ok((matching == "Exact").then_some(asked))
    }

    /// The objects a list asks for.
    pub(crate) fn select(&self, call: &Call, route: &Route) -> Result<Selected, ApiError> {
        let selector = selector(call, route)?;
        let limit = call.query.number("limit")?.unwrap_or(0);
        let limit = usize::try_from(limit).unwrap_or(0);
        let token = call.query.get("continue");
        let (version, start) = if token.is_empty() {
            (self.list_version(call)?, None)
        } else {
            let (version, start) = read_token(token)?;
            (version, Some(start))
        };
        let namespace = scope_namespace(route);
        let listed = self.store.list(&route.resource, namespace, version);
        let snapshot = listed.map_err(|Forgotten(oldest)| match (&start, version) {
            (Some(start), _) => {
                let mut error = ApiError::expired(
                    "The provided continue parameter is too old to display a consistent list result. \
                     You can start a new list without the continue parameter, or use the continue token \
                     in this response to retrieve the remainder of the results.",
                );
                error.details = json!({});
                error.continue_token = Some(continue_token(0, start));
                error
            }
            (None, version) => ApiError::too_old(version.unwrap_or_default(), oldest),
        })?;
        let mut objects = snapshot.objects;
        if let Some(start) = &start {
            let from = objects.partition_point(|object| object.key() <= *start);
            objects.drain(..from);
        }
        if !selector.is_empty() {
            objects.retain(|object| selector.matches(object, &*route.resource.strategy));
        }
        let (mut next, mut remaining) = (None, None);
        if limit > 0 && objects.len() > limit {
            // As in Kubernetes, with a selector nobody says how many are left.
            remaining = selector.is_empty().then(|| objects.len() - limit);
            objects.truncate(limit);
            next = objects
                .last()
                .map(|last| continue_token(snapshot.version, &last.key()));
        }
        Ok(Selected {
            version: snapshot.version,
            objects,
            next,
            remaining,
        })
    }

    pub(crate) fn list(&self, call: &Call, route: &Route) -> Result<Response<Answer>, ApiError> {
        let accepted = negotiate(&call.head.headers)?;
        let include = include(&call.query)?;
        let selected = self.select(call, route)?;
        let mut metadata = json!({"resourceVersion": selected.version.to_string()});
        if let Some(next) = &selected.next {
            metadata["continue"] = next.as_str().into();
        }
        if let Some(remaining) = selected.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        let resource = &*route.resource;
        if accepted.shape == Shape::Plain && accepted.encoding == Encoding::Json {
            return Ok(plain_list(resource, &metadata, selected.objects));
        }
        let objects = selected.objects.iter().map(|object| object.value());
        let list = match accepted.shape {
            Shape::Plain => json!({
                "kind": resource.list_kind,
                "apiVersion": resource.api_version(),
                "metadata": metadata,
                "items": objects.collect::<Vec<Value>>(),
            }),
            Shape::Metadata => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": objects.map(metadata_only).collect::<Vec<Value>>(),
            }),
            Shape::Table => {
                let mut table = table(resource, metadata, true);
                let rows = objects.map(|object| row(resource, object, include, call.now));
                table["rows"] = rows.collect();
                table
            }
        };
        document(StatusCode::OK, &list, accepted.encoding)
    }

    pub(crate) fn watch(&self, call: &Call, route: &Route) -> Result<Response<Answer>, ApiError> {
        let accepted = negotiate(&call.head.headers)?;
        let resource = route.resource.clone();
        let mut selector = selector(call, route)?;
        if !route.name.is_empty() {
            if selector.name().is_some_and(|name| name != route.name) {
                return Err(ApiError::bad_request(
                    "the name in the path and the field selector metadata.name differ",
                ));
            }
            selector.require_name(&route.name);
        }
        let collection = resource.collection();
        // Subscribed before reading, so that nothing falls in between.
        let changed = self.store.subscribe(&collection);
        let asked = call.query.get("resourceVersion");
        let send_initial = self.sends_initial(call)?;
        let namespace = scope_namespace(route).map(str::to_owned);
        let scope = Scope {
            namespace,
            selector,
        };
        let from_now = matches!(asked, "" | "0");
        let (position, initial) = if from_now || send_initial == Some(true) {
            let minimum = if from_now { 0 } else { version_number(asked)? };
            let snapshot = self
                .store
                .list(&resource, scope.namespace.as_deref(), None)
                .map_err(|Forgotten(oldest)| ApiError::too_old(minimum, oldest))?;
            if minimum > snapshot.version {
                return Err(ApiError::version_too_large(minimum, snapshot.version));
            }
            let mut objects: VecDeque<Arc<Object>> = VecDeque::new();
            if send_initial != Some(false) {
                let selected = snapshot.objects.into_iter();
                objects.extend(selected.filter(|object| scope.contains(&resource, object)));
            }
            (snapshot.version, objects)
        } else {
            // A position that is forgotten is told by the stream's first event, as the API
            // server of Kubernetes tells it: clients list again after that, and not after a
            // refusal.
            (version_number(asked)?, VecDeque::new())
        };
        let seconds = match call.query.number("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => seconds.unsigned_abs(),
            _ => {
                let random = u64::from(uuid::Uuid::new_v4().as_fields().0);
                WATCH_SECONDS + random % WATCH_SECONDS
            }
        };
        let watcher = Watcher {
            store: self.store.clone(),
            collection,
            scope,
            encoder: Encoder {
                resource,
                shape: accepted.shape,
                include: include(&call.query)?,
                columns_sent: false,
            },
            initial,
            mark_initial_end: send_initial == Some(true),
            position,
            bookmarks: call.query.flag("allowWatchBookmarks"),
            deadline: Instant::now() + Duration::from_secs(seconds.min(WATCH_SECONDS * 48)),
            changed,
            shutdown: self.shutdown.clone(),
        };
        Ok(stream(watcher.stream()))
    }

    /// `sendInitialEvents`, with what it requires.
    fn sends_initial(&self, call: &Call) -> Result<Option<bool>, ApiError> {
        let matching = call.query.get("resourceVersionMatch");
        if !call.query.has("sendInitialEvents") {
            if !matching.is_empty() {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            return Ok(None);
        }
        if matching != "NotOlderThan" {
            return Err(ApiError::bad_request(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        Ok(Some(call.query.flag("sendInitialEvents")))
    }
}

fn version_number(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "resourceVersion: Invalid value: {text:?}: must be a decimal number"
        ))
    })
}

/// A list made of the objects' own texts; a long one is made while it is sent.
fn plain_list(
    resource: &Resource,
    metadata: &Value,
    objects: Vec<Arc<Object>>,
) -> Response<Answer> {
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        Value::from(resource.list_kind.as_str()),
        Value::from(resource.api_version()),
    );
    let total: usize = objects.iter().map(|object| object.json.len() + 1).sum();
    let mut pieces = ListPieces {
        head: Some(head),
        objects: objects.into_iter(),
        first: true,
    };
    if total < STREAM_FROM {
        let body = pieces.next(usize::MAX).unwrap_or_default();
        return whole(StatusCode::OK, "application/json", body);
    }
    stream(futures::stream::iter(std::iter::from_fn(move || {
        pieces.next(PIECE)
    })))
}

struct ListPieces {
    head: Option<String>,
    objects: std::vec::IntoIter<Arc<Object>>,
    first: bool,
}

impl ListPieces {
    fn next(&mut self, length: usize) -> Option<Bytes> {
        let mut out = match self.head.take() {
            Some(head) => head.into_bytes(),
            None if self.objects.as_slice().is_empty() => return None,
            None => Vec::new(),
        };
        while out.len() < length
            && let Some(object) = self.objects.next()
        {
            if !std::mem::take(&mut self.first) {
                out.push(b',');
            }
            out.extend_from_slice(&object.json);
        }
        if self.objects.as_slice().is_empty() {
            out.extend_from_slice(b"]}\n");
        }
        Some(out.into())
    }
}
