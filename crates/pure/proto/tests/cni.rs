//! The CNI codec: every version, every error, every field.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use proptest::prelude::*;
use serde_json::{Value, json};
use weft_proto::cni::{
    Attach, Code, Environment, Error, Link, Refusal, Request, Version, exercise, version_answer,
};

fn environment(changes: &[(&str, &str)]) -> Environment {
    let mut variables = BTreeMap::from([
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/c1"),
    ]);
    variables.extend(changes.iter().copied());
    Environment::read(|name| variables.get(name).map(OsString::from)).unwrap()
}

fn config() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "weft",
        "type": "weft",
        "ipam": {"type": "weft", "ranges": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
    })
}

/// The configuration with `value` at `path` (JSON pointer); null removes.
fn with(path: &str, value: Value) -> Value {
    let mut config = config();
    let (parent, key) = path.rsplit_once('/').unwrap();
    let parent = config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        parent.remove(key);
    } else {
        parent.insert(key.to_owned(), value);
    }
    config
}

/// The same where pods are on a bridge.
fn bridged(path: &str, value: Value) -> Value {
    let mut config = with(path, value);
    config["link"] = json!("bridge");
    config
}

/// The same behind a plugin that made the interface.
fn passing(path: &str, value: Value) -> Value {
    let mut config = with(path, value);
    config["link"] = json!("none");
    config.as_object_mut().unwrap().remove("ipam");
    if path != "/prevResult" {
        config["prevResult"] =
            json!({"interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}]});
    }
    config
}

fn parse(environment: &Environment, config: &Value) -> Result<Request, Refusal> {
    Request::parse(environment, config.to_string().as_bytes())
}

fn add(config: &Value) -> Attach {
    match parse(&environment(&[]), config).unwrap() {
        Request::Add(attach) => *attach,
        other => panic!("{other:?}"),
    }
}

fn refused(environment: &Environment, config: &Value) -> Error {
    parse(environment, config).unwrap_err().error
}

#[test]
fn a_plain_add_is_read_whole() {
    let attach = match parse(
        &environment(&[(
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u1",
        )]),
        &with("/mtu", json!(1450)),
    ) {
        Ok(Request::Add(attach)) => attach,
        other => panic!("{other:?}"),
    };
    assert_eq!(attach.key.to_string(), "c1/eth0");
    assert_eq!(attach.netns, "/run/netns/c1");
    assert_eq!(attach.mtu, 1450);
    assert_eq!(attach.config.data_dir, "/var/lib/cni/networks");
    assert_eq!(attach.config.state_dir, "/run/weft");
    let pod = attach.pod.unwrap();
    assert_eq!(
        (&*pod.namespace, &*pod.name, &*pod.uid),
        ("default", "web-0", "u1")
    );
    let bounds: Vec<String> = attach
        .ipam
        .sets
        .iter()
        .flat_map(|set| &set.ranges)
        .map(|range| format!("{}-{}", range.first, range.last))
        .collect();
    assert_eq!(
        bounds,
        [
            "10.244.1.1-10.244.1.254",
            "fd00:10:244:1::1-fd00:10:244:1:ffff:ffff:ffff:ffff"
        ]
    );
    assert!(attach.config.remarks.is_empty());
}

#[test]
fn a_bridge_is_read_whole() {
    let read = |config: &Value| match add(config).link {
        Link::Bridge(bridge) => bridge,
        Link::Routed | Link::Absent => panic!("{config}"),
    };
    let words = |bridge: &weft_proto::cni::Bridge| -> Vec<String> {
        bridge.gateways.iter().map(ToString::to_string).collect()
    };
    let plain = read(&bridged("/ingressPolicy", json!("open")));
    assert_eq!((plain.name.as_str(), plain.isolated), ("cni0", false));
    assert_eq!(words(&plain), ["10.244.1.1/24", "fd00:10:244:1::1/64"]);
    let mut config = bridged(
        "/ipam/ranges",
        json!([[
            {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.19"},
            {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.30"},
            {"subnet": "10.2.0.0/16", "gateway": "10.2.0.7"},
        ]]),
    );
    config["bridge"] = json!("pods");
    config["ingressPolicy"] = json!("same-bridge");
    let other = read(&config);
    assert_eq!((other.name.as_str(), other.isolated), ("pods", true));
    assert_eq!(words(&other), ["10.1.0.1/24", "10.2.0.7/16"]);
    for gateway in ["10.1.0.1", "10.2.0.7"] {
        assert!(
            add(&config)
                .ipam
                .reserved
                .contains(&gateway.parse().unwrap())
        );
    }
    assert_eq!(add(&with("/link", json!("routed"))).link, Link::Routed);
    assert_eq!(add(&with("/link", Value::Null)).link, Link::Routed);
}

#[test]
fn every_wrong_variable_is_named_with_code_4() {
    for (name, value) in [
        ("CNI_COMMAND", ""),
        ("CNI_COMMAND", "add"),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../x"),
        ("CNI_CONTAINERID", "-x"),
        ("CNI_CONTAINERID", &"x".repeat(201)),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "lo"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "0123456789abcdef"),
        ("CNI_NETNS", ""),
        ("CNI_ARGS", "K8S_POD_NAME"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=x"),
        ("CNI_ARGS", "IP=10.244.1"),
        ("CNI_ARGS", "IP=10.244.1.7,10.244.1.8"),
        ("CNI_ARGS", "MAC=02:00"),
    ] {
        let error = refused(&environment(&[(name, value)]), &config());
        assert_eq!(error.code, Code::InvalidEnvironment, "{name}={value}");
        assert!(error.message.starts_with(name), "{error}");
    }
    let error = Environment::read(|_| Some(OsString::from_vec(vec![0xff]))).unwrap_err();
    assert_eq!(error.code, Code::InvalidEnvironment);
}

#[test]
fn every_wrong_field_is_named_with_its_code() {
    let range = |value: Value| with("/ipam/ranges", json!([value]));
    for (config, code, start) in [
        (json!(17), Code::Decode, "the configuration:"),
        (with("/cniVersion", json!(1)), Code::Decode, "cniVersion:"),
        (
            with("/cniVersion", json!("0.2.0")),
            Code::IncompatibleVersion,
            "cniVersion:",
        ),
        (
            with("/cniVersion", Value::Null),
            Code::IncompatibleVersion,
            "cniVersion:",
        ),
        (
            with("/cniVersion", json!("2.0.0")),
            Code::IncompatibleVersion,
            "cniVersion:",
        ),
        (with("/name", Value::Null), Code::InvalidConfig, "name:"),
        (with("/name", json!("a/b")), Code::InvalidConfig, "name:"),
        (with("/name", json!({})), Code::Decode, "name:"),
        (
            with("/stateDir", json!("here")),
            Code::InvalidConfig,
            "stateDir:",
        ),
        (with("/mtu", json!("1500")), Code::Decode, "mtu:"),
        (with("/mtu", json!(-1)), Code::Decode, "mtu:"),
        (with("/mtu", json!(1279)), Code::InvalidConfig, "mtu:"),
        (with("/mtu", json!(65536)), Code::InvalidConfig, "mtu:"),
        (
            with("/nodeAddresses", json!(["x"])),
            Code::InvalidConfig,
            "nodeAddresses[0]:",
        ),
        (
            with("/nodeAddresses", json!(["10.244.1.1"])),
            Code::InvalidConfig,
            "nodeAddresses[0]:",
        ),
        (
            with("/nodeAddresses", json!(["10.0.0.1", "10.0.0.2"])),
            Code::InvalidConfig,
            "nodeAddresses[1]:",
        ),
        (
            with("/runtimeConfig", json!([])),
            Code::Decode,
            "runtimeConfig:",
        ),
        (
            with(
                "/runtimeConfig",
                json!({"portMappings": [{"hostPort": 80}]}),
            ),
            Code::InvalidConfig,
            "runtimeConfig.portMappings[0].containerPort:",
        ),
        (
            with(
                "/runtimeConfig",
                json!({"portMappings": [{"hostPort": 80, "containerPort": 65536}]}),
            ),
            Code::InvalidConfig,
            "runtimeConfig.portMappings[0].containerPort: 65536",
        ),
        (
            with(
                "/runtimeConfig",
                json!({"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}]}),
            ),
            Code::InvalidConfig,
            "runtimeConfig.portMappings[0].protocol: \"icmp\"",
        ),
        (
            with("/runtimeConfig", json!({"mac": "01:00:5e:00:00:01"})),
            Code::InvalidConfig,
            "runtimeConfig.mac: \"01:00:5e:00:00:01\" is the address of a group",
        ),
        (
            with("/runtimeConfig", json!({"mac": "02:00:5e:00:00"})),
            Code::InvalidConfig,
            "runtimeConfig.mac: \"02:00:5e:00:00\" is not an Ethernet address",
        ),
        (
            with("/args", json!({"cni": {"ips": ["10.9.0.1"]}})),
            Code::InvalidConfig,
            "args.cni.ips[0]: 10.9.0.1 is in none of ipam.ranges",
        ),
        (
            with("/sysctl", json!({"net.ipv4.ip_forward": 1})),
            Code::Decode,
            "sysctl.net.ipv4.ip_forward: must be a string",
        ),
        (
            with(
                "/ipam/routes",
                json!([{"dst": "10.0.0.0/8", "gw": "10.0.0.1"}]),
            ),
            Code::UnsupportedField,
            "ipam.routes[0].gw:",
        ),
        (
            with("/ipam/exclude", json!(["10.244.0.0/16"])),
            Code::InvalidConfig,
            "ipam.exclude[0]: 10.244.0.0/16 has more than 4096 addresses",
        ),
        (
            with("/runtimeConfig", json!({"deviceID": "0000:01:00.0"})),
            Code::UnsupportedField,
            "runtimeConfig.deviceID:",
        ),
        (with("/link", json!(1)), Code::Decode, "link:"),
        (
            with("/link", json!("macvlan")),
            Code::InvalidConfig,
            "link: \"macvlan\" is none of",
        ),
        (
            with("/bridge", json!("cni0")),
            Code::InvalidConfig,
            "bridge: a routed link has none",
        ),
        (
            with("/ingressPolicy", json!("open")),
            Code::InvalidConfig,
            "ingressPolicy: a routed link has none",
        ),
        (
            bridged("/bridge", json!("a/b")),
            Code::InvalidConfig,
            "bridge: \"a/b\" may not hold",
        ),
        (
            bridged("/ingressPolicy", json!("isolated")),
            Code::UnsupportedField,
            "ingressPolicy: \"isolated\"",
        ),
        (
            bridged("/ingressPolicy", json!(true)),
            Code::Decode,
            "ingressPolicy:",
        ),
        (
            bridged(
                "/ipam/ranges",
                json!([
                    {"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.9", "gateway": "10.1.0.1"},
                    {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.20", "gateway": "10.1.0.2"},
                ]),
            ),
            Code::InvalidConfig,
            "ipam.ranges: 10.1.0.1 and 10.1.0.2 are both gateways of 10.1.0.0/24",
        ),
        (
            bridged("/args", json!({"cni": {"ips": ["10.244.1.1"]}})),
            Code::InvalidConfig,
            "args.cni.ips[0]: 10.244.1.1 is excluded",
        ),
        (
            with("/link", json!("none")),
            Code::InvalidConfig,
            "ipam: the plugin that made the link",
        ),
        (
            passing("/antiSpoofing", json!(true)),
            Code::InvalidConfig,
            "antiSpoofing: weft has it for links that it makes",
        ),
        (
            passing("/runtimeConfig", json!({"bandwidth": {"egressRate": 8}})),
            Code::InvalidConfig,
            "runtimeConfig.bandwidth: weft has it",
        ),
        (
            passing("/prevResult", Value::Null),
            Code::InvalidConfig,
            "link: it is none, and no plugin",
        ),
        (with("/ipam", Value::Null), Code::InvalidConfig, "ipam:"),
        (with("/ipam", json!("weft")), Code::Decode, "ipam:"),
        (
            with("/ipam/type", Value::Null),
            Code::InvalidConfig,
            "ipam.type:",
        ),
        (
            with("/ipam/type", json!("dhcp")),
            Code::UnsupportedField,
            "ipam.type: \"dhcp\"",
        ),
        (
            with("/ipam/dataDir", json!("x")),
            Code::InvalidConfig,
            "ipam.dataDir:",
        ),
        (
            with("/ipam/exclude", json!(["x"])),
            Code::InvalidConfig,
            "ipam.exclude[0]:",
        ),
        (
            with("/ipam/ranges", Value::Null),
            Code::InvalidConfig,
            "ipam.ranges",
        ),
        (
            with("/ipam/ranges", json!([])),
            Code::InvalidConfig,
            "ipam.ranges",
        ),
        (
            with("/ipam/ranges", json!("10.0.0.0/8")),
            Code::Decode,
            "ipam.ranges:",
        ),
        (range(json!(7)), Code::Decode, "ipam.ranges[0]:"),
        (
            range(json!("10.0.0.0")),
            Code::InvalidConfig,
            "ipam.ranges[0]:",
        ),
        (
            range(json!("10.0.0.1/24")),
            Code::InvalidConfig,
            "ipam.ranges[0]:",
        ),
        (range(json!([])), Code::InvalidConfig, "ipam.ranges[0]:"),
        (range(json!([[]])), Code::Decode, "ipam.ranges[0][0]:"),
        (
            range(json!({})),
            Code::InvalidConfig,
            "ipam.ranges[0].subnet:",
        ),
        (
            range(json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"})),
            Code::InvalidConfig,
            "ipam.ranges[0].rangeStart:",
        ),
        (
            range(
                json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}),
            ),
            Code::InvalidConfig,
            "ipam.ranges[0]:",
        ),
        (
            with("/ipam/ranges", json!(["10.0.0.0/16", "10.0.9.0/24"])),
            Code::InvalidConfig,
            "ipam.ranges[1]:",
        ),
        (
            with("/ipam/ranges", json!([["10.0.0.0/24"], ["10.1.0.0/24"]])),
            Code::InvalidConfig,
            "ipam.ranges[1]:",
        ),
        (
            with("/ipam/ranges", json!([["10.0.0.0/24", "fd00::/64"]])),
            Code::InvalidConfig,
            "ipam.ranges[0][1]:",
        ),
        (
            with("/prevResult", json!({"interfaces": [{}]})),
            Code::InvalidConfig,
            "prevResult.interfaces[0].name:",
        ),
        (
            with("/prevResult", json!({"ips": [{"address": "10.0.0.1"}]})),
            Code::InvalidConfig,
            "prevResult.ips[0].address:",
        ),
        (
            with(
                "/prevResult",
                json!({"ips": [{"address": "10.0.0.1/24", "interface": 0}]}),
            ),
            Code::InvalidConfig,
            "prevResult.ips[0].interface:",
        ),
        (
            with(
                "/prevResult",
                json!({"ips": [{"address": "10.0.0.1/24", "version": "6"}]}),
            ),
            Code::InvalidConfig,
            "prevResult.ips[0].version:",
        ),
        (
            with(
                "/prevResult",
                json!({"routes": [{"dst": "0.0.0.0/0", "gw": "me"}]}),
            ),
            Code::InvalidConfig,
            "prevResult.routes[0].gw:",
        ),
        (
            with("/dns", json!({"search": [1]})),
            Code::Decode,
            "dns.search[0]:",
        ),
    ] {
        let error = refused(&environment(&[]), &config);
        assert_eq!(error.code, code, "{config}: {error}");
        assert!(error.message.starts_with(start), "{start} | {error}");
    }
    for input in ["", " \n", "{", "\u{0}", "{}{}"] {
        let error = Request::parse(&environment(&[]), input.as_bytes())
            .unwrap_err()
            .error;
        assert_eq!(error.code, Code::Decode, "{input:?}");
        assert!(error.message.starts_with("standard input:"), "{error}");
    }
}

#[test]
fn unknown_fields_are_reported_with_their_path() {
    let mut config = with("/mtuu", json!(1));
    config["ipam"]["ranges"] = json!([{"subnet": "10.0.0.0/24", "gatway": "10.0.0.1"}]);
    config["ipam"]["x"] = json!(null);
    config["args"] = json!({"cni": {"labels": []}, "other": {}});
    config["capabilities"] = json!({"ips": true});
    config["runtimeConfig"] = json!({"portMappings": [], "bandwidth": {}});
    let fields: Vec<String> = add(&config)
        .config
        .remarks
        .into_iter()
        .map(|remark| remark.field)
        .collect();
    assert_eq!(
        fields,
        [
            "ipam.ranges[0].gatway",
            "ipam.x",
            "args.cni.labels",
            "args.other",
            "mtuu"
        ]
    );
}

#[test]
fn known_fields_without_effect_are_reported_with_their_path() {
    let words = |config: &Value| -> Vec<String> {
        let remarks = add(config).config.remarks;
        remarks.iter().map(ToString::to_string).collect()
    };
    let others = "has no effect with link none: it is for the plugin that makes the link";
    for (field, value) in [
        ("mtu", json!(1450)),
        ("dns", json!({"domain": "cluster.local"})),
    ] {
        let expected = [format!("{field} {others}")];
        assert_eq!(
            words(&passing(&format!("/{field}"), value.clone())),
            expected
        );
        assert_eq!(words(&with(&format!("/{field}"), value)), [""; 0]);
    }
    let mut config = config();
    config["ipam"]["exclude"] = json!(["10.244.1.1", "10.244.2.0/28", "10.244.0.0/20"]);
    config["ipam"]["reserve"] = json!(["fd00:10:244:2::9", "fd00:10:244:1::9"]);
    config["runtimeConfig"] = json!({"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "hostIp": "", "range": 2},
    ]});
    assert_eq!(
        words(&config),
        [
            "ipam.exclude[1] has no effect: 10.244.2.0/28 is in none of ipam.ranges",
            "ipam.reserve[0] has no effect: fd00:10:244:2::9/128 is in none of ipam.ranges",
            "runtimeConfig.portMappings[0].range is not known and has no effect",
        ]
    );
}

#[test]
fn ranges_outside_of_lists_are_gathered_by_family() {
    let config = with(
        "/ipam/ranges",
        json!([
            "fd00::/64",
            {"subnet": "10.0.0.0/24", "gateway": "10.0.0.1", "rangeEnd": "10.0.0.9"},
            "10.9.0.0/31",
            "10.8.0.5/32",
        ]),
    );
    let ipam = add(&config).ipam;
    assert_eq!(ipam.sets.len(), 2);
    assert!(!ipam.sets[0].is_ipv4());
    assert_eq!(ipam.sets[1].size(), 9 + 2 + 1);
    assert!(ipam.reserved.contains(&"10.0.0.1".parse().unwrap()));
    assert!(ipam.sets[1].contains("10.9.0.0".parse().unwrap()));
    let everything = with("/ipam/ranges", json!(["0.0.0.0/0", "::/0"]));
    assert_eq!(add(&everything).ipam.sets[1].size(), u128::MAX);
}

#[test]
fn commands_that_came_later_are_refused_in_older_versions() {
    for version in Version::ALL {
        let mut config = with("/cniVersion", json!(version.as_str()));
        config["prevResult"] = json!({});
        config["cni.dev/valid-attachments"] = json!([]);
        for (command, since) in [
            ("ADD", Version::V0_3_0),
            ("DEL", Version::V0_3_0),
            ("CHECK", Version::V0_4_0),
            ("GC", Version::V1_1_0),
            ("STATUS", Version::V1_1_0),
        ] {
            let result = parse(&environment(&[("CNI_COMMAND", command)]), &config);
            match result {
                Ok(request) => {
                    assert!(version >= since, "{command} {version}");
                    assert_eq!(request.version(), version);
                }
                Err(refusal) => {
                    assert!(version < since, "{command} {version}: {}", refusal.error);
                    assert_eq!(refusal.error.code, Code::IncompatibleVersion);
                    assert_eq!(refusal.version, version);
                }
            }
        }
    }
}

#[test]
fn del_needs_little() {
    let environment = environment(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]);
    let config = json!({"cniVersion": "1.0.0", "name": "weft", "type": "weft", "mtu": "x"});
    match parse(&environment, &config).unwrap() {
        Request::Del(detach) => assert_eq!(detach.netns, None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn check_and_gc_refuse_to_guess() {
    let error = refused(&environment(&[("CNI_COMMAND", "CHECK")]), &config());
    assert_eq!(
        (error.code, &*error.message),
        (Code::InvalidConfig, "prevResult: is missing")
    );
    let gc = environment(&[("CNI_COMMAND", "GC")]);
    let error = refused(&gc, &config());
    assert!(
        error.message.starts_with("cni.dev/valid-attachments:"),
        "{error}"
    );
    let mut config = config();
    config["cni.dev/valid-attachments"] = json!([
        {"containerID": "c1", "ifname": "eth0"},
        {"containerID": "c1", "ifname": "lo"},
    ]);
    match parse(&gc, &config).unwrap() {
        Request::Gc(collect) => assert_eq!(collect.valid.len(), 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn version_is_answered_whatever_comes_in() {
    let environment = environment(&[("CNI_COMMAND", "VERSION")]);
    for (input, version) in [
        ("", "1.1.0"),
        ("{", "1.1.0"),
        ("{\"cniVersion\":\"0.4.0\"}", "0.4.0"),
        ("{\"cniVersion\":\"9.0.0\"}", "1.1.0"),
    ] {
        let request = Request::parse(&environment, input.as_bytes()).unwrap();
        let answer: Value = serde_json::from_str(&version_answer(request.version())).unwrap();
        assert_eq!(answer["cniVersion"], version);
        assert_eq!(
            answer["supportedVersions"],
            json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
        );
    }
}

#[test]
fn results_have_the_shape_of_their_version() {
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "weft0", "mac": "02:00:00:00:00:01", "mtu": 1500},
            {"name": "eth0", "sandbox": "/run/netns/c1", "socketPath": "/s", "pciID": "p"},
        ],
        "ips": [{"address": "10.244.1.5/32", "gateway": "169.254.1.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1", "mtu": 1400, "advmss": 1360,
                    "priority": 10, "table": 254, "scope": 0}],
        "dns": {"nameservers": ["10.96.0.10"], "domain": "d", "search": ["s"], "options": ["o"]},
    });
    // A further interface: the one that is there keeps its name for itself.
    let add = |config: &Value| match parse(&environment(&[("CNI_IFNAME", "net1")]), config) {
        Ok(Request::Add(attach)) => *attach,
        other => panic!("{other:?}"),
    };
    let attach = add(&with("/prevResult", previous.clone()));
    assert!(attach.config.remarks.is_empty());
    let result = attach.previous.unwrap();
    assert_eq!(result.to_value(Version::V1_1_0), previous);

    let mut older = previous;
    older["cniVersion"] = json!("1.0.0");
    older["interfaces"][0]
        .as_object_mut()
        .unwrap()
        .remove("mtu");
    for key in ["socketPath", "pciID"] {
        older["interfaces"][1].as_object_mut().unwrap().remove(key);
    }
    older["routes"] = json!([{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]);
    assert_eq!(result.to_value(Version::V1_0_0), older);

    older["ips"][0]["version"] = json!("4");
    for version in [Version::V0_4_0, Version::V0_3_1, Version::V0_3_0] {
        older["cniVersion"] = json!(version.as_str());
        assert_eq!(result.to_value(version), older);
        let again = add(&with("/prevResult", older.clone())).previous.unwrap();
        assert_eq!(again.to_value(version), older);
    }

    let chained = result.clone().followed_by(result);
    assert_eq!(chained.interfaces.len(), 4);
    assert_eq!(chained.ips[1].interface, Some(3));
}

#[test]
fn errors_have_the_specifications_shape() {
    let error = Error::new(Code::TryAgain, "full").with_details("wait");
    let answer: Value = serde_json::from_str(&error.to_json(Version::V0_4_0)).unwrap();
    assert_eq!(
        answer,
        json!({"cniVersion": "0.4.0", "code": 11, "msg": "full", "details": "wait"})
    );
}

fn commands() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"])
}

/// JSON that looks like a configuration: known keys, values of any type.
fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "1.1.0",
            "0.4.0",
            "weft",
            "10.0.0.0/8",
            "::/0",
            "10.0.0.1",
            "fd00::1/64",
            "bridge",
            "none",
            "loopback",
            "same-bridge",
            "",
            "/x",
        ])
        .prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let keys = prop::sample::select(vec![
        "cniVersion",
        "name",
        "type",
        "mtu",
        "link",
        "bridge",
        "ingressPolicy",
        "ipam",
        "ranges",
        "subnet",
        "rangeStart",
        "rangeEnd",
        "gateway",
        "exclude",
        "dataDir",
        "stateDir",
        "nodeAddresses",
        "prevResult",
        "interfaces",
        "address",
        "interface",
        "routes",
        "dst",
        "gw",
        "dns",
        "search",
        "runtimeConfig",
        "ips",
        "mac",
        "sysctl",
        "cni",
        "args",
        "cni.dev/valid-attachments",
        "containerID",
        "ifname",
        "sandbox",
        "é",
    ]);
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_input_panics(data in prop::collection::vec(any::<u8>(), 0..200)) {
        exercise(&data);
    }

    #[test]
    fn no_document_panics(
        command in commands(),
        document in documents(),
        section in prop::sample::select(vec!["ipam", "prevResult", "nodeAddresses", "dns", "mtu"]),
    ) {
        let mut config = config();
        config[section] = document.clone();
        for config in [config, document] {
            exercise(format!("{command}\0c1\0eth0\0/n\0\0{config}").as_bytes());
        }
    }
}

#[test]
fn ports_of_the_node_are_read_as_runtimes_write_them() {
    let mut config = config();
    config["runtimeConfig"] = json!({"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
        {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "127.0.0.1"},
        {"hostPort": 0, "containerPort": 80},
        // containerd 1.6.
        {"HostPort": 18080, "ContainerPort": 80, "Protocol": "sctp", "HostIP": ""},
    ]});
    let mappings = add(&config).mappings;
    let read: Vec<_> = mappings
        .iter()
        .map(|one| (one.host_port, one.container_port, one.protocol, one.host_ip))
        .collect();
    let loopback = "127.0.0.1".parse().ok();
    let expected = [
        (8080, 80, 6, None),
        (53, 5353, 17, loopback),
        (18080, 80, 132, None),
    ];
    assert_eq!(read, expected);
}
