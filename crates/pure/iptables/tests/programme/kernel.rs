//! A kernel that takes what `iptables-restore --noflush` takes, as far as that is written
//! here: and refuses what the real one refuses.

use std::collections::BTreeMap;

use weft_iptables::Listing;

const HOOKS: [(&str, &[&str]); 3] = [
    (
        "mangle",
        &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    ),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
];

type Chains = BTreeMap<(String, String), Vec<String>>;

pub(crate) struct Kernel {
    chains: Chains,
}

impl Kernel {
    /// A kernel that holds what is listed.
    pub(crate) fn new(listing: &str) -> Self {
        let mut chains = Chains::new();
        for (table, hooks) in HOOKS {
            for hook in hooks {
                chains.insert((table.to_owned(), (*hook).to_owned()), Vec::new());
            }
        }
        let mut kernel = Self { chains };
        kernel.restore(listing);
        kernel
    }

    /// What `iptables-save` would print.
    pub(crate) fn listing(&self) -> Listing {
        self.listing_in_other_words(str::to_owned)
    }

    /// What an `iptables-save` would print that has other words for a rule.
    pub(crate) fn listing_in_other_words(&self, words: impl Fn(&str) -> String) -> Listing {
        let mut text = String::new();
        for (table, _) in HOOKS {
            text.push_str(&format!("*{table}\n"));
            let of_table = || self.chains.iter().filter(|((of, _), _)| of == table);
            for ((_, chain), _) in of_table() {
                text.push_str(&format!(":{chain} - [0:0]\n"));
            }
            for (_, rules) in of_table() {
                for rule in rules {
                    text.push_str(&format!("{}\n", words(rule)));
                }
            }
            text.push_str("COMMIT\n");
        }
        Listing::parse(&text)
    }

    /// `iptables-restore --noflush`.
    pub(crate) fn restore(&mut self, input: &str) {
        let mut table = String::new();
        for line in input.lines() {
            let (command, rest) = line.split_at(line.len().min(3));
            let first = |text: &str| text.split(' ').next().unwrap().to_owned();
            match command {
                _ if line.starts_with('*') => table = line[1..].to_owned(),
                _ if line.starts_with(':') => {
                    let chain = first(&line[1..]);
                    let user = !chain.chars().all(|c| c.is_ascii_uppercase());
                    let rules = self.chains.entry((table.clone(), chain)).or_default();
                    if user {
                        rules.clear();
                    }
                }
                "-A " => self.rules(&table, &first(rest)).push(line.to_owned()),
                "-I " => {
                    let rule = line.replacen("-I ", "-A ", 1);
                    self.rules(&table, &first(rest)).insert(0, rule);
                }
                "-D " => {
                    let rule = line.replacen("-D ", "-A ", 1);
                    let rules = self.rules(&table, &first(rest));
                    let index = rules.iter().position(|one| *one == rule);
                    rules.remove(index.unwrap_or_else(|| panic!("no rule {line}")));
                }
                "-X " => {
                    let rules = self.chains.remove(&(table.clone(), rest.to_owned()));
                    assert!(rules.unwrap().is_empty(), "{rest} has rules");
                }
                _ => assert_eq!(line, "COMMIT"),
            }
            if line == "COMMIT" {
                self.check(&table);
            }
        }
    }

    fn rules(&mut self, table: &str, chain: &str) -> &mut Vec<String> {
        let key = (table.to_owned(), chain.to_owned());
        self.chains
            .get_mut(&key)
            .unwrap_or_else(|| panic!("no chain {chain} in {table}"))
    }

    /// Every jump leads to a chain.
    fn check(&self, table: &str) {
        for ((of, _), rules) in &self.chains {
            for rule in rules.iter().filter(|_| of == table) {
                let Some((_, target)) = rule.rsplit_once(" -j ") else {
                    continue;
                };
                let target = target.split(' ').next().unwrap();
                let built_in = !target.contains('-') && target != "DOCKER";
                let key = (table.to_owned(), target.to_owned());
                assert!(built_in || self.chains.contains_key(&key), "{rule}");
            }
        }
    }
}
