//! One rule, in the words in which `iptables-save` prints it. `iptables-restore` takes the
//! same words.

use std::fmt::{self, Write};
use std::net::SocketAddr;

use ipnet::IpNet;
use weft_desired::{Backend, IpFamily, Protocol};

use crate::Chain;

/// Something to match, or anything but that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition<T> {
    /// Matches if it is this.
    Is(T),
    /// Matches if it is not this.
    IsNot(T),
}

/// A rule of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `-s`.
    pub source: Option<Condition<IpNet>>,
    /// `-d`.
    pub destination: Option<Condition<IpNet>>,
    /// `-i`; a `+` at the end stands for anything.
    pub interface: Option<Condition<String>>,
    /// `-p`.
    pub protocol: Option<Protocol>,
    /// `-m …`, in their order.
    pub matches: Vec<Match>,
    /// `-j`; none for a rule that only counts.
    pub target: Option<Target>,
}

/// A match by a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Says what the rule is for.
    Comment(String),
    /// The rule's protocol, and the destination port if one is given.
    Transport(Protocol, Option<u16>),
    /// The destination is an address of the node.
    ToNode,
    /// The source is an address of the node.
    FromNode,
    /// These bits of the packet's mark are set.
    Marked(Condition<u32>),
    /// What conntrack says of the packet.
    State(Condition<&'static [State]>),
    /// So many packets of so many, by chance.
    Share {
        /// How many match.
        part: u64,
        /// Of how many.
        of: u64,
    },
    /// The client came this way within so many seconds.
    Remembered {
        /// The list.
        list: Chain,
        /// How long it is remembered.
        seconds: u32,
    },
    /// From here on the client is remembered.
    Remember(Chain),
    /// Always; and the kernel counts under this name (`nfacct`).
    Count(&'static str),
}

/// A conntrack state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Belongs to no connection, and can't start one.
    Invalid,
    /// Starts a connection.
    New,
    /// Belongs to a connection that another one started.
    Related,
    /// Belongs to a connection that has seen both sides.
    Established,
    /// Of a connection whose destination is translated.
    Dnat,
}

/// Where a matching packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To another chain.
    Jump(Chain),
    /// Through.
    Accept,
    /// Nowhere.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Nowhere, and the sender is told.
    Reject,
    /// Nowhere, and the sender's connection by TCP is reset.
    Reset,
    /// To this endpoint.
    Translate(Backend),
    /// On, with the node's address.
    Masquerade {
        /// With a source port that is drawn, so that two flows at once don't meet.
        random: bool,
    },
    /// On, with these bits of the mark set.
    SetMark(u32),
    /// On, with these bits of the mark flipped.
    FlipMark(u32),
}

impl Rule {
    /// A rule with a comment.
    pub(crate) fn about(comment: impl Into<String>) -> Self {
        Self::default().with(Match::Comment(comment.into()))
    }

    pub(crate) fn with(mut self, condition: Match) -> Self {
        self.matches.push(condition);
        self
    }

    /// From a range; the range of all addresses is no condition, and not printed.
    pub(crate) fn from(mut self, source: impl Into<IpNet>) -> Self {
        let source = source.into();
        self.source = (source.prefix_len() > 0).then_some(Condition::Is(source));
        self
    }

    pub(crate) fn not_from(mut self, source: impl Into<IpNet>) -> Self {
        self.source = Some(Condition::IsNot(source.into()));
        self
    }

    pub(crate) fn to(mut self, destination: impl Into<IpNet>) -> Self {
        self.destination = Some(Condition::Is(destination.into()));
        self
    }

    pub(crate) fn not_to(mut self, destination: impl Into<IpNet>) -> Self {
        self.destination = Some(Condition::IsNot(destination.into()));
        self
    }

    pub(crate) fn of(mut self, protocol: Protocol, port: Option<u16>) -> Self {
        self.protocol = Some(protocol);
        self.with(Match::Transport(protocol, port))
    }

