//! Our rules are those that kube-proxy writes: compared with what `tests/kube-proxy` has
//! recorded of it, scene by scene.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

#[path = "../../../../../tests/kube-proxy/listing.rs"]
mod listing;
mod scene;

use std::path::{Path, PathBuf};

use weft_desired::IpFamily;
use weft_iptables::{Generation, Options, Ruleset};

use self::listing::Listing;
use self::scene::Scene;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/kube-proxy")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every scene that is recorded of a generation, rendered and compared.
fn compare(generation: Generation, recorded_by: &str, at_least: usize) {
    let mut scenes = 0;
    for entry in std::fs::read_dir(folder().join("recorded")).unwrap() {
        let recorded = entry.unwrap().path();
        if !recorded.to_str().unwrap().ends_with(recorded_by) {
            continue;
        }
        scenes += 1;
        let name = recorded.file_stem().unwrap().to_str().unwrap();
        let name = name.split('.').next().unwrap();
        let scene = Scene::read(&read(&folder().join(format!("scenes/{name}.yaml"))));
        let text = read(&recorded);
        let (v4, v6) = text.split_once("# ip6tables-save\n").unwrap();
        for (family, recorded) in [(IpFamily::V4, v4), (IpFamily::V6, v6)] {
            let options = Options {
                generation,
                // The kernel that they were recorded on counts.
                counters: true,
                ..scene.options.clone()
            };
            let ours = Ruleset::new(family, &scene.services, &scene.nat, &options).saved();
            let mut ours = Listing::parse(&ours);
            if generation == Generation::V1_23 {
                ours.leave_out_what_kubelets_write();
            }
            let mut recorded = Listing::parse(recorded);
            recorded.leave_out_what_nothing_leads_to();
            recorded.assert_same(&ours, &format!("{name}, {family}"));
        }
    }
    assert!(scenes >= at_least, "{scenes} scenes of {recorded_by}");
}

#[test]
fn rules_are_those_of_kube_proxy_1_32() {
    compare(Generation::Current, "1.32", 20);
}

#[test]
fn rules_are_those_of_kube_proxy_1_23() {
    compare(Generation::V1_23, "1.23", 7);
}
