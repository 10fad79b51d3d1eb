//! What `nft` makes of what we write: a person copies `nft list ruleset` into a file, and loads it
//! with `nft -f`.

use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::Arc;

use weft_desired::{
    Bridge, Frontend, FrontendKey, HashOf, HostPort, OtherLink, PodRules, Protocol, Sharing,
    SocketKey, Table,
};
use weft_kernel::service::{self, IpFamily, ServiceTable};
use weft_kernel::{bridge_rules, host_port, pod_rules};
use weft_netlab::Namespace;
use weft_sys::nft::Connection;

use crate::frontends::{
    at_node_ports, entry, frontends, key, lab, local, nat, own_addresses, service,
};
use crate::scene::pod::pod_addresses;

/// Frontends for which every set has an element, but for those of the other size classes.
pub(crate) fn all_sorts() -> Table<FrontendKey, Frontend> {
    let mut desired = at_node_ports(&[1, 2, 3], |family, frontend| {
        frontend.outside = Some(local(family, &[2]));
        // nft 1.0.6 aborts on any rule that puts two addresses of IPv6 into a map.
        frontend.affinity = [Some(10_800), None][family];
        let range = ["172.30.0.0/24", "fd00:172:30::/64"][family];
        frontend.sources = Some(Arc::new([range.parse().unwrap()].into()));
    });
    desired.extend(frontends(&[
        (10, "default/web", &[1]),
        (11, "default/no", &[]),
    ]));
    for (number, hash) in [(12, HashOf::Source), (13, HashOf::FiveTuple)] {
        for (family, address) in service(number).into_iter().enumerate() {
            let frontend = Frontend {
                sharing: Sharing {
                    hash: Some(hash),
                    ..Sharing::default()
                },
                ..crate::frontends::frontend("default/hashed", family, &[1, 2])
            };
            desired.insert(key(address, Protocol::Sctp), entry(frontend));
        }
    }
    desired
}

/// A network namespace into which `nft -f` has loaded this.
#[track_caller]
fn loaded(text: &str) -> Namespace {
    let elsewhere = Namespace::new("elsewhere").unwrap();
    let mut child = elsewhere
        .command("nft")
        .unwrap()
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    elsewhere
}

/// An agent that comes to such a namespace has nothing to write.
#[track_caller]
fn nothing_to_repair(namespace: &Namespace, desired: &Table<FrontendKey, Frontend>) {
    let connection = Connection::in_namespace(namespace.as_fd()).unwrap();
    let mut table = ServiceTable::adopt(connection, &IpFamily::BOTH).unwrap();
    table.count_traffic(true);
    let report = table.reconcile(desired, &nat()).unwrap();
    assert_eq!(report.rebuilt, [""; 0]);
    assert_eq!((report.elements, report.transactions), (0, 0), "{report:?}");
}

#[test]
fn nft_loads_what_it_lists_and_an_agent_finds_its_table_in_it() {
    let lab = lab();
    let desired = all_sorts();
    let mut table = lab.adopt();
    table.count_traffic(true);
    table.reconcile(&desired, &nat()).unwrap();
    let listing = lab.node.output("nft", ["list", "ruleset"]).unwrap();
    // nft would own the table that it makes then, and it would go when nft ends.
    let lines = listing.lines();
    let nobodys: Vec<&str> = lines
        .filter(|line| !line.trim_start().starts_with("flags owner"))
        .collect();
    assert!(nobodys.len() > 1500, "{listing}");
    let elsewhere = loaded(&nobodys.join("\n"));
    nothing_to_repair(&elsewhere, &desired);
}

#[test]
fn nft_loads_what_we_render_and_an_agent_finds_its_table_in_it() {
    let desired = all_sorts();
    let texts = IpFamily::BOTH.map(|family| service::render(family, &desired, &nat(), true).text());
    nothing_to_repair(&loaded(&texts.concat()), &desired);
}

/// Of the tables that the CNI plugin writes, too.
#[test]
fn nft_loads_what_it_lists_of_pods_links_and_ports() {
    let node = Namespace::new("node").unwrap();
    let ports: Vec<HostPort> = own_addresses()
        .into_iter()
        .zip(pod_addresses(1))
        .map(|(address, pod)| HostPort {
            node: SocketKey {
                address,
                protocol: Protocol::Udp,
                port: 5353,
            },
            pod,
            port: 8080,
        })
        .collect();
    let bridge = Bridge {
        name: "pods".into(),
        alias: "weft:bridge/pods".into(),
        mac: [0x0a, 0, 0, 0, 0, 1],
        mtu: 1500,
        addresses: vec!["10.244.7.1/24".parse().unwrap()],
        isolated: true,
    };
    let rules = [(2, false), (3, true)].map(|(number, is_port)| PodRules {
        link: format!("weft{number}").into(),
        is_port,
        mac: [0x0a, 0, 0, 0, 0, number],
        addresses: pod_addresses(number).into(),
        other_links: vec![OtherLink {
            link: format!("other{number}").into(),
            is_port,
            is_guarded: true,
        }],
        other_addresses: pod_addresses(number + 10).into(),
        is_guarded: true,
        masquerade_beyond: Some(vec![
            "10.244.0.0/16".parse().unwrap(),
            "fd00:10:244::/56".parse().unwrap(),
        ]),
        comment: "default/pod".into(),
    });
    let pods: Vec<IpAddr> = pod_addresses(1).into();
    let written = node.run(|| {
        let mut connection = Connection::open().unwrap();
        host_port::set(&mut connection, &ports, &pods, "weft1").unwrap();
        bridge_rules::set(&bridge).unwrap();
        for rules in &rules {
            pod_rules::set(&mut connection, rules).unwrap();
        }
    });
    written.unwrap();
    let listing = node.output("nft", ["list", "ruleset"]).unwrap();
    for table in [
        "bridge weft-pods",
        "ip6 weft-host-ports",
        "inet weft-bridges",
    ] {
        assert!(listing.contains(table), "{listing}");
    }
    let elsewhere = loaded(&listing);
    let looked_at = elsewhere.run(|| {
        assert_eq!(host_port::missing(&ports).unwrap(), []);
        assert!(bridge_rules::hold(&bridge).unwrap(), "{listing}");
        // Of the frames of a bridge nft asks what the kernel takes them for, where we ask the frame.
        let deviations = |rules| pod_rules::deviations(rules).unwrap();
        let [routed, bridged] = &rules;
        assert_eq!(deviations(routed), [""; 0], "{listing}");
        let frames = "table bridge weft-pods has not weft's rules";
        assert_eq!(deviations(bridged), [frames], "{listing}");
        pod_rules::set(&mut Connection::open().unwrap(), bridged).unwrap();
        assert_eq!(deviations(bridged), [""; 0], "{listing}");
    });
    looked_at.unwrap();
}
