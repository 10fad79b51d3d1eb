//! Routes of weft in the main table.
//!
//! A route is ours if it carries one of our protocol numbers; no other is ever
//! changed. Where somebody else has a route to a destination we want, ours is not
//! written and the conflict is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use weft_desired::{Difference, NextHop, Route, RouteKey, RouteOwner, Table, difference, mark};
use weft_sys::rtnl::{self, Batch, Conversation, RouteFilter, RouteSpec, TABLE_MAIN};

/// The protocol number of an owner's routes.
#[must_use]
pub fn protocol(owner: RouteOwner) -> u8 {
    match owner {
        RouteOwner::Pod => mark::ROUTE_POD,
        RouteOwner::Fabric => mark::ROUTE_FABRIC,
    }
}

fn owner(protocol: u8) -> Option<RouteOwner> {
    match protocol {
        mark::ROUTE_POD => Some(RouteOwner::Pod),
        mark::ROUTE_FABRIC => Some(RouteOwner::Fabric),
        _ => None,
    }
}

/// The routes that stand.
#[derive(Clone, Debug, Default)]
pub struct Actual {
    /// Ours.
    pub ours: BTreeMap<RouteKey, Route>,
    /// Somebody else's, by destination.
    pub foreign: BTreeMap<IpNet, Foreign>,
    /// Ours by their number, in a form we never write: a leftover, to be removed.
    strays: Vec<RouteSpec>,
    /// Of whoever had our tunnels before: replaced by ours, or removed.
    inherited: BTreeMap<RouteKey, RouteSpec>,
    links: Links,
}

/// A route of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its protocol number (`ip route`'s `proto`).
    pub protocol: u8,
    /// Its preference.
    pub metric: u32,
}

/// What a pass did.
#[derive(Debug, Default)]
pub struct Report {
    /// What stood beside our routes, and the links, as they were read.
    pub surroundings: Actual,
    /// Routes written where there was none.
    pub added: usize,
    /// Routes written in place of another.
    pub changed: usize,
    /// Routes removed.
    pub removed: usize,
    /// What is not as it should be. Empty: everything desired stands.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether the kernel was left as it was.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.added + self.changed + self.removed == 0
    }

    /// Whether everything stands that can: what has not been written does not lead elsewhere
    /// for a reason that may be gone the next time.
    #[must_use]
    pub fn all_stand(&self) -> bool {
        let mut reasons = self.problems.iter().map(|problem| &problem.reason);
        reasons.all(|reason| matches!(reason, Reason::Conflict(_)))
    }
}

/// One route that is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("route {}: {reason}", key.destination)]
pub struct Problem {
    /// Which.
    pub key: RouteKey,
    /// Why.
    pub reason: Reason,
}

/// Why a route is not as it should be.
#[derive(Debug)]
pub enum Reason {
    /// Somebody else has a route to the destination.
    Conflict(Foreign),
    /// The device it leads to does not exist.
    NoDevice(Arc<str>),
    /// The kernel refused it.
    Refused(rtnl::Error),
    /// The kernel took it, and it does not stand.
    NotThere,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Conflict(Foreign { protocol, metric }) => write!(
                f,
                "there is a route to it that is not weft's (proto {protocol}, metric {metric}); \
                 it is left alone: remove it, or give the node another pod range"
            ),
            Reason::NoDevice(device) => write!(f, "there is no device {device}"),
            Reason::Refused(error) => fmt::Display::fmt(error, f),
            Reason::NotThere => f.write_str(
                "the kernel acknowledged it, and it is not there; something else removes it",
            ),
        }
    }
}

/// Links by name and number, as they were when the routes were read.
#[derive(Clone, Debug, Default)]
struct Links {
    names: BTreeMap<u32, Arc<str>>,
    indices: BTreeMap<Arc<str>, u32>,
    tunnels: BTreeSet<u32>,
}

/// Reads what stands.
///
/// # Errors
/// See [`rtnl::Error`].
pub fn read(conversation: &mut Conversation) -> Result<Actual, rtnl::Error> {
    let mut actual = Actual::default();
    for link in conversation.links()? {
        if link.vxlan.is_some() && link.alias.as_deref() == Some(mark::TUNNEL_ALIAS) {
            actual.links.tunnels.insert(link.index);
        }
        let name: Arc<str> = link.name.into();
        actual.links.names.insert(link.index, name.clone());
        actual.links.indices.insert(name, link.index);
    }
    for route in conversation.routes(RouteFilter::default())? {
        let Some(owner) = owner(route.protocol) else {
            if actual.links.is_through_tunnel(&route) {
                actual.inherit(&route);
            } else {
                actual.note_foreign(&route);
            }
            continue;
        };
        let key = RouteKey {
            owner,
            destination: route.destination,
        };
        match actual.links.desired(&route) {
            // Two of ours to one destination differ in what we never set; either may go.
            Some(value) if !actual.ours.contains_key(&key) => {
                actual.ours.insert(key, value);
            }
            Some(_) | None => actual.strays.push(RouteSpec {
                destination: route.destination,
                next_hop: route.next_hop,
                protocol: route.protocol,
                source: None,
                metric: Some(route.metric),
                table: route.table,
                mtu: None,
            }),
        }
    }
    Ok(actual)
}

