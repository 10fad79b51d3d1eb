//! Asks other nodes.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};
use weft_proto::path_probe::{Answer, Question, SHORTEST};
use weft_sys::probe;

use super::Target;
use super::size_search::SizeSearch;
use crate::fabric::findings::{Findings, Outcome};

/// How long each of three attempts waits for its answer.
const WAITS: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_millis(1500),
];
/// The same where it is looked for the largest packet that gets through.
const SHORT_WAITS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(300)];

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Answer,
    /// The node says that nobody listens.
    Nobody,
    /// Nothing, or that the packet is too large, or that there is no way.
    Nothing,
}

/// Tries one way.
pub(super) async fn test(target: &Target, port: u16) -> Findings {
    let node_at = SocketAddr::new(target.address, port);
    let mut findings = Findings {
        packet: target.packet,
        ..Findings::default()
    };
    let small = Probe::small();
    let node = small.ask(node_at, &WAITS).await;
    findings.node = outcome(node);
    if node == Heard::Answer && target.packet > 0 {
        findings.path_mtu = path_mtu(node_at, target.packet).await;
        findings.mtu = match findings.path_mtu {
            Some(found) if found >= target.packet => Outcome::Ok,
            Some(_) => Outcome::Fails,
            // Unless nothing at all gets there any more.
            None if small.ask(node_at, &WAITS).await == Heard::Answer => Outcome::Fails,
            None => Outcome::Untested,
        };
    }
    if let Some((_, end)) = &target.tunnel {
        let end_at = SocketAddr::new(*end, port);
        let tunnel = match small.without_checksum().ask(end_at, &WAITS).await {
            // A node where nobody answers takes no IPv6 datagram without one, and says nothing.
            Heard::Nothing => small.ask(end_at, &WAITS).await,
            heard @ (Heard::Answer | Heard::Nobody) => heard,
        };
        findings.tunnel = outcome(tunnel);
        if tunnel == Heard::Answer && target.leaves_checksums {
            findings.checksum = checksum(end_at).await;
        }
    }
    findings
}

fn outcome(heard: Heard) -> Outcome {
    match heard {
        Heard::Answer => Outcome::Ok,
        Heard::Nobody => Outcome::NoAgent,
        Heard::Nothing => Outcome::Fails,
    }
}

/// The least a link must take, in bytes (RFC 791 says what everybody takes whole, RFC 8200).
fn least(to: IpAddr) -> u32 {
    match to {
        IpAddr::V4(_) => 576,
        IpAddr::V6(_) => 1280,
    }
}

/// Whether what has a checksum arrives where what has none does. The answer has none in either
/// case: what becomes of the other node's checksums is that node's to find out.
async fn checksum(to: SocketAddr) -> Outcome {
    let small = Probe::small();
    match small.answered_without_checksum().ask(to, &WAITS).await {
        // Or is all of it lost now?
        Heard::Nothing => match small.without_checksum().ask(to, &WAITS).await {
            Heard::Answer => Outcome::Fails,
            Heard::Nobody | Heard::Nothing => Outcome::Untested,
        },
        heard @ (Heard::Answer | Heard::Nobody) => outcome(heard),
    }
}

/// Bytes of the largest packet that gets there, no more than `wanted`; `None` if not even what
/// every link takes does.
async fn path_mtu(to: SocketAddr, wanted: u32) -> Option<u32> {
    let mut search = SizeSearch::new(least(to.ip()), wanted);
    while let Some(attempt) = search.next() {
        let waits: &[Duration] = match attempt.thorough {
            true => &WAITS,
            false => &SHORT_WAITS,
        };
        let heard = Probe::of(attempt.size, to.ip()).ask(to, waits).await;
        search.heard(heard != Heard::Nothing);
    }
    search.found()
}

/// A question to be asked.
#[derive(Clone, Copy, Debug)]
struct Probe {
    length: u32,
    checksum: bool,
    answer_checksum: bool,
}

impl Probe {
    fn small() -> Self {
        Self {
            length: SHORTEST as u32,
            checksum: true,
            answer_checksum: true,
        }
    }

    /// One whose packet has so many bytes, headers included.
    fn of(size: u32, to: IpAddr) -> Self {
        let headers = match to {
            IpAddr::V4(_) => 20 + 8,
            IpAddr::V6(_) => 40 + 8,
        };
        Self {
            length: size.saturating_sub(headers).max(SHORTEST as u32),
            ..Self::small()
        }
    }

    fn answered_without_checksum(self) -> Self {
        Self {
            answer_checksum: false,
            ..self
        }
    }

    /// Neither the question nor its answer has one.
    fn without_checksum(self) -> Self {
        Self {
            checksum: false,
            ..self.answered_without_checksum()
        }
    }

    async fn ask(self, to: SocketAddr, waits: &[Duration]) -> Heard {
        let Ok(socket) = self.socket(to).await else {
            return Heard::Nothing;
        };
        for wait in waits {
            match self.attempt(&socket, *wait).await {
                Ok(true) => return Heard::Answer,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Heard::Nobody;
                }
                Ok(false) | Err(_) => {}
            }
        }
        Heard::Nothing
    }

    async fn socket(self, to: SocketAddr) -> io::Result<UdpSocket> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        probe::never_fragment(&socket, to.ip())?;
        if !self.checksum {
            probe::send_checksums(&socket, to.is_ipv6(), false)?;
        }
        if !self.answer_checksum && to.is_ipv6() {
            probe::take_without_checksums(&socket)?;
        }
        socket.connect(to).await?;
        Ok(socket)
    }

    /// Whether an answer came in time.
    async fn attempt(self, socket: &UdpSocket, wait: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + wait;
        let question = Question {
            // Random enough that nobody answers who was not asked.
            token: RandomState::new().hash_one(self.length),
            length: self.length,
            checksum: self.answer_checksum,
        };
        if let Err(error) = socket.send(&question.write()).await {
            if error.kind() != io::ErrorKind::ConnectionRefused {
                // Too large, or no way: that may change while one waits.
                tokio::time::sleep_until(deadline).await;
            }
            return Err(error);
        }
        let mut room = [0; SHORTEST + 1];
        loop {
            let Ok(received) = timeout_at(deadline, socket.recv(&mut room)).await else {
                return Ok(false);
            };
            let answer = Answer::read(room.get(..received?).unwrap_or_default());
            if answer == Some(question.answer()) {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn who_answers_is_told_from_who_does_not() {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let to = socket.local_addr().unwrap();
        let answers = socket.clone();
        let answering = tokio::spawn(async move {
            let socket = answers;
            let mut room = vec![0; 65_535];
            loop {
                let (length, from) = socket.recv_from(&mut room).await.unwrap();
                // A path that takes no more than 1400 bytes.
                if length + 28 <= 1400 {
                    let question = Question::read(&room[..length]).unwrap();
                    let answer = question.answer().write();
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let small = Probe::small();
        let long = [Duration::from_secs(10)];
        assert_eq!(small.ask(to, &long).await, Heard::Answer);
        let plain = small.without_checksum().ask(to, &long).await;
        assert_eq!(plain, Heard::Answer);
        assert_eq!(Probe::of(1400, to.ip()).ask(to, &long).await, Heard::Answer);
        let lost = Probe::of(1401, to.ip()).ask(to, &SHORT_WAITS).await;
        assert_eq!(lost, Heard::Nothing);
        answering.abort();
        assert!(answering.await.unwrap_err().is_cancelled());
        // Nobody else gets the port, and who asks there is told that nobody listens to them.
        socket.connect(to).await.unwrap();
        assert_eq!(small.ask(to, &long).await, Heard::Nobody);
    }
}
