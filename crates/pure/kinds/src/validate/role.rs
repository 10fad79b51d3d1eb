//! Rules of roles.

use serde_json::{Value, json};

use crate::read::{at, list, texts};
use crate::{FieldError, Path};

pub(crate) fn role(object: &Value) -> Vec<FieldError> {
    policy_rules(object, true)
}

pub(crate) fn cluster_role(object: &Value) -> Vec<FieldError> {
    let mut errors = policy_rules(object, false);
    let selectors = ["aggregationRule", "clusterRoleSelectors"];
    if at(object, &["aggregationRule"]).is_some() && list(object, &selectors).is_empty() {
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required(&path, detail));
    }
    errors
}

fn policy_rules(object: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, rule) in list(object, &["rules"]).iter().enumerate() {
        let path = Path::new("rules").index(index);
        let none = |field: &str| list(rule, &[field]).is_empty();
        let mut require = |field: &str, detail: &str| {
            if none(field) {
                errors.push(FieldError::required(&path.child(field), detail));
            }
        };
        require("verbs", "verbs must contain at least one value");
        if none("nonResourceURLs") {
            let detail = "resource rules must supply at least one api group";
            require("apiGroups", detail);
            let detail = "resource rules must supply at least one resource";
            require("resources", detail);
            continue;
        }
        let urls = json!(texts(rule, &["nonResourceURLs"]));
        let path = path.child("nonResourceURLs");
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.push(FieldError::invalid(&path, urls.clone(), detail));
        }
        if !["apiGroups", "resources", "resourceNames"]
            .into_iter()
            .all(none)
        {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(&path, urls, detail));
        }
    }
    errors
}
