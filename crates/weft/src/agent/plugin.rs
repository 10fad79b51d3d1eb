//! What the agent puts on its node for the CNI plugin: the binary and the configuration.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::json;
use weft_proto::cni::{InterfaceName, Range};

/// The name the runtime finds the configuration by: the first in the directory wins.
const CONFIGURATION: &str = "10-weft.conflist";

/// The plugin's name, by which a configuration has it.
const PLUGIN: &str = "weft";
/// The other plugin that weft is.
const LOOPBACK: &str = "loopback";

/// Where a node keeps its CNI files.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    /// `/opt/cni/bin`.
    pub(crate) binaries: PathBuf,
    /// `/etc/cni/net.d`.
    pub(crate) configurations: PathBuf,
}

/// What a node's pods need to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeNetwork {
    /// The node's own pod ranges.
    pub(crate) ranges: Vec<IpNet>,
    /// The node's own addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Bytes.
    pub(crate) mtu: u32,
    /// The bridge that pods are ports of; without, their links are routed.
    pub(crate) bridge: Option<InterfaceName>,
    /// Beyond these ranges pods have the node's address, if the plugin is to see to that; an
    /// agent does it itself.
    pub(crate) masquerade_beyond: Option<Vec<IpNet>>,
    /// Where ADD asks whether a pod's policies are in force, if it is to.
    pub(crate) gate: Option<PathBuf>,
}

impl Directories {
    /// Puts the plugin `weft` there, unless it is already.
    pub(crate) fn install_binary(&self) -> Result<()> {
        self.install(&Source::own()?)
    }

    fn install(&self, source: &Source) -> Result<()> {
        fs::create_dir_all(&self.binaries)
            .with_context(|| format!("CNI plugin directory {}", self.binaries.display()))?;
        // First, while the plugin that is there tells whether it is its like.
        self.install_loopback(source)?;
        if source.is_at(&self.binary()) {
            return Ok(());
        }
        self.replace(source, PLUGIN)
    }

    /// And the plugin `loopback`, which most runtimes call for each pod, where there is none but
    /// weft. A file of its own: other plugins' installers write theirs into what has that name,
    /// through a link too.
    fn install_loopback(&self, source: &Source) -> Result<()> {
        let loopback = self.binaries.join(LOOPBACK);
        let is_there = fs::symlink_metadata(&loopback).is_ok();
        let is_current = source.is_at(&loopback);
        let is_another = is_there && !is_current && self.own_loopback().is_none();
        if is_another || is_current && !same_inode(&self.binary(), &loopback) {
            return Ok(());
        }
        self.replace(source, LOOPBACK)
    }

    /// A runtime may be executing the old file: it is replaced by name, never in place.
    fn replace(&self, source: &Source, name: &str) -> Result<()> {
        let target = self.binaries.join(name);
        let fresh = self.binaries.join(format!(".{name}.new"));
        let done = source
            .copy(&fresh)
            .and_then(|()| fs::rename(&fresh, &target));
        if done.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&fresh);
        }
        done.with_context(|| format!("CNI plugin {}", target.display()))
    }

    /// The plugin `loopback`, if it is weft.
    pub(crate) fn own_loopback(&self) -> Option<PathBuf> {
        let loopback = self.binaries.join(LOOPBACK);
        let binary = self.binary();
        let is_link = fs::read_link(&loopback).is_ok_and(|leads| leads == Path::new(PLUGIN));
        // Put there at two starts, by two builds that have the same plugin, their times differ.
        let is_like = || fs::read(&loopback).is_ok_and(|there| has_content(&binary, &there));
        (is_link || same_file(&binary, &loopback) || is_like()).then_some(loopback)
    }

    /// The plugin's file.
    pub(crate) fn binary(&self) -> PathBuf {
        self.binaries.join(PLUGIN)
    }

    /// The configuration's file.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.configurations.join(CONFIGURATION)
    }

    /// Whether the network configuration is where the runtime looks for it.
    pub(crate) fn has_configuration(&self) -> bool {
        self.configuration().exists()
    }

    /// The configuration that the runtime takes instead, for its name comes first.
    pub(crate) fn preferred_configuration(&self) -> Result<Option<PathBuf>> {
        let entries = fs::read_dir(&self.configurations)
            .with_context(|| format!("CNI configurations {}", self.configurations.display()))?;
        let mut first: Option<PathBuf> = None;
        for entry in entries {
            let path = entry?.path();
            // What libcni looks for.
            let is_read =
                ["conf", "conflist", "json"].map(|kind| path.extension() == Some(kind.as_ref()));
            let is_before =
                path < self.configuration() && first.as_ref().is_none_or(|first| path < *first);
            if is_read.contains(&true) && is_before {
                first = Some(path);
            }
        }
        Ok(first)
    }

    /// Writes the network configuration, atomically, and only if it says something new.
    /// Its presence tells the runtime that the node carries pods.
    pub(crate) fn write_configuration(&self, network: &NodeNetwork) -> Result<bool> {
        let text = configuration(network)?;
        let target = self.configuration();
        if fs::read(&target).is_ok_and(|present| present == text.as_bytes()) {
            return Ok(false);
        }
        write_atomically(&target, text.as_bytes())
            .with_context(|| format!("CNI configuration {}", target.display()))?;
        Ok(true)
    }
}

