//! Rules of ServiceCIDRs and of the IPAddresses taken from them.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::rules::{IMMUTABLE, dns_subdomain, immutable, invalid_all};
use crate::read::{at, text, texts};
use crate::syntax::{is_canonical_cidr, name_path};
use crate::{FieldError, Path};

/// One range a family.
const RANGES_MAX: usize = 2;

fn ranges_path() -> Path {
    Path::new("spec").child("cidrs")
}

pub(crate) fn service_cidr(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = ranges_path();
    let ranges = texts(object, &["spec", "cidrs"]);
    if ranges.is_empty() {
        errors.push(FieldError::required(&path, "at least one CIDR required"));
        return errors;
    }
    if ranges.len() > RANGES_MAX {
        let value = json!({ "CIDRs": ranges });
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid(&path, value, detail));
        return errors;
    }
    for (index, range) in ranges.iter().enumerate() {
        let complaints = is_canonical_cidr(range);
        invalid_all(&mut errors, &path.index(index), *range, complaints);
    }
    let families: Vec<bool> = ranges
        .iter()
        .filter_map(|range| range.parse::<IpNet>().ok())
        .map(|range| range.addr().is_ipv4())
        .collect();
    if families.len() == RANGES_MAX && families[0] == families[1] {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(&path, ranges, detail));
    }
    errors
}

/// Ranges stay; a second family may be added.
pub(crate) fn service_cidr_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let path = ranges_path();
    let new = texts(object, &["spec", "cidrs"]);
    let had = texts(old, &["spec", "cidrs"]);
    let grows = had.len() == 1 && new.len() == RANGES_MAX;
    if new.len() != had.len() && !grows {
        return vec![FieldError::invalid(&path, new, IMMUTABLE)];
    }
    let mut errors: Vec<FieldError> = new
        .iter()
        .zip(&had)
        .enumerate()
        .filter(|(_, (new, had))| new != had)
        .map(|(index, (new, _))| FieldError::invalid(&path.index(index), *new, IMMUTABLE))
        .collect();
    if grows {
        errors.extend(service_cidr(object));
    }
    errors
}

pub(crate) fn ip_address(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec").child("parentRef");
    let Some(parent) = at(object, &["spec", "parentRef"]) else {
        errors.push(FieldError::required(&path, ""));
        return errors;
    };
    // The core group has no name.
    let group = text(parent, &["group"]);
    if !group.is_empty() {
        dns_subdomain(&mut errors, &path.child("group"), group);
    }
    for (field, needed) in [("resource", true), ("name", true), ("namespace", false)] {
        let path = path.child(field);
        match text(parent, &[field]) {
            "" if needed => errors.push(FieldError::required(&path, "")),
            "" => {}
            value => invalid_all(&mut errors, &path, value, name_path(value, false)),
        }
    }
    errors
}

pub(crate) fn ip_address_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec").child("parentRef");
    immutable(&mut errors, &path, &["spec", "parentRef"], object, old);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;

    fn lines(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn ranges(cidrs: &[&str]) -> Value {
        json!({"spec": {"cidrs": cidrs}})
    }

    #[test]
    fn ranges_are_canonical_and_of_two_families() {
        let with = |cidrs: &[&str]| lines(&service_cidr(&ranges(cidrs)));
        assert_eq!(with(&["10.96.0.0/12", "fd00::/112"]), [""; 0]);
        assert_eq!(
            with(&[]),
            ["spec.cidrs: Required value: at least one CIDR required"]
        );
        assert_eq!(
            with(&["10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/8"]),
            [
                r#"spec.cidrs: Invalid value: {"CIDRs":["10.0.0.0/8","10.0.0.0/8","10.0.0.0/8"]}: may only hold up to 2 values"#
            ]
        );
        assert_eq!(
            with(&["10.0.0.0/8", "10.96.0.0/12"]),
            [
                r#"spec.cidrs: Invalid value: []string{"10.0.0.0/8", "10.96.0.0/12"}: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"#
            ]
        );
        for (range, detail) in [
            (
                "10.0.0.0",
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                "10.0.0.1/8",
                "must not have bits set beyond the prefix length",
            ),
            (
                "::ffff:10.0.0.0/104",
                "must not have an IPv4-mapped IPv6 address",
            ),
            ("FD00::/112", r#"must be in canonical form ("fd00::/112")"#),
        ] {
            assert_eq!(
                with(&[range]),
                [format!("spec.cidrs[0]: Invalid value: {range:?}: {detail}")]
            );
        }
    }

    #[test]
    fn ranges_only_grow_by_a_family() {
        let with =
            |new: &[&str], had: &[&str]| lines(&service_cidr_update(&ranges(new), &ranges(had)));
        assert_eq!(
            with(&["10.0.0.0/8", "fd00::/112"], &["10.0.0.0/8"]),
            [""; 0]
        );
        assert_eq!(
            with(&["10.0.0.0/9"], &["10.0.0.0/8"]),
            [r#"spec.cidrs[0]: Invalid value: "10.0.0.0/9": field is immutable"#]
        );
        assert_eq!(
            with(&["10.0.0.0/8"], &["10.0.0.0/8", "fd00::/112"]),
            [r#"spec.cidrs: Invalid value: []string{"10.0.0.0/8"}: field is immutable"#]
        );
        assert_eq!(
            with(&["10.0.0.0/8", "x"], &["10.0.0.0/8"]).len(),
            1,
            "the new range is checked"
        );
    }

    #[test]
    fn addresses() {
        let kind = find_kind("networking.k8s.io", "v1", "IPAddress").unwrap();
        let with = |name: &str, parent: Value| {
            let object = json!({"metadata": {"name": name}, "spec": {"parentRef": parent}});
            lines(&kind.validate_create(&object))
        };
        let service = || json!({"resource": "services", "namespace": "a", "name": "b"});
        assert_eq!(with("10.96.0.1", service()), [""; 0]);
        assert_eq!(with("fd00::1", service()), [""; 0]);
        for (name, detail) in [
            (
                "web",
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            ("FD00::1", r#"must be in canonical form ("fd00::1")"#),
            ("::ffff:10.0.0.1", "must not be an IPv4-mapped IPv6 address"),
        ] {
            assert_eq!(
                with(name, service()),
                [format!("metadata.name: Invalid value: {name:?}: {detail}")]
            );
        }
        assert_eq!(
            with("10.0.0.1", Value::Null),
            ["spec.parentRef: Required value"]
        );
        assert_eq!(
            with("10.0.0.1", json!({"group": "A", "namespace": "x/y"}))[1..],
            [
                "spec.parentRef.resource: Required value",
                "spec.parentRef.name: Required value",
                r#"spec.parentRef.namespace: Invalid value: "x/y": may not contain '/'"#
            ]
        );
        let old = json!({"spec": {"parentRef": service()}});
        let mut new = old.clone();
        new["spec"]["parentRef"]["name"] = "c".into();
        assert_eq!(
            lines(&ip_address_update(&new, &old)),
            [
                r#"spec.parentRef: Invalid value: {"name":"c","namespace":"a","resource":"services"}: field is immutable"#
            ]
        );
    }
}
