//! SPDY frames against bytes that another implementation wrote.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "tests fail by panicking, and look at some frames only"
)]

use weft_proto::spdy::{Decoder, Encoder, Error, Frame, Headers};

/// What Kubernetes' SPDY library (moby/spdystream 0.5.0) writes for one forwarded connection:
/// two streams, a ping, data, its end, a reset, a farewell.
const CLIENT: &str = "800300010100003e0000000100000000000078f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c60616061c0c0c0c0590489c64c50f2663407000000ffff800300010000001a00000003000000000000826a26ac0ad57850499508000000ffff800300060000000400000001000000030000000568656c6c6f00000003010000008003000300000008000000030000000580030007000000080000000300000000";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn frames(decoder: &mut Decoder) -> Vec<Frame> {
    std::iter::from_fn(|| decoder.frame().unwrap()).collect()
}

fn check(all: &[Frame]) {
    let [error, data, ping, hello, end, reset, bye] = all else {
        panic!("{all:?}");
    };
    let (
        Frame::Open {
            stream: 1,
            fin: true,
            headers: error,
        },
        Frame::Open {
            stream: 3,
            fin: false,
            headers: data,
        },
    ) = (error, data)
    else {
        panic!("{error:?} {data:?}");
    };
    for (headers, kind) in [(error, "error"), (data, "data")] {
        assert_eq!(headers.get("streamtype"), kind);
        assert_eq!(headers.get("port"), "8080");
        assert_eq!(headers.get("requestid"), "7");
    }
    assert_eq!(*ping, Frame::Ping(1));
    assert_eq!(
        *hello,
        Frame::Data {
            stream: 3,
            fin: false,
            data: b"hello".to_vec()
        }
    );
    assert_eq!(
        *end,
        Frame::Data {
            stream: 3,
            fin: true,
            data: Vec::new()
        }
    );
    assert_eq!(
        *reset,
        Frame::Reset {
            stream: 3,
            status: 5
        }
    );
    assert_eq!(*bye, Frame::GoAway);
}

#[test]
fn another_implementation_is_understood() {
    let mut decoder = Decoder::new();
    decoder.push(&bytes(CLIENT));
    check(&frames(&mut decoder));
}

#[test]
fn bytes_may_come_one_by_one() {
    let mut decoder = Decoder::new();
    let mut all: Vec<Frame> = Vec::new();
    let mut hello = Vec::new();
    for byte in bytes(CLIENT) {
        decoder.push(&[byte]);
        for frame in frames(&mut decoder) {
            match frame {
                // Data comes as it comes.
                Frame::Data {
                    fin: false, data, ..
                } => {
                    hello.extend(data);
                    if hello.len() == 5 {
                        let data = std::mem::take(&mut hello);
                        all.push(Frame::Data {
                            stream: 3,
                            fin: false,
                            data,
                        });
                    }
                }
                other => all.push(other),
            }
        }
    }
    check(&all);
}

#[test]
fn what_is_written_can_be_read() {
    let headers: Headers = [
        ("a".to_owned(), "1".to_owned()),
        ("b".to_owned(), String::new()),
    ]
    .into_iter()
    .collect();
    let mut encoder = Encoder::default();
    let mut decoder = Decoder::new();
    decoder.push(&encoder.open(1, true, &headers));
    decoder.push(&encoder.reply(1, &headers));
    decoder.push(&Encoder::data(1, true, &[7; 100_000]));
    decoder.push(&Encoder::reset(1, 3));
    decoder.push(&Encoder::ping(2));
    let all = frames(&mut decoder);
    assert_eq!(
        all[0],
        Frame::Open {
            stream: 1,
            fin: true,
            headers: headers.clone()
        }
    );
    assert_eq!(
        all[1],
        Frame::Headers {
            stream: 1,
            fin: false,
            headers
        }
    );
    let data: usize = all
        .iter()
        .filter_map(|frame| match frame {
            Frame::Data { data, .. } => Some(data.len()),
            _ => None,
        })
        .sum();
    assert_eq!(data, 100_000);
    let ends = |frame: &&Frame| matches!(frame, Frame::Data { fin: true, .. });
    assert_eq!(all.iter().filter(ends).count(), 1);
    assert_eq!(
        all[all.len() - 2..],
        [
            Frame::Reset {
                stream: 1,
                status: 3
            },
            Frame::Ping(2)
        ]
    );
}

#[test]
fn what_is_no_spdy_is_refused() {
    let refused = |hex: &str| {
        let mut decoder = Decoder::new();
        decoder.push(&bytes(hex));
        loop {
            match decoder.frame() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(error),
            }
        }
    };
    assert_eq!(refused("8002000100000000"), Some(Error::Version(2)));
    assert_eq!(
        refused("8003000100ffffff"),
        Some(Error::TooLong(0x00ff_ffff))
    );
    assert_eq!(refused("80030001000000020000"), Some(Error::Short(1, 2)));
    assert!(matches!(
        refused("800300080000000600000001ffff"),
        Some(Error::Headers(_))
    ));
    // SETTINGS and WINDOW_UPDATE are passed over.
    assert_eq!(refused("800300040000000400000000"), None);
    assert_eq!(refused("80030009000000080000000100001000"), None);
}

#[test]
fn a_reply_is_what_another_implementation_reads() {
    // moby/spdystream 0.5.0 reads both, one after the other; without the empty block at the end
    // of each it does not.
    let mut encoder = Encoder::default();
    let none = Headers::default();
    let first = "8003000200000014000000017801000400fbff00000000000000ffff";
    assert_eq!(encoder.reply(1, &none), bytes(first));
    let second = "800300020000001200000003000400fbff00000000000000ffff";
    assert_eq!(encoder.reply(3, &none), bytes(second));
}
