//! Structural schemas: what a CustomResourceDefinition says about its objects.
//!
//! [`Schema`] is compiled once from the JSON of `openAPIV3Schema`; [`prune`], [`default`] and
//! [`validate`] are pure functions of a document and a schema. [`structural`] says whether a
//! schema may be used at all. Source of the behaviour: apiextensions-apiserver 0.32.

mod compile;
mod default;
mod format;
mod lists;
mod pattern;
mod prune;
pub(crate) mod structural;
mod validate;

pub(crate) use compile::{ListType, Schema, ValueType};
pub(crate) use default::{default, drop_nulls};
pub(crate) use lists::duplicates;
pub(crate) use pattern::Pattern;
pub(crate) use prune::{each_embedded, prune};
pub(crate) use validate::validate;

#[cfg(test)]
mod tests;
