//! A Service of a lab at a port of the machine's loopback.
//!
//! The listener is a socket of the machine's own network namespace; each connection to it is carried
//! to a socket that was made in a node's. So the Service's rules apply as they do to a program on the
//! node, whatever endpoints there are at the time, and the machine gets no route and no rule.

mod carry;
mod record;
mod target;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::oneshot;
use weft_kube::k8s_openapi::api::core::v1::Service;
use weft_kube::k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_kube::kube::runtime::reflector::{self, Lookup, Store};
use weft_kube::kube::runtime::{WatchStreamExt, watcher};
use weft_kube::kube::{Api, Resource};
use weft_kube::{Client, Pauses};
use weft_netlab::process;

pub use self::carry::MAX_CONNECTIONS;
pub use self::record::{Published, Record, list, stop};
pub use self::target::{Refusal, Route, Target};
pub use super::control::allow_many_connections;
use super::state;

/// How long the API may take to tell what the Service is.
const KNOWING: Duration = Duration::from_secs(10);

/// How long one wait for the lab's end lasts before the next begins.
const LOOK: Duration = Duration::from_secs(3600);

/// Why a Service is not published, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Service, or its port.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The API says nothing.
    #[error("the API server of lab {0} does not answer")]
    Silent(String),
    /// The socket, or the lab's first process.
    #[error("cannot serve {address}")]
    Serve {
        /// Where.
        address: SocketAddr,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// A Service that is about to be published.
#[derive(Debug)]
pub struct Publication {
    target: Target,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
}

impl Publication {
    /// Watches a Service, and checks that it can be published.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Silent`].
    pub async fn new(client: &Client, lab: &str, target: Target) -> Result<Self, Error> {
        let name = watcher::Config::default().fields(&format!("metadata.name={}", target.service));
        let of_it = format!("kubernetes.io/service-name={}", target.service);
        let namespace = &target.namespace;
        let services = follow(Api::namespaced(client.clone(), namespace), name);
        let of_it = watcher::Config::default().labels(&of_it);
        let slices = follow(Api::namespaced(client.clone(), namespace), of_it);
        let known = async {
            services.wait_until_ready().await.is_ok() && slices.wait_until_ready().await.is_ok()
        };
        if !matches!(tokio::time::timeout(KNOWING, known).await, Ok(true)) {
            return Err(Error::Silent(lab.to_owned()));
        }
        let publication = Publication {
            target,
            services,
            slices,
        };
        publication.route()?;
        Ok(publication)
    }

    /// Where a connection goes now.
    ///
    /// # Errors
    /// When the Service is gone, or has become one that leads nowhere.
    pub fn route(&self) -> Result<Route, Refusal> {
        let service = self.services.state().into_iter().next();
        self.target.route(service.as_deref(), &self.slices.state())
    }

    /// Carries connections until the lab is gone.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub async fn serve(
        self,
        listener: std::net::TcpListener,
        lab: &state::Lab,
    ) -> Result<(), Error> {
        let address = listener
            .local_addr()
            .unwrap_or_else(|_| ([127, 0, 0, 1], 0).into());
        let failed = |source| Error::Serve { address, source };
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let init = process::open_pid(lab.record.init).map_err(failed)?;
        // The lock tells whether that id is still the lab's process.
        if !lab.is_up() {
            return Ok(());
        }
        let end = end_of(init).map_err(failed)?;
        tokio::select! {
            never = carry::all(listener, Arc::new(self), lab.record.clone()) => match never {},
            // A watcher that is gone says nothing else.
            _ = end => Ok(()),
        }
    }
}

/// Tells the end of a process. A thread waits for it: the runtime cannot.
fn end_of(process: OwnedFd) -> std::io::Result<oneshot::Receiver<()>> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name("end-of-lab".to_owned())
        .spawn(move || {
            while let Ok(false) = process::wait_for_end(process.as_fd(), LOOK) {}
            // Nobody may want to know any more.
            let _gone = tell.send(());
        })?;
    Ok(told)
}

/// Keeps a store of what is there.
fn follow<K>(api: Api<K>, config: watcher::Config) -> Store<K>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + Send + Sync + 'static,
    K: std::fmt::Debug + serde::de::DeserializeOwned,
{
    let (store, writer) = reflector::store();
    let events = watcher::watcher(api, config).backoff(Pauses::default());
    let stream = reflector::reflector(writer, events);
    tokio::spawn(stream.for_each(|_| std::future::ready(())));
    store
}

/// What [`carry::all`] never returns.
type Never = Infallible;
