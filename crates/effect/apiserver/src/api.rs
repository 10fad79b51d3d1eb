//! What answers a request: authentication, routing, and the verbs on objects.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures::FutureExt;
use http::{Method, Request as HttpRequest, Response, StatusCode, header, request};
use hyper::body::Body;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::body::{self, Answer, document, failure, whole};
use crate::compress;
use crate::connection::Patience;
use crate::delete::{self, DeleteOptions, Deleted};
use crate::discovery;
use crate::herald::Heralds;
use crate::identity::{Identity, Peer};
use crate::negotiate::{self, Accepted, Encoding, PatchType, ProtobufDecoder, Shape, negotiate};
use crate::object::Object;
use crate::openapi::{self, Documents};
use crate::options::{self, WriteOptions, delete_options};
use crate::patch;
use crate::relay::{self, Relay};
use crate::resource::{Registry, Resource};
use crate::reviews;
use crate::route::{self, Query, Route};
use crate::status::{self, ApiError};
use crate::store::Store;
use crate::strict::Document;
use crate::subresource;
use crate::table::{IncludeObject, metadata_only, row, table};
use crate::token::TokenKey;
use crate::write::{self, Request, Written};

/// Everything an answer may need.
pub(crate) struct Api {
    pub(crate) registry: Arc<RwLock<Arc<Registry>>>,
    pub(crate) store: Store,
    pub(crate) token_key: TokenKey,
    pub(crate) documents: Arc<Documents>,
    pub(crate) protobuf: Option<ProtobufDecoder>,
    pub(crate) relay: Option<Relay>,
    /// For a request's body.
    pub(crate) patience: Patience,
    pub(crate) shutdown: tokio::sync::watch::Receiver<bool>,
}

/// A request that was read and authenticated.
pub(crate) struct Call {
    pub(crate) head: request::Parts,
    pub(crate) query: Query,
    pub(crate) body: Bytes,
    pub(crate) identity: Arc<Identity>,
    pub(crate) now: Timestamp,
    /// Of the thread that answers it.
    pub(crate) heralds: Heralds,
}

