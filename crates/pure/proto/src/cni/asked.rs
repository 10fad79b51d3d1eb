//! What the runtime asks for one container: `runtimeConfig` (CNI conventions, "Dynamic Plugin
//! specific fields") and `args.cni`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::bandwidth::bandwidth;
use super::fields::{Fields, invalid, is_empty, items, text, unsupported};
use super::port_mapping::port_mappings;
use super::{Bandwidth, Code, Error, PortMapping, Remark};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) mappings: Vec<PortMapping>,
    /// Each with the field that has it.
    pub(super) addresses: Vec<(String, IpAddr)>,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) bandwidth: Bandwidth,
}

impl Asked {
    /// `IP` and `MAC` of `CNI_ARGS`, as the reference plugins read them; several addresses have
    /// commas between them.
    pub(super) fn of_arguments(ip: &str, mac: &str) -> Result<Self, Error> {
        let in_environment = |error: Error| Error {
            code: Code::InvalidEnvironment,
            ..error
        };
        let mut asked = Asked::default();
        for text in ip.split(',').filter(|text| !text.is_empty()) {
            address("CNI_ARGS: IP", text, &mut asked.addresses).map_err(in_environment)?;
        }
        if !mac.is_empty() {
            asked.mac = Some(ethernet("CNI_ARGS: MAC", mac).map_err(in_environment)?);
        }
        Ok(asked)
    }
}

/// What is said nearer to the pod counts: `CNI_ARGS`, then `args.cni`, then `runtimeConfig`.
pub(super) fn asked(
    runtime: Option<&Value>,
    args: Option<&Value>,
    variables: Asked,
    remarks: &mut Vec<Remark>,
) -> Result<Asked, Error> {
    let mut asked = variables;
    if let Some(section) = args {
        let mut fields = Fields::of("args", section)?;
        if let Some(section) = fields.take("cni") {
            let mut fields = Fields::of("args.cni", section)?;
            let ips = addresses("args.cni.ips", fields.take("ips"))?;
            if !ips.is_empty() {
                asked.addresses = ips;
            }
            if let Some(value) = fields.take("mac") {
                asked.mac = Some(mac("args.cni.mac", value)?);
            }
            fields.finish(remarks);
        }
        fields.finish(remarks);
    }
    let Some(section) = runtime else {
        return Ok(asked);
    };
    Fields::of("runtimeConfig", section)?;
    for (key, value) in section.as_object().into_iter().flatten() {
        let path = format!("runtimeConfig.{key}");
        match key.as_str() {
            _ if is_empty(value) => {}
            "portMappings" => asked.mappings = port_mappings(&path, value, remarks)?,
            "ips" => asked.addresses = addresses(&path, Some(value))?,
            "mac" => asked.mac = Some(mac(&path, value)?),
            "bandwidth" => asked.bandwidth = bandwidth(&path, value)?,
            _ => {
                return Err(unsupported(
                    &path,
                    value,
                    "declare the capability on a plugin that has it",
                ));
            }
        }
    }
    Ok(asked)
}

/// Addresses, with or without the length of their network.
fn addresses(path: &str, list: Option<&Value>) -> Result<Vec<(String, IpAddr)>, Error> {
    let Some(list) = list else {
        return Ok(Vec::new());
    };
    let mut addresses: Vec<(String, IpAddr)> = Vec::new();
    for (path, value) in items(path, list)? {
        address(&path, text(&path, value)?, &mut addresses)?;
    }
    Ok(addresses)
}

fn address(path: &str, text: &str, into: &mut Vec<(String, IpAddr)>) -> Result<(), Error> {
    let address: Result<IpAddr, _> = text.parse();
    let address = address
        .or_else(|_| text.parse::<IpNet>().map(|net| net.addr()))
        .map_err(|_| invalid(path, &format!("{text:?} is not an IP address")))?;
    if into
        .iter()
        .any(|(_, other)| other.is_ipv4() == address.is_ipv4())
    {
        return Err(invalid(
            path,
            &format!("{address} is a second address of its family"),
        ));
    }
    into.push((path.to_owned(), address));
    Ok(())
}

fn mac(path: &str, value: &Value) -> Result<[u8; 6], Error> {
    ethernet(path, text(path, value)?)
}

fn ethernet(path: &str, text: &str) -> Result<[u8; 6], Error> {
    let complain = |complaint: &str| Err(invalid(path, &format!("{text:?} {complaint}")));
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2);
        let Some(number) = part.and_then(|part| u8::from_str_radix(part, 16).ok()) else {
            return complain("is not an Ethernet address such as 02:00:00:00:00:01");
        };
        *byte = number;
    }
    if parts.next().is_some() {
        return complain("is not an Ethernet address such as 02:00:00:00:00:01");
    }
    // is_valid_ether_addr() in the kernel.
    if mac[0] & 1 == 1 {
        return complain("is the address of a group");
    }
    if mac == [0; 6] {
        return complain("is no address");
    }
    Ok(mac)
}
