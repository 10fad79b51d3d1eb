//! `/run/flannel/subnet.env`: what flannel tells of a node, for tools that read it.
//!
//! Source: flannel's `pkg/subnet/subnet.go` (`WriteSubnetFile`) and its plugin's reader. As with
//! flannel the file stays when the agent ends, and goes with `/run` when the machine does.

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::builder::{OsStringValueParser, TypedValueParser};
use ipnet::IpNet;

use super::plugin::write_atomically;

/// A path that may be empty, which clap takes for one that was forgotten.
pub(super) fn path_or_nothing() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Where it is, and what is the same on all nodes.
#[derive(Clone, Debug)]
pub(super) struct SubnetFile {
    /// Empty: nowhere.
    pub(super) path: PathBuf,
    /// The cluster's pod ranges.
    pub(super) networks: Vec<IpNet>,
    /// Whether pods' traffic that leaves the cluster is masqueraded already.
    pub(super) masquerades: bool,
}

impl SubnetFile {
    /// Writes it, atomically, and only if it says something new.
    pub(super) fn write(&self, ranges: &[IpNet], mtu: u32) -> Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let text = self.text(ranges, mtu);
        if fs::read(&self.path).is_ok_and(|present| present == text.as_bytes()) {
            return Ok(());
        }
        write_atomically(&self.path, text.as_bytes())
            .with_context(|| format!("flannel's subnet file {}", self.path.display()))
    }

    fn text(&self, ranges: &[IpNet], mtu: u32) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // A String takes everything.
            let _ = writeln!(text, "FLANNEL_{name}={value}");
        };
        for (family, is_ipv4) in [("", true), ("IPV6_", false)] {
            let is_same = |range: &&IpNet| range.addr().is_ipv4() == is_ipv4;
            let network = self.networks.iter().find(is_same);
            let subnet = ranges.iter().find(is_same);
            let (Some(network), Some(subnet)) = (network, subnet) else {
                continue;
            };
            line(&format!("{family}NETWORK"), network.to_string());
            let first = format!("{}/{}", second_address(subnet), subnet.prefix_len());
            line(&format!("{family}SUBNET"), first);
        }
        line("MTU", mtu.to_string());
        // Flannel's plugin, or Docker, has pods' traffic masqueraded where the daemon does not,
        // other nodes' pods included.
        line("IPMASQ", self.masquerades.to_string());
        text
    }

    /// The subnets of the file that is there, as far as it can be read.
    pub(super) fn subnets(&self) -> Vec<IpNet> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let values = text.lines().filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            matches!(name, "FLANNEL_SUBNET" | "FLANNEL_IPV6_SUBNET").then_some(value)
        });
        let nets = values.filter_map(|value| value.parse::<IpNet>().ok());
        nets.map(|net| net.trunc()).collect()
    }
}

/// The one flannel's bridge has.
fn second_address(range: &IpNet) -> IpAddr {
    match range.network() {
        IpAddr::V4(address) => Ipv4Addr::from(u32::from(address).wrapping_add(1)).into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address).wrapping_add(1)).into(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[arg(long, value_parser = path_or_nothing())]
        subnet_file: PathBuf,
    }

    #[test]
    fn the_path_may_be_empty() {
        for path in ["", "a/b"] {
            let parsed = Command::try_parse_from(["agent", "--subnet-file", path]);
            assert_eq!(parsed.unwrap().subnet_file, PathBuf::from(path));
        }
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn it_says_what_flannel_would() {
        let folder = tempfile::tempdir().unwrap();
        let file = SubnetFile {
            path: folder.path().join("flannel/subnet.env"),
            networks: nets(&["10.244.0.0/16", "fd00:10:244::/56"]),
            masquerades: true,
        };
        let read = || fs::read_to_string(&file.path).unwrap();
        file.write(&nets(&["10.244.1.0/24"]), 1450).unwrap();
        assert_eq!(
            read(),
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        assert_eq!(file.subnets(), nets(&["10.244.1.0/24"]));
        let both = nets(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
        file.write(&both, 1450).unwrap();
        assert_eq!(file.subnets(), both);
        assert_eq!(
            read(),
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
             FLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        // Nothing half written beside it.
        let folder = file.path.parent().unwrap();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
        let nowhere = SubnetFile {
            path: PathBuf::new(),
            ..file
        };
        nowhere.write(&both, 1450).unwrap();
        assert_eq!(nowhere.subnets(), []);
    }
}
