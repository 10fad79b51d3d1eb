//! Looks for the largest packet that gets through, by trying.

/// How often one that was lost by chance has it looked for again.
const ROUNDS: u32 = 3;

/// What is to be tried next, and what came of it.
#[derive(Debug)]
pub(super) struct SizeSearch {
    wanted: u32,
    /// The largest that arrived, once `least` did.
    good: u32,
    /// One that did not.
    bad: u32,
    rounds: u32,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The size that links take: it needs no search.
    Wanted,
    /// What everybody has to take.
    Least,
    /// Between one that arrived and one that did not.
    Halving,
    /// Whether the smallest one that did not was lost by chance.
    Confirming,
    Found,
    NothingFound,
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// In bytes.
    pub(super) size: u32,
    /// Whether an answer is waited for that comes late.
    pub(super) thorough: bool,
}

impl SizeSearch {
    /// For the largest size from `least` to `wanted`, in bytes.
    pub(super) fn new(least: u32, wanted: u32) -> Self {
        Self {
            wanted,
            good: least.min(wanted),
            bad: wanted,
            rounds: ROUNDS,
            step: Step::Wanted,
        }
    }

    /// What to try; `None`: nothing more.
    pub(super) fn next(&self) -> Option<Attempt> {
        let (size, thorough) = match self.step {
            Step::Wanted => (self.wanted, true),
            Step::Least => (self.good, true),
            Step::Halving => (self.middle(), false),
            Step::Confirming => (self.bad, true),
            Step::Found | Step::NothingFound => return None,
        };
        Some(Attempt { size, thorough })
    }

    /// Whether that arrived.
    pub(super) fn heard(&mut self, arrived: bool) {
        self.step = match (self.step, arrived) {
            (Step::Wanted, true) => {
                self.good = self.wanted;
                Step::Found
            }
            (Step::Wanted, false) if self.good == self.wanted => Step::NothingFound,
            (Step::Wanted, false) => Step::Least,
            (Step::Least, true) => self.halve(),
            (Step::Least, false) => Step::NothingFound,
            (Step::Halving, true) => {
                self.good = self.middle();
                self.halve()
            }
            (Step::Halving, false) => {
                self.bad = self.middle();
                self.halve()
            }
            (Step::Confirming, true) => {
                self.good = self.bad;
                self.bad = self.wanted;
                self.rounds = self.rounds.saturating_sub(1);
                match self.rounds == 0 || self.good == self.wanted {
                    true => Step::Found,
                    false => self.halve(),
                }
            }
            (Step::Confirming | Step::Found, _) => Step::Found,
            (Step::NothingFound, _) => Step::NothingFound,
        };
    }

    /// The largest size that arrived; `None` if not even the least did.
    pub(super) fn found(&self) -> Option<u32> {
        (self.step == Step::Found).then_some(self.good)
    }

    fn middle(&self) -> u32 {
        self.good + self.bad.saturating_sub(self.good) / 2
    }

    fn halve(&self) -> Step {
        match self.bad.saturating_sub(self.good) > 1 {
            true => Step::Halving,
            false => Step::Confirming,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What is found of a path that takes packets up to a size, but for those of the attempts,
    /// counted from 0, that are lost, and after how many attempts.
    fn found(takes: u32, lost: &[usize]) -> (Option<u32>, usize) {
        let mut search = SizeSearch::new(576, 1500);
        let mut arrived = BTreeSet::new();
        let mut attempts = 0;
        while let Some(Attempt { size, thorough: _ }) = search.next() {
            let arrives = size <= takes && !lost.contains(&attempts);
            if arrives {
                arrived.insert(size);
            }
            search.heard(arrives);
            attempts += 1;
            assert!(attempts < 100);
        }
        let found = search.found();
        assert!(found.is_none_or(|size| arrived.contains(&size)));
        (found, attempts)
    }

    #[test]
    fn the_largest_packet_is_one_that_arrived() {
        assert_eq!(found(9000, &[]), (Some(1500), 1));
        for takes in [576, 577, 1280, 1400, 1499] {
            assert_eq!(found(takes, &[]).0, Some(takes));
        }
        assert_eq!(found(575, &[]), (None, 2));
        assert_eq!(found(1400, &[1]), (None, 2));
    }

    #[test]
    fn one_that_is_lost_by_chance_makes_no_difference() {
        assert_eq!(found(1500, &[0]).0, Some(1500));
        let (_, attempts) = found(1400, &[]);
        for lost in 2..attempts {
            assert_eq!(found(1400, &[lost]).0, Some(1400), "{lost} is lost");
        }
    }
}
