//! Chains and their names.

use std::borrow::Cow;
use std::fmt;

use weft_desired::{Backend, Protocol, mark};

use crate::digest::sha256;

/// A table of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Marks; here only the canary.
    Mangle,
    /// What is refused or let through.
    Filter,
    /// What is translated.
    Nat,
}

impl Table {
    /// All that are written, in the order in which they are.
    pub const ALL: [Table; 3] = [Table::Mangle, Table::Filter, Table::Nat];

    /// As iptables names it.
    pub fn name(self) -> &'static str {
        match self {
            Table::Mangle => "mangle",
            Table::Filter => "filter",
            Table::Nat => "nat",
        }
    }

    /// The table that iptables gives a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// The chains that the kernel itself calls.
    pub fn hooks(self) -> &'static [&'static str] {
        match self {
            Table::Mangle => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
            Table::Filter => &["INPUT", "FORWARD", "OUTPUT"],
            Table::Nat => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
        }
    }
}

/// The name of a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain(Cow<'static, str>);

impl Chain {
    /// Every packet to a Service comes through here.
    pub const SERVICES: Chain = Chain::fixed("KUBE-SERVICES");
    /// Refusals of what comes from outside.
    pub const EXTERNAL_SERVICES: Chain = Chain::fixed("KUBE-EXTERNAL-SERVICES");
    /// In nat node ports, in filter the ports of health checks.
    pub const NODE_PORTS: Chain = Chain::fixed("KUBE-NODEPORTS");
    /// Masquerades what is marked.
    pub const POSTROUTING: Chain = Chain::fixed("KUBE-POSTROUTING");
    /// Marks what is to be masqueraded.
    pub const MARK_MASQ: Chain = Chain::fixed("KUBE-MARK-MASQ");
    /// Marks what is to be dropped (the 1.23 generation).
    pub const MARK_DROP: Chain = Chain::fixed("KUBE-MARK-DROP");
    /// Lets translated traffic through.
    pub const FORWARD: Chain = Chain::fixed("KUBE-FORWARD");
    /// Drops what no source range admitted.
    pub const PROXY_FIREWALL: Chain = Chain::fixed("KUBE-PROXY-FIREWALL");
    /// Shared with the kubelet.
    pub const FIREWALL: Chain = Chain::fixed("KUBE-FIREWALL");
    /// Empty: if it is gone, somebody flushed the table.
    pub const CANARY: Chain = Chain::fixed("KUBE-PROXY-CANARY");
    /// Says that the others are weft's.
    pub const MARK: Chain = Chain::fixed(mark::IPTABLES_CHAIN);
    /// The kubelet's own canary: where it is, a kubelet looks after the shared chains.
    pub const KUBELET_CANARY: Chain = Chain::fixed("KUBE-KUBELET-CANARY");

    const fn fixed(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// A chain by its name.
    pub fn named(name: &str) -> Self {
        Self(Cow::Owned(name.to_owned()))
    }

    /// A chain that the kernel calls.
    pub(crate) const fn hook(name: &'static str) -> Self {
        Self::fixed(name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it belongs to one Service or endpoint: those come and go, and one that nothing
    /// needs is removed whoever made it.
    pub fn is_of_a_service(&self) -> bool {
        OF_A_SERVICE.iter().any(|prefix| self.0.starts_with(prefix))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const CLUSTER: &str = "KUBE-SVC-";
const LOCAL: &str = "KUBE-SVL-";
const EXTERNAL: &str = "KUBE-EXT-";
const FIREWALL: &str = "KUBE-FW-";
const LOAD_BALANCER: &str = "KUBE-XLB-";
const ENDPOINT: &str = "KUBE-SEP-";

const OF_A_SERVICE: [&str; 6] = [CLUSTER, LOCAL, EXTERNAL, FIREWALL, LOAD_BALANCER, ENDPOINT];

/// The chains of one port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceChains {
    label: String,
    hash: String,
}

impl ServiceChains {
    /// `label` is `namespace/name:port`, or `namespace/name` for a port without name.
    pub fn new(label: &str, protocol: Protocol) -> Self {
        let label = format!("{label}{protocol}");
        Self {
            hash: hash(&label),
            label,
        }
    }

    /// `KUBE-SVC-…`: chooses among all endpoints.
    pub fn cluster(&self) -> Chain {
        self.chain(CLUSTER)
    }

    /// `KUBE-SVL-…`: chooses among this node's endpoints.
    pub fn local(&self) -> Chain {
        self.chain(LOCAL)
    }

    /// `KUBE-EXT-…`: what comes from outside.
    pub fn external(&self) -> Chain {
        self.chain(EXTERNAL)
    }

    /// `KUBE-FW-…`: what comes for a load balancer's address.
    pub fn firewall(&self) -> Chain {
        self.chain(FIREWALL)
    }

    /// `KUBE-XLB-…`: what comes from outside and stays on this node (the 1.23 generation).
    pub fn load_balancer(&self) -> Chain {
        self.chain(LOAD_BALANCER)
    }

    /// `KUBE-SEP-…`: translates to one endpoint.
    pub fn endpoint(&self, backend: &Backend) -> Chain {
        let hash = hash(&format!("{}{backend}", self.label));
        Chain(Cow::Owned(format!("{ENDPOINT}{hash}")))
    }

    fn chain(&self, prefix: &str) -> Chain {
        Chain(Cow::Owned(format!("{prefix}{}", self.hash)))
    }
}

/// The first 16 characters of the digest in base 32 (RFC 4648, section 6): 80 bits, so that
/// names stay within the kernel's 28 characters (`XT_EXTENSION_MAXNAMELEN`).
fn hash(text: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = sha256(text.as_bytes());
    let mut encoded = String::with_capacity(16);
    for group in digest[..10].chunks_exact(5) {
        let bits = group
            .iter()
            .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for index in (0..8).rev() {
            let digit = (bits >> (index * 5)) & 31;
            encoded.push(char::from(ALPHABET[digit as usize]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names from listings of clusters that kube-proxy ran in.
    #[test]
    fn names_are_kube_proxys() {
        let chains = ServiceChains::new("default/nginx-basic:http", Protocol::Tcp);
        assert_eq!(chains.cluster().as_str(), "KUBE-SVC-WWRFY3PZ7W3FGMQW");
        let backend = |address: [u8; 4]| Backend {
            address: address.into(),
            port: 80,
        };
        let name = |last| chains.endpoint(&backend([192, 168, 185, last]));
        assert_eq!(name(13).as_str(), "KUBE-SEP-C6OXGZ6X74U4SWF2");
        assert_eq!(name(14).as_str(), "KUBE-SEP-D5OXRFJGQH2C25YK");
        assert_eq!(name(15).as_str(), "KUBE-SEP-2W6OV52L6MRXKJPO");
        let unnamed = ServiceChains::new("default/hostnames:", Protocol::Tcp);
        assert_eq!(unnamed.cluster().as_str(), "KUBE-SVC-NWV5X2332I4OT4T3");
    }
}
