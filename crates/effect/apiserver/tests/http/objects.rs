//! Objects from their creation to the writers that compete for them.

use http::StatusCode;
use serde_json::{Value, json};

use crate::reading::names;
use crate::support::{TestServer, WIDGETS, widget};

#[tokio::test]
async fn an_object_lives_and_dies() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let made = client
        .post(WIDGETS, widget("a", json!({"color": "red"})))
        .await;
    assert_eq!(made.status, StatusCode::CREATED);
    let made = made.json();
    assert_eq!(
        made["spec"],
        json!({"color": "red", "size": 1}),
        "defaults are filled in"
    );
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["metadata"]["generation"], 1);
    assert!(
        made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string()
    );
    let path = format!("{WIDGETS}/a");
    assert_eq!(client.get(&path).await.json(), made);

    let mut next = made.clone();
    next["spec"]["size"] = 2.into();
    next["status"] = json!({"ready": true});
    next["metadata"]["uid"] = Value::Null;
    let changed = client.put(&path, next.clone()).await.json();
    assert_eq!(changed["metadata"]["generation"], 2);
    assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(changed.get("status"), None, "status has its own endpoint");

    let stale = client.put(&path, next).await;
    assert_eq!(stale.status, StatusCode::CONFLICT);
    assert_eq!(stale.json()["reason"], "Conflict");

    let same = client.put(&path, changed.clone()).await.json();
    assert_eq!(
        same, changed,
        "an update that changes nothing writes nothing"
    );

    let mut status = changed.clone();
    status["status"] = json!({"ready": true});
    status["spec"]["size"] = 9.into();
    let status = client.put(&format!("{path}/status"), status).await.json();
    assert_eq!(status["spec"]["size"], 2);
    assert_eq!(status["status"]["ready"], true);
    assert_eq!(status["metadata"]["generation"], 2);

    let gone = client.delete(&path).await;
    assert_eq!(
        (gone.status, &gone.json()["status"]),
        (StatusCode::OK, &json!("Success"))
    );
    assert_eq!(client.get(&path).await.status, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn lenient_clients_are_warned() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let made = client.post(WIDGETS, widget("a", json!({"siz": 3}))).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(
        made.headers["warning"],
        "299 - \"unknown field \\\"spec.siz\\\"\""
    );
    assert_eq!(made.json()["spec"], json!({"size": 1}));
    server.stop().await;
}

#[tokio::test]
async fn names_are_generated_and_numbers_allocated() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let made = client
            .post(WIDGETS, json!({"metadata": {"generateName": "w-"}}))
            .await
            .json();
        let name = made["metadata"]["name"].as_str().unwrap();
        assert!(name.starts_with("w-") && name.len() == 7, "{name}");
        seen.push(
            made["metadata"]["annotations"]["number"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert_eq!(seen, ["0", "1", "2"]);
    // What is refused, or only tried, holds no number.
    client
        .post(WIDGETS, widget("bad", json!({"size": 11})))
        .await;
    client
        .post(&format!("{WIDGETS}?dryRun=All"), widget("dry", json!({})))
        .await;
    client.post(WIDGETS, widget("good", json!({}))).await;
    let number = |object: Value| {
        object["metadata"]["annotations"]["number"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        number(client.get(&format!("{WIDGETS}/good")).await.json()),
        "3"
    );
    let directory = server.stop().await;
    let server = TestServer::start_in(directory).await;
    let mut client = server.client().await;
    assert_eq!(
        names(&client.get(WIDGETS).await.json()).len(),
        4,
        "everything is there after a restart"
    );
    client.post(WIDGETS, widget("next", json!({}))).await;
    assert_eq!(
        number(client.get(&format!("{WIDGETS}/next")).await.json()),
        "4"
    );
    server.stop().await;
}

#[tokio::test]
async fn of_many_writers_with_one_version_one_wins() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let made = client.post(WIDGETS, widget("a", json!({}))).await.json();
    let mut writers = tokio::task::JoinSet::new();
    for at in 0..8 {
        let mut client = server.client().await;
        let mut object = made.clone();
        object["spec"]["color"] = at.to_string().into();
        writers.spawn(async move { client.put(&format!("{WIDGETS}/a"), object).await.status });
    }
    let statuses = writers.join_all().await;
    let won = statuses
        .iter()
        .filter(|status| **status == StatusCode::OK)
        .count();
    let lost = statuses
        .iter()
        .filter(|status| **status == StatusCode::CONFLICT)
        .count();
    assert_eq!((won, lost), (1, 7));
    server.stop().await;
}
