//! Where requests go that the API server does not answer itself: streams into pods, and proxies.
//!
//! The server carries them ([`crate::relay`]); where to, and in whose words a request is refused,
//! comes in through [`Upstreams`].

use std::net::SocketAddr;

use serde_json::Value;

use crate::api::Api;
use crate::resource::Resource;
use crate::status::ApiError;

/// The parts of request paths that lead somewhere else.
pub(crate) const SUBRESOURCES: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];

/// A request that is to be carried on.
pub struct UpstreamRequest<'a> {
    /// The resource whose subresource is asked for.
    pub resource: &'a Resource,
    /// The namespace in the path.
    pub namespace: &'a str,
    /// The name in the path; of a proxy it may be `scheme:name:port`.
    pub name: &'a str,
    /// `log`, `exec`, `attach`, `portforward` or `proxy`.
    pub subresource: &'a str,
    /// What follows the subresource in the path, as it was sent: empty, or with a leading `/`.
    pub tail: &'a str,
    /// The query as it was sent, without `?`.
    pub raw_query: &'a str,
    /// The query, decoded, in its order.
    pub query: &'a [(String, String)],
    /// The objects the server has.
    pub objects: &'a dyn Objects,
}

impl UpstreamRequest<'_> {
    /// The first value of a parameter; empty if it is not there.
    pub fn parameter(&self, name: &str) -> &str {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    /// 404 for the object that the request names.
    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(self.resource, self.name)
    }
}

/// A look at what the server stores.
pub trait Objects: Sync {
    /// One object.
    fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<Value>;
    /// All objects of a kind in a namespace; in all namespaces, and of cluster kinds, when empty.
    fn list(&self, api_version: &str, kind: &str, namespace: &str) -> Vec<Value>;
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The way there.
    pub way: Way,
    /// Path and query of the request there.
    pub path: String,
    /// Whether refusals become a `metav1.Status` with the text that the upstream sent. Without
    /// this its answers are passed on untouched.
    pub refusals_as_status: bool,
}

/// The way to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A node's own server: TLS by the cluster's authority, with this server's client certificate.
    Node(SocketAddr),
    /// Something that is reached from a node, whose server makes the connection (HTTP CONNECT).
    Through {
        /// The node's server.
        node: SocketAddr,
        /// The address to be connected there.
        address: SocketAddr,
        /// Whether TLS is spoken to that address. Its certificate is not verified, as in
        /// Kubernetes: nobody says which authority it should be of.
        tls: bool,
    },
}

/// Knows where requests for what runs behind an object go.
pub trait Upstreams: Send + Sync {
    /// Finds the way. `None` where there is nothing behind the object yet, which is answered with
    /// 204 and no body.
    ///
    /// # Errors
    /// What the client is told.
    fn locate(&self, request: &UpstreamRequest<'_>) -> Result<Option<Upstream>, ApiError>;
}

impl Objects for Api {
    fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let registry = self.registry();
        let resource = registry.find_kind(api_version, kind)?;
        let object = self.store.get(resource, namespace, name)?;
        Some(object.value())
    }

    fn list(&self, api_version: &str, kind: &str, namespace: &str) -> Vec<Value> {
        let registry = self.registry();
        let namespace = (!namespace.is_empty()).then_some(namespace);
        registry
            .find_kind(api_version, kind)
            .and_then(|resource| self.store.list(resource, namespace, None).ok())
            .map(|snapshot| snapshot.objects.iter().map(|one| one.value()).collect())
            .unwrap_or_default()
    }
}
