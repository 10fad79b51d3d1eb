//! What a node tells load balancers of Services: whether to send it their connections.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::IpFamily;

/// Which Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the node tells load balancers of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port at which it is asked, at every address where node ports answer
    /// (`spec.healthCheckNodePort`).
    pub port: u16,
    /// How many of the Service's endpoints on this node are ready, in each family that the
    /// Service has. Those that only serve while they end do not count: they are to be left
    /// alone. An address counts once, whatever ports it has.
    pub local_endpoints: BTreeMap<IpFamily, usize>,
}

impl HealthCheck {
    /// What is told to who asks by this family: the Service's endpoints of that family, or of
    /// the only one it has.
    pub fn local_endpoints_for(&self, family: IpFamily) -> usize {
        let of_family = self.local_endpoints.get(&family);
        let any = || self.local_endpoints.values().next();
        of_family.or_else(any).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_by_a_family_that_the_service_lacks_hears_of_the_other() {
        let check = |counts: &[(IpFamily, usize)]| HealthCheck {
            port: 32000,
            local_endpoints: counts.iter().copied().collect(),
        };
        let both = check(&[(IpFamily::V4, 1), (IpFamily::V6, 0)]);
        assert_eq!(both.local_endpoints_for(IpFamily::V4), 1);
        assert_eq!(both.local_endpoints_for(IpFamily::V6), 0);
        assert_eq!(
            check(&[(IpFamily::V6, 2)]).local_endpoints_for(IpFamily::V4),
            2
        );
    }
}
