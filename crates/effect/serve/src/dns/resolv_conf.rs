//! The name servers of a resolv.conf (resolv.conf(5)).

use std::net::{IpAddr, SocketAddr};

/// The DNS port.
const PORT: u16 = 53;

/// The servers a resolv.conf names, in its order. Lines that make no sense are skipped,
/// as every resolver does.
pub fn nameservers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                return None;
            }
            let word = words.next()?;
            // A link-local address has its interface behind it, which a bare address can't carry.
            let address: SocketAddr = match word.contains('%') {
                true => format!("[{word}]:{PORT}").parse().ok()?,
                false => (word.parse::<IpAddr>().ok()?, PORT).into(),
            };
            Some(address)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_taken_in_order_and_everything_else_is_left() {
        let text = "# made by somebody\nsearch a.example\n nameserver 192.0.2.1\n\
                    nameserver\t2001:db8::1 # second\nnameserver nonsense\noptions ndots:5\n";
        let servers: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }
}
