//! What ADD answers, in the shape of every version.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::fields::{Fields, invalid, missing, parse};
use super::{Error, Remark, Version};

/// A network interface, in the pod or on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The device's name.
    pub name: String,
    /// The link-layer address, if it has one.
    pub mac: Option<String>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// The namespace's path, for an interface in the pod.
    pub sandbox: Option<String>,
    /// A socket that stands for the interface (vhost-user).
    pub socket_path: Option<String>,
    /// The PCI device behind the interface.
    pub pci_id: Option<String>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpConfig {
    /// Index into [`AddResult::interfaces`].
    pub interface: Option<usize>,
    /// Address and prefix length.
    pub address: IpNet,
    /// The router for the address's family.
    pub gateway: Option<IpAddr>,
}

/// A route in the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub destination: IpNet,
    /// The router; absent: the interface's gateway.
    pub gateway: Option<IpAddr>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Bytes: the maximum segment size to announce.
    pub advmss: Option<u32>,
    /// The route's metric.
    pub priority: Option<u32>,
    /// The routing table.
    pub table: Option<u32>,
    /// The route's scope (rtnetlink(7)).
    pub scope: Option<u32>,
}

impl Route {
    /// A route without options.
    pub fn via(destination: IpNet, gateway: Option<IpAddr>) -> Self {
        Self {
            destination,
            gateway,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

/// Settings for the pod's resolver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Resolvers, in order.
    pub nameservers: Vec<String>,
    /// The local domain.
    pub domain: Option<String>,
    /// Search domains, in order.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// What an attachment consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddResult {
    /// On the node and in the pod.
    pub interfaces: Vec<Interface>,
    /// The pod's addresses.
    pub ips: Vec<IpConfig>,
    /// Routes in the pod.
    pub routes: Vec<Route>,
    /// For the pod's resolver.
    pub dns: Dns,
}

impl AddResult {
    /// The answer on standard output.
    pub fn to_json(&self, version: Version) -> String {
        self.to_value(version).to_string()
    }

    /// The answer as JSON; what a version has no field for is left out.
    pub fn to_value(&self, version: Version) -> Value {
        let newest = version >= Version::V1_1_0;
        let interfaces: Vec<Value> = self
            .interfaces
            .iter()
            .map(|interface| {
                let mut map = Map::new();
                map.insert("name".to_owned(), json!(interface.name));
                put(&mut map, "mac", interface.mac.as_deref());
                put(&mut map, "sandbox", interface.sandbox.as_deref());
                if newest {
                    put(&mut map, "mtu", interface.mtu);
                    put(&mut map, "socketPath", interface.socket_path.as_deref());
                    put(&mut map, "pciID", interface.pci_id.as_deref());
                }
                Value::Object(map)
            })
            .collect();
        let ips: Vec<Value> = self
            .ips
            .iter()
            .map(|ip| {
                let mut map = Map::new();
                if version < Version::V1_0_0 {
                    map.insert("version".to_owned(), json!(family(&ip.address)));
                }
                map.insert("address".to_owned(), json!(ip.address.to_string()));
                put(&mut map, "gateway", ip.gateway.map(|g| g.to_string()));
                put(&mut map, "interface", ip.interface);
                Value::Object(map)
            })
            .collect();
        let routes: Vec<Value> = self
            .routes
            .iter()
            .map(|route| {
                let mut map = Map::new();
                map.insert("dst".to_owned(), json!(route.destination.to_string()));
                put(&mut map, "gw", route.gateway.map(|g| g.to_string()));
                if newest {
                    put(&mut map, "mtu", route.mtu);
                    put(&mut map, "advmss", route.advmss);
                    put(&mut map, "priority", route.priority);
                    put(&mut map, "table", route.table);
                    put(&mut map, "scope", route.scope);
                }
                Value::Object(map)
            })
            .collect();
        let mut map = Map::new();
        map.insert("cniVersion".to_owned(), json!(version.as_str()));
        map.insert("interfaces".to_owned(), Value::Array(interfaces));
        map.insert("ips".to_owned(), Value::Array(ips));
        map.insert("routes".to_owned(), Value::Array(routes));
        map.insert("dns".to_owned(), dns_value(&self.dns));
        Value::Object(map)
    }

    /// Reads an answer of any version, as `prevResult` carries it.
    pub(super) fn read(
        path: &str,
        value: &Value,
        remarks: &mut Vec<Remark>,
    ) -> Result<Self, Error> {
        let mut fields = Fields::of(path, value)?;
        fields.ignore(&["cniVersion"]);
        let mut interfaces = Vec::new();
        for (path, value) in fields.take_list("interfaces")? {
            let mut fields = Fields::of(&path, value)?;
            interfaces.push(Interface {
                name: fields
                    .take_str("name")?
                    .ok_or_else(|| missing(&format!("{path}.name")))?
                    .to_owned(),
                mac: fields.take_text("mac")?.map(str::to_owned),
                mtu: fields.take_u32("mtu")?,
                sandbox: fields.take_text("sandbox")?.map(str::to_owned),
                socket_path: fields.take_text("socketPath")?.map(str::to_owned),
                pci_id: fields.take_text("pciID")?.map(str::to_owned),
            });
            fields.finish(remarks);
        }
        let mut ips = Vec::new();
        for (path, value) in fields.take_list("ips")? {
            let mut fields = Fields::of(&path, value)?;
            let address = required_net(&mut fields, "address")?;
            if let Some(stated) = fields.take_text("version")?
                && stated != family(&address)
            {
                return Err(invalid(
                    &fields.path("version"),
                    &format!("{stated:?} is not the family of {address}"),
                ));
            }
            let interface = match fields.take_u32("interface")? {
                None => None,
                Some(index) => match usize::try_from(index) {
                    Ok(index) if index < interfaces.len() => Some(index),
                    Ok(_) | Err(_) => {
                        return Err(invalid(
                            &fields.path("interface"),
                            &format!(
                                "{index} is not an index into {} interfaces",
                                interfaces.len()
                            ),
                        ));
                    }
                },
            };
            ips.push(IpConfig {
                interface,
                address,
                gateway: address_at(&mut fields, "gateway")?,
            });
            fields.finish(remarks);
        }
        let mut routes = Vec::new();
        for (path, value) in fields.take_list("routes")? {
            let mut fields = Fields::of(&path, value)?;
            routes.push(Route {
                destination: required_net(&mut fields, "dst")?,
                gateway: address_at(&mut fields, "gw")?,
                mtu: fields.take_u32("mtu")?,
                advmss: fields.take_u32("advmss")?,
                priority: fields.take_u32("priority")?,
                table: fields.take_u32("table")?,
                scope: fields.take_u32("scope")?,
            });
            fields.finish(remarks);
        }
        let dns = dns(&fields.path("dns"), fields.take("dns"), remarks)?;
        fields.finish(remarks);
        Ok(Self {
            interfaces,
            ips,
            routes,
            dns,
        })
    }

    /// Puts `own` behind what the plugins before this one made.
    #[must_use]
    pub fn followed_by(mut self, own: AddResult) -> AddResult {
        let offset = self.interfaces.len();
        self.interfaces.extend(own.interfaces);
        self.ips.extend(own.ips.into_iter().map(|ip| IpConfig {
            interface: ip.interface.map(|index| index + offset),
            ..ip
        }));
        self.routes.extend(own.routes);
        if self.dns == Dns::default() {
            self.dns = own.dns;
        }
        self
    }
}

/// A `dns` section; absent is empty.
pub(super) fn dns(
    path: &str,
    section: Option<&Value>,
    remarks: &mut Vec<Remark>,
) -> Result<Dns, Error> {
    let Some(section) = section else {
        return Ok(Dns::default());
    };
    let mut fields = Fields::of(path, section)?;
    let dns = Dns {
        nameservers: fields.take_strings("nameservers")?,
        domain: fields.take_text("domain")?.map(str::to_owned),
        search: fields.take_strings("search")?,
        options: fields.take_strings("options")?,
    };
    fields.finish(remarks);
    Ok(dns)
}

/// The answer to VERSION.
pub fn version_answer(version: Version) -> String {
    json!({
        "cniVersion": version.as_str(),
        "supportedVersions": Version::ALL.map(Version::as_str),
    })
    .to_string()
}

fn dns_value(dns: &Dns) -> Value {
    let mut map = Map::new();
    let mut list = |key: &str, items: &[String]| {
        if !items.is_empty() {
            map.insert(key.to_owned(), json!(items));
        }
    };
    list("nameservers", &dns.nameservers);
    list("search", &dns.search);
    list("options", &dns.options);
    put(&mut map, "domain", dns.domain.as_deref());
    Value::Object(map)
}

fn put(map: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value.into());
    }
}

fn family(net: &IpNet) -> &'static str {
    match net {
        IpNet::V4(_) => "4",
        IpNet::V6(_) => "6",
    }
}

fn required_net<'a>(fields: &mut Fields<'a>, key: &'a str) -> Result<IpNet, Error> {
    let path = fields.path(key);
    let text = fields.take_text(key)?.ok_or_else(|| missing(&path))?;
    parse(&path, text, "an address with a prefix length")
}

fn address_at<'a>(fields: &mut Fields<'a>, key: &'a str) -> Result<Option<IpAddr>, Error> {
    let path = fields.path(key);
    fields
        .take_text(key)?
        .map(|text| parse(&path, text, "an IP address"))
        .transpose()
}
