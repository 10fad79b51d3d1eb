//! Rules of EndpointSlices and Endpoints.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::rules::{
    PROTOCOLS, dns_label, dns_subdomain, immutable, invalid_all, ip, not_special, one_of,
    port_number, qualified_name,
};
use crate::read::{at, list, text, texts};
use crate::syntax::is_label_value;
use crate::{FieldError, Path};

const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
// Limits of discovery.k8s.io/v1.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20000;
const ZONES_MAX: usize = 8;

pub(crate) fn endpoint_slice(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = text(object, &["addressType"]);
    one_of(&mut errors, &Path::new("addressType"), kind, ADDRESS_TYPES);
    let endpoints = list(object, &["endpoints"]);
    let path = Path::new("endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(FieldError::too_many(&path, endpoints.len(), ENDPOINTS_MAX));
        return errors;
    }
    for (index, one) in endpoints.iter().enumerate() {
        endpoint(&mut errors, &path.index(index), kind, one);
    }
    slice_ports(&mut errors, object);
    errors
}

fn endpoint(errors: &mut Vec<FieldError>, path: &Path, kind: &str, endpoint: &Value) {
    let addresses = texts(endpoint, &["addresses"]);
    let addresses_path = path.child("addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(
            &addresses_path,
            "must contain at least 1 address",
        ));
    } else if addresses.len() > ADDRESSES_MAX {
        errors.push(FieldError::too_many(
            &addresses_path,
            addresses.len(),
            ADDRESSES_MAX,
        ));
    }
    for (index, address) in addresses.into_iter().enumerate() {
        let path = addresses_path.index(index);
        match kind {
            "IPv4" | "IPv6" => {
                let fits = address.parse::<IpAddr>().is_ok_and(|parsed| match parsed {
                    IpAddr::V4(_) => kind == "IPv4",
                    // An IPv4 address written as one of IPv6 is neither.
                    IpAddr::V6(v6) => kind == "IPv6" && v6.to_ipv4_mapped().is_none(),
                });
                if !fits {
                    let detail = format!("must be a valid {kind} address");
                    errors.push(FieldError::invalid(&path, address, detail));
                }
                endpoint_address(errors, &path, address);
            }
            "FQDN" => {
                let name = address.strip_suffix('.').unwrap_or(address);
                let before = errors.len();
                dns_subdomain(errors, &path, name);
                if errors.len() == before && name.split('.').count() < 2 {
                    let detail = "should be a domain with at least two segments separated by dots";
                    errors.push(FieldError::invalid(&path, address, detail));
                }
            }
            _ => {}
        }
    }
    if let Some(node) = at(endpoint, &["nodeName"]).and_then(Value::as_str) {
        dns_subdomain(errors, &path.child("nodeName"), node);
    }
    if let Some(hostname) = at(endpoint, &["hostname"]).and_then(Value::as_str) {
        dns_label(errors, &path.child("hostname"), hostname);
    }
    let zones = list(endpoint, &["hints", "forZones"]);
    let zones_path = path.child("hints").child("forZones");
    if zones.len() > ZONES_MAX {
        errors.push(FieldError::too_many(&zones_path, zones.len(), ZONES_MAX));
    }
    for (index, zone) in zones.iter().enumerate() {
        let path = zones_path.index(index).child("name");
        let name = text(zone, &["name"]);
        if zones[..index]
            .iter()
            .any(|other| text(other, &["name"]) == name)
        {
            errors.push(FieldError::duplicate(&path, name));
        }
        invalid_all(errors, &path, name, is_label_value(name));
    }
}

/// An address somebody can be reached at.
fn endpoint_address(errors: &mut Vec<FieldError>, path: &Path, address: &str) {
    if address.parse::<IpAddr>().is_ok() {
        not_special(errors, path, address);
    } else {
        errors.push(FieldError::invalid(
            path,
            address,
            "must be a valid IP address",
        ));
    }
}

