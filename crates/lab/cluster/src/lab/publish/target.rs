//! Which Service a person means, and where a connection to it goes.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use weft_kube::k8s_openapi::api::core::v1::{Service, ServicePort};
use weft_kube::k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// `[NAMESPACE/]SERVICE[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// Its port, by name or number; none for its only one.
    pub port: Option<String>,
}

impl Target {
    /// The same in this namespace, unless it names one.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        if self.namespace.is_empty() {
            namespace.clone_into(&mut self.namespace);
        }
        self
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)?;
        match &self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Target {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (namespace, rest) = text.split_once('/').unwrap_or(("", text));
        let (service, port) = match rest.split_once(':') {
            Some((service, port)) => (service, Some(port)),
            None => (rest, None),
        };
        let is_name = |name: &str| {
            let known =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !name.is_empty() && name.bytes().all(known)
        };
        let fits = (namespace.is_empty() && !text.starts_with('/') || is_name(namespace))
            && is_name(service)
            && port.is_none_or(is_name);
        if !fits {
            return Err(Refusal::Syntax(text.to_owned()));
        }
        Ok(Target {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            port: port.map(str::to_owned),
        })
    }
}

/// Why a Service cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not a Service's name.
    #[error("{0:?} names no Service; give [NAMESPACE/]SERVICE[:PORT]")]
    Syntax(String),
    /// There is no such Service.
    #[error("there is no Service {service:?} in namespace {namespace:?}")]
    Unknown {
        /// Its namespace.
        namespace: String,
        /// Its name.
        service: String,
    },
    /// It has no such port, or several and none was named.
    #[error("Service {service} has {}; its ports: {ports}", wanted.as_ref().map_or_else(|| "more than one port, name one (SERVICE:PORT)".to_owned(), |port| format!("no port {port:?}")))]
    Port {
        /// The Service.
        service: String,
        /// The port asked for.
        wanted: Option<String>,
        /// Those that there are.
        ports: String,
    },
    /// Only streams can be carried.
    #[error(
        "port {port} of Service {service} is {protocol}, and only TCP can be published; use `weft lab exec NODE` to talk to it from a node"
    )]
    Protocol {
        /// The Service.
        service: String,
        /// The port.
        port: String,
        /// Its protocol.
        protocol: String,
    },
    /// It is a name of something beyond the cluster.
    #[error(
        "Service {0} has type ExternalName: it is a name for something beyond the cluster, and nothing in the lab answers for it"
    )]
    External(String),
}

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What is dialled, one after the other until one answers: the Service's address, or what is
    /// ready behind a headless one; nothing when nobody is.
    pub addresses: Vec<SocketAddr>,
    /// The nodes with ready endpoints: what is dialled from them has the shortest way.
    pub nodes: BTreeSet<String>,
}

impl Target {
    /// Where a connection goes, as the cluster is now.
    pub(super) fn route(
        &self,
        service: Option<&Service>,
        slices: &[Arc<EndpointSlice>],
    ) -> Result<Route, Refusal> {
        let spec = service.and_then(|service| service.spec.as_ref());
        let spec = spec.ok_or_else(|| Refusal::Unknown {
            namespace: self.namespace.clone(),
            service: self.service.clone(),
        })?;
        let name = format!("{}/{}", self.namespace, self.service);
        if spec.type_.as_deref() == Some("ExternalName") {
            return Err(Refusal::External(name));
        }
        let port = self.port(&name, spec.ports.as_deref().unwrap_or_default())?;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if protocol != "TCP" {
            return Err(Refusal::Protocol {
                service: name,
                port: port.port.to_string(),
                protocol: protocol.to_owned(),
            });
        }
        let ready = || {
            slices
                .iter()
                .flat_map(|slice| ready(slice).map(move |one| (slice, one)))
        };
        let nodes = ready()
            .filter_map(|(_, endpoint)| endpoint.node_name.clone())
            .collect();
        let own = spec
            .cluster_ip
            .as_deref()
            .unwrap_or_default()
            .parse::<IpAddr>();
        let number = u16::try_from(port.port).unwrap_or_default();
        let addresses = match own {
            Ok(address) => vec![SocketAddr::new(address, number)],
            Err(_) => {
                let of_endpoints = ready().filter_map(|(slice, endpoint)| {
                    let address = endpoint.addresses.first()?.parse().ok()?;
                    Some(SocketAddr::new(address, port_of(slice, port)?))
                });
                of_endpoints.collect()
            }
        };
        Ok(Route { addresses, nodes })
    }

