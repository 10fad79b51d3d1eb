//! Asks a container how it is: a program in it, an HTTP request, a connection.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_kube::k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use weft_kube::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::probe::Outcome;
use super::shim::{Answer, Connection, Request};

/// What of an HTTP answer is read: the status line and some of what follows.
const ANSWER_LIMIT: usize = 10 * 1024;

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
        return http(action, container, pod_ip, timeout).await;
    }
    if let Some(action) = &probe.tcp_socket {
        let target = target(action.host.as_deref(), &action.port, container, pod_ip);
        return match target {
            Ok(address) => match connect(address, timeout).await {
                Ok(_) => Outcome::Success,
                Err(reason) => Outcome::Failure(reason),
            },
            Err(reason) => Outcome::Failure(reason),
        };
    }
    Outcome::Failure("the lab's kubelet knows exec, httpGet and tcpSocket probes".to_owned())
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
        timeout: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
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

async fn http(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: Option<IpAddr>,
    timeout: Duration,
) -> Outcome {
    if action
        .scheme
        .as_deref()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
    {
        return Outcome::Failure("the lab's kubelet does not probe over HTTPS".to_owned());
    }
    let address = match target(action.host.as_deref(), &action.port, container, pod_ip) {
        Ok(address) => address,
        Err(reason) => return Outcome::Failure(reason),
    };
    let path = action
        .path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    let url = format!("http://{address}{path}");
    match tokio::time::timeout(timeout, get(address, path, action)).await {
        Ok(Ok(code)) if (200..400).contains(&code) => Outcome::Success,
        Ok(Ok(code)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
        Ok(Err(reason)) => Outcome::Failure(format!("Get {url:?}: {reason}")),
        Err(_) => Outcome::Failure(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn get(address: SocketAddr, path: &str, action: &HTTPGetAction) -> Result<u16, String> {
    let mut stream = TcpStream::connect(address)
        .await
        .map_err(|error| dial_error(address, &error))?;
    let mut headers = String::new();
    let mut host = address.to_string();
    for header in action.http_headers.iter().flatten() {
        if header.name.eq_ignore_ascii_case("host") {
            host.clone_from(&header.value);
        } else {
            headers.push_str(&format!("{}: {}\r\n", header.name, header.value));
        }
    }
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kube-probe/1.32\r\nAccept: */*\r\nConnection: close\r\n{headers}\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    while answer.len() < ANSWER_LIMIT && !answer.contains(&b'\n') {
        let count = stream
            .read_buf(&mut answer)
            .await
            .map_err(|error| error.to_string())?;
        if count == 0 {
            return Err("EOF".to_owned());
        }
    }
    status_code(&answer).ok_or_else(|| "malformed HTTP response".to_owned())
}

/// The code of a status line (RFC 9112, section 4).
fn status_code(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    words
        .next()
        .filter(|version| version.starts_with("HTTP/"))?;
    words.next()?.parse().ok()
}

async fn connect(address: SocketAddr, timeout: Duration) -> Result<TcpStream, String> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(dial_error(address, &error)),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
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

fn target(
    host: Option<&str>,
    port: &IntOrString,
    container: &Container,
    pod_ip: Option<IpAddr>,
) -> Result<SocketAddr, String> {
    let ip = match host.filter(|host| !host.is_empty()) {
        Some(host) => host
            .parse()
            .map_err(|_| format!("the probe's host {host:?} is not an address"))?,
        None => pod_ip.ok_or("the pod has no address")?,
    };
    let number = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => named_port(container, name).or_else(|| name.parse().ok()),
    };
    let number = number
        .filter(|number| *number != 0)
        .ok_or("the probe's port does not exist in the container")?;
    Ok(SocketAddr::new(ip, number))
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
    use super::*;

    #[test]
    fn status_lines() {
        assert_eq!(status_code(b"HTTP/1.1 200 OK\r\nServer: x\r\n"), Some(200));
        assert_eq!(status_code(b"HTTP/1.0 404\n"), Some(404));
        assert_eq!(status_code(b"SSH-2.0-x\r\n"), None);
    }

    #[test]
    fn ports_by_name_and_number() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c", "ports": [{"name": "web", "containerPort": 8080}],
        }))
        .unwrap();
        let ip = "fd00::5".parse().ok();
        let at = |port: IntOrString| {
            target(None, &port, &container, ip).map(|address| address.to_string())
        };
        assert_eq!(
            at(IntOrString::String("web".into())),
            Ok("[fd00::5]:8080".into())
        );
        assert_eq!(at(IntOrString::Int(80)), Ok("[fd00::5]:80".into()));
        assert!(at(IntOrString::String("none".into())).is_err());
    }

    #[tokio::test]
    async fn an_http_answer_decides() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in [
                "HTTP/1.1 204 No Content\r\n\r\n",
                "HTTP/1.1 503 Busy\r\n\r\n",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let count = stream.read(&mut request).await.unwrap();
                assert!(request[..count].starts_with(b"GET /healthz HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let action: HTTPGetAction = serde_json::from_value(serde_json::json!({
            "path": "/healthz", "port": port, "host": "127.0.0.1",
        }))
        .unwrap();
        let container = Container::default();
        let patience = Duration::from_secs(10);
        assert_eq!(
            http(&action, &container, None, patience).await,
            Outcome::Success
        );
        assert_eq!(
            http(&action, &container, None, patience).await,
            Outcome::Failure("HTTP probe failed with statuscode: 503".to_owned())
        );
    }
}
