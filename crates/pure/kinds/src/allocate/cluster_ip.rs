//! Addresses of one Service range.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::AllocateError;
use super::band::{Bands, static_band};

/// Hands out the addresses of one range: never the network address, never IPv4's
/// broadcast address, and of an IPv6 range the first 65535.
#[derive(Clone, Debug)]
pub struct ClusterIpAllocator {
    range: IpNet,
    bands: Bands,
}

impl ClusterIpAllocator {
    /// An allocator of a range nobody has anything of.
    pub fn new(range: IpNet) -> Self {
        /// Kubernetes keeps a bitmap of that many IPv6 addresses.
        const V6_LIMIT: u64 = 1 << 16;
        let range = range.trunc();
        let bits = range.max_prefix_len() - range.prefix_len();
        let all = 1u64
            .checked_shl(u32::from(bits))
            .filter(|_| bits < 64)
            .unwrap_or(u64::MAX);
        let usable = match range {
            IpNet::V4(_) => all.saturating_sub(2),
            IpNet::V6(_) => all.min(V6_LIMIT).saturating_sub(1),
        };
        Self {
            range,
            bands: Bands::new(usable, static_band(all, 16, 16, 256)),
        }
    }

    /// The range.
    pub fn range(&self) -> IpNet {
        self.range
    }

    /// How many addresses are left.
    pub fn free(&self) -> u64 {
        self.bands.free()
    }

    /// The `nth` address of the range; 1 is the first that is handed out.
    pub fn nth(&self, nth: u64) -> Option<IpAddr> {
        (1..=self.bands.size())
            .contains(&nth)
            .then(|| self.address(nth - 1))
    }

    /// Whether the address is taken.
    pub fn has(&self, address: IpAddr) -> bool {
        self.offset(address)
            .is_some_and(|offset| self.bands.has(offset))
    }

    /// Takes the address asked for.
    pub fn allocate(&mut self, address: IpAddr) -> Result<(), AllocateError> {
        let Some(offset) = self.offset(address) else {
            return Err(AllocateError::AddressOutside {
                address: address.to_string(),
                range: self.range.to_string(),
            });
        };
        if self.bands.take(offset) {
            Ok(())
        } else {
            Err(AllocateError::AddressTaken)
        }
    }

    /// Takes any address; `seed` says where to begin.
    pub fn allocate_next(&mut self, seed: u64) -> Result<IpAddr, AllocateError> {
        let offset = self.bands.take_any(seed).ok_or(AllocateError::Full)?;
        Ok(self.address(offset))
    }

    /// Gives an address back; false if it was not taken.
    pub fn release(&mut self, address: IpAddr) -> bool {
        self.offset(address)
            .is_some_and(|offset| self.bands.release(offset))
    }

    fn address(&self, offset: u64) -> IpAddr {
        match self.range.network() {
            IpAddr::V4(base) => {
                let number = u64::from(base.to_bits()) + offset + 1;
                IpAddr::V4(Ipv4Addr::from_bits(number as u32))
            }
            IpAddr::V6(base) => {
                IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() + u128::from(offset) + 1))
            }
        }
    }

    fn offset(&self, address: IpAddr) -> Option<u64> {
        let distance = match (address, self.range.network()) {
            (IpAddr::V4(address), IpAddr::V4(base)) => {
                u128::from(address.to_bits().checked_sub(base.to_bits())?)
            }
            (IpAddr::V6(address), IpAddr::V6(base)) => {
                address.to_bits().checked_sub(base.to_bits())?
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let offset = u64::try_from(distance.checked_sub(1)?).ok()?;
        (offset < self.bands.size()).then_some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn allocator(range: &str) -> ClusterIpAllocator {
        ClusterIpAllocator::new(range.parse().unwrap())
    }

    #[test]
    fn keeps_the_lower_band_for_those_who_ask() {
        let mut service = allocator("10.96.0.0/12");
        assert_eq!(service.nth(1), Some("10.96.0.1".parse().unwrap()));
        assert_eq!(service.nth(10), Some("10.96.0.10".parse().unwrap()));
        assert_eq!(service.allocate_next(0), Ok("10.96.1.1".parse().unwrap()));
        assert_eq!(service.allocate("10.96.0.1".parse().unwrap()), Ok(()));
        assert_eq!(
            service
                .allocate("10.96.0.1".parse().unwrap())
                .unwrap_err()
                .to_string(),
            "provided IP is already allocated"
        );
        assert_eq!(
            service
                .allocate("10.112.0.1".parse().unwrap())
                .unwrap_err()
                .to_string(),
            "the provided IP (10.112.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12"
        );
        assert!(service.allocate("10.96.0.0".parse().unwrap()).is_err());
        assert!(service.allocate("10.111.255.255".parse().unwrap()).is_err());
        assert!(service.allocate("fd00::1".parse().unwrap()).is_err());
    }

    #[test]
    fn uses_the_lower_band_when_the_upper_is_full() {
        let mut small = allocator("10.0.0.0/27");
        let all: BTreeSet<IpAddr> = (0..30).map(|_| small.allocate_next(5).unwrap()).collect();
        assert_eq!(all.len(), 30);
        assert_eq!(
            small.allocate_next(0).unwrap_err().to_string(),
            "range is full"
        );
        let mut v6 = allocator("fd00:10:96::/112");
        assert_eq!(v6.free(), 65535);
        assert_eq!(v6.allocate_next(0), Ok("fd00:10:96::101".parse().unwrap()));
        assert_eq!(
            allocator("10.0.0.1/32").allocate_next(0),
            Err(AllocateError::Full)
        );
    }

    proptest! {
        #[test]
        fn never_twice_and_release_frees(
            prefix in 24u8..=30,
            steps in prop::collection::vec((any::<bool>(), any::<u64>()), 0..400),
        ) {
            let mut service = allocator(&format!("10.1.0.0/{prefix}"));
            let capacity = service.free();
            let mut held = BTreeSet::new();
            for (allocate, seed) in steps {
                if allocate {
                    match service.allocate_next(seed) {
                        Ok(address) => prop_assert!(held.insert(address)),
                        Err(error) => {
                            prop_assert_eq!(error, AllocateError::Full);
                            prop_assert_eq!(held.len() as u64, capacity);
                        }
                    }
                } else if let Some(&address) = held.iter().nth(seed as usize % held.len().max(1)) {
                    prop_assert_eq!(service.allocate(address), Err(AllocateError::AddressTaken));
                    prop_assert!(service.release(address));
                    prop_assert!(!service.release(address));
                    held.remove(&address);
                }
                prop_assert_eq!(service.free(), capacity - held.len() as u64);
                prop_assert!(held.iter().all(|&address| service.has(address)));
            }
        }
    }
}
