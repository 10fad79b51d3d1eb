//! Content types: what a client accepts, what a body is.

use std::sync::Arc;

use http::{HeaderMap, header};
use serde_json::Value;

use crate::status::ApiError;
use crate::strict::Document;

/// Reads a body of media type `application/vnd.kubernetes.protobuf` into the document it
/// stands for.
///
/// # Errors
/// What the client gets: 400 for bytes that can't be read, 415 for a kind or field that is
/// not understood in this form.
pub type ProtobufDecoder = Arc<dyn Fn(&[u8]) -> Result<Value, ApiError> + Send + Sync>;

/// The form of an answer's document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The object or list itself.
    Plain,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata, or a list of them.
    Metadata,
}

/// The encoding of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) shape: Shape,
    pub(crate) encoding: Encoding,
}

/// Kubernetes' own binary form, in which bodies may come; answers are never in it.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A media type with its parameters.
struct Media<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Media<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        Self {
            name: parts.next().unwrap_or_default(),
            parameters: parts.filter_map(|part| part.split_once('=')).collect(),
        }
    }

    fn get(&self, name: &str) -> &'a str {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| value)
    }
}

fn accepted(headers: &HeaderMap) -> impl Iterator<Item = Media<'_>> {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(Media::parse)
}

/// The first accepted form that is served here.
pub(crate) fn negotiate(headers: &HeaderMap) -> Result<Accepted, ApiError> {
    if !headers.contains_key(header::ACCEPT) {
        return Ok(Accepted {
            shape: Shape::Plain,
            encoding: Encoding::Json,
        });
    }
    for media in accepted(headers) {
        let encoding = match media.name {
            "application/json" | "application/*" | "*/*" | "" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let shape = match (media.get("as"), media.get("g"), media.get("v")) {
            ("", ..) => Shape::Plain,
            ("Table", "meta.k8s.io", "v1") => Shape::Table,
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                Shape::Metadata
            }
            _ => continue,
        };
        return Ok(Accepted { shape, encoding });
    }
    Err(ApiError::not_acceptable())
}

/// Whether the client takes aggregated discovery (`apidiscovery.k8s.io/v2`).
pub(crate) fn accepts_aggregated(headers: &HeaderMap) -> bool {
    accepted(headers)
        .take_while(|media| !(media.name == "application/json" && media.parameters.is_empty()))
        .any(|media| {
            media.name == "application/json"
                && media.get("g") == "apidiscovery.k8s.io"
                && media.get("v") == "v2"
                && media.get("as") == "APIGroupDiscoveryList"
        })
}

/// What a patch's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// The name of a body's media type; empty when the client says nothing.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map_or("", |value| Media::parse(value).name)
}

/// The type of a patch.
pub(crate) fn patch_type(headers: &HeaderMap) -> Result<PatchType, ApiError> {
    match content_type(headers) {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => Err(unknown_format(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ])),
    }
}

/// Reads a body that is JSON, YAML or, where there is a decoder for it, protobuf.
pub(crate) fn decode(
    content_type: &str,
    body: &[u8],
    protobuf: Option<&ProtobufDecoder>,
) -> Result<Document, ApiError> {
    match (content_type, protobuf) {
        ("" | "application/json", _) => decode_json(body),
        ("application/yaml", _) => decode_yaml(body),
        (PROTOBUF, Some(decode)) => decode(body).map(Document::from),
        _ => Err(unknown_format(if protobuf.is_some() {
            &["application/json", "application/yaml", PROTOBUF]
        } else {
            &["application/json", "application/yaml"]
        })),
    }
}

fn unknown_format(accepted: &[&str]) -> ApiError {
    ApiError::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: {}",
        accepted.join(", ")
    ))
}

/// Reads JSON.
pub(crate) fn decode_json(body: &[u8]) -> Result<Document, ApiError> {
    Document::from_json(body)
        .map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))
}

/// Reads YAML.
pub(crate) fn decode_yaml(body: &[u8]) -> Result<Document, ApiError> {
    Document::from_yaml(body)
        .map_err(|error| ApiError::bad_request(format!("the body is not valid YAML: {error}")))
}

/// Writes a document.
pub(crate) fn encode(value: &Value, encoding: Encoding) -> Result<Vec<u8>, ApiError> {
    match encoding {
        Encoding::Json => serde_json::to_vec(value).map_err(ApiError::internal),
        Encoding::Yaml => serde_norway::to_string(value)
            .map(String::into_bytes)
            .map_err(ApiError::internal),
    }
}

/// The media type of an encoding.
pub(crate) fn media_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "application/json",
        Encoding::Yaml => "application/yaml",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        headers
    }

    #[test]
    fn the_first_served_form_wins() {
        for (accept, shape, encoding) in [
            ("application/json", Shape::Plain, Encoding::Json),
            ("*/*", Shape::Plain, Encoding::Json),
            ("application/yaml", Shape::Plain, Encoding::Yaml),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Shape::Table,
                Encoding::Json,
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Shape::Plain,
                Encoding::Json,
            ),
            (
                "application/vnd.kubernetes.protobuf, application/json",
                Shape::Plain,
                Encoding::Json,
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Shape::Metadata,
                Encoding::Json,
            ),
        ] {
            assert_eq!(
                negotiate(&headers(accept)),
                Ok(Accepted { shape, encoding }),
                "{accept}"
            );
        }
        assert_eq!(
            negotiate(&headers("application/cbor")).unwrap_err().code,
            406
        );
    }

    #[test]
    fn aggregated_discovery_is_taken_when_preferred() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        assert!(accepts_aggregated(&headers(&format!(
            "{v2},application/json"
        ))));
        assert!(!accepts_aggregated(&headers("application/json")));
        assert!(!accepts_aggregated(&headers(
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
        )));
    }
}
