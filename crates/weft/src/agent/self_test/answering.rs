//! Answers other nodes' questions.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use weft_proto::path_probe::Question;
use weft_sys::probe;
use weft_sys::udp::{Batch, BindOptions, UdpSocket};

/// How long a packet may be: the longest there are.
const LONGEST: usize = 65_535;
/// Until a port that somebody has is tried again.
const PAUSE: Duration = Duration::from_secs(5);
/// Nothing depends on it: an agent ends whatever its threads wait for.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Answers for ever, in a thread of its own: whatever else the agent does, others take a late
/// answer for none. Tells when the port can't be had, and when it can again.
pub(super) fn answer(port: u16, trouble: impl Fn(Option<String>)) {
    let mut failed = false;
    loop {
        let served = listen(port).and_then(|socket| {
            if std::mem::take(&mut failed) {
                trouble(None);
            }
            serve(&socket)
        });
        if let Err(error) = served
            && !std::mem::replace(&mut failed, true)
        {
            trouble(Some(error.to_string()));
        }
        std::thread::sleep(PAUSE);
    }
}

/// At all addresses, which come and go with tunnels.
fn listen(port: u16) -> io::Result<UdpSocket> {
    let options = BindOptions {
        reuse_port: false,
        only_v6: false,
        receive_timeout: TIMEOUT,
    };
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port).into(), options) {
        Ok(socket) => {
            probe::take_without_checksums(&socket)?;
            Ok(socket)
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        // A kernel without IPv6.
        Err(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port).into(), options),
    }
}

fn serve(socket: &UdpSocket) -> io::Result<()> {
    let is_v6 = socket.local_address()?.is_ipv6();
    let mut batch = Batch::new(LONGEST);
    let mut with_checksums = true;
    loop {
        batch.receive(socket)?;
        for (peer, packet, _) in batch.exchanges() {
            let Some(question) = Question::read(packet) else {
                continue;
            };
            if question.checksum != with_checksums {
                probe::send_checksums(socket, is_v6, question.checksum)?;
                with_checksums = question.checksum;
            }
            // An answer that can't be sent is asked for again.
            let _ = socket.send_to(peer, &question.answer().write());
        }
    }
}
