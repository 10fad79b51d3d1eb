//! `net-conf.json`, which is also what etcd has at `/coreos.com/network/config`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Map, Value};

use super::Fault;
use super::pool::{Asked, Pool};

/// Flannel's, where the configuration says nothing.
const VNI: u32 = 1;
const VXLAN_PORT: u16 = 8472;
const UDP_PORT: u16 = 8285;
/// The least that an IPv4 network has to carry (RFC 791).
const LEAST_MTU: u64 = 68;

/// The network's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConf {
    /// `Network`, cut into subnets, unless `EnableIPv4` is false.
    pub v4: Option<Pool>,
    /// `IPv6Network`, if `EnableIPv6` is true.
    pub v6: Option<Pool>,
    /// How hosts reach each other.
    pub backend: Backend,
    /// Fields that have no effect, with their paths.
    pub unknown: Vec<String>,
}

/// `Backend`, with flannel's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Routes through the hosts' own addresses.
    HostGw,
    /// VXLAN.
    Vxlan {
        /// The network identifier.
        vni: u32,
        /// The UDP port.
        port: u16,
        /// Bytes of the largest packet in the tunnel, if that is said.
        mtu: Option<u32>,
        /// Whether hosts on one network reach each other without the tunnel.
        direct_routing: bool,
    },
    /// Packets in UDP datagrams.
    Udp {
        /// The UDP port.
        port: u16,
    },
}

impl Backend {
    /// Flannel's name of it.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::HostGw => "host-gw",
            Backend::Vxlan { .. } => "vxlan",
            Backend::Udp { .. } => "udp",
        }
    }
}

impl NetConf {
    /// Reads it as flannel does: letters of names may have either case, what is not known has no
    /// effect.
    ///
    /// # Errors
    /// The first field that says what can't be.
    pub fn parse(text: &[u8]) -> Result<Self, Fault> {
        let value: Value = serde_json::from_slice(text)
            .map_err(|error| Fault::new("the configuration", format!("is no JSON: {error}")))?;
        let mut fields = Fields::of("", &value)?;
        let v4 = fields.flag("EnableIPv4")?.unwrap_or(true);
        let v6 = fields.flag("EnableIPv6")?.unwrap_or(false);
        if !v4 && !v6 {
            let reason = "is false, and so is EnableIPv6: no network is left";
            return Err(Fault::new("EnableIPv4", reason));
        }
        let conf = Self {
            v4: pool::<Ipv4Net, Ipv4Addr>(
                &mut fields,
                ["Network", "SubnetLen", "SubnetMin", "SubnetMax"],
                v4,
            )?,
            v6: pool::<Ipv6Net, Ipv6Addr>(
                &mut fields,
                [
                    "IPv6Network",
                    "IPv6SubnetLen",
                    "IPv6SubnetMin",
                    "IPv6SubnetMax",
                ],
                v6,
            )?,
            backend: backend(&mut fields)?,
            unknown: Vec::new(),
        };
        // Whether flannel's own rules are iptables' or nf_tables'.
        fields.take("EnableNFTables");
        Ok(Self {
            unknown: fields.unknown(),
            ..conf
        })
    }

    /// The pools there are, IPv4's first.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.v4.iter().chain(&self.v6)
    }
}

