//! A kernel that has no memory, is busy, or whose answers are lost: what was to be written is
//! written wholly or not at all, is not taken for written, and is written the next time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use weft_desired::{Frontend, FrontendKey, Table};
use weft_kernel::service::{Error, IpFamily, ServiceTable};
use weft_sys::netlink::{Kernel, Wire};

use crate::frontends::{frontends, lab, nat};
use crate::scene::Lab;
use crate::takeover::{assert_same, without_counters};

// errno(3)
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const ENOBUFS: i32 = 105;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A call that sends fails, and nothing was sent.
    Send(i32),
    /// A call that receives fails, and leaves what there is to receive.
    Receive(i32),
    /// The kernel has made what was sent, and its answers are lost.
    Lost,
    /// The kernel says this to a transaction, and has made nothing of it.
    Refused(i32),
}

/// What happens at which of the following calls.
#[derive(Debug, Default)]
struct Plan {
    fault: Option<Fault>,
    /// Calls that go well before it.
    calls: u32,
    met: bool,
}

/// The kernel, but for one call.
#[derive(Clone, Debug, Default)]
struct Faulty {
    plan: Arc<Mutex<Plan>>,
    answers: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

impl Faulty {
    fn plan(&self, fault: Fault, calls: u32) {
        *self.plan.lock().unwrap() = Plan {
            fault: Some(fault),
            calls,
            met: false,
        };
    }

    /// Whether it came to it. Afterwards all goes well.
    fn met(&self) -> bool {
        std::mem::take(&mut *self.plan.lock().unwrap()).met
    }

    /// The fault, if it is of this sort and its turn has come.
    fn turn(&self, mine: impl Fn(Fault) -> bool) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap();
        plan.fault.filter(|fault| mine(*fault))?;
        if plan.calls > 0 {
            plan.calls -= 1;
            return None;
        }
        plan.met = true;
        plan.fault.take()
    }
}

impl Wire for Faulty {
    fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
        let transaction = u16::from_ne_bytes([bytes[4], bytes[5]]) == BATCH_BEGIN;
        let mine = |fault: Fault| match fault {
            Fault::Send(_) => true,
            Fault::Refused(_) => transaction,
            Fault::Lost | Fault::Receive(_) => false,
        };
        match self.turn(mine) {
            Some(Fault::Send(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Refused(errno)) => {
                self.answers
                    .lock()
                    .unwrap()
                    .push_back(refusal(bytes, errno));
                return Ok(());
            }
            Some(Fault::Lost | Fault::Receive(_)) | None => {}
        }
        Kernel.send(socket, bytes)
    }

    fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffer: &mut Vec<u8>,
        wait: bool,
    ) -> io::Result<usize> {
        if let Some(answer) = self.answers.lock().unwrap().pop_front() {
            buffer.clear();
            buffer.extend(&answer);
            return Ok(answer.len());
        }
        let mine = |fault| matches!(fault, Fault::Lost | Fault::Receive(_));
        match self.turn(mine) {
            Some(Fault::Receive(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Lost) => {
                while Kernel.receive(socket, buffer, false).is_ok() {}
                return Err(io::Error::from_raw_os_error(ENOBUFS));
            }
            Some(Fault::Send(_) | Fault::Refused(_)) | None => {}
        }
        Kernel.receive(socket, buffer, wait)
    }
}

/// `NFNL_MSG_BATCH_BEGIN` and `NLMSG_ERROR`.
const BATCH_BEGIN: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;

/// The kernel's answer to a transaction that it does not make: an error, and the header of the
/// message that it is about (`struct nlmsgerr`), here the first.
fn refusal(bytes: &[u8], errno: i32) -> Vec<u8> {
    let header = &bytes[..16];
    let mut answer = Vec::new();
    answer.extend(36_u32.to_ne_bytes());
    answer.extend(NLMSG_ERROR.to_ne_bytes());
    answer.extend([0; 2]);
    answer.extend(&header[8..12]);
    answer.extend([0; 4]);
    answer.extend((-errno).to_ne_bytes());
    answer.extend(header);
    answer
}

const FAULTS: [Fault; 8] = [
    Fault::Send(ENOBUFS),
    Fault::Send(ENOMEM),
    Fault::Send(EAGAIN),
    Fault::Receive(ENOBUFS),
    Fault::Receive(ENOMEM),
    Fault::Lost,
    Fault::Refused(ENOMEM),
    Fault::Refused(EBUSY),
];

