//! The rules of one Service port as kube-proxy 1.23 has them.
//!
//! Which endpoints a port has is decided as today: what 1.23 knew nothing of (both traffic
//! policies at once, endpoints that end) is put into its chains as well as they hold it.

use weft_desired::{Backend, Policy, ServicePort, ServicePortKey};

use crate::chain::{Chain, ServiceChains};
use crate::fragment::{Fragment, Portal, Shared, endpoint_chains, spread};
use crate::rule::{Match, Rule, Target};
use crate::settings::{Settings, loopback};

/// Renders a port. `comments`: whether endpoints' rules carry comments.
pub(crate) fn render(
    key: &ServicePortKey,
    port: &ServicePort,
    settings: &Settings,
    comments: bool,
) -> Fragment {
    let endpoints = &port.endpoints;
    // A port with a cluster address alone has its own chain for whichever policy; where it
    // has other addresses too, 1.23 has no chain for both, and today's is used.
    let (own, internal_local) = match port.internal_policy {
        Policy::Cluster => (&endpoints.cluster, false),
        Policy::Local if port.is_external() => (&endpoints.cluster, true),
        Policy::Local => (&endpoints.local, false),
    };
    let view = View {
        key,
        port,
        settings,
        portal: Portal {
            protocol: key.protocol,
            port: port.port,
        },
        chains: ServiceChains::new(&port.label, key.protocol),
        any: endpoints.any && (port.is_external() || !own.is_empty()),
        internal_local,
        external_local: port.external_policy == Policy::Local && port.is_external(),
        comment: comments.then_some(&*port.label),
    };
    let mut fragment = Fragment::default();
    view.cluster_address(&mut fragment);
    view.external_addresses(&mut fragment);
    view.load_balancer(&mut fragment);
    view.node_port(&mut fragment);
    fragment.health_check(port);
    if view.any {
        view.endpoints(own, &mut fragment);
    }
    fragment
}

struct View<'a> {
    key: &'a ServicePortKey,
    port: &'a ServicePort,
    settings: &'a Settings,
    portal: Portal,
    chains: ServiceChains,
    /// Whether there are endpoints.
    any: bool,
    internal_local: bool,
    external_local: bool,
    comment: Option<&'a str>,
}

