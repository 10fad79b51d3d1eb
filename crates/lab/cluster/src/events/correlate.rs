//! Which events are told, counted, or kept back: many from one source about one object.
//!
//! The rules and figures are those of client-go's event correlator: an event that says the
//! same again is counted; ten that differ only in what they say within ten minutes become
//! one; and a source has 25 events about an object, and one more every five minutes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

/// How many keys of each kind are remembered.
const REMEMBERED: usize = 4096;
/// So many different messages about one thing are told one by one, fewer than this.
const SIMILAR: usize = 10;
/// Within this time, in seconds.
const SIMILAR_SECONDS: i64 = 600;
/// Events a source may send about an object at once.
const BURST: f64 = 25.0;
/// And after that, events per second.
const REFILL: f64 = 1.0 / 300.0;

/// What an event is about, as far as it decides whether it is one of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    /// Source, object and severity.
    pub(super) about: String,
    /// The part of the object.
    pub(super) field_path: String,
    pub(super) reason: String,
    pub(super) message: String,
}

/// What to do with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Say it for the first time.
    Tell {
        /// How it is remembered once it is told.
        key: String,
        /// What it says.
        message: String,
    },
    /// Count it on an event that was told.
    Count {
        /// How it is remembered.
        key: String,
        /// What it says now.
        message: String,
        /// The event that was told.
        told: Told,
    },
    /// Too many: say nothing.
    KeepBack,
}

/// An event that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) name: String,
    pub(super) first: Timestamp,
    /// How often it has happened, the last time not counted in.
    pub(super) count: i32,
}

/// What was told, and how much of it.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    similar: Recent<Similar>,
    told: Recent<Told>,
    budgets: Recent<Budget>,
}

/// Different messages about one thing.
#[derive(Debug, Clone, Default)]
struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

/// What a source may still say about an object.
#[derive(Debug, Clone)]
struct Budget {
    left: f64,
    at: Timestamp,
}

impl Correlator {
    /// Decides about an event that happens `now`.
    pub(super) fn observe(&mut self, subject: &Subject, now: Timestamp) -> Verdict {
        let (key, message) = self.combine(subject, now);
        let told = self.told.get(&key).cloned();
        if !self.affords(&subject.about, now) {
            return Verdict::KeepBack;
        }
        match told {
            Some(told) => Verdict::Count { key, message, told },
            None => Verdict::Tell { key, message },
        }
    }

    /// Remembers an event that was told or counted.
    pub(super) fn told(&mut self, key: String, told: Told) {
        self.told.put(key, told);
    }

    /// The key of an event, and what it says: its own, or those of all that are similar.
    fn combine(&mut self, subject: &Subject, now: Timestamp) -> (String, String) {
        let Subject {
            about,
            field_path,
            reason,
            message,
        } = subject;
        let group = format!("{about}\0{reason}");
        let mut similar = self.similar.get(&group).cloned().unwrap_or_default();
        if now.as_second() - similar.last.as_second() > SIMILAR_SECONDS {
            similar.messages.clear();
        }
        similar.messages.insert(message.clone());
        similar.last = now;
        let many = similar.messages.len() >= SIMILAR;
        if many {
            // So that a group does not grow without end.
            similar.messages.pop_first();
        }
        self.similar.put(group.clone(), similar);
        if many {
            let combined = format!("(combined from similar events): {message}");
            (group, combined)
        } else {
            let key = format!("{group}\0{field_path}\0{message}");
            (key, message.clone())
        }
    }

    fn affords(&mut self, about: &str, now: Timestamp) -> bool {
        let mut budget = self.budgets.get(about).cloned().unwrap_or(Budget {
            left: BURST,
            at: now,
        });
        let elapsed = now.duration_since(budget.at).as_secs_f64().max(0.0);
        budget.left = (budget.left + elapsed * REFILL).min(BURST);
        budget.at = now;
        let affords = budget.left >= 1.0;
        if affords {
            budget.left -= 1.0;
        }
        self.budgets.put(about.to_owned(), budget);
        affords
    }
}