/// Makes the routes of one owner what they should be: reads, writes the difference, and
/// reads back what was written. Routes of the other owner and of anybody else stay as
/// they are.
///
/// # Errors
/// A failure of the conversation. A single route that can't be written is a
/// [`Problem`] in the report, and does not keep the others from being written.
pub fn reconcile(
    conversation: &mut Conversation,
    owner: RouteOwner,
    desired: &Table<RouteKey, Route>,
) -> Result<Report, rtnl::Error> {
    let actual = read(conversation)?;
    let ours = actual.owned_by(owner);
    let wanted: BTreeMap<_, _> = desired
        .iter()
        .filter(|(key, _)| key.owner == owner)
        .map(|(key, entry)| (*key, entry.value.clone()))
        .collect();
    let steps = difference(&ours, &wanted, |have, want| have == want);
    let strays: Vec<_> = actual
        .strays
        .iter()
        .filter(|stray| stray.protocol == protocol(owner))
        .chain(actual.inherited.iter().filter_map(|(key, spec)| {
            let unwanted = key.owner == owner && !wanted.contains_key(key);
            unwanted.then_some(spec)
        }))
        .collect();
    if steps.is_empty() && strays.is_empty() {
        return Ok(Report {
            surroundings: actual.surroundings(),
            ..Report::default()
        });
    }
    let mut removals = Batch::new();
    for stray in &strays {
        removals.delete_route(stray);
    }
    let removed = conversation.run(&removals)?;
    let mut report = apply(conversation, &actual, &steps)?;
    report.surroundings = actual.surroundings();
    for (stray, result) in strays.iter().zip(removed) {
        match result {
            Ok(()) => report.removed += 1,
            Err(error) => report.problems.push(Problem {
                key: RouteKey {
                    owner,
                    destination: stray.destination,
                },
                reason: Reason::Refused(error),
            }),
        }
    }
    if report.is_unchanged() {
        return Ok(report);
    }
    let standing = read(conversation)?.owned_by(owner);
    let known: BTreeSet<_> = report.problems.iter().map(|problem| problem.key).collect();
    for step in difference(&standing, &wanted, |have, want| have == want) {
        let (Difference::Add(key, _) | Difference::Change(key, _, _) | Difference::Remove(key, _)) =
            step;
        if !known.contains(key) {
            report.problems.push(Problem {
                key: *key,
                reason: Reason::NotThere,
            });
        }
    }
    Ok(report)
}