    pub(crate) fn then(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    pub(crate) fn jump(self, chain: Chain) -> Self {
        self.then(Target::Jump(chain))
    }

    /// The line `-A CHAIN …`, without its end.
    pub fn line(&self, family: IpFamily, chain: &Chain) -> String {
        let mut line = format!("-A {chain}");
        // A String takes all that is written.
        let _ = self.write(&mut line, family);
        line
    }

    fn write(&self, line: &mut String, family: IpFamily) -> fmt::Result {
        write_condition(line, "-s", self.source.as_ref())?;
        write_condition(line, "-d", self.destination.as_ref())?;
        write_condition(line, "-i", self.interface.as_ref())?;
        if let Some(protocol) = self.protocol {
            write!(line, " -p {protocol}")?;
        }
        for condition in &self.matches {
            condition.write(line, family)?;
        }
        match &self.target {
            None => Ok(()),
            Some(target) => target.write(line, family),
        }
    }
}

fn write_condition<T: fmt::Display>(
    line: &mut String,
    option: &str,
    condition: Option<&Condition<T>>,
) -> fmt::Result {
    match condition {
        None => Ok(()),
        Some(Condition::Is(value)) => write!(line, " {option} {value}"),
        Some(Condition::IsNot(value)) => write!(line, " ! {option} {value}"),
    }
}

impl Match {
    fn write(&self, line: &mut String, family: IpFamily) -> fmt::Result {
        match self {
            Match::Comment(comment) => {
                line.write_str(" -m comment --comment ")?;
                write_quoted(line, comment)
            }
            Match::Transport(protocol, None) => write!(line, " -m {protocol}"),
            Match::Transport(protocol, Some(port)) => {
                write!(line, " -m {protocol} --dport {port}")
            }
            Match::ToNode => line.write_str(" -m addrtype --dst-type LOCAL"),
            Match::FromNode => line.write_str(" -m addrtype --src-type LOCAL"),
            Match::Marked(mark) => {
                let (not, mark) = match mark {
                    Condition::Is(mark) => ("", mark),
                    Condition::IsNot(mark) => (" !", mark),
                };
                write!(line, " -m mark{not} --mark {mark:#x}/{mark:#x}")
            }
            Match::State(states) => {
                let (not, states) = match states {
                    Condition::Is(states) => ("", states),
                    Condition::IsNot(states) => (" !", states),
                };
                let states: Vec<&str> = states.iter().map(|state| state.name()).collect();
                write!(line, " -m conntrack{not} --ctstate {}", states.join(","))
            }
            Match::Share { part, of } => {
                let chance = chance(*part, *of);
                write!(
                    line,
                    " -m statistic --mode random --probability {chance:.11}"
                )
            }
            Match::Remembered { list, seconds } => {
                write!(
                    line,
                    " -m recent --rcheck --seconds {seconds} --reap --name {list} --mask {} --rsource",
                    whole_address(family)
                )
            }
            Match::Remember(list) => write!(
                line,
                " -m recent --set --name {list} --mask {} --rsource",
                whole_address(family)
            ),
            // Two blanks: that is how it is printed.
            Match::Count(name) => write!(line, " -m nfacct --nfacct-name  {name}"),
        }
    }
}

/// So many of so many as the kernel has it: a multiple of 2⁻³¹ (`xt_statistic.h`), from the ten
/// digits that kube-proxy writes.
fn chance(part: u64, of: u64) -> f64 {
    const ONE: f64 = 2_147_483_648.0;
    let written = (1e10 * part as f64 / of.max(1) as f64).round() / 1e10;
    (written * ONE).round() / ONE
}

fn whole_address(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "255.255.255.255",
        IpFamily::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    }
}

/// In quotes unless it is a word, as iptables prints it.
fn write_quoted(line: &mut String, text: &str) -> fmt::Result {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.chars().all(word) {
        return line.write_str(text);
    }
    line.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push('"');
    Ok(())
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Invalid => "INVALID",
            State::New => "NEW",
            State::Related => "RELATED",
            State::Established => "ESTABLISHED",
            State::Dnat => "DNAT",
        }
    }
}

impl Target {
    fn write(&self, line: &mut String, family: IpFamily) -> fmt::Result {
        match self {
            Target::Jump(chain) => write!(line, " -j {chain}"),
            Target::Accept => line.write_str(" -j ACCEPT"),
            Target::Drop => line.write_str(" -j DROP"),
            Target::Return => line.write_str(" -j RETURN"),
            Target::Reject => {
                let answer = match family {
                    IpFamily::V4 => "icmp-port-unreachable",
                    IpFamily::V6 => "icmp6-port-unreachable",
                };
                write!(line, " -j REJECT --reject-with {answer}")
            }
            Target::Reset => line.write_str(" -j REJECT --reject-with tcp-reset"),
            Target::Translate(backend) => {
                let socket = SocketAddr::new(backend.address, backend.port);
                write!(line, " -j DNAT --to-destination {socket}")
            }
            Target::Masquerade { random: false } => line.write_str(" -j MASQUERADE"),
            Target::Masquerade { random: true } => line.write_str(" -j MASQUERADE --random-fully"),
            Target::SetMark(mark) => write!(line, " -j MARK --set-xmark {mark:#x}/{mark:#x}"),
            Target::FlipMark(mark) => write!(line, " -j MARK --set-xmark {mark:#x}/0x0"),
        }
    }
}
