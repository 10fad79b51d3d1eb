//! Somebody else is at Service rules.

use crate::lab::{Lab, eventually, expect};

#[test]
fn a_second_agent_of_a_node_refuses_in_every_mode() {
    let lab = Lab::up("second", &["--nodes", "1"]);
    let path = r"{.data.config\.yaml}";
    for mode in ["nftables", "iptables"] {
        let config = lab.field(&["-n", "kube-system", "configmap", "weft"], path);
        let config = config.unwrap();
        assert!(config.contains(&format!("mode: {mode}")), "{config}");
        let mut write = String::from("cat > /tmp/config.yaml <<'END'\n");
        write.push_str(&config);
        lab.sh("node-1", &format!("{write}\nEND\n")).ok();
        let second = |more: &[&str]| {
            let agent = [
                "/usr/local/bin/weft",
                "agent",
                "--config",
                "/tmp/config.yaml",
            ];
            let command = [&agent[..], &["--node-name", "node-1"], more].concat();
            lab.exec("node-1", &command).refused()
        };
        eventually("the first one runs", || {
            let said = second(&[]);
            match said.contains("another weft agent holds") {
                true => Ok(()),
                false => Err(said),
            }
        });
        // Where they don't see each other's files, the kernel tells them apart.
        let said = second(&["--lock", "/tmp/other.lock"]);
        assert!(said.contains("another running agent"), "{said}");
        if mode == "nftables" {
            lab.set_mode("iptables");
            eventually("the agent is one of mode iptables", || {
                let mode = ["curl", "-sS", "http://127.0.0.1:10249/proxyMode"];
                let mode = lab.exec("node-1", &mode).result()?;
                expect(mode, |mode| mode.trim() == "iptables")
            });
        }
    }
}
