//! The embedded Kubernetes API: store, watch, and what kubectl needs.
//!
//! A generic document server. A kind is a [`Resource`]: a row of data with a
//! [`Strategy`] for what depends on the kind; allocation comes in through
//! [`Admission`]. Nothing here names a kind's fields, besides the few that Kubernetes'
//! own request paths name (bindings, scales, tokens, evictions).

mod api;
mod apply;
mod body;
mod client_tls;
mod companion;
mod comparison;
mod compress;
mod connection;
mod custom;
mod delete;
mod discovery;
mod disk;
mod exercise;
mod fields;
mod gather;
mod herald;
mod identity;
mod managed;
mod negotiate;
mod object;
mod openapi;
mod options;
mod patch;
mod pki;
mod read;
mod relay;
mod resource;
mod reviews;
mod route;
mod scale;
mod schema;
mod selector;
mod server;
mod stalled;
mod state;
mod status;
mod store;
mod strict;
mod subresource;
mod swagger;
mod table;
mod threads;
mod token;
mod traffic;
mod upstream;
mod watch;
mod write;

pub use connection::Patience;
pub use custom::{CommonRules, Scale};
pub use disk::{StoreError, exercise_log, stored_version};
pub use exercise::{
    exercise_apply, exercise_options, exercise_patch, exercise_schema, exercise_selector,
};
pub use negotiate::ProtobufDecoder;
pub use openapi::DocumentSource;
pub use pki::{Credential, Pki, PkiError, SubjectName, kubeconfig};
pub use resource::{
    ALL_VERBS, Admission, ApplyList, Column, Companion, Decoded, FieldError, FieldReason,
    NoAdmission, Operation, PatchList, Refusal, Registry, Resource, Strategy, Subresource,
    WriteContext,
};
pub use server::{Config, Server, ServerError, serve};
pub use state::HistoryLimits;
pub use status::ApiError;
pub use upstream::{Objects, Upstream, UpstreamRequest, Upstreams, Way};
