//! Kubernetes API kinds: schema, defaults, validation, allocation of addresses and ports.
//!
//! A kind is a row of data ([`Kind`]); everything an API server does that depends on
//! the kind is a method of its row, over [`serde_json::Value`]. Nothing here reads a
//! clock, a socket or a random source: the caller passes them in.
//!
//! An API server handles a create as: [`Kind::decode`] (unknown fields, types),
//! [`Kind::set_defaults`], [`Kind::prepare_create`], for Services
//! [`ServiceAllocator::allocate_create`], then [`Kind::validate_create`]. An update goes
//! through the same steps with `_update`.

mod allocate;
mod base64;
mod custom;
mod defaults;
mod field;
mod kind;
mod merge;
pub mod node_ranges;
mod openapi;
mod prepare;
mod print;
mod protobuf;
mod quantity;
mod read;
mod registry;
mod schema;
mod syntax;
mod validate;
mod view;
mod warnings;

pub use allocate::{
    AddressObjects, AllocateError, AllocationFailure, ClusterIpAllocator, NodePortAllocator,
    ServiceAllocator, ServiceRanges, is_of_a_service, restored_address_object,
};
pub use custom::{
    OBJECT_META, decode_metadata, metadata_schemas, validate_metadata, validate_metadata_update,
};
pub use field::{ErrorKind, FieldError, Path};
pub use kind::{Column, Kind, Scope, Subresource};
pub use merge::{ListMerge, MergeRule};
pub use openapi::openapi_document;
pub use prepare::changes_spec;
pub use print::human_duration;
pub use protobuf::{ProtobufError, decode_protobuf};
pub use quantity::{Quantity, QuantityError};
pub use registry::{find, find_kind, registry};
pub use schema::{Decoded, TypeMismatch};
pub use syntax::{
    is_dns1035_label, is_dns1123_label, is_dns1123_subdomain, is_label_value, is_qualified_name,
};
pub use validate::is_endpoint_address;
