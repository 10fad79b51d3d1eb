//! The table's chains and rules.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use weft_desired::{HASH_SLOTS, HashOf, Protocol, mark};
use weft_sys::nft::{
    BaseChain, BitOperation, Chain, ChainKind, CtKey, Direction, Expression, Hook, MetaKey,
    NatKind, NumberMode, PayloadBase, Policy, Register, Reject, Rule, SetOperation, Verdict,
};

use super::ip_family::{End, IpFamily};
use super::layout::{PodMatch, Shape};
use super::set::{Scope, SetId, Way};
use crate::expression::{any_bit, destination_port, to_group, translated};

/// Counts above this are drawn from classes that are not full: several draws, then one
/// that can't miss.
const EXACT: u32 = 8;
/// Draws before the one that can't miss. At least two thirds of the slots are filled,
/// so that one of 27 connections at most is not spread over all endpoints.
const DRAWS: usize = 3;

/// Where hashes start from: any number, the same on every node.
const SEED: NonZeroU32 = NonZeroU32::MIN;

const NO_LOCAL: &str = "Service without endpoints on this node";

type Chains = BTreeMap<String, Chain>;
type Rules = BTreeMap<String, Vec<Rule>>;

/// The chains and rules of a family's table.
pub(super) fn write(family: IpFamily, shape: &Shape) -> (Chains, Rules) {
    let mut builder = Builder {
        family,
        shape,
        chains: Chains::new(),
        rules: Rules::new(),
    };
    builder.let_askers_pass();
    builder.refuse();
    builder.translate();
    for scope in Scope::BOTH {
        builder.pick(scope);
    }
    builder.count_traffic();
    builder.unknown();
    builder.remember();
    builder.masquerade();
    (builder.chains, builder.rules)
}

/// The rules that remember clients for so many seconds.
pub(super) fn remembering(family: IpFamily, seconds: u32) -> impl Iterator<Item = Rule> {
    let rule = move |protocol| remembering_by(family, protocol, seconds);
    Protocol::ALL.into_iter().map(rule)
}

fn remembering_by(family: IpFamily, protocol: Protocol, seconds: u32) -> Rule {
    let words = family.words();
    let key = words + 2;
    let update = Expression::Update {
        set: SetId::Affinity.name().into_owned(),
        operation: SetOperation::Update,
        key: Register::word(0),
        data: Some(Register::word(words + key)),
        timeout: Some(Duration::from_secs(u64::from(seconds))),
    };
    let parts = [
        of_protocol(protocol),
        original_key(family, 0),
        vec![lookup(SetId::Sticky(seconds), false)],
        vec![original_source(family, 0)],
        original_key(family, words),
        endpoint(family, words + key),
        vec![update],
    ];
    Rule {
        chain: REMEMBER.to_owned(),
        expressions: parts.concat(),
        comment: None,
    }
}

/// The chain of those rules.
pub(super) const REMEMBER: &str = "remember";

struct Builder<'a> {
    family: IpFamily,
    shape: &'a Shape,
    chains: Chains,
    rules: Rules,
}

