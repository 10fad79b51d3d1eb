//! What a pod calls things: its hostname, /etc/hosts and /etc/resolv.conf.
//!
//! The texts are Kubernetes' own (kubelet's dns.go and kubelet_pods.go), because people and
//! programs read them.

use std::fmt::Write as _;
use std::net::IpAddr;

use weft_kube::k8s_openapi::api::core::v1::{HostAlias, Pod, PodDNSConfig, PodSpec};

/// Kernel limit of a host name (uname(2)), without the terminating zero.
const HOSTNAME_LIMIT: usize = 63;
/// glibc reads at most three name servers (resolv.conf(5), MAXNS).
const NAME_SERVER_LIMIT: usize = 3;
/// Kubernetes' limits for search domains (validation.go).
const SEARCH_LIMIT: usize = 32;

/// The pod's hostname: `spec.hostname`, else the pod's name, cut to what the kernel takes.
#[must_use]
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let name = spec
        .and_then(|spec| spec.hostname.clone())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    let mut cut = name;
    if cut.len() > HOSTNAME_LIMIT {
        cut.truncate(HOSTNAME_LIMIT);
        cut.truncate(cut.trim_end_matches(['-', '.']).len());
    }
    cut
}

/// `HOSTNAME.SUBDOMAIN.NAMESPACE.svc.DOMAIN`, when the pod has a subdomain.
#[must_use]
pub fn subdomain(pod: &Pod, cluster_domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref()?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    (!subdomain.is_empty()).then(|| format!("{subdomain}.{namespace}.svc.{cluster_domain}"))
}

/// /etc/hosts of a pod with a network of its own.
#[must_use]
pub fn pod_hosts(
    addresses: &[IpAddr],
    hostname: &str,
    domain: Option<&str>,
    aliases: &[HostAlias],
) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for address in addresses {
        let names = match domain {
            Some(domain) => format!("{hostname}.{domain}\t{hostname}"),
            None => hostname.to_owned(),
        };
        let _ = writeln!(text, "{address}\t{names}");
    }
    text.push_str(&alias_lines(aliases));
    text
}

/// /etc/hosts of a pod in its node's network: the node's own file.
#[must_use]
pub fn node_hosts(node_file: &str, aliases: &[HostAlias]) -> String {
    let mut text = format!("# Kubernetes-managed hosts file (host network).\n{node_file}");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&alias_lines(aliases));
    text
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    let mut text = String::new();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

/// What the cluster's DNS is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDns {
    /// Its Service addresses, in the order in which pods ask them.
    pub servers: Vec<IpAddr>,
    /// Such as `cluster.local`.
    pub domain: String,
}

/// /etc/resolv.conf in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a resolv.conf (resolv.conf(5)); what it does not know it leaves out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.servers.extend(words.next()),
                Some("search" | "domain") => resolver.searches = words.collect(),
                Some("options") => resolver.options.extend(words),
                Some(_) | None => {}
            }
        }
        resolver
    }

    /// The file's text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// The pod's resolver by its dnsPolicy and dnsConfig. `node` is the node's own resolver.
#[must_use]
pub fn resolver(
    spec: &PodSpec,
    namespace: &str,
    cluster: Option<&ClusterDns>,
    node: &Resolver,
) -> Resolver {
    let in_node_network = spec.host_network.unwrap_or(false);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster_first =
        policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !in_node_network);
    let mut resolver = match (policy, cluster) {
        ("None", _) => Resolver::default(),
        (_, Some(cluster)) if cluster_first && !cluster.servers.is_empty() => {
            cluster_resolver(cluster, namespace, node)
        }
        (_, Some(_) | None) => node.clone(),
    };
    if let Some(config) = &spec.dns_config {
        add(&mut resolver, config);
    }
    dedup(&mut resolver.servers);
    dedup(&mut resolver.searches);
    resolver.servers.truncate(NAME_SERVER_LIMIT);
    resolver.searches.truncate(SEARCH_LIMIT);
    resolver
}

