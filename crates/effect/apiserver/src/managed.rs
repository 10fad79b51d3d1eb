//! Which manager owns which fields: `metadata.managedFields`.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::comparison::Comparison;
use crate::fields::Fields;
use crate::resource::Resource;

/// What nobody owns: the server writes it, or it is the object's identity.
const UNOWNED: [&[&str]; 11] = [
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];
static UNOWNED_FIELDS: LazyLock<Fields> = LazyLock::new(|| Fields::at(UNOWNED));

/// One entry of `metadata.managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    pub(crate) operation: String,
    pub(crate) subresource: String,
    api_version: String,
    time: Value,
    pub(crate) fields: Fields,
}

impl Entry {
    pub(crate) fn new(
        manager: &str,
        operation: &str,
        subresource: &str,
        api_version: String,
    ) -> Self {
        Self {
            manager: manager.to_owned(),
            operation: operation.to_owned(),
            subresource: subresource.to_owned(),
            api_version,
            time: Value::Null,
            fields: Fields::default(),
        }
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
    }

    fn rank(&self) -> (&str, &str, &str, &str) {
        let time = self.time.as_str().unwrap_or_default();
        (&self.operation, time, &self.manager, &self.subresource)
    }

    /// Takes what another owns now; that is no change of its own, so its time stays.
    pub(crate) fn leave(&mut self, fields: Fields) {
        self.fields = fields;
    }

    /// Replaces what it owns; the time says when that last changed.
    pub(crate) fn set(&mut self, fields: Fields, now: &str) {
        if self.fields != fields || self.time.is_null() {
            self.time = now.into();
            self.fields = fields;
        }
    }

    /// Who it is, in the words of a conflict.
    pub(crate) fn description(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation != "Apply" {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn from_json(entry: &Value) -> Self {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        Self {
            manager: text("manager"),
            operation: text("operation"),
            subresource: text("subresource"),
            api_version: text("apiVersion"),
            time: entry["time"].clone(),
            fields: Fields::from_json(&entry["fieldsV1"]),
        }
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_json(),
        });
        if !self.time.is_null() {
            entry["time"] = self.time.clone();
        }
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.as_str().into();
        }
        entry
    }
}

/// The owners a request leaves an object that it sends whole: those it names itself, or else
/// those the object has. Kubernetes lets a client write them, so that it can give fields
/// away, and lets nobody forget them by accident.
pub(crate) fn named_or_held(said: &Value, old: &Value) -> Vec<Entry> {
    let readable = |entry: &Value| {
        matches!(entry["operation"].as_str(), Some("Apply" | "Update"))
            && entry["fieldsType"] == "FieldsV1"
            && entry["fieldsV1"].is_object()
    };
    match said.as_array() {
        Some(list) if !list.is_empty() && list.iter().all(readable) => {
            list.iter().map(Entry::from_json).collect()
        }
        _ => entries(old),
    }
}

/// Reads the entries of an object.
pub(crate) fn entries(object: &Value) -> Vec<Entry> {
    let list = object["metadata"]["managedFields"].as_array();
    list.into_iter().flatten().map(Entry::from_json).collect()
}

/// Writes the entries that own something into an object.
pub(crate) fn write(object: &mut Value, entries: &[Entry]) {
    let mut held: Vec<Entry> = entries
        .iter()
        .map(|entry| Entry {
            fields: entry.fields.minus(&UNOWNED_FIELDS),
            ..entry.clone()
        })
        .filter(|entry| !entry.fields.is_empty())
        .collect();
    // Applies first, then the older ones, as Kubernetes orders them.
    held.sort_by(|one, other| one.rank().cmp(&other.rank()));
    let list: Vec<Value> = held.iter().map(Entry::to_json).collect();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        if !list.is_empty() {
            metadata.insert("managedFields".to_owned(), list.into());
        }
    }
}

/// What a request at the main endpoint, or at `part`, does not change, and can't own.
pub(crate) fn ignored(resource: &Resource, part: &str) -> Fields {
    if part == "status" {
        return Fields::at(resource.strategy.outside_status().iter().copied());
    }
    match resource.subresource("status") {
        Some(_) => Fields::at([&["status"][..]]),
        None => Fields::default(),
    }
}

/// What `writer` owns of an object it creates. A kind's empty object has parts already.
pub(crate) fn created(
    object: &Value,
    mut writer: Entry,
    resource: &Resource,
    now: &str,
) -> Vec<Entry> {
    let strategy = &*resource.strategy;
    let (empty, object) = (strategy.written(&json!({})), strategy.written(object));
    let fields = Comparison::of(&empty, &object, strategy)
        .outside(&ignored(resource, ""))
        .set();
    writer.set(fields, now);
    vec![writer]
}

