//! A set of numbers below a bound, with a static and a dynamic band.

use std::collections::BTreeSet;
use std::ops::Range;

/// Numbers 0 to `size` - 1; those below `dynamic_from` are handed out last.
#[derive(Clone, Debug)]
pub(super) struct Bands {
    size: u64,
    dynamic_from: u64,
    taken: BTreeSet<u64>,
}

/// The static band's size: a share of the range within bounds; none if it is tiny.
pub(super) fn static_band(range: u64, share: u64, min: u64, max: u64) -> u64 {
    if range <= min {
        0
    } else {
        (range / share).clamp(min, max)
    }
}

impl Bands {
    pub(super) fn new(size: u64, dynamic_from: u64) -> Self {
        Self {
            size,
            dynamic_from: dynamic_from.min(size),
            taken: BTreeSet::new(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn free(&self) -> u64 {
        self.size - self.taken.len() as u64
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.taken.contains(&number)
    }

    /// Takes `number`, which must be below the size; false if it is taken.
    pub(super) fn take(&mut self, number: u64) -> bool {
        self.taken.insert(number)
    }

    /// Gives `number` back; false if it was free.
    pub(super) fn release(&mut self, number: u64) -> bool {
        self.taken.remove(&number)
    }

    /// Takes a free number: the first at or after `seed`'s place in the upper band, round
    /// to its start, then the same in the lower one.
    pub(super) fn take_any(&mut self, seed: u64) -> Option<u64> {
        let number = self
            .first_free(self.dynamic_from..self.size, seed)
            .or_else(|| self.first_free(0..self.dynamic_from, seed))?;
        self.taken.insert(number);
        Some(number)
    }

    fn first_free(&self, band: Range<u64>, seed: u64) -> Option<u64> {
        let length = band.end - band.start;
        if length == 0 {
            return None;
        }
        let start = band.start + seed % length;
        self.gap(start..band.end)
            .or_else(|| self.gap(band.start..start))
    }

    /// The first free number of a range.
    fn gap(&self, range: Range<u64>) -> Option<u64> {
        if range.is_empty() {
            return None;
        }
        let mut next = range.start;
        for &taken in self.taken.range(range.clone()) {
            if taken != next {
                break;
            }
            next += 1;
        }
        (next < range.end).then_some(next)
    }
}
