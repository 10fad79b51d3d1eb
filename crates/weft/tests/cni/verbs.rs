//! Each verb, in good conditions and bad.

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;

use serde_json::{Value, json};
use weft_netlab::Namespace;

use crate::node::{DUAL, Node, address, end, ip, path, plugin, pod, prepare, reaches, run};

#[test]
fn a_dual_stack_pod_is_attached_checked_and_detached() {
    let node = Node::new(DUAL);
    let first = pod("first");
    let result = node.add("c1", &first).ok();
    let host_link = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    assert!(
        host_link.starts_with("weft") && host_link.len() == 14,
        "{host_link}"
    );
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    assert_eq!(result["interfaces"][1]["sandbox"], path(&first));
    assert_eq!(
        result["ips"],
        json!([
            {"address": "10.244.1.1/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd00:10:244:1::1/128", "gateway": "fe80::1", "interface": 1},
        ])
    );
    assert_eq!(
        result["routes"],
        json!([
            {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
            {"dst": "::/0", "gw": "fe80::1"},
        ])
    );

    let links = ip(&node.namespace, &["link", "show", &host_link]);
    assert_eq!(links[0]["ifalias"], "weft:default/pod-c1");
    assert_eq!(links[0]["mtu"], 1450);
    assert_eq!(links[0]["address"], result["interfaces"][0]["mac"]);
    let inside = ip(&first, &["link", "show", "eth0"]);
    assert_eq!(inside[0]["address"], result["interfaces"][1]["mac"]);
    assert_eq!(inside[0]["mtu"], 1450);
    let loopback = ip(&first, &["link", "show", "lo"]);
    assert!(loopback[0]["flags"].to_string().contains("UP"));

    let record: Value =
        serde_json::from_str(&fs::read_to_string(node.record("c1")).unwrap()).unwrap();
    assert_eq!(
        record["addresses"],
        json!(["10.244.1.1", "fd00:10:244:1::1"])
    );
    assert_eq!(record["pod"]["name"], "pod-c1");
    assert_eq!(
        fs::read_to_string(node.pool().join("10.244.1.1")).unwrap(),
        "c1\r\neth0"
    );

    assert_eq!(node.check("c1", &first, &result).ok(), Value::Null);

    let second = pod("second");
    let other = node.add("c2", &second).ok();
    for index in 0..2 {
        let (here, there) = (address(&result, index), address(&other, index));
        let v4 = here.is_ipv4();
        let own: IpAddr = if v4 { "172.30.0.11" } else { "fd00:172:30::11" }
            .parse()
            .unwrap();
        let far: IpAddr = if v4 { "172.30.0.2" } else { "fd00:172:30::2" }
            .parse()
            .unwrap();
        reaches(&first, &second, there, here);
        reaches(&second, &first, here, there);
        reaches(&node.namespace, &first, here, own);
        reaches(&first, &node.namespace, own, here);
        reaches(&first, &node.outside, far, here);
        reaches(&node.outside, &first, here, far);
        let text = there.to_string();
        first.output("ping", ["-c1", "-W5", &text]).unwrap();
        // The node's own address on the link is the only one it could choose.
        let found = ip(&node.namespace, &["route", "get", &text]);
        assert_eq!(found[0]["prefsrc"], own.to_string());
    }

    assert_eq!(node.del("c1").ok(), Value::Null);
    assert_eq!(node.reserved().len(), 2);
    assert!(!node.record("c1").exists());
    node.del("c2").ok();
    node.assert_clean();
    assert_eq!(ip(&first, &["link"]).as_array().unwrap().len(), 1);
}

#[test]
fn one_family_is_enough() {
    for (range, own) in [
        ("10.244.1.0/24", "172.30.0.11"),
        ("fd00:10:244:1::/64", "fd00:172:30::11"),
    ] {
        let node = Node::new(&[range]);
        let pod = pod("pod");
        let result = node.add("c1", &pod).ok();
        assert_eq!(result["ips"].as_array().unwrap().len(), 1);
        reaches(
            &node.namespace,
            &pod,
            address(&result, 0),
            own.parse().unwrap(),
        );
        node.check("c1", &pod, &result).ok();
        node.del("c1").ok();
        node.assert_clean();
    }
}

#[test]
fn add_and_del_may_come_twice() {
    let node = Node::new(DUAL);
    let pod = pod("pod");
    let first = node.add("c1", &pod).ok();
    let index = ip(&pod, &["link", "show", "eth0"])[0]["ifindex"].clone();
    assert_eq!(node.add("c1", &pod).ok(), first);
    // A whole link is left in peace.
    assert_eq!(ip(&pod, &["link", "show", "eth0"])[0]["ifindex"], index);
    pod.output("ip", ["address", "flush", "dev", "eth0"])
        .unwrap();
    assert_eq!(node.add("c1", &pod).ok(), first);
    node.check("c1", &pod, &first).ok();
    assert_eq!(node.reserved().len(), 2);
    node.del("c1").ok();
    node.del("c1").ok();
    node.call("DEL", "never", "/run/netns/gone", &node.config())
        .ok();
    node.assert_clean();
}

#[test]
fn a_missing_namespace_is_an_error_for_add_alone() {
    let node = Node::new(DUAL);
    let (code, message) = node
        .call("ADD", "c1", "/run/netns/gone", &node.config())
        .error();
    assert_eq!(code, 3);
    assert!(
        message.contains("CNI_NETNS") && message.contains("/run/netns/gone"),
        "{message}"
    );
    node.assert_clean();

    let pod = pod("pod");
    node.add("c1", &pod).ok();
    let before = path(&pod);
    drop(pod);
    node.call("DEL", "c1", &before, &node.config()).ok();
    node.assert_clean();

    let file = node.root.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, message) = node
        .call("ADD", "c1", file.to_str().unwrap(), &node.config())
        .error();
    assert_eq!(code, 100, "{message}");
    node.assert_clean();
    let (code, message) = node.add("c1", &node.namespace).error();
    assert_eq!(code, 4);
    assert!(
        message.contains("CNI_NETNS") && message.contains("own"),
        "{message}"
    );
    node.assert_clean();
}

