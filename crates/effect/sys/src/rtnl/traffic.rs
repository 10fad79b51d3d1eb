//! Traffic control: how fast a link sends, and where what it receives goes first.
//!
//! A token bucket (`tbf`) holds back what a link sends. What it receives can only be held back
//! where it is sent on: it is redirected to a device that exists for nothing else (`ifb`), whose
//! bucket lets it through, and then it is received as if nothing had been.
//!
//! Source: `include/uapi/linux/{pkt_sched,pkt_cls,tc_act/tc_mirred}.h`. The tests compare with
//! what iproute2's `tc` sends.

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};

use super::link::described;
use super::{Batch, Conversation, Error, Link, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use crate::netlink::{Message, Request, attributes};

// include/uapi/linux/rtnetlink.h
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// `struct tcmsg`.
const HEADER: usize = 20;
const NLA_F_NESTED: u16 = 0x8000;

// include/uapi/linux/pkt_sched.h
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
/// The queue of what is received, `ffff:`.
const INGRESS: u32 = 0xffff_0000;
/// `1:`, as anybody would call the only one.
const BUCKET: u32 = 0x1_0000;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `struct tc_ratespec`: sizes of packets are looked up by steps of 2³ bytes, on Ethernet.
const RATE_HEAD: [u8; 8] = [3, 1, 0, 0, 0xff, 0xff, 0, 0];
/// A microsecond in the units of `struct tc_tbf_qopt`, which are 64 ns: 15.625, in thousandths.
const MILLITICKS: u128 = 15_625;

// include/uapi/linux/pkt_cls.h, tc_act/tc_mirred.h
const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;
const ETH_P_ALL: u16 = 3;

/// How fast a link may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may pass at once after a pause; no packet that is longer passes ever.
    pub burst: u32,
    /// Bytes that may wait, beyond which packets are dropped.
    pub limit: u32,
}

/// A link's bucket, as the kernel tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may wait.
    pub limit: u32,
}

impl Conversation {
    /// Makes a device that hands back what is sent through it, and returns it, down.
    ///
    /// # Errors
    /// [`Error::is_exists`] if the name is taken; EOPNOTSUPP if the kernel has none such (`ifb`).
    pub fn add_intermediate(&mut self, name: &str, mtu: u32, alias: &str) -> Result<Link, Error> {
        let mut message = described(name, None, Some(mtu));
        let kind = LinkInfo::Kind(InfoKind::Ifb);
        let info = LinkAttribute::LinkInfo(vec![kind]);
        message.attributes.push(info);
        self.make(
            format!("intermediate device {name}"),
            &message,
            name,
            Some(alias),
        )
    }

    /// Holds back what a link sends, whatever held it back before.
    ///
    /// # Errors
    /// ENOENT if the kernel has no such queue (`sch_tbf`).
    pub fn set_token_bucket(&mut self, index: u32, bucket: TokenBucket) -> Result<(), Error> {
        self.one(&Request {
            operation: "set the token bucket of link",
            object: format!("with index {index}"),
            kind: RTM_NEWQDISC,
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            payload: token_bucket(index, bucket),
        })
    }

    /// The bucket by which a link sends, if it is one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn token_bucket(&mut self, index: u32) -> Result<Option<Held>, Error> {
        let request = Request {
            operation: "list queues",
            object: format!("of link with index {index}"),
            kind: RTM_GETQDISC,
            flags: 0,
            payload: header(index, 0, 0, 0),
        };
        let found = self
            .socket
            .dump(&request, |message| Ok(read_bucket(message, index)))?;
        Ok(found.into_iter().next())
    }

    /// Redirects what a link receives to another link, which sends it.
    ///
    /// # Errors
    /// ENOENT if the kernel has no such queue, filter or action (`sch_ingress`, `cls_u32`,
    /// `act_mirred`); [`Error::is_exists`] if what it receives is queued already.
    pub fn redirect_received(&mut self, index: u32, to: u32) -> Result<(), Error> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.one(&Request {
            operation: "queue what is received by link",
            object: format!("with index {index}"),
            kind: RTM_NEWQDISC,
            flags,
            payload: ingress(index),
        })?;
        self.one(&Request {
            operation: "redirect what is received by link",
            object: format!("with index {index} to {to}"),
            kind: RTM_NEWTFILTER,
            flags,
            payload: redirection(index, to),
        })
    }

    /// Where all that a link receives is redirected to.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn redirected_to(&mut self, index: u32) -> Result<Option<u32>, Error> {
        let request = Request {
            operation: "list filters",
            object: format!("of link with index {index}"),
            kind: RTM_GETTFILTER,
            flags: 0,
            payload: header(index, 0, INGRESS, 0),
        };
        let found = self
            .socket
            .dump(&request, |message| Ok(read_redirection(message)))?;
        Ok(found.into_iter().next())
    }
}