impl Api {
    /// Answers a request of `peer`, on the thread of `heralds`.
    pub(crate) async fn answer<B>(
        &self,
        request: HttpRequest<B>,
        peer: &Peer,
        heralds: &Heralds,
    ) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let shortened = method == Method::GET && compress::accepts_gzip(request.headers());
        // A fault in one request must not end the others of its connection.
        let response = AssertUnwindSafe(self.respond(request, peer, heralds))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(ApiError::internal("the server has a fault in this request")))
            .unwrap_or_else(|error| failure(&error));
        let response = if shortened {
            compress::shorten(response)
        } else {
            response
        };
        tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
        response
    }

    async fn respond<B>(
        &self,
        request: HttpRequest<B>,
        peer: &Peer,
        heralds: &Heralds,
    ) -> Result<Response<Answer>, ApiError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let now = Timestamp::now();
        let identity = self.authenticate(&head, peer, now)?;
        if let Some(answer) = public(&head) {
            return answer;
        }
        let identity = identity.ok_or_else(ApiError::unauthorized)?;
        if asks_impersonation(&head) {
            return Err(ApiError::no_impersonation());
        }
        if let Some(relay) = &self.relay
            && let Some(route) = relay::route(self, head.uri.path())
        {
            return relay::answer(self, relay, head, body, route).await;
        }
        let body = body::read(&head.headers, body, self.patience).await?;
        let call = Call {
            query: Query::parse(head.uri.query().unwrap_or_default()),
            head,
            body,
            identity,
            now,
            heralds: heralds.clone(),
        };
        self.dispatch(call).await
    }

    /// Who asks; `None` for a client that does not say, an error for one that lies.
    fn authenticate(
        &self,
        head: &request::Parts,
        peer: &Peer,
        now: Timestamp,
    ) -> Result<Option<Arc<Identity>>, ApiError> {
        match peer {
            Peer::Known(identity) => return Ok(Some(identity.clone())),
            Peer::Refused => return Err(ApiError::unauthorized()),
            Peer::Unknown => {}
        }
        let Some(header) = head.headers.get(header::AUTHORIZATION) else {
            return Ok(None);
        };
        let token = header
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(ApiError::unauthorized)?;
        let identity = reviews::account_of(self, token, now).ok_or_else(ApiError::unauthorized)?;
        Ok(Some(Arc::new(identity)))
    }

    /// The kinds served now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The document a call's body is, with what is wrong with its text.
    pub(crate) fn document(&self, call: &Call) -> Result<Document, ApiError> {
        let form = negotiate::content_type(&call.head.headers);
        negotiate::decode(form, &call.body, self.protobuf.as_ref())
    }

    /// The document a call's body is.
    pub(crate) fn body(&self, call: &Call) -> Result<Value, ApiError> {
        Ok(self.document(call)?.value)
    }

    fn delete_options(&self, call: &Call) -> Result<DeleteOptions, ApiError> {
        let body = if call.body.is_empty() {
            Value::Null
        } else {
            self.body(call)?
        };
        delete_options(&body, &call.query)
    }

    async fn dispatch(&self, call: Call) -> Result<Response<Answer>, ApiError> {
        let path = call.head.uri.path().to_owned();
        let registry = self.registry();
        if let Some(answer) = discovery::answer(&registry, &path, &call.head) {
            return answer;
        }
        if let Some(rest) = path.strip_prefix("/openapi/") {
            return self.openapi(&call, rest.to_owned(), registry).await;
        }
        let (group, version, parts) = route::split(&path).ok_or_else(ApiError::no_such_path)?;
        if let Some(answer) = reviews::answer(self, &call, group, version, &parts) {
            return answer;
        }
        let route = Route::find(&registry, group, version, &parts)?;
        if !matches!(call.head.method, Method::GET | Method::HEAD) {
            // Nothing is written whose answer the client would not take.
            negotiate(&call.head.headers)?;
        }
        let deprecation = route.resource.strategy.deprecation().map(str::to_owned);
        let answer = if route.subresource.is_empty() {
            self.verb(call, route).await
        } else {
            subresource::answer(self, call, route).await
        };
        let mut answer = answer?;
        if let Some(text) = deprecation {
            warn(&mut answer, &text);
        }
        Ok(answer)
    }

    async fn openapi(
        &self,
        call: &Call,
        rest: String,
        registry: Arc<Registry>,
    ) -> Result<Response<Answer>, ApiError> {
        let documents = self.documents.clone();
        let asked = openapi::Asked {
            headers: call.head.headers.clone(),
            hash: call.query.get("hash").to_owned(),
            now: call.now,
        };
        // Making a document takes long enough to keep others waiting.
        let made = tokio::task::spawn_blocking(move || match rest.strip_prefix("v3") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                documents.answer(&registry, rest, &asked)
            }
            _ if rest == "v2" => documents.version_2(&registry, &asked),
            _ => Err(ApiError::no_such_path()),
        });
        made.await.map_err(ApiError::internal)?
    }

    async fn verb(&self, call: Call, route: Route) -> Result<Response<Answer>, ApiError> {
        let collection = route.name.is_empty();
        let watch = call.query.flag("watch") || route.watched;
        let verb = match (&call.head.method, collection) {
            (&Method::GET | &Method::HEAD, true) if watch => "watch",
            (&Method::GET | &Method::HEAD, true) => "list",
            (&Method::GET | &Method::HEAD, false) if route.watched => "watch",
            (&Method::GET | &Method::HEAD, false) => "get",
            (&Method::POST, true) => "create",
            (&Method::PUT, false) => "update",
            (&Method::PATCH, false) => "patch",
            (&Method::DELETE, false) => "delete",
            (&Method::DELETE, true) => "deletecollection",
            _ => return Err(ApiError::method_not_allowed()),
        };
        if !route.resource.verbs.iter().any(|one| one == verb) {
            return Err(ApiError::method_not_allowed());
        }
        // Only reads go over all namespaces.
        let everywhere = route.resource.namespaced && route.namespace.is_empty();
        if everywhere && !matches!(verb, "list" | "watch") {
            return Err(ApiError::method_not_allowed());
        }
        match verb {
            "get" => self.get(&call, &route),
            "list" => self.list(&call, &route).await,
            "watch" => self.watch(&call, &route),
            "create" => self.create(call, route).await,
            "update" => self.update(call, route).await,
            "patch" => self.patch(call, route).await,
            "delete" => self.delete(call, route).await,
            _ => self.delete_collection(call, route).await,
        }
    }

    fn get(&self, call: &Call, route: &Route) -> Result<Response<Answer>, ApiError> {
        negotiate(&call.head.headers)?;
        let object = self
            .store
            .get(&route.resource, &route.namespace, &route.name)
            .ok_or_else(|| ApiError::not_found(&route.resource, &route.name))?;
        self.held(call, &route.resource, &object, StatusCode::OK)
    }

    /// One object that the store has, in the form the client accepts: mostly the text as it is.
    fn held(
        &self,
        call: &Call,
        resource: &Resource,
        object: &Object,
        status: StatusCode,
    ) -> Result<Response<Answer>, ApiError> {
        let accepted = negotiate(&call.head.headers)?;
        if accepted.shape == Shape::Plain && accepted.encoding == Encoding::Json {
            return Ok(whole(status, "application/json", object.json.clone()));
        }
        self.object(call, resource, object.value(), status)
    }

    /// One object in the form the client accepts.
    pub(crate) fn object(
        &self,
        call: &Call,
        resource: &Resource,
        object: Value,
        status: StatusCode,
    ) -> Result<Response<Answer>, ApiError> {
        let Accepted { shape, encoding } = negotiate(&call.head.headers)?;
        let shaped = match shape {
            Shape::Plain => object,
            Shape::Metadata => metadata_only(object),
            Shape::Table => {
                let version = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let mut table = table(resource, version, true);
                table["rows"] = json!([row(resource, object, include(&call.query)?, call.now)]);
                table
            }
        };
        document(status, &shaped, encoding)
    }

    async fn create(&self, call: Call, route: Route) -> Result<Response<Answer>, ApiError> {
        let body = self.document(&call)?;
        let request = request_of(&call, &route, None)?;
        let (mut body, warnings) = request.decode(body)?;
        if let Some(metadata) = body["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let written = self
            .store
            .write(move |tx| write::create(tx, &request, body, warnings))
            .await?;
        self.written(&call, &route.resource, written)
    }

    async fn update(&self, call: Call, route: Route) -> Result<Response<Answer>, ApiError> {
        let written = self.replace(&call, &route, None).await?;
        self.written(&call, &route.resource, written)
    }

    /// PUT on an object or one of its subresources.
    pub(crate) async fn replace(
        &self,
        call: &Call,
        route: &Route,
        subresource: Option<&str>,
    ) -> Result<Written, ApiError> {
        let body = self.document(call)?;
        let request = request_of(call, route, subresource)?;
        let (body, warnings) = request.decode(body)?;
        let creates = subresource.is_none() && route.resource.strategy.creates_on_update();
        self.store
            .write(move |tx| match write::existing(tx, &request) {
                Ok(previous) => write::update(tx, &request, previous, body, warnings),
                Err(_) if creates => write::create_by_update(tx, &request, body, warnings),
                Err(missing) => Err(missing),
            })
            .await
    }

    async fn patch(&self, call: Call, route: Route) -> Result<Response<Answer>, ApiError> {
        let written = self.apply_patch(&call, &route, None).await?;
        self.written(&call, &route.resource, written)
    }

    /// PATCH on an object or one of its subresources.
    pub(crate) async fn apply_patch(
        &self,
        call: &Call,
        route: &Route,
        subresource: Option<&str>,
    ) -> Result<Written, ApiError> {
        let kind = negotiate::patch_type(&call.head.headers)?;
        let request = request_of(call, route, subresource)?;
        if kind == PatchType::Apply {
            return crate::apply::answer(self, call, request).await;
        }
        let Document {
            value: patch,
            mut duplicates,
        } = negotiate::decode_json(&call.body)?;
        if kind == PatchType::Json {
            duplicates.extend(patch::unknown_fields(&patch));
            for complaint in &mut duplicates {
                complaint.insert_str(0, "json patch ");
            }
        }
        self.store
            .write(move |tx| {
                let previous = write::existing(tx, &request)?;
                let mut object = previous.value();
                let applied = match kind {
                    PatchType::Json => patch::json(&mut object, &patch),
                    PatchType::Merge => patch::merge(&mut object, &patch),
                    PatchType::Strategic | PatchType::Apply => {
                        patch::strategic(&mut object, &patch, &*request.resource.strategy)
                    }
                };
                applied.map_err(|error| error.into_error(&request.resource, &request.name))?;
                let warnings = request.decode_patched(&mut object, duplicates)?;
                write::keeps_uid(&request, &previous, &object)?;
                write::update(tx, &request, previous, object, warnings)
            })
            .await
    }

    /// The answer to a write.
    pub(crate) fn written(
        &self,
        call: &Call,
        resource: &Resource,
        written: Written,
    ) -> Result<Response<Answer>, ApiError> {
        let status = if written.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        let mut response = self.held(call, resource, &written.object, status)?;
        for warning in told(&written.warnings) {
            warn(&mut response, &warning);
        }
        Ok(response)
    }

    async fn delete(&self, call: Call, route: Route) -> Result<Response<Answer>, ApiError> {
        let options = self.delete_options(&call)?;
        let request = request_of(&call, &route, None)?;
        let deleted = self
            .store
            .write(move |tx| delete::delete(tx, &request, &options))
            .await?;
        match deleted {
            Deleted::Marked(object) => {
                self.object(&call, &route.resource, object.value(), StatusCode::OK)
            }
            Deleted::Gone(object) if route.resource.strategy.shows_deleted() => {
                self.object(&call, &route.resource, object.value(), StatusCode::OK)
            }
            Deleted::Gone(object) => {
                let status = status::deleted(&route.resource, &object.name, &object.uid);
                let encoding = negotiate(&call.head.headers)?.encoding;
                document(StatusCode::OK, &status, encoding)
            }
        }
    }

    async fn delete_collection(
        &self,
        call: Call,
        route: Route,
    ) -> Result<Response<Answer>, ApiError> {
        let options = self.delete_options(&call)?;
        let selected = self.select(&call, &route)?;
        for object in &selected.objects {
            let mut request = request_of(&call, &route, None)?;
            request.name = object.name.to_string();
            request.namespace = object.namespace.to_string();
            let options = options.clone();
            let deleted = self
                .store
                .write(move |tx| delete::delete(tx, &request, &options))
                .await;
            match deleted {
                Ok(Deleted::Gone(_) | Deleted::Marked(_)) => {}
                // Somebody was faster.
                Err(error) if error.reason == "NotFound" => {}
                Err(error) => return Err(error),
            }
        }
        self.deleted(&call, &route.resource, selected.objects).await
    }
}

