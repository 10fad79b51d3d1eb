//! Ends connections to endpoints that are gone, on a thread of its own: the kernel walks
//! over all it tracks for each frontend, and no change waits for that.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use tracing::{debug, warn};
use weft_desired::{Backend, Frontend, FrontendKey, Protocol, Table};
use weft_kernel::flow::{Ending, Kept};

type Gone = Vec<(FrontendKey, Backend)>;

/// What the thread is told.
enum News {
    /// These endpoints are gone.
    Gone(Gone),
    /// These are all there are; nobody knows which others there were.
    Kept(Kept),
    /// This frontend may lead to these endpoints from now on.
    Now(FrontendKey, BTreeSet<Backend>),
}

/// What is left to do.
#[derive(Debug, Default)]
struct Left {
    gone: BTreeSet<(FrontendKey, Backend)>,
    kept: Option<Kept>,
    /// How often all was said that is kept, and how often before the last listing began.
    said: usize,
    listed: usize,
}

impl Left {
    fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.kept.is_none()
    }

    fn take(&mut self, news: News) {
        match news {
            News::Gone(gone) => self.gone.extend(gone),
            News::Kept(all) => {
                self.kept = Some(all);
                self.said += 1;
            }
            News::Now(key, endpoints) => {
                let known = self.kept.as_mut().and_then(|kept| kept.get_mut(&key));
                if let Some(known) = known {
                    known.extend(endpoints);
                }
            }
        }
    }

    fn gone(&self) -> Gone {
        self.gone.iter().copied().collect()
    }
}

/// Which connections are ended when their endpoint is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Those by UDP: their clients would never learn of it.
    Datagrams,
    /// Those by TCP too.
    Everything,
}

impl Ended {
    fn has(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Udp => true,
            Protocol::Tcp => self == Ended::Everything,
            Protocol::Sctp => false,
        }
    }
}

/// Until it is tried again, if the kernel could not be asked.
const PAUSE: Duration = Duration::from_secs(5);

/// The thread. It ends with the agent.
pub(super) struct StaleFlows {
    ended: Ended,
    news: Sender<News>,
    /// How often it was said what is kept and not yet looked at.
    looks: Arc<AtomicUsize>,
}

impl StaleFlows {
    /// Starts it.
    pub(super) fn start(ended: Ended) -> Result<Self> {
        let mut ending = Ending::open(ended == Ended::Everything)
            .context("the sockets by which connections are ended")?;
        let (news, told) = channel();
        let end = move |left: &mut Left, catch_up: &mut dyn FnMut(&mut Left)| {
            let mut flows = 0;
            if let Some(kept) = &left.kept {
                let others = ending.others(kept)?;
                // Those of endpoints that came meanwhile are among them.
                catch_up(left);
                if let Some(kept) = &left.kept {
                    flows += ending.end_others(&others, kept)?;
                }
            }
            Ok::<_, weft_sys::netlink::Error>(flows + ending.end(&left.gone())?)
        };
        let looks = Arc::new(AtomicUsize::new(0));
        let looked = Arc::clone(&looks);
        std::thread::Builder::new()
            .name("stale flows".to_owned())
            .spawn(move || work(&told, PAUSE, &looked, end))
            .context("the thread that ends connections")?;
        Ok(Self { ended, news, looks })
    }

    /// Before the rules lead to other endpoints: connections to those are none to be ended,
    /// if what went while no agent ran is still looked for.
    pub(super) fn will_lead(
        &self,
        some: impl IntoIterator<Item = FrontendKey>,
        frontends: &Table<FrontendKey, Frontend>,
    ) {
        if self.looks.load(Ordering::Relaxed) == 0 {
            return;
        }
        for key in some.into_iter().filter(|key| self.ended.has(key.protocol)) {
            if let Some(entry) = frontends.get(&key) {
                self.tell(News::Now(key, kept(&entry.value)));
            }
        }
    }

    /// Has connections to endpoints ended that are gone.
    pub(super) fn end(&self, gone: &[(FrontendKey, Backend)]) {
        let ours = |(frontend, _): &&(FrontendKey, Backend)| self.ended.has(frontend.protocol);
        let gone: Gone = gone.iter().filter(ours).copied().collect();
        if !gone.is_empty() {
            self.tell(News::Gone(gone));
        }
    }

    /// Has connections ended that go to none of the endpoints these frontends have: those
    /// that went while no agent ran.
    pub(super) fn end_others(&self, frontends: &Table<FrontendKey, Frontend>) {
        let ours = |key: &FrontendKey| self.ended.has(key.protocol);
        let frontends = frontends.iter().filter(|(key, _)| ours(key));
        let kept: Kept = frontends
            .map(|(key, entry)| (*key, kept(&entry.value)))
            .collect();
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.tell(News::Kept(kept));
    }

    fn tell(&self, news: News) {
        if self.news.send(news).is_err() {
            warn!("nobody ends connections to endpoints that are gone: the thread has ended");
        }
    }
}

/// Which endpoints frontends have, where the back end does not say which are gone.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// Of the frontends whose connections are ended.
    ended: Ended,
    endpoints: Kept,
}

