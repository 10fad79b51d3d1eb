//! The plugin `loopback`, which runtimes call before all others: it switches `lo` on.

use serde_json::Value;

use super::fields::{invalid, missing};
use super::{AddResult, Command, Environment, Error, Interface, IpConfig, Version};

/// The loopback device, in every namespace.
const NAME: &str = "lo";

/// What a runtime asks the plugin `loopback` for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loopback {
    /// The verb.
    pub command: Command,
    /// To answer in.
    pub version: Version,
    /// `CNI_NETNS`: always there for ADD and CHECK.
    pub netns: Option<String>,
    /// `prevResult`.
    pub previous: Option<AddResult>,
}

impl Loopback {
    /// Whether the configuration's `type` is `loopback`.
    pub(super) fn is_meant(document: &Value) -> bool {
        document.get("type").and_then(Value::as_str) == Some("loopback")
    }

    pub(super) fn read(
        command: Command,
        environment: &Environment,
        version: Version,
        document: &Value,
    ) -> Result<Self, Error> {
        let previous = document
            .get("prevResult")
            .filter(|value| !value.is_null())
            .map(|value| AddResult::read("prevResult", value, &mut Vec::new()))
            .transpose();
        let (netns, previous) = match command {
            Command::Add => (Some(environment.netns()?), previous?),
            Command::Check => {
                let previous = previous?.ok_or_else(|| missing("prevResult"))?;
                if !previous.interfaces.iter().any(|there| there.name == NAME) {
                    return Err(invalid("prevResult.interfaces", "lo is missing"));
                }
                (Some(environment.netns()?), Some(previous))
            }
            Command::Del | Command::Gc | Command::Status | Command::Version => {
                (environment.optional_netns(), None)
            }
        };
        Ok(Self {
            command,
            version,
            netns: netns.map(str::to_owned),
            previous,
        })
    }

    /// What ADD answers: what is there already, or the device with its addresses.
    #[must_use]
    pub fn answer(&self) -> AddResult {
        if let Some(previous) = &self.previous {
            return previous.clone();
        }
        AddResult {
            interfaces: vec![Interface {
                name: NAME.to_owned(),
                mac: Some("00:00:00:00:00:00".to_owned()),
                sandbox: self.netns.clone(),
                ..Interface::default()
            }],
            ips: ["127.0.0.1/8", "::1/128"]
                .iter()
                .filter_map(|text| text.parse().ok())
                .map(|address| IpConfig {
                    interface: Some(0),
                    address,
                    gateway: None,
                })
                .collect(),
            ..AddResult::default()
        }
    }
}
