//! A cluster that comes in, and what comes later.

/// How much of the cluster has come in before all watches are in sync.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    changes: usize,
    /// How many there were when memory was last tightened.
    tight: usize,
}

/// So many changes are not worth the work.
const FEW: usize = 4096;

impl Arriving {
    /// Takes in that so many more have come; tells whether it is half as much again as when it
    /// last told so, so that what is tightened is in proportion to what has come.
    pub(super) fn grows_by(&mut self, changes: usize) -> bool {
        self.changes += changes;
        let grown = self.changes > self.tight + self.tight / 2 + FEW;
        if grown {
            self.tight = self.changes;
        }
        grown
    }
}

/// Changes since memory was last tightened, once all watches are in sync.
#[derive(Debug, Default)]
pub(super) struct Burst {
    changes: usize,
    /// How many there were at the last look.
    seen: usize,
}

/// So many changes leave room worth giving back before the next audit.
const MANY: usize = 512;

impl Burst {
    /// Takes in that so many more have come.
    pub(super) fn came(&mut self, changes: usize) {
        self.changes += changes;
    }

    /// Tells, once, that many have come and that none has since the last look: tightening then
    /// delays nothing that follows.
    pub(super) fn is_over(&mut self) -> bool {
        let over = self.changes >= MANY && self.changes == self.seen;
        match over {
            true => *self = Self::default(),
            false => self.seen = self.changes,
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_over_once_when_nothing_more_comes() {
        let mut burst = Burst::default();
        burst.came(MANY - 1);
        assert_eq!([burst.is_over(), burst.is_over()], [false, false], "few");
        burst.came(1);
        assert!(!burst.is_over(), "just come");
        burst.came(1);
        assert!(!burst.is_over(), "one more");
        assert!(burst.is_over());
        assert!(!burst.is_over(), "told once");
    }

    #[test]
    fn tightening_is_in_proportion_to_what_comes() {
        let mut arriving = Arriving::default();
        let mut sum = 0;
        for all in 1..=1000 {
            if arriving.grows_by(100) {
                sum += all * 100;
            }
        }
        assert!(arriving.tight > 50_000, "{arriving:?}");
        assert!(sum < 3 * 100_000, "{sum}");
        assert!(!Arriving::default().grows_by(FEW));
    }
}
