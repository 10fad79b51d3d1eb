//! `weft service render`: the binary prints, for the scenes of `kube-proxy/`, the rules that
//! kube-proxy writes for them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "kube-proxy/listing.rs"]
mod listing;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use listing::Listing;
use weft_netlab::Namespace;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kube-proxy")
}

fn render(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(["service", "render"])
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Renders each recorded scene with the flags of its first line, and compares.
fn compare(generation: &str, more: &[&str], at_least: usize) {
    let mut scenes = 0;
    for entry in std::fs::read_dir(folder().join("recorded")).unwrap() {
        let recorded = entry.unwrap().path();
        let file = recorded.file_name().unwrap().to_str().unwrap();
        let Some(name) = file.strip_suffix(&format!(".{generation}")) else {
            continue;
        };
        scenes += 1;
        let scene = folder().join(format!("scenes/{name}.yaml"));
        let manifests = std::fs::read_to_string(&scene).unwrap();
        let flags = manifests.lines().next().unwrap().trim_start_matches('#');
        let recorded = std::fs::read_to_string(&recorded).unwrap();
        let (v4, v6) = recorded.split_once("# ip6tables-save\n").unwrap();
        for (family, recorded) in [("ipv4", v4), ("ipv6", v6)] {
            let mut arguments = vec!["--from", scene.to_str().unwrap(), "--family", family];
            arguments.extend(flags.split_whitespace());
            arguments.extend(more);
            let mut ours = Listing::parse(&text(&render(&arguments)));
            let mut recorded = Listing::parse(recorded);
            if generation == "1.23" {
                ours.leave_out_what_kubelets_write();
                recorded.leave_out_what_nothing_leads_to();
            }
            recorded.assert_same(&ours, &format!("{name}, {family}"));
        }
    }
    assert!(scenes >= at_least, "{scenes} scenes of {generation}");
}

#[test]
fn manifests_become_the_rules_of_kube_proxy_1_32() {
    compare("1.32", &["--nfacct"], 20);
}

#[test]
fn manifests_become_the_rules_of_kube_proxy_1_23() {
    compare("1.23", &["--iptables-compat", "1.23"], 7);
}

#[test]
fn chains_are_printed_as_json() {
    let scene = folder().join("scenes/published.yaml");
    let from = ["--from", scene.to_str().unwrap(), "-o", "json"];
    let families: serde_json::Value = serde_json::from_str(&text(&render(&from))).unwrap();
    assert_eq!(families[0]["family"], "IPv4");
    let rules = &families[0]["tables"]["nat"]["KUBE-SEP-C6OXGZ6X74U4SWF2"];
    let rule = rules[1].as_str().unwrap();
    assert!(
        rule.ends_with("--to-destination 192.168.185.13:80"),
        "{rules}"
    );
    assert_eq!(families.as_array().unwrap().len(), 1);
}

/// Each scene's rules in nft's words are taken by nft, by the kernel of a namespace of its own.
#[test]
fn nft_takes_what_is_rendered_for_it() {
    let mut scenes = 0;
    for entry in std::fs::read_dir(folder().join("scenes")).unwrap() {
        let scene = entry.unwrap().path();
        scenes += 1;
        let manifests = std::fs::read_to_string(&scene).unwrap();
        let flags = manifests.lines().next().unwrap().trim_start_matches('#');
        let mut arguments = vec!["--from", scene.to_str().unwrap(), "--mode", "nftables"];
        arguments.extend(flags.split_whitespace());
        let rules = text(&render(&arguments));
        // nft 1.0.6 aborts on rules that put two addresses of IPv6 into a map.
        let kept = |line: &&str| !(line.contains("update @affinity") && line.contains("ip6 saddr"));
        let rules: Vec<&str> = rules.lines().filter(kept).collect();
        assert!(rules.len() > 500, "{scene:?}: {rules:#?}");
        let namespace = Namespace::new("nft").unwrap();
        let mut nft = namespace.command("nft").unwrap();
        let mut nft = nft
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = nft.stdin.take().unwrap();
        input.write_all(rules.join("\n").as_bytes()).unwrap();
        drop(input);
        let output = nft.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{scene:?}: {said}");
    }
    assert!(scenes >= 20, "{scenes}");
}

#[test]
fn what_is_wrong_is_said_with_its_code() {
    let code = |arguments: &[&str]| {
        let output = render(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    };
    let (missing, said) = code(&["--from", "/no/such/file.yaml"]);
    assert_eq!(missing, 5, "{said}");
    assert!(said.contains("/no/such/file.yaml"), "{said}");
    let scene = folder().join("scenes/published.yaml");
    let scene = scene.to_str().unwrap();
    let (wrong, said) = code(&["--from", scene, "--nodeport-addresses", "everywhere"]);
    assert_eq!(wrong, 2, "{said}");
    assert!(said.contains("`primary`"), "{said}");
    let (fine, said) = code(&["--from", scene, "--node", "other"]);
    assert_eq!(fine, 0, "{said}");
    assert!(said.contains("there is no Node other"), "{said}");
}
