//! A pod's ports on its node, with errors in the plugin's words.

use std::net::{IpAddr, Ipv4Addr};

use weft_desired::{HostPort, Protocol, SocketKey};
use weft_kernel::host_port;
use weft_proto::cni::{AttachmentKey, Code, Error, PortMapping};
use weft_sys::nft::Connection;

use super::chain;

/// What a pod's port mappings mean on a node with these addresses: a mapping without an address
/// holds for all of the node's, 127.0.0.1 among them. (::1 can't lead anywhere else: the kernel
/// has no route_localnet for IPv6.)
pub(super) fn compiled(mappings: &[PortMapping], node: &[IpAddr], pod: &[IpAddr]) -> Vec<HostPort> {
    let everywhere = node
        .iter()
        .copied()
        .chain([IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let everywhere: Vec<IpAddr> = everywhere.collect();
    let mut ports = Vec::new();
    for mapping in mappings {
        let Some(protocol) = Protocol::from_number(mapping.protocol) else {
            continue;
        };
        let addresses: Vec<IpAddr> = match mapping.host_ip {
            Some(ip) if !ip.is_unspecified() => vec![ip],
            Some(any) => {
                let same = everywhere.iter().filter(|ip| ip.is_ipv4() == any.is_ipv4());
                same.copied().collect()
            }
            None => everywhere.clone(),
        };
        for address in addresses {
            let pod = pod.iter().find(|pod| pod.is_ipv4() == address.is_ipv4());
            ports.extend(pod.map(|pod| HostPort {
                node: SocketKey {
                    address,
                    protocol,
                    port: mapping.host_port,
                },
                pod: *pod,
                port: mapping.container_port,
            }));
        }
    }
    ports
}

/// Makes a pod's ports exactly these; none removes them.
pub(super) fn set(
    rules: &mut Connection,
    key: &AttachmentKey,
    ports: &[HostPort],
    pods: &[IpAddr],
    link: &str,
) -> Result<(), Error> {
    host_port::set(rules, ports, pods, link).map_err(|error| not_written(key, &error))
}

/// The same of a pod that had none before: what still leads to its addresses was another's.
pub(super) fn begin(
    rules: &mut Connection,
    key: &AttachmentKey,
    ports: &[HostPort],
    pods: &[IpAddr],
    link: &str,
) -> Result<(), Error> {
    let mut write = || {
        if ports.is_empty() && !host_port::any_leads_to(rules, pods)? {
            return Ok(());
        }
        host_port::set(rules, ports, pods, link)
    };
    write().map_err(|error| not_written(key, &error))
}

fn not_written(key: &AttachmentKey, error: &host_port::Error) -> Error {
    Error::new(
        Code::Kernel,
        format!(
            "cannot write the ports of {key} on the node: {}",
            chain(error)
        ),
    )
}

/// What is wrong with a pod's ports, in words.
pub(super) fn verify(key: &AttachmentKey, ports: &[HostPort]) -> Result<Vec<String>, Error> {
    let missing = host_port::missing(ports).map_err(|error| {
        Error::new(
            Code::Kernel,
            format!(
                "cannot check the ports of {key} on the node: {}",
                chain(&error)
            ),
        )
    })?;
    let words = missing.iter().map(|port| {
        let to = std::net::SocketAddr::new(port.pod, port.port);
        format!("{} does not lead to {to}", port.node)
    });
    Ok(words.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_without_an_address_holds_for_all_of_the_node() {
        let ips = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let node = ips(&["172.30.0.11", "fd00::11"]);
        let pod = ips(&["10.244.1.5", "fd00:10:244:1::5"]);
        let mapping = |host_ip: &str| PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: 6,
            host_ip: host_ip.parse().ok(),
        };
        let told = |host_ip: &str| -> Vec<String> {
            let ports = compiled(&[mapping(host_ip)], &node, &pod);
            let words = ports
                .iter()
                .map(|port| format!("{} {}", port.node.address, port.pod));
            words.collect()
        };
        let v4 = ["172.30.0.11 10.244.1.5", "127.0.0.1 10.244.1.5"];
        assert_eq!(told("0.0.0.0"), v4);
        assert_eq!(told("::"), ["fd00::11 fd00:10:244:1::5"]);
        assert_eq!(told("127.0.0.1"), v4[1..]);
        assert_eq!(told("").len(), 3);
    }
}
