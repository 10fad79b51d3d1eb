//! A node whose Services one of the back ends translates.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;

use weft_compile::{Compiler, ProxySettings, Settings, Touched};
use weft_desired::{Desired, IpFamily, NodeNat, Table};
use weft_iptables::Options;
use weft_kernel::iptables::{self, Rules, Whose};
use weft_kernel::service::{self, ServiceTable};
use weft_model::{Change, Object};
use weft_sys::nft::Connection;

use crate::objects;
use crate::scene::Lab;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackEnd {
    Nftables,
    Iptables,
}

impl BackEnd {
    pub(crate) const BOTH: [BackEnd; 2] = [BackEnd::Nftables, BackEnd::Iptables];
}

enum Programmed {
    Nftables(ServiceTable),
    Iptables(Rules),
}

pub(crate) struct Node {
    pub(crate) lab: Lab,
    pub(crate) back_end: BackEnd,
    compiler: Compiler,
    programmed: Programmed,
}

/// Does something with a node of each back end that has these Services.
pub(crate) fn each(proxy: &ProxySettings, objects: &[Object], mut with: impl FnMut(&mut Node)) {
    for back_end in BackEnd::BOTH {
        with(&mut Node::new(back_end, proxy.clone(), objects.to_vec()));
    }
}

/// The rules of a back end that another one has taken the place of.
pub(crate) struct Left(Programmed);

impl Left {
    /// They go, as the agent takes them away.
    pub(crate) fn remove(self, lab: &Lab) {
        match self.0 {
            Programmed::Nftables(mut table) => {
                table.reconcile(&Table::new(), &NodeNat::default()).unwrap();
            }
            Programmed::Iptables(_) => {
                let remove = || iptables::remove(&IpFamily::BOTH, Whose::Ours);
                lab.node.run(remove).unwrap().unwrap();
            }
        }
    }
}

impl Programmed {
    /// A back end that has written nothing but constant rules.
    fn new(back_end: BackEnd, lab: &Lab) -> Self {
        match back_end {
            BackEnd::Nftables => {
                let connection = Connection::in_namespace(lab.node.as_fd()).unwrap();
                let table = ServiceTable::adopt(connection, &service::IpFamily::BOTH);
                Programmed::Nftables(table.unwrap())
            }
            BackEnd::Iptables => {
                let rules = || Rules::find(&IpFamily::BOTH, &Options::default());
                Programmed::Iptables(lab.node.run(rules).unwrap().unwrap())
            }
        }
    }
}

impl Node {
    /// With its Services.
    pub(crate) fn new(back_end: BackEnd, proxy: ProxySettings, objects: Vec<Object>) -> Self {
        let mut node = Self::bare(back_end, proxy, objects);
        node.reconcile();
        node
    }

    /// Before anything was written.
    pub(crate) fn bare(back_end: BackEnd, proxy: ProxySettings, objects: Vec<Object>) -> Self {
        let lab = Lab::new(3);
        // Every refusal counts here.
        for key in ["net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"] {
            lab.node.set_sysctl(key, "0").unwrap();
        }
        let mut compiler = Compiler::new(Settings {
            node: objects::NODE.into(),
            service_ranges: ["10.96.0.0/12", "fd00:10:96::/112"]
                .map(|range| range.parse().unwrap())
                .into(),
            proxy,
            fabric: Default::default(),
        });
        compiler.set_own_addresses(objects::node_addresses());
        let all = objects::scene().into_iter().chain(objects);
        compiler.apply_all(all.map(Change::Put));
        Self {
            programmed: Programmed::new(back_end, &lab),
            lab,
            back_end,
            compiler,
        }
    }

    pub(crate) fn desired(&self) -> &Desired {
        self.compiler.desired()
    }

    /// The other back end comes, beside this one.
    pub(crate) fn take_over(&mut self) -> Left {
        self.back_end = match self.back_end {
            BackEnd::Nftables => BackEnd::Iptables,
            BackEnd::Iptables => BackEnd::Nftables,
        };
        let programmed = Programmed::new(self.back_end, &self.lab);
        let left = Left(std::mem::replace(&mut self.programmed, programmed));
        self.reconcile();
        left
    }

    /// Objects change while everything runs.
    pub(crate) fn put(&mut self, objects: Vec<Object>) {
        let touched = self
            .compiler
            .apply_all(objects.into_iter().map(Change::Put));
        self.programme(&touched);
    }

    /// The node's addresses change.
    pub(crate) fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        let touched = self.compiler.set_own_addresses(addresses);
        self.programme(&touched);
    }

    pub(crate) fn reconcile(&mut self) {
        let desired = self.compiler.desired();
        match &mut self.programmed {
            Programmed::Nftables(table) => {
                table.reconcile(&desired.frontends, &desired.nat).unwrap();
            }
            Programmed::Iptables(rules) => {
                let reconcile = || rules.reconcile(&desired.services, &desired.nat);
                self.lab.node.run(reconcile).unwrap().unwrap();
            }
        }
    }

    fn programme(&mut self, touched: &Touched) {
        let desired = self.compiler.desired();
        match &mut self.programmed {
            Programmed::Nftables(table) => {
                if touched.nat {
                    table.apply_nat(&desired.nat).unwrap();
                }
                let changes = touched.frontends.iter().map(|key| {
                    let entry = desired.frontends.get(key);
                    (*key, entry.map(|entry| &entry.value))
                });
                table.apply(changes).unwrap();
                table.forget_clients().unwrap();
            }
            // What a node's own addresses are stands in its rules.
            Programmed::Iptables(_) if touched.own_node => self.reconcile(),
            Programmed::Iptables(rules) => {
                let changes = touched.services.iter().map(|key| {
                    let entry = desired.services.get(key);
                    (key, entry.map(|entry| &entry.value))
                });
                let apply = || rules.apply(changes, &desired.services);
                self.lab.node.run(apply).unwrap().unwrap();
            }
        }
    }
}
