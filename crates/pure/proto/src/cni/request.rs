//! Environment and configuration together: what is asked for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::asked::Asked;
use super::config::{LinkConfig, decode, version};
use super::fields::{Fields, invalid, missing};
use super::{
    AddResult, AttachmentKey, Bandwidth, Code, Command, Config, ContainerId, Dns, Environment,
    Error, Gate, InterfaceName, Ipam, Link, Loopback, PodIdentity, PortMapping, Sysctl, Version,
};

/// What a runtime asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Attach.
    Add(Box<Attach>),
    /// Detach.
    Del(Detach),
    /// Compare an attachment with what ADD answered; `previous` is always there.
    Check(Box<Attach>),
    /// Free what belongs to no container any more.
    Gc(Collect),
    /// Say whether ADD could succeed.
    Status(Status),
    /// Say which versions are spoken, in this version.
    Version(Version),
    /// Any other verb, where the plugin is called as `loopback`.
    Loopback(Loopback),
}

/// ADD and CHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Which container, which interface.
    pub key: AttachmentKey,
    /// `CNI_NETNS`: a path to the pod's network namespace.
    pub netns: String,
    /// Whose it is, if the runtime said so.
    pub pod: Option<PodIdentity>,
    /// The network.
    pub config: Config,
    /// `link`, with what belongs to it.
    pub link: Link,
    /// `mtu`, bytes.
    pub mtu: u32,
    /// `nodeAddresses`: at most one a family.
    pub node_addresses: Vec<IpAddr>,
    /// `runtimeConfig.portMappings`.
    pub mappings: Vec<PortMapping>,
    /// `runtimeConfig.mac` or `args.cni.mac`: the pod's end's Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// `runtimeConfig.bandwidth`.
    pub bandwidth: Bandwidth,
    /// `antiSpoofing`: what the pod sends from an address that is not its own is dropped.
    /// True unless given.
    pub anti_spoofing: bool,
    /// `ipMasq` with `clusterCIDRs`: beyond these ranges the pod's connections have the node's
    /// address. `None`: they keep the pod's own everywhere.
    pub masquerade_beyond: Option<Vec<IpNet>>,
    /// `sysctl`.
    pub sysctls: Vec<Sysctl>,
    /// `policyGate`: whom to ask before the pod starts.
    pub gate: Option<Gate>,
    /// `ipam`.
    pub ipam: Ipam,
    /// `dns`, to be handed back in the result.
    pub dns: Dns,
    /// `prevResult`: in a chain, what the plugins before this one made; with CHECK,
    /// what ADD answered.
    pub previous: Option<AddResult>,
}

/// DEL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detach {
    /// Which container, which interface.
    pub key: AttachmentKey,
    /// `CNI_NETNS`; absent once the namespace is gone.
    pub netns: Option<String>,
    /// The network.
    pub config: Config,
    /// `prevResult`, if it is there and can be read: only what another plugin attached is
    /// detached by it.
    pub previous: Option<AddResult>,
}

/// GC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collect {
    /// The network.
    pub config: Config,
    /// `cni.dev/valid-attachments`: everything else of this network is dead.
    pub valid: BTreeSet<AttachmentKey>,
}

/// STATUS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The network.
    pub config: Config,
    /// `link`, with what belongs to it.
    pub link: Link,
    /// `mtu`, bytes.
    pub mtu: u32,
    /// `antiSpoofing`.
    pub anti_spoofing: bool,
    /// `ipMasq` with `clusterCIDRs`.
    pub masquerade_beyond: Option<Vec<IpNet>>,
    /// `policyGate`: whom ADD will ask.
    pub gate: Option<Gate>,
    /// `ipam`.
    pub ipam: Ipam,
}

/// A request that can't be understood, and the version to answer in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The request's, or the newest if that is unknown too.
    pub version: Version,
    /// Why.
    pub error: Error,
}

impl Request {
    /// Reads a request. DEL reads only what it needs, so that an attachment can be
    /// removed whatever became of the configuration.
    ///
    /// # Errors
    /// Codes 1, 2, 4, 6 and 7; the message names the variable or the field.
    pub fn parse(environment: &Environment, input: &[u8]) -> Result<Self, Refusal> {
        let newest = |error| Refusal {
            version: Version::NEWEST,
            error,
        };
        let command = environment.command().map_err(newest)?;
        if command == Command::Version {
            // Older runtimes send nothing or a version not spoken here: that is what
            // they are asking about.
            let version = decode(input).and_then(|document| version(&document));
            return Ok(Request::Version(version.unwrap_or(Version::NEWEST)));
        }
        let document = decode(input).map_err(newest)?;
        let version = version(&document).map_err(newest)?;
        Self::read(command, environment, version, &document)
            .map_err(|error| Refusal { version, error })
    }

