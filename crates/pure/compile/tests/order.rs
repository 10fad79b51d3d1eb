//! Output is a function of current state, never of history: whatever happened on the
//! way, the desired state is the one compiled afresh from the cluster as it is.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::net::IpAddr;

use proptest::prelude::*;
use weft_compile::{Compiler, Settings, Touched};
use weft_desired::{Difference, difference};
use weft_model::{
    Change, Endpoint, EndpointPort, EndpointSlice, IpFamily, Key, Node, Object, ObjectKey, Pod,
    Port, Protocol, Rejection, Service, ServiceAddress, ServicePort, ServiceType, TrafficPolicy,
    Uid,
};

fn settings() -> Settings {
    Settings {
        node: "node-0".into(),
        service_ranges: vec![
            "10.96.0.0/12".parse().unwrap(),
            "fd00:10:96::/112".parse().unwrap(),
        ],
    }
}

// A universe small enough that objects collide: the same addresses, ports and ranges.

fn key(prefix: &str, number: u8) -> ObjectKey {
    ObjectKey::new("default", &format!("{prefix}-{number}"))
}

fn pod_address(number: u8) -> IpAddr {
    IpAddr::from([10, 244, number / 2, number])
}

fn node() -> impl Strategy<Value = Node> {
    (0..3u8, 0..4u8, prop::bool::ANY, 0..4u8).prop_map(|(name, range, wide, address)| Node {
        name: format!("node-{name}").as_str().into(),
        generation: 0,
        labels: Default::default(),
        internal_ips: (address > 0)
            .then(|| IpAddr::from([172, 30, 0, 10 + address]))
            .into_iter()
            .collect(),
        pod_cidrs: vec![
            format!("10.244.{range}.0/{}", if wide { 23 } else { 24 })
                .parse()
                .unwrap(),
        ],
    })
}

fn pod() -> impl Strategy<Value = Pod> {
    (
        0..4u8,
        0..2u8,
        prop::option::of(0..4u8),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(name, node, address, host_network, finished)| Pod {
            key: key("pod", name),
            uid: format!("pod-{name}").as_str().into(),
            labels: Default::default(),
            node: Some(format!("node-{node}").as_str().into()),
            ips: address.map(pod_address).into_iter().collect(),
            host_network,
            finished,
            ready: true,
            terminating: false,
            hostname: None,
            subdomain: None,
        })
}

fn service() -> impl Strategy<Value = Service> {
    let policy = prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)];
    let kind = prop_oneof![Just(ServiceType::ClusterIP), Just(ServiceType::NodePort)];
    let about = (0..3u8, prop::option::of(0..3u8), 79..82u16, 0..2i64);
    (about, kind, policy).prop_map(
        |((name, address, port, created), service_type, internal_traffic_policy)| Service {
            key: key("service", name),
            uid: format!("service-{name}").as_str().into(),
            generation: 1,
            created,
            service_type,
            address: match address {
                Some(number) => ServiceAddress::Virtual(vec![IpAddr::from([10, 96, 0, number])]),
                None => ServiceAddress::Headless,
            },
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: Port::new(port).unwrap(),
            }],
            publish_not_ready: false,
            internal_traffic_policy,
        },
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    (0..6u8, conditions, prop::option::of(0..3u8)).prop_map(
        |(address, (ready, serving, terminating), node)| Endpoint {
            addresses: vec![pod_address(address)],
            ready: ready && !terminating,
            serving,
            terminating,
            node: node.map(|node| format!("node-{node}").as_str().into()),
            zone: None,
            hostname: None,
            pod: None,
        },
    )
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    (0..4u8, 0..3u8, prop::collection::vec(endpoint(), 0..4)).prop_map(
        |(name, service, endpoints)| EndpointSlice {
            key: key("slice", name),
            generation: 1,
            service: key("service", service),
            family: IpFamily::V4,
            ports: vec![EndpointPort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: Port::new(8080).unwrap(),
            }],
            endpoints,
        },
    )
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        node().prop_map(Object::Node),
        pod().prop_map(Object::Pod),
        service().prop_map(Object::Service),
        slice().prop_map(Object::EndpointSlice),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    (object(), 0..6u8).prop_map(|(object, what)| match what {
        0 => Change::Delete(object.key()),
        1 => Change::Reject(
            object.key(),
            Rejection {
                field: "spec".to_owned(),
                reason: "\"x\" is not y".to_owned(),
            },
        ),
        _ => Change::Put(object),
    })
}