impl Builder<'_> {
    fn base(&mut self, name: &str, kind: ChainKind, hook: Hook, priority: i32) {
        self.chain(
            name,
            Some(BaseChain {
                kind,
                hook,
                priority,
                policy: Policy::Accept,
            }),
        );
    }

    fn chain(&mut self, name: &str, base: Option<BaseChain>) {
        let name = name.to_owned();
        self.rules.insert(name.clone(), Vec::new());
        self.chains.insert(name.clone(), Chain { name, base });
    }

    fn rule(&mut self, chain: &str, parts: &[Vec<Expression>]) {
        self.commented(chain, None, parts);
    }

    fn commented(&mut self, chain: &str, comment: Option<&str>, parts: &[Vec<Expression>]) {
        let rule = Rule {
            chain: chain.to_owned(),
            expressions: parts.concat(),
            comment: comment.map(str::to_owned),
        };
        self.rules.entry(chain.to_owned()).or_default().push(rule);
    }

    /// What the agent asks clients with is no connection: the answer must start one.
    fn let_askers_pass(&mut self) {
        self.base("asking", ChainKind::Filter, Hook::Output, -300);
        let asking = vec![
            Expression::Meta {
                key: MetaKey::Mark,
                into: Register::word(0),
            },
            Expression::Compare {
                from: Register::word(0),
                operation: BitOperation::Equal,
                value: mark::ASKING.to_ne_bytes().to_vec(),
            },
        ];
        let comment = Some("to clients of endpoints that are gone");
        self.commented("asking", comment, &[asking, vec![Expression::NoTrack]]);
    }

    /// Frontends without endpoints and sources that are not admitted, before translation.
    fn refuse(&mut self) {
        for chain in ["refuse", "restrict", "refuse-reply", "drop-outside"] {
            self.chain(chain, None);
        }
        let outside = self.key(SetId::DroppedOutside);
        for (name, hook) in [
            ("refuse-prerouting", Hook::Prerouting),
            ("refuse-output", Hook::Output),
        ] {
            self.base(name, ChainKind::Filter, hook, -110);
            self.rule(name, &[state(CtKey::NEW), jump("refuse")]);
        }
        let parts = [state(CtKey::NEW), outside, goto("drop-outside")];
        self.rule("refuse-prerouting", &parts);
        self.rule("refuse", &[self.key(SetId::Restricted), jump("restrict")]);
        self.rule("refuse", &[self.key(SetId::Refused), goto("refuse-reply")]);
        self.drop_without_endpoints("refuse");

        let source = vec![
            self.family.address(End::Source, self.family.words() + 2),
            lookup(SetId::Sources, false),
        ];
        let back = vec![Expression::Verdict(Verdict::Return)];
        self.rule("restrict", &[self.load_key(), source, back.clone()]);
        let comment = Some("a source that loadBalancerSourceRanges does not admit");
        let drop = counted(Expression::Verdict(Verdict::Drop));
        let known = self.key(SetId::NotAdmitted);
        self.commented("restrict", comment, &[known, drop.clone()]);
        // For a packet between whose looks a commit fell. Where that took the ranges away,
        // every source is admitted by now.
        self.commented(
            "restrict",
            comment,
            &[self.key(SetId::Restricted), drop.clone()],
        );

        if let Some(pod) = self.sent_by_pod(false) {
            self.rule("drop-outside", &[pod, back]);
        }
        self.commented("drop-outside", Some(NO_LOCAL), &[drop]);

        let comment = Some("Service without endpoints");
        self.commented("refuse-reply", comment, &[tcp(), counted(reset())]);
        let unreachable = counted(self.family.port_unreachable());
        self.commented("refuse-reply", comment, &[unreachable]);
    }

    fn drop_without_endpoints(&mut self, chain: &str) {
        let drop = counted(Expression::Verdict(Verdict::Drop));
        self.commented(chain, Some(NO_LOCAL), &[self.key(SetId::Dropped), drop]);
    }

    fn translate(&mut self) {
        for (name, hook) in [
            ("translate-prerouting", Hook::Prerouting),
            ("translate-output", Hook::Output),
        ] {
            self.base(name, ChainKind::Nat, hook, -100);
        }
        self.chain("outside", None);
        let name = "translate-prerouting";
        self.rule(name, &[self.key(SetId::Split), jump("outside")]);
        for name in [name, "translate-output"] {
            self.rule(name, &[self.key(SetId::Frontends), goto("pick")]);
        }
        let back = vec![Expression::Verdict(Verdict::Return)];
        if let Some(pod) = self.sent_by_pod(false) {
            self.rule("outside", &[pod, back]);
        }
        self.rule("outside", &[self.key(SetId::Frontends), goto("local-pick")]);
    }

    fn pick(&mut self, scope: Scope) {
        let prefix = scope.prefix();
        let (all, large) = (format!("{prefix}pick"), format!("{prefix}pick-large"));
        self.chain(&all, None);
        self.chain(&large, None);
        let words = self.family.words();
        let remembered = vec![
            self.family.address(End::Source, 0),
            self.family.address(End::Destination, words),
        ];
        let port = self.load_ports(words + words);
        let translate = self.translation(SetId::Affinity);
        self.rule(&all, &[remembered, port, translate]);
        for class in scope.classes() {
            let chain = format!("{prefix}pick-{}", class.slots);
            self.chain(&chain, None);
            let from = if class.slots <= EXACT { &all } else { &large };
            let size = self.key(SetId::Size(scope, class.slots));
            self.rule(from, &[size, goto(&chain)]);
            // A draw that finds no element falls through to the next.
            if class.is_exact() {
                self.draw(&chain, scope, class.slots);
            } else {
                for _ in 0..DRAWS {
                    self.draw(&chain, scope, class.slots);
                }
                self.draw(&chain, scope, class.filled);
            }
            if class.slots > 1 {
                self.draw(&chain, scope, 1);
            }
        }
        for hash in HashOf::ALL {
            self.hash(&all, scope, hash);
        }
        self.rule(&all, &[self.key(SetId::Large(scope)), jump(&large)]);
        self.draw(&all, scope, 1);
    }

    /// The way of frontends whose slots are chosen by a hash of the client.
    fn hash(&mut self, from: &str, scope: Scope, hash: HashOf) {
        let set = SetId::Hashed(scope, hash);
        let chain = format!(
            "{}pick-{}",
            scope.prefix(),
            match hash {
                HashOf::Source => "source",
                HashOf::FiveTuple => "five-tuple",
            }
        );
        self.chain(&chain, None);
        self.rule(from, &[self.key(set), goto(&chain)]);
        // Where nft puts it, which has no more room behind an address of IPv6.
        let word = match self.family {
            IpFamily::V4 => 8,
            IpFamily::V6 => 11,
        };
        let words = self.family.words();
        let mut client = vec![self.family.address(End::Source, word)];
        // What else a packet of this frontend says is the same for all of them.
        let hashed = match hash {
            HashOf::Source => words,
            HashOf::FiveTuple => {
                client.push(source_port(word + words));
                words + 1
            }
        };
        let slot = vec![Expression::Hash {
            from: Register::word(word),
            length: u32::from(hashed) * 4,
            modulus: HASH_SLOTS,
            seed: SEED,
            into: Register::word(words + 2),
        }];
        let translate = self.translation(SetId::Endpoints(scope));
        self.rule(&chain, &[self.load_key(), client, slot, translate]);
        // For a packet that came here before the commit that filled all slots, or emptied them.
        self.draw(&chain, scope, 1);
    }

    fn draw(&mut self, chain: &str, scope: Scope, modulus: u32) {
        let number = vec![Expression::Number {
            mode: NumberMode::Random,
            modulus,
            into: Register::word(self.family.words() + 2),
        }];
        let translate = self.translation(SetId::Endpoints(scope));
        self.rule(chain, &[self.load_key(), number, translate]);
    }

    /// Translates to what the map has for the key that starts at word 0.
    fn translation(&self, map: SetId) -> Vec<Expression> {
        vec![
            Expression::Lookup {
                set: map.name().into_owned(),
                from: Register::word(0),
                into: Some(Register::word(0)),
                invert: false,
            },
            Expression::Nat {
                kind: NatKind::Destination,
                family: self.family.nft(),
                address: Register::word(0),
                port: Some(Register::word(self.family.words())),
            },
        ]
    }

    /// Where bytes are counted: every packet of a translated connection, once.
    fn count_traffic(&mut self) {
        if !self.shape.traffic {
            return;
        }
        self.chain("traffic", None);
        for (name, hook) in [
            ("traffic-prerouting", Hook::Prerouting),
            ("traffic-output", Hook::Output),
        ] {
            self.base(name, ChainKind::Filter, hook, -95);
            // What the node sends itself comes by twice.
            let arrived = match hook {
                Hook::Prerouting => device(b"lo", IFNAMSIZ, true),
                Hook::Input | Hook::Forward | Hook::Output | Hook::Postrouting => Vec::new(),
            };
            self.rule(name, &[translated(), arrived, jump("traffic")]);
        }
        for (way, direction) in [(Way::In, 0), (Way::Out, 1)] {
            for counted in self.original(SetId::Traffic(way)) {
                self.rule("traffic", &[of_direction(direction), counted]);
            }
        }
    }

    /// What was sent to a Service's address and not translated never leaves the node.
    fn unknown(&mut self) {
        self.chain("unknown", None);
        for (name, hook, priority) in [
            ("unknown-forward", Hook::Forward, 0),
            ("unknown-output", Hook::Output, -90),
        ] {
            self.base(name, ChainKind::Filter, hook, priority);
            let bits = CtKey::NEW | CtKey::INVALID | CtKey::UNTRACKED;
            self.rule(name, &[state(bits), jump("unknown")]);
        }
        // For a packet that came by the first look into this set before the commit that
        // filled it, and by the translation after it: its client is told nothing either.
        self.drop_without_endpoints("unknown");
        let address = self.address(End::Destination, SetId::ServiceAddresses, false);
        let new = state(CtKey::NEW);
        let comment = Some("no such port of the Service");
        let refusal = [new.clone(), tcp(), address.clone(), counted(reset())];
        self.commented("unknown", comment, &refusal);
        let refusal = [new, address, counted(self.family.port_unreachable())];
        self.commented("unknown", comment, &refusal);
        let range = self.address(End::Destination, SetId::ServiceRanges, false);
        let drop = counted(Expression::Verdict(Verdict::Drop));
        self.commented(
            "unknown",
            Some("no Service at this address"),
            &[range, drop],
        );
    }

    /// Which endpoint a client got, for the next time: where the packet leaves the node, or
    /// has arrived.
    fn remember(&mut self) {
        self.chain(REMEMBER, None);
        let words = self.family.words();
        for (name, hook) in [
            ("remembering", Hook::Postrouting),
            ("remembering-input", Hook::Input),
        ] {
            self.base(name, ChainKind::Filter, hook, -10);
            // Not what has left the frontend since it was chosen.
            let stands = vec![lookup(SetId::Remembered, false)];
            for protocol in Protocol::ALL {
                let parts = [
                    state(CtKey::NEW),
                    translated(),
                    of_protocol(protocol),
                    original_key(self.family, 0),
                    endpoint(self.family, words + 2),
                    stands.clone(),
                    jump(REMEMBER),
                ];
                self.rule(name, &parts);
            }
        }
        let rules = self.shape.timeouts.iter();
        let rules = rules.flat_map(|seconds| remembering(self.family, *seconds));
        self.rules.insert(REMEMBER.to_owned(), rules.collect());
    }

    fn masquerade(&mut self) {
        // Not the keyword: nft can't read a chain of that name back.
        let chain = "masquerading";
        self.base(chain, ChainKind::Nat, Hook::Postrouting, 100);
        let masquerade = || vec![Expression::Masquerade { random: true }];
        let words = self.family.words();
        let both = vec![
            self.family.address(End::Source, 0),
            self.family.address(End::Destination, words),
            lookup(SetId::Hairpin, false),
        ];
        let comment = Some("a pod that reaches itself through a Service");
        self.commented(chain, comment, &[translated(), both, masquerade()]);
        let comment = Some("to where answers must come back from");
        for original in self.original(SetId::MasqueradeAll) {
            self.commented(chain, comment, &[translated(), original, masquerade()]);
        }
        let comment = Some("the node to an address that may be its own");
        let node = self.address(End::Source, SetId::Own, false);
        for original in self.original(SetId::MasqueradeNode) {
            let parts = [translated(), node.clone(), original, masquerade()];
            self.commented(chain, comment, &parts);
        }
        let comment = Some("to a Service from outside the pod ranges");
        if let Some(outside) = self.sent_by_pod(true) {
            for original in self.original(SetId::MasqueradeOutside) {
                let parts = [translated(), outside.clone(), original, masquerade()];
                self.commented(chain, comment, &parts);
            }
        }
        let parts = [
            self.address(End::Source, SetId::Pods, false),
            self.address(End::Destination, SetId::Pods, true),
            self.address(End::Destination, SetId::Nodes, true),
            self.address(End::Destination, SetId::ServiceRanges, true),
            to_group(self.family.into(), BitOperation::NotEqual),
            masquerade(),
        ];
        self.commented(chain, Some("from a pod to outside the cluster"), &parts);
    }

    /// Goes on if the packet came from a pod of the cluster, or if it did not; `None` if
    /// that can't be told.
    fn sent_by_pod(&self, invert: bool) -> Option<Vec<Expression>> {
        match &self.shape.pods {
            PodMatch::Source => Some(self.address(End::Source, SetId::PodSources, invert)),
            PodMatch::Device(name) => Some(device(name.as_bytes(), IFNAMSIZ, invert)),
            PodMatch::DevicePrefix(start) => Some(device(start.as_bytes(), start.len(), invert)),
            PodMatch::Nothing => None,
        }
    }

    fn address(&self, end: End, set: SetId, invert: bool) -> Vec<Expression> {
        vec![self.family.address(end, 0), lookup(set, invert)]
    }

    /// For each protocol what goes on if the frontend key that the connection had before
    /// translation is in the set.
    fn original(&self, set: SetId) -> [Vec<Expression>; 3] {
        Protocol::ALL.map(|protocol| {
            let mut expressions = of_protocol(protocol);
            expressions.extend(original_key(self.family, 0));
            expressions.push(lookup(set, false));
            expressions
        })
    }

    /// The packet's frontend key, from word 0 on.
    fn load_key(&self) -> Vec<Expression> {
        let mut key = vec![self.family.address(End::Destination, 0)];
        key.extend(self.load_ports(self.family.words()));
        key
    }

    /// The packet's protocol and destination port.
    fn load_ports(&self, word: u8) -> Vec<Expression> {
        vec![
            Expression::Meta {
                key: MetaKey::Protocol,
                into: Register::word(word),
            },
            destination_port(word + 1),
        ]
    }

    /// Goes on if the packet's frontend key is in the set.
    fn key(&self, set: SetId) -> Vec<Expression> {
        let mut expressions = self.load_key();
        expressions.push(lookup(set, false));
        expressions
    }
}

