//! ADD.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use weft_compile::attachment;
use weft_desired::PodLink;
use weft_nodestate::{Attachment, Attachments, Bridge, Held, Pod, Pool, RecordError, digest};
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
    let records = Attachments::under(Path::new(&request.config.state_dir));
    let before = Before::find(request, &records)?;
    let pool = Pool::under(
        Path::new(&request.config.data_dir),
        &request.config.network,
        &records,
    );
    routers_are_free(request, &pool)?;
    let record = reserve(request, namespace.as_fd(), &records, &pool, &before)?;
    let link = compiled(&record);
    let is_new = matches!(before, Before::Nothing);
    let mut is_unlinked = false;
    // On disk before the kernel knows of them.
    let synced = pool.sync(&record.addresses);
    let attached = synced.map_err(|error| pool_error(&error)).and_then(|()| {
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
    });
    if let Err(error) = attached {
        // A living pod keeps its link when a setting or a port of a repeated ADD fails.
        if matches!(before, Before::Stood(_)) && !is_unlinked {
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

/// What an ADD before this one left.
enum Before {
    Nothing,
    /// A record that can't be read: anything may be there.
    Damaged,
    Stood(Box<Attachment>),
}

impl Before {
    fn find(request: &Attach, records: &Attachments) -> Result<Self, Error> {
        match records.read(&request.key) {
            Ok(None) => Ok(Before::Nothing),
            Ok(Some(record)) if record.network == request.config.network => {
                Ok(Before::Stood(Box::new(record)))
            }
            Ok(Some(record)) => {
                // The interface belonged to another network, whose DEL never came.
                del::undo(records, &record)?;
                Ok(Before::Nothing)
            }
            Err(RecordError::Damaged(damaged)) => {
                note(&format_args!("{damaged}; attaching anew"));
                Ok(Before::Damaged)
            }
            Err(error) => Err(record_error(&error)),
        }
    }

    fn held(&self) -> Held<'_> {
        match self {
            Before::Nothing => Held::Nothing,
            Before::Damaged => Held::Unknown,
            Before::Stood(record) => Held::These(&record.addresses),
        }
    }
}

/// Takes addresses and writes the record that names them.
fn reserve(
    request: &Attach,
    namespace: BorrowedFd<'_>,
    records: &Attachments,
    pool: &Pool,
    before: &Before,
) -> Result<Attachment, Error> {
    let written = |addresses: &[IpAddr]| {
        let record = record(request, namespace, addresses);
        records.write(&record)?;
        Ok(record)
    };
    let reserved = pool.allocate(&request.key, &request.ipam, before.held(), written);
    reserved.map_err(|error| {
        // What stood whole before stays; what can't be read goes.
        if matches!(before, Before::Damaged)
            && let Err(second) = del::remove(records, &request.key, pool, Held::Unknown)
        {
            note(&second);
        }
        pool_error(&error)
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

fn record(request: &Attach, namespace: BorrowedFd<'_>, addresses: &[IpAddr]) -> Attachment {
    Attachment {
        key: request.key.clone(),
        network: request.config.network.clone(),
        data_dir: PathBuf::from(&request.config.data_dir),
        netns: PathBuf::from(&request.netns),
        netns_inode: namespace::identity(namespace).ok().map(|(_, inode)| inode),
        host_link: attachment::host_name(&digest(&request.key)),
        mtu: request.mtu,
        addresses: addresses.to_vec(),
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
