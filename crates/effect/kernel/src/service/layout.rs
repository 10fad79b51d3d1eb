//! The table's sets, chains and rules. All of them stand from the start and never
//! change; a Service is only elements.
//!
//! A *frontend key* is `daddr . l4proto . th dport`. Its way, for the first packet of a
//! connection:
//!
//! ```text
//! -110 prerouting, output   key @refused            TCP reset, or ICMP port unreachable
//!                           key @dropped            dropped
//! -100 prerouting, output   key @frontends          goto pick
//!      pick                 key @size-N             goto pick-N          (N: 1 to 8)
//!                           key @size-large         jump pick-large      (N: 12 and up)
//!                           dnat key . 0            the choice that never fails
//!      pick-N               dnat key . random mod N, then key . 0
//!  -90 output, 0 forward    key @dropped               dropped
//!                           daddr @service-addresses   refused: no such port
//!                           daddr @service-ranges      dropped: no such Service
//!  100 postrouting          translated, saddr . daddr @hairpin            masquerade
//!                           translated, from outside the pod ranges       masquerade
//!                           from a pod to outside the cluster             masquerade
//! ```
//!
//! Each family has a table of its own: concatenated keys have typed addresses, and the
//! rules need no test of the family.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_desired::{SizeClass, mark};
use weft_sys::nft::{
    BaseChain, BitOperation, Chain, ChainKind, CtKey, DataType, Direction, Expression, Family,
    Hook, MetaKey, NatKind, NumberMode, PayloadBase, Policy, Register, Reject, Rule, Set, SetFlags,
    TableName, Verdict,
};

/// Counts above this are drawn from classes that are not full: several draws, then one
/// that can't miss.
const EXACT: u32 = 8;
/// Draws before the one that can't miss. At least two thirds of the slots are filled,
/// so that one of 27 connections at most is not spread over all endpoints.
const DRAWS: usize = 3;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// Both.
    pub const BOTH: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

    /// Whether an address is of this family.
    pub fn has(self, address: IpAddr) -> bool {
        match self {
            IpFamily::V4 => address.is_ipv4(),
            IpFamily::V6 => address.is_ipv6(),
        }
    }

    pub(super) fn table(self) -> TableName {
        TableName::new(self.nft(), mark::TABLE)
    }

    fn nft(self) -> Family {
        match self {
            IpFamily::V4 => Family::V4,
            IpFamily::V6 => Family::V6,
        }
    }

    fn address_type(self) -> DataType {
        match self {
            IpFamily::V4 => DataType::Ipv4Address,
            IpFamily::V6 => DataType::Ipv6Address,
        }
    }

    /// Where an address in the IP header stands (RFC 791, RFC 8200).
    fn address(self, end: End) -> Expression {
        let (offset, length) = match (self, end) {
            (IpFamily::V4, End::Source) => (12, 4),
            (IpFamily::V4, End::Destination) => (16, 4),
            (IpFamily::V6, End::Source) => (8, 16),
            (IpFamily::V6, End::Destination) => (24, 16),
        };
        Expression::Payload {
            base: PayloadBase::Network,
            offset,
            length,
            into: Register::word(0),
        }
    }

    /// How many words an address fills.
    fn words(self) -> u8 {
        match self {
            IpFamily::V4 => 1,
            IpFamily::V6 => 4,
        }
    }

    fn port_unreachable(self) -> Expression {
        // RFC 792 and RFC 4443.
        Expression::Reject(Reject::Unreachable(match self {
            IpFamily::V4 => 3,
            IpFamily::V6 => 4,
        }))
    }
}

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// The sets, in the order in which elements of a frontend are added; they are removed in
/// the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SetId {
    /// Pod ranges of the cluster.
    Pods,
    /// Addresses of the cluster's nodes.
    Nodes,
    /// This node's own pods, each with itself.
    Hairpin,
    /// Addresses that have a frontend.
    ServiceAddresses,
    /// The ranges Service addresses are taken from.
    ServiceRanges,
    /// Frontend key and slot to an endpoint's address and port.
    Endpoints,
    /// Frontends whose clients outside the pod ranges are masqueraded.
    MasqueradeOutside,
    /// Frontends of one size class, by its number of slots.
    Size(u32),
    /// Frontends of a size class above [`EXACT`].
    Large,
    /// Frontends with endpoints; each element counts its connections.
    Frontends,
    /// Frontends without, whose clients are told.
    Refused,
    /// Frontends without, whose clients are told nothing.
    Dropped,
}

