//! The versions of a StatefulSet's template, each kept as a ControllerRevision.

use std::sync::Arc;

use serde_json::json;
use weft_kube::k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec};
use weft_kube::k8s_openapi::api::core::v1::PodTemplateSpec;
use weft_kube::k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use weft_kube::kube::ResourceExt;
use weft_kube::kube::api::ObjectMeta;

use crate::controllers::deployment::template_hash;
use crate::controllers::graph::controller_ref;

/// How many old versions are kept (default of `revisionHistoryLimit`).
const HISTORY_LIMIT: i32 = 10;

/// What to do so that the newest revision is that of the present template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Newest {
    /// It is.
    Is(Arc<ControllerRevision>),
    /// An older one has to become it again, under this number.
    Again(Arc<ControllerRevision>, i64),
    /// It has to be made.
    New(Box<ControllerRevision>),
}

/// The template that a revision keeps. Its data is the patch that brings it back, which is
/// what `kubectl rollout undo` sends.
pub(super) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = revision.data.as_ref()?;
    let mut template = data.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Which revision is the present template's. `history` is sorted by number.
pub(super) fn newest(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    history: &[Arc<ControllerRevision>],
) -> Newest {
    let number = history.last().map_or(0, |last| last.revision);
    let same = history
        .iter()
        .rfind(|revision| template(revision).as_ref() == Some(&spec.template));
    match same {
        Some(same) if same.revision == number => Newest::Is(same.clone()),
        Some(same) => Newest::Again(same.clone(), number.saturating_add(1)),
        None => Newest::New(Box::new(revision(set, spec, number.saturating_add(1)))),
    }
}

fn revision(set: &StatefulSet, spec: &StatefulSetSpec, number: i64) -> ControllerRevision {
    let hash = template_hash(&spec.template, set);
    let mut labels = spec
        .template
        .metadata
        .as_ref()
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    labels.insert("controller.kubernetes.io/hash".to_owned(), hash.clone());
    let mut template = serde_json::to_value(&spec.template).unwrap_or_default();
    template["$patch"] = json!("replace");
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", set.name_any())),
            namespace: set.namespace(),
            labels: Some(labels),
            annotations: Some(set.annotations().clone()),
            owner_references: controller_ref(set).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(json!({"spec": {"template": template}}))),
        revision: number,
    }
}

/// The oldest revisions beyond the limit that nothing refers to.
pub(super) fn surplus(
    spec: &StatefulSetSpec,
    history: &[Arc<ControllerRevision>],
    in_use: impl Fn(&str) -> bool,
) -> Vec<String> {
    let limit = spec.revision_history_limit.unwrap_or(HISTORY_LIMIT);
    let Ok(limit) = usize::try_from(limit) else {
        return Vec::new();
    };
    let names = history.iter().map(|revision| revision.name_any());
    let mut unused: Vec<String> = names.filter(|name| !in_use(name)).collect();
    unused.truncate(unused.len().saturating_sub(limit));
    unused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(image: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "serviceName": "web",
                "revisionHistoryLimit": 1,
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": image}]},
                },
            },
        }))
        .unwrap()
    }

    fn look(image: &str, history: &[Arc<ControllerRevision>]) -> Newest {
        let set = set(image);
        newest(&set, set.spec.as_ref().unwrap(), history)
    }

    fn made(newest: Newest) -> Arc<ControllerRevision> {
        match newest {
            Newest::New(revision) => Arc::new(*revision),
            Newest::Is(_) | Newest::Again(..) => panic!("{newest:?}"),
        }
    }

    #[test]
    fn a_template_has_one_revision_and_an_old_one_becomes_new_again() {
        let first = made(look("a", &[]));
        assert_eq!(first.revision, 1);
        assert_eq!(template(&first), Some(set("a").spec.unwrap().template));
        assert_eq!(
            look("a", std::slice::from_ref(&first)),
            Newest::Is(first.clone())
        );
        let second = made(look("b", std::slice::from_ref(&first)));
        assert_eq!(second.revision, 2);
        assert_ne!(first.name_any(), second.name_any());
        let back = look("a", &[first.clone(), second]);
        assert_eq!(back, Newest::Again(first, 3));
    }

    #[test]
    fn the_oldest_unused_ones_go() {
        let history: Vec<_> = ["a", "b", "c", "d"]
            .map(|image| made(look(image, &[])))
            .to_vec();
        let names: Vec<String> = history.iter().map(|revision| revision.name_any()).collect();
        let spec = set("a").spec.unwrap();
        let gone = surplus(&spec, &history, |name| name == names[0]);
        assert_eq!(gone, names[1..3]);
    }
}
