//! A frontend as it stands in the kernel, as elements.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use weft_desired::{
    Backend, Frontend, FrontendKey, HashOf, Masquerade, Otherwise, Outside, SizeClass, hash_table,
    place_shares, shares,
};

use super::ip_family::IpFamily;
use super::item::{
    Bytes, ItemKey, ItemValue, Items, backend_bytes, comment, frontend_bytes, slot_bytes,
};
use super::set::{Scope, SetId, Way};

/// A frontend as it stands in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Installed {
    /// `namespace/name:port`.
    pub(super) label: Arc<str>,
    /// For everybody, or for everybody else.
    pub(super) all: Choice,
    /// For clients beyond the cluster, if they get something else.
    pub(super) outside: Option<Choice>,
    sources: Option<Arc<BTreeSet<IpNet>>>,
    pub(super) affinity: Option<u32>,
    masquerade: Masquerade,
    /// Whether its address is its Service's alone.
    pub(super) exclusive: bool,
    /// Endpoints that connections may still be open to.
    kept: Arc<BTreeSet<Backend>>,
    /// Whether all of its packets are counted.
    traffic: bool,
}

/// What some clients get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Slot by slot. One that weighs more, or whose hash is drawn, has several.
    pub(super) slots: Vec<Backend>,
    /// What is hashed to find a slot; without it a slot is drawn.
    hash: Option<HashOf>,
    /// What happens without any.
    otherwise: Otherwise,
}

/// The slots that are filled.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    pub(super) all: BTreeMap<u32, Backend>,
    pub(super) outside: BTreeMap<u32, Backend>,
}

impl Installed {
    /// A frontend as it will stand, where these slots are filled now.
    pub(super) fn new(frontend: &Frontend, family: IpFamily, actual: &Slots) -> Self {
        let choice = |scope: Scope, actual, backends: &BTreeSet<Backend>, otherwise| {
            let same = backends.iter().filter(|it| family.has(it.address));
            let desired: BTreeSet<Backend> = same.copied().take(scope.most_backends()).collect();
            let sharing = &frontend.sharing;
            let slots = match sharing.hash {
                None => place_shares(actual, shares(&desired, sharing, scope.most_backends())),
                Some(_) => hash_table(&desired, sharing),
            };
            Choice {
                slots,
                hash: sharing.hash,
                otherwise,
            }
        };
        let outside = frontend.outside.as_ref().map(|outside| {
            let Outside {
                backends,
                otherwise,
            } = outside;
            choice(Scope::Local, &actual.outside, backends, *otherwise)
        });
        Self {
            label: frontend.label.clone(),
            all: choice(
                Scope::All,
                &actual.all,
                &frontend.backends,
                frontend.otherwise,
            ),
            outside,
            sources: frontend.sources.clone(),
            affinity: frontend.affinity,
            masquerade: frontend.masquerade,
            exclusive: frontend.exclusive,
            kept: frontend.kept.clone(),
            traffic: false,
        }
    }

    /// The same, with all of its packets counted or not.
    pub(super) fn counting_traffic(self, traffic: bool) -> Self {
        Self { traffic, ..self }
    }

    /// Its slots.
    pub(super) fn slots(&self) -> Slots {
        let numbered = |choice: &Choice| (0..).zip(choice.slots.iter().copied()).collect();
        Slots {
            all: numbered(&self.all),
            outside: self.outside.as_ref().map(numbered).unwrap_or_default(),
        }
    }

    /// The endpoints that somebody gets.
    fn backends(&self) -> BTreeSet<Backend> {
        let outside = self.outside.iter().flat_map(|choice| &choice.slots);
        self.all.slots.iter().chain(outside).copied().collect()
    }

    /// The endpoints whose connections may go on.
    pub(super) fn kept(&self) -> BTreeSet<Backend> {
        let mut kept = self.backends();
        kept.extend(self.kept.iter());
        kept
    }

