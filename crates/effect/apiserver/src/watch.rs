//! Watches: a position in a collection's history that moves on as the client reads.
//!
//! A watcher holds no queue of its own: it reads the shared history when the client takes
//! more, so a slow one costs nothing and ends with 410 once history has moved past it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::negotiate::Shape;
use crate::object::{Object, event_frame};
use crate::resource::Resource;
use crate::selector::Selector;
use crate::state::{Change, Event, Forgotten};
use crate::status::ApiError;
use crate::store::Store;
use crate::table::{IncludeObject, metadata_only, row, table};

/// Changes taken from the history at a time.
const BATCH: usize = 128;
/// Events sent in one piece are at most about this long, in bytes.
const CHUNK: usize = 32 << 10;
/// How often a quiet watch tells its version.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);

/// Writes the events of one watch.
pub(crate) struct Encoder {
    pub(crate) resource: Arc<Resource>,
    pub(crate) shape: Shape,
    pub(crate) include: IncludeObject,
    /// Tables name their columns once.
    pub(crate) columns_sent: bool,
}

impl Encoder {
    fn event(&mut self, kind: &str, object: &Arc<Object>, out: &mut Piece) {
        let object = object.seen_as(&self.resource);
        if self.shape != Shape::Plain {
            return self.shaped(kind, object.value(), out);
        }
        match object.line(kind) {
            Some(line) => out.add(line),
            None => write_event(kind, &object.json, out),
        }
    }

    fn shaped(&mut self, kind: &str, object: Value, out: &mut Piece) {
        let document = match self.shape {
            Shape::Plain => object,
            Shape::Metadata => metadata_only(object),
            Shape::Table => {
                let version = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let mut table = table(&self.resource, version, !self.columns_sent);
                self.columns_sent = true;
                let row = row(&self.resource, object, self.include, Timestamp::now());
                table["rows"] = json!([row]);
                table
            }
        };
        write_event(kind, document.to_string().as_bytes(), out);
    }

    /// The list a client makes of the initial events, still empty: client-go's `List` by
    /// streaming needs to be told its kind.
    fn blueprint(&self) -> Option<Value> {
        let (api_version, kind) = match self.shape {
            Shape::Plain => (
                self.resource.api_version(),
                self.resource.list_kind.as_str(),
            ),
            Shape::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList"),
            Shape::Table => return None,
        };
        Some(json!({"kind": kind, "apiVersion": api_version, "metadata": {}, "items": []}))
    }

    fn bookmark(&mut self, version: u64, initial_end: bool, out: &mut Piece) {
        let mut metadata = json!({
            "resourceVersion": version.to_string(),
            "creationTimestamp": null,
        });
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
            if let Some(blueprint) = self.blueprint() {
                metadata["annotations"]["kubernetes.io/initial-events-list-blueprint"] =
                    STANDARD.encode(blueprint.to_string()).into();
            }
        }
        let object = json!({
            "kind": self.resource.kind,
            "apiVersion": self.resource.api_version(),
            "metadata": metadata,
        });
        let document = match self.shape {
            Shape::Plain => object,
            Shape::Metadata => metadata_only(object),
            Shape::Table => {
                let mut table = table(
                    &self.resource,
                    json!({"resourceVersion": version.to_string()}),
                    !self.columns_sent,
                );
                self.columns_sent = true;
                table["rows"] = json!([{"cells": [], "object": metadata_only(object)}]);
                table
            }
        };
        write_event("BOOKMARK", document.to_string().as_bytes(), out);
    }
}

fn write_event(kind: &str, object: &[u8], out: &mut Piece) {
    let (before, after) = event_frame(kind);
    let out = out.text();
    out.reserve(before.len() + object.len() + after.len());
    for text in [&before, object, after] {
        out.extend_from_slice(text);
    }
}

/// What is sent at once: a text that others send too, as it is, or several behind each other.
#[derive(Default)]
struct Piece {
    alone: Bytes,
    text: Vec<u8>,
}

impl Piece {
    fn len(&self) -> usize {
        self.alone.len() + self.text.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn add(&mut self, line: &Bytes) {
        if self.is_empty() {
            self.alone = line.clone();
        } else {
            self.text().extend_from_slice(line);
        }
    }

    /// To be written on.
    fn text(&mut self) -> &mut Vec<u8> {
        let alone = std::mem::take(&mut self.alone);
        self.text.extend_from_slice(&alone);
        &mut self.text
    }

    fn into_bytes(self) -> Bytes {
        match self.text.is_empty() {
            true => self.alone,
            false => self.text.into(),
        }
    }
}

/// What a watch looks at.
pub(crate) struct Scope {
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
}

impl Scope {
    pub(crate) fn contains(&self, resource: &Resource, object: &Object) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|namespace| namespace == &*object.namespace)
            && self.selector.matches(object, &*resource.strategy)
    }
}

/// A watch that runs.
pub(crate) struct Watcher {
    pub(crate) store: Store,
    pub(crate) collection: String,
    pub(crate) scope: Scope,
    pub(crate) encoder: Encoder,
    /// Objects to tell of first, as if they had just been added.
    pub(crate) initial: VecDeque<Arc<Object>>,
    /// Whether a bookmark says that those are over.
    pub(crate) mark_initial_end: bool,
    /// Changes up to this version are told.
    pub(crate) position: u64,
    pub(crate) bookmarks: bool,
    pub(crate) deadline: Instant,
    pub(crate) changed: watch::Receiver<u64>,
    pub(crate) shutdown: watch::Receiver<bool>,
    /// Turns true when the kind is no longer served as it was.
    pub(crate) ended: Option<watch::Receiver<bool>>,
}

