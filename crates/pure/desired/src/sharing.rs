//! How connections are shared among the endpoints of a Service port, where it says so itself.
//!
//! A back end that draws a slot by number gives an endpoint as many slots as it weighs
//! ([`shares`]). One that hashes the client instead of drawing takes [`hash_table`]: it
//! depends on the set of endpoints alone, so that every node has the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::{Backend, SizeClass};

/// How connections are shared among endpoints: alike, if nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// What endpoints weigh that don't weigh 1; nothing weighs 0.
    pub weights: Arc<BTreeMap<Backend, u16>>,
    /// What of a connection decides which endpoint it gets; without it chance does.
    pub hash: Option<HashOf>,
}

/// What of a connection decides which endpoint it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashOf {
    /// The client's address.
    Source,
    /// Both addresses, both ports and the protocol, as the client sent them.
    FiveTuple,
}

impl HashOf {
    /// Both.
    pub const ALL: [HashOf; 2] = [HashOf::Source, HashOf::FiveTuple];
}

impl Sharing {
    /// What an endpoint weighs.
    pub fn weight(&self, backend: &Backend) -> u16 {
        self.weights.get(backend).copied().unwrap_or(1)
    }
}

/// Slots of a hash table. An endpoint that weighs as much as nine others has 102 of them on
/// average, give or take 10.
pub const HASH_SLOTS: u32 = 1021;

/// Where weights don't divide evenly, as many slots at least: a share is met to a quarter of
/// a percent of all connections.
const FINE: usize = 202;

/// How many slots each endpoint gets, of at most `most` in all: one, or in proportion to what
/// it weighs.
pub fn shares(
    backends: &BTreeSet<Backend>,
    sharing: &Sharing,
    most: usize,
) -> BTreeMap<Backend, u32> {
    let backends: Vec<Backend> = backends.iter().copied().take(most).collect();
    let weights: Vec<u64> = backends
        .iter()
        .map(|it| u64::from(sharing.weight(it)))
        .collect();
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor);
    if weights.iter().all(|weight| *weight == divisor) {
        return backends.into_iter().map(|it| (it, 1)).collect();
    }
    let weights: Vec<u64> = weights.iter().map(|weight| weight / divisor).collect();
    let slots = slots(weights.iter().sum(), backends.len(), most);
    let counts = proportional(&weights, slots);
    backends.into_iter().zip(counts).collect()
}

/// How many slots endpoints have together: a whole class of sizes, so that no draw misses.
fn slots(sum: u64, backends: usize, most: usize) -> u64 {
    let most = most as u64;
    let classes = SizeClass::all().map(|class| u64::from(class.slots));
    let classes: Vec<u64> = classes.filter(|slots| *slots <= most).collect();
    if classes.contains(&sum) {
        return sum;
    }
    let enough = FINE.max(4 * backends) as u64;
    let fine = classes.iter().find(|slots| **slots >= enough);
    fine.or(classes.last()).copied().unwrap_or(most)
}