fn cluster_resolver(cluster: &ClusterDns, namespace: &str, node: &Resolver) -> Resolver {
    let domain = &cluster.domain;
    let own = [
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.clone(),
    ];
    Resolver {
        servers: cluster.servers.iter().map(IpAddr::to_string).collect(),
        searches: own.into_iter().chain(node.searches.clone()).collect(),
        options: vec!["ndots:5".to_owned()],
    }
}

fn add(resolver: &mut Resolver, config: &PodDNSConfig) {
    resolver
        .servers
        .extend(config.nameservers.clone().unwrap_or_default());
    resolver
        .searches
        .extend(config.searches.clone().unwrap_or_default());
    for option in config.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        // An option given replaces one of the same name, whatever its value.
        resolver
            .options
            .retain(|old| old.split(':').next() != Some(name));
        resolver.options.push(match &option.value {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            Some(_) | None => name.clone(),
        });
    }
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        let mut value = value;
        value["containers"] = json!([]);
        serde_json::from_value(value).unwrap()
    }

    fn cluster() -> ClusterDns {
        ClusterDns {
            servers: vec![
                "10.96.0.10".parse().unwrap(),
                "fd00:10:96::a".parse().unwrap(),
            ],
            domain: "cluster.local".to_owned(),
        }
    }

    fn text(value: serde_json::Value) -> String {
        let node = Resolver::parse("nameserver 192.0.2.1\nsearch corp.example\noptions rotate\n");
        resolver(&spec(value), "default", Some(&cluster()), &node).text()
    }

    const CLUSTER_FIRST: &str = "\
search default.svc.cluster.local svc.cluster.local cluster.local corp.example
nameserver 10.96.0.10
nameserver fd00:10:96::a
options ndots:5
";
    const NODES_OWN: &str = "search corp.example\nnameserver 192.0.2.1\noptions rotate\n";

    #[test]
    fn dns_policy_selects_the_resolver() {
        assert_eq!(text(json!({})), CLUSTER_FIRST);
        assert_eq!(text(json!({"dnsPolicy": "ClusterFirst"})), CLUSTER_FIRST);
        assert_eq!(text(json!({"dnsPolicy": "Default"})), NODES_OWN);
        assert_eq!(text(json!({"hostNetwork": true})), NODES_OWN);
        assert_eq!(
            text(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})),
            CLUSTER_FIRST
        );
    }

    #[test]
    fn dns_config_alone_or_added() {
        let config = json!({
            "nameservers": ["192.0.2.7"],
            "searches": ["ns1.svc.cluster-domain.example", "my.dns.search.suffix"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        });
        assert_eq!(
            text(json!({"dnsPolicy": "None", "dnsConfig": config})),
            "search ns1.svc.cluster-domain.example my.dns.search.suffix\n\
             nameserver 192.0.2.7\n\
             options ndots:2 edns0\n"
        );
        assert_eq!(
            text(
                json!({"dnsConfig": {"nameservers": ["10.96.0.10", "192.0.2.7"],
                                      "options": [{"name": "ndots", "value": "1"}]}})
            ),
            "search default.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
             nameserver 10.96.0.10\nnameserver fd00:10:96::a\nnameserver 192.0.2.7\n\
             options ndots:1\n"
        );
    }

    #[test]
    fn hosts_file_has_addresses_of_both_families_and_aliases() {
        let aliases: Vec<HostAlias> =
            serde_json::from_value(json!([{"ip": "192.0.2.5", "hostnames": ["foo.local", "bar"]}]))
                .unwrap();
        let addresses = [
            "10.244.1.5".parse().unwrap(),
            "fd00:10:244:1::5".parse().unwrap(),
        ];
        assert_eq!(
            pod_hosts(
                &addresses,
                "web-0",
                Some("web.default.svc.cluster.local"),
                &aliases
            ),
            "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n\
             10.244.1.5\tweb-0.web.default.svc.cluster.local\tweb-0\n\
             fd00:10:244:1::5\tweb-0.web.default.svc.cluster.local\tweb-0\n\
             \n\
             # Entries added by HostAliases.\n\
             192.0.2.5\tfoo.local\tbar\n"
        );
    }

    #[test]
    fn a_hostname_fits_the_kernel() {
        let name = format!("{}-{}", "a".repeat(62), "b".repeat(10));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        assert_eq!(hostname(&pod), "a".repeat(62));
    }
}
