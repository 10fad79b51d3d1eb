//! What this host's kernel holds.

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};
use weft_compile::{Compiler, FabricBackend, ProxySettings, Settings};
use weft_desired::{Desired, IpFamily, NextHop};
use weft_model::{Announced, Change, NodeName, Object, Vtep};
use weft_proto::flannel::{Holder, Lease, NetConf, VxlanEnd};
use weft_sys::rtnl::Event;

use super::hosts::{self, Hosts, Own};
use super::masquerade::Masquerade;
use super::own_addresses::OwnAddresses;
use super::session::News;
use crate::agent::asked::Asked;
use crate::agent::fabric;
use crate::agent::forwarding::Forwarding;
use crate::agent::kernel::Outcome;
use crate::agent::retry::{Extent, Failure, Retry};
use crate::agent::subnet_file::SubnetFile;
use crate::fabric::told::{Question, Told};
use crate::problems::Problems;

pub(super) struct Host {
    addresses: OwnAddresses,
    name: NodeName,
    backend: FabricBackend,
    compiler: Compiler,
    hosts: Hosts,
    /// Nothing is written before it is known: what the kernel holds stays in force.
    own: Option<Own>,
    forwarding: Forwarding,
    masquerade: Masquerade,
    subnet_file: SubnetFile,
    wanted: watch::Sender<Holder>,
    retry: Retry,
    problems: Problems,
}

impl Host {
    pub(super) fn new(
        conf: &NetConf,
        addresses: OwnAddresses,
        mut forwarding: Forwarding,
        masquerade: Masquerade,
        subnet_file: SubnetFile,
        wanted: watch::Sender<Holder>,
    ) -> Result<Self> {
        let fabric = fabric::of_flannel(&conf.backend);
        // Its Ethernet address follows from it, and stays.
        let name = NodeName::from(addresses.public.0.to_string());
        let backend = fabric.backend;
        let mut compiler = Compiler::new(Settings {
            node: name.clone(),
            service_ranges: Vec::new(),
            proxy: ProxySettings::default(),
            fabric,
        });
        compiler.set_uplinks(forwarding.uplinks()?);
        Ok(Self {
            addresses,
            name,
            backend,
            compiler,
            hosts: Hosts::default(),
            own: None,
            forwarding,
            masquerade,
            subnet_file,
            wanted,
            retry: Retry::default(),
            problems: Problems::default(),
        })
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry.at()
    }

    /// Whether the kernel tells of something that was not written here.
    pub(super) fn is_news(&self, event: &Event) -> bool {
        self.forwarding.is_news(event)
    }

    /// Takes in what etcd says.
    pub(super) fn take(&mut self, news: News) {
        let changes = match news {
            News::Listed {
                prefix,
                entries,
                own,
            } => {
                let mut changes = self.hosts.listed(&prefix, entries, &own);
                changes.push(self.own_node(&own));
                self.own = Some(own);
                changes
            }
            News::Changed { prefix, events } => match &self.own {
                Some(own) => self.hosts.changed(&prefix, events, own),
                None => Vec::new(),
            },
            News::Said(own) => {
                let change = self.own_node(&own);
                self.own = Some(own);
                vec![change]
            }
        };
        self.compiler.apply_all(changes);
        self.write("etcd");
    }

    /// Looks at the host's own links, and repairs what differs.
    pub(super) fn look(&mut self, why: &'static str) {
        match self.forwarding.uplinks() {
            Ok(uplinks) => drop(self.compiler.set_uplinks(uplinks)),
            Err(error) => warn!(error = %format!("{error:#}"), "tunnels stay as they are"),
        }
        self.write(why);
    }

    /// Tells who asks on the host; by the names of their leases, others are.
    pub(super) fn answer(&self, Asked { question, answer }: Asked) {
        let told = match question {
            Question::State => Some(Told::new(
                &self.compiler,
                &self.name,
                fabric::name(self.backend),
            )),
            // Hosts ask each other nothing.
            Question::Check => None,
        };
        match serde_json::to_string(&told) {
            // Who asked may have gone.
            Ok(text) => drop(answer.send(text)),
            Err(error) => warn!(%error, "a question about the fabric is not answered"),
        }
    }