impl View<'_> {
    fn label(&self) -> &str {
        &self.port.label
    }

    fn none(&self) -> String {
        format!("{} has no endpoints", self.label())
    }

    fn refusal(&self) -> Target {
        self.settings.refusal(self.key.protocol)
    }

    fn cluster_address(&self, fragment: &mut Fragment) {
        let Some(address) = self.port.cluster_address else {
            return;
        };
        if !self.any {
            let rule = self.portal.at(address, self.none());
            fragment.share(Shared::Refused, rule.then(self.refusal()));
            return;
        }
        if self.internal_local && self.port.endpoints.local.is_empty() {
            let comment = format!("{} has no local endpoints", self.label());
            let rule = self.portal.at(address, comment);
            fragment.share(Shared::Refused, rule.then(Target::Drop));
            return;
        }
        let chain = if self.internal_local {
            self.chains.local()
        } else {
            self.chains.cluster()
        };
        let comment = format!("{} cluster IP", self.label());
        let rule = self.portal.at(address, comment);
        let foreign = if self.settings.masquerade_all {
            Some(rule.clone())
        } else {
            self.settings.local_traffic.exclude(rule.clone())
        };
        if let Some(foreign) = foreign {
            let rules = fragment.chain(chain.clone());
            rules.push(foreign.jump(Chain::MARK_MASQ));
        }
        fragment.share(Shared::Portals, rule.jump(chain));
    }

    fn external_addresses(&self, fragment: &mut Fragment) {
        for address in &self.port.external_addresses {
            if !self.any {
                let rule = self.portal.at(*address, self.none());
                fragment.share(Shared::RefusedExternal, rule.then(self.refusal()));
                continue;
            }
            let comment = format!("{} external IP", self.label());
            let rule = self.portal.at(*address, comment);
            if !self.external_local {
                let foreign = self.settings.local_traffic.exclude(rule.clone());
                fragment.chain(self.chains.cluster()).push(
                    foreign
                        .unwrap_or_else(|| rule.clone())
                        .jump(Chain::MARK_MASQ),
                );
            }
            fragment.share(Shared::Portals, rule.jump(self.outside()));
        }
    }

    /// The chain for what comes from outside.
    fn outside(&self) -> Chain {
        if self.external_local {
            self.chains.load_balancer()
        } else {
            self.chains.cluster()
        }
    }

    fn load_balancer(&self, fragment: &mut Fragment) {
        let port = self.port;
        for address in &port.load_balancer_addresses {
            if !self.any {
                let rule = self.portal.at(*address, self.none());
                fragment.share(Shared::RefusedExternal, rule.then(self.refusal()));
                continue;
            }
            let comment = format!("{} loadbalancer IP", self.label());
            let rule = self.portal.at(*address, comment.clone());
            fragment.share(Shared::Portals, rule.jump(self.chains.firewall()));
            let rule = || Rule::about(comment.clone());
            let rules = fragment.chain(self.chains.firewall());
            if !self.external_local {
                rules.push(rule().jump(Chain::MARK_MASQ));
            }
            if port.source_ranges.is_empty() {
                rules.push(rule().jump(self.outside()));
            }
            for range in &port.source_ranges {
                rules.push(rule().from(*range).jump(self.outside()));
            }
            if port.source_ranges_have_node {
                rules.push(rule().from(*address).jump(self.outside()));
            }
            rules.push(rule().jump(Chain::MARK_DROP));
        }
    }

    fn node_port(&self, fragment: &mut Fragment) {
        let Some(number) = self.port.node_port else {
            return;
        };
        if !self.any {
            let rule = Rule::about(self.none())
                .with(Match::ToNode)
                .of(self.key.protocol, Some(number));
            fragment.share(Shared::RefusedExternal, rule.then(self.refusal()));
            return;
        }
        let rule = || Rule::about(self.label()).of(self.key.protocol, Some(number));
        let masquerade = if self.external_local {
            // The node's loopback address is no source that an endpoint could answer.
            let loopback = loopback(self.settings.family);
            fragment.share(
                Shared::NodePorts,
                rule().from(loopback).jump(Chain::MARK_MASQ),
            );
            None
        } else {
            Some(rule().jump(Chain::MARK_MASQ))
        };
        fragment.chain(self.chains.cluster()).extend(masquerade);
        fragment.share(Shared::NodePorts, rule().jump(self.outside()));
    }

    fn endpoints(&self, own: &std::collections::BTreeSet<Backend>, fragment: &mut Fragment) {
        let port = self.port;
        let comment = |_: &Backend| self.comment.map(str::to_owned);
        let sharing = &port.endpoints.sharing;
        let spread = |backends| spread(&self.chains, port.affinity, backends, sharing, comment);
        fragment.chain(self.chains.cluster()).extend(spread(own));
        let mut reachable = own.clone();
        if self.internal_local || self.external_local {
            reachable.extend(port.endpoints.local.iter().copied());
        }
        if self.internal_local && !port.endpoints.local.is_empty() {
            let rules = spread(&port.endpoints.local);
            fragment.chain(self.chains.local()).extend(rules);
        }
        if self.external_local {
            let rules = self.short_circuit();
            let chain = fragment.chain(self.chains.load_balancer());
            chain.extend(rules);
            if port.endpoints.local.is_empty() {
                let comment = format!("{} has no local endpoints", self.label());
                chain.push(Rule::about(comment).jump(Chain::MARK_DROP));
            } else {
                chain.extend(spread(&port.endpoints.local));
            }
        }
        endpoint_chains(
            fragment,
            &self.chains,
            self.key,
            port,
            &reachable,
            self.comment,
        );
    }

    /// Pods and the node itself are given all endpoints.
    fn short_circuit(&self) -> Vec<Rule> {
        let label = self.label();
        let cluster = self.chains.cluster();
        let from_node = |comment| Rule::about(comment).with(Match::FromNode);
        let pods =
            Rule::about("Redirect pods trying to reach external loadbalancer VIP to clusterIP");
        let pods = self.settings.local_traffic.restrict(pods);
        let mut rules: Vec<Rule> = pods
            .into_iter()
            .map(|rule| rule.jump(cluster.clone()))
            .collect();
        let masquerade = format!("masquerade LOCAL traffic for {label} LB IP");
        let route = format!("route LOCAL traffic for {label} LB IP to service chain");
        rules.push(from_node(masquerade).jump(Chain::MARK_MASQ));
        rules.push(from_node(route).jump(cluster));
        rules
    }
}
