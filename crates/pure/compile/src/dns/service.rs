//! The names of one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_desired::{DomainName, NotADomainName, ServiceRecord};
use weft_model::{
    Cluster, Endpoint, EndpointPort, Port, PortName, Protocol, Service, ServiceAddress,
};

use super::{Claiming, DnsSettings, Strength, name_server};
use crate::claim::Rank;

/// A ready endpoint under the label of its name. An endpoint with two addresses, one a
/// family, is two of these.
type Endpoints = BTreeMap<(String, IpAddr), BTreeSet<EndpointPort>>;

/// A port of an endpoint: its label, address and port.
type Reachable<'a> = (&'a str, IpAddr, Port);

/// One way to reach a named thing: what an SRV record and its address record say.
struct Target<'a> {
    name: &'a DomainName,
    address: IpAddr,
    port: Port,
}

pub(super) fn claims(
    claiming: &mut Claiming,
    settings: &DnsSettings,
    cluster: &Cluster,
    service: &Service,
) {
    let Some(name) = service_name(claiming, settings, service) else {
        return;
    };
    match &service.address {
        ServiceAddress::Alias(target) => alias(claiming, name, target),
        ServiceAddress::Virtual(addresses) => {
            let endpoints = ready_endpoints(cluster, service);
            virtual_service(claiming, &name, addresses, service);
            endpoint_names(claiming, &name, &endpoints);
            serve_zone(claiming, settings, &name, addresses, &endpoints);
        }
        ServiceAddress::Headless => {
            let endpoints = ready_endpoints(cluster, service);
            headless_service(claiming, &name, &endpoints);
            endpoint_names(claiming, &name, &endpoints);
            serve_zone_headless(claiming, settings, &name, &endpoints);
        }
    }
}

fn service_name(
    claiming: &mut Claiming,
    settings: &DnsSettings,
    service: &Service,
) -> Option<DomainName> {
    let mut name = None;
    claiming.attempt("the Service", |_| {
        name = Some(
            settings
                .zone
                .child("svc")?
                .child(&service.key.namespace)?
                .child(&service.key.name)?,
        );
        Ok(())
    });
    name
}

fn alias(claiming: &mut Claiming, name: DomainName, target: &str) {
    if target.parse::<IpAddr>().is_ok() {
        claiming.problems.push(format!(
            "spec.externalName {target:?} is an address, and an alias leads to a name; \
             a Service without selector and an EndpointSlice lead to an address"
        ));
        return;
    }
    claiming.attempt("spec.externalName", |claiming| {
        let target = DomainName::parse(target)?;
        claiming.claim(name, Strength::Shared).alias = Some(target);
        Ok(())
    });
}

fn virtual_service(
    claiming: &mut Claiming,
    name: &DomainName,
    addresses: &[IpAddr],
    service: &Service,
) {
    claiming
        .claim(name.clone(), Strength::Shared)
        .addresses
        .extend(addresses);
    let targets = |ports: &mut dyn Iterator<Item = Port>| -> Vec<Target<'_>> {
        ports
            .flat_map(|port| {
                addresses.iter().map(move |address| Target {
                    name,
                    address: *address,
                    port,
                })
            })
            .collect()
    };
    let all = targets(&mut service.ports.iter().map(|port| port.port));
    add_services(claiming, name, &all);
    for port in &service.ports {
        let of_port = targets(&mut std::iter::once(port.port));
        named_port(claiming, name, &port.name, port.protocol, &of_port);
    }
    let rank = Rank {
        created: service.created,
        uid: service.uid.clone(),
    };
    for address in addresses {
        claiming
            .claim(
                DomainName::reverse(*address),
                Strength::Exclusive(rank.clone()),
            )
            .pointers
            .insert(name.clone());
    }
}

/// No ready endpoint, no name.
fn headless_service(claiming: &mut Claiming, name: &DomainName, endpoints: &Endpoints) {
    let mut by_port: BTreeMap<(&PortName, Protocol), Vec<Reachable<'_>>> = BTreeMap::new();
    let mut all: Vec<Reachable<'_>> = Vec::new();
    for ((label, address), ports) in endpoints {
        claiming
            .claim(name.clone(), Strength::Shared)
            .addresses
            .insert(*address);
        for port in ports {
            let target = (label.as_str(), *address, port.port);
            all.push(target);
            by_port
                .entry((&port.name, port.protocol))
                .or_default()
                .push(target);
        }
    }
    with_targets(claiming, name, &all, |claiming, targets| {
        add_services(claiming, name, targets);
    });
    for ((port, protocol), reachable) in by_port {
        with_targets(claiming, name, &reachable, |claiming, targets| {
            named_port(claiming, name, port, protocol, targets);
        });
    }
}

/// Each endpoint's own name, and its address's name.
fn endpoint_names(claiming: &mut Claiming, service: &DomainName, endpoints: &Endpoints) {
    let mut by_label: BTreeMap<&str, Vec<(IpAddr, Port)>> = BTreeMap::new();
    for ((label, address), ports) in endpoints {
        let reachable = by_label.entry(label).or_default();
        reachable.extend(ports.iter().map(|port| (*address, port.port)));
        claiming.attempt("an endpoint", |claiming| {
            let name = service.child(label)?;
            claiming
                .claim(name.clone(), Strength::Shared)
                .addresses
                .insert(*address);
            claiming
                .claim(DomainName::reverse(*address), Strength::Shared)
                .pointers
                .insert(name);
            Ok(())
        });
    }
    for (label, reachable) in by_label {
        let Ok(name) = service.child(label) else {
            continue;
        };
        let targets: Vec<Target<'_>> = reachable
            .into_iter()
            .map(|(address, port)| Target {
                name: &name,
                address,
                port,
            })
            .collect();
        add_services(claiming, &name, &targets);
    }
}