    fn own_node(&self, own: &Own) -> Change {
        let lease = Lease {
            subnets: own.subnets,
            holder: own.holder.clone(),
        };
        let local = self.addresses.local.clone();
        let mut node = hosts::node(self.name.clone(), &lease, local);
        node.announced.overwrites = self.addresses.public();
        Change::Put(Object::Node(node))
    }

    /// Reads back what leads to other hosts, and writes what differs.
    pub(super) fn write(&mut self, why: &'static str) {
        if self.own.is_none() {
            return;
        }
        let mut outcome = Outcome::default();
        let desired = without_own(self.compiler.desired());
        let written = self.forwarding.write(&desired, &mut outcome);
        let written = written.and_then(|()| self.masquerade.write());
        let written = written.and_then(|()| self.tell());
        let (failure, error) = match (written, outcome.problems.split_first()) {
            (Err(error), _) => (Failure::Unknown, format!("{error:#}")),
            (Ok(()), Some((first, _))) => (Failure::Single, first.clone()),
            (Ok(()), None) => {
                self.retry.succeeded(Extent::Everything);
                if outcome.writes > 0 {
                    info!(why, writes = outcome.writes, "ways to other hosts written");
                }
                return self.problems.report(self.compiler.problems());
            }
        };
        let pause = self
            .retry
            .failed(Instant::now(), Extent::Everything, failure);
        warn!(
            why,
            error,
            ?pause,
            "the kernel is not in the desired state; trying again"
        );
        self.problems.report(self.compiler.problems());
    }

    /// Tells the others of the tunnel that stands, and this host's programs of its subnet.
    fn tell(&mut self) -> Result<()> {
        let (Some(own), Some(node)) = (&self.own, self.compiler.own_node()) else {
            return Ok(());
        };
        let desired = self.compiler.desired();
        let standing = self.forwarding.standing();
        if let Some(announced) = fabric::announced(
            node,
            desired,
            self.backend,
            &standing,
            &fabric::OwnAddresses {
                public: &[],
                uplinks: self.compiler.uplinks(),
            },
        ) {
            let holder = said(&own.holder, &announced);
            self.wanted.send_if_modified(|wanted| {
                let differs = *wanted != holder;
                *wanted = holder;
                differs
            });
        }
        let mtu = self.compiler.mtu().with_context(|| {
            let local = &self.addresses.local;
            format!("no link has this host's address {local:?}; say which it is now (--iface)")
        })?;
        let subnets: Vec<_> = own.subnets.all().collect();
        self.subnet_file.write(&subnets, mtu)
    }
}

/// The agent leads packets to addresses that no pod has nowhere. Here what gives addresses to
/// containers, such as Docker's bridge, has a route of its own for the host's subnet.
fn without_own(desired: &Desired) -> Desired {
    let routes = desired.routes.iter();
    let others = routes.filter(|(_, entry)| entry.value.next_hop != NextHop::Unreachable);
    Desired {
        routes: others.map(|(key, entry)| (*key, entry.clone())).collect(),
        tunnels: desired.tunnels.clone(),
        tunnel_peers: desired.tunnel_peers.clone(),
        udp_tunnel: desired.udp_tunnel.clone(),
        udp_peers: desired.udp_peers.clone(),
        udp_senders: desired.udp_senders.clone(),
        ..Desired::default()
    }
}

/// What the lease is to say.
fn said(own: &Holder, announced: &Announced) -> Holder {
    let data = |family: IpFamily| {
        let vtep = match family {
            IpFamily::V4 => announced.vtep_v4,
            IpFamily::V6 => announced.vtep_v6,
        };
        vtep.map(|Vtep { vni, mac }| VxlanEnd { vni, mac }.to_value())
    };
    Holder {
        backend_type: announced.backend.as_deref().unwrap_or_default().to_owned(),
        backend_data: data(IpFamily::V4),
        backend_v6_data: data(IpFamily::V6),
        ..own.clone()
    }
}
