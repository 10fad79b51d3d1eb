//! OpenAPI v3: an index, and one document for each group and version.
//!
//! kubectl leaves validation to the server when the PATCH operation of a kind has its
//! group, version and kind and a `fieldValidation` parameter. For what version 3 does not
//! describe, a `List` or a kind that does not exist, and before 1.27 for everything, it asks for
//! version 2.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::body::{Answer, hash, tagged, whole};
use crate::compress::{accepts_gzip, mark, pack, unpack};
use crate::custom::{self, CommonRules};
use crate::resource::{Registry, Resource};
use crate::status::ApiError;
use crate::swagger::{self, Swagger};

/// Makes the document of a group and version, where it has a better one than the server.
pub type DocumentSource = Arc<dyn Fn(&str, &str) -> Option<Value> + Send + Sync>;

/// The protobuf form of version 2: the only one that clients in Go ask for.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What a request says besides its path.
pub(crate) struct Asked {
    pub(crate) headers: HeaderMap,
    /// The version of the document that the client means; empty for any.
    pub(crate) hash: String,
    pub(crate) now: Timestamp,
}

/// A document, as it is kept: in gzip, a tenth of its size.
struct Kept {
    /// Of the rows it was made of.
    fingerprint: String,
    /// Of its text.
    hash: String,
    packed: Bytes,
}

/// The document of version 2, in gzip.
struct Version2 {
    /// Of the documents it was made of.
    fingerprint: String,
    json: Bytes,
    protobuf: Bytes,
}

impl Version2 {
    fn make(all: &[(String, Arc<Kept>)], fingerprint: String) -> Result<Self, ApiError> {
        let mut swagger = Swagger::default();
        for (_, kept) in all {
            let text = unpack(&kept.packed).map_err(ApiError::internal)?;
            swagger.add(serde_json::from_slice(&text).map_err(ApiError::internal)?);
        }
        let document = swagger.document();
        Ok(Self {
            fingerprint,
            json: pack(document.to_string().as_bytes()).map_err(ApiError::internal)?,
            protobuf: pack(&swagger::encode(&document)).map_err(ApiError::internal)?,
        })
    }
}

/// The documents. They are large, take long to make, and change only with the kinds.
pub(crate) struct Documents {
    source: Option<DocumentSource>,
    common: Option<Arc<dyn CommonRules>>,
    kept: Mutex<BTreeMap<String, Arc<Kept>>>,
    version_2: Mutex<Option<Arc<Version2>>>,
}

impl Documents {
    pub(crate) fn new(
        source: Option<DocumentSource>,
        common: Option<Arc<dyn CommonRules>>,
    ) -> Self {
        Self {
            source,
            common,
            kept: Mutex::new(BTreeMap::new()),
            version_2: Mutex::new(None),
        }
    }

