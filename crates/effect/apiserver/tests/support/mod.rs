//! A server of toy kinds on a socket of its own, and a client for it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on fails"
)]
#![expect(dead_code, reason = "each test file uses its own part of this")]
#![expect(unreachable_pub, reason = "the module is private to each test")]

use std::borrow::Cow;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;
use weft_apiserver::{
    ALL_VERBS, Admission, ApplyList, Column, Config, Credential, Decoded, FieldError, Operation,
    PatchList, Pki, Refusal, Registry, Resource, Server, Strategy, SubjectName, Subresource,
    WriteContext,
};

/// Everything a test waits for is here within this time.
pub const SOON: Duration = Duration::from_secs(60);

pub struct Widget;

impl Strategy for Widget {
    fn decode(&self, object: &mut Value) -> Decoded {
        const KNOWN: [&str; 4] = ["size", "color", "parts", "replicas"];
        let mut decoded = Decoded::default();
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.retain(|key, _| {
                let known = KNOWN.contains(&key.as_str());
                if !known {
                    decoded
                        .unknown
                        .push(format!("unknown field \"spec.{key}\""));
                }
                known
            });
            if let Some(size) = spec.get("size")
                && !size.is_number()
            {
                let text =
                    format!("json: cannot unmarshal {size} into field spec.size of type int32");
                decoded.mismatches.push(text);
            }
        }
        decoded
    }

    fn default(&self, object: &mut Value) {
        if object["spec"]["size"].is_null() {
            object["spec"]["size"] = 1.into();
        }
    }

    fn prepare_create(&self, object: &mut Value, _: WriteContext<'_>) {
        object["metadata"]["generation"] = 1.into();
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
        }
    }

    fn prepare_update(
        &self,
        object: &mut Value,
        old: &Value,
        subresource: Option<&str>,
        _: WriteContext<'_>,
    ) {
        let kept = if subresource == Some("status") {
            "spec"
        } else {
            "status"
        };
        match old.get(kept) {
            Some(value) => object[kept] = value.clone(),
            None => {
                object.as_object_mut().map(|map| map.remove(kept));
            }
        }
        if object["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
            object["metadata"]["generation"] = (generation + 1).into();
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let size = &object["spec"]["size"];
        match size.as_i64() {
            Some(1..=10) => Vec::new(),
            _ => vec![FieldError::invalid(
                "spec.size",
                size,
                "must be between 1 and 10, inclusive",
            )],
        }
    }

    fn patch_list(&self, path: &[&str]) -> Option<PatchList> {
        Some(match path {
            ["spec", "parts"] => PatchList::ByKey("name".into()),
            _ => PatchList::Replace,
        })
    }

    fn apply_list(&self, path: &[&str]) -> ApplyList {
        match path {
            ["spec", "parts"] => ApplyList::Map(vec!["name".into()]),
            _ => ApplyList::Atomic,
        }
    }

    fn cells(&self, object: &Value, _: Timestamp) -> Vec<Value> {
        vec![
            object["metadata"]["name"].clone(),
            object["spec"]["size"].clone(),
        ]
    }

    fn field_names(&self) -> Cow<'_, [&str]> {
        Cow::Borrowed(&["spec.color"])
    }

    fn field_value(&self, object: &Value, _: &str) -> String {
        object["spec"]["color"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let slow = object["metadata"]["labels"]["slow"] == "yes";
        slow.then(|| requested.unwrap_or(30))
    }
}

struct Plain;

impl Strategy for Plain {
    fn cells(&self, object: &Value, _: Timestamp) -> Vec<Value> {
        vec![object["metadata"]["name"].clone()]
    }
}

fn column(name: &str, column_type: &str) -> Column {
    Column {
        name: name.into(),
        column_type: column_type.into(),
        format: if name == "Name" {
            "name".into()
        } else {
            String::new()
        },
        description: format!("The {name}."),
        priority: 0,
    }
}

fn sub(name: &str, group: &str, version: &str, kind: &str) -> Subresource {
    Subresource {
        name: name.into(),
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        verbs: ["get", "patch", "update"].map(str::to_owned).to_vec(),
    }
}

