//! ADD.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use weft_compile::attachment;
use weft_desired::PodLink;
use weft_nodestate::{
    Attachment, Attachments, Bridge, Durability, Held, Pod, Pool, RecordError, Unsynced, digest,
};
use weft_proto::cni::{AddResult, Attach, Code, Error, Interface, IpConfig, Link, Route};
use weft_sys::namespace;
use weft_sys::nft::Connection;
use weft_sys::rtnl::Mac;

use super::node::Node;
use super::{
    bandwidth, chained, compiled, del, gate, host_port, link, note, open_namespace, pod_rules,
    pool_error, record_error, sysctl,
};

/// Attaches a container; called again after a failure or a crash it goes on from
/// where it is.
pub(super) fn add(request: &Attach) -> Result<AddResult, Error> {
    let namespace = open_namespace(&request.netns)?;
    if let (Link::Absent, Some(previous)) = (&request.link, &request.previous) {
        return chained::add(request, namespace.as_fd(), previous);
    }
    let intent = intent(request, namespace.as_fd());
    let records = Attachments::under(Path::new(&request.config.state_dir));
    let before = match records.read(&request.key) {
        Ok(before) => before,
        Err(RecordError::Damaged(damaged)) => {
            note(&format_args!("{damaged}; attaching anew"));
            Some(intent.clone())
        }
        Err(error) => return Err(record_error(&error)),
    };
    let before = match before {
        Some(before) if before.network != request.config.network => {
            // The interface belonged to another network, whose DEL never came.
            del::undo(&records, &before)?;
            None
        }
        other => other,
    };
    let stood = before.as_ref().is_some_and(Attachment::is_complete);
    let pool = Pool::under(
        Path::new(&request.config.data_dir),
        &request.config.network,
        &records,
    );
    routers_are_free(request, &pool)?;
    let held = match &before {
        None => {
            // Survives the process, not a power cut: after one no container is left
            // that could ask for its address again.
            records
                .write(&intent, Durability::Process)
                .map_err(|error| record_error(&error))?;
            Held::Nothing
        }
        Some(before) if before.is_complete() => Held::These(&before.addresses),
        Some(_) => Held::Unknown,
    };
    let addresses = match pool.allocate(&request.key, &request.ipam, held) {
        Ok(addresses) => addresses,
        Err(error) => {
            // What stood whole before stays; what an ADD that died had begun goes.
            if !stood && let Err(second) = del::undo(&records, &intent) {
                note(&second);
            }
            return Err(pool_error(&error));
        }
    };
    let record = Attachment {
        addresses,
        ..intent
    };
    let link = compiled(&record);
    // One that stood before is not put at risk: it keeps its name until the new one is on disk.
    let written = if stood {
        let written = records.write(&record, Durability::Power);
        written.map(|()| None)
    } else {
        records.begin(&record).map(Some)
    };
    let is_new = before.is_none();
    let mut is_unlinked = false;
    let attached = written
        .map_err(|error| record_error(&error))
        .and_then(|unsynced| {
            while_synced(unsynced.as_ref(), || {
                let pod = namespace.as_fd();
                let mut node = Node::open()?;
                let mut inside = pod_rules::inside(&record.key, pod)?;
                // Before the link: no packet of it passes them by.
                pod_rules::set(&mut node, &mut inside, &records, &record, is_new)?;
                let Node { links, rules } = &mut node;
                link::attach(links, &mut inside, pod, &record.key, &link, is_new)
                    .inspect_err(|_| is_unlinked = true)?;
                sysctl::apply(request, pod)?;
                bandwidth::set(links, request, &link, is_new)?;
                open_ports(rules, request, &record, &link, is_new)?;
                gate::pass(request, &record)
            })
        });
    if let Err(error) = attached {
        // A living pod keeps its link when a setting or a port of a repeated ADD fails.
        if stood && !is_unlinked {
            return Err(error);
        }
        return Err(match del::undo(&records, &record) {
            Ok(()) => error,
            Err(second) => {
                let details = format!("undoing it failed too: {second}; DEL will try again");
                error.with_details(details)
            }
        });
    }
    let own = result(request, &link);
    Ok(match &request.previous {
        Some(previous) => previous.clone().followed_by(own),
        None => own,
    })
}

