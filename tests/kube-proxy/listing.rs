//! What `iptables-save` prints, with its rules in an order that can be compared.

use std::collections::BTreeMap;

/// Rules by table and chain.
#[derive(PartialEq, Eq)]
pub(crate) struct Listing(BTreeMap<(String, String), Vec<String>>);

/// The chains that hold rules of all Services: kube-proxy writes the Services in whatever
/// order its maps have, and no two Services' rules match one packet.
const SHARED: [&str; 4] = [
    "KUBE-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-PROXY-FIREWALL",
];
const NODE_PORTS: &str = "kubernetes service nodeports;";

impl Listing {
    pub(crate) fn parse(text: &str) -> Self {
        let mut chains: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        let mut table = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap();
                chains.insert((table.clone(), name.to_owned()), Vec::new());
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let chain = rule.split(' ').next().unwrap();
                let key = (table.clone(), chain.to_owned());
                chains.get_mut(&key).unwrap().push(line.to_owned());
            } else {
                assert!(line == "COMMIT" || line.starts_with('#'), "{line}");
            }
        }
        for ((_, chain), rules) in &mut chains {
            if SHARED.contains(&chain.as_str()) {
                // Rules for node ports come last, wherever there are any.
                assert!(rules.is_sorted_by_key(|rule| rule.contains(NODE_PORTS)));
                rules.sort_by_key(|rule| (rule.contains(NODE_PORTS), service(rule)));
            }
        }
        Self(chains)
    }

    /// kube-proxy 1.23 leaves two chains to the kubelet, which since 1.25 has them no more.
    pub(crate) fn leave_out_what_kubelets_write(&mut self) {
        let chains = &mut self.0;
        chains.retain(|(_, chain), _| chain != "KUBE-FIREWALL");
        for ((_, chain), rules) in chains {
            rules.retain(|rule| !rule.ends_with("-j KUBE-FIREWALL"));
            if chain == "KUBE-MARK-DROP" {
                rules.clear();
            }
        }
    }

    /// kube-proxy 1.23 makes KUBE-XLB chains that nothing leads to.
    pub(crate) fn leave_out_what_nothing_leads_to(&mut self) {
        let rules: Vec<String> = self.0.values().flatten().cloned().collect();
        self.0.retain(|(_, chain), _| {
            let jump = format!(" -j {chain}");
            !chain.starts_with("KUBE-XLB-") || rules.iter().any(|rule| rule.ends_with(&jump))
        });
    }

    pub(crate) fn assert_same(&self, ours: &Self, what: &str) {
        let mut differences = Vec::new();
        let chains = self.0.keys().chain(ours.0.keys());
        for key in chains.collect::<std::collections::BTreeSet<_>>() {
            let (theirs, ours) = (self.0.get(key), ours.0.get(key));
            if theirs != ours {
                let lines = |rules: Option<&Vec<String>>| match rules {
                    None => "  (no such chain)".to_owned(),
                    Some(rules) => format!("  {}", rules.join("\n  ")),
                };
                differences.push(format!(
                    "{} {}: kube-proxy\n{}\nours\n{}",
                    key.0,
                    key.1,
                    lines(theirs),
                    lines(ours)
                ));
            }
        }
        assert!(
            differences.is_empty(),
            "{what}:\n{}",
            differences.join("\n")
        );
    }
}

/// Of which Service a rule is: the first word of its comment.
fn service(rule: &str) -> String {
    let comment = rule.split("--comment ").nth(1).unwrap();
    let comment = comment.trim_start_matches('"');
    comment.split([' ', '"']).next().unwrap().to_owned()
}
