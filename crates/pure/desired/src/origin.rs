//! Where an item comes from.

use std::fmt;
use std::sync::Arc;

/// The API object an item was compiled from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// `Node`, `Service`, `Pod`…
    pub kind: &'static str,
    /// Empty for objects without a namespace.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.generation`; 0 where the kind has none.
    pub generation: i64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// A value and its origin. Two entries are equal if their values are: a change of
/// metadata writes nothing.
#[derive(Clone, Debug)]
pub struct Entry<V> {
    /// What must be there.
    pub value: V,
    /// Why.
    pub origin: Origin,
}

impl<V: PartialEq> PartialEq for Entry<V> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<V: Eq> Eq for Entry<V> {}