impl Endpoints {
    /// None known.
    pub(super) fn new(ended: Ended) -> Self {
        Self {
            ended,
            endpoints: Kept::new(),
        }
    }

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
        let ended = self.ended;
        let mut gone = Gone::new();
        for key in some.into_iter().filter(|key| ended.has(key.protocol)) {
            let frontend = frontends.get(&key).map(|entry| &entry.value);
            gone.extend(self.follow_one(key, frontend));
        }
        gone
    }

    fn follow_one(&mut self, key: FrontendKey, frontend: Option<&Frontend>) -> Gone {
        let kept = frontend.map(kept).unwrap_or_default();
        let before = self.endpoints.remove(&key).unwrap_or_default();
        let mut gone: Gone = before.difference(&kept).map(|it| (key, *it)).collect();
        if kept.is_empty() {
            return gone;
        }
        let shared = frontend.is_some_and(|it| !it.exclusive);
        if before.is_empty() && shared && key.protocol == Protocol::Udp {
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
    let all = frontend.backends.iter().chain(frontend.kept.iter());
    all.chain(outside).copied().collect()
}

/// What could not be ended stays to be ended.
fn work<E: Display>(
    told: &Receiver<News>,
    pause: Duration,
    looks: &AtomicUsize,
    mut end: impl FnMut(&mut Left, &mut dyn FnMut(&mut Left)) -> Result<usize, E>,
) {
    let mut left = Left::default();
    let mut catch_up = |left: &mut Left| told.try_iter().for_each(|news| left.take(news));
    loop {
        let news = match left.is_empty() {
            true => told.recv().map_err(RecvTimeoutError::from),
            false => told.recv_timeout(pause),
        };
        let first = match news {
            Ok(news) => Some(news),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // What came meanwhile is one walk a frontend.
        first.into_iter().for_each(|news| left.take(news));
        catch_up(&mut left);
        left.listed = left.said;
        match end(&mut left, &mut catch_up) {
            Ok(flows) => {
                left.gone.clear();
                // What was said anew while they were listed is looked at anew.
                if left.listed == left.said {
                    left.kept = None;
                    looks.fetch_sub(std::mem::take(&mut left.said), Ordering::Relaxed);
                }
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
        let frontends = |backends: &[Backend], kept: &[Backend]| {
            let backends = backends.iter().copied().collect();
            let value = Frontend {
                kept: Arc::new(kept.iter().copied().collect()),
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
        let mut datagrams = Endpoints::new(Ended::Datagrams);
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
        tell.send(News::Gone(vec![gone(53)])).unwrap();
        let mut telling = Some(tell);
        let mut asked = 0;
        work(&told, Duration::ZERO, &AtomicUsize::new(0), |left, _| {
            assert_eq!(left.kept, None);
            let left = left.gone();
            asked += 1;
            match asked {
                1 => {
                    assert_eq!(left, [gone(53)]);
                    let news = News::Gone(vec![gone(54)]);
                    telling.as_ref().unwrap().send(news).unwrap();
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

    #[test]
    fn what_is_kept_is_looked_at_until_that_is_done() {
        let (tell, told) = channel();
        let (key, backend) = gone(53);
        let all = Kept::from([(key, BTreeSet::from([backend]))]);
        tell.send(News::Kept(all.clone())).unwrap();
        let mut telling = Some(tell);
        let mut asked = 0;
        let looks = AtomicUsize::new(1);
        work(&told, Duration::ZERO, &looks, |left, _| {
            asked += 1;
            assert_eq!(left.kept.as_ref(), Some(&all));
            match asked {
                1 => Err("no buffer space"),
                _ => {
                    telling = None;
                    Ok(0)
                }
            }
        });
        assert_eq!(asked, 2);
        assert_eq!(looks.into_inner(), 0);
    }

    #[test]
    fn endpoints_that_come_while_it_is_looked_are_kept() {
        let (tell, told) = channel();
        let (key, first) = gone(53);
        let (second, third) = (gone(54).1, gone(55).1);
        let all = Kept::from([(key, BTreeSet::from([first]))]);
        tell.send(News::Kept(all.clone())).unwrap();
        let mut telling = Some(tell);
        let looks = AtomicUsize::new(2);
        let mut asked = 0;
        work(&told, Duration::ZERO, &looks, |left, catch_up| {
            asked += 1;
            let tell = |news| telling.as_ref().unwrap().send(news).unwrap();
            match asked {
                1 => {
                    tell(News::Now(key, [second].into()));
                    catch_up(left);
                    let expected = Kept::from([(key, [first, second].into())]);
                    assert_eq!(left.kept, Some(expected));
                    return Err("no buffer space");
                }
                2 => {
                    tell(News::Kept(Kept::from([(key, [third].into())])));
                    catch_up(left);
                }
                _ => {
                    assert_eq!(left.kept, Some(Kept::from([(key, [third].into())])));
                    telling = None;
                }
            }
            Ok(0)
        });
        assert_eq!(asked, 3);
        assert_eq!(looks.into_inner(), 0);
    }

    #[test]
    fn connections_by_tcp_are_followed_only_where_they_are_ended() {
        let (mut key, first) = gone(53);
        key.protocol = Protocol::Tcp;
        let value = Frontend::new("default/web".into(), [first].into());
        let origin = Origin {
            kind: "Service",
            namespace: "default".into(),
            name: "web".into(),
            generation: 1,
        };
        let frontends = Table::from([(key, Entry { value, origin })]);
        for (ended, expected) in [
            (Ended::Datagrams, vec![]),
            (Ended::Everything, vec![(key, first)]),
        ] {
            let mut endpoints = Endpoints::new(ended);
            assert_eq!(endpoints.follow_all(&frontends), []);
            assert_eq!(endpoints.follow_all(&Table::new()), expected);
        }
    }
}
