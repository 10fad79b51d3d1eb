//! The `CNI_` variables.

use std::ffi::OsString;

use super::asked::Asked;
use super::{Code, ContainerId, Error, InterfaceName, InvalidName};

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// Say whether the attachment is as ADD left it.
    Check,
    /// Free what belongs to no container any more.
    Gc,
    /// Say whether ADD could succeed now.
    Status,
    /// Say which versions are spoken.
    Version,
}

impl Command {
    /// Every command.
    pub const ALL: [Command; 6] = [
        Command::Add,
        Command::Del,
        Command::Check,
        Command::Gc,
        Command::Status,
        Command::Version,
    ];

    /// The command as the environment carries it.
    pub fn as_str(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
            Command::Check => "CHECK",
            Command::Gc => "GC",
            Command::Status => "STATUS",
            Command::Version => "VERSION",
        }
    }
}

/// The pod a container belongs to, as kubelet and the runtimes tell it in `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIdentity {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; empty with old runtimes.
    pub uid: String,
}

/// The variables as text, not yet judged: which of them must be there depends on
/// the command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    command: Option<String>,
    container: Option<String>,
    interface: Option<String>,
    netns: Option<String>,
    args: Option<String>,
}

impl Environment {
    /// Reads the variables through `lookup`. An empty variable is the same as none.
    ///
    /// # Errors
    /// Code 4 for a variable that is not UTF-8.
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let read = |name: &str| match lookup(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(Err(raw)) => Err(wrong(name, &format!("{} is not UTF-8", raw.display()))),
        };
        Ok(Self {
            command: read("CNI_COMMAND")?,
            container: read("CNI_CONTAINERID")?,
            interface: read("CNI_IFNAME")?,
            netns: read("CNI_NETNS")?,
            args: read("CNI_ARGS")?,
        })
    }

    pub(super) fn command(&self) -> Result<Command, Error> {
        let text = required("CNI_COMMAND", self.command.as_deref())?;
        Command::ALL
            .into_iter()
            .find(|command| command.as_str() == text)
            .ok_or_else(|| {
                let known = Command::ALL.map(Command::as_str).join(", ");
                wrong("CNI_COMMAND", &format!("{text:?} is none of {known}"))
            })
    }

    pub(super) fn container(&self) -> Result<ContainerId, Error> {
        let name = "CNI_CONTAINERID";
        named(name, required(name, self.container.as_deref())?)
    }

    pub(super) fn interface(&self) -> Result<InterfaceName, Error> {
        let name = "CNI_IFNAME";
        named(name, required(name, self.interface.as_deref())?)
    }

    pub(super) fn netns(&self) -> Result<&str, Error> {
        required("CNI_NETNS", self.netns.as_deref())
    }

    pub(super) fn optional_netns(&self) -> Option<&str> {
        self.netns.as_deref()
    }

    /// The pod named in `CNI_ARGS`.
    pub(super) fn pod(&self) -> Result<Option<PodIdentity>, Error> {
        let namespace = self.argument("K8S_POD_NAMESPACE")?;
        let name = self.argument("K8S_POD_NAME")?;
        match (namespace, name) {
            // podman says only how its container is called.
            ("", _) => Ok(None),
            (_, "") => Err(wrong(
                "CNI_ARGS",
                "has K8S_POD_NAMESPACE without K8S_POD_NAME",
            )),
            (namespace, name) => Ok(Some(PodIdentity {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: self.argument("K8S_POD_UID")?.to_owned(),
            })),
        }
    }

    /// The addresses that `CNI_ARGS` asks for.
    pub(super) fn asked(&self) -> Result<Asked, Error> {
        Asked::of_arguments(self.argument("IP")?, self.argument("MAC")?)
    }

    /// A value of `CNI_ARGS`, a list `KEY=VALUE;KEY=VALUE`, the last one counting; empty
    /// without one. Other keys are the runtime's or another plugin's and mean nothing here.
    fn argument(&self, wanted: &str) -> Result<&str, Error> {
        let mut found = "";
        for pair in self.args.as_deref().unwrap_or_default().split(';') {
            if pair.is_empty() {
                continue;
            }
            let Some((key, value)) = pair.split_once('=') else {
                return Err(wrong(
                    "CNI_ARGS",
                    &format!("{pair:?} is not of the form KEY=VALUE"),
                ));
            };
            if key == wanted {
                found = value;
            }
        }
        Ok(found)
    }
}

fn required<'a>(name: &str, value: Option<&'a str>) -> Result<&'a str, Error> {
    value.ok_or_else(|| wrong(name, "is not set"))
}

fn named<'a, T: TryFrom<&'a str, Error = InvalidName>>(
    name: &str,
    text: &'a str,
) -> Result<T, Error> {
    T::try_from(text).map_err(|complaint| wrong(name, &complaint.to_string()))
}

fn wrong(name: &str, complaint: &str) -> Error {
    Error::new(Code::InvalidEnvironment, format!("{name}: {complaint}"))
}
