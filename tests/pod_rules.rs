//! What pods may send: as whom, and how much.

use serde_json::json;

use crate::lab::probe::manifest;
use crate::lab::{Lab, eventually, expect};

#[test]
fn pods_are_held_to_their_addresses_and_to_the_bandwidth_of_their_annotations() {
    let lab = Lab::up("pod-rules", &["--nodes", "1"]);
    let pod = |name: &str, rate: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "limited"}, "annotations": {
                "kubernetes.io/ingress-bandwidth": rate,
                "kubernetes.io/egress-bandwidth": "20M",
            }},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "3600"]}],
            },
        })
    };
    lab.apply("default", &manifest(&[pod("limited", "10M")]));
    lab.pods_ready("default", "app=limited");
    let queues = lab.exec("node-1", &["tc", "qdisc", "show"]).ok();
    for rate in ["rate 10Mbit", "rate 20Mbit"] {
        assert!(queues.contains(rate), "{queues}");
    }

    // The agent misses what somebody took away.
    let own = lab.pod_ips("default", "limited").remove(0);
    let stands = || {
        let rules = lab.exec("node-1", &["nft", "list", "ruleset"]).result()?;
        expect(rules, |rules| {
            rules.contains("sources-of-pods") && rules.contains(&format!(". {own} comment"))
        })
    };
    eventually("the pod's address is known", stands);
    for table in ["ip", "ip6"] {
        lab.exec("node-1", &["nft", "delete", "table", table, "weft-pods"])
            .ok();
    }
    eventually("the rules are back", stands);
    lab.kubectl(&["delete", "pod", "limited"]).ok();
    eventually("nothing of the pod is left", || {
        let rules = lab.exec("node-1", &["nft", "list", "ruleset"]).result()?;
        let links = lab.exec("node-1", &["ip", "link"]).result()?;
        expect((rules, links), |(rules, links)| {
            !rules.contains(&format!(". {own} comment")) && !links.contains("wefti")
        })
    });

    // What is no rate starts no pod.
    lab.apply("default", &manifest(&[pod("unlimited", "10")]));
    eventually("the event says why", || {
        let events = lab.kubectl(&["get", "events"]).result()?;
        expect(events, |events| {
            events.contains("resource is unreasonably small (< 1kbit)")
        })
    });
}

#[test]
fn rules_of_bridges_that_somebody_removed_are_back() {
    let lab = Lab::up("bridge-rules", &["--nodes", "1"]);
    let config = json!({
        "cniVersion": "1.1.0", "name": "bridged", "type": "weft",
        "link": "bridge", "ingressPolicy": "same-bridge",
        "ipam": {"type": "weft", "ranges": ["10.99.1.0/24"], "routes": [{"dst": "192.0.2.0/24"}]},
    });
    let add = format!(
        "ip netns add bridged && echo '{config}' | CNI_COMMAND=ADD CNI_CONTAINERID=bridged \
         CNI_NETNS=/run/netns/bridged CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/weft"
    );
    lab.exec("node-1", &["sh", "-c", &add]).ok();
    let list = |table: [&str; 2]| {
        let command = [["nft", "list", "table"].as_slice(), &table].concat();
        lab.exec("node-1", &command).result()
    };
    for table in [["inet", "weft-bridges"], ["bridge", "weft-pods"]] {
        let before = list(table).unwrap();
        let delete = [["nft", "delete", "table"].as_slice(), &table].concat();
        lab.exec("node-1", &delete).ok();
        eventually("the table is back", || {
            expect(list(table)?, |now| {
                now.matches("weft").count() == before.matches("weft").count()
                    && now.matches("cni0").count() == before.matches("cni0").count()
                    && now.lines().count() == before.lines().count()
            })
        });
    }
}
