//! Custom resources: kinds that CustomResourceDefinitions describe at run time.
//!
//! A definition is an object like any other. In the transaction that writes one, [`settle`]
//! decides its names and conditions; when the transaction is on disk, [`Catalog`] turns what
//! is established into [`crate::Resource`]s and replaces the registry, before anybody sees the
//! change. [`cleanup`] deletes the objects of a definition that goes away.

mod catalog;
mod cleanup;
mod columns;
mod definition;
mod document;
mod path;
mod rules;
mod settle;
mod strategy;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

pub(crate) use catalog::Catalog;
pub(crate) use cleanup::run as clean_up;
pub use definition::Scale;
pub(crate) use document::document;
pub(crate) use settle::{settle, still_served};
pub(crate) use strategy::definitions;

use crate::resource::{Decoded, FieldError};

/// The group, version and plural name of definitions, and their collection in the store.
pub(crate) const GROUP: &str = "apiextensions.k8s.io";
pub(crate) const VERSION: &str = "v1";
pub(crate) const PLURAL: &str = "customresourcedefinitions";
pub(crate) const COLLECTION: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// Keeps a definition until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What holds for objects of every kind. Custom resources need it from outside: the server
/// knows no kind's fields, and `metadata` is one.
pub trait CommonRules: Send + Sync {
    /// Looks for unknown fields and wrong types in `metadata`, and drops what is unknown.
    fn decode(&self, object: &mut Value) -> Decoded;

    /// The rules of `metadata`.
    fn validate(&self, object: &Value, namespaced: bool) -> Vec<FieldError>;

    /// The rules of `metadata` for a changed object.
    fn validate_update(&self, object: &Value, old: &Value, namespaced: bool) -> Vec<FieldError>;

    /// Complaints about a text that must be a label of DNS (RFC 1035).
    fn dns_label(&self, text: &str) -> Vec<String>;

    /// Complaints about a text that must be a subdomain of DNS (RFC 1123).
    fn dns_subdomain(&self, text: &str) -> Vec<String>;

    /// The time between two moments, as tables show it: `3d4h`.
    fn age(&self, since: Timestamp, now: Timestamp) -> String;

    /// OpenAPI schemas of `ObjectMeta` and what it refers to, by name, and that name.
    fn metadata_schemas(&self) -> (Map<String, Value>, String);
}

/// [`CommonRules`], shared.
pub(crate) type Common = Arc<dyn CommonRules>;
