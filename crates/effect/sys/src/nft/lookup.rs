//! Elements by their keys.
//!
//! The kernel begins a hash set's list anew for every message of a dump and passes over what it
//! has told already: a list of 300,000 elements takes it seconds. Looked up by its key an element
//! costs the same however many there are.

use rustix::io::Errno;

use super::Connection;
use super::connection::{read_elements, refusal, request};
use super::object::{Element, TableName};
use super::read;
use super::wire::{GET_ELEMENT, GET_SET, nest, put};
use crate::netlink::{Error, Request, put_message};

const LOOK_UP: &str = "look elements up";
/// `NFTA_SET_ELEM_LIST_ELEMENTS`, `NFTA_LIST_ELEM`, `NFTA_SET_ELEM_KEY` and `NFTA_DATA_VALUE`.
const ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const KEY: u16 = 1;
const VALUE: u16 = 1;
/// Keys in one request: a list of them is an attribute of at most 64 KiB, and a key takes at most
/// 76 bytes (an IPv6 address, a protocol, a port and a number, with four heads).
const MOST_KEYS: usize = 512;

impl Connection {
    /// How many elements a set has; `None` where the kernel does not say (before Linux 6.17).
    ///
    /// # Errors
    /// [`Error::Refused`] or a failure of the socket.
    pub fn element_count(&mut self, table: &TableName, set: &str) -> Result<Option<u32>, Error> {
        let request = request(
            GET_SET,
            "count elements",
            table.family,
            Some(table),
            Some(set),
        );
        let counts = self
            .socket
            .call(&request, |message| Ok(read::element_count(message.payload)))?;
        Ok(counts.first().copied())
    }

    /// Looks keys up, run by run, and hands each element to `each`. A run ends with the first of
    /// its keys that is not there.
    ///
    /// # Errors
    /// [`Error::Refused`] with the first lookup that failed in another way, or a failure of the
    /// socket.
    pub fn look_up<K: AsRef<[u8]>>(
        &mut self,
        table: &TableName,
        set: &str,
        runs: impl IntoIterator<Item = Vec<K>>,
        mut each: impl FnMut(Element),
    ) -> Result<(), Error> {
        // Every element is an answer of its own, and so is every request's end.
        let most_answers = self.socket.acknowledgement_capacity();
        let most_bytes = self.socket.send_capacity();
        let mut requests = Vec::new();
        let (mut answers, mut bytes) = (0, 0);
        for run in runs {
            for keys in run.chunks(MOST_KEYS.min(most_answers.saturating_sub(1)).max(1)) {
                let request = look_up(table, set, keys);
                let length = crate::netlink::HEADER_LENGTH + request.payload.len() + 3;
                let full = answers + keys.len() + 1 > most_answers || bytes + length > most_bytes;
                if full {
                    self.take_found(table, set, &requests, &mut each)?;
                    requests.clear();
                    (answers, bytes) = (0, 0);
                }
                answers += keys.len() + 1;
                bytes += length;
                requests.push(request);
            }
        }
        self.take_found(table, set, &requests, &mut each)
    }

    /// Whether one of these elements is there, each told by its table, its set and its key. A table
    /// or a set that is not there has none.
    ///
    /// # Errors
    /// [`Error::Refused`] with the first lookup that failed in another way, or a failure of the
    /// socket.
    pub fn any_stands(&mut self, elements: &[(&TableName, &str, &[u8])]) -> Result<bool, Error> {
        let requests: Vec<Request> = elements
            .iter()
            .map(|(table, set, key)| look_up(table, set, &[key]))
            .collect();
        let mut stands = false;
        for outcome in self.socket.batch(&requests)? {
            match outcome {
                Ok(()) => stands = true,
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(stands)
    }

    /// Sends lookups and takes all of their answers.
    fn take_found(
        &mut self,
        table: &TableName,
        set: &str,
        requests: &[Request],
        each: &mut impl FnMut(Element),
    ) -> Result<(), Error> {
        if requests.is_empty() {
            return Ok(());
        }
        let first = self.socket.take_sequences(requests.len());
        let mut bytes = Vec::new();
        for (request, sequence) in requests.iter().zip(first..) {
            let flags = crate::netlink::CALL;
            put_message(&mut bytes, request.kind, flags, sequence, &request.payload);
        }
        self.socket.send(&bytes)?;
        let mut waiting = requests.len();
        let mut failed = None;
        while waiting > 0 {
            self.socket.receive(LOOK_UP, |message| {
                let index = message.sequence.wrapping_sub(first) as usize;
                let Some(request) = requests.get(index) else {
                    return;
                };
                let error = match message.outcome() {
                    None => read_elements(table, set, &message, &mut *each).err(),
                    Some(outcome) => {
                        waiting -= 1;
                        outcome
                            .err()
                            .filter(|failure| failure.errno != Errno::NOENT)
                            .map(|failure| refusal(request, failure))
                    }
                };
                failed = failed.take().or(error);
            })?;
        }
        failed.map_or(Ok(()), Err)
    }
}

fn look_up<K: AsRef<[u8]>>(table: &TableName, set: &str, keys: &[K]) -> Request {
    let mut request = request(GET_ELEMENT, LOOK_UP, table.family, Some(table), Some(set));
    nest(&mut request.payload, ELEMENTS, |out| {
        for key in keys {
            nest(out, ELEMENT, |out| {
                nest(out, KEY, |out| put(out, VALUE, key.as_ref()));
            });
        }
    });
    request
}