impl SetId {
    pub(super) fn all() -> impl Iterator<Item = SetId> {
        let sizes = SizeClass::all().map(|class| SetId::Size(class.slots));
        [
            SetId::Pods,
            SetId::Nodes,
            SetId::Hairpin,
            SetId::ServiceAddresses,
            SetId::ServiceRanges,
            SetId::Endpoints,
            SetId::MasqueradeOutside,
        ]
        .into_iter()
        .chain(sizes)
        .chain([
            SetId::Large,
            SetId::Frontends,
            SetId::Refused,
            SetId::Dropped,
        ])
    }

    /// The set's name in the table.
    pub(super) fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            SetId::Pods => "pod-ranges",
            SetId::Nodes => "node-addresses",
            SetId::Hairpin => "hairpin",
            SetId::ServiceAddresses => "service-addresses",
            SetId::ServiceRanges => "service-ranges",
            SetId::Endpoints => "endpoints",
            SetId::MasqueradeOutside => "masquerade-outside",
            SetId::Size(slots) => return Cow::Owned(format!("size-{slots}")),
            SetId::Large => "size-large",
            SetId::Frontends => "frontends",
            SetId::Refused => "refused",
            SetId::Dropped => "dropped",
        })
    }

    /// Whether its elements are ranges.
    pub(super) fn is_ranges(self) -> bool {
        match self {
            SetId::Pods | SetId::ServiceRanges => true,
            SetId::Nodes
            | SetId::Hairpin
            | SetId::ServiceAddresses
            | SetId::Endpoints
            | SetId::MasqueradeOutside
            | SetId::Size(_)
            | SetId::Large
            | SetId::Frontends
            | SetId::Refused
            | SetId::Dropped => false,
        }
    }

    fn definition(self, family: IpFamily) -> Set {
        let address = family.address_type();
        let frontend = vec![address, DataType::Protocol, DataType::Port];
        let (key, data) = match self {
            SetId::Pods | SetId::Nodes | SetId::ServiceAddresses | SetId::ServiceRanges => {
                (vec![address], Vec::new())
            }
            SetId::Hairpin => (vec![address, address], Vec::new()),
            SetId::Endpoints => (
                [frontend, vec![DataType::Mark]].concat(),
                vec![address, DataType::Port],
            ),
            SetId::MasqueradeOutside
            | SetId::Size(_)
            | SetId::Large
            | SetId::Frontends
            | SetId::Refused
            | SetId::Dropped => (frontend, Vec::new()),
        };
        Set {
            name: self.name().into_owned(),
            key,
            data,
            flags: SetFlags {
                interval: self.is_ranges(),
                ..SetFlags::default()
            },
            timeout: None,
            counter: self == SetId::Frontends,
            comment: None,
        }
    }
}

/// What a table is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) sets: BTreeMap<String, Set>,
    pub(super) chains: BTreeMap<String, Chain>,
    /// By chain, in their order.
    pub(super) rules: BTreeMap<String, Vec<Rule>>,
}

impl Layout {
    /// The layout of a family's table.
    pub(super) fn of(family: IpFamily) -> Self {
        let mut builder = Builder {
            family,
            layout: Layout {
                sets: SetId::all()
                    .map(|set| set.definition(family))
                    .map(|set| (set.name.clone(), set))
                    .collect(),
                chains: BTreeMap::new(),
                rules: BTreeMap::new(),
            },
        };
        builder.refuse();
        builder.translate();
        builder.pick();
        builder.unknown();
        builder.masquerade();
        builder.layout
    }