fn slice_ports(errors: &mut Vec<FieldError>, slice: &Value) {
    let ports = list(slice, &["ports"]);
    let path = Path::new("ports");
    if ports.len() > PORTS_MAX {
        errors.push(FieldError::too_many(&path, ports.len(), PORTS_MAX));
        return;
    }
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(port, &["name"]);
        if !name.is_empty() {
            dns_label(errors, &path.child("name"), name);
        }
        if ports[..index]
            .iter()
            .any(|other| text(other, &["name"]) == name)
        {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        let path_of_protocol = path.child("protocol");
        match at(port, &["protocol"]).and_then(Value::as_str) {
            None => errors.push(FieldError::required(&path_of_protocol, "")),
            Some(protocol) if PROTOCOLS.contains(&protocol) => {}
            Some(protocol) => errors.push(FieldError::not_supported(
                &path_of_protocol,
                protocol,
                PROTOCOLS,
            )),
        }
        if let Some(protocol) = at(port, &["appProtocol"]).and_then(Value::as_str) {
            qualified_name(errors, &path.child("appProtocol"), protocol);
        }
    }
}

pub(crate) fn endpoint_slice_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    immutable(
        &mut errors,
        &Path::new("addressType"),
        &["addressType"],
        object,
        old,
    );
    errors
}

pub(crate) fn endpoints(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, subset) in list(object, &["subsets"]).iter().enumerate() {
        let path = Path::new("subsets").index(index);
        let groups = ["addresses", "notReadyAddresses"];
        if groups.iter().all(|group| list(subset, &[group]).is_empty()) {
            let detail = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(&path, detail));
        }
        for group in groups {
            for (index, address) in list(subset, &[group]).iter().enumerate() {
                let path = path.child(group).index(index);
                let value = text(address, &["ip"]);
                ip(&mut errors, &path.child("ip"), value);
                endpoint_address(&mut errors, &path.child("ip"), value);
                let hostname = text(address, &["hostname"]);
                if !hostname.is_empty() {
                    dns_label(&mut errors, &path.child("hostname"), hostname);
                }
                if let Some(node) = at(address, &["nodeName"]).and_then(Value::as_str) {
                    dns_subdomain(&mut errors, &path.child("nodeName"), node);
                }
            }
        }
        let ports = list(subset, &["ports"]);
        for (index, port) in ports.iter().enumerate() {
            let path = path.child("ports").index(index);
            match text(port, &["name"]) {
                "" if ports.len() > 1 => {
                    errors.push(FieldError::required(&path.child("name"), ""));
                }
                "" => {}
                name => dns_label(&mut errors, &path.child("name"), name),
            }
            let number = at(port, &["port"]).cloned().unwrap_or(json!(0));
            port_number(
                &mut errors,
                &path.child("port"),
                number.as_i64().unwrap_or(0),
            );
            one_of(
                &mut errors,
                &path.child("protocol"),
                text(port, &["protocol"]),
                PROTOCOLS,
            );
            if let Some(protocol) = at(port, &["appProtocol"]).and_then(Value::as_str) {
                qualified_name(&mut errors, &path.child("appProtocol"), protocol);
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(slice: Value) -> Vec<String> {
        endpoint_slice(&slice)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn slices() {
        let good = json!({"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"], "hostname": "a"}],
            "ports": [{"name": "", "protocol": "TCP", "port": 80}]});
        assert_eq!(lines(good), Vec::<String>::new());
        assert_eq!(lines(json!({})), ["addressType: Required value"]);
        assert_eq!(
            lines(
                json!({"addressType": "IPv4", "endpoints": [{"addresses": []}, {"addresses": ["fd00::1"]}],
                "ports": [{"name": "A", "protocol": "TCP"}, {"name": "b"}]})
            ),
            [
                "endpoints[0].addresses: Required value: must contain at least 1 address",
                r#"endpoints[1].addresses[0]: Invalid value: "fd00::1": must be a valid IPv4 address"#,
                r#"ports[0].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#,
                "ports[1].protocol: Required value"
            ]
        );
        let many: Vec<Value> = (0..1001)
            .map(|_| json!({"addresses": ["10.0.0.1"]}))
            .collect();
        assert_eq!(
            lines(json!({"addressType": "IPv4", "endpoints": many})),
            ["endpoints: Too many: 1001: must have at most 1000 items"]
        );
        let old = json!({"addressType": "IPv4"});
        assert_eq!(
            endpoint_slice_update(&json!({"addressType": "IPv6"}), &old)[0].to_string(),
            r#"addressType: Invalid value: "IPv6": field is immutable"#
        );
    }
}
