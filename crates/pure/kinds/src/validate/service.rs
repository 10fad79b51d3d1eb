//! Rules of Services.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::addresses::cluster_ip_fields;
use super::rules::{
    PROTOCOLS, cidr, dns_label, dns_subdomain, ip, labels, not_special, one_of, port_number,
    port_number_or_name, qualified_name,
};
use crate::read::{at, int, list, map, text, texts};
use crate::{FieldError, Path};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const AFFINITIES: &[&str] = &["ClientIP", "None"];
const TRAFFIC_POLICIES: &[&str] = &["Cluster", "Local"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
const IP_MODES: &[&str] = &["Proxy", "VIP"];
/// The kubelet's own port (Kubernetes `KubeletPort`).
const KUBELET_PORT: i64 = 10250;
/// One day (Kubernetes API, `ClientIPConfig.timeoutSeconds`).
const AFFINITY_SECONDS_MAX: i64 = 86400;

pub(super) fn field<'a>(service: &'a Value, name: &str) -> &'a str {
    text(service, &["spec", name])
}

pub(super) fn headless(service: &Value) -> bool {
    field(service, "clusterIP") == "None" || texts(service, &["spec", "clusterIPs"]) == ["None"]
}

/// Addresses and names of the load balancer.
pub(crate) fn service_status(object: &Value, _: &Value) -> Vec<FieldError> {
    const PLACE: &[&str] = &["status", "loadBalancer", "ingress"];
    let mut errors = Vec::new();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let balancers = list(object, PLACE);
    if field(object, "type") != "LoadBalancer" && !balancers.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(&path, detail));
        return errors;
    }
    for (index, balancer) in balancers.iter().enumerate() {
        let path = path.index(index);
        let address = text(balancer, &["ip"]);
        if !address.is_empty() {
            ip(&mut errors, &path.child("ip"), address);
        }
        let mode = at(balancer, &["ipMode"]).and_then(Value::as_str);
        let mode_path = path.child("ipMode");
        match mode {
            None if !address.is_empty() => {
                let detail = "must be specified when `ip` is set";
                errors.push(FieldError::required(&mode_path, detail));
            }
            None => {}
            Some(_) if address.is_empty() => {
                let detail = "may not be specified when `ip` is not set";
                errors.push(FieldError::forbidden(&mode_path, detail));
            }
            Some(mode) if IP_MODES.contains(&mode) => {}
            Some(mode) => errors.push(FieldError::not_supported(&mode_path, mode, IP_MODES)),
        }
        let name = text(balancer, &["hostname"]);
        if !name.is_empty() {
            let path = path.child("hostname");
            dns_subdomain(&mut errors, &path, name);
            if name.parse::<IpAddr>().is_ok() {
                let detail = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(&path, name, detail));
            }
        }
    }
    errors
}

