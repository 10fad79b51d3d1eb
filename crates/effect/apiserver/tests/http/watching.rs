//! Watches, from their first events to a history that is forgotten.

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{TestServer, WIDGETS, widget};

#[tokio::test]
async fn watches_tell_what_happens() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client
        .post(WIDGETS, widget("old", json!({"color": "red"})))
        .await;
    let version = client.get(WIDGETS).await.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();

    let mut from_version = server
        .client()
        .await
        .watch(&format!("{WIDGETS}?watch=1&resourceVersion={version}"), &[])
        .await;
    let mut from_zero = server
        .client()
        .await
        .watch(&format!("{WIDGETS}?watch=1&resourceVersion=0"), &[])
        .await;
    let red = format!("{WIDGETS}?watch=1&resourceVersion={version}&fieldSelector=spec.color%3Dred");
    let mut red = server.client().await.watch(&red, &[]).await;
    let one = format!(
        "/apis/example.com/v1/widgets?watch=true&resourceVersion={version}&fieldSelector=metadata.name%3Dnew"
    );
    let mut one = server.client().await.watch(&one, &[]).await;

    client
        .post(WIDGETS, widget("new", json!({"color": "blue"})))
        .await;
    let new = format!("{WIDGETS}/new");
    client
        .patch(&new, "merge-patch+json", json!({"spec": {"color": "red"}}))
        .await;
    client
        .patch(&new, "merge-patch+json", json!({"spec": {"color": "blue"}}))
        .await;
    client.delete(&new).await;

    let expect = |events: &[(&str, &str)]| -> Vec<(String, String)> {
        events
            .iter()
            .map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned()))
            .collect()
    };
    let story = [
        ("ADDED", "new"),
        ("MODIFIED", "new"),
        ("MODIFIED", "new"),
        ("DELETED", "new"),
    ];
    for watch in [&mut from_version, &mut one] {
        for wanted in expect(&story) {
            assert_eq!(watch.brief().await, wanted);
        }
    }
    assert_eq!(from_zero.brief().await, ("ADDED".into(), "old".into()));
    for wanted in expect(&story) {
        assert_eq!(from_zero.brief().await, wanted);
    }
    for wanted in expect(&[("ADDED", "new"), ("DELETED", "new")]) {
        assert_eq!(red.brief().await, wanted, "a selector's transitions");
    }
    server.stop().await;
    assert_eq!(
        from_version.next().await,
        None,
        "a stopping server ends its watches"
    );
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for name in ["a", "b"] {
        client.post(WIDGETS, widget(name, json!({}))).await;
    }
    let base = format!("{WIDGETS}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true");
    let refused = client.get(&base).await;
    assert_eq!(
        refused.status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "without resourceVersionMatch"
    );
    let mut watch = server
        .client()
        .await
        .watch(&format!("{base}&resourceVersionMatch=NotOlderThan"), &[])
        .await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "a".into()));
    assert_eq!(watch.brief().await, ("ADDED".into(), "b".into()));
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(
        mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!(mark["object"]["kind"], "Widget");
    client.delete(&format!("{WIDGETS}/a")).await;
    assert_eq!(watch.brief().await, ("DELETED".into(), "a".into()));

    let mut short = server
        .client()
        .await
        .watch(
            &format!("{WIDGETS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=1"),
            &[],
        )
        .await;
    assert_eq!(short.brief().await.0, "ADDED");
    let mark = short.next().await.unwrap();
    assert_eq!(
        mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true",
        "a watch from any version is told where the objects end"
    );
    assert_eq!(
        short.brief().await.0,
        "BOOKMARK",
        "the last word of a watch that times out"
    );
    assert_eq!(short.next().await, None);
    server.stop().await;
}

#[tokio::test]
async fn forgotten_history_is_gone() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.post(WIDGETS, widget("a", json!({}))).await;
    let version = client.get(WIDGETS).await.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    // A watcher that does not read falls behind what is kept.
    let mut slow = server
        .client()
        .await
        .watch(&format!("{WIDGETS}?watch=1&resourceVersion={version}"), &[])
        .await;
    let filler = "x".repeat(100_000);
    for at in 0..250 {
        let patch = json!({"metadata": {"annotations": {"at": at.to_string(), "filler": filler}}});
        let patched = client
            .patch(&format!("{WIDGETS}/a"), "merge-patch+json", patch)
            .await;
        assert_eq!(patched.status, StatusCode::OK);
    }
    // One that comes late is told in the stream, too: clients do not list again after a refusal.
    let mut late = server
        .client()
        .await
        .watch(&format!("{WIDGETS}?watch=1&resourceVersion={version}"), &[])
        .await;
    let told = late.next().await.unwrap();
    assert_eq!(told["type"], "ERROR");
    assert_eq!(
        (&told["object"]["code"], &told["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert_eq!(late.next().await, None);
    let mut last = Value::Null;
    while let Some(event) = slow.next().await {
        last = event;
    }
    assert_eq!(last["type"], "ERROR");
    assert_eq!(last["object"]["code"], 410);
    server.stop().await;
}
