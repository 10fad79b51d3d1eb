//! Rules of a Service's addresses and IP families.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::rules::ip;
use super::service::{field, headless};
use crate::read::{at, int, texts};
use crate::{FieldError, Path};

const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const FAMILY_POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];

/// The rules between `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`.
pub(crate) fn cluster_ip_fields(service: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if field(service, "type") == "ExternalName" {
        return errors;
    }
    let spec = Path::new("spec");
    let ips_path = spec.child("clusterIPs");
    let first = field(service, "clusterIP");
    let ips = texts(service, &["spec", "clusterIPs"]);
    let all = || json!(ips);
    match (first.is_empty(), ips.first()) {
        (false, None) => errors.push(FieldError::required(&ips_path, "")),
        (false, Some(other)) if *other != first => errors.push(FieldError::invalid(
            &ips_path,
            all(),
            "first value must match `clusterIP`",
        )),
        (true, Some(_)) => errors.push(FieldError::invalid(
            &ips_path,
            all(),
            "must be empty when `clusterIP` is not specified",
        )),
        (false, Some(_)) | (true, None) => {}
    }
    let families = texts(service, &["spec", "ipFamilies"]);
    for (index, family) in families.iter().enumerate() {
        let path = spec.child("ipFamilies").index(index);
        if !FAMILIES.contains(family) {
            errors.push(FieldError::not_supported(&path, *family, FAMILIES));
        }
        if families[..index].contains(family) {
            errors.push(FieldError::duplicate(&path, *family));
        }
    }
    if let Some(policy) = at(service, &["spec", "ipFamilyPolicy"]) {
        let policy = policy.as_str().unwrap_or("");
        if !FAMILY_POLICIES.contains(&policy) {
            let path = spec.child("ipFamilyPolicy");
            errors.push(FieldError::not_supported(&path, policy, FAMILY_POLICIES));
        }
    }
    let mut malformed = false;
    for (index, address) in ips.iter().enumerate() {
        if index == 0 && *address == "None" {
            if ips.len() > 1 {
                malformed = true;
                let detail = "'None' must be the first and only value";
                errors.push(FieldError::invalid(&ips_path, all(), detail));
            }
            continue;
        }
        malformed |= !ip(&mut errors, &ips_path.index(index), address);
    }
    if ips.len() > 2 {
        errors.push(FieldError::invalid(
            &ips_path,
            all(),
            "may only hold up to 2 values",
        ));
    }
    if malformed {
        // What follows would complain about the same address again.
        return errors;
    }
    let parsed: Vec<IpAddr> = ips
        .iter()
        .filter_map(|address| address.parse().ok())
        .collect();
    if ips.len() > 1 {
        let dual = parsed.iter().any(IpAddr::is_ipv4) && parsed.iter().any(IpAddr::is_ipv6);
        if !dual {
            let detail = "may specify no more than one IP for each IP family";
            errors.push(FieldError::invalid(&ips_path, all(), detail));
        }
    }
    if !headless(service) && errors.is_empty() {
        for (index, (address, family)) in parsed.iter().zip(&families).enumerate() {
            if address.is_ipv4() != (*family == "IPv4") {
                let detail =
                    format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
                let path = ips_path.index(index);
                errors.push(FieldError::invalid(&path, address.to_string(), detail));
            }
        }
    }
    errors
}

pub(crate) fn service_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let external = |service: &Value| field(service, "type") == "ExternalName";
    if external(object) || external(old) {
        return errors;
    }
    let spec = Path::new("spec");
    if !(headless(object) && headless(old)) {
        settled_addresses(&mut errors, object, old);
    }
    // What has no addresses can change its families.
    if !headless(object) && !headless(old) {
        settled_families(&mut errors, object, old);
    }
    let balanced = |service: &Value| field(service, "type") == "LoadBalancer";
    if balanced(object) && balanced(old) {
        let class = |service| at(service, &["spec", "loadBalancerClass"]).cloned();
        if class(object) != class(old) {
            let path = spec.child("loadBalancerClass");
            let value = class(object).unwrap_or(Value::Null);
            errors.push(FieldError::invalid(&path, value, "may not change once set"));
        }
        let health = |service| int(service, &["spec", "healthCheckNodePort"]).unwrap_or(0);
        if health(old) != 0 && health(object) != 0 && health(object) != health(old) {
            let path = spec.child("healthCheckNodePort");
            errors.push(FieldError::forbidden(&path, "field is immutable"));
        }
    }
    errors
}

const SETTLED: &str = "may not change once set";

/// Of a list of one value a family neither may change; the second may come and go.
fn settled_addresses(errors: &mut Vec<FieldError>, object: &Value, old: &Value) {
    let path = Path::new("spec").child("clusterIPs");
    let new = texts(object, &["spec", "clusterIPs"]);
    let had = texts(old, &["spec", "clusterIPs"]);
    let mut change = |index: usize, detail: &str| {
        errors.push(FieldError::invalid(&path.index(index), json!(new), detail));
    };
    if had.len() == new.len() {
        let changed = had.iter().zip(&new).enumerate();
        for (index, _) in changed.filter(|(_, (had, new))| had != new) {
            change(index, SETTLED);
        }
        return;
    }
    match (had.first(), new.first()) {
        (Some(_), None) => change(0, "primary clusterIP can not be unset"),
        (Some(had), Some(new)) if had != new => change(0, SETTLED),
        _ => {}
    }
    if had.len() > new.len() && new.len() == 1 {
        let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        single_stack(errors, object, detail);
    }
}

fn settled_families(errors: &mut Vec<FieldError>, object: &Value, old: &Value) {
    let path = Path::new("spec").child("ipFamilies").index(0);
    let new = texts(object, &["spec", "ipFamilies"]);
    let had = texts(old, &["spec", "ipFamilies"]);
    let addresses = texts(object, &["spec", "clusterIPs"]);
    if had.len() == new.len() {
        for _ in had.iter().zip(&new).filter(|(had, new)| had != new) {
            errors.push(FieldError::invalid(&path, json!(new), SETTLED));
        }
        return;
    }
    if had.len() > new.len() && addresses.is_empty() {
        let detail = "primary ipFamily can not be unset";
        errors.push(FieldError::invalid(&path, json!(new), detail));
    }
    if let (Some(had), Some(new)) = (had.first(), new.first())
        && had != new
    {
        errors.push(FieldError::invalid(&path, json!(addresses), SETTLED));
    }
    if had.len() > new.len() && new.len() == 1 {
        let detail = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        single_stack(errors, object, detail);
    }
}

fn single_stack(errors: &mut Vec<FieldError>, object: &Value, detail: &str) {
    let policy = field(object, "ipFamilyPolicy");
    if policy != "SingleStack" {
        let path = Path::new("spec").child("ipFamilyPolicy");
        errors.push(FieldError::invalid(&path, policy, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_do_not_change() {
        let valid = || {
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ipFamilies": ["IPv4"]}})
        };
        let old = valid();
        let mut new = valid();
        new["spec"]["clusterIP"] = "10.96.0.10".into();
        new["spec"]["clusterIPs"] = json!(["10.96.0.10"]);
        let lines: Vec<String> = service_update(&new, &old)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            lines,
            [
                r#"spec.clusterIPs[0]: Invalid value: []string{"10.96.0.10"}: may not change once set"#
            ]
        );
        new["spec"]["type"] = "ExternalName".into();
        assert_eq!(service_update(&new, &old), []);
    }
}
