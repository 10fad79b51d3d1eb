//! Packets that are cut and put together, beside ones that are built one by one.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::net::Ipv4Addr;

use proptest::prelude::*;
use weft_proto::packet::{
    Coalesce, Fault, Ipv4, NET_HEADER, Offload, Transport, coalesce, segments, unreachable,
};

const ALL: Coalesce = Coalesce {
    tcp: true,
    udp: true,
};

/// The checksum as RFC 1071 defines it, word by word.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for word in bytes.chunks(2) {
        sum += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
    }
    while sum >> 16 > 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A connection's packet, by the fields that differ.
#[derive(Clone, Debug)]
struct Made {
    transport: Transport,
    number: u16,
    fragmentable: bool,
    sequence: u32,
    flags: u8,
    options: Vec<u8>,
    carried: Vec<u8>,
}

impl Made {
    fn bytes(&self) -> Vec<u8> {
        let (protocol, inner) = match self.transport {
            Transport::Tcp => {
                let length = (20 + self.options.len()) as u8 / 4;
                let mut tcp = vec![0x1f, 0x90, 0xc3, 0x50];
                tcp.extend(self.sequence.to_be_bytes());
                tcp.extend([0, 0, 0, 9, length << 4, self.flags, 0x20, 0, 0, 0, 0, 0]);
                tcp.extend(&self.options);
                (6, tcp)
            }
            Transport::Udp => {
                let length = (8 + self.carried.len()) as u16;
                let mut udp = vec![0x1f, 0x90, 0xc3, 0x50];
                udp.extend(length.to_be_bytes());
                udp.extend([0, 0]);
                (17, udp)
            }
        };
        let inner = [inner, self.carried.clone()].concat();
        let total = (20 + inner.len()) as u16;
        let mut packet = vec![0x45, 0x02];
        packet.extend(total.to_be_bytes());
        packet.extend(self.number.to_be_bytes());
        packet.extend([
            if self.fragmentable { 0 } else { 0x40 },
            0,
            63,
            protocol,
            0,
            0,
        ]);
        packet.extend([10, 244, 1, 7, 10, 244, 2, 9]);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(&inner);
        let mut summed = packet[12..20].to_vec();
        summed.extend([0, protocol]);
        summed.extend((inner.len() as u16).to_be_bytes());
        summed.extend(&inner);
        let mut sum = checksum(&summed);
        if protocol == 17 && sum == 0 {
            sum = 0xffff;
        }
        let at = if protocol == 6 { 36 } else { 26 };
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    }
}

/// What a sender makes of so many bytes: packets in order, all but the last of one size.
fn flow() -> impl Strategy<Value = (Vec<Made>, u16)> {
    (
        prop::bool::ANY,
        1..1500_u16,
        1..20_usize,
        0..100_u16,
        any::<u32>(),
        any::<u16>(),
        prop::bool::ANY,
        prop::sample::select(vec![0x10_u8, 0x18, 0x11, 0x50]),
        any::<u8>(),
    )
        .prop_map(
            |(tcp, size, count, less, sequence, number, fragmentable, flags, byte)| {
                let transport = if tcp { Transport::Tcp } else { Transport::Udp };
                let mut at = sequence;
                let made = (0..count).map(|index| {
                    let last = index + 1 == count;
                    let length = size - if last { less.min(size - 1) } else { 0 };
                    let start = byte.wrapping_add(index as u8);
                    let carried: Vec<u8> = (0..length)
                        .map(|it| start.wrapping_mul(31).wrapping_add(it as u8))
                        .collect();
                    let made = Made {
                        transport,
                        number: number.wrapping_add(index as u16),
                        fragmentable,
                        sequence: at,
                        // What is said once is said last.
                        flags: if last { flags } else { flags & !0x09 },
                        options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
                        carried,
                    };
                    at = at.wrapping_add(u32::from(length));
                    made
                });
                (made.collect(), size)
            },
        )
}

/// The frame's bytes behind the device's header, and what that says.
fn written(packets: &[&[u8]]) -> (Vec<u8>, Offload, usize) {
    let frame = coalesce(packets, ALL);
    let bytes = frame.parts(packets).collect::<Vec<_>>().concat();
    let (about, packet) = bytes.split_first_chunk::<NET_HEADER>().unwrap();
    (
        packet.to_vec(),
        Offload::read(about).unwrap(),
        frame.packets(),
    )
}

fn cut(packet: &mut [u8], offload: Offload) -> Vec<Vec<u8>> {
    segments(packet, offload)
        .unwrap()
        .map(|it| [it.header.bytes(), it.rest].concat())
        .collect()
}