/// `_port._protocol.<name>`, for a port that has a name.
fn named_port(
    claiming: &mut Claiming,
    name: &DomainName,
    port: &PortName,
    protocol: Protocol,
    targets: &[Target<'_>],
) {
    if port.as_str().is_empty() {
        return;
    }
    claiming.attempt("a port", |claiming| {
        let protocol = name.child(&format!("_{protocol}"))?;
        let name = protocol.child(&format!("_{}", port.as_str()))?;
        claiming.claim(name.clone(), Strength::Shared);
        add_services(claiming, &name, targets);
        Ok(())
    });
}

/// Adds an SRV record per target and port, and the targets' addresses. All weigh the
/// same: their share of 100, at least 1. Two addresses of one target count twice, though
/// they are one record (as in CoreDNS).
fn add_services(claiming: &mut Claiming, name: &DomainName, targets: &[Target<'_>]) {
    if targets.is_empty() {
        return;
    }
    let records = claiming.claim(name.clone(), Strength::Shared);
    let weight = u16::try_from(100 / targets.len()).map_or(1, |weight| weight.max(1));
    for target in targets {
        records.services.insert(ServiceRecord {
            target: target.name.clone(),
            port: target.port.number(),
            priority: 0,
            weight,
        });
        records
            .additional
            .entry(target.name.clone())
            .or_default()
            .insert(target.address);
    }
}

/// Resolves endpoint labels to names below the Service's.
fn with_targets(
    claiming: &mut Claiming,
    service: &DomainName,
    reachable: &[Reachable<'_>],
    add: impl FnOnce(&mut Claiming, &[Target<'_>]),
) {
    let named: Vec<(DomainName, IpAddr, Port)> = reachable
        .iter()
        .filter_map(|(label, address, port)| Some((service.child(label).ok()?, *address, *port)))
        .collect();
    let targets: Vec<Target<'_>> = named
        .iter()
        .map(|(name, address, port)| Target {
            name,
            address: *address,
            port: *port,
        })
        .collect();
    add(claiming, &targets);
}

/// If this server is one of the Service's endpoints, the Service is the zone's name server.
fn serve_zone(
    claiming: &mut Claiming,
    settings: &DnsSettings,
    name: &DomainName,
    addresses: &[IpAddr],
    endpoints: &Endpoints,
) {
    if serves(settings, endpoints) {
        let server = (name.clone(), addresses.iter().copied().collect());
        be_name_server(claiming, settings, [server]);
    }
}

/// As [`serve_zone`], by the endpoints' names.
fn serve_zone_headless(
    claiming: &mut Claiming,
    settings: &DnsSettings,
    name: &DomainName,
    endpoints: &Endpoints,
) {
    if serves(settings, endpoints) {
        let mut servers: BTreeMap<DomainName, BTreeSet<IpAddr>> = BTreeMap::new();
        for (label, address) in endpoints.keys() {
            if let Ok(server) = name.child(label) {
                servers.entry(server).or_default().insert(*address);
            }
        }
        be_name_server(claiming, settings, servers);
    }
}

fn serves(settings: &DnsSettings, endpoints: &Endpoints) -> bool {
    endpoints
        .keys()
        .any(|(_, address)| settings.own_addresses.contains(address))
}

fn be_name_server(
    claiming: &mut Claiming,
    settings: &DnsSettings,
    servers: impl IntoIterator<Item = (DomainName, BTreeSet<IpAddr>)>,
) {
    claiming.attempt("the name server", |claiming| {
        let alias = name_server(&settings.zone)?;
        for (name, addresses) in servers {
            claiming
                .claim(alias.clone(), Strength::Shared)
                .addresses
                .extend(&addresses);
            let apex = claiming.claim(settings.zone.clone(), Strength::Shared);
            apex.name_servers.insert(name.clone());
            apex.additional.insert(name, addresses);
        }
        Ok::<(), NotADomainName>(())
    });
}

fn ready_endpoints(cluster: &Cluster, service: &Service) -> Endpoints {
    let mut endpoints = Endpoints::new();
    for slice in cluster.slices_of(&service.key) {
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready) {
            // The API gives the further addresses no meaning.
            let Some(address) = endpoint.address() else {
                continue;
            };
            endpoints
                .entry((label(endpoint, address), address))
                .or_default()
                .extend(slice.ports.iter().cloned());
        }
    }
    endpoints
}

/// The endpoint's hostname, else its address with dashes. A label may not end in one, so
/// an IPv6 address that ends in `::` gets a zero.
fn label(endpoint: &Endpoint, address: IpAddr) -> String {
    if let Some(hostname) = endpoint
        .details
        .hostname
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        return hostname.to_ascii_lowercase();
    }
    let mut label = address.to_string().replace(['.', ':'], "-");
    if label.ends_with('-') {
        label.push('0');
    }
    label
}