fn configuration(network: &NodeNetwork) -> Result<String> {
    let mut plugin = json!({
        "type": "weft",
        "capabilities": {"portMappings": true, "ips": true, "mac": true, "bandwidth": true},
        "mtu": network.mtu,
        "nodeAddresses": network.addresses,
        "ipam": {"type": "weft", "ranges": network.ranges, "exclude": gateways(&network.ranges)},
    });
    if let Some(bridge) = &network.bridge {
        plugin["link"] = json!("bridge");
        plugin["bridge"] = json!(bridge.as_str());
    }
    if let Some(socket) = &network.gate {
        plugin["policyGate"] = json!({"socket": socket});
    }
    let mut list = json!({
        // A runtime takes the newest of the list that it speaks; one that does not know the list
        // yet (containerd 1.6, podman 4) speaks no more than 1.0.0.
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": "weft",
        "plugins": [plugin],
    });
    if let Some(ranges) = &network.masquerade_beyond {
        let plugin = &mut list["plugins"][0];
        plugin["ipMasq"] = json!(true);
        if !ranges.is_empty() {
            plugin["clusterCIDRs"] = json!(ranges);
        }
    }
    Ok(format!("{}\n", serde_json::to_string_pretty(&list)?))
}

/// The first address a pod could have of each range: a bridge's own. Pods with routed links need
/// no gateway there, but other plugins put one on it, and a node can come from them or go back.
fn gateways(ranges: &[IpNet]) -> Vec<IpAddr> {
    ranges.iter().map(|range| Range::of(*range).first).collect()
}

pub(super) fn write_atomically(target: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(directory) = target.parent() {
        fs::create_dir_all(directory)?;
    }
    // The name does not end in .conflist, so no runtime reads it half written.
    let fresh = target.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, target)
}

/// The plugin as it is within this binary, if it was built with one; if not, nothing.
const WITHIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/plugin"));

/// Whether nodes get this very binary as their plugin.
pub(crate) const fn is_this_binary() -> bool {
    WITHIN.is_empty()
}

/// What is put on the node as the plugin.
struct Source {
    content: Content,
    modified: SystemTime,
}

enum Content {
    /// A program that is the plugin and nothing else: it starts sooner than all of weft would.
    Small(&'static [u8]),
    /// This very binary, which is the plugin too.
    Whole(PathBuf),
}

impl Source {
    fn own() -> Result<Self> {
        let binary = std::env::current_exe().context("the path of weft's own binary")?;
        let modified = fs::metadata(&binary)
            .and_then(|metadata| metadata.modified())
            .with_context(|| format!("weft's own binary {}", binary.display()))?;
        let content = match is_this_binary() {
            true => Content::Whole(binary),
            false => Content::Small(WITHIN),
        };
        Ok(Self { content, modified })
    }

    fn is_at(&self, target: &Path) -> bool {
        match &self.content {
            Content::Small(plugin) => has_content(target, plugin),
            Content::Whole(binary) => same_file(binary, target),
        }
    }

    /// The copy keeps the time of the original: that is how [`same_file`] knows it again.
    fn copy(&self, target: &Path) -> std::io::Result<()> {
        match &self.content {
            Content::Small(plugin) => {
                fs::write(target, plugin)?;
                fs::set_permissions(target, Permissions::from_mode(0o755))?;
            }
            Content::Whole(binary) => {
                fs::copy(binary, target)?;
            }
        }
        let file = File::options().write(true).open(target)?;
        file.set_modified(self.modified)?;
        // Its name must not outlive a power cut that its content does not.
        file.sync_all()
    }
}

/// Reads the file only if it is as long.
fn has_content(path: &Path, content: &[u8]) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == content.len() as u64)
        && fs::read(path).is_ok_and(|there| there == content)
}