pub(crate) fn service(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let kind = field(object, "type");
    let ports = list(object, &["spec", "ports"]);
    let ports_path = spec.child("ports");
    if ports.is_empty() && !headless(object) && kind != "ExternalName" {
        errors.push(FieldError::required(&ports_path, ""));
    }
    by_type(&mut errors, object);
    let mut names: Vec<&str> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = ports_path.index(index);
        let name = text(port, &["name"]);
        if !name.is_empty() {
            dns_label(&mut errors, &path.child("name"), name);
            if names.contains(&name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
            names.push(name);
        } else if ports.len() > 1 {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        port_number(
            &mut errors,
            &path.child("port"),
            int(port, &["port"]).unwrap_or(0),
        );
        one_of(
            &mut errors,
            &path.child("protocol"),
            text(port, &["protocol"]),
            PROTOCOLS,
        );
        let target = at(port, &["targetPort"]).cloned().unwrap_or(json!(0));
        port_number_or_name(&mut errors, &path.child("targetPort"), &target);
        if let Some(protocol) = at(port, &["appProtocol"]).and_then(Value::as_str) {
            qualified_name(&mut errors, &path.child("appProtocol"), protocol);
        }
    }
    labels(
        &mut errors,
        &spec.child("selector"),
        map(object, &["spec", "selector"]),
    );
    affinity(&mut errors, object);
    errors.extend(cluster_ip_fields(object));
    for (index, address) in texts(object, &["spec", "externalIPs"])
        .into_iter()
        .enumerate()
    {
        let path = spec.child("externalIPs").index(index);
        if ip(&mut errors, &path, address) {
            not_special(&mut errors, &path, address);
        }
    }
    one_of(&mut errors, &spec.child("type"), kind, TYPES);
    duplicate_ports(&mut errors, object);
    load_balancer(&mut errors, object);
    traffic_policies(&mut errors, object);
    errors
}

fn by_type(errors: &mut Vec<FieldError>, service: &Value) {
    let spec = Path::new("spec");
    let kind = field(service, "type");
    if kind == "LoadBalancer" {
        for (index, port) in list(service, &["spec", "ports"]).iter().enumerate() {
            if int(port, &["port"]) == Some(KUBELET_PORT) {
                let path = spec.child("ports").index(index);
                let detail = format!(
                    "may not expose port {KUBELET_PORT} externally since it is used by kubelet"
                );
                errors.push(FieldError::invalid(&path, KUBELET_PORT, detail));
            }
        }
    }
    if matches!(kind, "LoadBalancer" | "NodePort") && headless(service) {
        let path = spec.child("clusterIPs").index(0);
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid(&path, "None", detail));
    }
    if kind == "ExternalName" {
        for name in ["clusterIPs", "ipFamilies"] {
            if !list(service, &["spec", name]).is_empty() {
                let detail = "may not be set for ExternalName services";
                errors.push(FieldError::forbidden(&spec.child(name), detail));
            }
        }
        if at(service, &["spec", "ipFamilyPolicy"]).is_some() {
            let detail = "may not be set for ExternalName services";
            errors.push(FieldError::forbidden(&spec.child("ipFamilyPolicy"), detail));
        }
        let alias = field(service, "externalName");
        let path = spec.child("externalName");
        match alias.strip_suffix('.').unwrap_or(alias) {
            "" => errors.push(FieldError::required(&path, "")),
            name => dns_subdomain(errors, &path, name),
        }
    }
    if kind == "ClusterIP" {
        for (index, port) in list(service, &["spec", "ports"]).iter().enumerate() {
            if int(port, &["nodePort"]).unwrap_or(0) != 0 {
                let path = spec.child("ports").index(index).child("nodePort");
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(&path, detail));
            }
        }
    }
}

fn affinity(errors: &mut Vec<FieldError>, service: &Value) {
    let path = Path::new("spec").child("sessionAffinity");
    let affinity = field(service, "sessionAffinity");
    one_of(errors, &path, affinity, AFFINITIES);
    let config = at(service, &["spec", "sessionAffinityConfig"]);
    let path = Path::new("spec").child("sessionAffinityConfig");
    match affinity {
        "None" if config.is_some() => errors.push(FieldError::forbidden(
            &path,
            "must not be set when session affinity is None",
        )),
        "ClientIP" => {
            let client = at(service, &["spec", "sessionAffinityConfig", "clientIP"]);
            let timeout = client.and_then(|client| int(client, &["timeoutSeconds"]));
            let timeout_path = path.child("clientIP").child("timeoutSeconds");
            let missing = "when session affinity type is ClientIP";
            match (config, client, timeout) {
                (None, _, _) => errors.push(FieldError::required(&path, missing)),
                (_, None, _) => {
                    errors.push(FieldError::required(&path.child("clientIP"), missing));
                }
                (_, _, None) => errors.push(FieldError::required(&timeout_path, missing)),
                (_, _, Some(1..=AFFINITY_SECONDS_MAX)) => {}
                (_, _, Some(seconds)) => {
                    let detail =
                        format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                    errors.push(FieldError::invalid(&timeout_path, seconds, detail));
                }
            }
        }
        _ => {}
    }
}

