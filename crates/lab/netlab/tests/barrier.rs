//! Barriers on a real bridge. Needs root, or root of a user namespace.

#![expect(
    clippy::unwrap_used,
    reason = "what a test's helpers cannot do fails the test"
)]

use std::time::Duration;

use weft_netlab::barrier::{self, Side};
use weft_netlab::{Namespace, link, probe};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one is waited for that must not come.
const SILENCE: Duration = Duration::from_millis(150);

struct Star {
    hub: Namespace,
    leaves: Vec<Namespace>,
}

/// Three namespaces at a bridge, 192.0.2.1 to .3; the bridge's own address is .100.
fn star() -> Star {
    let hub = Namespace::new("hub").unwrap();
    link::bridge(&hub, "br0").unwrap();
    link::address(&hub, "br0", "192.0.2.100/24").unwrap();
    let leaves = (1..=3)
        .map(|number| {
            let leaf = Namespace::new(&format!("leaf-{number}")).unwrap();
            let port = format!("port{number}");
            link::veth(&hub, &port, &leaf, "eth0").unwrap();
            link::port(&hub, "br0", &port).unwrap();
            link::address(&leaf, "eth0", &format!("192.0.2.{number}/24")).unwrap();
            leaf
        })
        .collect();
    Star { hub, leaves }
}

impl Star {
    fn set(&self, barriers: &[(Side, Side)]) {
        self.hub.run(|| barrier::set(barriers)).unwrap().unwrap();
    }

    /// Who reaches whom by UDP, as `from>to`; the hub is 100.
    fn reached(&self, patience: Duration, pairs: &[(usize, usize)]) -> Vec<String> {
        let at = |number: usize| self.leaves.get(number - 1).unwrap_or(&self.hub);
        pairs
            .iter()
            .filter(|(from, to)| {
                let echo = probe::UdpEcho::start(at(*to), &format!("192.0.2.{to}:0")).unwrap();
                let outcome = probe::udp(at(*from), echo.address(), patience).unwrap();
                outcome.is_answered()
            })
            .map(|(from, to)| format!("{from}>{to}"))
            .collect()
    }
}

fn port(number: u32) -> Side {
    Side::Port(format!("port{number}"))
}

#[test]
fn a_barrier_parts_two_and_nobody_else() {
    let star = star();
    star.set(&[(port(1), port(2))]);
    assert_eq!(
        star.reached(PATIENCE, &[(1, 3), (3, 2), (1, 100), (100, 2)]),
        ["1>3", "3>2", "1>100", "100>2"]
    );
    let parted = [(1, 2), (2, 1)];
    assert!(star.reached(SILENCE, &parted).is_empty());

    // Setting others takes it down.
    star.set(&[(port(3), Side::Bridge)]);
    assert_eq!(
        star.reached(PATIENCE, &[(1, 2), (2, 1), (3, 1), (1, 100)]),
        ["1>2", "2>1", "3>1", "1>100"]
    );
    assert!(star.reached(SILENCE, &[(3, 100), (100, 3)]).is_empty());

    star.set(&[]);
    star.set(&[]);
    assert_eq!(
        star.reached(PATIENCE, &[(3, 100), (100, 3)]),
        ["3>100", "100>3"]
    );
}

#[test]
fn what_stands_there_is_listed_by_nft() {
    let star = star();
    star.set(&[(port(1), port(2)), (port(3), Side::Bridge)]);
    let listed = star.hub.output("nft", ["list", "ruleset"]).unwrap();
    for rule in [
        r#"iifname "port1" oifname "port2" drop"#,
        r#"iifname "port2" oifname "port1" drop"#,
        r#"iifname "port3" drop"#,
        r#"oifname "port3" drop"#,
    ] {
        assert!(listed.contains(rule), "{rule}:\n{listed}");
    }
}