fn pool<Net, Address>(
    fields: &mut Fields<'_>,
    [network, len, min, max]: [&'static str; 4],
    wanted: bool,
) -> Result<Option<Pool>, Fault>
where
    Net: FromStr + Into<IpNet>,
    Address: FromStr + Into<IpAddr>,
{
    let net = fields.parsed::<Net>(network, "a network, such as 10.5.0.0/16 or fd00:10:5::/48")?;
    // Zero is flannel's "not said".
    let subnet_len = fields.number(len)?.filter(|len| *len != 0);
    let mut bound = |name| fields.parsed::<Address>(name, "an address of the network's family");
    let (first, last) = (bound(min)?, bound(max)?);
    if !wanted {
        return Ok(None);
    }
    let Some(net) = net else {
        let reason = "is missing: the range that hosts' subnets are cut from";
        return Err(Fault::new(network, reason));
    };
    let specified = |address: Option<Address>| {
        let address = address.map(Into::<IpAddr>::into);
        address.filter(|address| !address.is_unspecified())
    };
    let asked = Asked {
        network: (network, net.into()),
        len: (len, subnet_len),
        min: (min, specified(first)),
        max: (max, specified(last)),
    };
    Pool::of(&asked).map(Some)
}

fn backend(fields: &mut Fields<'_>) -> Result<Backend, Fault> {
    let Some(section) = fields.take("Backend") else {
        // As flannel has it.
        return Ok(Backend::Udp { port: UDP_PORT });
    };
    let mut section = Fields::of("Backend", section)?;
    let kind = section.text("Type")?.unwrap_or_default();
    let backend = match kind {
        "host-gw" => Backend::HostGw,
        "vxlan" => vxlan(&mut section)?,
        "udp" => Backend::Udp {
            port: section.port()?.unwrap_or(UDP_PORT),
        },
        "" => return Err(section.fault("Type", "is missing: host-gw, vxlan or udp")),
        other => {
            let reason = format!("{other:?} is none of weft's: host-gw, vxlan, udp");
            return Err(section.fault("Type", reason));
        }
    };
    fields.others.extend(section.unknown());
    Ok(backend)
}

fn vxlan(section: &mut Fields<'_>) -> Result<Backend, Fault> {
    let vni = match section.number("VNI")? {
        None => VNI,
        Some(vni) => match u32::try_from(vni)
            .ok()
            .filter(|vni| (1..1 << 24).contains(vni))
        {
            Some(vni) => vni,
            None => {
                let reason = format!("{vni} is no network identifier (1 to 16777215)");
                return Err(section.fault("VNI", reason));
            }
        },
    };
    let mtu = match section.number("MTU")? {
        None | Some(0) => None,
        Some(mtu) => match u32::try_from(mtu)
            .ok()
            .filter(|_| (LEAST_MTU..=65_535).contains(&mtu))
        {
            Some(mtu) => Some(mtu),
            None => {
                let reason = format!("{mtu} is no size of a packet ({LEAST_MTU} to 65535)");
                return Err(section.fault("MTU", reason));
            }
        },
    };
    for (wish, name) in [("GBP", "group policy"), ("Learning", "learning")] {
        if section.flag(wish)?.unwrap_or(false) {
            let reason = format!("weft's tunnels have no {name}; leave it out");
            return Err(section.fault(wish, reason));
        }
    }
    // Every address is announced, so what it begins with is the host's own affair.
    section.text("MacPrefix")?;
    Ok(Backend::Vxlan {
        vni,
        port: section.port()?.unwrap_or(VXLAN_PORT),
        mtu,
        direct_routing: section.flag("DirectRouting")?.unwrap_or(false),
    })
}

/// An object's fields; every one that is taken is known.
struct Fields<'a> {
    path: &'static str,
    map: &'a Map<String, Value>,
    known: BTreeSet<&'a str>,
    /// Of objects within.
    others: Vec<String>,
}

impl<'a> Fields<'a> {
    fn of(path: &'static str, value: &'a Value) -> Result<Self, Fault> {
        let Value::Object(map) = value else {
            let place = if path.is_empty() {
                "the configuration"
            } else {
                path
            };
            return Err(Fault::new(place, "must be a JSON object"));
        };
        Ok(Self {
            path,
            map,
            known: BTreeSet::new(),
            others: Vec::new(),
        })
    }

