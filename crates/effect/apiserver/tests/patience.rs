//! Clients that keep a server waiting, and what becomes of them.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use support::{SOON, TestServer, WIDGETS, widget};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use weft_apiserver::Patience;

/// Long enough for a busy machine to do what is wanted, short enough to wait for.
const SHORT: Duration = Duration::from_secs(2);

/// A server that is impatient in what is set here, and has the patience of every server in
/// everything else: what ends, ends for the reason under test.
async fn server(short: impl FnOnce(&mut Patience)) -> TestServer {
    let directory = tempfile::tempdir().unwrap();
    TestServer::start_with(directory, |config| {
        config.patience = Patience::default();
        short(&mut config.patience);
    })
    .await
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What still comes, until the server ends the connection.
async fn rest(stream: &mut impl Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = async {
        let mut piece = [0; 16 << 10];
        // Some ends are a broken connection.
        while let Ok(length @ 1..) = stream.read(&mut piece).await {
            bytes.extend_from_slice(&piece[..length]);
        }
    };
    let ended = tokio::time::timeout(SOON, reading).await;
    assert!(ended.is_ok(), "the server does not end the connection");
    bytes
}

#[tokio::test]
async fn who_begins_nothing_is_closed() {
    let server = server(|patience| patience.handshake = SHORT).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(rest(&mut silent).await, b"");
    let mut halfway = TcpStream::connect(server.address).await.unwrap();
    // The beginning of a record that never comes: a handshake of TLS 1.0 form, 512 bytes long.
    halfway.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    assert_eq!(rest(&mut halfway).await, b"");
    server.stop().await;
}

#[tokio::test]
async fn who_asks_nothing_is_closed() {
    let server = server(|patience| {
        patience.idle = SHORT;
        // How long one has that is told to go: who never began HTTP/2 does not hear it.
        patience.unread = SHORT;
    })
    .await;
    for protocol in ["", "http/1.1", "h2"] {
        let mut quiet = server.tls(None, protocol).await;
        let said = rest(&mut quiet).await;
        assert!(!said.starts_with(b"HTTP"), "{protocol}: {said:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_at_once() {
    let server = TestServer::start().await;
    for sent in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        &[0; 64],
        // A record longer than any may be.
        &[22, 3, 1, 255, 255, 1, 0, 0, 0],
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let said = rest(&mut stream).await;
        assert!(!said.starts_with(b"HTTP"), "{said:?}");
    }
    assert!(
        server
            .client()
            .await
            .get("/readyz")
            .await
            .status
            .is_success()
    );
    server.stop().await;
}

#[tokio::test]
async fn half_a_head_is_not_waited_for() {
    let server = server(|patience| patience.idle = SHORT).await;
    for protocol in ["http/1.1", "h2"] {
        let mut stream = server.tls(None, protocol).await;
        stream
            .write_all(b"GET /version HTTP/1.1\r\nHost")
            .await
            .unwrap();
        let said = rest(&mut stream).await;
        assert!(!said.starts_with(b"HTTP/1.1 2"), "{protocol}: {said:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_ends_and_a_quiet_watch_does_not() {
    let server = server(|patience| patience.idle = SHORT).await;
    let mut client = server.client().await;
    let mut watch = server
        .client()
        .await
        .watch(&format!("{WIDGETS}?watch=1"), &[])
        .await;
    // One after the other, for several times the patience there is with an idle one.
    for _ in 0..3 {
        let mut idle = server.tls(None, "http/1.1").await;
        let request = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";
        idle.write_all(request).await.unwrap();
        assert!(rest(&mut idle).await.starts_with(b"HTTP/1.1 200"));
    }
    drop(client);
    client = server.client().await;
    client.post(WIDGETS, widget("news", json!({}))).await;
    assert_eq!(watch.brief().await.1, "news");
    server.stop().await;
}

/// A client of HTTP/2, and the end of its connection.
async fn http2(server: &TestServer) -> (SendRequest<Empty<Bytes>>, JoinHandle<()>) {
    let admin = server.pki.client("admin", "system:masters").unwrap();
    let tls = server.tls(Some(&admin), "h2").await;
    let shaken = handshake(TokioExecutor::new(), TokioIo::new(tls)).await;
    let (sender, connection) = shaken.unwrap();
    let ended = tokio::spawn(async move {
        // Some ends are a broken connection.
        let _ = connection.await;
    });
    (sender, ended)
}

fn get(path: &str) -> http::Request<Empty<Bytes>> {
    let uri = format!("https://localhost{path}");
    http::Request::get(uri).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn of_two_idle_connections_of_http_2_the_one_with_a_watch_stays() {
    let server = server(|patience| patience.idle = SHORT).await;
    let (mut watching, watch_ended) = http2(&server).await;
    let watch = watching.send_request(get(&format!("{WIDGETS}?watch=1")));
    let mut watch = watch.await.unwrap().into_body();
    for _ in 0..3 {
        let (mut idle, ended) = http2(&server).await;
        let answer = idle.send_request(get("/version")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        drop(answer.into_body().collect().await.unwrap());
        tokio::time::timeout(SOON, ended).await.unwrap().unwrap();
    }
    assert!(!watch_ended.is_finished());
    let mut client = server.client().await;
    client.post(WIDGETS, widget("news", json!({}))).await;
    let told = tokio::time::timeout(SOON, watch.frame()).await.unwrap();
    let told = told.unwrap().unwrap().into_data().unwrap();
    assert!(told.starts_with(b"{\"type\":\"ADDED\""), "{told:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_window_that_is_not_opened_is_not_waited_for() {
    let server = server(|patience| patience.unread = SHORT).await;
    let mut client = server.client().await;
    for number in 0..20 {
        let mut object = widget(&format!("w{number}"), json!({}));
        object["metadata"]["annotations"] = json!({"long": "x".repeat(200_000)});
        let made = client.post(WIDGETS, object).await;
        assert_eq!(made.status, StatusCode::CREATED);
    }
    let (mut stuck, ended) = http2(&server).await;
    let answer = stuck.send_request(get(WIDGETS)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    // Its pings are answered; its body is not read, and so no window is opened.
    tokio::time::timeout(SOON, ended).await.unwrap().unwrap();
    drop(answer);
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_timeout() {
    let server = server(|patience| patience.body = SHORT).await;
    let admin = server.pki.client("admin", "system:masters").unwrap();
    let mut stream = server.tls(Some(&admin), "http/1.1").await;
    let head = format!(
        "POST {WIDGETS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let said = rest(&mut stream).await;
    let said = String::from_utf8(said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 408"), "{said}");
    let status: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&status["kind"], &status["reason"], &status["code"]),
        (&json!("Status"), &json!("Timeout"), &json!(408))
    );
    server.stop().await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_bounded_too() {
    // All that is sent is taken, however long that is.
    let server = server(|patience| patience.linger = SOON).await;
    let admin = server.pki.client("admin", "system:masters").unwrap();
    let mut stream = server.tls(Some(&admin), "http/1.1").await;
    let head = format!(
        "POST {WIDGETS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let sending = async {
        for _ in 0..100 {
            stream.write_all(&chunk).await?;
        }
        stream.write_all(b"0\r\n\r\n").await?;
        stream.flush().await
    };
    let sent = tokio::time::timeout(SOON, sending).await.unwrap();
    let said = String::from_utf8_lossy(&rest(&mut stream).await).into_owned();
    assert!(said.starts_with("HTTP/1.1 413"), "{sent:?}: {said}");
    assert_eq!(
        server
            .client()
            .await
            .get(&format!("{WIDGETS}/a"))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    server.stop().await;
}

#[tokio::test]
async fn who_asks_before_sending_too_much_is_not_invited() {
    let server = TestServer::start().await;
    let admin = server.pki.client("admin", "system:masters").unwrap();
    let mut stream = server.tls(Some(&admin), "http/1.1").await;
    let head = format!(
        "POST {WIDGETS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 4000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let said = String::from_utf8_lossy(&rest(&mut stream).await).into_owned();
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    server.stop().await;
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_loses_it() {
    let server = server(|patience| {
        patience.unread = SHORT;
        // The clock of this test.
        patience.idle = SHORT;
    })
    .await;
    let mut client = server.client().await;
    // More than the sockets of both ends hold (tcp(7), tcp_wmem: 4 MiB), however they grow.
    let (count, length) = (180, 100_000);
    for number in 0..count {
        let mut object = widget(&format!("w{number}"), json!({}));
        object["metadata"]["annotations"] = json!({"long": "x".repeat(length)});
        let made = client.post(WIDGETS, object).await;
        assert_eq!(made.status, StatusCode::CREATED);
    }
    let admin = server.pki.client("admin", "system:masters").unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let tcp = socket.connect(server.address).await.unwrap();
    let mut stuck = server.tls_over(tcp, Some(&admin), "http/1.1").await;
    let request = format!("GET {WIDGETS} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stuck.write_all(request.as_bytes()).await.unwrap();
    // An idle connection, begun later, ends after as long.
    for _ in 0..2 {
        rest(&mut server.tls(None, "http/1.1").await).await;
    }
    let said = rest(&mut stuck).await;
    assert!(said.starts_with(b"HTTP/1.1 200"));
    assert!(said.len() < count * length, "{} bytes came", said.len());
    server.stop().await;
}
