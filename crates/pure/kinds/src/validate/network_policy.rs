//! Rules of NetworkPolicies.

use ipnet::IpNet;
use serde_json::Value;

use super::rules::{cidr, invalid_all, label_selector, port_number, port_number_or_name};
use crate::read::{at, int, list, text, texts};
use crate::syntax::is_port_name;
use crate::{FieldError, Path};

const POLICY_TYPES: &[&str] = &["Ingress", "Egress"];
/// In the order its complaints name them.
const PORT_PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

/// Of a change Kubernetes looks at the spec twice.
pub(crate) fn network_policy_update(object: &Value, _: &Value) -> Vec<FieldError> {
    network_policy(object)
}

pub(crate) fn network_policy(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    if let Some(selector) = at(object, &["spec", "podSelector"]) {
        label_selector(&mut errors, &spec.child("podSelector"), selector);
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = list(object, &["spec", direction]);
        for (index, rule) in rules.iter().enumerate() {
            let path = spec.child(direction).index(index);
            for (index, one) in list(rule, &["ports"]).iter().enumerate() {
                port(&mut errors, &path.child("ports").index(index), one);
            }
            for (index, one) in list(rule, &[peers]).iter().enumerate() {
                peer(&mut errors, &path.child(peers).index(index), one);
            }
        }
    }
    let types = texts(object, &["spec", "policyTypes"]);
    let path = spec.child("policyTypes");
    if types.len() > POLICY_TYPES.len() {
        let detail = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(&path, types, detail));
        return errors;
    }
    for (index, kind) in types.into_iter().enumerate() {
        if !POLICY_TYPES.contains(&kind) {
            let path = path.index(index);
            errors.push(FieldError::not_supported(&path, kind, POLICY_TYPES));
        }
    }
    errors
}

fn port(errors: &mut Vec<FieldError>, path: &Path, port: &Value) {
    if let Some(protocol) = at(port, &["protocol"]).and_then(Value::as_str)
        && !PORT_PROTOCOLS.contains(&protocol)
    {
        let path = path.child("protocol");
        errors.push(FieldError::not_supported(&path, protocol, PORT_PROTOCOLS));
    }
    let end = int(port, &["endPort"]);
    let end_path = path.child("endPort");
    let port_path = path.child("port");
    let mut refuse_end = |detail: &str| {
        if let Some(end) = end {
            errors.push(FieldError::invalid(&end_path, end, detail));
        }
    };
    match at(port, &["port"]) {
        None => refuse_end("may not be specified when `port` is not specified"),
        Some(Value::String(name)) => {
            refuse_end("may not be specified when `port` is non-numeric");
            invalid_all(errors, &port_path, name.as_str(), is_port_name(name));
        }
        Some(number) => {
            port_number_or_name(errors, &port_path, number);
            if let Some(end) = end {
                let number = number.as_i64().unwrap_or(0);
                if end < number {
                    // The value it shows is the port's.
                    let detail = "must be greater than or equal to `port`";
                    errors.push(FieldError::invalid(&end_path, number, detail));
                }
                port_number(errors, &end_path, end);
            }
        }
    }
}

fn peer(errors: &mut Vec<FieldError>, path: &Path, peer: &Value) {
    let mut peers = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = at(peer, &[field]) {
            peers += 1;
            label_selector(errors, &path.child(field), selector);
        }
    }
    let block = at(peer, &["ipBlock"]);
    if let Some(block) = block {
        peers += 1;
        ip_block(errors, &path.child("ipBlock"), block);
    }
    if peers == 0 {
        errors.push(FieldError::required(path, "must specify a peer"));
    } else if peers > 1 && block.is_some() {
        let detail = "may not specify both ipBlock and another peer";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn ip_block(errors: &mut Vec<FieldError>, path: &Path, block: &Value) {
    let range = text(block, &["cidr"]);
    let range_path = path.child("cidr");
    if range.is_empty() {
        errors.push(FieldError::required(&range_path, ""));
        return;
    }
    cidr(errors, &range_path, range);
    let Ok(range) = range.parse::<IpNet>() else {
        return;
    };
    for (index, except) in texts(block, &["except"]).into_iter().enumerate() {
        let path = path.child("except").index(index);
        cidr(errors, &path, except);
        let Ok(parsed) = except.parse::<IpNet>() else {
            continue;
        };
        if !range.contains(&parsed.network()) || range.prefix_len() >= parsed.prefix_len() {
            let detail = "must be a strict subset of `cidr`";
            errors.push(FieldError::invalid(&path, except, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(spec: Value) -> Vec<String> {
        network_policy(&json!({ "spec": spec }))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn ports() {
        let with = |port: Value| lines(json!({"podSelector": {}, "ingress": [{"ports": [port]}]}));
        for good in [
            json!({}),
            json!({"protocol": "UDP", "port": 53}),
            json!({"port": "http"}),
            json!({"port": 80, "endPort": 80}),
        ] {
            assert_eq!(with(good.clone()), [""; 0], "{good}");
        }
        for (port, expected) in [
            (
                json!({"protocol": "ICMP"}),
                r#"spec.ingress[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP""#,
            ),
            (
                json!({"port": 0}),
                "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"port": 80, "endPort": 79}),
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
            ),
            (
                json!({"port": 80, "endPort": 65536}),
                "spec.ingress[0].ports[0].endPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"port": "http", "endPort": 80}),
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: may not be specified when `port` is non-numeric",
            ),
            (
                json!({"endPort": 80}),
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: may not be specified when `port` is not specified",
            ),
            (
                json!({"port": "a--b"}),
                r#"spec.ingress[0].ports[0].port: Invalid value: "a--b": must not contain consecutive hyphens"#,
            ),
        ] {
            assert_eq!(with(port.clone()), [expected], "{port}");
        }
    }

    #[test]
    fn peers() {
        let with = |peer: Value| lines(json!({"podSelector": {}, "egress": [{"to": [peer]}]}));
        for good in [
            json!({"podSelector": {}}),
            json!({"podSelector": {}, "namespaceSelector": {}}),
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}),
            json!({"ipBlock": {"cidr": "fd00::/8", "except": ["fd00::/64"]}}),
        ] {
            assert_eq!(with(good.clone()), [""; 0], "{good}");
        }
        for (peer, expected) in [
            (
                json!({}),
                "spec.egress[0].to[0]: Required value: must specify a peer",
            ),
            (
                json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}),
                "spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (
                json!({"ipBlock": {}}),
                "spec.egress[0].to[0].ipBlock.cidr: Required value",
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0"}}),
                r#"spec.egress[0].to[0].ipBlock.cidr: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#,
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}),
                r#"spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#,
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}),
                r#"spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`"#,
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/64"]}}),
                r#"spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "fd00::/64": must be a strict subset of `cidr`"#,
            ),
            (
                json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
                "spec.egress[0].to[0].podSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ),
        ] {
            assert_eq!(with(peer.clone()), [expected], "{peer}");
        }
    }

    #[test]
    fn policy_types() {
        assert_eq!(
            lines(json!({"policyTypes": ["Ingress", "Both"]})),
            [
                r#"spec.policyTypes[1]: Unsupported value: "Both": supported values: "Ingress", "Egress""#
            ]
        );
        assert_eq!(
            lines(json!({"policyTypes": ["Ingress", "Egress", "x"]})),
            [
                r#"spec.policyTypes: Invalid value: []string{"Ingress", "Egress", "x"}: may not specify more than two policyTypes"#
            ]
        );
    }
}