/// The values used last, by key.
#[derive(Debug)]
struct Recent<T> {
    values: BTreeMap<String, (u64, T)>,
    uses: BTreeMap<u64, String>,
    next: u64,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            values: BTreeMap::new(),
            uses: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<T> Recent<T> {
    fn get(&self, key: &str) -> Option<&T> {
        self.values.get(key).map(|(_, value)| value)
    }

    fn put(&mut self, key: String, value: T) {
        let used = self.next;
        self.next += 1;
        if let Some((before, _)) = self.values.insert(key.clone(), (used, value)) {
            self.uses.remove(&before);
        }
        self.uses.insert(used, key);
        if self.values.len() > REMEMBERED
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.values.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn subject(about: &str, reason: &str, message: &str) -> Subject {
        Subject {
            about: about.to_owned(),
            field_path: String::new(),
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }

    /// Observes, and tells what is to be told.
    fn say(
        correlator: &mut Correlator,
        subject: &Subject,
        now: Timestamp,
    ) -> Option<(i32, String)> {
        match correlator.observe(subject, now) {
            Verdict::KeepBack => None,
            Verdict::Tell { key, message } => {
                let told = Told {
                    name: message.clone(),
                    first: now,
                    count: 1,
                };
                correlator.told(key, told);
                Some((1, message))
            }
            Verdict::Count { key, message, told } => {
                let count = told.count + 1;
                correlator.told(key, Told { count, ..told });
                Some((count, message))
            }
        }
    }

    #[test]
    fn what_is_said_again_is_counted() {
        let mut correlator = Correlator::default();
        let pulled = subject("pod a", "Pulled", "m");
        for count in 1..=5 {
            assert_eq!(
                say(&mut correlator, &pulled, at(0)),
                Some((count, "m".into()))
            );
        }
        let other = subject("pod b", "Pulled", "m");
        assert_eq!(say(&mut correlator, &other, at(0)), Some((1, "m".into())));
    }

    #[test]
    fn what_differs_only_in_words_becomes_one() {
        let mut correlator = Correlator::default();
        let failed = |number: i32| subject("pod a", "Failed", &format!("try {number}"));
        for number in 1..=9 {
            let told = say(&mut correlator, &failed(number), at(0));
            assert_eq!(told, Some((1, format!("try {number}"))));
        }
        for number in 10..=12 {
            let told = say(&mut correlator, &failed(number), at(1));
            let text = format!("(combined from similar events): try {number}");
            assert_eq!(told, Some((number - 9, text)));
        }
        // After a while each is news again.
        let told = say(&mut correlator, &failed(13), at(1 + SIMILAR_SECONDS + 1));
        assert_eq!(told, Some((1, "try 13".into())));
    }

    #[test]
    fn a_source_has_a_budget_for_each_object() {
        let mut correlator = Correlator::default();
        let unwell = subject("pod a", "Unhealthy", "m");
        for _ in 0..25 {
            assert!(say(&mut correlator, &unwell, at(0)).is_some());
        }
        assert_eq!(say(&mut correlator, &unwell, at(299)), None);
        assert_eq!(
            say(&mut correlator, &unwell, at(301)),
            Some((26, "m".into()))
        );
        assert_eq!(say(&mut correlator, &unwell, at(302)), None);
        assert!(
            say(
                &mut correlator,
                &subject("pod b", "Unhealthy", "m"),
                at(302)
            )
            .is_some()
        );
    }

    #[test]
    fn only_so_much_is_remembered() {
        let mut recent = Recent::default();
        for number in 0..REMEMBERED + 10 {
            recent.put("kept".to_owned(), 0);
            recent.put(number.to_string(), number);
        }
        assert_eq!(recent.values.len(), REMEMBERED);
        assert_eq!(recent.uses.len(), REMEMBERED);
        assert!(recent.get("kept").is_some() && recent.get("0").is_none());
    }
}
