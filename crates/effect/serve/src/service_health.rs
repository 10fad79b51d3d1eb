//! Tells load balancers at each Service's own port (`healthCheckNodePort`) how many endpoints
//! the Service has on this node, as kube-proxy does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::HeaderName;
use http::{HeaderValue, StatusCode};
use rustix::io::Errno;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};
use weft_desired::{HealthCheck, IpFamily, ServiceKey};

use crate::http_server::{self, Answer, Answering};
use crate::listener;
use crate::proxy_health::ProxyHealth;

/// Until what could not be opened is tried again: somebody else may have the port.
const PAUSE: Duration = Duration::from_secs(1);

/// How many connections a load balancer is to send here, against other nodes.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Runs the servers. They end with the last clone.
#[derive(Clone, Debug)]
pub struct ServiceHealth {
    news: UnboundedSender<News>,
}

#[derive(Debug)]
enum News {
    Checks(Vec<(ServiceKey, Option<HealthCheck>)>),
    Addresses(BTreeSet<IpAddr>),
}

/// Told how many ports could not be opened, whenever that changes.
pub type Unopened = Box<dyn Fn(usize) + Send>;

/// Told which Service's port could not be opened and why, once for each reason.
pub type Failed = Box<dyn Fn(&ServiceKey, u16, &str) + Send>;

impl ServiceHealth {
    /// Starts without any. Needs a tokio runtime.
    pub fn start(health: ProxyHealth, unopened: Unopened, reason: Failed) -> Self {
        let (news, told) = unbounded_channel();
        tokio::spawn(run(told, Servers::new(health), unopened, reason));
        Self { news }
    }

    /// Makes Services' health checks these; those given as `None` end.
    pub fn set(&self, checks: impl IntoIterator<Item = (ServiceKey, Option<HealthCheck>)>) {
        self.tell(News::Checks(checks.into_iter().collect()));
    }

    /// Listens at these addresses from now on; 0.0.0.0 and :: stand for all of their family.
    pub fn listen_at(&self, addresses: BTreeSet<IpAddr>) {
        self.tell(News::Addresses(addresses));
    }

    fn tell(&self, news: News) {
        if self.news.send(news).is_err() {
            warn!("nobody serves health checks: their task has ended");
        }
    }
}

async fn run(
    mut told: UnboundedReceiver<News>,
    mut servers: Servers,
    unopened: Unopened,
    reason: Failed,
) {
    let mut failed = 0;
    let mut again = None;
    loop {
        let retry = async {
            match again {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = told.recv() => match news {
                Some(news) => servers.take(news).await,
                None => return,
            },
            () = retry => {}
        }
        // What came meanwhile: a port that goes to another Service is free when that opens it.
        while let Ok(news) = told.try_recv() {
            servers.take(news).await;
        }
        let now = servers.open(&reason);
        if now != failed {
            failed = now;
            unopened(failed);
        }
        again = (failed > 0).then(|| Instant::now() + PAUSE);
    }
}

#[derive(Debug)]
struct Servers {
    health: ProxyHealth,
    addresses: BTreeSet<IpAddr>,
    services: BTreeMap<ServiceKey, Server>,
}

#[derive(Debug)]
struct Server {
    check: Arc<ArcSwap<HealthCheck>>,
    port: u16,
    listeners: BTreeMap<IpAddr, Listener>,
    /// Why it can't be opened, as it was said last.
    said: Option<String>,
}

/// A task that listens. It ends when this is dropped, a moment later.
#[derive(Debug)]
struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listener {
    /// Returns when the port is free.
    async fn close(mut self) {
        self.0.abort();
        // That it was ended is no news.
        let _ = (&mut self.0).await;
    }
}

impl Servers {
    fn new(health: ProxyHealth) -> Self {
        Self {
            health,
            addresses: BTreeSet::new(),
            services: BTreeMap::new(),
        }
    }

    /// Closes what is not wanted any more. What is wanted anew is for [`Servers::open`].
    async fn take(&mut self, news: News) {
        match news {
            News::Checks(checks) => {
                for (service, check) in checks {
                    self.set(service, check).await;
                }
            }
            News::Addresses(addresses) => {
                for server in self.services.values_mut() {
                    let gone = |at: &IpAddr, _: &mut Listener| !addresses.contains(at);
                    for (_, listener) in server.listeners.extract_if(.., gone) {
                        listener.close().await;
                    }
                }
                self.addresses = addresses;
            }
        }
    }

    async fn set(&mut self, service: ServiceKey, check: Option<HealthCheck>) {
        let there = self.services.get(&service).map(|server| server.port);
        if there.is_some() && there != check.as_ref().map(|check| check.port) {
            let server = self.services.remove(&service);
            for listener in server.into_iter().flat_map(|it| it.listeners.into_values()) {
                listener.close().await;
            }
        }
        let Some(check) = check else {
            return;
        };
        match self.services.get(&service) {
            Some(server) => server.check.store(Arc::new(check)),
            None => {
                let server = Server {
                    port: check.port,
                    check: Arc::new(ArcSwap::from_pointee(check)),
                    listeners: BTreeMap::new(),
                    said: None,
                };
                self.services.insert(service, server);
            }
        }
    }

    /// Opens what is not open; returns how many Services have a port that can't be.
    fn open(&mut self, reason: &Failed) -> usize {
        let mut failed = 0;
        for (service, server) in &mut self.services {
            let answering = answering(service.clone(), server.check.clone(), self.health.clone());
            match server.open(&self.addresses, &answering) {
                Ok(()) => {
                    if server.said.take().is_some() {
                        info!(%service, port = server.port, "health check port opened");
                    }
                }
                Err(error) => {
                    failed += 1;
                    if server.said.as_ref() != Some(&error) {
                        warn!(%service, port = server.port, error,
                            "health check port can't be opened: load balancers take the node \
                             for one without endpoints; trying again");
                        reason(service, server.port, &error);
                        server.said = Some(error);
                    }
                }
            }
        }
        failed
    }
}

impl Server {
    fn open(&mut self, addresses: &BTreeSet<IpAddr>, answering: &Answering) -> Result<(), String> {
        let mut failure = Ok(());
        let only_v6 = listener::Options {
            only_v6: true,
            ..listener::Options::default()
        };
        for address in addresses {
            if self.listeners.contains_key(address) {
                continue;
            }
            let at = SocketAddr::new(*address, self.port);
            match listener::listen(at, only_v6) {
                Ok(listener) => {
                    let task = tokio::spawn(http_server::serve(listener, answering.clone()));
                    self.listeners.insert(*address, Listener(task));
                }
                // A kernel without the family has no address of it.
                Err(error) if address.is_unspecified() && is_of_no_family(&error) => {}
                Err(error) => failure = Err(format!("{at}: {error}")),
            }
        }
        failure
    }
}

fn is_of_no_family(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn answering(
    service: ServiceKey,
    check: Arc<ArcSwap<HealthCheck>>,
    health: ProxyHealth,
) -> Answering {
    Arc::new(move |question| {
        let family = IpFamily::of(question.at.ip());
        let endpoints = check.load().local_endpoints_for(family);
        answer(&service, endpoints, health.is_healthy())
    })
}

/// The answer, whatever the path and method.
fn answer(service: &ServiceKey, endpoints: usize, healthy: bool) -> Answer {
    let ServiceKey { namespace, name } = service;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    let status = match endpoints > 0 && healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    Answer::json(status, body).with(WEIGHT, HeaderValue::from(endpoints))
}