fn adopt(lab: &Lab, faulty: &Faulty) -> Result<ServiceTable, Error> {
    let mut connection = lab.nft();
    connection.take_wire(Box::new(faulty.clone()));
    ServiceTable::adopt(connection, &IpFamily::BOTH)
}

fn start() -> Table<FrontendKey, Frontend> {
    frontends(&[(10, "default/web", &[1, 2, 3]), (11, "default/old", &[1])])
}

fn end() -> Table<FrontendKey, Frontend> {
    frontends(&[(10, "default/web", &[1, 2]), (12, "default/new", &[2])])
}

/// The steps from one to the other.
fn changes<'a>(
    start: &Table<FrontendKey, Frontend>,
    end: &'a Table<FrontendKey, Frontend>,
) -> BTreeMap<FrontendKey, Option<&'a Frontend>> {
    let keys: BTreeSet<_> = start.keys().chain(end.keys()).collect();
    keys.into_iter()
        .map(|key| (*key, end.get(key).map(|entry| &entry.value)))
        .collect()
}

/// What the kernel lists when this is written at once.
fn fresh(desired: &Table<FrontendKey, Frontend>) -> BTreeSet<String> {
    let lab = lab();
    let _table = lab.table(desired);
    without_counters(&lab.list())
}

#[test]
fn a_change_that_fails_is_made_wholly_or_not_at_all_and_then_again() {
    let (start, end) = (start(), end());
    let (before, after) = (fresh(&start), fresh(&end));
    let changes = changes(&start, &end);
    let lab = lab();
    let faulty = Faulty::default();
    let mut table = adopt(&lab, &faulty).unwrap();
    for fault in FAULTS {
        let mut met = 0;
        loop {
            table.reconcile(&start, &nat()).unwrap();
            assert_same(&lab, &before);
            faulty.plan(fault, met);
            let written = table.apply(changes.iter().map(|(key, value)| (*key, *value)));
            let found = without_counters(&lab.list());
            if !faulty.met() {
                written.unwrap();
                assert_same(&lab, &after);
                break;
            }
            met += 1;
            let error = written.expect_err("what failed is not taken for written");
            let whole = if fault == Fault::Lost || matches!(fault, Fault::Receive(_)) {
                // The kernel had made it; nobody knew.
                found == after
            } else {
                found == before
            };
            assert!(whole, "{fault:?}, call {met}: {found:#?}");
            assert!(matches!(error, Error::Kernel(_)), "{error:?}");
            // Nothing more until all of it has been read.
            assert!(table.needs_reconcile() && !table.is_untouched().unwrap());
            let unsettled = table.apply(changes.iter().map(|(key, value)| (*key, *value)));
            assert!(matches!(unsettled, Err(Error::Unsettled)), "{unsettled:?}");
            table.reconcile(&end, &nat()).unwrap();
            assert_same(&lab, &after);
        }
        assert!(met > 0, "{fault:?} can happen");
    }
}

#[test]
fn reading_and_repairing_may_fail_at_any_call() {
    let (start, end) = (start(), end());
    let after = fresh(&end);
    let lab = lab();
    let faulty = Faulty::default();
    let mut table = adopt(&lab, &faulty).unwrap();
    for fault in FAULTS {
        // Hundreds of calls, most of them alike.
        let mut calls = 0;
        loop {
            table.reconcile(&start, &nat()).unwrap();
            faulty.plan(fault, calls);
            let written = table.reconcile(&end, &nat());
            if !faulty.met() {
                written.unwrap();
                break;
            }
            calls += 1 + calls / 2;
            // An answer that is lost may be one that nobody needs.
            if written.is_err() {
                assert!(table.needs_reconcile(), "{fault:?}, call {calls}");
                table.reconcile(&end, &nat()).unwrap();
            }
            assert_same(&lab, &after);
        }
        assert!(calls > 0, "{fault:?} can happen");
    }
}

#[test]
fn an_interrupted_call_is_made_again() {
    let (start, end) = (start(), end());
    let after = fresh(&end);
    let changes = changes(&start, &end);
    let lab = lab();
    let faulty = Faulty::default();
    let mut table = adopt(&lab, &faulty).unwrap();
    for fault in [Fault::Send(EINTR), Fault::Receive(EINTR)] {
        table.reconcile(&start, &nat()).unwrap();
        faulty.plan(fault, 0);
        table
            .apply(changes.iter().map(|(key, value)| (*key, *value)))
            .unwrap();
        assert!(faulty.met());
        assert_same(&lab, &after);
    }
}