#[test]
fn an_exhausted_pool_is_to_be_tried_again() {
    let node = Node::new(&["fd00:10:244:1::/64", "10.244.1.0/30"]);
    let pods = [pod("a"), pod("b"), pod("c")];
    node.add("a", &pods[0]).ok();
    node.add("b", &pods[1]).ok();
    let (code, message) = node.add("c", &pods[2]).error();
    assert_eq!(code, 11);
    assert!(
        message.contains("10.244.1.0/30") && message.contains("2 of 2"),
        "{message}"
    );
    assert_eq!(node.reserved().len(), 4);
    assert!(!node.record("c").exists());
    // An ADD that died had the first address already.
    node.dies_without_record("c");
    fs::write(node.pool().join("fd00:10:244:1::77"), "c\r\neth0").unwrap();
    assert_eq!(node.add("c", &pods[2]).error().0, 11);
    assert_eq!(node.reserved().len(), 4);
    assert!(!node.record("c").exists());
    let (code, message) = node.call("STATUS", "", "", &node.config()).error();
    assert_eq!(code, 50, "{message}");
    node.del("a").ok();
    node.call("STATUS", "", "", &node.config()).ok();
    node.add("c", &pods[2]).ok();
    node.del("b").ok();
    node.del("c").ok();
    node.assert_clean();
}

#[test]
fn check_says_what_differs() {
    let node = Node::new(DUAL);
    let pod = pod("pod");
    let result = node.add("c1", &pod).ok();
    let host = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let repair = || {
        node.add("c1", &pod).ok();
        node.check("c1", &pod, &result).ok();
    };
    let differs = |words: &str| {
        let (code, message) = node.check("c1", &pod, &result).error();
        assert_eq!(code, 101);
        assert!(
            message.contains("c1/eth0") && message.contains(words),
            "{words} | {message}"
        );
    };
    for (place, change, words) in [
        (&pod, "address del 10.244.1.1/32 dev eth0", "10.244.1.1/32"),
        (&pod, "-6 route del default", "::/0"),
        (&pod, "neighbour del 169.254.1.1 dev eth0", "169.254.1.1"),
        (&pod, "link set eth0 mtu 1300", "1300"),
        (&pod, "link set eth0 down", "down"),
        (&node.namespace, "route del 10.244.1.1/32", "10.244.1.1/32"),
        (
            &node.namespace,
            "neighbour del fd00:10:244:1::1 dev HOST",
            "fd00:10:244:1::1",
        ),
        (
            &node.namespace,
            "address del 172.30.0.11/32 dev HOST",
            "172.30.0.11/32",
        ),
        (&node.namespace, "link del HOST", "missing"),
    ] {
        let change = change.replace("HOST", &host);
        place.output("ip", change.split(' ')).unwrap();
        differs(words);
        repair();
    }
    fs::remove_file(node.pool().join("10.244.1.1")).unwrap();
    differs("10.244.1.1 is not reserved");
    let mut less = result.clone();
    less["ips"].as_array_mut().unwrap().remove(0);
    let (_, message) = node.check("c1", &pod, &less).error();
    assert!(
        message.contains("prevResult.ips: 10.244.1.1/32 is missing"),
        "{message}"
    );
    fs::remove_file(node.record("c1")).unwrap();
    differs("no record");
    // Neither record nor the whole reservation: the name of the link is enough.
    node.del("c1").ok();
    node.assert_clean();
}

