//! Objects that exist because of another one, written in its transaction.

use jiff::Timestamp;
use serde_json::Value;

use crate::resource::Companion;
use crate::store::Tx;
use crate::write::time_text;

/// Makes what is missing and removes what is left over.
pub(crate) fn settle(tx: &mut Tx<'_>, wanted: Vec<Companion>) {
    for one in wanted {
        match one {
            Companion::Needed(object) => make(tx, object),
            Companion::Ended {
                api_version,
                kind,
                name,
            } => remove(tx, &api_version, &kind, &name),
        }
    }
}

fn make(tx: &mut Tx<'_>, mut object: Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let name = text(&object["metadata"]["name"]);
    let Some(resource) = tx.registry().find_kind(&api_version, &kind).cloned() else {
        return;
    };
    if tx.get(&resource, "", &name).is_some() {
        return;
    }
    let metadata = &mut object["metadata"];
    metadata["uid"] = uuid::Uuid::new_v4().to_string().into();
    metadata["creationTimestamp"] = time_text(Timestamp::now()).into();
    tx.put(&resource, object, None);
}

fn remove(tx: &mut Tx<'_>, api_version: &str, kind: &str, name: &str) {
    let Some(resource) = tx.registry().find_kind(api_version, kind).cloned() else {
        return;
    };
    if let Some(object) = tx.get(&resource, "", name) {
        tx.remove(&resource, object);
    }
}
