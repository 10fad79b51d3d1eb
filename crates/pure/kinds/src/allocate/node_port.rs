//! Ports at every node.

use std::ops::RangeInclusive;

use super::AllocateError;
use super::band::{Bands, static_band};

/// Hands out the ports of one range.
#[derive(Clone, Debug)]
pub struct NodePortAllocator {
    range: RangeInclusive<u16>,
    bands: Bands,
}

impl NodePortAllocator {
    /// An allocator of a range nobody has anything of.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        let size = range.clone().count() as u64;
        Self {
            range,
            bands: Bands::new(size, static_band(size, 32, 16, 128)),
        }
    }

    /// The range Kubernetes uses unless told otherwise.
    pub const DEFAULT_RANGE: RangeInclusive<u16> = 30000..=32767;

    /// The range.
    pub fn range(&self) -> RangeInclusive<u16> {
        self.range.clone()
    }

    /// How many ports are left.
    pub fn free(&self) -> u64 {
        self.bands.free()
    }

    /// Whether the port is taken.
    pub fn has(&self, port: u16) -> bool {
        self.offset(port)
            .is_some_and(|offset| self.bands.has(offset))
    }

    /// Takes the port asked for.
    pub fn allocate(&mut self, port: u16) -> Result<(), AllocateError> {
        let Some(offset) = self.offset(port) else {
            return Err(AllocateError::PortOutside {
                low: *self.range.start(),
                high: *self.range.end(),
            });
        };
        if self.bands.take(offset) {
            Ok(())
        } else {
            Err(AllocateError::PortTaken)
        }
    }

    /// Takes any port; `seed` says where to begin.
    pub fn allocate_next(&mut self, seed: u64) -> Result<u16, AllocateError> {
        let offset = self.bands.take_any(seed).ok_or(AllocateError::Full)?;
        let offset = u16::try_from(offset).map_err(|_| AllocateError::Full)?;
        Ok(self.range.start() + offset)
    }

    /// Gives a port back; false if it was not taken.
    pub fn release(&mut self, port: u16) -> bool {
        self.offset(port)
            .is_some_and(|offset| self.bands.release(offset))
    }

    fn offset(&self, port: u16) -> Option<u64> {
        self.range
            .contains(&port)
            .then(|| u64::from(port - self.range.start()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn keeps_the_lower_band_for_those_who_ask() {
        let mut ports = NodePortAllocator::new(NodePortAllocator::DEFAULT_RANGE);
        assert_eq!(ports.allocate_next(0), Ok(30086));
        assert_eq!(ports.allocate(30000), Ok(()));
        assert_eq!(
            ports.allocate(30000).unwrap_err().to_string(),
            "provided port is already allocated"
        );
        assert_eq!(
            ports.allocate(80).unwrap_err().to_string(),
            "provided port is not in the valid range. The range of valid ports is 30000-32767"
        );
    }

    proptest! {
        #[test]
        fn never_twice_and_release_frees(seeds in prop::collection::vec(any::<u64>(), 0..60)) {
            let mut ports = NodePortAllocator::new(30000..=30039);
            let mut held = BTreeSet::new();
            for seed in seeds {
                match ports.allocate_next(seed) {
                    Ok(port) => prop_assert!(held.insert(port)),
                    Err(_) => {
                        prop_assert_eq!(held.len(), 40);
                        let port = held.pop_first().unwrap();
                        prop_assert!(ports.release(port));
                        prop_assert!(!ports.has(port));
                    }
                }
            }
        }
    }
}