#[test]
fn a_failed_add_leaves_nothing() {
    let node = Node::new(DUAL);
    let occupied = pod("occupied");
    occupied
        .output("ip", ["link", "add", "eth0", "type", "bridge"])
        .unwrap();
    let (code, message) = node.add("c1", &occupied).error();
    assert_eq!(code, 100);
    assert!(message.contains("c1/eth0"), "{message}");
    node.assert_clean();

    let pod = pod("pod");
    // Somebody else's route to the address that comes next stays.
    node.namespace
        .output("ip", ["route", "add", "10.244.1.2/32", "dev", "uplink"])
        .unwrap();
    let (code, message) = node.add("c2", &pod).error();
    assert_eq!(code, 100);
    assert!(message.contains("10.244.1.2"), "{message}");
    node.assert_clean();
    let kept = ip(&node.namespace, &["route", "show", "10.244.1.2/32"]);
    assert_eq!(kept[0]["dev"], "uplink");
    node.add("c2", &pod).ok();
    node.del("c2").ok();
    node.assert_clean();
}

#[test]
fn what_a_dead_add_left_is_taken_up_or_removed() {
    let node = Node::new(DUAL);
    let pod = pod("pod");
    let whole = node.add("c1", &pod).ok();
    let host = whole["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let states: [(&str, &dyn Fn()); 4] = [
        ("addresses reserved, no record, no link", &|| {
            node.dies_without_record("c1");
            node.namespace.output("ip", ["link", "del", &host]).unwrap();
        }),
        ("link without its alias", &|| {
            node.namespace
                .output("ip", ["link", "set", &host, "alias", ""])
                .unwrap();
        }),
        ("record damaged", &|| {
            fs::write(node.record("c1"), "{").unwrap()
        }),
        ("record without reservations", &|| {
            fs::remove_dir_all(node.pool()).unwrap();
        }),
    ];
    for (state, make) in states {
        node.add("c1", &pod).ok();
        make();
        let again = node.add("c1", &pod).ok();
        node.check("c1", &pod, &again).ok();
        assert_eq!(node.reserved().len(), 2, "{state}");
        make();
        node.del("c1").ok();
        node.assert_clean();
    }
}

#[test]
fn parallel_processes_share_a_pool() {
    const PODS: usize = 24;
    let node = Node::new(DUAL);
    let pods: Vec<(String, Namespace)> = (0..PODS)
        .map(|number| (format!("c{number}"), pod(&format!("pod-{number}"))))
        .collect();
    let results: Vec<Value> = std::thread::scope(|scope| {
        let calls: Vec<_> = pods
            .iter()
            .map(|(name, pod)| scope.spawn(|| node.add(name, pod).ok()))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let mut addresses: Vec<IpAddr> = results
        .iter()
        .flat_map(|result| [address(result, 0), address(result, 1)])
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 2 * PODS);
    assert_eq!(node.reserved(), addresses);
    std::thread::scope(|scope| {
        for (name, _) in &pods {
            scope.spawn(|| node.del(name).ok());
        }
    });
    node.assert_clean();
}

#[test]
fn disks_that_refuse_are_named() {
    let node = Node::new(DUAL);
    let pod = pod("pod");
    let state = node.root.path().join("state");
    fs::create_dir(&state).unwrap();
    for (options, words) in [
        ("ro", "Read-only file system"),
        ("size=4k,nr_inodes=2", "No space left"),
    ] {
        let script = format!(
            "mount -t tmpfs -o {options} tmpfs {} && exec {}",
            state.display(),
            plugin().display()
        );
        let mut process = node.namespace.command("unshare").unwrap();
        prepare(&mut process, "ADD", "c1", &path(&pod));
        process
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin")),
            )
            .args(["-m", "sh", "-c", &script]);
        let (code, message) = run(process, &node.config()).error();
        assert_eq!(code, 5, "{message}");
        assert!(
            message.contains(words) && message.contains("attachment"),
            "{message}"
        );
        node.assert_clean();
    }
}

