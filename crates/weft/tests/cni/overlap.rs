//! Two calls for one container at a time.

use std::fs::{self, File};
use std::io::Write;
use std::time::Instant;

use crate::node::{Answer, DUAL, Node, PATIENCE, address, pod};

/// Waits until a process waits for a lock on a file.
fn wait_until_it_waits(process: u32) {
    let deadline = Instant::now() + PATIENCE;
    let process = process.to_string();
    loop {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let mut waiting = locks.lines().filter(|line| line.contains("->"));
        if waiting.any(|line| line.split_whitespace().any(|word| word == process)) {
            return;
        }
        assert!(Instant::now() < deadline, "{locks}");
        std::thread::yield_now();
    }
}

#[test]
fn a_second_del_leaves_the_rules_of_whoever_has_the_address_by_then() {
    let node = Node::new(DUAL);
    let first = pod("first");
    let result = node.add("c1", &first).ok();
    let addresses = [address(&result, 0), address(&result, 1)];
    let rules = || node.namespace.output("nft", ["list", "ruleset"]).unwrap();

    let lock = File::open(node.pool().join("lock")).unwrap();
    lock.lock().unwrap();
    let mut second = node.command("DEL", "c1", "").spawn().unwrap();
    let mut input = second.stdin.take().unwrap();
    input
        .write_all(node.config().to_string().as_bytes())
        .unwrap();
    drop(input);
    wait_until_it_waits(second.id());
    // Nothing about an address goes while it could be given out.
    for address in addresses {
        assert!(rules().contains(&format!(". {address} ")), "{}", rules());
    }
    // What the first DEL released an ADD has by now, with rules of its own.
    for (address, table) in addresses.into_iter().zip(["ip", "ip6"]) {
        fs::write(node.pool().join(address.to_string()), "c2\r\neth0").unwrap();
        let element = format!("{{ {address} comment \"c2\" }}");
        let element = ["add", "element", table, "weft-pods", "leaving", &element];
        node.namespace.output("nft", element).unwrap();
    }
    drop(lock);
    Answer::from(second.wait_with_output().unwrap()).ok();
    for address in addresses {
        assert!(rules().contains(&format!("{address} comment \"c2\"")));
        assert!(!rules().contains(&format!(". {address} ")), "{}", rules());
    }
    assert_eq!(node.reserved(), addresses);
}
