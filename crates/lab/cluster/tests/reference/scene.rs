//! A recorded scene, played to our server.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Reply, TestServer};
use crate::compare::{Difference, differences};
use crate::mask::Masker;

/// One file of the recording.
pub(crate) struct Scene {
    name: String,
    exchanges: Vec<Exchange>,
}

#[derive(Deserialize)]
struct Exchange {
    label: String,
    request: Asked,
    /// Parts of the answer that later requests name: JSON pointers.
    #[serde(default)]
    keep: BTreeMap<String, String>,
    answer: Value,
}

#[derive(Deserialize)]
struct Asked {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Option<Value>,
}

pub(crate) struct Played {
    pub(crate) compared: usize,
    pub(crate) differences: Vec<Difference>,
}

impl Scene {
    pub(crate) fn all(directory: &Path) -> Vec<Self> {
        let entries = std::fs::read_dir(directory).unwrap();
        let scene = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap();
            Self {
                name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
                exchanges: serde_json::from_str(&text).unwrap(),
            }
        };
        entries.map(|entry| scene(&entry.unwrap().path())).collect()
    }

    /// Sends every request in order and compares the answers.
    pub(crate) async fn play(self) -> Played {
        let server = TestServer::start().await;
        let mut masker = Masker::new();
        let mut found = Vec::new();
        let compared = self.exchanges.len();
        for exchange in self.exchanges {
            let request = masker.request(&exchange.request);
            let reply = server.send(request).await;
            let body = document(&reply);
            for (name, pointer) in &exchange.keep {
                let part = body.pointer(pointer).and_then(Value::as_str);
                masker.keep(name, part.unwrap_or_default());
            }
            let answer = json!({
                "status": reply.status.as_u16(),
                "headers": headers(&reply),
                "body": masker.document(body),
            });
            let label = format!("{}/{}", self.name, exchange.label);
            found.extend(differences(&label, &exchange.answer, &answer));
        }
        server.stop().await;
        Played {
            compared,
            differences: found,
        }
    }
}

fn document(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body)
        .unwrap_or_else(|_| String::from_utf8_lossy(&reply.body).into())
}

/// The headers that are compared.
fn headers(reply: &Reply) -> Value {
    let text = |name: &str| {
        let values = reply.headers.get_all(name).iter();
        let texts = values.map(|value| value.to_str().unwrap().to_owned());
        texts.collect::<Vec<_>>()
    };
    let mut headers = json!({});
    if let Some(one) = text("content-type").first() {
        headers["content-type"] = one.as_str().into();
    }
    if !text("warning").is_empty() {
        headers["warning"] = text("warning").into();
    }
    headers
}

impl Masker {
    fn request(&mut self, asked: &Asked) -> Request<Full<Bytes>> {
        let path = self.filled(&asked.path);
        let body = match &asked.body {
            None => String::new(),
            Some(Value::String(text)) => self.filled(text),
            Some(body) => self.filled(&body.to_string()),
        };
        self.says(&path);
        self.says(&body);
        let mut request = Request::builder().method(asked.method.as_str()).uri(path);
        for (name, value) in &asked.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(Bytes::from(body))).unwrap()
    }
}
