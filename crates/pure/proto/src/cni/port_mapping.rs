//! `runtimeConfig.portMappings`: ports of the node that lead to the pod (CNI conventions,
//! capability `portMappings`).

use std::net::IpAddr;

use serde_json::Value;

use super::fields::{Fields, invalid, is_empty, items, missing, parse};
use super::{Error, Remark};

/// A port of the node that leads to a port of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// `hostPort`, never 0.
    pub host_port: u16,
    /// `containerPort`, never 0.
    pub container_port: u16,
    /// `protocol`: its number in the IP header.
    pub protocol: u8,
    /// `hostIP`; every address of the node, if none or one of all zeros.
    pub host_ip: Option<IpAddr>,
}

pub(super) fn port_mappings(
    path: &str,
    list: &Value,
    remarks: &mut Vec<Remark>,
) -> Result<Vec<PortMapping>, Error> {
    let mut mappings = Vec::new();
    for (path, value) in items(path, list)? {
        let mut fields = Fields::of_runtime(&path, value)?;
        let host_port = port(&mut fields, "hostPort")?;
        let Some(host_port) = host_port else {
            // As the plugin portmap: what asks for no port asks for nothing.
            continue;
        };
        let container = fields.path("containerPort");
        let container_port = port(&mut fields, "containerPort")?;
        let container_port = container_port.ok_or_else(|| missing(&container))?;
        let place = fields.path("protocol");
        let protocol = fields.take_text("protocol")?.unwrap_or("tcp");
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            _ => {
                return Err(invalid(
                    &place,
                    &format!("{protocol:?} is not tcp, udp or sctp"),
                ));
            }
        };
        let place = fields.path("hostIP");
        let host_ip = fields.take_text("hostIP")?;
        let host_ip = host_ip
            .map(|text| parse::<IpAddr>(&place, text, "an IP address"))
            .transpose()?;
        mappings.push(PortMapping {
            host_port,
            container_port,
            protocol,
            host_ip,
        });
        remarks.extend(
            fields
                .unknown()
                .filter(|(_, value)| !is_empty(value))
                .map(|(field, _)| Remark {
                    field,
                    text: "is not known and has no effect".to_owned(),
                }),
        );
    }
    Ok(mappings)
}

fn port<'a>(fields: &mut Fields<'a>, key: &'a str) -> Result<Option<u16>, Error> {
    let path = fields.path(key);
    match fields.take_u32(key)? {
        None | Some(0) => Ok(None),
        Some(number) => match u16::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(invalid(&path, &format!("{number} is not a port"))),
        },
    }
}
