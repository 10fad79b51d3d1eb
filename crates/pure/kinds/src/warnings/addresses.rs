//! Addresses of Services that are written in another form than theirs.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::Value;

use super::annotated;
use crate::Path;
use crate::read::{text, texts};

pub(super) fn of_service(object: &Value) -> Vec<String> {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    let mut warnings = Vec::new();
    if annotated(object, HINTS) {
        warnings.push(format!(
            "annotation {HINTS} is deprecated, please use {MODE} instead"
        ));
    }
    let spec = Path::new("spec");
    for field in ["clusterIPs", "externalIPs"] {
        for (index, address) in texts(object, &["spec", field]).into_iter().enumerate() {
            if address != "None" {
                warnings.extend(of_address(&spec.child(field).index(index), address));
            }
        }
    }
    let balanced = text(object, &["spec", "loadBalancerIP"]);
    if !balanced.is_empty() {
        warnings.extend(of_address(&spec.child("loadBalancerIP"), balanced));
    }
    let ranges = texts(object, &["spec", "loadBalancerSourceRanges"]);
    for (index, range) in ranges.into_iter().enumerate() {
        let path = spec.child("loadBalancerSourceRanges").index(index);
        warnings.extend(of_range(&path, range));
    }
    let alias = text(object, &["spec", "type"]) == "ExternalName";
    if alias && !texts(object, &["spec", "externalIPs"]).is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !alias && !text(object, &["spec", "externalName"]).is_empty() {
        warnings
            .push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    warnings
}

fn of_address(path: &Path, address: &str) -> Option<String> {
    match address.parse::<IpAddr>() {
        Err(_) => Some(format!(
            "{path}: IP address was accepted, but will be invalid in a future Kubernetes release: {}",
            complaint(address)
        )),
        Ok(IpAddr::V6(parsed)) if canonical(parsed) != address => Some(format!(
            "{path}: IPv6 address {address:?} is not in RFC 5952 canonical format ({:?}), which may cause controller apply-loops",
            canonical(parsed)
        )),
        Ok(_) => None,
    }
}

fn of_range(path: &Path, range: &str) -> Option<String> {
    let parsed = range.split_once('/').and_then(|(address, bits)| {
        let bits: u8 = bits.parse().ok()?;
        Some((address, address.parse::<IpAddr>().ok()?, bits))
    });
    match parsed {
        None => {
            let address = range.split('/').next().unwrap_or(range);
            Some(format!(
                "{path}: IP prefix was accepted, but will be invalid in a future Kubernetes release: netip.ParsePrefix({range:?}): {}",
                complaint(address)
            ))
        }
        Some((address, IpAddr::V6(parsed), bits)) if canonical(parsed) != address => {
            let right = format!("{}/{bits}", canonical(parsed));
            Some(format!(
                "{path}: IPv6 prefix {range:?} is not in RFC 5952 canonical format ({right:?}), which may cause controller apply-loops"
            ))
        }
        Some(_) => None,
    }
}

/// RFC 5952.
fn canonical(address: Ipv6Addr) -> String {
    address.to_string()
}

/// Why Go's `netip` does not read an address.
fn complaint(address: &str) -> String {
    let padded = |part: &str| part.len() > 1 && part.starts_with('0');
    let why = if !address.contains(':') && address.split('.').any(padded) {
        "IPv4 field has octet with leading zero"
    } else {
        "unable to parse IP"
    };
    format!("ParseAddr({address:?}): {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_in_another_form_are_told() {
        let service = json!({"spec": {"type": "LoadBalancer",
            "clusterIPs": ["10.0.0.1", "FD00::1"], "loadBalancerIP": "192.000.2.1",
            "loadBalancerSourceRanges": ["192.0.02.0/24", "2001:DB8::/32", "192.0.2.0/24"]}});
        assert_eq!(
            of_service(&service),
            [
                r#"spec.clusterIPs[1]: IPv6 address "FD00::1" is not in RFC 5952 canonical format ("fd00::1"), which may cause controller apply-loops"#,
                r#"spec.loadBalancerIP: IP address was accepted, but will be invalid in a future Kubernetes release: ParseAddr("192.000.2.1"): IPv4 field has octet with leading zero"#,
                r#"spec.loadBalancerSourceRanges[0]: IP prefix was accepted, but will be invalid in a future Kubernetes release: netip.ParsePrefix("192.0.02.0/24"): ParseAddr("192.0.02.0"): IPv4 field has octet with leading zero"#,
                r#"spec.loadBalancerSourceRanges[1]: IPv6 prefix "2001:DB8::/32" is not in RFC 5952 canonical format ("2001:db8::/32"), which may cause controller apply-loops"#,
            ]
        );
    }
}