/// Before the bridge has an address it must be no pod's, from when pods here had routed links.
fn routers_are_free(request: &Attach, pool: &Pool) -> Result<(), Error> {
    let Link::Bridge(bridge) = &request.link else {
        return Ok(());
    };
    for gateway in &bridge.gateways {
        let address = gateway.addr();
        if pool
            .is_anothers(&request.key, address)
            .map_err(|error| pool_error(&error))?
        {
            return Err(Error::new(
                Code::InvalidConfig,
                format!(
                    "bridge: {} would have {address}, which a pod has",
                    bridge.name
                ),
            )
            .with_details(
                "end that pod (`weft ipam show` names it), or give the range another gateway",
            ));
        }
    }
    Ok(())
}

/// Works while the disk does. The record has to be there before the kernel is touched, and on
/// disk before ADD answers: a power cut in between takes the link along.
fn while_synced(
    unsynced: Option<&Unsynced>,
    work: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(unsynced) = unsynced else {
        return work();
    };
    std::thread::scope(|scope| {
        let disk = std::thread::Builder::new().spawn_scoped(scope, || unsynced.sync());
        let done = work();
        let synced = match disk {
            Ok(disk) => disk.join().unwrap_or_else(|_| unsynced.sync()),
            // No thread to be had: one after the other.
            Err(_) => unsynced.sync(),
        };
        done.and(synced.map_err(|error| record_error(&error)))
    })
}

/// The pod's ports on the node. A pod without has those closed that led to its address before.
fn open_ports(
    rules: &mut Connection,
    request: &Attach,
    record: &Attachment,
    link: &PodLink,
    is_new: bool,
) -> Result<(), Error> {
    let node = &request.node_addresses;
    let ports = host_port::compiled(&request.mappings, node, &record.addresses);
    // What answers at the node's own loopback address comes in by the bridge.
    let device = link
        .bridge
        .as_ref()
        .map_or(&link.host_name, |bridge| &bridge.name);
    let write = match is_new {
        true => host_port::begin,
        false => host_port::set,
    };
    write(rules, &record.key, &ports, &record.addresses, device)
}

/// The record of an ADD that has begun.
fn intent(request: &Attach, namespace: BorrowedFd<'_>) -> Attachment {
    Attachment {
        key: request.key.clone(),
        network: request.config.network.clone(),
        data_dir: PathBuf::from(&request.config.data_dir),
        netns: PathBuf::from(&request.netns),
        netns_inode: namespace::identity(namespace).ok().map(|(_, inode)| inode),
        host_link: attachment::host_name(&digest(&request.key)),
        mtu: request.mtu,
        addresses: Vec::new(),
        node_addresses: request.node_addresses.clone(),
        mac: request.mac,
        routes: request.ipam.routes.clone(),
        bridge: match &request.link {
            Link::Bridge(bridge) => Some(Bridge {
                name: bridge.name.as_str().to_owned(),
                gateways: bridge.gateways.clone(),
                isolated: bridge.isolated,
            }),
            Link::Routed | Link::Absent => None,
        },
        anti_spoofing: request.anti_spoofing,
        other_addresses: request
            .previous
            .iter()
            .flat_map(|previous| previous.ips.iter().map(|ip| ip.address.addr()))
            .collect(),
        masquerade_beyond: request.masquerade_beyond.clone(),
        pod: request.pod.as_ref().map(|pod| Pod {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }),
    }
}

/// What ADD answers for an attachment.
pub(super) fn result(request: &Attach, link: &PodLink) -> AddResult {
    let host = Interface {
        name: link.host_name.to_string(),
        mac: Some(Mac(link.host_mac).to_string()),
        mtu: Some(link.mtu),
        ..Interface::default()
    };
    let pod = Interface {
        name: request.key.interface.as_str().to_owned(),
        mac: Some(Mac(link.pod_mac).to_string()),
        mtu: Some(link.mtu),
        sandbox: Some(request.netns.clone()),
        ..Interface::default()
    };
    let gateway_like = |address: IpAddr| {
        let mut gateways = link.gateways.iter().copied();
        gateways.find(|gateway| gateway.is_ipv4() == address.is_ipv4())
    };
    let bridge = link.bridge.as_ref().map(|bridge| Interface {
        name: bridge.name.to_string(),
        mac: Some(Mac(bridge.mac).to_string()),
        mtu: Some(bridge.mtu),
        ..Interface::default()
    });
    let interfaces: Vec<Interface> = bridge.into_iter().chain([host, pod]).collect();
    let last = interfaces.len() - 1;
    AddResult {
        interfaces,
        ips: link
            .addresses
            .iter()
            .map(|address| IpConfig {
                interface: Some(last),
                address: *address,
                gateway: gateway_like(address.addr()),
            })
            .collect(),
        routes: link
            .routes
            .iter()
            .map(|destination| Route::via(*destination, gateway_like(destination.addr())))
            .collect(),
        dns: request.dns.clone(),
    }
}