/// What of `warnings` a client is told: each once, and no more than a header may be long.
/// The bounds are kube-apiserver's.
fn told(warnings: &[String]) -> Vec<String> {
    const ALL: usize = 4096;
    const EACH: usize = 256;
    let mut seen = BTreeSet::new();
    let once: Vec<&String> = warnings.iter().filter(|one| seen.insert(*one)).collect();
    let length = |text: &str| text.chars().count();
    if once.iter().map(|one| length(one)).sum::<usize>() <= ALL {
        return once.into_iter().cloned().collect();
    }
    let mut left = ALL;
    let mut told = Vec::new();
    for one in once {
        let short: String = one.chars().take(EACH).collect();
        let Some(rest) = left.checked_sub(length(&short)) else {
            break;
        };
        left = rest;
        told.push(short);
    }
    told
}

/// Tells a client something besides the answer.
fn warn(response: &mut Response<Answer>, text: &str) {
    // RFC 7234, section 5.5: 299 is a persistent warning.
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(value) = format!("299 - \"{text}\"").parse() {
        response.headers_mut().append(header::WARNING, value);
    }
}

/// Who writes, for a request that does not say: the client program's name.
fn program(call: &Call) -> String {
    const NAMELESS: &str = "unknown";
    let agent = call.head.headers.get(header::USER_AGENT);
    let agent = agent.and_then(|value| value.to_str().ok());
    match options::manager_of_agent(agent.unwrap_or_default()) {
        program if program.is_empty() => NAMELESS.to_owned(),
        program => program,
    }
}

