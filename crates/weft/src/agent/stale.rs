//! Ends connections to endpoints that are gone, on a thread of its own: the kernel walks
//! over all it tracks for each frontend, and no change waits for that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use tracing::{debug, warn};
use weft_desired::{Backend, Frontend, FrontendKey, Protocol, Table};
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

/// Which endpoints frontends by UDP have, where the back end does not say which are gone.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    endpoints: BTreeMap<FrontendKey, BTreeSet<Backend>>,
}

impl Datagrams {
    /// What is gone now that the frontends are these.
    pub(super) fn follow_all(&mut self, frontends: &Table<FrontendKey, Frontend>) -> Gone {
        let known: BTreeSet<FrontendKey> = self.endpoints.keys().copied().collect();
        let all = known.into_iter().chain(frontends.keys().copied());
        self.follow(all, frontends)
    }

    /// What is gone now that some of the frontends are these.
    pub(super) fn follow(
        &mut self,
        some: impl IntoIterator<Item = FrontendKey>,
        frontends: &Table<FrontendKey, Frontend>,
    ) -> Gone {
        let datagrams = some.into_iter().filter(|key| key.protocol == Protocol::Udp);
        datagrams
            .flat_map(|key| {
                let frontend = frontends.get(&key).map(|entry| &entry.value);
                self.follow_one(key, frontend)
            })
            .collect()
    }

    fn follow_one(&mut self, key: FrontendKey, frontend: Option<&Frontend>) -> Gone {
        let kept = frontend.map(kept).unwrap_or_default();
        let before = self.endpoints.remove(&key).unwrap_or_default();
        let mut gone: Gone = before.difference(&kept).map(|it| (key, *it)).collect();
        if kept.is_empty() {
            return gone;
        }
        if before.is_empty() && frontend.is_some_and(|it| !it.exclusive) {
            // What was sent to a shared address before was not translated.
            let FrontendKey { address, port, .. } = key;
            gone.push((key, Backend { address, port }));
        }
        self.endpoints.insert(key, kept);
        gone
    }
}

/// The endpoints whose connections may go on.
fn kept(frontend: &Frontend) -> BTreeSet<Backend> {
    let outside = frontend.outside.iter().flat_map(|it| it.backends.iter());
    let all = frontend.backends.iter().chain(frontend.serving.iter());
    all.chain(outside).copied().collect()
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
    use std::sync::Arc;

    use weft_desired::{Entry, Origin};

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
    fn endpoints_that_no_client_may_keep_are_gone() {
        let (key, first) = gone(53);
        let second = gone(54).1;
        let frontends = |backends: &[Backend], serving: &[Backend]| {
            let backends = backends.iter().copied().collect();
            let value = Frontend {
                serving: Arc::new(serving.iter().copied().collect()),
                ..Frontend::new("kube-system/kube-dns:dns".into(), backends)
            };
            let origin = Origin {
                kind: "Service",
                namespace: "kube-system".into(),
                name: "kube-dns".into(),
                generation: 1,
            };
            Table::from([(key, Entry { value, origin })])
        };
        let mut datagrams = Datagrams::default();
        assert_eq!(datagrams.follow_all(&frontends(&[first], &[])), []);
        let ending = frontends(&[second], &[first]);
        assert_eq!(datagrams.follow([key], &ending), []);
        let ended = frontends(&[second], &[]);
        assert_eq!(datagrams.follow([key], &ended), [(key, first)]);
        assert_eq!(datagrams.follow_all(&ended), []);
        assert_eq!(datagrams.follow_all(&Table::new()), [(key, second)]);
        // The first endpoints at an address that is the node's own too.
        let mut shared = ended;
        shared.get_mut(&key).unwrap().value.exclusive = false;
        assert_eq!(datagrams.follow_all(&shared), [(key, first)]);
        assert_eq!(datagrams.follow_all(&shared), []);
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
