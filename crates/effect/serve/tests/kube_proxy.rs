//! What load balancers, probes and Prometheus are answered, against what a real kube-proxy
//! answers (`tests/kube-proxy/answers`).
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_desired::{HealthCheck, IpFamily, ServiceKey};
use weft_serve::http_server::{self, Answer};
use weft_serve::metrics::{BackEnd, Metrics};
use weft_serve::proxy_health::ProxyHealth;
use weft_serve::service_health::ServiceHealth;

/// For what has to come, on a machine that has much to do.
const PATIENCE: Duration = Duration::from_secs(30);

fn recorded(name: &str) -> String {
    let folder = "../../../tests/kube-proxy/answers";
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(name);
    fs::read_to_string(path).unwrap()
}

/// Times and lengths that depend on them aside. Headers in any order: it means nothing.
fn masked(answer: &str) -> String {
    let time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{0,8}[1-9])? \+0000 UTC m=\+\d+\.\d{9}";
    let answer = Regex::new(time).unwrap().replace_all(answer, "TIME");
    let timed = answer.contains("TIME");
    let (head, body) = answer.split_once("\n\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().to_owned();
    let mut headers: Vec<_> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| {
            let name = name.to_lowercase();
            let value = match &*name {
                "date" => "DATE",
                "content-length" if timed => "LENGTH",
                _ => value,
            };
            format!("{name}: {value}")
        })
        .collect();
    headers.sort();
    format!("{status}\n{}\n\n{}", headers.join("\n"), body.trim_end())
}

/// Answers by what they are the answers to.
fn answers() -> BTreeMap<String, String> {
    let text = recorded("health");
    let parts = text.split("== ").filter(|part| !part.is_empty());
    parts
        .map(|part| part.split_once('\n').unwrap())
        .map(|(title, answer)| (title.to_owned(), masked(answer)))
        .collect()
}

async fn ask(at: SocketAddr, request: &str) -> String {
    let connecting = async {
        loop {
            if let Ok(stream) = TcpStream::connect(at).await {
                break stream;
            }
            tokio::task::yield_now().await;
        }
    };
    let mut stream = soon(connecting).await;
    let request = format!("{request} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    masked(&answer.replace("\r\n", "\n"))
}

fn web() -> ServiceKey {
    ServiceKey {
        namespace: "shop".into(),
        name: "web".into(),
    }
}

fn check(port: u16, endpoints: usize) -> HealthCheck {
    HealthCheck {
        port,
        local_endpoints: [(IpFamily::V4, endpoints)].into(),
    }
}

/// A port that nobody has, of a loopback address that no other test has.
fn free(address: [u8; 4]) -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::from(address), 0)).unwrap();
    listener.local_addr().unwrap()
}

/// What has to be so some time.
async fn soon<T>(waited_for: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waited_for).await.unwrap()
}

#[tokio::test]
async fn a_service_tells_how_many_endpoints_it_has_here() {
    let expected = answers();
    let at = free([127, 0, 0, 2]);
    let services = ServiceHealth::start(
        ProxyHealth::default(),
        Box::new(|_| {}),
        Box::new(|_, _, _| {}),
    );
    services.listen_at([at.ip()].into());
    services.set([(web(), Some(check(at.port(), 2)))]);
    for request in ["GET /", "HEAD /anything", "POST /healthz"] {
        let title = format!("two endpoints: {request}");
        assert_eq!(ask(at, request).await, expected[&title], "{title}");
    }
    services.set([(web(), Some(check(at.port(), 0)))]);
    // Told by a channel: the answer follows.
    let wanted = &expected["no endpoint: GET /"];
    soon(async { while ask(at, "GET /").await != *wanted {} }).await;
}

