//! The conversation with nf_tables.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::batch::{Batch, Ending, Step};
use super::object::{Chain, Counts, Element, Rule, Set, Table, TableName};
use super::wire::{
    GET_CHAIN, GET_ELEMENT, GET_GENERATION, GET_RULE, GET_SET, GET_TABLE, SUBSYSTEM,
    put_family_header, put_text,
};
use super::{Family, read};
use crate::netlink::{Bus, Error, Failure, Message, Request, Socket, Wire};

const LIST_ELEMENTS: &str = "list elements";

/// Counts the transactions of a network namespace; wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(pub u32);

impl Generation {
    /// The generation after so many transactions. The kernel leaves 0 out.
    #[must_use]
    pub fn after(self, transactions: u32) -> Self {
        let (next, wrapped) = self.0.overflowing_add(transactions);
        Generation(if wrapped { next.wrapping_add(1) } else { next })
    }
}

/// nf_tables of one network namespace.
#[derive(Debug)]
pub struct Connection {
    pub(super) socket: Socket,
    transactions: u32,
}

impl Connection {
    /// nf_tables of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel gives no socket.
    pub fn open() -> Result<Self, Error> {
        Ok(Self::with(Socket::open(Bus::Netfilter)?))
    }

    /// nf_tables of the network namespace that `namespace` refers to.
    ///
    /// # Errors
    /// [`Error::Socket`] if it can't be entered or the kernel gives no socket.
    pub fn in_namespace(namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        let socket = Socket::in_namespace(Bus::Netfilter, namespace)?;
        Ok(Self::with(socket))
    }

    fn with(socket: Socket) -> Self {
        Self {
            socket,
            transactions: 0,
        }
    }

    /// From now on everything that is sent and received takes this way.
    pub fn take_wire(&mut self, wire: Box<dyn Wire>) {
        self.socket.take_wire(wire);
    }

    /// How many transactions the kernel has acknowledged. Wraps.
    #[must_use]
    pub fn transactions(&self) -> u32 {
        self.transactions
    }

    /// The most bytes a [`Batch`] may have: it must fit into one `send`.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.socket.send_capacity()
    }

    /// The netlink port that [`super::Change`]s made by this connection come from.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel does not say.
    pub fn port(&self) -> Result<u32, Error> {
        self.socket.port()
    }

    /// Sends a transaction and waits until the kernel has made it. An empty one is not
    /// sent.
    ///
    /// # Errors
    /// [`Error::Refused`] with the first request that failed; then nothing was done.
    /// Any other error leaves open whether it was done.
    pub fn commit(&mut self, batch: Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        self.send(batch, Ending::Commit)?;
        self.transactions = self.transactions.wrapping_add(1);
        Ok(())
    }

    /// Has the kernel try a transaction, as `nft --check` does: it is made and taken back, and
    /// nobody sees anything of it.
    ///
    /// # Errors
    /// As those of [`Self::commit`].
    pub fn rehearse(&mut self, batch: Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        self.send(batch, Ending::Abort)
    }

    fn send(&mut self, batch: Batch, ending: Ending) -> Result<(), Error> {
        let first = self.socket.take_sequences(batch.messages());
        let (bytes, steps, last) = batch.finish(first, ending);
        self.socket.send(&bytes)?;
        let mut outcome = None;
        while outcome.is_none() {
            self.socket.receive("commit", |message| {
                take_outcome(&message, first, last, &steps, &mut outcome);
            })?;
        }
        // The answers are in the queue when `send` returns. Those after the one that
        // decided are of no interest, and must not wait for the next transaction.
        while outcome.as_ref().is_some_and(Result::is_err)
            && self.socket.try_receive("commit", |_| {})?
        {}
        outcome.unwrap_or(Ok(()))
    }

    /// The tables of a family.
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn tables(&mut self, family: Family) -> Result<Vec<Table>, Error> {
        let request = request(GET_TABLE, "list tables", family, None, None);
        self.socket
            .dump(&request, |message| Ok(read::table(message.payload)))
    }

    /// The chains of a table.
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn chains(&mut self, table: &TableName) -> Result<Vec<Chain>, Error> {
        let request = request(GET_CHAIN, "list chains", table.family, Some(table), None);
        self.socket.dump(&request, |message| {
            Ok(read::chain(message.payload)
                .filter(|(found, _)| found == table)
                .map(|(_, chain)| chain))
        })
    }

    /// The rules of a table, chain by chain in their order.
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn rules(&mut self, table: &TableName) -> Result<Vec<Rule>, Error> {
        let request = request(GET_RULE, "list rules", table.family, Some(table), None);
        self.socket
            .dump(&request, |message| Ok(read::rule(message.payload)))
    }

    /// The rules of a table that count, and what they have counted.
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn counting_rules(&mut self, table: &TableName) -> Result<Vec<(Rule, Counts)>, Error> {
        let request = request(GET_RULE, "list rules", table.family, Some(table), None);
        self.socket.dump(&request, |message| {
            Ok(read::rule(message.payload).zip(read::rule_counts(message.payload)))
        })
    }

    /// The named sets and maps of a table: `Err` holds the name of one whose types weft
    /// does not write.
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn sets(&mut self, table: &TableName) -> Result<Vec<Result<Set, String>>, Error> {
        let request = request(GET_SET, "list sets", table.family, Some(table), None);
        self.socket.dump(&request, |message| {
            Ok(match read::set(message.payload) {
                Some(set) => Some(Ok(set)),
                None => read::set_name(message.payload).map(Err),
            })
        })
    }

    /// The elements of a set, in no particular order.
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn elements(&mut self, table: &TableName, set: &str) -> Result<Vec<Element>, Error> {
        let request = elements_request(table, set);
        let lists = self.socket.dump(&request, |message| {
            let mut found = Vec::new();
            read_elements(table, set, &message, |element| found.push(element))?;
            Ok(Some(found))
        })?;
        Ok(lists.into_iter().flatten().collect())
    }

    /// Hands each element of a set to `each` as it is read, in no particular order: there
    /// may be more than one wants to keep. `false` if the set changed meanwhile; then what
    /// was read was never true at one time, and it has to be read again.
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn each_element(
        &mut self,
        table: &TableName,
        set: &str,
        mut each: impl FnMut(Element),
    ) -> Result<bool, Error> {
        let request = elements_request(table, set);
        let dump = self.socket.dump_through(&request, |message| {
            read_elements(table, set, &message, &mut each)
        });
        match dump {
            // An allocation failure or a change has ended it early.
            Err(error) if error.errno() == Some(Errno::INTR) => Ok(false),
            other => other,
        }
    }

    /// Which transaction was the last. Whoever made it, the number has changed.
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn generation(&mut self) -> Result<Generation, Error> {
        let request = request(
            GET_GENERATION,
            "read the generation",
            Family::Inet,
            None,
            None,
        );
        let found = self.socket.call(&request, |message| {
            Ok(read::generation(message.payload).map(Generation))
        })?;
        found.into_iter().next().ok_or_else(|| Error::Malformed {
            operation: request.operation,
            reason: "it has no number".to_owned(),
        })
    }
}

