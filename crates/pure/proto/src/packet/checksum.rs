//! The internet's checksum (RFC 1071).

/// A sum of 16-bit words in the machine's own byte order: what is written of it is the same in
/// either (RFC 1071, 2 B).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum and these bytes, which begin with a whole word.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        // Words of 32 bits, so that several can be added at a time without a carry.
        let (blocks, rest) = bytes.as_chunks::<32>();
        let mut lanes = [0_u64; 8];
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        // No memory has the 2^34 bytes that would overflow it.
        let mut sum: u64 = lanes.into_iter().sum();
        let (words, end) = rest.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let last = match *end {
            [a, b, c] => [a, b, c, 0],
            [a, b] => [a, b, 0, 0],
            [a] => [a, 0, 0, 0],
            _ => [0; 4],
        };
        sum += u64::from(u32::from_ne_bytes(last));
        Self(add(self.0, sum))
    }

    /// The sum and a number as the network writes it.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(add(
            self.0,
            u64::from(u16::from_ne_bytes(word.to_be_bytes())),
        ))
    }

    /// The sum in 16 bits, as the network writes it.
    #[must_use]
    pub fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_ne_bytes()
    }

    /// The checksum: what makes the sum come out right.
    #[must_use]
    pub fn checksum(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }

    /// Whether this is the sum of what has its checksum in it.
    #[must_use]
    pub fn is_right(self) -> bool {
        self.folded() == [0xff; 2]
    }
}

/// With the carry at the other end.
fn add(sum: u64, term: u64) -> u64 {
    let (sum, carry) = sum.overflowing_add(term);
    sum + u64::from(carry)
}
