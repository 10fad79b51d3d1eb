//! `loadBalancerSourceRanges`.

use weft_netlab::probe::{self, Outcome};

use crate::frontends::{answer, at_node_ports, lab, nat, nets, node_port, socket_of};
use crate::scene::{PATIENCE, SILENCE};

#[test]
fn only_sources_in_the_ranges_are_admitted() {
    let lab = lab();
    let desired = |admitted: [&'static str; 2]| {
        at_node_ports(&[2], move |family, frontend| {
            let nested = ["192.0.2.0/24", "2001:db8::/32"][family];
            let ranges = [admitted[family], nested].map(|range| range.parse().unwrap());
            frontend.sources = Some(std::sync::Arc::new(ranges.into()));
        })
    };
    let pods = desired(["10.244.1.0/24", "fd00:10:244:1::/64"]);
    let mut table = lab.table(&pods);
    for key in node_port() {
        answer(lab.tcp(&lab.pods[0], socket_of(&key)));
        for client in [&lab.pods[1], &lab.outside] {
            let outcome = probe::tcp(client, socket_of(&key), SILENCE).unwrap();
            assert_eq!(outcome, Outcome::TimedOut, "{}", client.name());
        }
    }
    let outside = desired(["172.30.0.0/29", "fd00:172:30::/120"]);
    let changes = outside
        .iter()
        .map(|(key, entry)| (*key, Some(&entry.value)));
    table.apply(changes).unwrap();
    for key in node_port() {
        answer(lab.tcp(&lab.outside, socket_of(&key)));
        let outcome = probe::tcp(&lab.pods[0], socket_of(&key), SILENCE).unwrap();
        assert_eq!(outcome, Outcome::TimedOut);
    }
    assert_eq!(table.reconcile(&outside, &nat()).unwrap().elements, 0);
    let listing = lab.list();
    assert!(
        listing.contains("172.30.0.11 . tcp . 30080 . 172.30.0.0/29"),
        "{listing}"
    );
}

/// The kernel takes no range that overlaps one that is there.
#[test]
fn ranges_of_sources_are_narrowed_widened_and_merged() {
    let lab = lab();
    let desired = |ranges: [&'static [&'static str]; 2]| {
        at_node_ports(&[2], move |family, frontend| {
            frontend.sources = Some(std::sync::Arc::new(nets(ranges[family])));
        })
    };
    let wide: [&[&str]; 2] = [&["10.0.0.0/8"], &["fd00:10::/32"]];
    let narrow: [&[&str]; 2] = [&["10.244.1.0/24"], &["fd00:10:244:1::/64"]];
    let apart: [&[&str]; 2] = [
        &["10.0.0.0/10", "10.128.0.0/9"],
        &["fd00:10::/34", "fd00:10:8000::/33"],
    ];
    let halves: [&[&str]; 2] = [
        &["10.0.0.0/9", "10.128.0.0/9"],
        &["fd00:10::/33", "fd00:10:8000::/33"],
    ];
    let mut table = lab.table(&desired(wide));
    for (ranges, admitted) in [
        (narrow, false),
        (wide, true),
        (apart, true),
        (halves, true),
        (narrow, false),
    ] {
        let desired = desired(ranges);
        let changes = desired
            .iter()
            .map(|(key, entry)| (*key, Some(&entry.value)));
        table.apply(changes).unwrap();
        assert_eq!(table.reconcile(&desired, &nat()).unwrap().elements, 0);
        for key in node_port() {
            answer(lab.tcp(&lab.pods[0], socket_of(&key)));
            let patience = if admitted { PATIENCE } else { SILENCE };
            let outcome = probe::tcp(&lab.pods[2], socket_of(&key), patience).unwrap();
            assert_eq!(outcome != Outcome::TimedOut, admitted, "{ranges:?}");
        }
    }
}

#[test]
fn sources_are_there_as_soon_as_there_are_endpoints() {
    let lab = lab();
    let desired = |pods: &'static [u8]| {
        at_node_ports(pods, |family, frontend| {
            let range = ["10.244.1.0/24", "fd00:10:244:1::/64"][family];
            frontend.sources = Some(std::sync::Arc::new(nets(&[range])));
            frontend.affinity = Some(10_800);
        })
    };
    let mut table = lab.table(&desired(&[]));
    for pods in [&[2][..], &[], &[2]] {
        let desired = desired(pods);
        let changes = desired
            .iter()
            .map(|(key, entry)| (*key, Some(&entry.value)));
        table.apply(changes).unwrap();
        let report = table.reconcile(&desired, &nat()).unwrap();
        assert_eq!(report.elements, 0, "{pods:?}: {report:?}");
    }
    for key in node_port() {
        answer(lab.tcp(&lab.pods[0], socket_of(&key)));
    }
}
