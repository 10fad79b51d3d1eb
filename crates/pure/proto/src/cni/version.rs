//! Versions of the specification.

use std::fmt;

/// A version of the specification that is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Results are lists of interfaces and addresses.
    V0_3_0,
    /// The same, with a typing error in the specification corrected.
    V0_3_1,
    /// CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// No `version` beside an address.
    V1_0_0,
    /// GC, STATUS, and more fields in results.
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Version; 5] = [
        Version::V0_3_0,
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];

    /// The newest version.
    pub const NEWEST: Version = Version::V1_1_0;

    /// The version as `cniVersion` carries it.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version that `cniVersion` names, if it is spoken here.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
    }

    /// All versions in one line, for messages.
    pub(crate) fn list() -> String {
        Self::ALL.map(Version::as_str).join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
