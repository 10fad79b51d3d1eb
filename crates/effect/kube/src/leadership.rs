//! A candidate that takes part in an election through the API.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use crate::election::{Election, Now, Terms};

/// How long a request for the lease may take at most.
const REQUEST: Duration = Duration::from_secs(5);
/// How often the lease is written at once, if others write it in between.
const TRIES: usize = 3;

/// One of several processes of which one leads.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    terms: Terms,
    election: Election,
    /// The lease as it was last written by this candidate.
    written: Option<Lease>,
    /// Until when this candidate leads, as far as it knows.
    until: watch::Sender<Option<Instant>>,
}

/// Says whether a candidate leads. A process that stood still for a while asks before it writes.
#[derive(Clone, Debug)]
pub struct Leading(watch::Receiver<Option<Instant>>);

impl Leading {
    /// Whether it leads now.
    pub fn is_so(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }
}

impl Candidate {
    /// By this lease, under a name that no other candidate has.
    pub fn new(client: &Client, lease: (&str, &str), identity: String, terms: Terms) -> Self {
        let (namespace, name) = lease;
        Self {
            api: Api::namespaced(client.clone(), namespace),
            name: name.to_owned(),
            terms,
            election: Election::new(identity, terms.lease),
            written: None,
            until: watch::Sender::new(None),
        }
    }

    /// Whether this candidate leads.
    pub fn leading(&self) -> Leading {
        Leading(self.until.subscribe())
    }

    /// Waits until this candidate leads. `answered` is called whenever the API has answered.
    pub async fn lead(&mut self, mut answered: impl FnMut()) {
        let mut other: Option<String> = None;
        loop {
            match self.attempt().await {
                Ok(true) => return answered(),
                Ok(false) => {
                    answered();
                    let holder = self.election.holder().map(str::to_owned);
                    if holder != other {
                        let lease = &self.name;
                        info!(lease, leader = holder.as_deref(), "another leads; waiting");
                        other = holder;
                    }
                }
                Err(error) => warn!(error, lease = self.name, "can't ask who leads"),
            }
            sleep(self.terms.retry).await;
        }
    }

    /// Goes on leading for as long as that is possible.
    pub async fn keep(&mut self) {
        while let Some(until) = self.until() {
            let next = Instant::now() + self.terms.retry;
            sleep_until(next.min(until).into()).await;
            match timeout_at(until.into(), self.attempt()).await {
                Ok(Ok(true)) => {}
                Ok(Err(error)) => {
                    warn!(error, lease = self.name, "the lease can't be renewed yet");
                    if Instant::now() >= until {
                        break;
                    }
                }
                // Another's, or too late to ask again.
                Ok(Ok(false)) | Err(_) => break,
            }
        }
        self.until.send_replace(None);
        self.written = None;
    }

    /// Leads no longer, and says so, so that another can at once.
    pub async fn resign(&mut self) {
        self.until.send_replace(None);
        let lease = self.name.clone();
        match timeout(REQUEST, self.hand_over()).await {
            Ok(Ok(true)) => info!(lease, "the lease is free"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => warn!(%error, lease, "the lease stays until it runs out"),
            Err(_) => warn!(lease, "the lease stays until it runs out"),
        }
    }

    /// Frees the lease, if it is this candidate's.
    async fn hand_over(&mut self) -> Result<bool, kube::Error> {
        let mut known = self.written.take();
        loop {
            let there = match known.take() {
                Some(there) => Some(there),
                None => self.api.get_opt(&self.name).await?,
            };
            let Some(there) = there else { return Ok(false) };
            let spec = there.spec.clone().unwrap_or_default();
            let Some(spec) = self.election.resignation(&spec, Now::read()) else {
                return Ok(false);
            };
            let lease = Lease {
                spec: Some(spec),
                ..there
            };
            let params = PostParams::default();
            match self.api.replace(&self.name, &params, &lease).await {
                Ok(_) => return Ok(true),
                // A renewal whose answer nobody waited for, or somebody's annotation.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn until(&self) -> Option<Instant> {
        *self.until.borrow()
    }

    /// Takes or renews the lease, if nobody else has it.
    async fn attempt(&mut self) -> Result<bool, String> {
        match timeout(REQUEST.min(self.terms.renew_within), self.write()).await {
            Ok(Ok(Some(since))) => {
                let until = since + self.terms.renew_within;
                self.until.send_replace(Some(until));
                Ok(true)
            }
            Ok(Ok(None)) => Ok(false),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the API does not answer".to_owned()),
        }
    }

    /// Writes the lease, unless another has it, and returns since when that counts.
    async fn write(&mut self) -> Result<Option<Instant>, kube::Error> {
        // If this fails, or nobody waits for it, somebody else may have written it.
        let mut known = self.written.take();
        let mut tries = 1;
        loop {
            let there = match known.take() {
                Some(written) => Some(written),
                None => self.api.get_opt(&self.name).await?,
            };
            // After it was seen, and before anything is sent: others count from when they see it.
            let now = Now::read();
            let spec = there
                .as_ref()
                .map(|there| there.spec.clone().unwrap_or_default());
            let Some(bid) = self.election.bid(spec.as_ref(), now) else {
                return Ok(None);
            };
            match self.put(there, bid).await {
                Ok(written) => {
                    self.written = Some(written);
                    return Ok(Some(now.clock));
                }
                // Another was faster, or took what was ours, or somebody annotated it.
                Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn put(&self, there: Option<Lease>, spec: LeaseSpec) -> Result<Lease, kube::Error> {
        let params = PostParams::default();
        let spec = Some(spec);
        match there {
            // With the version that was looked at: of two who write at once one succeeds.
            Some(there) => {
                let lease = Lease { spec, ..there };
                self.api.replace(&self.name, &params, &lease).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                };
                self.api.create(&params, &Lease { metadata, spec }).await
            }
        }
    }
}
