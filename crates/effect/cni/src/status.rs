//! STATUS: whether an ADD could succeed now. What an ADD writes is tried, and nothing of it stays.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use weft_compile::attachment;
use weft_desired::PodRules;
use weft_kernel::{link, pod_rules};
use weft_nodestate::{Attachments, Pool, takes_files};
use weft_proto::cni::{Code, Error, Link, Status};
use weft_sys::rtnl::Conversation;

use super::{chain, gate};

/// A name that no link of a pod has: those have a number behind `weft`.
const LINK: &str = "weft-status";

/// What is in the way of pods is told with 50, and with 51 what running pods feel too.
pub(super) fn status(request: &Status) -> Result<(), Error> {
    if request.config.is_chained {
        return Ok(());
    }
    let records = Attachments::under(Path::new(&request.config.state_dir));
    let pool = Pool::under(
        Path::new(&request.config.data_dir),
        &request.config.network,
        &records,
    );
    for directory in [records.directory(), pool.directory()] {
        takes_files(directory).map_err(|source| {
            unavailable(format!("cannot write to {}: {source}", directory.display()))
                .with_details("make room, or mount the file system for writing")
        })?;
    }
    has_addresses(request, &pool)?;
    takes_links(request)?;
    takes_rules(request)?;
    gate::is_open(request)
}

fn has_addresses(request: &Status, pool: &Pool) -> Result<(), Error> {
    for set in &request.ipam.sets {
        let usage = pool
            .usage(set, &request.ipam.reserved)
            .map_err(|error| unavailable(error.to_string()))?;
        if usage.free() == 0 {
            let family = if set.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(unavailable(format!(
                "network {}: no {family} address left: {} of {} are taken by pods, {} are reserved",
                request.config.network, usage.taken, usage.total, usage.reserved
            ))
            .with_details("end pods of this node, or give it a larger range"));
        }
    }
    Ok(())
}

fn takes_links(request: &Status) -> Result<(), Error> {
    let mut host = Conversation::open()
        .and_then(|mut host| link::may_change(&mut host).map(|()| host))
        .map_err(|error| {
            unavailable(format!(
                "cannot change links of the node: {}",
                chain(&error)
            ))
            .with_details("the plugin needs CAP_NET_ADMIN in the node's network namespace")
        })?;
    if let Link::Bridge(bridge) = &request.link {
        let place = attachment::Place {
            network: Arc::from(request.config.network.as_str()),
            name: Arc::from(bridge.name.as_str()),
            gateways: bridge.gateways.clone(),
            isolated: bridge.isolated,
        };
        weft_kernel::bridge::examine(&mut host, &place.bridge(request.mtu))
            .map_err(|error| unavailable(chain(&error)))?;
    }
    Ok(())
}

/// The rules about a pod with the ranges' first addresses.
fn takes_rules(request: &Status) -> Result<(), Error> {
    let ranges = request
        .ipam
        .sets
        .iter()
        .filter_map(|set| set.ranges.first());
    let addresses: Vec<IpAddr> = ranges.map(|range| range.first).collect();
    pod_rules::rehearse(&PodRules {
        link: LINK.into(),
        is_port: matches!(request.link, Link::Bridge(_)),
        mac: [0; 6],
        addresses,
        other_links: Vec::new(),
        other_addresses: Vec::new(),
        is_guarded: request.anti_spoofing,
        masquerade_beyond: request.masquerade_beyond.clone(),
        comment: "".into(),
    })
    .map_err(|error| {
        unavailable(format!(
            "cannot write rules about what pods send (nf_tables): {}",
            chain(&error)
        ))
        .with_details(
            "the kernel needs the module nf_tables; a table of this name that is not weft's has to go",
        )
    })
}

fn unavailable(message: String) -> Error {
    Error::new(Code::NotAvailable, message)
}
