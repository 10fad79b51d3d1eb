//! IP families of a Service: which it gets, and which fields follow from others.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::read::{at, list, map, map_mut, same, text, texts};
use crate::validate::cluster_ip_fields;
use crate::{FieldError, Path};

/// Settles `ipFamilyPolicy` and `ipFamilies`.
pub(super) fn settle(
    service: &mut Value,
    old: Option<&Value>,
    configured: &[&str],
) -> Result<(), Vec<FieldError>> {
    if text(service, &["spec", "type"]) == "ExternalName" {
        return Ok(());
    }
    let spec = Path::new("spec");
    let headless = is_headless(service);
    let selectorless = map(service, &["spec", "selector"]).is_none_or(serde_json::Map::is_empty);
    let had_policy = old
        .map(|old| text(old, &["spec", "ipFamilyPolicy"]))
        .unwrap_or("");
    if at(service, &["spec", "ipFamilyPolicy"]).is_none() {
        let policy = if !had_policy.is_empty() {
            had_policy
        } else if headless && selectorless {
            "RequireDualStack"
        } else {
            "SingleStack"
        };
        set(service, "ipFamilyPolicy", policy.into());
    }
    if let Some(old) = old {
        trim_secondary(service, old);
        // A Service that preferred two stacks keeps what it has: the cluster gaining
        // a family does not give it one.
        let unchanged = ["clusterIPs", "ipFamilies", "ipFamilyPolicy"]
            .iter()
            .all(|field| same(at(service, &["spec", field]), at(old, &["spec", field])));
        if unchanged && text(service, &["spec", "ipFamilyPolicy"]) == "PreferDualStack" {
            return Ok(());
        }
    }
    refuse(cluster_ip_fields(service))?;

    let mut errors = Vec::new();
    let policy = text(service, &["spec", "ipFamilyPolicy"]).to_owned();
    let mut families: Vec<String> = texts(service, &["spec", "ipFamilies"])
        .into_iter()
        .map(str::to_owned)
        .collect();
    let cluster_ips = texts(service, &["spec", "clusterIPs"]);
    let policy_path = spec.child("ipFamilyPolicy");
    if let Some(old) = old {
        let released = |field: &str| {
            list(old, &["spec", field]).len() == 2 && list(service, &["spec", field]).len() == 1
        };
        if policy != "SingleStack" && policy == had_policy {
            if released("clusterIPs") {
                let detail = "must be 'SingleStack' to release the secondary cluster IP";
                errors.push(FieldError::invalid(&policy_path, policy.as_str(), detail));
            } else if released("ipFamilies") {
                let detail = "must be 'SingleStack' to release the secondary IP family";
                errors.push(FieldError::invalid(&policy_path, policy.as_str(), detail));
            }
        }
    }
    if policy == "SingleStack" {
        for (count, what) in [
            (cluster_ips.len(), "cluster IPs"),
            (families.len(), "IP families"),
        ] {
            if count == 2 {
                let detail = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                );
                errors.push(FieldError::invalid(&policy_path, policy.as_str(), detail));
            }
        }
    }
    for (index, address) in cluster_ips.iter().enumerate() {
        let Ok(address) = address.parse::<IpAddr>() else {
            break;
        };
        if index < families.len() {
            continue;
        }
        let family = family_of(address);
        if configured.contains(&family) {
            families.push(family.to_owned());
        } else {
            let path = spec.child("clusterIPs").index(index);
            let detail = format!("{family} is not configured on this cluster");
            errors.push(FieldError::invalid(&path, json!(cluster_ips), detail));
        }
    }
    refuse(std::mem::take(&mut errors))?;

    let default_family = configured.first().copied().unwrap_or("IPv4");
    if headless && selectorless {
        // Whoever writes the endpoints by hand may use families the cluster lacks.
        if families.is_empty() {
            families.push(default_family.to_owned());
        }
        if policy != "SingleStack" && families.len() == 1 {
            families.push(other_family(&families[0]).to_owned());
        }
        set(service, "ipFamilies", json!(families));
        return Ok(());
    }
    if policy == "RequireDualStack" && configured.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(&policy_path, policy.as_str(), detail));
    }
    for (index, family) in families.iter().enumerate() {
        if !configured.contains(&family.as_str()) {
            let path = spec.child("ipFamilies").index(index);
            let detail = "not configured on this cluster";
            errors.push(FieldError::invalid(&path, family.as_str(), detail));
        }
    }
    refuse(errors)?;
    if families.is_empty() {
        families.push(default_family.to_owned());
    }
    if policy != "SingleStack" && families.len() == 1 && configured.len() == 2 {
        families.push(other_family(&families[0]).to_owned());
    }
    set(service, "ipFamilies", json!(families));
    Ok(())
}

fn refuse(errors: Vec<FieldError>) -> Result<(), Vec<FieldError>> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