    fn read(
        command: Command,
        environment: &Environment,
        version: Version,
        document: &Value,
    ) -> Result<Self, Error> {
        let since = match command {
            Command::Add | Command::Del | Command::Version => Version::V0_3_0,
            Command::Check => Version::V0_4_0,
            Command::Gc | Command::Status => Version::V1_1_0,
        };
        if version < since {
            return Err(Error::new(
                Code::IncompatibleVersion,
                format!(
                    "cniVersion: {version} has no {}; it came with {since}",
                    command.as_str()
                ),
            ));
        }
        if Loopback::is_meant(document) {
            return Loopback::read(command, environment, version, document).map(Request::Loopback);
        }
        match command {
            Command::Version => Ok(Request::Version(version)),
            Command::Add => {
                let attach = attach(environment, version, document)?;
                fits_the_chain(&attach)?;
                Ok(Request::Add(attach))
            }
            Command::Check => {
                let attach = attach(environment, version, document)?;
                if attach.previous.is_none() {
                    return Err(missing("prevResult"));
                }
                Ok(Request::Check(attach))
            }
            Command::Del => Ok(Request::Del(Detach {
                key: key(environment)?,
                netns: environment.optional_netns().map(str::to_owned),
                config: Config::read(version, document)?,
                previous: document
                    .get("prevResult")
                    .and_then(|value| AddResult::read("prevResult", value, &mut Vec::new()).ok()),
            })),
            Command::Gc => {
                let config = Config::read(version, document)?;
                let valid = valid_attachments(document)?;
                Ok(Request::Gc(Collect { config, valid }))
            }
            Command::Status => {
                let mut config = Config::read(version, document)?;
                let link = LinkConfig::read(document, Asked::default(), &mut config.remarks)?;
                Ok(Request::Status(Status {
                    config,
                    link: link.link,
                    mtu: link.mtu,
                    anti_spoofing: link.anti_spoofing,
                    masquerade_beyond: link.masquerade_beyond,
                    gate: link.gate,
                    ipam: link.ipam,
                }))
            }
        }
    }

    /// The version to answer in.
    pub fn version(&self) -> Version {
        match self {
            Request::Add(attach) | Request::Check(attach) => attach.config.version,
            Request::Del(detach) => detach.config.version,
            Request::Gc(collect) => collect.config.version,
            Request::Status(status) => status.config.version,
            Request::Version(version) => *version,
            Request::Loopback(loopback) => loopback.version,
        }
    }

    /// Fields without effect.
    pub fn remarks(&self) -> &[super::Remark] {
        match self {
            Request::Add(attach) | Request::Check(attach) => &attach.config.remarks,
            Request::Del(detach) => &detach.config.remarks,
            Request::Gc(collect) => &collect.config.remarks,
            Request::Status(status) => &status.config.remarks,
            Request::Version(_) | Request::Loopback(_) => &[],
        }
    }
}

fn key(environment: &Environment) -> Result<AttachmentKey, Error> {
    Ok(AttachmentKey {
        container: environment.container()?,
        interface: environment.interface()?,
    })
}

fn attach(
    environment: &Environment,
    version: Version,
    document: &Value,
) -> Result<Box<Attach>, Error> {
    let key = key(environment)?;
    let netns = environment.netns()?.to_owned();
    let pod = environment.pod()?;
    let mut config = Config::read(version, document)?;
    let link = LinkConfig::read(document, environment.asked()?, &mut config.remarks)?;
    Ok(Box::new(Attach {
        key,
        netns,
        pod,
        config,
        link: link.link,
        mtu: link.mtu,
        node_addresses: link.node_addresses,
        mappings: link.mappings,
        mac: link.mac,
        bandwidth: link.bandwidth,
        anti_spoofing: link.anti_spoofing,
        masquerade_beyond: link.masquerade_beyond,
        sysctls: link.sysctls,
        gate: link.gate,
        ipam: link.ipam,
        dns: link.dns,
        previous: link.previous,
    }))
}

/// One plugin of a list makes the pod's interface, and those behind it find it in `prevResult`.
fn fits_the_chain(attach: &Attach) -> Result<(), Error> {
    let stands = attach
        .previous
        .iter()
        .flat_map(|previous| &previous.interfaces)
        .position(|there| {
            there.name == attach.key.interface.as_str()
                && there.sandbox.as_ref() == Some(&attach.netns)
        });
    match (&attach.link, stands) {
        (Link::Absent, None) => Err(invalid(
            "link",
            &format!(
                "it is none, and no plugin of the list before this one made {} in {}",
                attach.key.interface, attach.netns
            ),
        )),
        (Link::Absent, Some(_)) if attach.config.version < Version::V0_4_0 => {
            if attach.mappings.is_empty() {
                return Ok(());
            }
            // Before 0.4.0 DEL is not told what ADD was: the ports would stay.
            Err(invalid(
                "runtimeConfig.portMappings",
                &format!("with link none they need cniVersion {}", Version::V0_4_0),
            ))
        }
        (Link::Routed | Link::Bridge(_), Some(index)) => Err(invalid(
            &format!("prevResult.interfaces[{index}]"),
            &format!(
                "{} is there already; to pass it through write \"link\": \"none\" and leave \
                 ipam out",
                attach.key.interface
            ),
        )),
        (Link::Absent, Some(_)) | (Link::Routed | Link::Bridge(_), None) => Ok(()),
    }
}

/// Absent is an error: it must never mean that everything is dead.
fn valid_attachments(document: &Value) -> Result<BTreeSet<AttachmentKey>, Error> {
    const KEY: &str = "cni.dev/valid-attachments";
    let mut fields = Fields::of("", document)?;
    if fields.take(KEY).is_none() {
        return Err(missing(KEY));
    }
    let mut valid = BTreeSet::new();
    for (path, value) in fields.take_list(KEY)? {
        let mut fields = Fields::of(&path, value)?;
        let container_path = fields.path("containerID");
        let container = fields
            .take_text("containerID")?
            .ok_or_else(|| missing(&container_path))?;
        let interface_path = fields.path("ifname");
        let interface = fields
            .take_text("ifname")?
            .ok_or_else(|| missing(&interface_path))?;
        // Other networks' attachments may have names we would never make.
        valid.insert(AttachmentKey {
            container: ContainerId::try_from(container)
                .map_err(|complaint| invalid(&container_path, &complaint.to_string()))?,
            interface: match InterfaceName::try_from(interface) {
                Ok(name) => name,
                Err(_) if interface == "lo" => continue,
                Err(complaint) => return Err(invalid(&interface_path, &complaint.to_string())),
            },
        });
    }
    Ok(valid)
}