/// What a request at the main endpoint, or at `part`, changes in `old` of what it can own. It is
/// `wanted`, defaults filled in.
pub(crate) fn change(old: &Value, wanted: &Value, part: &str, resource: &Resource) -> Comparison {
    let strategy = &*resource.strategy;
    let (mut old, mut wanted) = apart(old, wanted, 1);
    for document in [&mut old, &mut wanted] {
        drop_unowned(document);
    }
    // What is written of fields that nobody set tells nothing where both set the same.
    let comparison = match set_the_same(&old, &wanted) {
        true => Comparison::of(&old, &wanted, strategy),
        false => Comparison::of(
            &strategy.written(&old),
            &strategy.written(&wanted),
            strategy,
        ),
    };
    comparison.outside(&ignored(resource, part))
}

fn drop_unowned(document: &mut Value) {
    for path in UNOWNED {
        let (holder, field) = match path {
            [field] if *field != "metadata" => (Some(&mut *document), field),
            [holder, field] => (document.get_mut(holder), field),
            _ => continue,
        };
        if let Some(map) = holder.and_then(Value::as_object_mut) {
            map.remove(*field);
        }
    }
}

/// Whether two documents have the same fields, and no lists.
fn set_the_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let mut fields = one.iter().zip(other);
            one.len() == other.len()
                && fields.all(|((field, value), (name, held))| {
                    field == name && set_the_same(value, held)
                })
        }
        (Value::Object(_) | Value::Array(_), _) | (_, Value::Object(_) | Value::Array(_)) => false,
        (
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_),
        ) => true,
    }
}

/// Two documents without the fields that are equal in both, down to so many levels below the
/// first: most of what is written again is as it was.
fn apart(old: &Value, new: &Value, levels: usize) -> (Value, Value) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old.clone(), new.clone());
    };
    let (mut only_old, mut only_new) = (Map::new(), Map::new());
    for (field, was) in old {
        match new.get(field) {
            Some(is) if is == was => {}
            Some(is) => {
                let (was, is) = match levels.checked_sub(1) {
                    Some(levels) => apart(was, is, levels),
                    None => (was.clone(), is.clone()),
                };
                only_old.insert(field.clone(), was);
                only_new.insert(field.clone(), is);
            }
            None => drop(only_old.insert(field.clone(), was.clone())),
        }
    }
    let added = new.iter().filter(|(field, _)| !old.contains_key(*field));
    only_new.extend(added.map(|(field, is)| (field.clone(), is.clone())));
    (only_old.into(), only_new.into())
}

/// Who owns what after `writer` made a `change`, when `entries` did before. An object without
/// owners stays without: it was never applied, or its owners were dropped on purpose.
pub(crate) fn follow(
    mut entries: Vec<Entry>,
    change: &Comparison,
    writer: Entry,
    now: &str,
) -> Vec<Entry> {
    if entries.is_empty() {
        return entries;
    }
    let set = change.set();
    for entry in &mut entries {
        entry.fields = entry.fields.minus(&change.removed);
        if !entry.is(&writer) {
            entry.fields = entry.fields.minus(&set);
        }
    }
    if !set.is_empty() {
        match entries.iter_mut().find(|entry| entry.is(&writer)) {
            Some(entry) => {
                entry.fields.unite(&set);
                entry.time = now.into();
            }
            None => {
                let mut writer = writer;
                writer.set(set, now);
                entries.push(writer);
            }
        }
    }
    gather_ancient(entries)
}

/// Does what [`follow`] and [`write`] do, in place, where nobody comes to own anything else: a
/// writer says again what it owns. `false` if it is not so, and nothing was done.
pub(crate) fn stay(object: &mut Value, change: &Comparison, writer: &Entry, now: &str) -> bool {
    let Some(list) = object["metadata"]
        .get_mut("managedFields")
        .and_then(Value::as_array_mut)
    else {
        return true;
    };
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let is_writer = |entry: &Value| {
        entry["manager"] == *writer.manager
            && entry["operation"] == *writer.operation
            && text(entry, "subresource") == writer.subresource
    };
    let set = change.set();
    let (owned, removed) = (
        set.minus(&UNOWNED_FIELDS),
        change.removed.minus(&UNOWNED_FIELDS),
    );
    let stays = list.iter().all(|entry| {
        let fields = &entry["fieldsV1"];
        !removed.meets(fields)
            && match is_writer(entry) {
                true => owned.is_within(fields),
                false => !owned.meets(fields),
            }
    });
    if !stays || set.is_empty() {
        return stays;
    }
    let Some(entry) = list.iter_mut().find(|entry| is_writer(entry)) else {
        return false;
    };
    entry["time"] = now.into();
    let rank = |entry: &Value| {
        ["operation", "time", "manager", "subresource"].map(|field| text(entry, field))
    };
    if list.len() > 1 {
        list.sort_by_key(rank);
    }
    true
}

/// So many managers that update are told apart, as in Kubernetes; the oldest beyond that
/// become one.
const UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

