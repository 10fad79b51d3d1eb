//! What a TUN device says of a packet, and is told: the header of virtio's network devices
//! (Virtual I/O Device 1.2, 5.1.6), which stands before each packet.

use super::header::Fault;

/// Bytes of it.
pub const NET_HEADER: usize = 10;

// include/uapi/linux/virtio_net.h
const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_UDP_L4: u8 = 5;
/// TCP with congestion notification: what the segments are like is the same.
const GSO_ECN: u8 = 0x80;

/// What is in a packet that is to be cut, or was put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What is still to be done for a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Where the part begins that is to be summed, and where in it the checksum goes; what
    /// stands there is a part of the sum.
    pub checksum: Option<(u16, u16)>,
    /// It is to be cut into pieces that carry so many bytes each.
    pub cut: Option<(Transport, u16)>,
}

impl Offload {
    /// Reads it, in the machine's own byte order (as devices have it that are not told another).
    ///
    /// # Errors
    /// [`Fault::NotIpv4`] for pieces of another protocol, [`Fault::Length`] for pieces of nothing.
    pub fn read(header: &[u8; NET_HEADER]) -> Result<Self, Fault> {
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let checksum = (header[0] & NEEDS_CHECKSUM != 0).then(|| (word(6), word(8)));
        let transport = match header[1] & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCP_V4 => Some(Transport::Tcp),
            GSO_UDP_L4 => Some(Transport::Udp),
            _ => return Err(Fault::NotIpv4),
        };
        let cut = transport.map(|transport| (transport, word(4)));
        match cut {
            Some((_, 0)) => Err(Fault::Length),
            cut => Ok(Self { checksum, cut }),
        }
    }

    /// Writes it. `headers` is how many bytes are before what a packet carries.
    #[must_use]
    pub fn write(self, headers: usize) -> [u8; NET_HEADER] {
        let mut bytes = [0; NET_HEADER];
        let mut put = |at: usize, word: u16| {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        };
        if let Some((start, offset)) = self.checksum {
            put(6, start);
            put(8, offset);
        }
        if let Some((_, size)) = self.cut {
            put(2, headers as u16);
            put(4, size);
        }
        bytes[0] = if self.checksum.is_some() {
            NEEDS_CHECKSUM
        } else {
            0
        };
        bytes[1] = match self.cut {
            None => GSO_NONE,
            Some((Transport::Tcp, _)) => GSO_TCP_V4,
            Some((Transport::Udp, _)) => GSO_UDP_L4,
        };
        bytes
    }
}