fn same_file(a: &Path, b: &Path) -> bool {
    let same_time = match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => {
            a.len() == b.len() && a.mtime() == b.mtime() && a.mtime_nsec() == b.mtime_nsec()
        }
        (Err(_), _) | (_, Err(_)) => false,
    };
    same_time || same_inode(a, b)
}

/// Whether two names are of one file.
fn same_inode(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::cni::{Environment, Link, Request, Status};

    use super::*;

    fn network() -> NodeNetwork {
        NodeNetwork {
            ranges: vec![
                "10.244.1.0/24".parse().unwrap(),
                "fd00:10:244:1::/64".parse().unwrap(),
            ],
            addresses: vec!["172.30.0.11".parse().unwrap()],
            mtu: 1500,
            bridge: None,
            masquerade_beyond: None,
            gate: None,
        }
    }

    /// What the plugin reads in a configuration.
    fn read(network: &NodeNetwork) -> Status {
        let text = configuration(network).unwrap();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut plugin = list["plugins"][0].clone();
        plugin["cniVersion"] = json!("1.1.0");
        plugin["name"] = list["name"].clone();
        let lookup = |name: &str| (name == "CNI_COMMAND").then(|| "STATUS".into());
        let environment = Environment::read(lookup).unwrap();
        let request = Request::parse(&environment, plugin.to_string().as_bytes()).unwrap();
        assert_eq!(request.remarks(), []);
        let Request::Status(status) = request else {
            panic!("{request:?}");
        };
        status
    }

    #[test]
    fn pods_are_ports_of_the_bridge_that_is_named() {
        assert_eq!(read(&network()).link, Link::Routed);
        let bridged = read(&NodeNetwork {
            bridge: Some(InterfaceName::try_from("pods0").unwrap()),
            ..network()
        });
        let Link::Bridge(bridge) = bridged.link else {
            panic!("{:?}", bridged.link);
        };
        assert_eq!(bridge.name.as_str(), "pods0");
        assert!(!bridge.isolated);
        let gateways: Vec<IpAddr> = bridge.gateways.iter().map(IpNet::addr).collect();
        assert_eq!(gateways, super::gateways(&network().ranges));
        assert!(
            gateways
                .iter()
                .all(|gateway| bridged.ipam.excluded.contains(gateway))
        );
    }

    #[test]
    fn a_configuration_that_says_nothing_new_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let directories = Directories {
            binaries: folder.path().join("bin"),
            configurations: folder.path().join("net.d"),
        };
        assert!(directories.write_configuration(&network()).unwrap());
        assert!(!directories.write_configuration(&network()).unwrap());
        let changed = NodeNetwork {
            mtu: 1450,
            gate: Some(PathBuf::from("/run/weft/gate.sock")),
            ..network()
        };
        assert!(directories.write_configuration(&changed).unwrap());
        let text = fs::read_to_string(directories.configurations.join(CONFIGURATION)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["plugins"][0]["mtu"], 1450);
        let gate = &value["plugins"][0]["policyGate"];
        assert_eq!(gate["socket"], "/run/weft/gate.sock");
        assert_eq!(
            value["plugins"][0]["ipam"]["ranges"][1],
            "fd00:10:244:1::/64"
        );
        assert_eq!(
            fs::read_dir(&directories.configurations).unwrap().count(),
            1
        );
    }

    #[test]
    fn the_address_other_plugins_have_their_gateway_at_is_left_out() {
        let excluded = gateways(&network().ranges);
        let expected: [IpAddr; 2] = [
            "10.244.1.1".parse().unwrap(),
            "fd00:10:244:1::1".parse().unwrap(),
        ];
        assert_eq!(excluded, expected);
    }

    /// What a build without a small plugin puts there.
    fn whole() -> Source {
        let binary = std::env::current_exe().unwrap();
        Source {
            modified: fs::metadata(&binary).unwrap().modified().unwrap(),
            content: Content::Whole(binary),
        }
    }

    #[test]
    fn the_binary_is_installed_once() {
        let folder = tempfile::tempdir().unwrap();
        let directories = Directories {
            binaries: folder.path().join("bin"),
            configurations: folder.path().join("net.d"),
        };
        let installed = directories.binaries.join("weft");
        directories.install(&whole()).unwrap();
        let first = fs::metadata(&installed).unwrap();
        assert_eq!(
            first.len(),
            fs::metadata(std::env::current_exe().unwrap())
                .unwrap()
                .len()
        );
        directories.install(&whole()).unwrap();
        assert_eq!(fs::metadata(&installed).unwrap().ino(), first.ino());
        assert_eq!(fs::read_dir(&directories.binaries).unwrap().count(), 2);
    }

    #[test]
    fn the_small_plugin_is_installed_once_and_replaced_by_another() {
        let folder = tempfile::tempdir().unwrap();
        let directories = Directories {
            binaries: folder.path().join("bin"),
            configurations: folder.path().join("net.d"),
        };
        // Of one length and one time, as builds may be that are made reproducible.
        let built = |plugin: &'static [u8]| Source {
            content: Content::Small(plugin),
            modified: SystemTime::UNIX_EPOCH,
        };
        for plugin in [b"one", b"two"] {
            let source = built(plugin);
            directories.install(&source).unwrap();
            let first = fs::metadata(directories.binary()).unwrap();
            assert_eq!(first.permissions().mode() & 0o777, 0o755);
            directories.install(&source).unwrap();
            let second = fs::metadata(directories.binary()).unwrap();
            assert_eq!(second.ino(), first.ino());
            for installed in [directories.binary(), directories.own_loopback().unwrap()] {
                assert_eq!(fs::read(installed).unwrap(), plugin);
            }
        }
        assert_eq!(fs::read_dir(&directories.binaries).unwrap().count(), 2);
    }

    #[test]
    fn what_is_written_into_loopback_is_not_written_into_weft() {
        let folder = tempfile::tempdir().unwrap();
        let directories = Directories {
            binaries: folder.path().join("bin"),
            configurations: folder.path().join("net.d"),
        };
        let loopback = directories.binaries.join("loopback");
        fs::create_dir_all(&directories.binaries).unwrap();
        // As earlier versions had it.
        std::os::unix::fs::symlink("weft", &loopback).unwrap();
        for _again in 0..2 {
            directories.install_binary().unwrap();
            assert_eq!(directories.own_loopback().as_ref(), Some(&loopback));
        }
        assert_eq!(fs::read_dir(&directories.binaries).unwrap().count(), 2);
        let before = fs::read(directories.binary()).unwrap();
        fs::write(&loopback, "another plugin").unwrap();
        assert!(fs::read(directories.binary()).unwrap() == before);
        directories.install_binary().unwrap();
        assert_eq!(fs::read_to_string(&loopback).unwrap(), "another plugin");
        assert_eq!(directories.own_loopback(), None);
    }

    #[test]
    fn an_earlier_versions_loopback_is_replaced_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let directories = Directories {
            binaries: folder.path().join("bin"),
            configurations: folder.path().join("net.d"),
        };
        fs::create_dir_all(&directories.binaries).unwrap();
        let loopback = directories.binaries.join("loopback");
        fs::write(directories.binary(), "earlier").unwrap();
        let earlier = Source {
            content: Content::Whole(directories.binary()),
            modified: fs::metadata(directories.binary())
                .unwrap()
                .modified()
                .unwrap(),
        };
        earlier.copy(&loopback).unwrap();
        directories.install(&whole()).unwrap();
        let source = std::env::current_exe().unwrap();
        assert!(same_file(&source, &loopback) && same_file(&source, &directories.binary()));
        // And from a whole binary to a small plugin, by two builds that have the same one.
        for modified in [SystemTime::UNIX_EPOCH, SystemTime::now()] {
            let source = Source {
                content: Content::Small(b"small"),
                modified,
            };
            directories.install(&source).unwrap();
            for installed in [directories.binary(), directories.own_loopback().unwrap()] {
                assert_eq!(fs::read(installed).unwrap(), b"small");
            }
            fs::remove_file(&loopback).unwrap();
        }
        let source = Source {
            content: Content::Small(b"small"),
            modified: SystemTime::UNIX_EPOCH,
        };
        directories.install(&source).unwrap();
        assert_eq!(directories.own_loopback(), Some(loopback));
    }
}