pub(super) fn set(service: &mut Value, field: &str, value: Value) {
    if let Some(spec) = map_mut(service, &["spec"]) {
        spec.insert(field.to_owned(), value);
    }
}

pub(super) fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn other_family(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

pub(super) fn is_headless(service: &Value) -> bool {
    text(service, &["spec", "clusterIP"]) == "None"
        || texts(service, &["spec", "clusterIPs"]) == ["None"]
}

/// `clusterIP` and `clusterIPs[0]` are one field under two names: who sets one only means
/// both.
pub(super) fn sync_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let single = text(service, &["spec", "clusterIP"]).to_owned();
    let many: Vec<Value> = list(service, &["spec", "clusterIPs"]).to_vec();
    let Some(old) = old else {
        if !single.is_empty() && many.is_empty() {
            set(service, "clusterIPs", json!([single]));
        }
        return;
    };
    let old_single = text(old, &["spec", "clusterIP"]);
    let old_many = list(old, &["spec", "clusterIPs"]);
    let same_many = many.as_slice() == old_many;
    if single != old_single && (same_many || many.is_empty()) {
        if single.is_empty() {
            set(service, "clusterIPs", Value::Null);
        } else {
            let mut many = many;
            match many.first_mut() {
                Some(first) => *first = single.into(),
                None => many.push(single.into()),
            }
            set(service, "clusterIPs", json!(many));
        }
    } else if single == old_single && !same_many && many.is_empty() {
        if single.is_empty() || old_single.is_empty() {
            return;
        }
        set(service, "clusterIP", Value::Null);
    } else if single.is_empty()
        && let Some(first) = many.first()
    {
        let first = first.clone();
        set(service, "clusterIP", first);
    }
}

/// Who only turns the policy to SingleStack gives up the secondary family.
fn trim_secondary(service: &mut Value, old: &Value) {
    let turned = text(service, &["spec", "ipFamilyPolicy"]) == "SingleStack"
        && text(old, &["spec", "ipFamilyPolicy"]) != "SingleStack";
    if !turned {
        return;
    }
    for field in ["clusterIPs", "ipFamilies"] {
        let values = list(service, &["spec", field]);
        if values.len() == 2 && values == list(old, &["spec", field]) {
            let first = values[0].clone();
            set(service, field, json!([first]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::service::tests::{V4, V6, allocator, line, service};
    use super::*;

    #[test]
    fn one_family_by_default_and_two_on_request() {
        let mut dual = allocator(&[V4, V6]);
        let mut plain = service(json!({"ports": [{"port": 80}]}));
        dual.allocate_create(&mut plain, 0).unwrap();
        assert_eq!(plain["spec"]["clusterIP"], "10.96.1.1");
        assert_eq!(plain["spec"]["clusterIPs"], json!(["10.96.1.1"]));
        assert_eq!(plain["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(plain["spec"]["ipFamilyPolicy"], "SingleStack");

        let mut both =
            service(json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"}));
        dual.allocate_create(&mut both, 0).unwrap();
        assert_eq!(
            both["spec"]["clusterIPs"],
            json!(["10.96.1.2", "fd00:10:96::101"])
        );
        assert_eq!(both["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));

        let mut single = allocator(&[V6]);
        let mut prefers =
            service(json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"}));
        single.allocate_create(&mut prefers, 0).unwrap();
        assert_eq!(prefers["spec"]["ipFamilies"], json!(["IPv6"]));
        let mut requires =
            service(json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"}));
        assert_eq!(
            line(single.allocate_create(&mut requires, 0)),
            r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#
        );
        let mut v4 = service(json!({"ports": [{"port": 80}], "ipFamilies": ["IPv4"]}));
        assert_eq!(
            line(single.allocate_create(&mut v4, 0)),
            r#"spec.ipFamilies[0]: Invalid value: "IPv4": not configured on this cluster"#
        );
        let mut two = service(json!({"ports": [{"port": 80}], "ipFamilies": ["IPv4", "IPv6"]}));
        assert_eq!(
            line(dual.allocate_create(&mut two, 0)),
            r#"spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"#
        );
    }

    #[test]
    fn headless_services_have_no_address() {
        let mut addresses = allocator(&[V4, V6]);
        let mut selected = service(json!({"clusterIP": "None", "selector": {"a": "b"}}));
        addresses.allocate_create(&mut selected, 0).unwrap();
        assert_eq!(selected["spec"]["clusterIPs"], json!(["None"]));
        assert_eq!(selected["spec"]["ipFamilies"], json!(["IPv4"]));
        let mut bare = service(json!({"clusterIP": "None"}));
        allocator(&[V4]).allocate_create(&mut bare, 0).unwrap();
        assert_eq!(bare["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(bare["spec"]["ipFamilyPolicy"], "RequireDualStack");
    }
}
