//! Network settings under `/proc/sys/net`.
//!
//! `/proc/sys/net` shows the network namespace of the thread that opens it.
//!
//! Source: the kernel's `Documentation/networking/ip-sysctl.rst`.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use weft_sys::namespace;

/// The devices a setting is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// All devices (what that means differs from setting to setting).
    All,
    /// Devices made later.
    Default,
    /// This one.
    Link(&'a str),
}

impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::All => "all",
            Scope::Default => "default",
            Scope::Link(name) => name,
        })
    }
}

/// Whether an IPv4 packet is dropped for the link it came in by (RFC 3704).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// Never.
    Off,
    /// If its source is not reached by that link.
    Strict,
    /// If its source is not reached at all.
    Loose,
}

/// A setting and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting<'a> {
    /// `net.ipv4.ip_forward`: the host is an IPv4 router. Switching it resets other
    /// IPv4 settings to the defaults of a router or a host (RFC 1812, RFC 1122).
    Ipv4Forwarding(bool),
    /// `net.ipv6.conf.*.forwarding`: for [`Scope::All`], the host is an IPv6 router. A
    /// router ignores router advertisements, and its default route from one goes.
    Ipv6Forwarding(Scope<'a>, bool),
    /// `net.ipv6.conf.*.disable_ipv6`.
    Ipv6Disabled(Scope<'a>, bool),
    /// `net.ipv4.conf.*.rp_filter`. A link has the higher of its own and that of all.
    ReversePathFilter(Scope<'a>, ReversePath),
    /// `net.ipv4.conf.*.route_localnet`: 127.0.0.0/8 is an address like any other.
    RouteLocalnet(Scope<'a>, bool),
    /// `net.ipv4.conf.*.proxy_arp`: answers for addresses it routes to.
    ProxyArp(Scope<'a>, bool),
    /// `net.ipv6.conf.*.proxy_ndp`: answers for addresses in its list of proxies.
    ProxyNdp(Scope<'a>, bool),
    /// `net.ipv6.conf.*.accept_ra`: 0 never, 1 unless it is a router, 2 always.
    AcceptRouterAdvertisements(Scope<'a>, u8),
}

impl Setting<'_> {
    /// The file under `/proc/sys`; with dots for slashes, sysctl(8)'s key.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Setting::Ipv4Forwarding(_) => "net/ipv4/ip_forward".to_owned(),
            Setting::Ipv6Forwarding(scope, _) => format!("net/ipv6/conf/{scope}/forwarding"),
            Setting::Ipv6Disabled(scope, _) => format!("net/ipv6/conf/{scope}/disable_ipv6"),
            Setting::ReversePathFilter(scope, _) => format!("net/ipv4/conf/{scope}/rp_filter"),
            Setting::RouteLocalnet(scope, _) => format!("net/ipv4/conf/{scope}/route_localnet"),
            Setting::ProxyArp(scope, _) => format!("net/ipv4/conf/{scope}/proxy_arp"),
            Setting::ProxyNdp(scope, _) => format!("net/ipv6/conf/{scope}/proxy_ndp"),
            Setting::AcceptRouterAdvertisements(scope, _) => {
                format!("net/ipv6/conf/{scope}/accept_ra")
            }
        }
    }

    /// The value as the file has it.
    #[must_use]
    pub fn value(&self) -> u8 {
        match self {
            Setting::Ipv4Forwarding(on)
            | Setting::Ipv6Forwarding(_, on)
            | Setting::Ipv6Disabled(_, on)
            | Setting::RouteLocalnet(_, on)
            | Setting::ProxyArp(_, on)
            | Setting::ProxyNdp(_, on) => u8::from(*on),
            Setting::ReversePathFilter(_, ReversePath::Off) => 0,
            Setting::ReversePathFilter(_, ReversePath::Strict) => 1,
            Setting::ReversePathFilter(_, ReversePath::Loose) => 2,
            Setting::AcceptRouterAdvertisements(_, mode) => *mode,
        }
    }
}

/// A setting that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its file can't be read or written.
    #[error("cannot {action} the setting {key}{}", advice(source))]
    File {
        /// `read` or `set`.
        action: &'static str,
        /// The file under `/proc/sys`.
        key: String,
        /// Why.
        source: io::Error,
    },
    /// The namespace can't be entered.
    #[error("cannot enter the network namespace to set {key}")]
    Namespace {
        /// The file under `/proc/sys`.
        key: String,
        /// Why.
        source: namespace::Error,
    },
}

impl Error {
    /// Whether there is no such setting here: its device is gone, or the kernel lacks the feature.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Error::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn advice(error: &io::Error) -> &'static str {
    let kind = error.kind();
    if kind == io::ErrorKind::ReadOnlyFilesystem {
        " (/proc/sys is mounted read-only here: the agent needs a privileged container)"
    } else if kind == io::ErrorKind::PermissionDenied {
        " (needs CAP_NET_ADMIN in this network namespace)"
    } else if kind == io::ErrorKind::NotFound {
        " (the device is gone, or the kernel lacks the feature)"
    } else {
        ""
    }
}

/// Whether the calling thread's network namespace has this value.
///
/// # Errors
/// [`Error::File`].
pub fn holds(setting: Setting<'_>) -> Result<bool, Error> {
    let text = fs::read_to_string(path(setting)).map_err(failed("read", setting))?;
    Ok(text.trim() == setting.value().to_string())
}

/// Gives the setting this value in the calling thread's network namespace. Does not
/// write where it has it already: `true` if it was written.
///
/// Opens the file once: the kernel keeps what it knows of these names for all namespaces in one
/// place, and looks the longer the more there are.
///
/// # Errors
/// [`Error::File`].
pub fn set(setting: Setting<'_>) -> Result<bool, Error> {
    let opened = File::options().read(true).write(true).open(path(setting));
    let file = match opened {
        // What can't be written may have the value.
        Err(source) if is_refused(&source) => {
            return match holds(setting)? {
                true => Ok(false),
                false => Err(failed("set", setting)(source)),
            };
        }
        opened => opened.map_err(failed("set", setting))?,
    };
    let value = setting.value().to_string();
    let mut present = [0; 16];
    let length = file
        .read_at(&mut present, 0)
        .map_err(failed("read", setting))?;
    if present[..length].trim_ascii() == value.as_bytes() {
        return Ok(false);
    }
    file.write_all_at(value.as_bytes(), 0)
        .map_err(failed("set", setting))?;
    Ok(true)
}

fn is_refused(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::ReadOnlyFilesystem || kind == io::ErrorKind::PermissionDenied
}

/// Whether the kernel speaks IPv6; started without it, there are no settings about it.
#[must_use]
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// As [`set`], in the network namespace that `namespace` refers to.
///
/// # Errors
/// See [`Error`].
pub fn set_in(namespace: BorrowedFd<'_>, setting: Setting<'_>) -> Result<bool, Error> {
    namespace::visit_net(namespace, || set(setting)).map_err(|source| Error::Namespace {
        key: setting.key(),
        source,
    })?
}

/// Gives a setting that somebody else chose, by its file under `/proc/sys`, a value in the
/// network namespace that `namespace` refers to.
///
/// # Errors
/// See [`Error`].
pub fn write_in(namespace: BorrowedFd<'_>, key: &str, value: &str) -> Result<(), Error> {
    in_namespace(namespace, key, || {
        fs::write(format!("/proc/sys/{key}"), value).map_err(|source| Error::File {
            action: "set",
            key: key.to_owned(),
            source,
        })
    })
}

/// The value of a setting there, as the kernel prints it.
///
/// # Errors
/// See [`Error`].
pub fn read_in(namespace: BorrowedFd<'_>, key: &str) -> Result<String, Error> {
    in_namespace(namespace, key, || {
        let text =
            fs::read_to_string(format!("/proc/sys/{key}")).map_err(|source| Error::File {
                action: "read",
                key: key.to_owned(),
                source,
            })?;
        Ok(text.trim().to_owned())
    })
}

fn in_namespace<T>(
    namespace: BorrowedFd<'_>,
    key: &str,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    namespace::visit_net(namespace, work).map_err(|source| Error::Namespace {
        key: key.to_owned(),
        source,
    })?
}

fn path(setting: Setting<'_>) -> String {
    format!("/proc/sys/{}", setting.key())
}

fn failed(action: &'static str, setting: Setting<'_>) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File {
        action,
        key: setting.key(),
        source,
    }
}