    fn path(&self, name: &str) -> String {
        match self.path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    fn fault(&self, name: &str, reason: impl Into<String>) -> Fault {
        Fault::new(self.path(name), reason)
    }

    /// A field's value; `null` is the same as absent.
    fn take(&mut self, name: &str) -> Option<&'a Value> {
        let all = self.map.iter();
        let same = all.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let mut found = None;
        for (key, value) in same {
            self.known.insert(key);
            if found.is_none() || key == name {
                found = Some(value);
            }
        }
        found.filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Result<Option<&'a str>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.fault(name, "must be a text")),
        }
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.fault(name, "must be true or false")),
        }
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>, Fault> {
        match self.take(name).map(Value::as_u64) {
            None => Ok(None),
            Some(Some(number)) => Ok(Some(number)),
            Some(None) => Err(self.fault(name, "must be a whole number, not less than 0")),
        }
    }

    /// Zero is no port.
    fn port(&mut self) -> Result<Option<u16>, Fault> {
        match self.number("Port")? {
            None | Some(0) => Ok(None),
            Some(port) => match u16::try_from(port) {
                Ok(port) => Ok(Some(port)),
                Err(_) => Err(self.fault("Port", format!("{port} is no UDP port"))),
            },
        }
    }

    fn parsed<T: FromStr>(&mut self, name: &str, what: &str) -> Result<Option<T>, Fault> {
        let Some(text) = self.text(name)?.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let parsed = text.parse().map(Some);
        parsed.map_err(|_| self.fault(name, format!("{text:?} is not {what}")))
    }

    fn unknown(self) -> Vec<String> {
        let keys = self
            .map
            .keys()
            .filter(|key| !self.known.contains(key.as_str()));
        let mut all: Vec<String> = keys.map(|key| self.path(key)).collect();
        all.extend(self.others);
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetConf, String> {
        NetConf::parse(text.as_bytes()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn flannel_s_own_examples_are_read() {
        // Documentation/configuration.md.
        let conf = parse(
            r#"{"Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0",
                "SubnetMax": "10.99.0.0", "Backend": {"Type": "udp", "Port": 7890}}"#,
        )
        .unwrap();
        assert_eq!(conf.backend, Backend::Udp { port: 7890 });
        let pool = conf.v4.unwrap();
        assert_eq!(pool.free([], 0).unwrap().to_string(), "10.10.0.0/20");
        assert!(pool.has("10.99.0.0/20".parse().unwrap()));
        // kube-flannel.yml.
        let conf = parse(
            r#"{"Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": {"Type": "vxlan"}}"#,
        )
        .unwrap();
        let vxlan = Backend::Vxlan {
            vni: 1,
            port: 8472,
            mtu: None,
            direct_routing: false,
        };
        assert_eq!((conf.backend, conf.unknown), (vxlan, vec![]));
        // The least there is.
        let conf = parse(r#"{"network": "10.5.0.0/16"}"#).unwrap();
        assert_eq!(conf.backend, Backend::Udp { port: 8285 });
        assert_eq!(conf.v6, None);
        let conf = parse(
            r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48",
                "Backend": {"Type": "host-gw", "Colour": 1}, "Colour": 2}"#,
        )
        .unwrap();
        assert_eq!(conf.v4, None);
        assert_eq!(conf.v6.unwrap().subnet_len, 64);
        assert_eq!(conf.unknown, ["Backend.Colour", "Colour"]);
    }

    #[test]
    fn what_can_t_be_is_named() {
        for (text, words) in [
            ("", "the configuration: is no JSON"),
            ("[]", "the configuration: must be a JSON object"),
            ("{}", "Network: is missing"),
            (r#"{"Network": 7}"#, "Network: must be a text"),
            (
                r#"{"Network": "10.5.0.0"}"#,
                r#"Network: "10.5.0.0" is not a network"#,
            ),
            (
                r#"{"Network": "fd00::/48"}"#,
                r#"Network: "fd00::/48" is not a network"#,
            ),
            (
                r#"{"EnableIPv4": "no"}"#,
                "EnableIPv4: must be true or false",
            ),
            (
                r#"{"EnableIPv4": false}"#,
                "EnableIPv4: is false, and so is EnableIPv6",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "SubnetLen": 40}"#,
                "SubnetLen: 40 is not between 18 and 30",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "SubnetLen": -1}"#,
                "SubnetLen: must be a whole number",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "SubnetMin": "10.6.0.0"}"#,
                "SubnetMin: 10.6.0.0 is not in",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "SubnetMin": "x"}"#,
                "SubnetMin: \"x\" is not an address",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "Backend": 1}"#,
                "Backend: must be a JSON object",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "Backend": {}}"#,
                "Backend.Type: is missing",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "wireguard"}}"#,
                "Backend.Type: \"wireguard\"",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "VNI": 16777216}}"#,
                "Backend.VNI: 16777216",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "Port": 65536}}"#,
                "Backend.Port: 65536",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "MTU": 20}}"#,
                "Backend.MTU: 20",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "GBP": true}}"#,
                "Backend.GBP: ",
            ),
            (
                r#"{"Network": "10.5.0.0/16", "EnableIPv6": true}"#,
                "IPv6Network: is missing",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(words), "{text}: {error}");
        }
    }
}