/// Why a watch ends before its time.
enum Over {
    /// The server stops.
    Server,
    /// The kind is not served any more as it was.
    Kind,
}

struct Running {
    watcher: Watcher,
    /// The next bookmark, if there are any, or the deadline. Set once for many changes: a timer is
    /// much dearer than looking at one.
    alarm: Pin<Box<Sleep>>,
    over: Pin<Box<dyn Future<Output = Over> + Send>>,
    ended: bool,
    /// Whether what was before the watch is told: from then on every change wakes it.
    looked: bool,
    /// The kind is not served any more as it was, and nothing after this version is told.
    last: Option<u64>,
}

impl Watcher {
    /// The events, a few at a time.
    pub(crate) fn stream(mut self) -> impl Stream<Item = Bytes> + Send {
        let (mut shutdown, ended) = (self.shutdown.clone(), self.ended.take());
        let over = async move {
            tokio::select! {
                // The sender going away is an end as well.
                _ = shutdown.wait_for(|down| *down) => Over::Server,
                () = is_true(ended) => Over::Kind,
            }
        };
        let running = Running {
            alarm: Box::pin(sleep_until(self.next_alarm())),
            over: Box::pin(over),
            watcher: self,
            ended: false,
            looked: false,
            last: None,
        };
        unfold(running, |mut running| async move {
            let bytes = running.next().await?;
            Some((bytes, running))
        })
    }
}

impl Running {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = Piece::default();
        self.initial(&mut out);
        loop {
            if !out.is_empty() {
                return Some(out.into_bytes());
            }
            match self.advance(&mut out) {
                Err(Forgotten(oldest)) => {
                    let error = ApiError::too_old(self.watcher.position, oldest);
                    write_event("ERROR", error.to_status().to_string().as_bytes(), &mut out);
                    self.ended = true;
                }
                Ok(true) if self.ended && out.is_empty() => return None,
                Ok(true) => {}
                // What came before the end was told.
                Ok(false) if self.last.is_some() => return None,
                Ok(false) => self.wait(&mut out).await?,
            }
        }
    }

    fn initial(&mut self, out: &mut Piece) {
        let watcher = &mut self.watcher;
        while out.len() < CHUNK
            && let Some(object) = watcher.initial.pop_front()
        {
            watcher.encoder.event("ADDED", &object, out);
        }
        if watcher.initial.is_empty() && watcher.mark_initial_end {
            watcher.mark_initial_end = false;
            watcher.encoder.bookmark(watcher.position, true, out);
        }
    }

    /// Tells of changes that happened; `false` when there are none.
    fn advance(&mut self, out: &mut Piece) -> Result<bool, Forgotten> {
        let watcher = &mut self.watcher;
        // Seen before reading, so that a change in between wakes us.
        let newest = *watcher.changed.borrow_and_update();
        if self.looked && self.last.is_none() && newest <= watcher.position {
            return Ok(false);
        }
        self.looked = true;
        let (events, version) =
            watcher
                .store
                .since(&watcher.collection, watcher.position, BATCH)?;
        if events.is_empty() {
            watcher.position = watcher.position.max(version);
            return Ok(false);
        }
        for event in events {
            if self.last.is_some_and(|last| event.version() > last) {
                self.ended = true;
                break;
            }
            watcher.position = event.version();
            watcher.tell(&event, out);
            if out.len() >= CHUNK {
                break;
            }
        }
        Ok(true)
    }

    /// Waits for a change; `None` when the watch is over.
    async fn wait(&mut self, out: &mut Piece) -> Option<()> {
        let watcher = &mut self.watcher;
        tokio::select! {
            changed = watcher.changed.changed() => changed.ok()?,
            () = self.alarm.as_mut() => {
                self.ended = watcher.deadline <= Instant::now();
                if !watcher.bookmarks {
                    return None;
                }
                self.alarm.as_mut().reset(watcher.next_alarm());
                watcher.encoder.bookmark(watcher.position, false, out);
            }
            over = self.over.as_mut() => match over {
                Over::Server => return None,
                Over::Kind => self.last = Some(watcher.store.version()),
            },
        }
        Some(())
    }
}

/// Waits for the flag, for ever if there is none.
async fn is_true(flag: Option<watch::Receiver<bool>>) {
    match flag {
        // The sender going away is an end as well.
        Some(mut flag) => drop(flag.wait_for(|flag| *flag).await),
        None => std::future::pending().await,
    }
}

impl Watcher {
    fn next_alarm(&self) -> Instant {
        if !self.bookmarks {
            return self.deadline;
        }
        self.deadline.min(Instant::now() + BOOKMARK_INTERVAL)
    }

    fn tell(&mut self, event: &Event, out: &mut Piece) {
        let resource = self.encoder.resource.clone();
        let inside =
            |object: &Arc<Object>| self.scope.contains(&resource, &object.seen_as(&resource));
        let before = event.previous.as_ref().is_some_and(&inside);
        let after = match event.change {
            Change::Added | Change::Modified => inside(&event.object),
            Change::Deleted => false,
        };
        match (before, after) {
            (false, true) => self.encoder.event("ADDED", &event.object, out),
            (true, true) => self.encoder.event("MODIFIED", &event.object, out),
            (false, false) => {}
            (true, false) if event.change == Change::Deleted => {
                self.encoder.event("DELETED", &event.object, out);
            }
            // It is still there, but no longer selected: what was selected goes.
            (true, false) => {
                let Some(previous) = &event.previous else {
                    return;
                };
                let mut value = previous.seen_as(&resource).value();
                value["metadata"]["resourceVersion"] = event.version().to_string().into();
                self.encoder.shaped("DELETED", value, out);
            }
        }
    }
}