/// Goes on if the connection's protocol is this one. The key says it too; but nft knows of a port
/// before translation that it is one only where a rule says the protocol.
fn of_protocol(protocol: Protocol) -> Vec<Expression> {
    vec![
        Expression::Ct {
            key: CtKey::Protocol,
            direction: None,
            into: Register::word(0),
        },
        Expression::Compare {
            from: Register::word(0),
            operation: BitOperation::Equal,
            value: vec![protocol.number()],
        },
    ]
}

/// The frontend key that the connection had before translation.
fn original_key(family: IpFamily, word: u8) -> Vec<Expression> {
    let words = family.words();
    vec![
        Expression::Ct {
            key: match family {
                IpFamily::V4 => CtKey::DestinationV4,
                IpFamily::V6 => CtKey::DestinationV6,
            },
            direction: Some(Direction::Original),
            into: Register::word(word),
        },
        Expression::Ct {
            key: CtKey::Protocol,
            direction: None,
            into: Register::word(word + words),
        },
        Expression::Ct {
            key: CtKey::DestinationPort,
            direction: Some(Direction::Original),
            into: Register::word(word + words + 1),
        },
    ]
}

/// The source that the connection had before translation.
fn original_source(family: IpFamily, word: u8) -> Expression {
    Expression::Ct {
        key: source_key(family),
        direction: Some(Direction::Original),
        into: Register::word(word),
    }
}

