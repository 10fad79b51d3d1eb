//! Lists and the beginnings of watches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::{Api, Call, include};
use crate::body::{Answer, document, stream, whole};
use crate::compress::Long;
use crate::negotiate::{Accepted, Encoding, Shape, negotiate};
use crate::object::Object;
use crate::options::{AskedVersion, ListOptions};
use crate::resource::Resource;
use crate::route::Route;
use crate::selector::Selector;
use crate::state::Forgotten;
use crate::status::ApiError;
use crate::table::{IncludeObject, metadata_only, row, table};
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
    let invalid = || {
        ApiError::bad_request(
            "invalid continue token: continue key is not valid: it is not one of this server's",
        )
    };
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
    /// A version of the future can't be shown.
    fn check_version(&self, asked: AskedVersion) -> Result<(), ApiError> {
        let current = self.store.version();
        match asked {
            AskedVersion::At(asked) if asked > current => {
                Err(ApiError::version_too_large(asked, current))
            }
            AskedVersion::At(_) | AskedVersion::Unset | AskedVersion::Any => Ok(()),
        }
    }

    /// The objects a list asks for.
    pub(crate) fn select(&self, call: &Call, route: &Route) -> Result<Selected, ApiError> {
        let selector = selector(call, route)?;
        let options = ListOptions::parse(&call.query, false)?;
        let limit = options.limit;
        let (version, start) = match &options.token {
            None => {
                self.check_version(options.version)?;
                (options.exact_version(), None)
            }
            Some(token) => {
                let (version, start) = read_token(token)?;
                (version, Some(start))
            }
        };
        let namespace = scope_namespace(route);
        let listed = self.store.list(&route.resource, namespace, version);
        let snapshot = listed.map_err(|Forgotten(oldest)| match (&start, version) {
            (Some(start), _) => {
                let mut error = ApiError::expired(
                    "The provided continue parameter is too old to display a consistent list result. \
                     You can start a new list without the continue parameter, or use the continue token \
                     in this response to retrieve the remainder of the results. Continuing with the \
                     provided token results in an inconsistent list - objects that were created, \
                     modified, or deleted between the time the first chunk was returned and now may \
                     show up in the list.",
                );
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

    pub(crate) async fn list(
        &self,
        call: &Call,
        route: &Route,
    ) -> Result<Response<Answer>, ApiError> {
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
        let list = ShapedList {
            resource: route.resource.clone(),
            metadata,
            objects: selected.objects,
            accepted,
            include,
            now: call.now,
        };
        list.told().await
    }

    /// The objects that were deleted together, as they were: so Kubernetes answers.
    pub(crate) async fn deleted(
        &self,
        call: &Call,
        resource: &Arc<Resource>,
        objects: Vec<Arc<Object>>,
    ) -> Result<Response<Answer>, ApiError> {
        let list = ShapedList {
            resource: resource.clone(),
            metadata: json!({"resourceVersion": self.store.version().to_string()}),
            objects,
            accepted: Accepted {
                shape: Shape::Plain,
                encoding: negotiate(&call.head.headers)?.encoding,
            },
            include: IncludeObject::Object,
            now: call.now,
        };
        list.told().await
    }

    pub(crate) fn watch(&self, call: &Call, route: &Route) -> Result<Response<Answer>, ApiError> {
        let accepted = negotiate(&call.head.headers)?;
        let options = ListOptions::parse(&call.query, true)?;
        let resource = route.resource.clone();
        let mut selector = selector(call, route)?;
        if !route.name.is_empty() {
            if selector.name().is_some_and(|name| name != route.name) {
                return Err(ApiError::bad_request(
                    "fieldSelector metadata.name doesn't match requested name",
                ));
            }
            selector.require_name(&route.name);
        }
        let collection = resource.collection();
        let ended = resource.strategy.ended();
        // Subscribed before reading, so that nothing falls in between.
        let changed = call.heralds.subscribe(&self.store, &collection);
        let namespace = scope_namespace(route).map(str::to_owned);
        let scope = Scope {
            namespace,
            selector,
        };
        let (position, initial) = match options.version {
            // A position that is forgotten is told by the stream's first event, as the API
            // server of Kubernetes tells it: clients list again after that, and not after a
            // refusal.
            AskedVersion::At(version) if !options.begins_with_objects() => {
                (version, VecDeque::new())
            }
            AskedVersion::At(_) | AskedVersion::Any | AskedVersion::Unset => {
                self.check_version(options.version)?;
                let snapshot = self
                    .store
                    .list(&resource, scope.namespace.as_deref(), None)
                    .map_err(|Forgotten(oldest)| ApiError::too_old(0, oldest))?;
                let mut objects: VecDeque<Arc<Object>> = VecDeque::new();
                if options.begins_with_objects() {
                    let selected = snapshot.objects.into_iter();
                    objects.extend(selected.filter(|object| scope.contains(&resource, object)));
                }
                (snapshot.version, objects)
            }
        };
        let seconds = options
            .timeout_seconds
            .filter(|seconds| *seconds > 0)
            .unwrap_or_else(|| {
                let random = u64::from(uuid::Uuid::new_v4().as_fields().0);
                WATCH_SECONDS + random % WATCH_SECONDS
            });
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
            mark_initial_end: options.marks_end_of_objects(),
            position,
            bookmarks: options.bookmarks,
            deadline: Instant::now() + Duration::from_secs(seconds.min(WATCH_SECONDS * 48)),
            changed,
            shutdown: self.shutdown.clone(),
            ended,
        };
        Ok(stream(watcher.stream()))
    }
}

/// A list of which each object has to be made anew.
struct ShapedList {
    resource: Arc<Resource>,
    metadata: Value,
    objects: Vec<Arc<Object>>,
    accepted: Accepted,
    include: IncludeObject,
    now: Timestamp,
}

impl ShapedList {
    async fn told(self) -> Result<Response<Answer>, ApiError> {
        let Accepted { shape, encoding } = self.accepted;
        if shape == Shape::Plain && encoding == Encoding::Json {
            return Ok(plain_list(&self.resource, &self.metadata, self.objects));
        }
        if length(&self.objects) < PIECE {
            return self.answer();
        }
        // Shaping a long one takes long enough to keep others waiting.
        let made = tokio::task::spawn_blocking(move || self.answer());
        made.await.map_err(ApiError::internal)?
    }

    fn answer(self) -> Result<Response<Answer>, ApiError> {
        let resource = &*self.resource;
        let objects = self.objects.iter().map(|object| object.value());
        let list = match self.accepted.shape {
            Shape::Plain => json!({
                "kind": resource.list_kind,
                "apiVersion": resource.api_version(),
                "metadata": self.metadata,
                "items": objects.collect::<Vec<Value>>(),
            }),
            Shape::Metadata => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": self.metadata,
                "items": objects.map(metadata_only).collect::<Vec<Value>>(),
            }),
            Shape::Table => {
                let mut table = table(resource, self.metadata, true);
                let rows = objects.map(|object| row(resource, object, self.include, self.now));
                table["rows"] = rows.collect();
                table
            }
        };
        document(StatusCode::OK, &list, self.accepted.encoding)
    }
}

/// What the objects' texts take in a list, in bytes.
fn length(objects: &[Arc<Object>]) -> usize {
    objects.iter().map(|object| object.json.len() + 1).sum()
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
    let total = length(&objects);
    let mut pieces = ListPieces {
        head: Some(head),
        objects: objects.into_iter(),
        first: true,
    };
    if total < STREAM_FROM {
        let body = pieces.next(usize::MAX).unwrap_or_default();
        return whole(StatusCode::OK, "application/json", body);
    }
    let mut response = stream(futures::stream::iter(std::iter::from_fn(move || {
        pieces.next(PIECE)
    })));
    response.extensions_mut().insert(Long);
    response
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