/// The cluster of `compiler`, object by object.
fn content(compiler: &Compiler) -> Vec<Change> {
    let cluster = compiler.cluster();
    let put = |object| Change::Put(object);
    cluster
        .nodes()
        .cloned()
        .map(Object::Node)
        .map(put)
        .chain(cluster.pods().cloned().map(Object::Pod).map(put))
        .chain(cluster.services().cloned().map(Object::Service).map(put))
        .chain((0..4).filter_map(|number| {
            cluster
                .slice(&key("slice", number))
                .cloned()
                .map(Object::EndpointSlice)
                .map(put)
        }))
        .chain(
            cluster
                .rejected()
                .map(|(key, rejection)| Change::Reject(key.clone(), rejection.clone())),
        )
        .collect()
}

fn compiled(changes: Vec<Change>) -> Compiler {
    let mut compiler = Compiler::new(settings());
    for change in changes {
        compiler.apply(change);
    }
    compiler
}

fn assert_same(one: &Compiler, other: &Compiler) {
    assert_eq!(one.desired(), other.desired());
    assert_eq!(one.problems(), other.problems());
}

/// A frontend that goes from one Service to another and back within one batch is as it was.
#[test]
fn a_claim_lost_and_won_back_in_one_batch_is_no_change() {
    let service = |number: u8, created: i64| {
        let key = key("service", number);
        Change::Put(Object::Service(Service {
            uid: Uid::from(&*key.name),
            key,
            generation: 1,
            created,
            service_type: ServiceType::ClusterIP,
            address: ServiceAddress::Virtual(vec!["10.96.0.1".parse().unwrap()]),
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: Port::new(80).unwrap(),
            }],
            publish_not_ready: false,
            internal_traffic_policy: TrafficPolicy::Cluster,
        }))
    };
    let mut compiler = compiled(vec![service(1, 0), service(2, 0)]);
    let gone = Change::Delete(Key::Service(key("service", 2)));
    let touched = compiler.apply_all([service(1, 1), gone]);
    assert_eq!(touched, Touched::default());
}

proptest! {
    #[test]
    fn any_history_ends_in_the_state_compiled_afresh(changes in prop::collection::vec(change(), 0..40)) {
        let lived = compiled(changes);
        let mut objects = content(&lived);
        assert_same(&lived, &compiled(objects.clone()));
        objects.reverse();
        assert_same(&lived, &compiled(objects.clone()));
        let mut merged = Compiler::new(settings());
        merged.apply_all(objects);
        assert_same(&lived, &merged);
    }

    #[test]
    fn changes_taken_together_name_what_they_made_different(
        first in prop::collection::vec(change(), 0..20),
        together in prop::collection::vec(change(), 0..10),
    ) {
        let mut compiler = compiled(first.clone());
        let before = compiler.desired().clone();
        let touched = compiler.apply_all(together.clone());
        let after = compiler.desired();
        prop_assert_eq!(
            touched.frontends,
            keys(&difference(&before.frontends, &after.frontends, |a, b| a == b))
        );
        prop_assert_eq!(
            touched.routes,
            keys(&difference(&before.routes, &after.routes, |a, b| a == b))
        );
        prop_assert!(touched.nat || before.nat == after.nat);
        assert_same(&compiler, &compiled([first, together].concat()));
    }

    #[test]
    fn a_change_names_exactly_what_it_made_different(
        changes in prop::collection::vec(change(), 0..30),
        last in change(),
    ) {
        let mut compiler = compiled(changes);
        let before = compiler.desired().clone();
        let touched = compiler.apply(last.clone());
        let after = compiler.desired();
        let expected = Touched {
            frontends: keys(&difference(&before.frontends, &after.frontends, |a, b| a == b)),
            routes: keys(&difference(&before.routes, &after.routes, |a, b| a == b)),
            nat: touched.nat,
            own_node: touched.own_node,
        };
        prop_assert_eq!(&touched, &expected);
        prop_assert!(touched.nat || before.nat == after.nat);
        prop_assert!(!touched.own_node || last.key() == Key::Node("node-0".into()));
    }
}

fn keys<K: Ord + Copy, A, D>(steps: &[Difference<'_, K, A, D>]) -> std::collections::BTreeSet<K> {
    steps
        .iter()
        .map(|step| match step {
            Difference::Add(key, _)
            | Difference::Change(key, _, _)
            | Difference::Remove(key, _) => **key,
        })
        .collect()
}