    /// What differs in `found`, in words; `None` if nothing does.
    pub(super) fn difference(&self, found: &Layout) -> Option<String> {
        fn part<V: PartialEq>(
            what: &str,
            ours: &BTreeMap<String, V>,
            found: &BTreeMap<String, V>,
        ) -> Option<String> {
            let missing = ours.keys().find(|name| !found.contains_key(*name));
            let foreign = found.keys().find(|name| !ours.contains_key(*name));
            let changed = ours
                .iter()
                .find(|(name, value)| found.get(*name) != Some(*value));
            match (missing, foreign, changed) {
                (Some(name), _, _) => Some(format!("{what} {name} is missing")),
                (None, Some(name), _) => Some(format!("{what} {name} is not of this layout")),
                (None, None, Some((name, _))) => Some(format!("{what} {name} differs")),
                (None, None, None) => None,
            }
        }
        part("set", &self.sets, &found.sets)
            .or_else(|| part("chain", &self.chains, &found.chains))
            .or_else(|| part("the rules of chain", &self.rules, &found.rules))
    }
}

struct Builder {
    family: IpFamily,
    layout: Layout,
}

impl Builder {
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
        self.layout.rules.insert(name.clone(), Vec::new());
        self.layout
            .chains
            .insert(name.clone(), Chain { name, base });
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
        self.layout
            .rules
            .entry(chain.to_owned())
            .or_default()
            .push(rule);
    }

    /// Frontends without endpoints, before translation.
    fn refuse(&mut self) {
        self.chain("refuse", None);
        self.chain("refuse-reply", None);
        for (name, hook) in [
            ("refuse-prerouting", Hook::Prerouting),
            ("refuse-output", Hook::Output),
        ] {
            self.base(name, ChainKind::Filter, hook, -110);
            self.rule(name, &[state(CtKey::NEW), jump("refuse")]);
        }
        self.rule("refuse", &[self.key(SetId::Refused), goto("refuse-reply")]);
        self.drop_without_endpoints("refuse");
        let comment = Some("Service without endpoints");
        self.commented("refuse-reply", comment, &[tcp(), counted(reset())]);
        let unreachable = counted(self.family.port_unreachable());
        self.commented("refuse-reply", comment, &[unreachable]);
    }

    fn drop_without_endpoints(&mut self, chain: &str) {
        let comment = Some("Service without endpoints on this node");
        let drop = counted(Expression::Verdict(Verdict::Drop));
        self.commented(chain, comment, &[self.key(SetId::Dropped), drop]);
    }

    fn translate(&mut self) {
        self.chain("pick", None);
        for (name, hook) in [
            ("translate-prerouting", Hook::Prerouting),
            ("translate-output", Hook::Output),
        ] {
            self.base(name, ChainKind::Nat, hook, -100);
            self.rule(name, &[self.key(SetId::Frontends), goto("pick")]);
        }
    }

    fn pick(&mut self) {
        self.chain("pick-large", None);
        for class in SizeClass::all() {
            let chain = format!("pick-{}", class.slots);
            self.chain(&chain, None);
            let from = if class.slots <= EXACT {
                "pick"
            } else {
                "pick-large"
            };
            self.rule(from, &[self.key(SetId::Size(class.slots)), goto(&chain)]);
            // A draw that finds no element falls through to the next.
            if class.is_exact() {
                self.draw(&chain, class.slots);
            } else {
                for _ in 0..DRAWS {
                    self.draw(&chain, class.slots);
                }
                self.draw(&chain, class.filled);
            }
            if class.slots > 1 {
                self.draw(&chain, 1);
            }
        }
        self.rule("pick", &[self.key(SetId::Large), jump("pick-large")]);
        self.draw("pick", 1);
    }

    fn draw(&mut self, chain: &str, modulus: u32) {
        let words = self.family.words();
        let draw = vec![
            Expression::Number {
                mode: NumberMode::Random,
                modulus,
                into: Register::word(words + 2),
            },
            Expression::Lookup {
                set: SetId::Endpoints.name().into_owned(),
                from: Register::word(0),
                into: Some(Register::word(0)),
                invert: false,
            },
            Expression::Nat {
                kind: NatKind::Destination,
                family: self.family.nft(),
                address: Register::word(0),
                port: Some(Register::word(words)),
            },
        ];
        self.rule(chain, &[self.load_key(), draw]);
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

    fn masquerade(&mut self) {
        let chain = "masquerade";
        self.base(chain, ChainKind::Nat, Hook::Postrouting, 100);
        let masquerade = || vec![Expression::Masquerade { random: true }];
        let both = vec![
            self.family.address(End::Source),
            Expression::Payload {
                into: Register::word(self.family.words()),
                base: PayloadBase::Network,
                offset: match self.family {
                    IpFamily::V4 => 16,
                    IpFamily::V6 => 24,
                },
                length: u32::from(self.family.words()) * 4,
            },
            lookup(SetId::Hairpin, false),
        ];
        let comment = Some("a pod that reaches itself through a Service");
        self.commented(chain, comment, &[translated(), both, masquerade()]);
        let outside = self.address(End::Source, SetId::Pods, true);
        let original = self.original_key(SetId::MasqueradeOutside);
        let comment = Some("to a Service from outside the pod ranges");
        let parts = [translated(), outside, original, masquerade()];
        self.commented(chain, comment, &parts);
        let parts = [
            self.address(End::Source, SetId::Pods, false),
            self.address(End::Destination, SetId::Pods, true),
            self.address(End::Destination, SetId::Nodes, true),
            self.address(End::Destination, SetId::ServiceRanges, true),
            masquerade(),
        ];
        self.commented(chain, Some("from a pod to outside the cluster"), &parts);
    }

    fn address(&self, end: End, set: SetId, invert: bool) -> Vec<Expression> {
        vec![self.family.address(end), lookup(set, invert)]
    }

    /// The packet's frontend key, from word 0 on.
    fn load_key(&self) -> Vec<Expression> {
        let words = self.family.words();
        vec![
            self.family.address(End::Destination),
            Expression::Meta {
                key: MetaKey::Protocol,
                into: Register::word(words),
            },
            Expression::Payload {
                base: PayloadBase::Transport,
                // TCP, UDP and SCTP have the destination port here.
                offset: 2,
                length: 2,
                into: Register::word(words + 1),
            },
        ]
    }

    /// Goes on if the packet's frontend key is in the set.
    fn key(&self, set: SetId) -> Vec<Expression> {
        let mut expressions = self.load_key();
        expressions.push(lookup(set, false));
        expressions
    }

    /// Goes on if the frontend key that the connection had before translation is in the set.
    fn original_key(&self, set: SetId) -> Vec<Expression> {
        let words = self.family.words();
        vec![
            Expression::Ct {
                key: match self.family {
                    IpFamily::V4 => CtKey::DestinationV4,
                    IpFamily::V6 => CtKey::DestinationV6,
                },
                direction: Some(Direction::Original),
                into: Register::word(0),
            },
            Expression::Ct {
                key: CtKey::Protocol,
                direction: None,
                into: Register::word(words),
            },
            Expression::Ct {
                key: CtKey::DestinationPort,
                direction: Some(Direction::Original),
                into: Register::word(words + 1),
            },
            lookup(set, false),
        ]
    }
}

fn lookup(set: SetId, invert: bool) -> Expression {
    Expression::Lookup {
        set: set.name().into_owned(),
        from: Register::word(0),
        into: None,
        invert,
    }
}

/// Goes on if conntrack's value has one of the bits.
fn any_bit(key: CtKey, bits: u32) -> Vec<Expression> {
    vec![
        Expression::Ct {
            key,
            direction: None,
            into: Register::word(0),
        },
        Expression::Bitwise {
            from: Register::word(0),
            into: Register::word(0),
            mask: bits.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        },
        Expression::Compare {
            from: Register::word(0),
            operation: BitOperation::NotEqual,
            value: vec![0; 4],
        },
    ]
}

fn state(bits: u32) -> Vec<Expression> {
    any_bit(CtKey::State, bits)
}

fn translated() -> Vec<Expression> {
    any_bit(CtKey::Status, CtKey::DESTINATION_TRANSLATED)
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
