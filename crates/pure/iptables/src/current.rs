//! The rules of one Service port in today's generation.

use std::collections::BTreeSet;

use weft_desired::{IpFamily, Policy, ServicePort, ServicePortKey};

use crate::chain::{Chain, ServiceChains};
use crate::fragment::{Fragment, Portal, Shared, endpoint_chains, spread};
use crate::rule::{Match, Rule, Target};
use crate::settings::{Settings, localhost};

/// The counter of what reaches a node port at 127.0.0.1.
const LOCALHOST_NODE_PORTS: &str = "localhost_nps_accepted_pkts";

/// Renders a port. `comments`: whether endpoints' rules carry comments.
pub(crate) fn render(
    key: &ServicePortKey,
    port: &ServicePort,
    settings: &Settings,
    comments: bool,
) -> Fragment {
    let endpoints = &port.endpoints;
    let has = |policy| match policy {
        Policy::Cluster => endpoints.any,
        Policy::Local => endpoints.any && !endpoints.local.is_empty(),
    };
    let view = View {
        key,
        port,
        settings,
        portal: Portal {
            protocol: key.protocol,
            port: port.port,
        },
        inside: has(port.internal_policy),
        outside: has(port.external_policy),
        chains: ServiceChains::new(&port.label, key.protocol),
    };
    let mut fragment = Fragment::default();
    view.portals(&mut fragment);
    view.refusals(&mut fragment);
    view.masquerade_inside(&mut fragment);
    if endpoints.any && port.is_external() {
        view.external(&mut fragment);
    }
    if view.filters_sources() {
        view.firewall(&mut fragment);
    }
    view.endpoints(&mut fragment, comments);
    fragment
}

struct View<'a> {
    key: &'a ServicePortKey,
    port: &'a ServicePort,
    settings: &'a Settings,
    portal: Portal,
    chains: ServiceChains,
    /// Whether connections to the cluster address have an endpoint.
    inside: bool,
    /// Whether connections from outside have one.
    outside: bool,
}