fn gather_ancient(mut entries: Vec<Entry>) -> Vec<Entry> {
    let updates = |entries: &[Entry]| {
        let all = entries.iter().enumerate();
        all.filter(|(_, entry)| entry.operation == "Update" && !entry.fields.is_empty())
            .map(|(at, entry)| (entry.time.to_string(), entry.manager.clone(), at))
            .collect::<Vec<_>>()
    };
    loop {
        let mut updaters = updates(&entries);
        if updaters.len() <= UPDATERS {
            return entries;
        }
        // Times have one form and sort as texts.
        updaters.sort();
        let [(_, _, oldest), (_, _, next), ..] = updaters.as_slice() else {
            return entries;
        };
        let (oldest, next) = (*oldest, *next);
        let fields = std::mem::take(&mut entries[oldest].fields);
        entries[next].fields.unite(&fields);
        ANCIENT.clone_into(&mut entries[next].manager);
        entries[next].subresource.clear();
        entries.remove(oldest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exercise::{Lists, pods};

    /// What owns fields together, lists of every kind among it.
    fn part() -> impl Strategy<Value = Value> {
        let name = || prop::sample::select(vec!["a", "b", "selector"]);
        let scalar = prop_oneof![
            Just(Value::Null),
            Just(json!({})),
            (0..3).prop_map(|number| json!(number)),
        ];
        let map = prop::collection::btree_map(name(), scalar, 0..3);
        let containers = prop::collection::vec(
            (name(), 0..2).prop_map(|(name, image)| json!({"name": name, "image": image})),
            0..3,
        );
        let finalizers = prop::collection::vec(name(), 0..3);
        (map.clone(), map, containers, finalizers).prop_map(
            |(labels, spec, containers, finalizers)| {
                json!({
                    "metadata": {"labels": labels, "finalizers": finalizers},
                    "spec": {"selector": spec, "containers": containers},
                    "status": {"phase": finalizers.len()},
                })
            },
        )
    }

    fn writer(number: usize) -> Entry {
        let part = ["", "", "status"][number % 3];
        Entry::new(
            ["one", "two", "one"][number % 3],
            "Update",
            part,
            "v1".to_owned(),
        )
    }

    proptest! {
        #[test]
        fn what_stays_as_it_is_need_not_be_looked_at(
            held in prop::collection::vec(part(), 0..3),
            (old, wanted) in (part(), part()).prop_flat_map(|(old, other)| {
                (Just(old.clone()), prop_oneof![Just(old), Just(other)])
            }),
            (version, by) in (prop::option::of(0..2), 0..3_usize),
        ) {
            let resource = pods();
            let lists: &dyn crate::resource::Strategy = &Lists;
            let entries: Vec<Entry> = held.iter().enumerate().map(|(number, said)| {
                let mut entry = writer(number);
                entry.set(Comparison::of(&json!({}), said, lists).set(), "2001");
                entry
            }).collect();
            let (mut old, mut wanted) = (old, wanted);
            old["metadata"]["resourceVersion"] = "1".into();
            if let Some(version) = version {
                wanted["metadata"]["resourceVersion"] = i32::to_string(&version).into();
            }
            write(&mut old, &entries);
            if let Some(list) = old["metadata"].get("managedFields") {
                wanted["metadata"]["managedFields"] = list.clone();
            }
            let writer = writer(by);
            let made = change(&old, &wanted, &writer.subresource, &resource);
            let whole = Comparison::of(&old, &wanted, &*resource.strategy)
                .outside(&ignored(&resource, &writer.subresource));
            let owned = |fields: &Fields| fields.minus(&UNOWNED_FIELDS);
            prop_assert_eq!(owned(&made.set()), owned(&whole.set()));
            prop_assert_eq!(owned(&made.removed), owned(&whole.removed));
            let mut followed = wanted.clone();
            let owners = follow(super::entries(&old), &made, writer.clone(), "2002");
            write(&mut followed, &owners);
            let mut stayed = wanted.clone();
            match stay(&mut stayed, &made, &writer, "2002") {
                true => prop_assert_eq!(stayed, followed),
                false => prop_assert_eq!(stayed, wanted),
            }
        }
    }

    #[test]
    fn who_writes_again_what_is_its_own_stays_its_owner() {
        let mut object = json!({"metadata": {"name": "a"}, "spec": {"a": 1}});
        let owners = created(&object, writer(0), &pods(), "2001");
        write(&mut object, &owners);
        let old = object.clone();
        object["spec"]["a"] = 2.into();
        let made = change(&old, &object, "", &pods());
        assert!(stay(&mut object, &made, &writer(0), "2002"));
        assert_eq!(object["metadata"]["managedFields"][0]["time"], "2002");
        assert!(!stay(&mut object, &made, &writer(1), "2002"));
    }
}