#[tokio::test]
async fn servers_come_and_go_with_their_services() {
    let at = free([127, 0, 0, 3]);
    let (told, mut unopened) = tokio::sync::mpsc::unbounded_channel();
    let tell = Box::new(move |count| told.send(count).unwrap());
    let (said, mut reasons) = tokio::sync::mpsc::unbounded_channel();
    let reason = Box::new(move |service: &ServiceKey, port: u16, error: &str| {
        said.send((service.clone(), port, error.to_owned()))
            .unwrap();
    });
    let services = ServiceHealth::start(ProxyHealth::default(), tell, reason);
    let taken = TcpListener::bind(at).await.unwrap();
    services.listen_at([at.ip()].into());
    services.set([(web(), Some(check(at.port(), 1)))]);
    // Somebody else has the port; once that leaves, it is opened.
    assert_eq!(unopened.recv().await, Some(1));
    let (service, port, error) = reasons.recv().await.unwrap();
    assert_eq!((service, port), (web(), at.port()));
    assert!(error.contains("Address already in use"), "{error}");
    drop(taken);
    assert_eq!(unopened.recv().await, Some(0));
    assert!(ask(at, "GET /").await.contains("\"web\""));
    // The port goes to another Service, at once.
    let other = ServiceKey {
        name: "other".into(),
        ..web()
    };
    services.set([(web(), None), (other.clone(), Some(check(at.port(), 1)))]);
    soon(async { while !ask(at, "GET /").await.contains("\"other\"") {} }).await;
    services.listen_at([].into());
    soon(async { while TcpStream::connect(at).await.is_ok() {} }).await;
    services.listen_at([at.ip()].into());
    assert!(ask(at, "GET /").await.contains("\"other\""));
    services.set([(other, None)]);
    soon(async { while TcpStream::connect(at).await.is_ok() {} }).await;
    assert!(unopened.is_empty() && reasons.is_empty());
}

#[tokio::test]
async fn a_node_tells_how_it_is() {
    let expected = answers();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let health = ProxyHealth::default();
    let asked = health.clone();
    let answering = move |question: http_server::Question<'_>| match question.path {
        "/healthz" => asked.healthz(),
        "/livez" => asked.livez(),
        _ => Answer::not_found(),
    };
    tokio::spawn(http_server::serve(listener, Arc::new(answering)));
    let compare = async |title: &str, request: &str| {
        let title = format!("{title}: {request}");
        assert_eq!(ask(at, request).await, expected[&title], "{title}");
    };
    compare("starting", "GET /healthz").await;
    health.written();
    for request in ["GET /healthz", "GET /livez", "POST /livez", "GET /other"] {
        compare("synced", request).await;
    }
    health.set_eligible(false);
    compare("tainted", "GET /healthz").await;
    compare("tainted", "GET /livez").await;
}

/// Every line of a family that is not a value.
fn descriptions(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| line.starts_with("# "));
    let mut lines: Vec<_> = lines.filter(|line| line.contains(" kubeproxy_")).collect();
    lines.sort_unstable();
    lines
}

/// Every series with its value, as a number: 0.001 and 1e-3 are one.
fn series(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| line.starts_with("kubeproxy_"));
    let bound = Regex::new(r#"\ble="([^"]+)""#).unwrap();
    let mut series: Vec<_> = lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| {
            let number =
                |found: &regex::Captures<'_>| format!("le={:?}", found[1].parse::<f64>().unwrap());
            let value: f64 = value.parse().unwrap();
            (bound.replace(name, number).into_owned(), value.to_string())
        })
        .collect();
    series.sort();
    series
}

#[test]
fn the_metrics_of_kube_proxy_are_there_with_its_names_helps_and_buckets() {
    for (back_end, name) in [
        (BackEnd::Iptables, "metrics.iptables"),
        (BackEnd::Nftables, "metrics.nftables"),
    ] {
        let metrics = Metrics::new(back_end).unwrap();
        // Counted once each, so that they are there; both records have them at 0.
        for status in ["200", "503"] {
            let status = status.parse().unwrap();
            metrics.answered_healthz(status);
            metrics.answered_livez(status);
        }
        let text = String::from_utf8(metrics.answer().body.to_vec()).unwrap();
        let expected = recorded(name);
        assert_eq!(descriptions(&text), descriptions(&expected), "{name}");
        let counted = |mut series: Vec<(String, String)>| {
            for (name, value) in &mut series {
                if name.starts_with("kubeproxy_proxy_") {
                    "0".clone_into(value);
                }
            }
            series
        };
        assert_eq!(counted(series(&text)), counted(series(&expected)), "{name}");
    }
}
