//! `link`: how the pod's interface hangs on its node.

use ipnet::IpNet;
use serde_json::Value;

use super::fields::{Fields, invalid, text, unsupported};
use super::{Error, InterfaceName, Ipam, Range};

/// The bridge of a configuration that names none: what the reference plugins call theirs.
pub const DEFAULT_BRIDGE: &str = "cni0";

/// How a pod's interface hangs on its node (`link`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// `routed`, and unless something else is said: a veth of its own, with a route to it.
    Routed,
    /// `bridge`: a port of a bridge, in one network with the node's other pods.
    Bridge(Bridge),
    /// `none`: another plugin of the list made it.
    Absent,
}

/// The bridge that pods of a network are ports of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// `bridge`: the device's name.
    pub name: InterfaceName,
    /// The pods' routers, with the length of their networks: the bridge has these addresses.
    pub gateways: Vec<IpNet>,
    /// `ingressPolicy` is `same-bridge`: nothing comes from, or goes to, pods that are not on
    /// this bridge.
    pub isolated: bool,
}

/// Whether `link` says that another plugin makes the interface.
pub(super) fn is_absent(document: &Value) -> bool {
    document.get("link").and_then(Value::as_str) == Some("none")
}

/// The fields `link`, `bridge` and `ingressPolicy`. The routers of a bridge are nobody's
/// addresses.
pub(super) fn link(fields: &mut Fields<'_>, ipam: &mut Ipam) -> Result<Link, Error> {
    let kind = fields.take_text("link")?.unwrap_or("routed");
    match kind {
        "bridge" => {}
        "routed" | "none" => {
            for key in ["bridge", "ingressPolicy"] {
                if fields.take(key).is_some() {
                    return Err(invalid(
                        &fields.path(key),
                        &format!("a {kind} link has none; write \"link\": \"bridge\""),
                    ));
                }
            }
            return Ok(match kind {
                "none" => Link::Absent,
                _ => Link::Routed,
            });
        }
        other => {
            return Err(invalid(
                "link",
                &format!("{other:?} is none of routed, bridge, none"),
            ));
        }
    }
    let name = fields.take_text("bridge")?.unwrap_or(DEFAULT_BRIDGE);
    let name = InterfaceName::try_from(name)
        .map_err(|complaint| invalid("bridge", &complaint.to_string()))?;
    let isolated = match fields.take("ingressPolicy") {
        None => false,
        Some(value) => match text("ingressPolicy", value)? {
            "open" => false,
            "same-bridge" => true,
            _ => {
                return Err(unsupported(
                    "ingressPolicy",
                    value,
                    "write \"open\" or \"same-bridge\"",
                ));
            }
        },
    };
    let gateways = gateways(ipam)?;
    for gateway in &gateways {
        ipam.excluded.insert(gateway.addr());
        ipam.reserved.insert(gateway.addr());
    }
    Ok(Link::Bridge(Bridge {
        name,
        gateways,
        isolated,
    }))
}

/// One a subnet: what `gateway` says, or the subnet's first address.
fn gateways(ipam: &Ipam) -> Result<Vec<IpNet>, Error> {
    let mut gateways: Vec<IpNet> = Vec::new();
    for range in ipam.sets.iter().flat_map(|set| &set.ranges) {
        let address = range
            .gateway
            .unwrap_or_else(|| Range::of(range.subnet).first);
        let same = gateways.iter().find(|other| other.trunc() == range.subnet);
        match same {
            Some(other) if range.gateway.is_some() && other.addr() != address => {
                return Err(invalid(
                    "ipam.ranges",
                    &format!(
                        "{} and {address} are both gateways of {}; a subnet has one",
                        other.addr(),
                        range.subnet
                    ),
                ));
            }
            Some(_) => {}
            None => gateways.extend(IpNet::new(address, range.subnet.prefix_len())),
        }
    }
    Ok(gateways)
}