    /// Whether some client remembered may not have its endpoint any more, if `after` stands
    /// instead.
    pub(super) fn lets_go(&self, after: Option<&Installed>) -> bool {
        let outside = |it: &Installed| it.outside.clone();
        self.affinity.is_some()
            && after.is_none_or(|after| {
                let fewer = |before: &Choice, after: &Choice| {
                    before.slots.iter().any(|it| !after.slots.contains(it))
                };
                fewer(&self.all, &after.all)
                    || outside(self) != outside(after)
                    || after.affinity.is_none()
            })
    }

    /// The endpoint that a remembered client may have again.
    pub(super) fn gives(&self, backend: &Backend, from_pod: bool) -> bool {
        let choice = match &self.outside {
            Some(outside) if !from_pod => outside,
            Some(_) | None => &self.all,
        };
        choice.slots.contains(backend)
    }

    /// Whether nobody gets an endpoint.
    fn gives_nothing(&self) -> bool {
        let nothing = |choice: &Choice| choice.slots.is_empty();
        nothing(&self.all) && self.outside.as_ref().is_none_or(nothing)
    }

    /// The elements of this frontend, without those of endpoints and sources that `known`
    /// has just so.
    pub(super) fn items(&self, key: &FrontendKey, known: Option<&Installed>) -> Items {
        // Of a frontend that gives nothing the kernel has no endpoints and sources.
        let known = known.filter(|known| known.label == self.label && !known.gives_nothing());
        let mut items = Elements {
            key: frontend_bytes(key),
            label: comment(&self.label),
            items: Items::new(),
        };
        items.labelled(SetId::Frontends);
        if self.traffic {
            items.plain(SetId::Traffic(Way::In));
            items.plain(SetId::Traffic(Way::Out));
        }
        if self.gives_nothing() {
            items.labelled(match self.all.otherwise {
                Otherwise::Refuse => SetId::Refused,
                Otherwise::Drop => SetId::Dropped,
            });
            return items.items;
        }
        items.plain(match self.masquerade {
            Masquerade::Outside => SetId::MasqueradeOutside,
            Masquerade::All => SetId::MasqueradeAll,
            Masquerade::Node => SetId::MasqueradeNode,
        });
        let known_slots = known.map_or(&[][..], |known| &known.all.slots);
        items.choice(Scope::All, &self.all, known_slots);
        if let Some(outside) = &self.outside {
            if outside.slots.is_empty() {
                items.labelled(SetId::DroppedOutside);
            } else {
                items.plain(SetId::Split);
                let known_slots = known.and_then(|known| known.outside.as_ref());
                let known_slots = known_slots.map_or(&[][..], |known| &known.slots);
                items.choice(Scope::Local, outside, known_slots);
            }
        }
        self.put_affinity(&mut items, known);
        self.put_sources(&mut items, known);
        items.items
    }

    fn put_affinity(&self, items: &mut Elements, known: Option<&Installed>) {
        let Some(seconds) = self.affinity else { return };
        items.plain(SetId::Sticky(seconds));
        let known = known.filter(|known| known.affinity.is_some());
        let known = known.map(Installed::backends).unwrap_or_default();
        for backend in self.backends().difference(&known) {
            let mut key = items.key;
            key.push(backend_bytes(backend).as_slice());
            items.put(SetId::Remembered, key, Bytes::default(), None);
        }
    }

    fn put_sources(&self, items: &mut Elements, known: Option<&Installed>) {
        let Some(sources) = &self.sources else { return };
        items.plain(SetId::Restricted);
        items.plain(SetId::NotAdmitted);
        if known.is_some_and(|known| known.sources.as_ref() == Some(sources)) {
            return;
        }
        let ranges: Vec<IpNet> = sources.iter().copied().collect();
        let end = |address: IpAddr| {
            let mut bytes = items.key;
            bytes.push_address(address);
            bytes
        };
        // The kernel takes no ranges that overlap.
        let ranges: Vec<(Bytes, Bytes)> = IpNet::aggregate(&ranges)
            .into_iter()
            .map(|range| (end(range.network()), end(range.broadcast())))
            .collect();
        for (first, last) in ranges {
            items.put(SetId::Sources, first, last, items.label.clone());
        }
    }
}

/// Elements of one frontend.
struct Elements {
    key: Bytes,
    label: Option<Arc<str>>,
    items: Items,
}

