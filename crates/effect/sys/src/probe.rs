//! What a UDP socket needs that tries a path, beside what every UDP socket has (ip(7), ipv6(7),
//! udp(7)).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

/// IP_PMTUDISC_PROBE and IPV6_PMTUDISC_PROBE (`include/uapi/linux/in.h`, `in6.h`): packets are
/// never fragmented, and what the kernel believes of the path is not asked.
const PROBE: libc::c_int = 3;
// include/uapi/linux/udp.h
const UDP_NO_CHECK6_TX: libc::c_int = 101;
const UDP_NO_CHECK6_RX: libc::c_int = 102;

/// Has no packet of a socket fragmented, here or on the way, whatever is known of the path. One
/// that the first link does not take is refused with EMSGSIZE.
///
/// # Errors
/// The kernel's.
pub fn never_fragment(socket: &impl AsFd, to: IpAddr) -> io::Result<()> {
    match to {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, PROBE),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, PROBE),
    }
}

/// Sends datagrams with a checksum, or with 0 in its place (RFC 768, RFC 6936).
///
/// # Errors
/// The kernel's.
pub fn send_checksums(socket: &impl AsFd, is_v6: bool, checksums: bool) -> io::Result<()> {
    let without = libc::c_int::from(!checksums);
    set(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, without)?;
    if is_v6 {
        set(socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_TX, without)?;
    }
    Ok(())
}

/// Takes IPv6 datagrams without a checksum; those of IPv4 are always taken.
///
/// # Errors
/// The kernel's.
pub fn take_without_checksums(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
}

fn set(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option's value is an int, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::namespace;
    use crate::rtnl::{Conversation, LinkChange};

    const BOTH: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

    #[test]
    fn what_a_link_does_not_take_is_refused_and_not_cut() {
        let namespace = namespace::new_net().unwrap();
        let mut conversation = Conversation::in_namespace(namespace.as_fd()).unwrap();
        let loopback = conversation.link_by_name("lo").unwrap().index;
        let narrow = LinkChange {
            up: Some(true),
            mtu: Some(1500),
            ..LinkChange::default()
        };
        conversation.set_link(loopback, narrow).unwrap();
        let work = || {
            for any in BOTH {
                let socket = UdpSocket::bind(any).unwrap();
                let to = socket.local_addr().unwrap();
                let headers = if to.is_ipv6() { 48 } else { 28 };
                let fits = vec![0; 1500 - headers];
                let more = vec![0; fits.len() + 1];
                // In pieces, as long as nobody minds.
                assert_eq!(socket.send_to(&more, to).unwrap(), more.len());
                never_fragment(&socket, to.ip()).unwrap();
                assert_eq!(socket.send_to(&fits, to).unwrap(), fits.len());
                let error = socket.send_to(&more, to).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
            }
        };
        namespace::in_net(namespace.as_fd(), work).unwrap();
    }

    #[test]
    fn datagrams_without_a_checksum_arrive_where_they_are_taken() {
        for any in BOTH {
            let socket = UdpSocket::bind(any).unwrap();
            let to = socket.local_addr().unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            let send = |checksums, text: &[u8]| {
                send_checksums(&socket, to.is_ipv6(), checksums).unwrap();
                socket.send_to(text, to).unwrap();
            };
            let received = || {
                let mut room = [0; 16];
                let length = socket.recv(&mut room).unwrap();
                String::from_utf8_lossy(&room[..length]).into_owned()
            };
            send(false, b"plain");
            send(true, b"summed");
            // RFC 8200: who is not told otherwise drops what has none.
            if to.is_ipv4() {
                assert_eq!(received(), "plain");
            }
            assert_eq!(received(), "summed");
            take_without_checksums(&socket).unwrap();
            send(false, b"plain");
            assert_eq!(received(), "plain");
        }
    }
}
