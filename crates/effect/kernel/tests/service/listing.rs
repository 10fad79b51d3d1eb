//! What `nft` makes of what we write.

use std::io::Write;

use weft_netlab::Namespace;

use crate::frontends::{at_node_ports, frontends, lab, local};

/// What a person copies from `nft list ruleset` can be loaded elsewhere, but for two things
/// that the kernel has and nft 1.0.6 lists and has no input for: a number in a key that was
/// drawn or hashed, and the protocol and port that a connection had before translation in one.
#[test]
fn nft_reads_back_what_it_lists() {
    let lab = lab();
    let mut desired = at_node_ports(&[1, 2, 3], |family, frontend| {
        frontend.outside = Some(local(family, &[2]));
        frontend.affinity = Some(10_800);
        let range = ["172.30.0.0/24", "fd00:172:30::/64"][family];
        frontend.sources = Some(std::sync::Arc::new([range.parse().unwrap()].into()));
    });
    desired.extend(frontends(&[
        (10, "default/web", &[1]),
        (11, "default/no", &[]),
    ]));
    let _table = lab.table(&desired);
    let listing = lab.node.output("nft", ["list", "ruleset"]).unwrap();
    let elsewhere = Namespace::new("elsewhere").unwrap();
    let mut command = elsewhere.command("nft").unwrap();
    let mut child = command
        .args(["-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Whose the table is says nothing about what is in it.
    let mut text = listing
        .replace("flags owner,persist", "")
        .replace("flags owner", "");
    let unread = ["numgen", "jhash", "ct original"];
    let readable = |line: &&str| !unread.iter().any(|it| line.contains(it));
    let lines: Vec<&str> = text.lines().filter(readable).collect();
    assert!(lines.len() > 500, "{listing}");
    text = lines.join("\n");
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{text}").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{listing}");
}
