//! What becomes of connections whose endpoint is gone.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use weft_desired::{Backend, Frontend, Protocol};
use weft_kernel::flow::{Ending, Kept};
use weft_netlab::{Namespace, probe};

use crate::frontends::{answer, at, frontend, frontends, key, lab, service};
use crate::scene::pod::pod_addresses;
use crate::scene::{PATIENCE, SILENCE};

/// Clients that have nothing to send wait for what never comes, and are told.
#[test]
fn connections_to_an_endpoint_that_is_gone_are_reset_at_once() {
    let lab = lab();
    let label = "default/web:http";
    let mut table = lab.table(&frontends(&[(10, label, &[1]), (11, label, &[1])]));
    let mut ending = lab.node.run(|| Ending::open(true)).unwrap().unwrap();
    let connect = |from: &Namespace, to: SocketAddr| {
        let stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE));
        let stream = stream.unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    // Those servers close after a line; this one says nothing.
    let silent = |pod: &Namespace, address: IpAddr| {
        let at = SocketAddr::new(address, 9090);
        pod.run(|| TcpListener::bind(at)).unwrap().unwrap()
    };
    let mut listeners = Vec::new();
    for (family, (first, second)) in service(10).into_iter().zip(service(11)).enumerate() {
        let backend = |pod: u8| Backend {
            address: pod_addresses(pod)[family],
            port: 9090,
        };
        let at_silent = |pod| Frontend::new(label.into(), [backend(pod)].into());
        for pod in [1, 2] {
            let address = pod_addresses(pod)[family];
            listeners.push(silent(&lab.pods[usize::from(pod) - 1], address));
        }
        let (first, second) = (key(first, Protocol::Tcp), key(second, Protocol::Tcp));
        table
            .apply([(first, Some(&at_silent(1))), (second, Some(&at_silent(1)))])
            .unwrap();
        let clients = [&lab.pods[2], &lab.outside, &lab.node];
        // One packet decides, and a link that has just been made does not carry the first.
        let neighbour = SocketAddr::new(pod_addresses(2)[family], 8080);
        assert!(lab.tcp(&lab.pods[2], neighbour).is_answered());
        let open: Vec<_> = clients
            .iter()
            .map(|from| connect(from, at(first.address)))
            .collect();
        let kept = connect(&lab.pods[2], at(second.address));
        let report = table.apply([(first, Some(&at_silent(2)))]).unwrap();
        assert_eq!(ending.end(&report.gone).unwrap(), 3, "{report:?}");
        assert_reset(open);
        let open: Vec<_> = clients
            .iter()
            .map(|from| connect(from, at(first.address)))
            .collect();
        let none = Frontend::new(label.into(), BTreeSet::new());
        let report = table.apply([(first, Some(&none))]).unwrap();
        assert_eq!(ending.end(&report.gone).unwrap(), 3, "{report:?}");
        assert_reset(open);
        // What went while nobody looked is found by what there is.
        let there = |pod| Kept::from([(second, BTreeSet::from([backend(pod)]))]);
        assert_eq!(end_others(&mut ending, &there(1)), 0);
        kept.set_read_timeout(Some(SILENCE)).unwrap();
        let waiting = (&kept).read(&mut [0]).unwrap_err();
        assert_eq!(waiting.kind(), ErrorKind::WouldBlock);
        table.apply([(second, Some(&at_silent(2)))]).unwrap();
        // It is no other where the endpoint came meanwhile.
        let others = ending.others(&there(2)).unwrap();
        assert_eq!(ending.end_others(&others, &there(1)).unwrap(), 0);
        assert_eq!(end_others(&mut ending, &there(2)), 1);
        kept.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_reset(vec![kept]);
    }
}

fn end_others(ending: &mut Ending, kept: &Kept) -> usize {
    let others = ending.others(kept).unwrap();
    ending.end_others(&others, kept).unwrap()
}

#[track_caller]
fn assert_reset(open: Vec<TcpStream>) {
    for stream in open {
        let read = (&stream).read(&mut [0]);
        let error = read.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{stream:?}");
    }
}

/// Datagrams whose endpoint went while no agent ran.
#[test]
fn datagrams_that_go_where_no_frontend_leads_are_found_without_being_told() {
    let lab = lab();
    let mut table = lab.table(&frontends(&[(10, "default/web:http", &[1])]));
    let mut ending = lab.node.run(|| Ending::open(false)).unwrap().unwrap();
    for (family, address) in service(10).into_iter().enumerate() {
        let key = key(address, Protocol::Udp);
        let from = ["10.244.3.2", "fd00:10:244:3::2"][family].parse().unwrap();
        let from = SocketAddr::new(from, 7777);
        let ask = || answer(probe::udp_from(&lab.pods[2], from, at(address), PATIENCE).unwrap());
        assert_eq!(ask().name, "pod-1");
        let next = frontend("default/web:http", family, &[2]);
        table.apply([(key, Some(&next))]).unwrap();
        assert_eq!(ask().name, "pod-1");
        let kept = Kept::from([(key, (*next.backends).clone())]);
        assert_eq!(end_others(&mut ending, &kept), 1);
        assert_eq!(ask().name, "pod-2");
        assert_eq!(end_others(&mut ending, &kept), 0);
    }
}