fn resource(
    group: &str,
    kind: &str,
    plural: &str,
    namespaced: bool,
    strategy: Arc<dyn Strategy>,
) -> Resource {
    Resource {
        group: group.into(),
        version: "v1".into(),
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        verbs: ALL_VERBS.map(str::to_owned).to_vec(),
        subresources: Vec::new(),
        columns: vec![column("Name", "string")],
        strategy,
    }
}

pub const GROUP: &str = "example.com";

pub fn registry() -> Registry {
    let mut widgets = resource(GROUP, "Widget", "widgets", true, Arc::new(Widget));
    widgets.short_names = vec!["wd".into()];
    widgets.columns.push(column("Size", "integer"));
    widgets.subresources = vec![
        sub("status", GROUP, "v1", "Widget"),
        sub("scale", "autoscaling", "v1", "Scale"),
        sub("log", GROUP, "v1", "Widget"),
    ];
    let mut accounts = resource(
        "",
        "ServiceAccount",
        "serviceaccounts",
        true,
        Arc::new(Plain),
    );
    accounts.subresources = vec![sub("token", "authentication.k8s.io", "v1", "TokenRequest")];
    Registry::new([
        widgets,
        accounts,
        resource("", "Namespace", "namespaces", false, Arc::new(Plain)),
    ])
}

/// Gives each widget a number nobody else has, in `metadata.annotations.number`.
#[derive(Default)]
pub struct Numbers {
    held: Vec<u64>,
    before: Vec<u64>,
}

const NUMBERS: u64 = 1000;

fn number(object: &Value) -> Option<u64> {
    object["metadata"]["annotations"]["number"]
        .as_str()?
        .parse()
        .ok()
}

impl Admission for Numbers {
    fn repair(&mut self, objects: &mut dyn Iterator<Item = (&Resource, Value)>) {
        self.held = objects.filter_map(|(_, object)| number(&object)).collect();
        self.before = self.held.clone();
    }

    fn admit(&mut self, resource: &Resource, operation: Operation<'_>) -> Result<(), Refusal> {
        if resource.kind != "Widget" {
            return Ok(());
        }
        match operation {
            Operation::Create { object } => {
                let free = (0..NUMBERS).find(|one| !self.held.contains(one));
                let free = free.ok_or_else(|| Refusal::Exhausted("no number is left".into()))?;
                object["metadata"]["annotations"]["number"] = free.to_string().into();
                self.held.push(free);
            }
            Operation::Update { .. } => {}
            Operation::Delete { old } => {
                let gone = number(old);
                self.held.retain(|one| Some(*one) != gone);
            }
        }
        Ok(())
    }

    fn commit(&mut self) {
        self.before.clone_from(&self.held);
    }

    fn rollback(&mut self) {
        self.held.clone_from(&self.before);
    }
}

pub type TlsStream = ClientStream<TcpStream>;

/// A running server.
pub struct TestServer {
    pub address: SocketAddr,
    pub pki: Arc<Pki>,
    pub directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub fn store(&self) -> PathBuf {
        self.directory.path().join("store.redb")
    }

    pub async fn start_in(directory: TempDir) -> Self {
        Self::start_with(directory, |_| ()).await
    }