/// What one answer says of a transaction: an error of any request or of the batch as a
/// whole (its begin) decides, and so does the acknowledgement of the last request.
fn take_outcome(
    message: &Message<'_>,
    first: u32,
    last: usize,
    steps: &[Step],
    outcome: &mut Option<Result<(), Error>>,
) {
    let index = message.sequence.wrapping_sub(first) as usize;
    let (Some(step), Some(result)) = (steps.get(index), message.outcome()) else {
        return;
    };
    match result {
        Ok(()) if index == last => {
            outcome.get_or_insert(Ok(()));
        }
        Ok(()) => {}
        Err(failure) => match outcome {
            Some(Err(_)) => {}
            Some(Ok(())) | None => *outcome = Some(Err(refused(step, failure))),
        },
    }
}

fn refused(step: &Step, failure: Failure) -> Error {
    Error::Refused {
        operation: step.operation,
        object: step.object.clone(),
        failure,
    }
}

fn elements_request(table: &TableName, set: &str) -> Request {
    request(
        GET_ELEMENT,
        LIST_ELEMENTS,
        table.family,
        Some(table),
        Some(set),
    )
}

pub(super) fn read_elements(
    table: &TableName,
    set: &str,
    message: &Message<'_>,
    each: impl FnMut(Element),
) -> Result<(), Error> {
    if read::elements(message.payload, each) {
        return Ok(());
    }
    Err(Error::Malformed {
        operation: LIST_ELEMENTS,
        reason: format!("an element of {table} {set} has no key"),
    })
}

/// What the kernel refused of a request.
pub(super) fn refusal(request: &Request, failure: Failure) -> Error {
    Error::Refused {
        operation: request.operation,
        object: request.object.clone(),
        failure,
    }
}

pub(super) fn request(
    kind: u16,
    operation: &'static str,
    family: Family,
    table: Option<&TableName>,
    set: Option<&str>,
) -> Request {
    let mut payload = Vec::new();
    put_family_header(&mut payload, family.number(), 0);
    let mut object = family.keyword().to_owned();
    // Table and set have the same attribute numbers in all of these requests; a request
    // for chains without a chain's name ignores the table.
    if let Some(table) = table {
        put_text(&mut payload, 1, &table.name);
        object = table.to_string();
    }
    if let Some(set) = set {
        put_text(&mut payload, 2, set);
        object = format!("{object} {set}");
    }
    Request {
        operation,
        object,
        kind: SUBSYSTEM << 8 | kind,
        flags: 0,
        payload,
    }
}