fn duplicate_ports(errors: &mut Vec<FieldError>, service: &Value) {
    let ports = list(service, &["spec", "ports"]);
    let path = Path::new("spec").child("ports");
    let key = |port: &Value, number: &str| {
        (
            text(port, &["protocol"]).to_owned(),
            int(port, &[number]).unwrap_or(0),
        )
    };
    for (index, port) in ports.iter().enumerate() {
        let node_port = key(port, "nodePort");
        if node_port.1 != 0
            && ports[..index]
                .iter()
                .any(|other| key(other, "nodePort") == node_port)
        {
            let path = path.index(index).child("nodePort");
            errors.push(FieldError::duplicate(&path, node_port.1));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let number = key(port, "port");
        if ports[..index]
            .iter()
            .any(|other| key(other, "port") == number)
        {
            let shown = json!({"port": number.1, "protocol": number.0});
            errors.push(FieldError::duplicate(&path.index(index), shown));
        }
    }
}

fn load_balancer(errors: &mut Vec<FieldError>, service: &Value) {
    let spec = Path::new("spec");
    let balanced = field(service, "type") == "LoadBalancer";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = texts(service, &["spec", "loadBalancerSourceRanges"]);
    // Kubernetes writes this field so in complaints.
    let ranges_path = spec.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() && !balanced {
        errors.push(FieldError::forbidden(&ranges_path, only));
    }
    if ranges.is_empty() {
        annotated_ranges(errors, service, balanced, only);
    }
    for (index, range) in ranges.into_iter().enumerate() {
        cidr(errors, &ranges_path.index(index), range.trim());
    }
    let allocate = at(service, &["spec", "allocateLoadBalancerNodePorts"]);
    let allocate_path = spec.child("allocateLoadBalancerNodePorts");
    match (allocate, balanced) {
        (Some(_), false) => errors.push(FieldError::forbidden(&allocate_path, only)),
        (None, true) => errors.push(FieldError::required(&allocate_path, "")),
        (Some(_), true) | (None, false) => {}
    }
    if let Some(class) = at(service, &["spec", "loadBalancerClass"]) {
        let path = spec.child("loadBalancerClass");
        if balanced {
            qualified_name(errors, &path, class.as_str().unwrap_or(""));
        } else {
            errors.push(FieldError::forbidden(&path, only));
        }
    }
}

/// The older way to say `loadBalancerSourceRanges`.
fn annotated_ranges(errors: &mut Vec<FieldError>, service: &Value, balanced: bool, only: &str) {
    const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let Some(ranges) = at(service, &["metadata", "annotations", RANGES]).and_then(Value::as_str)
    else {
        return;
    };
    let path = Path::new("metadata").child("annotations").key(RANGES);
    if !balanced {
        errors.push(FieldError::forbidden(&path, only));
    }
    if ranges.trim().is_empty() {
        return;
    }
    for range in ranges.split(',') {
        cidr(errors, &path, range.trim());
    }
}

fn traffic_policies(errors: &mut Vec<FieldError>, service: &Value) {
    let spec = Path::new("spec");
    let kind = field(service, "type");
    let reachable = matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !list(service, &["spec", "externalIPs"]).is_empty());
    let external = field(service, "externalTrafficPolicy");
    let path = spec.child("externalTrafficPolicy");
    if reachable {
        one_of(errors, &path, external, TRAFFIC_POLICIES);
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(&path, external, detail));
    }
    let health = int(service, &["spec", "healthCheckNodePort"]).unwrap_or(0);
    let path = spec.child("healthCheckNodePort");
    match (kind == "LoadBalancer" && external == "Local", health) {
        (false, 0) => {}
        (false, port) => errors.push(FieldError::invalid(
            &path,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        )),
        (true, 0) => errors.push(FieldError::required(&path, "")),
        (true, port) => port_number(errors, &path, port),
    }
    let internal = at(service, &["spec", "internalTrafficPolicy"]);
    let path = spec.child("internalTrafficPolicy");
    match internal.and_then(Value::as_str) {
        None if matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") => {
            errors.push(FieldError::required(&path, ""));
        }
        None => {}
        Some(policy) if TRAFFIC_POLICIES.contains(&policy) => {}
        Some(policy) => errors.push(FieldError::not_supported(&path, policy, TRAFFIC_POLICIES)),
    }
    if let Some(distribution) = at(service, &["spec", "trafficDistribution"]) {
        let distribution = distribution.as_str().unwrap_or("");
        if !DISTRIBUTIONS.contains(&distribution) {
            let path = spec.child("trafficDistribution");
            errors.push(FieldError::not_supported(
                &path,
                distribution,
                DISTRIBUTIONS,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;

    /// A valid Service, changed by `change`, and what is wrong with it.
    fn lines(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = valid();
        change(&mut object["spec"]);
        service(&object).iter().map(ToString::to_string).collect()
    }

    fn valid() -> Value {
        let mut object = json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80}]}});
        find_kind("", "v1", "Service")
            .unwrap()
            .set_defaults(&mut object);
        object
    }

    #[test]
    fn a_valid_service_passes() {
        assert_eq!(lines(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn ports() {
        assert_eq!(
            lines(|spec| spec["ports"][0]["port"] = 70000.into()),
            ["spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"]
        );
        assert_eq!(
            lines(|spec| spec["ports"] = json!([])),
            ["spec.ports: Required value"]
        );
        assert_eq!(
            lines(|spec| spec["ports"][0]["protocol"] = "ICMP".into()),
            [
                r#"spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP""#
            ]
        );
        let two = json!([
            {"name": "a", "port": 80, "protocol": "TCP", "targetPort": "http"},
            {"name": "a", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30000}]);
        assert_eq!(
            lines(|spec| spec["ports"] = two),
            [
                "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                r#"spec.ports[1].name: Duplicate value: "a""#,
                r#"spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}"#
            ]
        );
        let unnamed = json!([{"port": 80, "protocol": "TCP", "targetPort": 80},
            {"name": "b", "port": 81, "protocol": "TCP", "targetPort": "waytoolongaportname"}]);
        assert_eq!(
            lines(|spec| spec["ports"] = unnamed),
            [
                "spec.ports[0].name: Required value",
                r#"spec.ports[1].targetPort: Invalid value: "waytoolongaportname": must be no more than 15 characters"#
            ]
        );
    }

    #[test]
    fn types() {
        let wrong = lines(|spec| spec["type"] = "Foo".into());
        assert!(wrong.contains(&r#"spec.type: Unsupported value: "Foo": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#.to_owned()));
        assert_eq!(
            lines(|spec| {
                *spec = json!({"type": "ExternalName", "sessionAffinity": "None", "externalName": "Bad_"});
            })
            .len(),
            1
        );
        assert_eq!(
            lines(|spec| {
                *spec = json!({"type": "ExternalName", "sessionAffinity": "None", "clusterIPs": ["10.0.0.1"]});
            }),
            [
                "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
                "spec.externalName: Required value"
            ]
        );
        assert_eq!(
            lines(|spec| {
                spec["type"] = "NodePort".into();
                spec["externalTrafficPolicy"] = "Cluster".into();
                spec["clusterIP"] = "None".into();
                spec["clusterIPs"] = json!(["None"]);
            }),
            [
                r#"spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services"#
            ]
        );
    }

    #[test]
    fn addresses_and_families() {
        assert_eq!(
            lines(|spec| spec["clusterIP"] = "10.96.0.10".into()),
            [
                r#"spec.clusterIPs: Invalid value: []string{"10.96.0.9"}: first value must match `clusterIP`"#
            ]
        );
        assert_eq!(
            lines(|spec| {
                spec["clusterIP"] = "x".into();
                spec["clusterIPs"] = json!(["x"]);
            }),
            [
                r#"spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#
            ]
        );
        assert_eq!(
            lines(|spec| spec["ipFamilies"] = json!(["IPv6"])),
            [
                r#"spec.clusterIPs[0]: Invalid value: "10.96.0.9": expected an IPv6 value as indicated by `ipFamilies[0]`"#
            ]
        );
        assert_eq!(
            lines(|spec| spec["clusterIPs"] = json!(["10.96.0.9", "10.96.0.10"])),
            [
                r#"spec.clusterIPs: Invalid value: []string{"10.96.0.9", "10.96.0.10"}: may specify no more than one IP for each IP family"#
            ]
        );
        assert_eq!(
            lines(|spec| spec["ipFamilyPolicy"] = "Both".into()),
            [
                r#"spec.ipFamilyPolicy: Unsupported value: "Both": supported values: "PreferDualStack", "RequireDualStack", "SingleStack""#
            ]
        );
        assert_eq!(
            lines(|spec| spec["externalIPs"] = json!(["127.0.0.1"]))[0],
            r#"spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#
        );
    }

    #[test]
    fn affinity_and_policies() {
        assert_eq!(
            lines(|spec| {
                spec["sessionAffinity"] = "ClientIP".into();
                spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 90000}});
            }),
            [
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 and less than 86400"
            ]
        );
        assert_eq!(
            lines(|spec| spec["externalTrafficPolicy"] = "Local".into()),
            [
                r#"spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services"#
            ]
        );
        assert_eq!(
            lines(|spec| spec["internalTrafficPolicy"] = "Near".into()),
            [
                r#"spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local""#
            ]
        );
        assert_eq!(
            lines(|spec| spec["loadBalancerSourceRanges"] = json!(["10.0.0.0"])),
            [
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                r#"spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#
            ]
        );
    }
}