    /// Answers `/openapi/v3` and what is below it.
    pub(crate) fn answer(
        &self,
        registry: &Registry,
        rest: &str,
        asked: &Asked,
    ) -> Result<Response<Answer>, ApiError> {
        let path = rest.trim_matches('/');
        if path.is_empty() {
            let text = self.index(registry)?.to_string();
            let tag = hash([text.as_bytes()]);
            return Ok(tagged(&asked.headers, &tag, "application/json", || {
                text.into()
            }));
        }
        let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
            ["api", version] => ("", *version),
            ["apis", group, version] => (*group, *version),
            _ => return Err(ApiError::no_such_path()),
        };
        let kept = self
            .kept(registry, group, version)?
            .ok_or_else(ApiError::no_such_path)?;
        if !asked.hash.is_empty() && asked.hash != kept.hash {
            return Ok(moved(&address(path, &kept.hash)));
        }
        let packed = accepts_gzip(&asked.headers);
        let text = if packed {
            kept.packed.clone()
        } else {
            unpack(&kept.packed).map_err(ApiError::internal)?
        };
        let mut response = tagged(&asked.headers, &kept.hash, "application/json", || text);
        let status = response.status();
        let headers = response.headers_mut();
        if packed && status == StatusCode::OK {
            mark(headers);
        }
        if !asked.hash.is_empty() {
            // The address holds the hash, so what is behind it never changes.
            headers.insert(
                header::CACHE_CONTROL,
                HeaderValue::from_static("public, immutable"),
            );
            let end = asked.now.as_second().saturating_add(YEAR);
            if let Some(date) = http_date(end) {
                headers.insert(header::EXPIRES, date);
            }
        }
        Ok(response)
    }

    /// Answers `/openapi/v2`: what the documents of version 3 say, in one.
    pub(crate) fn version_2(
        &self,
        registry: &Registry,
        asked: &Asked,
    ) -> Result<Response<Answer>, ApiError> {
        let as_protobuf = asked
            .headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.contains("com.github.proto-openapi.spec.v2"));
        let all = self.all_kept(registry)?;
        let fingerprint = hash(all.iter().map(|(_, kept)| kept.hash.as_bytes()));
        let known = {
            let known = self.version_2.lock();
            let known = known.unwrap_or_else(PoisonError::into_inner);
            let same = known.as_ref().filter(|one| one.fingerprint == fingerprint);
            same.cloned()
        };
        let document = match known {
            Some(known) => known,
            None => {
                let made = Arc::new(Version2::make(&all, fingerprint)?);
                let known = self.version_2.lock();
                *known.unwrap_or_else(PoisonError::into_inner) = Some(made.clone());
                made
            }
        };
        let (kept, media) = match as_protobuf {
            true => (&document.protobuf, PROTOBUF),
            false => (&document.json, "application/json"),
        };
        let packed = accepts_gzip(&asked.headers);
        let text = match packed {
            true => kept.clone(),
            false => unpack(kept).map_err(ApiError::internal)?,
        };
        let tag = format!("{}-{}", document.fingerprint, as_protobuf);
        let mut response = tagged(&asked.headers, &tag, media, || text);
        if packed && response.status() == StatusCode::OK {
            mark(response.headers_mut());
        }
        Ok(response)
    }

    /// The documents of all groups and versions that have kinds, by path.
    fn all_kept(&self, registry: &Registry) -> Result<Vec<(String, Arc<Kept>)>, ApiError> {
        let mut all = Vec::new();
        for (group, version) in served(registry) {
            if let Some(kept) = self.kept(registry, &group, &version)? {
                all.push((path_of(&group, &version), kept));
            }
        }
        Ok(all)
    }

    fn index(&self, registry: &Registry) -> Result<Value, ApiError> {
        let paths: Map<String, Value> = self
            .all_kept(registry)?
            .into_iter()
            .map(|(path, kept)| {
                let url = address(&path, &kept.hash);
                (path, json!({ "serverRelativeURL": url }))
            })
            .collect();
        Ok(json!({ "paths": paths }))
    }

    /// The document of a group and version; `None` when no kind lives there.
    fn kept(
        &self,
        registry: &Registry,
        group: &str,
        version: &str,
    ) -> Result<Option<Arc<Kept>>, ApiError> {
        let Some(fingerprint) = fingerprint(registry, group, version) else {
            return Ok(None);
        };
        let path = path_of(group, version);
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.get(&path)
            && kept.fingerprint == fingerprint
        {
            return Ok(Some(kept.clone()));
        }
        let made = self
            .source
            .as_ref()
            .and_then(|source| source(group, version))
            .or_else(|| self.of_custom(registry, group, version))
            .unwrap_or_else(|| generic(registry, group, version));
        let text = made.to_string();
        let kept = Arc::new(Kept {
            fingerprint,
            hash: hash([text.as_bytes()]),
            packed: pack(text.as_bytes()).map_err(ApiError::internal)?,
        });
        all.insert(path, kept.clone());
        Ok(Some(kept))
    }
}

