//! A cluster that comes in.

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

#[cfg(test)]
mod tests {
    use super::*;

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
