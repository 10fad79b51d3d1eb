//! What a request's path and query ask for.

use std::sync::Arc;

use crate::resource::{Registry, Resource};
use crate::status::ApiError;

/// A request for objects of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) resource: Arc<Resource>,
    /// The namespace in the path; empty for all, and for kinds without namespaces.
    pub(crate) namespace: String,
    /// The object in the path; empty for the collection.
    pub(crate) name: String,
    /// The subresource in the path; empty for the object.
    pub(crate) subresource: String,
    /// Whether the path is one of those below `watch`, which are watched without a word.
    pub(crate) watched: bool,
}

/// `group`, `version` and what follows, of `/api/v1/…` and `/apis/GROUP/VERSION/…`.
pub(crate) fn split(path: &str) -> Option<(&str, &str, Vec<String>)> {
    let mut parts = path.trim_matches('/').split('/');
    let (group, version) = match parts.next()? {
        "api" => ("", parts.next()?),
        "apis" => (parts.next()?, parts.next()?),
        _ => return None,
    };
    Some((group, version, parts.map(percent_decode).collect()))
}

impl Route {
    /// Finds the kind and object a path names.
    pub(crate) fn find(
        registry: &Registry,
        group: &str,
        version: &str,
        parts: &[String],
    ) -> Result<Self, ApiError> {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (watched, parts) = match parts.split_first() {
            Some((&"watch", rest)) => (true, rest),
            _ => (false, &*parts),
        };
        let find = |plural: &str| {
            registry
                .find(group, version, plural)
                .cloned()
                .ok_or_else(ApiError::no_such_path)
        };
        let (resource, namespace, rest) = match parts {
            // Parts of a Namespace itself, not kinds inside it.
            ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] => {
                (find("namespaces")?, "", &parts[1..])
            }
            ["namespaces", namespace, plural, rest @ ..] => (find(plural)?, *namespace, rest),
            [plural, rest @ ..] => (find(plural)?, "", rest),
            [] => return Err(ApiError::no_such_path()),
        };
        let (name, subresource) = match rest {
            [] => ("", ""),
            [name] => (*name, ""),
            [name, subresource] => (*name, *subresource),
            // Proxies have paths of their own below.
            [name, subresource @ "proxy", ..] => (*name, *subresource),
            _ => return Err(ApiError::no_such_path()),
        };
        let misplaced = resource.namespaced == namespace.is_empty() && !name.is_empty();
        if misplaced || (!resource.namespaced && !namespace.is_empty()) {
            return Err(ApiError::no_such_path());
        }
        if !subresource.is_empty() && resource.subresource(subresource).is_none() {
            return Err(ApiError::no_such_path());
        }
        if watched && !subresource.is_empty() {
            return Err(ApiError::no_such_path());
        }
        Ok(Self {
            watched,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            resource,
        })
    }
}

/// The parameters of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|part| !part.is_empty()).map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let decode = |text: &str| percent_decode(&text.replace('+', " "));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    /// All parameters, in their order.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The first value of a parameter; empty if it is not there.
    pub(crate) fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// A flag, as Kubernetes reads them: unset, `0` and `false` are false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let value = self.get(name);
        self.has(name) && value != "0" && !value.eq_ignore_ascii_case("false")
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::bad_request(format!("{name}: {text:?} is not a number"))),
        }
    }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