impl Batch {
    /// Lets a link send as fast as it can. A link whose queue is the kernel's own refuses.
    pub fn remove_token_bucket(&mut self, index: u32) -> &mut Self {
        self.requests.push(Request {
            operation: "remove the queue of link",
            object: format!("with index {index}"),
            kind: RTM_DELQDISC,
            flags: 0,
            payload: header(index, 0, TC_H_ROOT, 0),
        });
        self
    }

    /// Redirects nothing that a link receives. A link that redirects nothing refuses.
    pub fn receive_directly(&mut self, index: u32) -> &mut Self {
        self.requests.push(Request {
            operation: "remove the queue of what is received by link",
            object: format!("with index {index}"),
            kind: RTM_DELQDISC,
            flags: 0,
            payload: ingress(index),
        });
        self
    }
}

/// `struct tcmsg`.
fn header(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for number in [index, handle, parent, info] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes
}

fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn token_bucket(index: u32, bucket: TokenBucket) -> Vec<u8> {
    let rate = u32::try_from(bucket.rate).unwrap_or(u32::MAX);
    let mut parameters = RATE_HEAD.to_vec();
    parameters.extend(rate.to_ne_bytes());
    // No peak rate.
    parameters.extend([0; 12]);
    let microseconds = u128::from(bucket.burst) * 1_000_000 / u128::from(rate.max(1));
    let ticks = microseconds * MILLITICKS / 1000;
    let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
    for number in [bucket.limit, ticks, 0] {
        parameters.extend(number.to_ne_bytes());
    }
    let mut options = Vec::new();
    put(&mut options, TCA_TBF_PARMS, &parameters);
    put(&mut options, TCA_TBF_BURST, &bucket.burst.to_ne_bytes());
    if bucket.rate > u64::from(u32::MAX) {
        put(&mut options, TCA_TBF_RATE64, &bucket.rate.to_ne_bytes());
    }
    // tc adds a table of times by size (TCA_TBF_RTAB), which the kernel has not looked at since
    // it was told that this is Ethernet.
    let mut message = header(index, BUCKET, TC_H_ROOT, 0);
    put(&mut message, TCA_KIND, b"tbf\0");
    put(&mut message, TCA_OPTIONS, &options);
    message
}

fn ingress(index: u32) -> Vec<u8> {
    let mut message = header(index, INGRESS, TC_H_INGRESS, 0);
    put(&mut message, TCA_KIND, b"ingress\0");
    message
}

fn redirection(index: u32, to: u32) -> Vec<u8> {
    // struct tc_mirred
    let mut mirred = Vec::new();
    for number in [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to] {
        mirred.extend(number.to_ne_bytes());
    }
    let mut parameters = Vec::new();
    put(&mut parameters, TCA_MIRRED_PARMS, &mirred);
    let mut action = Vec::new();
    put(&mut action, TCA_ACT_KIND, b"mirred\0");
    put(&mut action, TCA_ACT_OPTIONS | NLA_F_NESTED, &parameters);
    let mut actions = Vec::new();
    put(&mut actions, 1, &action);
    // struct tc_u32_sel: the end of the search (TC_U32_TERMINAL) where one key fits, which is no
    // bit of the first four bytes.
    let mut selector = vec![1, 0, 1, 0];
    selector.resize(32, 0);

    let mut options = Vec::new();
    put(&mut options, TCA_U32_CLASSID, &(BUCKET + 1).to_ne_bytes());
    put(&mut options, TCA_U32_ACT, &actions);
    put(&mut options, TCA_U32_SEL, &selector);
    let all = u32::from(ETH_P_ALL.to_be());
    let mut message = header(index, 0, INGRESS, 1 << 16 | all);
    put(&mut message, TCA_KIND, b"u32\0");
    put(&mut message, TCA_OPTIONS, &options);
    message
}

fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn read_bucket(message: Message<'_>, index: u32) -> Option<Held> {
    if message.kind != RTM_NEWQDISC
        || number(message.payload, 4) != Some(index)
        || number(message.payload, 12) != Some(TC_H_ROOT)
    {
        return None;
    }
    let own = || attributes(message.payload.get(HEADER..).unwrap_or_default());
    let is_bucket = own().any(|one| one.kind == TCA_KIND && one.value == b"tbf\0");
    let options = own().find(|one| is_bucket && one.kind == TCA_OPTIONS)?;
    let mut held = None;
    for option in options.nested() {
        match (option.kind, &mut held) {
            (TCA_TBF_PARMS, held) => {
                *held = Some(Held {
                    rate: u64::from(number(option.value, 8)?),
                    limit: number(option.value, 24)?,
                });
            }
            (TCA_TBF_RATE64, Some(held)) => {
                held.rate = u64::from_ne_bytes(*option.value.first_chunk()?);
            }
            _ => {}
        }
    }
    held
}

fn read_redirection(message: Message<'_>) -> Option<u32> {
    if message.kind != RTM_NEWTFILTER {
        return None;
    }
    let mut own = attributes(message.payload.get(HEADER..)?);
    let options = own.find(|one| one.kind == TCA_OPTIONS)?;
    let actions = options.nested().find(|one| one.kind == TCA_U32_ACT)?;
    let action = actions.nested().next()?;
    let parameters = action.nested().find(|one| one.kind == TCA_ACT_OPTIONS)?;
    let mirred = parameters
        .nested()
        .find(|one| one.kind == TCA_MIRRED_PARMS)?;
    // tc_mirred: eaction, ifindex.
    let is_redirection = number(mirred.value, 20) == Some(TCA_EGRESS_REDIR);
    number(mirred.value, 24).filter(|_| is_redirection)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What strace saw `tc` of iproute2 6.1 send, without netlink's own header.
    fn sent(header: [u32; 4], rest: &[u8]) -> Vec<u8> {
        let [index, handle, parent, info] = header;
        let mut bytes = super::header(index, handle, parent, info);
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn a_token_bucket_is_what_tc_sends_but_for_its_table() {
        // tc qdisc add dev ifbx root handle 1: tbf rate 10mbit burst 125000 limit 156250
        let slow = b"\x08\x00\x01\x00tbf\x00\x34\x00\x02\x00\
            \x28\x00\x01\x00\x03\x01\x00\x00\xff\xff\x00\x00\xd0\x12\x13\x00\x00\x00\x00\x00\x00\
            \x00\x00\x00\x00\x00\x00\x00\x5a\x62\x02\x00\x84\xd7\x17\x00\x00\x00\x00\x00\x08\x00\
            \x06\x00\x48\xe8\x01\x00";
        let bucket = TokenBucket {
            rate: 1_250_000,
            burst: 125_000,
            limit: 156_250,
        };
        let header = [2, 65536, 0xffff_ffff, 0];
        assert_eq!(token_bucket(2, bucket), sent(header, slow));

        // tc qdisc add dev va root handle 1: tbf rate 40gbit burst 125000000 limit 156250
        let fast = b"\x28\x00\x01\x00\x03\x01\x00\x00\xff\xff\x00\x00\xff\xff\xff\xff\x00\x00\x00\
            \x00\x00\x00\x00\x00\x00\x00\x00\x00\x5a\x62\x02\x00\x4e\xf0\x06\x00\x00\x00\x00\x00\
            \x08\x00\x06\x00\x40\x59\x73\x07\x0c\x00\x04\x00\x00\xf2\x05\x2a\x01\x00\x00\x00";
        let own = token_bucket(
            2,
            TokenBucket {
                rate: 5_000_000_000,
                burst: 125_000_000,
                limit: 156_250,
            },
        );
        assert_eq!(own[32..], *fast);
    }

    #[test]
    fn a_redirection_is_what_tc_sends() {
        // tc qdisc add dev va ingress handle ffff:
        let queue = b"\x0c\x00\x01\x00ingress\x00";
        let header = [4, 4_294_901_760, 4_294_967_281, 0];
        assert_eq!(ingress(4), sent(header, queue));
        // tc filter add dev va parent ffff: protocol all prio 1 u32 match u32 0 0 flowid 1:1
        //   action mirred egress redirect dev ifbx
        let filter = b"\x08\x00\x01\x00u32\x00\x68\x00\x02\x00\
            \x08\x00\x01\x00\x01\x00\x01\x00\x38\x00\x07\x00\x34\x00\x01\x00\x0b\x00\x01\x00\
            mirred\x00\x00\x24\x00\x02\x80\x20\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\
            \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x24\x00\x05\
            \x00\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
            \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
        assert_eq!(
            redirection(4, 2),
            sent([4, 0, 4_294_901_760, 66304], filter)
        );
    }
}
