//! What a change adds to an object, modifies in it and removes from it, as sets of fields.
//!
//! Source: structured-merge-diff, by which Kubernetes decides who owns what.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::fields::{Fields, element};
use crate::resource::{ApplyList, Strategy};

/// The difference between two forms of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Comparison {
    pub(crate) added: Fields,
    pub(crate) modified: Fields,
    pub(crate) removed: Fields,
}

impl Comparison {
    /// Compares what `old` and `new` say, both with all that is always written
    /// ([`Strategy::written`]).
    pub(crate) fn of(old: &Value, new: &Value, strategy: &dyn Strategy) -> Self {
        let mut walk = Walk {
            path: Vec::new(),
            strategy,
        };
        walk.compare(Some(old), Some(new))
    }

    /// What was set: added or modified.
    pub(crate) fn set(&self) -> Fields {
        let mut set = self.added.clone();
        set.unite(&self.modified);
        set
    }

    /// Without `ignored` and what is below it.
    pub(crate) fn outside(&self, ignored: &Fields) -> Self {
        Self {
            added: self.added.outside(ignored),
            modified: self.modified.outside(ignored),
            removed: self.removed.outside(ignored),
        }
    }

    fn put(&mut self, element: &str, below: Self) {
        self.added.put(element.to_owned(), below.added);
        self.modified.put(element.to_owned(), below.modified);
        self.removed.put(element.to_owned(), below.removed);
    }

    /// Two values that have no parts of their own.
    fn whole(old: Option<&Value>, new: Option<&Value>) -> Self {
        let mut all = Self::default();
        match (old, new) {
            (None, Some(_)) => all.added.take_itself(),
            (Some(_), None) => all.removed.take_itself(),
            (Some(old), Some(new)) if old != new => all.modified.take_itself(),
            (Some(_), Some(_)) | (None, None) => {}
        }
        all
    }
}

struct Walk<'a> {
    /// Names of the fields that lead here.
    path: Vec<&'a str>,
    strategy: &'a dyn Strategy,
}

impl<'a> Walk<'a> {
    fn compare(&mut self, old: Option<&'a Value>, new: Option<&'a Value>) -> Comparison {
        let parts = match (opened(old), opened(new)) {
            (Parts::Map(old), Parts::Map(new)) => self.maps(Some(old), Some(new)),
            (Parts::Map(old), Parts::None) => self.maps(Some(old), None),
            (Parts::None, Parts::Map(new)) => self.maps(None, Some(new)),
            (Parts::List(old), Parts::List(new)) => self.lists(old, new),
            (Parts::List(old), Parts::None) => self.lists(old, &[]),
            (Parts::None, Parts::List(new)) => self.lists(&[], new),
            (Parts::None, Parts::None)
            | (Parts::Scalar, _)
            | (_, Parts::Scalar)
            | (Parts::Map(_), Parts::List(_))
            | (Parts::List(_), Parts::Map(_)) => None,
        };
        let Some(mut all) = parts else {
            return Comparison::whole(old, new);
        };
        if old.is_none() {
            all.added.take_itself();
        } else if new.is_none() {
            all.removed.take_itself();
        }
        all
    }

    /// `None`: the map is one thing, or has no parts before and after.
    fn maps(
        &mut self,
        old: Option<&'a Map<String, Value>>,
        new: Option<&'a Map<String, Value>>,
    ) -> Option<Comparison> {
        let keys = |map: Option<&'a Map<String, Value>>| map.into_iter().flat_map(Map::keys);
        let all: BTreeSet<&'a String> = keys(old).chain(keys(new)).collect();
        if all.is_empty() || self.strategy.apply_map_is_atomic(&self.path) {
            return None;
        }
        let mut result = Comparison::default();
        for key in all {
            self.path.push(key);
            let at = |map: Option<&'a Map<String, Value>>| map.and_then(|map| map.get(key));
            let below = self.compare(at(old), at(new));
            self.path.pop();
            result.put(&format!("f:{key}"), below);
        }
        Some(result)
    }

    /// `None`: the list is one thing, or is empty before and after.
    fn lists(&mut self, old: &'a [Value], new: &'a [Value]) -> Option<Comparison> {
        if old.is_empty() && new.is_empty() {
            return None;
        }
        let rule = self.strategy.apply_list(&self.path);
        if rule == ApplyList::Atomic {
            return None;
        }
        let (old, new) = (by_element(old, &rule), by_element(new, &rule));
        let mut result = Comparison::default();
        let all: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for element in all {
            let at = |list: &BTreeMap<String, Vec<&'a Value>>| {
                list.get(element).cloned().unwrap_or_default()
            };
            result.put(element, self.elements(&at(&old), &at(&new)));
        }
        Some(result)
    }

    /// Elements of one name: more than one of them are one thing.
    fn elements(&mut self, old: &[&'a Value], new: &[&'a Value]) -> Comparison {
        let mut result = Comparison::default();
        match (old, new) {
            ([] | [_], [] | [_]) => {
                return self.compare(old.first().copied(), new.first().copied());
            }
            ([_, _, ..], [_, _, ..]) => {
                if old != new {
                    result.modified.take_itself();
                }
            }
            ([_, _, ..], [] | [_]) => {
                if let [one] = new {
                    result = self.compare(None, Some(one));
                }
                result.removed.take_itself();
            }
            ([] | [_], [_, _, ..]) => {
                if let [one] = old {
                    result = self.compare(Some(one), None);
                }
                result.added.take_itself();
            }
        }
        result
    }
}

/// What a value is made of; null and absence can be anything.
enum Parts<'a> {
    None,
    Scalar,
    Map(&'a Map<String, Value>),
    List(&'a [Value]),
}

fn opened(value: Option<&Value>) -> Parts<'_> {
    match value {
        None | Some(Value::Null) => Parts::None,
        Some(Value::Object(map)) => Parts::Map(map),
        Some(Value::Array(list)) => Parts::List(list),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) => Parts::Scalar,
    }
}

fn by_element<'a>(list: &'a [Value], rule: &ApplyList) -> BTreeMap<String, Vec<&'a Value>> {
    let mut all: BTreeMap<String, Vec<&'a Value>> = BTreeMap::new();
    for one in list {
        all.entry(element(one, rule)).or_default().push(one);
    }
    all
}