/// Where the connection goes: where its answers come from. Not what the packet says, for nft takes a
/// protocol that it reads beside a packet's port for a part of that, and leaves it out.
fn endpoint(family: IpFamily, word: u8) -> Vec<Expression> {
    let load = |key, word| Expression::Ct {
        key,
        direction: Some(Direction::Reply),
        into: Register::word(word),
    };
    vec![
        load(source_key(family), word),
        load(CtKey::SourcePort, word + family.words()),
    ]
}

fn source_key(family: IpFamily) -> CtKey {
    match family {
        IpFamily::V4 => CtKey::SourceV4,
        IpFamily::V6 => CtKey::SourceV6,
    }
}

/// TCP, UDP and SCTP have them in the same places.
fn source_port(word: u8) -> Expression {
    Expression::Payload {
        base: PayloadBase::Transport,
        offset: 0,
        length: 2,
        into: Register::word(word),
    }
}

/// `IFNAMSIZ`: a device's whole name, its zeros included.
const IFNAMSIZ: usize = 16;

/// Goes on if the name of the device that the packet came in through begins so, or not so.
fn device(name: &[u8], length: usize, invert: bool) -> Vec<Expression> {
    let mut value = name.to_vec();
    value.resize(length, 0);
    vec![
        Expression::Meta {
            key: MetaKey::InputName,
            into: Register::word(0),
        },
        Expression::Compare {
            from: Register::word(0),
            operation: if invert {
                BitOperation::NotEqual
            } else {
                BitOperation::Equal
            },
            value,
        },
    ]
}