    fn port<'a>(
        &self,
        service: &str,
        ports: &'a [ServicePort],
    ) -> Result<&'a ServicePort, Refusal> {
        let found = match &self.port {
            None if ports.len() == 1 => ports.first(),
            None => None,
            Some(wanted) => {
                let named = |port: &&ServicePort| port.name.as_ref() == Some(wanted);
                let numbered = |port: &&ServicePort| port.port.to_string() == *wanted;
                // Of two with one number (DNS) the one that can be published.
                let streams =
                    |port: &&ServicePort| port.protocol.as_deref().is_none_or(|it| it == "TCP");
                ports
                    .iter()
                    .find(named)
                    .or_else(|| ports.iter().filter(numbered).find(streams))
                    .or_else(|| ports.iter().find(numbered))
            }
        };
        found.ok_or_else(|| {
            let ports = ports.iter().map(|port| match &port.name {
                Some(name) => format!("{} ({name})", port.port),
                None => port.port.to_string(),
            });
            Refusal::Port {
                service: service.to_owned(),
                wanted: self.port.clone(),
                ports: ports.collect::<Vec<_>>().join(", "),
            }
        })
    }
}

fn ready(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    slice.endpoints.iter().filter(|endpoint| {
        // Not said means ready (discovery/v1, EndpointConditions).
        let conditions = endpoint.conditions.as_ref();
        conditions
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true)
    })
}

/// The endpoints' port for a Service's port: they have the same name.
fn port_of(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let name = port.name.as_deref().unwrap_or_default();
    let ports = slice.ports.iter().flatten();
    let mut same = ports.filter(|one| one.name.as_deref().unwrap_or_default() == name);
    same.find_map(|one| u16::try_from(one.port?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
    }

    fn slice(ready: &[(&str, &str, Option<bool>)]) -> Arc<EndpointSlice> {
        let endpoints: Vec<Value> = ready
            .iter()
            .map(|(address, node, ready)| {
                json!({"addresses": [address], "nodeName": node, "conditions": {"ready": ready}})
            })
            .collect();
        let slice = json!({
            "metadata": {"name": "web-1"}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080}],
        });
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    fn target(text: &str) -> Target {
        text.parse::<Target>().unwrap().in_namespace("default")
    }

    #[test]
    fn a_target_is_read() {
        let said = |text: &str| target(text).to_string();
        assert_eq!(said("web"), "default/web");
        assert_eq!(said("web:80"), "default/web:80");
        assert_eq!(said("shop/web:http"), "shop/web:http");
        for wrong in [
            "",
            "a/b/c",
            "/web",
            "web:",
            ":80",
            "Web",
            "web:80:90",
            "shop/",
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_service_is_dialled_at_its_address_wherever_its_endpoints_are() {
        let spec = json!({"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]});
        let slices = [slice(&[
            ("10.244.0.2", "node-1", Some(true)),
            ("10.244.1.2", "node-2", Some(false)),
        ])];
        let expected = Route {
            addresses: vec!["10.96.0.7:80".parse().unwrap()],
            nodes: ["node-1".to_owned()].into(),
        };
        for port in ["web", "web:80", "web:http"] {
            assert_eq!(
                target(port).route(Some(&service(spec.clone())), &slices),
                Ok(expected.clone())
            );
        }
    }

    #[test]
    fn a_headless_service_is_dialled_at_what_is_ready_behind_it() {
        let spec = json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]});
        let slices = [slice(&[
            ("10.244.0.2", "node-1", Some(false)),
            ("10.244.1.2", "node-2", None),
        ])];
        let route = target("web").route(Some(&service(spec)), &slices).unwrap();
        assert_eq!(route.addresses, ["10.244.1.2:8080".parse().unwrap()]);
    }

    #[test]
    fn what_cannot_be_published_is_said() {
        let two = json!({"clusterIP": "10.96.0.10", "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]});
        let said = |text: &str, service: Option<&Service>| {
            target(text).route(service, &[]).unwrap_err().to_string()
        };
        let dns = service(two);
        assert_eq!(
            said("web", Some(&dns)),
            "Service default/web has more than one port, name one (SERVICE:PORT); its ports: 53 (dns), 53 (dns-tcp)"
        );
        assert!(said("web:54", Some(&dns)).contains("no port \"54\""));
        assert!(said("web:dns", Some(&dns)).contains("is UDP, and only TCP"));
        assert!(target("web:53").route(Some(&dns), &[]).is_ok());
        let external = service(json!({"type": "ExternalName", "externalName": "example.com"}));
        assert!(said("web", Some(&external)).contains("ExternalName"));
        assert_eq!(
            said("web", None),
            "there is no Service \"web\" in namespace \"default\""
        );
    }
}