impl Documents {
    fn of_custom(&self, registry: &Registry, group: &str, version: &str) -> Option<Value> {
        let kinds: Vec<&Resource> = registry
            .iter()
            .map(|one| &**one)
            .filter(|one| one.group == group && one.version == version)
            .collect();
        custom::document(&kinds, &**self.common.as_ref()?)
    }
}

/// A year, in seconds: as long as HTTP lets an answer stay fresh.
const YEAR: i64 = 365 * 24 * 3600;

fn http_date(second: i64) -> Option<HeaderValue> {
    let time = Timestamp::from_second(second).ok()?;
    let text = time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderValue::from_str(&text).ok()
}

fn moved(address: &str) -> Response<Answer> {
    let mut response = whole(StatusCode::MOVED_PERMANENTLY, "text/plain", "moved\n");
    if let Ok(address) = HeaderValue::from_str(address) {
        response.headers_mut().insert(header::LOCATION, address);
    }
    response
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn address(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

/// Groups and versions that have kinds.
fn served(registry: &Registry) -> BTreeSet<(String, String)> {
    let all = registry.iter();
    all.map(|one| (one.group.clone(), one.version.clone()))
        .collect()
}

/// Tells whether the kinds of a group and version are still those a document was made of.
fn fingerprint(registry: &Registry, group: &str, version: &str) -> Option<String> {
    let rows: Vec<String> = registry
        .iter()
        .filter(|one| one.group == group && one.version == version)
        .map(|one| {
            // A definition's schema is large, and parsed when it is asked for.
            let schema = match one.strategy.schema_mark() {
                Some(mark) => mark,
                None => one.strategy.schema().unwrap_or_default().to_string(),
            };
            format!(
                "{} {:?} {:?} {schema}\n",
                one.kind, one.verbs, one.subresources
            )
        })
        .collect();
    (!rows.is_empty()).then(|| hash(rows.iter().map(String::as_bytes)))
}

/// A document made of what the registry knows.
fn generic(registry: &Registry, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let resources = registry
        .iter()
        .filter(|one| one.group == group && one.version == version);
    for resource in resources {
        let gvk = json!({"group": group, "version": version, "kind": resource.kind});
        let mut schema = resource.strategy.schema().unwrap_or_else(
            || json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        );
        schema["x-kubernetes-group-version-kind"] = json!([gvk]);
        let name = format!(
            "{}.{version}.{}",
            if group.is_empty() { "core" } else { group },
            resource.kind
        );
        add_paths(resource, &gvk, &name, &mut paths);
        schemas.insert(name, schema);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn add_paths(resource: &Resource, gvk: &Value, schema: &str, paths: &mut Map<String, Value>) {
    let root = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    let collection = if resource.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{root}/{}", resource.plural)
    };
    let reference = json!({"$ref": format!("#/components/schemas/{schema}")});
    let operation = |action: &str, writes: bool, named: bool| {
        let mut parameters = Vec::new();
        let text = |name: &str, place: &str| {
            json!({"name": name, "in": place, "required": place == "path",
                "schema": {"type": "string", "uniqueItems": true}})
        };
        if named {
            parameters.push(text("name", "path"));
        }
        if resource.namespaced {
            parameters.push(text("namespace", "path"));
        }
        if writes {
            for name in ["dryRun", "fieldManager", "fieldValidation"] {
                parameters.push(text(name, "query"));
            }
        }
        json!({
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk,
            "parameters": parameters,
            "responses": {"200": {"description": "OK",
                "content": {"application/json": {"schema": reference}}}},
        })
    };
    paths.insert(
        collection.clone(),
        json!({"get": operation("list", false, false), "post": operation("post", true, false)}),
    );
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({
            "get": operation("get", false, true),
            "put": operation("put", true, true),
            "patch": operation("patch", true, true),
            "delete": operation("delete", false, true),
        }),
    );
}
