//! A host's lease of a subnet: its name and its value in etcd.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Fault;

/// What a lease is of: an IPv4 subnet, and maybe an IPv6 one beside it. Written as the last part
/// of its key: `10.5.34.0-24`, `10.5.34.0-24&fd00:10:5:22::-64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnets {
    /// IPv4.
    pub v4: Ipv4Net,
    /// IPv6.
    pub v6: Option<Ipv6Net>,
}

impl Subnets {
    /// Those of a key, without its path.
    ///
    /// # Errors
    /// A key that is none of flannel's.
    pub fn parse(key: &str) -> Result<Self, Fault> {
        let (v4, v6) = match key.split_once('&') {
            Some((v4, v6)) => (v4, Some(v6)),
            None => (key, None),
        };
        let read = || {
            let v4: Ipv4Net = dashed(v4)?.parse().ok()?;
            let v6 = match v6 {
                Some(v6) => Some(dashed(v6)?.parse::<Ipv6Net>().ok()?),
                None => None,
            };
            let whole = v4 == v4.trunc() && v6.is_none_or(|v6| v6 == v6.trunc());
            whole.then_some(Self { v4, v6 })
        };
        read().ok_or_else(|| Fault::new("the key", format!("{key:?} is not like 10.5.34.0-24")))
    }

    /// One after the other.
    pub fn all(&self) -> impl Iterator<Item = IpNet> + use<> {
        [IpNet::V4(self.v4)]
            .into_iter()
            .chain(self.v6.map(IpNet::V6))
    }
}

impl fmt::Display for Subnets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.v4.addr(), self.v4.prefix_len())?;
        match self.v6 {
            Some(v6) => write!(f, "&{}-{}", v6.addr(), v6.prefix_len()),
            None => Ok(()),
        }
    }
}

/// `10.5.34.0-24` as other programs write it.
fn dashed(text: &str) -> Option<String> {
    let (address, length) = text.split_once('-')?;
    Some(format!("{address}/{length}"))
}

/// A host's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What it has.
    pub subnets: Subnets,
    /// Who has it, and how that one is reached.
    pub holder: Holder,
}

/// Who has a lease (flannel's `LeaseAttrs`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Holder {
    /// Where other hosts send to.
    #[serde(rename = "PublicIP")]
    pub public_ip: Ipv4Addr,
    /// The same for IPv6.
    #[serde(
        rename = "PublicIPv6",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub public_ipv6: Option<Ipv6Addr>,
    /// The back end's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backend_type: String,
    /// What the back end says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_data: Option<Value>,
    /// The same of its IPv6 half.
    #[serde(
        rename = "BackendV6Data",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub backend_v6_data: Option<Value>,
}

impl Holder {
    /// Reads a lease's value.
    ///
    /// # Errors
    /// What it lacks, in words.
    pub fn parse(value: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(value).map_err(|error| {
            let like = r#"{"PublicIP":"192.0.2.1","BackendType":"vxlan",…}"#;
            Fault::new("the value", format!("is not like {like}: {error}"))
        })
    }

    /// As it is written.
    pub fn to_json(&self) -> String {
        // Nothing in it can't be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Its addresses, IPv4's first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v6 = self.public_ipv6.map(IpAddr::V6);
        [IpAddr::V4(self.public_ip)].into_iter().chain(v6)
    }
}

/// What the back end vxlan says of itself: the end of its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanEnd {
    /// The network identifier.
    pub vni: u32,
    /// The device's Ethernet address.
    pub mac: [u8; 6],
}

impl VxlanEnd {
    /// Reads `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`.
    ///
    /// # Errors
    /// [`Fault`] with the name `field`.
    pub fn parse(field: &str, value: &Value) -> Result<Self, Fault> {
        let read = || {
            let vni = u32::try_from(value.get("VNI")?.as_u64()?).ok()?;
            let mac = mac(value.get("VtepMAC")?.as_str()?)?;
            (vni < 1 << 24).then_some(Self { vni, mac })
        };
        read().ok_or_else(|| {
            let like = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#;
            Fault::new(field, format!("{value} is not like {like}"))
        })
    }

    /// As it is written.
    pub fn to_value(self) -> Value {
        let mac = self.mac.map(|byte| format!("{byte:02x}")).join(":");
        serde_json::json!({"VNI": self.vni, "VtepMAC": mac})
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        // Not "+f", which is a number too.
        if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_flannel_s() {
        for key in ["10.5.34.0-24", "10.5.34.0-24&fd00:10:5:22::-64"] {
            assert_eq!(Subnets::parse(key).unwrap().to_string(), key);
        }
        for key in [
            "",
            "10.5.34.0",
            "10.5.34.1-24",
            "10.5.34.0-33",
            "fd00::-64",
            "10.5.34.0-24&",
        ] {
            assert!(
                Subnets::parse(key)
                    .unwrap_err()
                    .to_string()
                    .starts_with("the key: ")
            );
        }
    }

    #[test]
    fn values_are_flannel_s() {
        let text = r#"{"PublicIP":"172.30.0.11","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"b2:6d:b8:0c:ff:0a"}}"#;
        let holder = Holder::parse(text.as_bytes()).unwrap();
        assert_eq!(holder.to_json(), text);
        let end = VxlanEnd::parse("BackendData", holder.backend_data.as_ref().unwrap()).unwrap();
        assert_eq!((end.vni, end.mac[5]), (1, 0x0a));
        assert_eq!(Some(end.to_value()), holder.backend_data);
        // As flannel writes it with IPv4 alone, and host-gw.
        let text = r#"{"PublicIP":"172.30.0.11","PublicIPv6":null,"BackendType":"host-gw"}"#;
        let holder = Holder::parse(text.as_bytes()).unwrap();
        assert_eq!(holder.addresses().count(), 1);
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"PublicIP":"fd00::1"}"#,
            r#"{"PublicIP":7}"#,
        ] {
            let error = Holder::parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("the value: "), "{error}");
        }
        for bad in [
            r#"{}"#,
            r#"{"VNI":1,"VtepMAC":"b2:6d"}"#,
            r#"{"VNI":1,"VtepMAC":"b2:6d:b8:0c:ff:0a:00"}"#,
            r#"{"VNI":1,"VtepMAC":"b2:6d:b8:0c:ff:+a"}"#,
            r#"{"VNI":16777216,"VtepMAC":"b2:6d:b8:0c:ff:0a"}"#,
        ] {
            let value = serde_json::from_str(bad).unwrap();
            assert_eq!(
                VxlanEnd::parse("BackendData", &value).unwrap_err().field,
                "BackendData"
            );
        }
    }
}