impl Elements {
    fn put(&mut self, set: SetId, key: Bytes, data: Bytes, comment: Option<Arc<str>>) {
        self.items
            .insert(ItemKey { set, key }, ItemValue { data, comment });
    }

    fn plain(&mut self, set: SetId) {
        self.put(set, self.key, Bytes::default(), None);
    }

    fn labelled(&mut self, set: SetId) {
        self.put(set, self.key, Bytes::default(), self.label.clone());
    }

    fn choice(&mut self, scope: Scope, choice: &Choice, known: &[Backend]) {
        let Some(class) = SizeClass::of(choice.slots.len()) else {
            return;
        };
        if let Some(hash) = choice.hash {
            self.plain(SetId::Hashed(scope, hash));
        } else {
            self.plain(SetId::Size(scope, class.slots));
            if !class.is_exact() {
                self.plain(SetId::Large(scope));
            }
        }
        for (slot, backend) in choice.slots.iter().enumerate() {
            if known.get(slot) != Some(backend) {
                let key = slot_bytes(self.key, slot as u32);
                let label = self.label.clone();
                self.put(SetId::Endpoints(scope), key, backend_bytes(backend), label);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_desired::{NodeNat, Protocol};

    use super::*;
    use crate::service::item::{Step, frontend_of, nat_items, slots, steps};

    fn key(address: &str) -> FrontendKey {
        FrontendKey {
            address: address.parse().unwrap(),
            protocol: Protocol::Udp,
            port: 53,
        }
    }

    fn backends(address: &str, count: u16) -> BTreeSet<Backend> {
        let backend = |port| Backend {
            address: address.parse().unwrap(),
            port,
        };
        (1..=count).map(backend).collect()
    }

    fn frontend(address: &str, count: u16) -> Frontend {
        let label = "kube-system/kube-dns:dns".into();
        Frontend::new(label, backends(address, count))
    }

    fn installed(frontend: &Frontend) -> Installed {
        let v4 = frontend.backends.iter().all(|it| it.address.is_ipv4());
        let family = if v4 { IpFamily::V4 } else { IpFamily::V6 };
        Installed::new(frontend, family, &Slots::default())
    }

    /// Everything a frontend can have.
    fn full(address: &str, count: u16) -> Frontend {
        let range = match address.contains(':') {
            true => "fd00:172:30::/64",
            false => "172.30.0.0/24",
        };
        Frontend {
            outside: Some(Outside {
                backends: Arc::new(backends(address, 1)),
                otherwise: Otherwise::Drop,
            }),
            sources: Some(Arc::new([range.parse().unwrap()].into())),
            affinity: Some(10_800),
            masquerade: Masquerade::Node,
            ..frontend(address, count)
        }
    }

    #[test]
    fn elements_say_whose_they_are_and_what_is_in_the_slots() {
        for (family, service, pod) in [
            (IpFamily::V4, "10.96.0.10", "10.244.1.2"),
            (IpFamily::V6, "fd00:10:96::a", "fd00:10:244:1::2"),
        ] {
            for count in [0, 1, 8, 9, 100] {
                for frontend in [frontend(pod, count), full(pod, count)] {
                    let key = key(service);
                    let installed = Installed::new(&frontend, family, &Slots::default());
                    let items = installed.items(&key, None);
                    assert!(items.keys().all(|k| frontend_of(k, family) == Some(key)));
                    let found = slots(&items, Scope::All);
                    assert_eq!(found, installed.slots().all);
                    let found = slots(&items, Scope::Local);
                    assert_eq!(found, installed.slots().outside);
                }
            }
        }
    }

    #[test]
    fn without_endpoints_a_frontend_is_in_the_set_that_says_what_happens_then() {
        let key = key("10.96.0.10");
        for (otherwise, set) in [
            (Otherwise::Refuse, SetId::Refused),
            (Otherwise::Drop, SetId::Dropped),
        ] {
            let sets = |count| -> Vec<SetId> {
                let frontend = Frontend {
                    otherwise,
                    ..frontend("10.244.1.2", count)
                };
                let items = installed(&frontend).items(&key, None);
                items.keys().map(|key| key.set).collect()
            };
            assert_eq!(sets(0), [SetId::Frontends, set]);
            assert!(!sets(1).contains(&set));
        }
    }

    #[test]
    fn clients_outside_have_sets_of_their_own() {
        let key = key("10.96.0.10");
        let sets = |count| -> Vec<SetId> {
            let frontend = Frontend {
                outside: Some(Outside {
                    backends: Arc::new(backends("10.244.1.2", count)),
                    otherwise: Otherwise::Drop,
                }),
                ..frontend("10.244.1.2", 3)
            };
            let items = installed(&frontend).items(&key, None);
            items.keys().map(|key| key.set).collect()
        };
        assert!(sets(0).contains(&SetId::DroppedOutside));
        assert!(!sets(0).contains(&SetId::Split));
        assert!(!sets(2).contains(&SetId::DroppedOutside));
        assert!(sets(2).contains(&SetId::Size(Scope::Local, 2)));
        assert!(sets(2).contains(&SetId::Split));
    }

    #[test]
    fn a_label_is_as_long_as_the_kernel_gives_it_back() {
        let key = key("10.96.0.10");
        let long: Arc<str> = format!("{}/{}:dns", "n".repeat(63), "s".repeat(63)).into();
        let frontend = Frontend {
            label: long.clone(),
            ..frontend("10.244.1.2", 2)
        };
        let nat = NodeNat {
            local_pods: [("10.244.1.2".parse().unwrap(), long.clone())].into(),
            ..NodeNat::default()
        };
        let mut items = installed(&frontend).items(&key, None);
        items.extend(nat_items(&nat, IpFamily::V4));
        let comments: Vec<_> = items.values().filter_map(|v| v.comment.clone()).collect();
        assert_eq!(comments.len(), 4);
        for comment in comments {
            assert_eq!(comment.len(), 127);
            assert!(long.starts_with(&*comment));
        }
    }

    #[test]
    fn a_change_of_one_slot_is_a_change_of_one_element() {
        let key = key("10.96.0.10");
        for (frontend, elements) in [
            (frontend("10.244.1.2", 100), 1),
            // The one that may be remembered goes, another comes.
            (full("10.244.1.2", 100), 3),
        ] {
            let old = installed(&frontend);
            let mut new = old.clone();
            new.all.slots[7].port = 1007;
            let (before, after) = (old.items(&key, Some(&new)), new.items(&key, Some(&old)));
            let steps = steps(&before, &after);
            assert_eq!(steps.len(), elements);
            assert!(steps.iter().any(
                |it| matches!(it, Step::Replace(key, ..) if key.set == SetId::Endpoints(Scope::All))
            ));
        }
    }

    #[test]
    fn what_a_frontend_leads_to_is_there_before_it_and_goes_after_it() {
        let key = key("10.96.0.10");
        let items = installed(&full("10.244.1.2", 9)).items(&key, None);
        let nothing = Items::new();
        let sets = |steps: Vec<Step<'_>>| -> Vec<SetId> {
            let mut sets: Vec<SetId> = steps
                .iter()
                .map(|step| match step {
                    Step::Add(key, _) | Step::Replace(key, ..) | Step::Remove(key, _) => key.set,
                })
                .collect();
            sets.dedup();
            sets
        };
        let mut expected = vec![
            SetId::Endpoints(Scope::All),
            SetId::Endpoints(Scope::Local),
            SetId::Remembered,
            SetId::Sticky(10_800),
            SetId::MasqueradeNode,
            SetId::Sources,
            SetId::Restricted,
            SetId::Size(Scope::All, 12),
            SetId::Size(Scope::Local, 1),
            SetId::Large(Scope::All),
            SetId::Split,
            SetId::NotAdmitted,
            SetId::Frontends,
        ];
        assert_eq!(sets(steps(&nothing, &items)), expected);
        expected.reverse();
        // Ranges go before others come.
        expected.retain(|set| *set != SetId::Sources);
        expected.insert(0, SetId::Sources);
        assert_eq!(sets(steps(&items, &nothing)), expected);
    }
}
