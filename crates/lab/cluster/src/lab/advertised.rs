//! Where pods reach the API: the `kubernetes` Service, and the addresses it leads to.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::plan::API_PORT_INSIDE;

/// An address was to be advertised that leads no pod to the server.
#[derive(Debug, thiserror::Error)]
#[error(
    "the API can't be advertised at {address}: it {why}; give --advertise-address an address of this machine that pods reach"
)]
pub struct Unreachable {
    address: IpAddr,
    why: String,
}

/// Where a server that listens at `listening` is reached by pods: at the addresses `said`, else at
/// those of its own that an endpoint can have. None of them may be one, as with a server on
/// loopback alone: then its Service leads nowhere, which is logged.
///
/// kube-apiserver takes the machine's address on the default route instead. Ours would not answer
/// there.
///
/// # Errors
/// One of `said` is an address that no endpoint can have.
pub(super) fn addresses(
    listening: &[SocketAddr],
    said: &[IpAddr],
) -> Result<Vec<SocketAddr>, Unreachable> {
    if let Some(unreachable) = said.iter().find_map(|address| unreachable(*address)) {
        return Err(unreachable);
    }
    let port = listening.first().map_or(API_PORT_INSIDE, SocketAddr::port);
    let mut advertised: Vec<SocketAddr> = said
        .iter()
        .map(|address| SocketAddr::new(*address, port))
        .collect();
    if said.is_empty() {
        let reachable = |one: &&SocketAddr| unreachable(one.ip()).is_none();
        advertised.extend(listening.iter().filter(reachable));
    }
    if advertised.is_empty() {
        tracing::warn!(
            ?listening,
            "the Service kubernetes leads nowhere: pods can't reach the addresses listened at; give --advertise-address one that they reach"
        );
    }
    Ok(advertised)
}

fn unreachable(address: IpAddr) -> Option<Unreachable> {
    let why = weft_kinds::is_endpoint_address(&address.to_string());
    (!why.is_empty()).then(|| Unreachable {
        address,
        why: why.join(", "),
    })
}

fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// The Service of the addresses `service`, and what says that it leads to `advertised` (on a
/// cluster the API server keeps all of them itself).
pub(super) fn kubernetes_service(service: &[IpAddr], advertised: &[SocketAddr]) -> Vec<Value> {
    let target = advertised.first().map_or(API_PORT_INSIDE, SocketAddr::port);
    let mut objects = vec![json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": service.first(),
            "clusterIPs": service,
            "ipFamilies": service.iter().map(|address| family(*address)).collect::<Vec<_>>(),
            "ipFamilyPolicy": if service.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": target}],
            "sessionAffinity": "None",
        },
    })];
    let ports = |address: &SocketAddr| json!([{"name": "https", "port": address.port(), "protocol": "TCP"}]);
    for (rank, address) in advertised.iter().enumerate() {
        let kind = family(address.ip());
        let name = match rank {
            0 => "kubernetes".to_owned(),
            _ => format!("kubernetes-{}", kind.to_lowercase()),
        };
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": kind,
            "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true}}],
            "ports": ports(address),
        }));
    }
    if let Some(primary) = advertised.first() {
        objects.push(json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{"addresses": [{"ip": primary.ip()}], "ports": ports(primary)}],
        }));
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|one| one.parse().unwrap()).collect()
    }

    fn led_to(all: &[&str], said: &[&str]) -> Vec<String> {
        let said: Vec<IpAddr> = said.iter().map(|one| one.parse().unwrap()).collect();
        let advertised = addresses(&listening(all), &said).unwrap();
        advertised.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_pods_reach_of_the_addresses_listened_at_is_advertised() {
        let all = [
            "127.0.0.1:1",
            "192.0.2.7:6443",
            "[fd00::7]:6443",
            "[fe80::1]:2",
        ];
        assert_eq!(led_to(&all, &[]), ["192.0.2.7:6443", "[fd00::7]:6443"]);
        assert!(led_to(&["127.0.0.1:6443", "0.0.0.0:6443"], &[]).is_empty());
        assert_eq!(
            kubernetes_service(&["10.96.0.1".parse().unwrap()], &[]).len(),
            1
        );
    }

    #[test]
    fn what_is_said_is_advertised_with_the_port_listened_at() {
        let all = ["0.0.0.0:7443", "192.0.2.7:6443"];
        assert_eq!(led_to(&all, &["192.0.2.8"]), ["192.0.2.8:7443"]);
    }

    #[test]
    fn an_address_that_leads_a_pod_to_itself_is_refused() {
        for (address, why) in [
            ("127.0.0.1", "may not be in the loopback range"),
            ("::", "may not be unspecified"),
            ("169.254.1.1", "may not be in the link-local range"),
        ] {
            let refused = addresses(&[], &[address.parse().unwrap()]).unwrap_err();
            let said = refused.to_string();
            assert!(said.contains(&format!("{address}: it {why}")), "{said}");
        }
    }
}
