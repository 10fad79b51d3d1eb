//! Events go after an hour: nobody else removes them.

use std::time::Duration;

use tracing::warn;
use weft_kube::Client;
use weft_kube::k8s_openapi::api::core::v1::Event;
use weft_kube::kube::api::{DeleteParams, ListParams};
use weft_kube::kube::{Api, ResourceExt};

use super::world::{api, key_of};
use super::{During, Error};

/// How long an event stays after it last happened (kube-apiserver's `--event-ttl`).
const LIFE: Duration = Duration::from_secs(3600);
/// How often it is looked for those that have outlived it.
const EVERY: Duration = Duration::from_secs(600);
/// Events listed at a time.
const PAGE: u32 = 500;

/// Removes what has expired, from time to time. Does not return.
pub(super) async fn keep(client: Client) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = sweep(&client).await {
            warn!(%error, "old events stay for now");
        }
    }
}

async fn sweep(client: &Client) -> Result<(), Error> {
    let all: Api<Event> = Api::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let events = all
            .list(&page)
            .await
            .during(|| "listing events".to_owned())?;
        let now = jiff::Timestamp::now();
        for event in events.items.iter().filter(|event| is_old(event, now)) {
            let key = key_of(event);
            api::<Event>(client, &key)
                .delete(&key.name, &DeleteParams::default())
                .await
                .settled(404, || format!("deleting Event {key}"))?;
        }
        page.continue_token = events.metadata.continue_.filter(|token| !token.is_empty());
        if page.continue_token.is_none() {
            return Ok(());
        }
    }
}

fn is_old(event: &Event, now: jiff::Timestamp) -> bool {
    let series = event.series.as_ref();
    let happened = [
        series.and_then(|series| series.last_observed_time.as_ref().map(|time| time.0)),
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.creation_timestamp().map(|time| time.0),
    ];
    let last = happened.into_iter().flatten().max();
    last.is_some_and(|last| {
        Duration::try_from(now.duration_since(last)).is_ok_and(|age| age > LIFE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_again_lately_stays() {
        let event = |last: Option<&str>| -> Event {
            serde_json::from_value(serde_json::json!({
                "metadata": {"creationTimestamp": "2024-01-01T00:00:00Z"},
                "involvedObject": {},
                "lastTimestamp": last,
            }))
            .unwrap()
        };
        let now = "2024-01-01T01:30:00Z".parse().unwrap();
        assert!(is_old(&event(None), now));
        assert!(!is_old(&event(Some("2024-01-01T01:00:00Z")), now));
        // A clock that was set back makes nothing old.
        assert!(!is_old(&event(Some("2024-01-02T00:00:00Z")), now));
    }
}
