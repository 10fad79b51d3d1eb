//! Node ports: whom they lead where, and which address is kept.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use weft_desired::{Backend, Masquerade, Otherwise, Outside};
use weft_netlab::probe::{self, Outcome, TcpEcho};

use crate::frontends::{answer, at_node_ports, lab, local, nat, node_port, socket_of};
use crate::scene::SILENCE;
use crate::scene::pod::pod_addresses;

#[test]
fn a_node_port_answers_everybody_with_the_nodes_address() {
    let lab = lab();
    let _table = lab.table(&at_node_ports(&[2, 3], |_, _| {}));
    for key in node_port() {
        for client in [&lab.pods[0], &lab.node, &lab.outside] {
            let answer = answer(lab.tcp(client, socket_of(&key)));
            assert!(answer.is_masqueraded(), "{answer:?}");
        }
        // Its other ports are the node's own affair.
        let other = SocketAddr::new(key.address, 30081);
        let server = TcpEcho::start(&lab.node, &other.to_string()).unwrap();
        answer(lab.tcp(&lab.pods[0], other));
        answer(lab.tcp(&lab.outside, other));
        drop(server);
    }
}

#[test]
fn clients_outside_get_this_nodes_endpoints_and_keep_their_address() {
    let lab = lab();
    let desired = |pods: &'static [u8]| {
        at_node_ports(&[1, 2, 3], move |family, frontend| {
            frontend.outside = Some(local(family, pods));
            frontend.masquerade = Masquerade::Node;
        })
    };
    let mut table = lab.table(&desired(&[2]));
    for key in node_port() {
        for _ in 0..10 {
            let answer = answer(lab.tcp(&lab.outside, socket_of(&key)));
            assert!(
                !answer.is_masqueraded() && answer.name == "pod-2",
                "{answer:?}"
            );
        }
        for client in [&lab.pods[2], &lab.node] {
            let reached: BTreeSet<String> = (0..40)
                .map(|_| answer(lab.tcp(client, socket_of(&key))).name)
                .collect();
            assert_eq!(reached.len(), 3, "{reached:?}");
        }
    }
    // Many of them, and then none: for the others nothing changes.
    for count in [12_u8, 0] {
        let many = at_node_ports(&[1, 2, 3], |family, frontend| {
            let of = |n| Backend {
                address: pod_addresses(2)[family],
                port: 8080 + u16::from(n),
            };
            frontend.outside = Some(Outside {
                backends: std::sync::Arc::new((0..count).map(of).collect()),
                otherwise: Otherwise::Drop,
            });
            frontend.masquerade = Masquerade::Node;
        });
        let changes = many.iter().map(|(key, entry)| (*key, Some(&entry.value)));
        table.apply(changes).unwrap();
        let report = table.reconcile(&many, &nat()).unwrap();
        assert_eq!(report.elements, 0, "{report:?}");
        for key in node_port() {
            answer(lab.tcp(&lab.pods[2], socket_of(&key)));
            if count == 0 {
                let outcome = probe::tcp(&lab.outside, socket_of(&key), SILENCE).unwrap();
                assert_eq!(outcome, Outcome::TimedOut);
            }
        }
    }
}
