//! Kinds that are another form of objects of another group: an Event is stored as the core
//! group writes it, and read by events.k8s.io under newer names.

use serde_json::Value;

/// Fields of an Event: in the core group, in events.k8s.io.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("involvedObject", "regarding"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
];

/// Makes an Event of the core group one of events.k8s.io.
pub(crate) fn read_event(object: &mut Value) {
    rename(
        object,
        "events.k8s.io/v1",
        EVENT_FIELDS.iter().map(|&(core, new)| (core, new)),
    );
}

/// Makes an Event of events.k8s.io one of the core group.
pub(crate) fn store_event(object: &mut Value) {
    rename(
        object,
        "v1",
        EVENT_FIELDS.iter().map(|&(core, new)| (new, core)),
    );
}

/// Makes an object of networking.k8s.io/v1 one of v1beta1.
pub(crate) fn read_networking_beta(object: &mut Value) {
    rename(object, "networking.k8s.io/v1beta1", [].into_iter());
}

/// Makes an object of networking.k8s.io/v1beta1 one of v1.
pub(crate) fn store_networking(object: &mut Value) {
    rename(object, "networking.k8s.io/v1", [].into_iter());
}

fn rename<'a>(
    object: &mut Value,
    api_version: &str,
    fields: impl Iterator<Item = (&'a str, &'a str)>,
) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    map.insert("apiVersion".to_owned(), api_version.into());
    for (from, to) in fields {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_kind;
    use serde_json::json;

    #[test]
    fn an_event_has_two_forms() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"},
            "involvedObject": {"kind": "Pod"}, "message": "m", "reason": "r", "type": "Normal",
            "source": {"component": "c"}, "firstTimestamp": "f", "lastTimestamp": "l",
            "count": 3, "reportingComponent": "k", "reportingInstance": "i", "action": "a"});
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "a"}, "regarding": {"kind": "Pod"}, "note": "m", "reason": "r",
            "type": "Normal", "deprecatedSource": {"component": "c"},
            "deprecatedFirstTimestamp": "f", "deprecatedLastTimestamp": "l",
            "deprecatedCount": 3, "reportingController": "k", "reportingInstance": "i",
            "action": "a"});
        let kind = find_kind("events.k8s.io", "v1", "Event").unwrap();
        let mut object = core.clone();
        kind.read_stored(&mut object);
        assert_eq!(object, new);
        kind.store(&mut object);
        assert_eq!(object, core);
        let plain = find_kind("", "v1", "Event").unwrap();
        plain.read_stored(&mut object);
        assert_eq!(object, core);
        assert_eq!((plain.stored_group(), kind.stored_group()), ("", ""));
    }

    #[test]
    fn ranges_and_addresses_have_an_older_version() {
        for name in ["IPAddress", "ServiceCIDR"] {
            let kind = find_kind("networking.k8s.io", "v1beta1", name).unwrap();
            let stored = json!({"apiVersion": "networking.k8s.io/v1", "spec": {"a": 1}});
            let mut object = stored.clone();
            kind.read_stored(&mut object);
            assert_eq!(object["apiVersion"], kind.api_version());
            kind.store(&mut object);
            assert_eq!(object, stored);
            assert_eq!(kind.stored_group(), "networking.k8s.io");
        }
    }

    #[test]
    fn every_field_of_either_form_is_there_in_the_other() {
        let types = crate::schema::types();
        let fields = |group: &str| -> Vec<String> {
            let kind = find_kind(group, "v1", "Event").unwrap();
            let crate::schema::Type::Object(at) = types.root(kind) else {
                panic!("{kind:?}");
            };
            let definition = types.definition(at);
            definition.field_names().map(str::to_owned).collect()
        };
        let mut renamed: Vec<String> = fields("")
            .into_iter()
            .map(|field| {
                EVENT_FIELDS
                    .iter()
                    .find(|(core, _)| *core == field)
                    .map_or(field.clone(), |(_, new)| (*new).to_owned())
            })
            .collect();
        renamed.sort();
        assert_eq!(renamed, fields("events.k8s.io"));
    }
}