/// What a write needs to know of a call.
pub(crate) fn request_of(
    call: &Call,
    route: &Route,
    subresource: Option<&str>,
) -> Result<Request, ApiError> {
    let options = write_options(call)?;
    Ok(Request {
        resource: route.resource.clone(),
        namespace: route.namespace.clone(),
        name: route.name.clone(),
        subresource: subresource.map(str::to_owned),
        user: call.identity.user.clone(),
        manager: options.manager.unwrap_or_else(|| program(call)),
        now: call.now,
        dry_run: options.dry_run,
        validation: options.validation,
    })
}

fn write_options(call: &Call) -> Result<WriteOptions, ApiError> {
    let kind = match call.head.method {
        Method::POST => "CreateOptions",
        Method::PUT => "UpdateOptions",
        Method::PATCH => "PatchOptions",
        // A delete has options of its own.
        _ => return Ok(WriteOptions::default()),
    };
    let applies =
        kind == "PatchOptions" && negotiate::patch_type(&call.head.headers) == Ok(PatchType::Apply);
    WriteOptions::parse(&call.query, kind, applies)
}

/// Whether a client wants to act in another's name.
fn asks_impersonation(head: &request::Parts) -> bool {
    head.headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"))
}

/// How much of each object a table carries.
pub(crate) fn include(query: &Query) -> Result<IncludeObject, ApiError> {
    match query.get("includeObject") {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        other => Err(ApiError::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
        ))),
    }
}

/// What everybody may ask.
fn public(head: &request::Parts) -> Option<Result<Response<Answer>, ApiError>> {
    let path = head.uri.path();
    let health = ["/healthz", "/livez", "/readyz"].iter().any(|root| {
        path == *root
            || path
                .strip_prefix(root)
                .is_some_and(|rest| rest.starts_with('/'))
    });
    if health {
        return Some(Ok(whole(StatusCode::OK, "text/plain; charset=utf-8", "ok")));
    }
    (path == "/version").then(|| document(StatusCode::OK, &discovery::version(), Encoding::Json))
}
