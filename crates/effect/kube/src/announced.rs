//! What nodes say of how their pods are reached: flannel's annotations, read and written.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};
use weft_model::{Announced, NodeName, Rejection, Vtep};

/// What the annotations' names begin with, if flannel is not told otherwise.
const PREFIX: &str = "flannel.alpha.coreos.com/";
const BACKEND: &str = "backend-type";
/// By family: the end of the tunnel; the address, and what a person sets to override it.
const V4: Names = ("backend-data", "public-ip", "public-ip-overwrite");
const V6: Names = ("backend-v6-data", "public-ipv6", "public-ipv6-overwrite");
/// Flannel leaves nodes alone that do not have it.
const MANAGED: &str = "kube-subnet-manager";

type Names = (&'static str, &'static str, &'static str);

/// flannel's `backend-data` of vxlan.
#[derive(Deserialize, Serialize)]
struct Data {
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    mac: String,
}

/// What a node says. An annotation that can't be read is told of, and the others count.
pub(crate) fn read(object: &core::Node) -> Announced {
    let annotations = object.annotations();
    let get = |name: &str| annotations.get(&format!("{PREFIX}{name}"));
    let mut announced = Announced {
        backend: get(BACKEND).map(|backend| backend.as_str().into()),
        ..Announced::default()
    };
    let is_vxlan = announced.is_vxlan();
    for ((data, address, overwrite), is_v4) in [(V4, true), (V6, false)] {
        for (name, to) in [
            (address, &mut announced.public_ips),
            (overwrite, &mut announced.overwrites),
        ] {
            let Some(text) = get(name) else { continue };
            match text.parse::<IpAddr>() {
                Ok(ip) if ip.is_ipv4() == is_v4 => {
                    // Nearly always the only one.
                    to.reserve_exact(1);
                    to.push(ip);
                }
                _ => announced.faults.push(fault(name, text, "an address")),
            }
        }
        // A node without tunnels may have its last ones there, or what another back end has.
        let Some(text) = get(data) else {
            continue;
        };
        match vtep(text) {
            Some(vtep) if is_v4 => announced.vtep_v4 = Some(vtep),
            Some(vtep) => announced.vtep_v6 = Some(vtep),
            None if !is_vxlan => {}
            None => {
                let expected = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#;
                announced.faults.push(fault(data, text, expected));
            }
        }
    }
    announced
}

fn fault(name: &str, text: &str, expected: &str) -> Rejection {
    Rejection {
        field: format!("metadata.annotations[{PREFIX}{name}]"),
        reason: format!("{text:?} is not {expected}"),
    }
}

fn vtep(text: &str) -> Option<Vtep> {
    let data: Data = serde_json::from_str(text).ok()?;
    let mut mac = [0; 6];
    let mut parts = data.mac.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        // Not "+f", which is a number too.
        part.bytes()
            .all(|digit| digit.is_ascii_hexdigit())
            .then_some(())?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    let whole = parts.next().is_none() && data.vni < 1 << 24;
    whole.then_some(Vtep { vni: data.vni, mac })
}

/// The annotations that say this, `None` for those that may not be there. What a node without
/// tunnels had as their ends is left: it is what its next ones are like.
fn annotations(announced: &Announced) -> BTreeMap<String, Option<String>> {
    let mut all = BTreeMap::from([(MANAGED, Some("true".to_owned()))]);
    if let Some(backend) = &announced.backend {
        all.insert(BACKEND, Some(backend.to_string()));
    }
    for ((_, address, _), is_v4) in [(V4, true), (V6, false)] {
        let mut ips = announced.public_ips.iter();
        let ip = ips.find(|ip| ip.is_ipv4() == is_v4);
        all.insert(address, ip.map(ToString::to_string));
    }
    for (vtep, (data, ..)) in [(announced.vtep_v4, V4), (announced.vtep_v6, V6)] {
        if let Some(Vtep { vni, mac }) = vtep {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            let text = serde_json::to_string(&Data { vni, mac });
            all.insert(data, text.ok());
        } else if announced.is_vxlan() {
            all.insert(data, None);
        } else if announced.is_udp() && data == V4.0 {
            // As flannel has it, whose nodes read it.
            all.insert(data, Some("null".to_owned()));
        }
    }
    let all = all.into_iter();
    all.map(|(name, text)| (format!("{PREFIX}{name}"), text))
        .collect()
}

/// Says it in the API, in the node's own object.
///
/// # Errors
/// The API's answer.
pub async fn announce(
    client: &Client,
    node: &NodeName,
    announced: &Announced,
) -> Result<(), kube::Error> {
    let nodes: Api<core::Node> = Api::all(client.clone());
    let patch = serde_json::json!({"metadata": {"annotations": annotations(announced)}});
    nodes
        .patch_metadata(node.as_str(), &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(annotations: impl IntoIterator<Item = (String, String)>) -> core::Node {
        let mut node = core::Node::default();
        node.metadata.annotations = Some(annotations.into_iter().collect());
        node
    }

    fn said(all: &[(&str, &str)]) -> Announced {
        let named = |(name, text): &(&str, &str)| (format!("{PREFIX}{name}"), (*text).to_owned());
        read(&node(all.iter().map(named)))
    }

    #[test]
    fn what_flannel_writes_is_read() {
        let announced = said(&[
            ("backend-data", r#"{"VNI":1,"VtepMAC":"b2:6d:b8:0c:ff:0a"}"#),
            (
                "backend-v6-data",
                r#"{"VNI":1,"VtepMAC":"06:40:b4:f5:7d:f2"}"#,
            ),
            ("backend-type", "vxlan"),
            ("kube-subnet-manager", "true"),
            ("public-ip", "172.30.0.11"),
            ("public-ip-overwrite", "203.0.113.11"),
            ("public-ipv6", "fd00:172:30::11"),
        ]);
        let vtep = |mac| Some(Vtep { vni: 1, mac });
        let expected = Announced {
            backend: Some("vxlan".into()),
            public_ips: ["172.30.0.11", "fd00:172:30::11"]
                .map(|ip| ip.parse().unwrap())
                .into(),
            overwrites: vec!["203.0.113.11".parse().unwrap()],
            vtep_v4: vtep([0xb2, 0x6d, 0xb8, 0x0c, 0xff, 0x0a]),
            vtep_v6: vtep([0x06, 0x40, 0xb4, 0xf5, 0x7d, 0xf2]),
            faults: Vec::new(),
        };
        assert_eq!(announced, expected);
        let host_gw = said(&[("backend-type", "host-gw"), ("backend-data", "null")]);
        assert_eq!(host_gw.backend.as_deref(), Some("host-gw"));
        assert_eq!((host_gw.vtep_v4, host_gw.faults), (None, Vec::new()));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let announced = Announced {
            backend: Some("vxlan".into()),
            public_ips: vec!["172.30.0.11".parse().unwrap(), "fd00::11".parse().unwrap()],
            overwrites: Vec::new(),
            vtep_v4: Some(Vtep {
                vni: 42,
                mac: [2, 0, 0, 0, 0, 1],
            }),
            vtep_v6: Some(Vtep {
                vni: 42,
                mac: [2, 0, 0, 0, 0, 0xff],
            }),
            faults: Vec::new(),
        };
        let written = |announced: &Announced| {
            let all = annotations(announced).into_iter();
            node(all.filter_map(|(name, text)| Some((name, text?))))
        };
        assert_eq!(read(&written(&announced)), announced);
        // One family has its tunnel, the other none (yet), or not any more.
        let one = Announced {
            vtep_v6: None,
            ..announced.clone()
        };
        assert_eq!(annotations(&one)[&format!("{PREFIX}backend-v6-data")], None);
        assert_eq!(read(&written(&one)), one);
        // It is reached in one family only, whatever was said before.
        let both = announced.public_ips.iter().copied();
        for (ip, gone) in both.zip(["public-ipv6", "public-ip"]) {
            let one = Announced {
                public_ips: vec![ip],
                ..announced.clone()
            };
            assert_eq!(annotations(&one)[&format!("{PREFIX}{gone}")], None);
            assert_eq!(read(&written(&one)), one);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_counts() {
        for bad in [
            "",
            "{}",
            r#"{"VNI":1,"VtepMAC":"b2:6d"}"#,
            r#"{"VNI":1,"VtepMAC":"b2:6d:b8:0c:ff:0a:00"}"#,
            r#"{"VNI":1,"VtepMAC":"b2:6d:b8:0c:ff:+a"}"#,
            r#"{"VNI":16777216,"VtepMAC":"b2:6d:b8:0c:ff:0a"}"#,
        ] {
            let announced = said(&[
                ("backend-type", "vxlan"),
                ("backend-data", bad),
                ("public-ip", "fd00::1"),
                ("public-ipv6", "fd00::1"),
            ]);
            let fields: Vec<_> = announced.faults.iter().map(|fault| &*fault.field).collect();
            assert_eq!(
                fields,
                [
                    "metadata.annotations[flannel.alpha.coreos.com/public-ip]",
                    "metadata.annotations[flannel.alpha.coreos.com/backend-data]"
                ],
                "{bad}"
            );
            assert_eq!(announced.public_ips.len(), 1);
        }
    }
}