/// Goes on if the packet goes in this direction of its connection (`enum ip_conntrack_dir`).
fn of_direction(direction: u8) -> Vec<Expression> {
    vec![
        Expression::Ct {
            key: CtKey::Direction,
            direction: None,
            into: Register::word(0),
        },
        Expression::Compare {
            from: Register::word(0),
            operation: BitOperation::Equal,
            value: vec![direction],
        },
    ]
}

fn lookup(set: SetId, invert: bool) -> Expression {
    Expression::Lookup {
        set: set.name().into_owned(),
        from: Register::word(0),
        into: None,
        invert,
    }
}

fn state(bits: u32) -> Vec<Expression> {
    any_bit(CtKey::State, bits)
}

fn tcp() -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::Protocol,
            into: Register::word(0),
        },
        Expression::Compare {
            from: Register::word(0),
            operation: BitOperation::Equal,
            value: vec![6],
        },
    ]
}

/// A reset is never held back; the kernel limits how many ICMP errors it sends.
fn reset() -> Expression {
    Expression::Reject(Reject::TcpReset)
}

fn counted(last: Expression) -> Vec<Expression> {
    vec![Expression::Counter, last]
}

fn jump(chain: &str) -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Jump(chain.to_owned()))]
}

fn goto(chain: &str) -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Goto(chain.to_owned()))]
}
