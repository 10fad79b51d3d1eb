//! Large changes, step by step: what packets find between two steps.

use std::collections::BTreeSet;

use weft_desired::{IpFamily, ServicePort, ServicePortKey, Table};
use weft_iptables::{Chain, Listing, Options, Programme, Restore};

use super::kernel::Kernel;
use super::{Draw, FOREIGN, assert_same, entry, fresh, nat, port};

type Services = Table<ServicePortKey, ServicePort>;

/// As many as their chains take several steps.
fn many(draw: &mut Draw) -> Services {
    let numbers = (1..=120).filter(|number| number % 7 != draw.below(7));
    let numbers: Vec<u64> = numbers.collect();
    let ports = numbers.into_iter().map(|number| {
        let (key, value) = port(draw, number as u8);
        (key.clone(), entry(&key, value))
    });
    ports.collect()
}

fn steps(restore: &Restore) -> Vec<String> {
    let text = restore.text_in_steps();
    let parts = text.split_inclusive("COMMIT\n");
    parts.map(str::to_owned).collect()
}

/// The chains that packets come to.
fn reached(listing: &Listing) -> BTreeSet<Chain> {
    let nat = weft_iptables::Table::Nat;
    let mut reached = BTreeSet::new();
    let mut next = vec![Chain::SERVICES];
    while let Some(chain) = next.pop() {
        let rules = listing.rules(nat, &chain).unwrap_or_default();
        let targets = rules.iter().filter_map(|rule| rule.rsplit_once(" -j "));
        let ours = targets.filter(|(_, target)| target.starts_with("KUBE-"));
        next.extend(ours.map(|(_, target)| Chain::named(target)));
        reached.insert(chain);
    }
    reached
}

/// Between two steps every chain that packets come to is as it was or as it will be.
fn take(kernel: &mut Kernel, restore: &Restore, after: &Listing) {
    let nat = weft_iptables::Table::Nat;
    let before = kernel.listing();
    let steps = steps(restore);
    assert!(steps.len() > 5, "{}", steps.len());
    for step in steps {
        assert!(step.matches(":KUBE-").count() <= 250, "{step}");
        kernel.restore(&step);
        let now = kernel.listing();
        for chain in reached(&now) {
            let rules = now.rules(nat, &chain);
            let known = [before.rules(nat, &chain), after.rules(nat, &chain)];
            assert!(known.contains(&rules), "{chain}: {rules:?}");
        }
    }
    assert_same(&kernel.listing(), after, "all steps");
}

#[test]
fn between_two_steps_every_chain_is_as_it_was_or_as_it_will_be() {
    let options = Options::default();
    let mut draw = Draw(1);
    let mut kernel = Kernel::new(FOREIGN);
    let mut programme = Programme::new(IpFamily::V4, options.clone());
    let first = many(&mut draw);
    let restore = programme.reconcile(&first, &nat(), &kernel.listing());
    take(&mut kernel, &restore, &fresh(&first, &options));

    let second = many(&mut draw);
    let changes: BTreeSet<_> = first.keys().chain(second.keys()).collect();
    let changes = changes
        .into_iter()
        .map(|key| (key, second.get(key).map(|entry| &entry.value)));
    let restore = programme.apply(changes, &second);
    take(&mut kernel, &restore, &fresh(&second, &options));

    let third = many(&mut draw);
    let restore = programme.reconcile(&third, &nat(), &kernel.listing());
    take(&mut kernel, &restore, &fresh(&third, &options));

    let nothing = Services::new();
    let restore = programme.reconcile(&nothing, &nat(), &kernel.listing());
    take(&mut kernel, &restore, &fresh(&nothing, &options));
}

#[test]
fn a_change_of_few_chains_is_one_step_for_each_table() {
    let mut draw = Draw(2);
    let (key, value) = port(&mut draw, 1);
    let services = Services::from([(key.clone(), entry(&key, value))]);
    let mut programme = Programme::new(IpFamily::V4, Options::default());
    let restore = programme.reconcile(&services, &nat(), &Listing::parse(FOREIGN));
    assert_eq!(restore.text_in_steps(), restore.text());
    assert_eq!(steps(&restore).len(), 3);
}
