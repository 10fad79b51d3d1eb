//! Ends connections to endpoints that are gone, on a thread of its own: the kernel walks
//! over all it tracks for each frontend, and no change waits for that.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use tracing::{debug, warn};
use weft_desired::{Backend, FrontendKey, Protocol};
use weft_kernel::flow;
use weft_sys::conntrack::Conntrack;

type Gone = Vec<(FrontendKey, Backend)>;

/// Until it is tried again, if the kernel could not be asked.
const PAUSE: Duration = Duration::from_secs(5);

/// The thread. It ends with the agent.
pub(super) struct StaleFlows {
    gone: Sender<Gone>,
}

impl StaleFlows {
    /// Starts it.
    pub(super) fn start() -> Result<Self> {
        let mut conntrack = Conntrack::open().context("a netlink socket for connections")?;
        let (gone, told) = channel();
        std::thread::Builder::new()
            .name("stale flows".to_owned())
            .spawn(move || work(&told, PAUSE, |gone| flow::end_stale(&mut conntrack, gone)))
            .context("the thread that ends connections")?;
        Ok(Self { gone })
    }

    /// Has connections to endpoints ended that are gone.
    pub(super) fn end(&self, gone: &[(FrontendKey, Backend)]) {
        let datagrams: Gone = gone
            .iter()
            .filter(|(frontend, _)| frontend.protocol == Protocol::Udp)
            .copied()
            .collect();
        if !datagrams.is_empty() && self.gone.send(datagrams).is_err() {
            warn!("nobody ends connections to endpoints that are gone: the thread has ended");
        }
    }
}

/// What could not be ended stays to be ended.
fn work<E: Display>(
    told: &Receiver<Gone>,
    pause: Duration,
    mut end: impl FnMut(&[(FrontendKey, Backend)]) -> Result<usize, E>,
) {
    let mut left = BTreeSet::new();
    loop {
        let news = match left.is_empty() {
            true => told.recv().map_err(RecvTimeoutError::from),
            false => told.recv_timeout(pause),
        };
        match news {
            Ok(gone) => left.extend(gone),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // What came meanwhile is one walk a frontend.
        left.extend(told.try_iter().flatten());
        let gone: Gone = left.iter().copied().collect();
        match end(&gone) {
            Ok(flows) => {
                left.clear();
                if flows > 0 {
                    debug!(flows, "connections to endpoints that are gone ended");
                }
            }
            Err(error) => {
                warn!(%error, ?pause, "connections to endpoints that are gone stay; trying again")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(port: u16) -> (FrontendKey, Backend) {
        let address = [10, 96, 0, 10].into();
        let protocol = Protocol::Udp;
        let frontend = FrontendKey {
            address,
            protocol,
            port,
        };
        (frontend, Backend { address, port })
    }

    #[test]
    fn what_could_not_be_ended_is_tried_again_until_it_is() {
        let (tell, told) = channel();
        tell.send(vec![gone(53)]).unwrap();
        let mut telling = Some(tell);
        let mut asked = 0;
        work(&told, Duration::ZERO, |left| {
            asked += 1;
            match asked {
                1 => {
                    assert_eq!(left, [gone(53)]);
                    telling.as_ref().unwrap().send(vec![gone(54)]).unwrap();
                    Err("no buffer space")
                }
                2 => {
                    assert_eq!(left, [gone(53), gone(54)]);
                    Err("no buffer space")
                }
                _ => {
                    assert_eq!(left, [gone(53), gone(54)]);
                    telling = None;
                    Ok(2)
                }
            }
        });
        assert_eq!(asked, 3);
    }
}