proptest! {
    #[test]
    fn what_is_put_together_and_cut_is_what_it_was((made, size) in flow()) {
        let packets: Vec<Vec<u8>> = made.iter().map(Made::bytes).collect();
        let slices: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        let (mut large, offload, count) = written(&slices);
        // Nothing is in their way but the length of a packet, and of a list of datagrams.
        let fits = packets.len();
        prop_assert_eq!(count, fits);
        if count > 1 {
            prop_assert_eq!(offload.cut, Some((made[0].transport, size)));
            prop_assert_eq!(large.len(), packets[0].len()
                + made[1..].iter().map(|it| it.carried.len()).sum::<usize>());
        }
        prop_assert_eq!(cut(&mut large, offload), packets);
    }

    #[test]
    fn one_packet_that_does_not_fit_ends_what_goes_together(
        (mut made, _) in flow(),
        at in any::<prop::sample::Index>(),
        damage in 0..7_u8,
    ) {
        let at = at.index(made.len());
        let tcp = made[0].transport == Transport::Tcp;
        match damage {
            0 if tcp => made[at].sequence = made[at].sequence.wrapping_add(1),
            1 if tcp => made[at].flags |= 0x04,
            2 if tcp => made[at].options[7] ^= 1,
            3 => { made[at].number = made[at].number.wrapping_add(7); made[at].fragmentable = true; }
            4 => made[at].carried.push(0),
            _ => {}
        }
        let mut packets: Vec<Vec<u8>> = made.iter().map(Made::bytes).collect();
        match damage {
            5 => *packets[at].last_mut().unwrap() ^= 0x10,
            6 => packets[at][10] ^= 1,
            _ => {}
        }
        let slices: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        let mut left = &slices[..];
        let mut seen = Vec::new();
        while !left.is_empty() {
            let (mut large, offload, count) = written(left);
            seen.extend(cut(&mut large, offload));
            left = &left[count..];
        }
        prop_assert_eq!(seen, packets);
    }

    #[test]
    fn anything_is_taken_and_nothing_panics(data in prop::collection::vec(any::<u8>(), 0..300)) {
        weft_proto::packet::exercise(&data);
    }
}

#[test]
fn what_the_kernel_left_undone_is_done() {
    let made = Made {
        transport: Transport::Udp,
        number: 1,
        fragmentable: false,
        sequence: 0,
        flags: 0,
        options: Vec::new(),
        carried: b"odd".to_vec(),
    };
    let whole = made.bytes();
    let mut packet = whole.clone();
    let mut pseudo = packet[12..20].to_vec();
    pseudo.extend([0, 17, 0, 11]);
    packet[26..28].copy_from_slice(&(!checksum(&pseudo)).to_be_bytes());
    let offload = Offload {
        checksum: Some((20, 6)),
        cut: None,
    };
    assert_eq!(cut(&mut packet, offload), [whole]);
    let beyond = Offload {
        checksum: Some((20, 600)),
        cut: None,
    };
    assert_eq!(segments(&mut packet, beyond).unwrap_err(), Fault::Length);
}

#[test]
fn what_is_no_packet_is_told_apart() {
    let packet = Made {
        transport: Transport::Udp,
        number: 1,
        fragmentable: false,
        sequence: 0,
        flags: 0,
        options: Vec::new(),
        carried: vec![0; 9],
    }
    .bytes();
    assert!(Ipv4::parse(&packet).is_ok());
    let fault = |bytes: &[u8]| Ipv4::parse(bytes).unwrap_err();
    assert_eq!(fault(&[]), Fault::Short);
    assert_eq!(fault(&packet[..19]), Fault::Short);
    assert_eq!(fault(&packet[..30]), Fault::Length);
    assert_eq!(fault(&[packet.clone(), vec![0]].concat()), Fault::Length);
    let with = |at: usize, byte: u8| {
        let mut packet = packet.clone();
        packet[at] = byte;
        fault(&packet)
    };
    assert_eq!(with(0, 0x65), Fault::NotIpv4);
    assert_eq!(with(0, 0x44), Fault::Length);
    assert_eq!(with(0, 0x4f), Fault::Length);
}

#[test]
fn a_sender_is_told_but_never_of_what_told_him() {
    let packet = Made {
        transport: Transport::Tcp,
        number: 1,
        fragmentable: false,
        sequence: 0,
        flags: 0x10,
        options: Vec::new(),
        carried: vec![7; 1400],
    }
    .bytes();
    let message = unreachable(&packet).unwrap();
    let told = Ipv4::parse(&message).unwrap();
    assert_eq!(told.source(), Ipv4Addr::new(10, 244, 2, 9));
    assert_eq!(told.destination(), Ipv4Addr::new(10, 244, 1, 7));
    assert_eq!(message.len(), 576);
    assert_eq!((checksum(&message[..20]), checksum(&message[20..])), (0, 0));
    assert_eq!(message[20..22], [3, 1]);
    assert!(packet.starts_with(&message[28..]));
    assert_eq!(unreachable(&message), None);
    let mut elsewhere = packet.clone();
    elsewhere[16] = 224;
    assert_eq!(unreachable(&elsewhere), None);
    let mut later = packet;
    later[7] = 1;
    assert_eq!(unreachable(&later), None);
}