impl View<'_> {
    fn label(&self) -> &str {
        &self.port.label
    }

    fn of(&self, policy: Policy) -> Chain {
        match policy {
            Policy::Cluster => self.chains.cluster(),
            Policy::Local => self.chains.local(),
        }
    }

    fn filters_sources(&self) -> bool {
        self.port.endpoints.any
            && !self.port.load_balancer_addresses.is_empty()
            && !self.port.source_ranges.is_empty()
    }

    /// Where packets enter the port's chains.
    fn portals(&self, fragment: &mut Fragment) {
        let (port, label) = (self.port, self.label());
        if let Some(address) = port.cluster_address.filter(|_| self.inside) {
            let rule = self.portal.at(address, format!("{label} cluster IP"));
            fragment.share(Shared::Portals, rule.jump(self.of(port.internal_policy)));
        }
        if !port.endpoints.any {
            return;
        }
        for address in &port.external_addresses {
            let rule = self.portal.at(*address, format!("{label} external IP"));
            fragment.share(Shared::Portals, rule.jump(self.chains.external()));
        }
        for address in &port.load_balancer_addresses {
            let rule = self.portal.at(*address, format!("{label} loadbalancer IP"));
            let chain = if self.filters_sources() {
                self.chains.firewall()
            } else {
                self.chains.external()
            };
            fragment.share(Shared::Portals, rule.jump(chain));
        }
        if let Some(number) = port.node_port {
            let rule = || Rule::about(label).of(self.key.protocol, Some(number));
            let counted = self.settings.counters && self.settings.localhost_node_ports;
            if counted && self.key.family == IpFamily::V4 {
                let rule = rule()
                    .to(localhost())
                    .with(Match::Count(LOCALHOST_NODE_PORTS));
                fragment.share(Shared::NodePorts, rule.jump(self.chains.external()));
            }
            fragment.share(Shared::NodePorts, rule().jump(self.chains.external()));
        }
    }

    /// What is told to, or kept from, clients that no endpoint is there for.
    fn refusals(&self, fragment: &mut Fragment) {
        let (port, label) = (self.port, self.label());
        let (comment, target) = if port.endpoints.any {
            (format!("{label} has no local endpoints"), Target::Drop)
        } else {
            let target = self.settings.refusal(self.key.protocol);
            (format!("{label} has no endpoints"), target)
        };
        if let Some(address) = port.cluster_address.filter(|_| !self.inside) {
            let rule = self.portal.at(address, comment.clone());
            fragment.share(Shared::Refused, rule.then(target.clone()));
        }
        if self.filters_sources() {
            let chain = self.chains.firewall();
            let comment = format!("{label} traffic not accepted by {chain}");
            for address in &port.load_balancer_addresses {
                let rule = self.portal.at(*address, comment.clone());
                fragment.share(Shared::Firewall, rule.then(Target::Drop));
            }
        }
        if !self.outside {
            let external = port.external_addresses.iter();
            for address in external.chain(&port.load_balancer_addresses) {
                let rule = self.portal.at(*address, comment.clone());
                fragment.share(Shared::RefusedExternal, rule.then(target.clone()));
            }
            if let Some(number) = port.node_port {
                let rule = Rule::about(comment)
                    .with(Match::ToNode)
                    .of(self.key.protocol, Some(number));
                fragment.share(Shared::RefusedExternal, rule.then(target));
            }
        }
        fragment.health_check(port);
    }

    /// What comes from outside the cluster to the cluster address may leave the node again,
    /// so its answers have to come back here.
    fn masquerade_inside(&self, fragment: &mut Fragment) {
        let Some(address) = self.port.cluster_address.filter(|_| self.inside) else {
            return;
        };
        let rule = self
            .portal
            .at(address, format!("{} cluster IP", self.label()));
        let rule = if self.settings.masquerade_all {
            Some(rule)
        } else {
            self.settings.local_traffic.exclude(rule)
        };
        if let Some(rule) = rule {
            fragment
                .chain(self.of(self.port.internal_policy))
                .push(rule.jump(Chain::MARK_MASQ));
        }
    }

    fn external(&self, fragment: &mut Fragment) {
        let label = self.label();
        let rules = fragment.chain(self.chains.external());
        match self.port.external_policy {
            Policy::Cluster => {
                let comment = format!("masquerade traffic for {label} external destinations");
                rules.push(Rule::about(comment).jump(Chain::MARK_MASQ));
            }
            Policy::Local => {
                // Pods and the node itself are sent to all endpoints, as if they had gone out
                // to a load balancer and come back in.
                let cluster = self.chains.cluster();
                let pods = Rule::about(format!("pod traffic for {label} external destinations"));
                if let Some(rule) = self.settings.local_traffic.restrict(pods) {
                    rules.push(rule.jump(cluster.clone()));
                }
                let masquerade =
                    format!("masquerade LOCAL traffic for {label} external destinations");
                let route = format!("route LOCAL traffic for {label} external destinations");
                let from_node = |comment| Rule::about(comment).with(Match::FromNode);
                rules.push(from_node(masquerade).jump(Chain::MARK_MASQ));
                rules.push(from_node(route).jump(cluster));
            }
        }
        if self.outside {
            rules.push(Rule::default().jump(self.of(self.port.external_policy)));
        }
    }

    fn firewall(&self, fragment: &mut Fragment) {
        let (port, label) = (self.port, self.label());
        let rule = || Rule::about(format!("{label} loadbalancer IP"));
        let rules = fragment.chain(self.chains.firewall());
        for range in &port.source_ranges {
            rules.push(rule().from(*range).jump(self.chains.external()));
        }
        if port.source_ranges_have_node {
            // An address of a load balancer may be the node's own; then what the node sends
            // there comes from that address.
            for address in &port.load_balancer_addresses {
                rules.push(rule().from(*address).jump(self.chains.external()));
            }
        }
        rules.push(Rule::about(format!(
            "other traffic to {label} will be dropped by KUBE-PROXY-FIREWALL"
        )));
    }

    fn endpoints(&self, fragment: &mut Fragment, comments: bool) {
        let (port, label) = (self.port, self.label());
        let comment = |backend: &_| comments.then(|| format!("{label} -> {backend}"));
        let external = port.is_external();
        let local = port.internal_policy == Policy::Local
            || (port.external_policy == Policy::Local && external);
        let cluster = port.internal_policy == Policy::Cluster || external;
        let mut reachable = BTreeSet::new();
        for (used, chain, backends) in [
            (cluster, self.chains.cluster(), &port.endpoints.cluster),
            (local, self.chains.local(), &port.endpoints.local),
        ] {
            if used && !backends.is_empty() {
                let rules = spread(
                    &self.chains,
                    port.affinity,
                    backends,
                    &port.endpoints.sharing,
                    comment,
                );
                fragment.chain(chain).extend(rules);
                reachable.extend(backends.iter().copied());
            }
        }
        let comment = comments.then_some(label);
        endpoint_chains(fragment, &self.chains, self.key, port, &reachable, comment);
    }
}