    pub async fn start_with(directory: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let load = || Pki::load_or_generate(&directory.path().join("pki"), "test").unwrap();
        let pki = Arc::new(load());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let names = vec![
            SubjectName::Ip(address.ip()),
            SubjectName::Dns("localhost".into()),
        ];
        let mut config = Config::new(
            directory.path().join("store.redb"),
            registry(),
            load(),
            names,
        );
        config.admission = Box::new(Numbers::default());
        config.bootstrap =
            vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})];
        config.history.events = 200;
        change(&mut config);
        let server = Server::open(config).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let shutdown = async { stopped.await.unwrap_or_default() };
            server.run(vec![listener], shutdown).await.unwrap();
        });
        Self {
            address,
            pki,
            directory,
            stop: Some(stop),
            running: Some(running),
        }
    }

    /// Stops the server; its directory stays.
    pub async fn stop(mut self) -> TempDir {
        drop(self.stop.take());
        self.running.take().unwrap().await.unwrap();
        self.directory
    }

    pub async fn client(&self) -> Client {
        let admin = self.pki.client("admin", "system:masters").unwrap();
        self.connect(Some(&admin)).await
    }

    /// A connection on which nothing is said yet; `protocol` is what it asks for, if anything.
    pub async fn tls(&self, credential: Option<&Credential>, protocol: &str) -> TlsStream {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        self.tls_over(tcp, credential, protocol).await
    }

    pub async fn tls_over(
        &self,
        tcp: TcpStream,
        credential: Option<&Credential>,
        protocol: &str,
    ) -> TlsStream {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.pki.ca_certificate().as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match credential {
            None => builder.with_no_client_auth(),
            Some(credential) => {
                let chain = vec![
                    CertificateDer::from_pem_slice(credential.certificate.as_bytes()).unwrap(),
                ];
                let key = PrivateKeyDer::from_pem_slice(credential.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        if !protocol.is_empty() {
            config.alpn_protocols = vec![protocol.into()];
        }
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, tcp).await.unwrap()
    }

    pub async fn connect(&self, credential: Option<&Credential>) -> Client {
        let tls = self.tls(credential, "").await;
        let (sender, connection) = handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(async move {
            // A server that stops closes it.
            let _ = connection.await;
        });
        Client {
            sender,
            token: String::new(),
        }
    }
}

/// One connection to the server.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    pub token: String,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }
}

impl Client {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> http::Response<Incoming> {
        let sending = async {
            self.sender.ready().await.unwrap();
            self.sender.send_request(request).await.unwrap()
        };
        tokio::time::timeout(SOON, sending).await.unwrap()
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost");
        if !self.token.is_empty() {
            builder = builder.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(Full::new(body)).unwrap()
    }

    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let request = self.request(method, path, headers, body.into());
        let response = self.send(request).await;
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(SOON, body.collect())
            .await
            .unwrap()
            .unwrap();
        Reply {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        }
    }

    pub async fn get(&mut self, path: &str) -> Reply {
        self.call(Method::GET, path, &[], "").await
    }

    pub async fn post(&mut self, path: &str, body: Value) -> Reply {
        self.call(
            Method::POST,
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    pub async fn put(&mut self, path: &str, body: Value) -> Reply {
        self.call(
            Method::PUT,
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    pub async fn patch(&mut self, path: &str, kind: &str, body: Value) -> Reply {
        let media = format!("application/{kind}");
        self.call(
            Method::PATCH,
            path,
            &[("content-type", &media)],
            body.to_string(),
        )
        .await
    }

    pub async fn delete(&mut self, path: &str) -> Reply {
        self.call(Method::DELETE, path, &[], "").await
    }

    pub async fn watch(mut self, path: &str, headers: &[(&str, &str)]) -> Watch {
        let request = self.request(Method::GET, path, headers, Bytes::new());
        let response = self.send(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Watch {
            body: response.into_body(),
            buffer: Vec::new(),
            _client: self,
        }
    }
}

/// A watch.
pub struct Watch {
    body: Incoming,
    buffer: Vec<u8>,
    _client: Client,
}

impl Watch {
    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(SOON, self.body.frame())
                .await
                .unwrap()?;
            if let Ok(data) = frame.unwrap().into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// Type, name and version of the next event.
    pub async fn brief(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch ended");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&event["type"]),
            text(&event["object"]["metadata"]["name"]),
        )
    }
}

pub fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

pub const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// Writes a kubeconfig for the server.
pub fn write_kubeconfig(server: &TestServer, path: &Path) {
    let admin = server.pki.client("admin", "system:masters").unwrap();
    let url = format!("https://{}", server.address);
    let text = weft_apiserver::kubeconfig("test", &url, server.pki.ca_certificate(), &admin);
    std::fs::write(path, text).unwrap();
}
