//! Asks a container how it is: a program in it, an HTTP request, a connection, a gRPC call.

mod grpc;
pub(super) mod http;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use weft_kube::k8s_openapi::api::core::v1::{Container, Probe};
use weft_kube::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use self::http::{Answered, Question};
use super::probe::Outcome;
use super::shim::{Answer, Connection, Request};

/// As whom the kubelet asks.
const AGENT: &str = "kube-probe/1.32";

/// Puts one question. It is answered within the timeout, or has failed.
pub(super) async fn ask(
    probe: &Probe,
    container: &Container,
    pod_ip: Option<IpAddr>,
    shim: &Connection,
    timeout: Duration,
) -> Outcome {
    if let Some(action) = &probe.exec {
        let argv = action.command.clone().unwrap_or_default();
        return program(shim, &container.name, argv, timeout).await;
    }
    if let Some(action) = &probe.http_get {
        return match Question::of(action, container, pod_ip) {
            Ok(question) => http(&question, timeout).await,
            Err(reason) => Outcome::Failure(reason),
        };
    }
    if let Some(action) = &probe.grpc {
        return grpc::ask(action, pod_ip, timeout).await;
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.clone().filter(|host| !host.is_empty());
        let host = host.or_else(|| pod_ip.map(|ip| ip.to_string()));
        return match (host, port(&action.port, container)) {
            (Some(host), Ok(port)) => connect(&host, port, timeout).await,
            (None, _) => Outcome::Failure("the pod has no address".to_owned()),
            (_, Err(reason)) => Outcome::Failure(reason),
        };
    }
    Outcome::Failure("missing probe handler".to_owned())
}

async fn connect(host: &str, port: u16, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, dial(host, port)).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(reason)) => Outcome::Failure(reason),
        Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

async fn program(
    shim: &Connection,
    container: &str,
    argv: Vec<String>,
    timeout: Duration,
) -> Outcome {
    let command = argv.join(" ");
    let request = Request::Execute {
        container: container.to_owned(),
        argv,
        timeout: u64::try_from(timeout.as_millis()).ok(),
    };
    match shim.ask(request).await {
        Ok(Answer::Executed {
            timed_out: true, ..
        }) => Outcome::Failure(format!(
            "command timed out: {command:?} timed out after {}s",
            timeout.as_secs()
        )),
        Ok(Answer::Executed { code: 0, .. }) => Outcome::Success,
        Ok(Answer::Executed { output, .. }) => Outcome::Failure(output),
        Ok(Answer::Refused(reason)) => Outcome::Failure(reason),
        Ok(
            Answer::Done
            | Answer::Started(_)
            | Answer::Containers(_)
            | Answer::Terminal
            | Answer::Joined { .. },
        ) => Outcome::Failure("the shim answered something else".to_owned()),
        Err(error) => Outcome::Failure(error.to_string()),
    }
}

async fn http(question: &Question, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, question.ask()).await {
        Ok(Ok(Answered {
            leads_away: true, ..
        })) => Outcome::Doubtful("Probe terminated redirects".to_owned()),
        Ok(Ok(Answered { code, .. })) if (200..400).contains(&code) => Outcome::Success,
        Ok(Ok(Answered { code, .. })) => {
            Outcome::Failure(format!("HTTP probe failed with statuscode: {code}"))
        }
        Ok(Err(reason)) => Outcome::Failure(format!("Get {:?}: {reason}", question.url())),
        Err(_) => Outcome::Failure(format!(
            "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            question.url()
        )),
    }
}

/// Connects, with errors in Go's words.
async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        let address = SocketAddr::new(ip, port);
        return TcpStream::connect(address)
            .await
            .map_err(|error| dial_error(address, &error));
    }
    TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("dial tcp {host}:{port}: {error}"))
}

/// In the words that Kubernetes' events have.
fn dial_error(address: SocketAddr, error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let words = [
        (ErrorKind::ConnectionRefused, "connection refused"),
        (ErrorKind::HostUnreachable, "no route to host"),
        (ErrorKind::NetworkUnreachable, "network is unreachable"),
        (ErrorKind::TimedOut, "connection timed out"),
    ];
    let reason = words
        .into_iter()
        .find(|(kind, _)| *kind == error.kind())
        .map_or_else(|| error.to_string(), |(_, words)| words.to_owned());
    format!("dial tcp {address}: connect: {reason}")
}

/// The number of a probe's or hook's port.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => named_port(container, name).or_else(|| name.parse().ok()),
    };
    number
        .filter(|number| *number != 0)
        .ok_or_else(|| "the port does not exist in the container".to_owned())
}

fn named_port(container: &Container, name: &str) -> Option<u16> {
    container
        .ports
        .iter()
        .flatten()
        .find(|port| port.name.as_deref() == Some(name))
        .and_then(|port| u16::try_from(port.container_port).ok())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn ports_by_name_and_number() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c", "ports": [{"name": "web", "containerPort": 8080}],
        }))
        .unwrap();
        let number = |wanted: IntOrString| port(&wanted, &container);
        assert_eq!(number(IntOrString::String("web".into())), Ok(8080));
        assert_eq!(number(IntOrString::Int(80)), Ok(80));
        assert!(number(IntOrString::String("none".into())).is_err());
    }

    #[tokio::test]
    async fn an_http_answer_decides() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in [
                "HTTP/1.1 204 No Content\r\n\r\n",
                "HTTP/1.1 503 Busy\r\n\r\n",
                "HTTP/1.1 302 Found\r\nLocation: /healthz\r\n\r\n",
                "HTTP/1.1 500 Broken\r\n\r\n",
                "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let count = stream.read(&mut request).await.unwrap();
                assert!(request[..count].starts_with(b"GET /healthz HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let action = serde_json::from_value(serde_json::json!({
            "path": "/healthz", "port": port, "host": "127.0.0.1",
        }))
        .unwrap();
        let question = Question::of(&action, &Container::default(), None).unwrap();
        let patience = Duration::from_secs(10);
        let failed =
            |code: u16| Outcome::Failure(format!("HTTP probe failed with statuscode: {code}"));
        assert_eq!(http(&question, patience).await, Outcome::Success);
        assert_eq!(http(&question, patience).await, failed(503));
        // A redirection to itself is followed, one to somebody else is not.
        assert_eq!(http(&question, patience).await, failed(500));
        let away = http(&question, patience).await;
        assert!(matches!(away, Outcome::Doubtful(_)), "{away:?}");
    }
}
