//! What a test of the way to another node found.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How one check ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Outcome {
    /// It does what it should.
    Ok,
    /// It does not.
    Fails,
    /// The node is reached, and nobody there answers.
    NoAgent,
    /// There is nothing to test, or no way to.
    #[default]
    Untested,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Ok => "ok",
            Outcome::Fails => "FAILS",
            Outcome::NoAgent => "no agent",
            Outcome::Untested => "-",
        })
    }
}

/// What was found of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Findings {
    /// The node's own address is reached.
    pub(crate) node: Outcome,
    /// The other end of the tunnel is reached, inside.
    pub(crate) tunnel: Outcome,
    /// The largest packets that the links take get to the node.
    pub(crate) mtu: Outcome,
    /// What comes through the tunnel has the checksum it should.
    pub(crate) checksum: Outcome,
    /// Bytes of the largest packet that the links take.
    pub(crate) packet: u32,
    /// Bytes of the largest packet that got to the node, where that was tested.
    pub(crate) path_mtu: Option<u32>,
}

impl Findings {
    /// The checks, in the order of the metrics' names for them.
    pub(crate) fn checks(&self) -> [Outcome; 4] {
        [self.node, self.tunnel, self.mtu, self.checksum]
    }

    /// Whether something does not do what it should.
    pub(crate) fn fails(&self) -> bool {
        self.checks().contains(&Outcome::Fails)
    }
}

/// One way, with what was found of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tested {
    pub(crate) node: String,
    pub(crate) range: IpNet,
    /// `direct`, `vxlan` or `udp`.
    pub(crate) way: String,
    pub(crate) findings: Findings,
}
