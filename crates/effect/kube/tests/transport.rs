//! What the client's connections are, as the kernel shows them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail the test"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use weft_kube::{Access, connect};

const PATIENCE: Duration = Duration::from_secs(120);

/// A server that answers one request, and the connection it came on.
fn answered(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        request.extend(byte);
    }
    let body = r#"{"major":"1","minor":"34","gitVersion":"v1.34.0","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}"#;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

/// Which timer the client's end has, and in how many seconds it goes off (proc_net_tcp.rst:
/// field `tr`, 2 is keepalive, and `tm->when` in hundredths).
fn timer(server: &TcpStream) -> (u64, u64) {
    let port = |address: std::io::Result<std::net::SocketAddr>| address.unwrap().port();
    let ends = (
        format!(":{:04X}", port(server.peer_addr())),
        format!(":{:04X}", port(server.local_addr())),
    );
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let fields = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields[1].ends_with(&ends.0) && fields[2].ends_with(&ends.1))
        .expect("the client's end");
    let (kind, when) = fields[5].split_once(':').unwrap();
    let hexadecimal = |text| u64::from_str_radix(text, 16).unwrap();
    (hexadecimal(kind), hexadecimal(when) / 100)
}

#[test]
fn a_silent_server_is_asked_and_an_unused_connection_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\n\
         users: [{{name: u, user: {{}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
        listener.local_addr().unwrap()
    );
    fs::write(&kubeconfig, text).unwrap();
    let access = Access {
        kubeconfig: Some(kubeconfig),
        server: None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let server = std::thread::spawn(move || answered(&listener));
    let client = runtime.block_on(connect(&access, "test")).unwrap();
    runtime.block_on(client.apiserver_version()).unwrap();
    let mut stream = server.join().unwrap();

    let (kind, seconds) = timer(&stream);
    assert_eq!(kind, 2, "no keepalive");
    assert!(seconds <= 15, "the first question only in {seconds} s");

    // Nobody asks anything any more.
    let start = Instant::now();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(
        stream.read(&mut [0; 16]).unwrap(),
        0,
        "{:?}",
        start.elapsed()
    );
}