/// So many slots by weight: each the whole part of its share and at least one, then the
/// largest remainders.
fn proportional(weights: &[u64], slots: u64) -> Vec<u32> {
    let sum: u64 = weights.iter().sum();
    let mut counts: Vec<u64> = weights
        .iter()
        .map(|weight| (weight * slots / sum).max(1))
        .collect();
    let mut given: u64 = counts.iter().sum();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|index| std::cmp::Reverse(weights[*index] * slots % sum));
    for index in by_remainder {
        if given < slots {
            counts[index] += 1;
            given += 1;
        }
    }
    // Those that were given one without a share of it took it from the largest.
    while given > slots {
        match (0..counts.len()).max_by_key(|index| counts[*index]) {
            Some(largest) if counts[largest] > 1 => counts[largest] -= 1,
            Some(_) | None => break,
        }
        given -= 1;
    }
    counts.into_iter().map(|count| count as u32).collect()
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The endpoints slot by slot: in each stands the one whose draw for that slot wins (rendezvous
/// hashing, Thaler and Ravishankar 1998; with weights, Schindelhauer and Schomaker 2005). So a
/// slot changes only if its own endpoint goes, or one comes that wins it. Empty for none.
pub fn hash_table(backends: &BTreeSet<Backend>, sharing: &Sharing) -> Vec<Backend> {
    let drawing: Vec<(Backend, u64, u64)> = backends
        .iter()
        .map(|it| (*it, identity(it), u64::from(sharing.weight(it))))
        .collect();
    let alike = sharing.weights.is_empty();
    (0..HASH_SLOTS)
        .filter_map(|slot| {
            let slot = mixed(u64::from(slot));
            let draws = drawing
                .iter()
                .map(|(backend, identity, weight)| (backend, mixed(slot ^ identity), *weight));
            let winner = if alike {
                draws.max_by_key(|(backend, draw, _)| (*draw, **backend))
            } else {
                draws
                    .map(|(backend, draw, weight)| (backend, effort(draw), weight))
                    // The smallest effort for the weight, compared without a division.
                    .min_by(|(one, a, v), (other, b, w)| {
                        let (left, right) = (
                            u128::from(*a) * u128::from(*w),
                            u128::from(*b) * u128::from(*v),
                        );
                        left.cmp(&right).then(other.cmp(one))
                    })
            };
            winner.map(|(backend, _, _)| *backend)
        })
        .collect()
}

/// Fowler, Noll and Vo's hash (FNV-1a, 64 bits) of address and port.
fn identity(backend: &Backend) -> u64 {
    let address = match backend.address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let port = backend.port.to_be_bytes();
    address
        .iter()
        .chain(&port)
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// SplitMix64 (Steele, Lea and Flood 2014): one step from this state.
fn mixed(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Bits of an effort behind the point.
const FRACTION: u32 = 20;

/// -log2 of a draw as a part of 2^64: exponentially distributed, and in whole numbers, so
/// that every processor comes to the same.
fn effort(draw: u64) -> u64 {
    let draw = draw | 1;
    let whole = u64::from(63 - draw.leading_zeros());
    let mut mantissa = draw << draw.leading_zeros();
    let mut fraction = 0_u64;
    for _ in 0..FRACTION {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let carry = square >> 127;
        mantissa = (square >> (63 + carry)) as u64;
        fraction = fraction << 1 | carry as u64;
    }
    (64 << FRACTION) - (whole << FRACTION | fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(number: u8) -> Backend {
        Backend {
            address: IpAddr::from([10, 244, 1, number]),
            port: 8080,
        }
    }

    fn set(numbers: impl IntoIterator<Item = u8>) -> BTreeSet<Backend> {
        numbers.into_iter().map(backend).collect()
    }

    fn weighing(weights: &[(u8, u16)]) -> Sharing {
        let weights = weights
            .iter()
            .map(|(number, weight)| (backend(*number), *weight));
        Sharing {
            weights: Arc::new(weights.collect()),
            hash: None,
        }
    }

    fn counted(table: &[Backend]) -> BTreeMap<Backend, u32> {
        let mut counts = BTreeMap::new();
        for backend in table {
            *counts.entry(*backend).or_default() += 1;
        }
        counts
    }

    fn shared(numbers: u8, weights: &[(u8, u16)], most: usize) -> Vec<u32> {
        let shares = shares(&set(1..=numbers), &weighing(weights), most);
        shares.into_values().collect()
    }

    #[test]
    fn endpoints_get_slots_by_weight_and_fill_a_class() {
        assert_eq!(shared(3, &[], 1000), [1, 1, 1]);
        assert_eq!(shared(3, &[(1, 7), (2, 7), (3, 7)], 1000), [1, 1, 1]);
        assert_eq!(shared(2, &[(1, 90), (2, 30)], 1000), [3, 1]);
        assert_eq!(shared(2, &[(1, 11)], 1000), [11, 1]);
        // 10 is no class: of 202, nearly nine tenths.
        assert_eq!(shared(2, &[(1, 9)], 1000), [182, 20]);
        assert_eq!(shared(2, &[(1, 1000)], 1000), [201, 1]);
        // No more than there may be.
        assert_eq!(shared(3, &[(1, 1000)], 12), [10, 1, 1]);
        assert_eq!(shared(4, &[(1, 1000)], 3), [1, 1, 1]);
        for (count, weights) in [(90, &[(1, 5), (7, 3)][..]), (60, &[(1, 1000)])] {
            let counts = shared(count, weights, 58_839);
            let sum: u32 = counts.iter().sum();
            assert!(SizeClass::all().any(|class| class.slots == sum), "{sum}");
            assert!(counts.iter().all(|count| *count > 0));
        }
    }

    #[test]
    fn a_hash_table_is_full_and_roughly_fair() {
        assert_eq!(hash_table(&set([]), &Sharing::default()), []);
        let table = hash_table(&set(1..=10), &Sharing::default());
        assert_eq!(table.len(), HASH_SLOTS as usize);
        // Four standard deviations.
        for count in counted(&table).into_values() {
            assert!((64..=141).contains(&count), "{count}");
        }
        let table = hash_table(&set(1..=3), &weighing(&[(1, 8)]));
        let counts: Vec<u32> = counted(&table).into_values().collect();
        assert!((766..=868).contains(&counts[0]), "{counts:?}");
        assert!((64..=141).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn only_the_share_of_an_endpoint_that_goes_or_comes_moves() {
        for sharing in [Sharing::default(), weighing(&[(3, 5), (7, 2)])] {
            let before = hash_table(&set(1..=10), &sharing);
            let after = hash_table(&set((1..=10).filter(|it| *it != 4)), &sharing);
            for (old, new) in before.iter().zip(&after) {
                assert_ne!(*new, backend(4));
                assert!(old == new || *old == backend(4));
            }
        }
        // More weight takes slots from others, and gives none away.
        let before = hash_table(&set(1..=10), &weighing(&[(3, 5)]));
        let after = hash_table(&set(1..=10), &weighing(&[(3, 7)]));
        assert_ne!(before, after);
        for (old, new) in before.iter().zip(&after) {
            assert!(old == new || *new == backend(3));
        }
    }

    /// Nodes of different versions have to agree: computed by another program, in floats.
    #[test]
    fn tables_are_the_same_on_every_node_for_ever() {
        let six = |number: u16| Backend {
            address: IpAddr::from([0xfd00, 0x10, 0x244, 1, 0, 0, 0, number]),
            port: 8080,
        };
        let sixes: BTreeSet<Backend> = (1..=5).map(six).collect();
        for (backends, sharing, expected) in [
            (set(1..=5), Sharing::default(), 0xcf2e_042b_8142_dc67_u64),
            (set(1..=5), weighing(&[(2, 7)]), 0x63db_b445_9b59_4b09),
            (sixes, Sharing::default(), 0x912c_dbba_2f0f_d544),
        ] {
            let table = hash_table(&backends, &sharing);
            let position = |it| backends.iter().position(|one| one == it).unwrap() as u64;
            let digest = table.iter().fold(0xcbf2_9ce4_8422_2325, |digest: u64, it| {
                (digest ^ position(it)).wrapping_mul(0x0100_0000_01b3)
            });
            assert_eq!(digest, expected, "{:?}", &table[..16]);
        }
    }
}