#[test]
fn gc_frees_what_is_dead_twice_over() {
    let node = Node::new(DUAL);
    let (dead, alive, valid) = (pod("dead"), pod("alive"), pod("valid"));
    for (name, pod) in [("dead", &dead), ("alive", &alive), ("valid", &valid)] {
        node.add(name, pod).ok();
    }
    let _gone = end(dead);
    node.wait_for_links(2);
    let mut config = node.config();
    let (code, message) = node.call("GC", "", "", &config).error();
    assert_eq!(code, 7);
    assert!(message.contains("cni.dev/valid-attachments"), "{message}");
    config["cni.dev/valid-attachments"] = json!([{"containerID": "valid", "ifname": "eth0"}]);
    let answer = node.call("GC", "", "", &config);
    assert!(answer.log.contains("alive/eth0"), "{}", answer.log);
    answer.ok();
    assert!(!node.record("dead").exists());
    assert!(node.record("alive").exists() && node.record("valid").exists());
    assert_eq!(node.reserved().len(), 4);
    node.del("alive").ok();
    node.del("valid").ok();
    node.assert_clean();
}

#[test]
fn gc_keeps_a_pod_whose_namespace_has_lost_its_file() {
    // GC looks into every namespace of the machine: addresses that no other test has.
    let node = Node::new(&["10.197.1.0/24", "fd00:10:197:1::/64"]);
    let living = pod("living");
    // Where the runtime mounted it, which somebody took away.
    let file = node.root.path().join("namespace");
    std::os::unix::fs::symlink(path(&living), &file).unwrap();
    let netns = file.to_str().unwrap();
    let result = node.call("ADD", "c1", netns, &node.config()).ok();
    fs::remove_file(&file).unwrap();
    // And what only a reservation tells of may be in a namespace like it.
    let theirs = node.pool().join("10.197.1.79");
    fs::write(&theirs, "theirs\r\neth0").unwrap();
    let mut config = node.config();
    config["cni.dev/valid-attachments"] = json!([]);
    let answer = node.call("GC", "", "", &config);
    assert!(
        answer.log.contains("something is in it: kept"),
        "{}",
        answer.log
    );
    answer.ok();
    assert_eq!(node.reserved().len(), 3);
    reaches(
        &node.namespace,
        &living,
        address(&result, 0),
        "172.30.0.11".parse().unwrap(),
    );
    let _gone = end(living);
    node.wait_for_links(0);
    node.call("GC", "", "", &config).ok();
    node.assert_clean();
}

#[test]
fn older_runtimes_get_their_format_and_strange_fields_a_remark() {
    let node = Node::new(DUAL);
    let pod = pod("pod");
    let mut config = node.config();
    config["cniVersion"] = json!("0.3.1");
    config["mtuu"] = json!(9000);
    let answer = node.call("ADD", "c1", &path(&pod), &config);
    assert!(answer.log.contains("mtuu is not known"), "{}", answer.log);
    let result = answer.ok();
    assert_eq!(result["cniVersion"], "0.3.1");
    assert_eq!(result["ips"][1]["version"], "6");
    assert!(result["interfaces"][0].get("mtu").is_none());
    let (code, _) = node.call("CHECK", "c1", &path(&pod), &config).error();
    assert_eq!(code, 1);
    node.call("DEL", "c1", "", &config).ok();
    node.assert_clean();

    let versions = node
        .call("VERSION", "", "", &json!({"cniVersion": "1.0.0"}))
        .ok();
    assert_eq!(versions["cniVersion"], "1.0.0");
    assert_eq!(versions["supportedVersions"][4], "1.1.0");
}

#[test]
fn a_namespace_with_ipv6_switched_off_gets_it() {
    let node = Node::new(DUAL);
    let pod = pod("pod");
    for scope in ["all", "default"] {
        pod.set_sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")
            .unwrap();
    }
    let result = node.add("c1", &pod).ok();
    reaches(
        &node.namespace,
        &pod,
        address(&result, 1),
        "fd00:172:30::11".parse().unwrap(),
    );
    node.del("c1").ok();
    node.assert_clean();
}

#[test]
fn in_a_chain_what_came_before_is_kept() {
    let node = Node::new(&["10.244.1.0/24"]);
    let pod = pod("pod");
    let mut config = node.config();
    config["prevResult"] = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "net0", "sandbox": path(&pod)}],
        "ips": [{"address": "192.0.2.5/24", "interface": 0}],
        "dns": {"nameservers": ["192.0.2.53"]},
    });
    let result = node.call("ADD", "c1", &path(&pod), &config).ok();
    assert_eq!(result["interfaces"][0]["name"], "net0");
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["dns"]["nameservers"][0], "192.0.2.53");
    node.check("c1", &pod, &result).ok();
    node.del("c1").ok();
    node.assert_clean();
}
