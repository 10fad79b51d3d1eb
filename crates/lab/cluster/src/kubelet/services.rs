//! The variables by which a container finds Services without asking DNS.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use weft_kube::k8s_openapi::api::core::v1::Service;

/// The variables that tell a pod of the Services of its namespace, and always of the API's own.
/// `services` are all Services of the cluster.
#[must_use]
pub fn variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> Vec<(String, String)> {
    // By name, so that a namespace's own `kubernetes` Service replaces the API's.
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let own = service.metadata.namespace.as_deref() == Some(namespace);
        let api = name == "kubernetes" && service.metadata.namespace.as_deref() == Some("default");
        if own && links {
            chosen.insert(name, service);
        } else if api {
            chosen.entry(name).or_insert(service);
        }
    }
    chosen
        .into_iter()
        .flat_map(|(name, service)| variables_of(name, service))
        .collect()
}

fn variables_of(name: &str, service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let Some(ip) = spec
        .cluster_ip
        .as_deref()
        .and_then(|text| text.parse::<IpAddr>().ok())
    else {
        return Vec::new();
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else {
        return Vec::new();
    };
    let name = variable_name(name);
    let mut out = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_string()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            out.push((
                format!("{name}_SERVICE_PORT_{}", variable_name(port_name)),
                port.port.to_string(),
            ));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let number = u16::try_from(port.port).unwrap_or_default();
        let url = format!(
            "{}://{}",
            protocol.to_lowercase(),
            SocketAddr::new(ip, number)
        );
        if index == 0 {
            out.push((format!("{name}_PORT"), url.clone()));
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        out.push((prefix.clone(), url));
        out.push((format!("{prefix}_PROTO"), protocol.to_lowercase()));
        out.push((format!("{prefix}_PORT"), port.port.to_string()));
        out.push((format!("{prefix}_ADDR"), ip.to_string()));
    }
    out
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(namespace: &str, name: &str, ip: &str, ports: serde_json::Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": ip, "ports": ports},
        }))
        .unwrap()
    }

    #[test]
    fn services_become_variables() {
        let services = [
            service(
                "default",
                "kubernetes",
                "10.96.0.1",
                json!([{"name": "https", "port": 443}]),
            ),
            service("shop", "web-app", "fd00:10:96::5", json!([{"port": 80}])),
            service("shop", "headless", "None", json!([{"port": 80}])),
            service("other", "unseen", "10.96.0.7", json!([{"port": 80}])),
        ];
        let lines: Vec<_> = variables(&services, "shop", true)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            lines,
            [
                "KUBERNETES_SERVICE_HOST=10.96.0.1",
                "KUBERNETES_SERVICE_PORT=443",
                "KUBERNETES_SERVICE_PORT_HTTPS=443",
                "KUBERNETES_PORT=tcp://10.96.0.1:443",
                "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443",
                "KUBERNETES_PORT_443_TCP_PROTO=tcp",
                "KUBERNETES_PORT_443_TCP_PORT=443",
                "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
                "WEB_APP_SERVICE_HOST=fd00:10:96::5",
                "WEB_APP_SERVICE_PORT=80",
                "WEB_APP_PORT=tcp://[fd00:10:96::5]:80",
                "WEB_APP_PORT_80_TCP=tcp://[fd00:10:96::5]:80",
                "WEB_APP_PORT_80_TCP_PROTO=tcp",
                "WEB_APP_PORT_80_TCP_PORT=80",
                "WEB_APP_PORT_80_TCP_ADDR=fd00:10:96::5",
            ]
        );
        assert!(
            variables(&services, "shop", false)
                .iter()
                .all(|(name, _)| name.starts_with("KUBERNETES_"))
        );
    }
}