/// Takes steps from what was read towards what is desired, with few system calls.
///
/// Every mixture a packet can meet on the way is right: a route changes in one step,
/// what goes to another owner is removed right before it is added, and what is only
/// removed goes last.
///
/// # Errors
/// A failure of the conversation.
pub fn apply(
    conversation: &mut Conversation,
    actual: &Actual,
    steps: &[Difference<'_, RouteKey, Route, Route>],
) -> Result<Report, rtnl::Error> {
    let mut report = Report::default();
    let mut planned = Vec::new();
    for step in steps {
        match step {
            Difference::Add(key, route) => {
                if let Some(spec) = actual.plan(**key, route, &mut report) {
                    let step = match actual.inherited.contains_key(key) {
                        true => Step::Change,
                        false => Step::Add,
                    };
                    planned.push((step, **key, spec));
                }
            }
            Difference::Change(key, _, route) => {
                if let Some(spec) = actual.plan(**key, route, &mut report) {
                    planned.push((Step::Change, **key, spec));
                }
            }
            Difference::Remove(key, route) => {
                // A device that is gone took its routes along.
                if let Ok(spec) = actual.links.spec(**key, route) {
                    planned.push((Step::Remove, **key, spec));
                }
            }
        }
    }
    let taken: BTreeSet<_> = planned
        .iter()
        .filter(|(step, ..)| *step == Step::Add)
        .map(|(_, key, _)| key.destination)
        .collect();
    let handed_over = |(step, key, _): &(Step, RouteKey, RouteSpec)| {
        *step == Step::Remove && taken.contains(&key.destination)
    };
    let is_on_link = |spec: &RouteSpec| matches!(spec.next_hop, rtnl::NextHop::Link { .. });
    // Of those that stay in one group, the order of destinations is kept.
    planned.sort_by_key(|plan| match plan.0 {
        Step::Remove if handed_over(plan) => 0,
        // A router is reached before anything is sent through it.
        Step::Add | Step::Change if is_on_link(&plan.2) => 1,
        Step::Add | Step::Change => 2,
        Step::Remove => 3,
    });
    let mut batch = Batch::new();
    for (step, _, spec) in &planned {
        match step {
            Step::Add => batch.add_route(spec),
            Step::Change => batch.replace_route(spec),
            Step::Remove => batch.delete_route(spec),
        };
    }
    for ((step, key, _), result) in planned.iter().zip(conversation.run(&batch)?) {
        match (step, result) {
            (Step::Add, Ok(())) => report.added += 1,
            (Step::Change, Ok(())) => report.changed += 1,
            (Step::Remove, Ok(())) => report.removed += 1,
            (Step::Remove, Err(error)) if error.is_absent() => {}
            (Step::Add | Step::Change | Step::Remove, Err(error)) => {
                report.problems.push(Problem {
                    key: *key,
                    reason: Reason::Refused(error),
                });
            }
        }
    }
    Ok(report)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Add,
    Change,
    Remove,
}

impl Actual {
    /// A route of ours in desired's words; `None` for one that is anybody else's, or in a form
    /// that we never write.
    #[must_use]
    pub fn in_our_words(&self, route: &rtnl::Route) -> Option<(RouteKey, Route)> {
        let key = RouteKey {
            owner: owner(route.protocol)?,
            destination: route.destination,
        };
        Some((key, self.links.desired(route)?))
    }

    /// All but our own routes. What was inherited is ours by now, or gone.
    fn surroundings(&self) -> Self {
        Self {
            foreign: self.foreign.clone(),
            links: self.links.clone(),
            ..Self::default()
        }
    }

    fn owned_by(&self, owner: RouteOwner) -> BTreeMap<RouteKey, Route> {
        self.ours
            .iter()
            .filter(|(key, _)| key.owner == owner)
            .map(|(key, route)| (*key, route.clone()))
            .collect()
    }

    /// What leads through a tunnel of ours and is not ours.
    fn inherit(&mut self, route: &rtnl::Route) {
        let key = RouteKey {
            owner: RouteOwner::Fabric,
            destination: route.destination,
        };
        let spec = RouteSpec {
            destination: route.destination,
            next_hop: route.next_hop.clone(),
            protocol: route.protocol,
            source: None,
            metric: Some(route.metric),
            table: route.table,
            mtu: None,
        };
        self.inherited.insert(key, spec);
    }

    /// The preferred one of several stands for all.
    fn note_foreign(&mut self, route: &rtnl::Route) {
        let found = Foreign {
            protocol: route.protocol,
            metric: route.metric,
        };
        let known = self
            .foreign
            .entry(route.destination)
            .or_insert_with(|| found.clone());
        if found.metric < known.metric {
            *known = found;
        }
    }

    /// The route to write, unless something stands against it.
    fn plan(&self, key: RouteKey, route: &Route, report: &mut Report) -> Option<RouteSpec> {
        let reason = match self.foreign.get(&key.destination) {
            Some(foreign) => Reason::Conflict(foreign.clone()),
            None => match self.links.spec(key, route) {
                Ok(spec) => return Some(spec),
                Err(device) => Reason::NoDevice(device),
            },
        };
        report.problems.push(Problem { key, reason });
        None
    }
}

impl Links {
    /// `Err` is the name of a device that does not exist.
    fn spec(&self, key: RouteKey, route: &Route) -> Result<RouteSpec, Arc<str>> {
        let index = |device: &Arc<str>| self.indices.get(device).copied().ok_or(device.clone());
        let next_hop = match &route.next_hop {
            NextHop::Link { device } => rtnl::NextHop::Link {
                device: index(device)?,
            },
            NextHop::Gateway { address } => rtnl::NextHop::Gateway {
                address: *address,
                device: None,
                on_link: false,
            },
            NextHop::OnLink { address, device } => rtnl::NextHop::Gateway {
                address: *address,
                device: Some(index(device)?),
                on_link: true,
            },
            NextHop::Unreachable => rtnl::NextHop::Unreachable,
        };
        Ok(RouteSpec {
            mtu: route.mtu,
            ..RouteSpec::new(key.destination, next_hop, protocol(key.owner))
        })
    }

    /// Whether a route has the form that flannel gives those through its tunnels.
    fn is_through_tunnel(&self, route: &rtnl::Route) -> bool {
        let rtnl::NextHop::Gateway {
            address,
            device: Some(device),
            ..
        } = &route.next_hop
        else {
            return false;
        };
        self.tunnels.contains(device) && route.destination.network() == *address
    }

    /// A route that was read, as desired would write it; `None` for one that desired
    /// has no word for.
    fn desired(&self, route: &rtnl::Route) -> Option<Route> {
        let usual_metric = match route.destination {
            IpNet::V4(_) => 0,
            // IP6_RT_PRIO_USER (include/net/ip6_route.h).
            IpNet::V6(_) => 1024,
        };
        if route.metric != usual_metric || route.table != TABLE_MAIN {
            return None;
        }
        let next_hop = match &route.next_hop {
            rtnl::NextHop::Link { device } => NextHop::Link {
                device: self.names.get(device)?.clone(),
            },
            rtnl::NextHop::Gateway {
                address,
                on_link: false,
                ..
            } => NextHop::Gateway { address: *address },
            rtnl::NextHop::Gateway {
                address,
                device,
                on_link: true,
            } => NextHop::OnLink {
                address: *address,
                device: self.names.get(&(*device)?)?.clone(),
            },
            rtnl::NextHop::Unreachable => NextHop::Unreachable,
            rtnl::NextHop::Blackhole | rtnl::NextHop::Other => return None,
        };
        Some(Route {
            next_hop,
            mtu: route.mtu,
        })
    }
}
