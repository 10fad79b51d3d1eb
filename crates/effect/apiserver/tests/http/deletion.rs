//! Deletions that take time.

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::reading::names;
use crate::support::{TestServer, WIDGETS, widget};

#[tokio::test]
async fn a_second_deletion_can_only_hurry() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let mut slow = widget("slow", json!({}));
    slow["metadata"]["labels"] = json!({"slow": "yes"});
    slow["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let made = client.post(WIDGETS, slow).await.json();
    let path = format!("{WIDGETS}/slow");
    let time = |object: &Value| -> Timestamp {
        let time = &object["metadata"]["deletionTimestamp"];
        time.as_str().unwrap().parse().unwrap()
    };
    let marked = client
        .delete(&format!("{path}?gracePeriodSeconds=50"))
        .await;
    let marked = marked.json();
    assert_eq!(marked["metadata"]["generation"], 2);
    // While its time runs, how long it is and what becomes of dependents stands.
    for later in [
        "",
        "?gracePeriodSeconds=50",
        "?propagationPolicy=Foreground",
    ] {
        let again = client.delete(&format!("{path}{later}")).await.json();
        assert_eq!(again, marked, "{later}");
    }
    let soon = client
        .delete(&format!("{path}?gracePeriodSeconds=20"))
        .await;
    let soon = soon.json();
    assert_eq!(soon["metadata"]["deletionGracePeriodSeconds"], 20);
    // Counted from when it began.
    assert_eq!(time(&marked).as_second() - time(&soon).as_second(), 30);
    assert_eq!(soon["metadata"]["generation"], 2);
    let over = client.delete(&format!("{path}?gracePeriodSeconds=0")).await;
    let over = over.json();
    assert_eq!(over["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(over["metadata"]["finalizers"], json!(["example.com/hold"]));
    // Now only finalizers hold it, and the policy is another's to choose.
    let path_orphan = format!("{path}?propagationPolicy=Orphan");
    let policy = client.delete(&path_orphan).await.json();
    assert_eq!(
        policy["metadata"]["finalizers"],
        json!(["example.com/hold", "orphan"])
    );
    let kept = client.delete(&path).await.json();
    assert_eq!(
        kept["metadata"], policy["metadata"],
        "no policy is the same policy"
    );
    let path_background = format!("{path}?propagationPolicy=Background");
    let none = client.delete(&path_background).await.json();
    assert_eq!(none["metadata"]["finalizers"], json!(["example.com/hold"]));
    assert_eq!(none["metadata"]["uid"], made["metadata"]["uid"]);
    server.stop().await;
}

#[tokio::test]
async fn the_end_of_an_object_that_was_given_time_is_told_in_two_steps() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for (name, slow) in [("slow", "yes"), ("plain", "no")] {
        let mut object = widget(name, json!({}));
        object["metadata"]["labels"] = json!({"slow": slow});
        client.post(WIDGETS, object).await;
    }
    let since = client.get(WIDGETS).await.json()["metadata"]["resourceVersion"].clone();
    let since = since.as_str().unwrap().to_owned();
    for name in ["slow", "plain"] {
        client
            .delete(&format!("{WIDGETS}/{name}?gracePeriodSeconds=0"))
            .await;
    }
    let watch = format!("{WIDGETS}?watch=true&resourceVersion={since}");
    let mut watch = server.client().await.watch(&watch, &[]).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        let event = watch.next().await.unwrap();
        told.push((
            event["type"].clone(),
            event["object"]["metadata"]["name"].clone(),
            event["object"]["metadata"]["deletionGracePeriodSeconds"].clone(),
        ));
    }
    assert_eq!(
        told,
        [
            (json!("MODIFIED"), json!("slow"), json!(0)),
            (json!("DELETED"), json!("slow"), json!(0)),
            (json!("DELETED"), json!("plain"), Value::Null),
        ]
    );
    server.stop().await;
}

#[tokio::test]
async fn deletion_waits_for_what_holds_it() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let path = format!("{WIDGETS}/held");
    let mut held = widget("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.post(WIDGETS, held).await;
    let marked = client.delete(&path).await.json();
    assert!(
        marked["metadata"]["deletionTimestamp"].is_string(),
        "{marked}"
    );
    let more = client
        .patch(
            &path,
            "merge-patch+json",
            json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}),
        )
        .await;
    assert_eq!(more.status, StatusCode::UNPROCESSABLE_ENTITY);
    let since = &marked["metadata"]["resourceVersion"];
    let watch = format!(
        "{WIDGETS}?watch=1&resourceVersion={}",
        since.as_str().unwrap()
    );
    let mut watch = server.client().await.watch(&watch, &[]).await;
    let released = client
        .patch(
            &path,
            "merge-patch+json",
            json!({"metadata": {"finalizers": null}}),
        )
        .await;
    assert!(released.json()["metadata"]["finalizers"].is_null());
    assert_eq!(client.get(&path).await.status, StatusCode::NOT_FOUND);
    // Its end, and no state that it never had.
    let end = watch.next().await.unwrap();
    assert_eq!(end["type"], "DELETED");
    assert_eq!(
        end["object"]["metadata"]["finalizers"],
        json!(["example.com/hold"])
    );

    let mut slow = widget("slow", json!({}));
    slow["metadata"]["labels"] = json!({"slow": "yes"});
    client.post(WIDGETS, slow).await;
    let path = format!("{WIDGETS}/slow");
    let marked = client.delete(&path).await.json();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(client.get(&path).await.status, StatusCode::OK);
    let longer = client
        .delete(&format!("{path}?gracePeriodSeconds=60"))
        .await
        .json();
    assert_eq!(
        longer["metadata"]["deletionGracePeriodSeconds"], 30,
        "grace only gets shorter"
    );
    client.delete(&format!("{path}?gracePeriodSeconds=0")).await;
    assert_eq!(client.get(&path).await.status, StatusCode::NOT_FOUND);

    client.post(WIDGETS, widget("parent", json!({}))).await;
    let path = format!("{WIDGETS}/parent");
    // kubectl says it in the body.
    let body = json!({"kind": "DeleteOptions", "dryRun": ["All"]}).to_string();
    let tried = client.call(Method::DELETE, &path, &[], body).await;
    assert_eq!(tried.status, StatusCode::OK);
    assert_eq!(client.get(&path).await.status, StatusCode::OK);
    let body = json!({"kind": "DeleteOptions", "preconditions": {"uid": "other"}}).to_string();
    let refused = client.call(Method::DELETE, &path, &[], body).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    let marked = client
        .delete(&format!("{path}?propagationPolicy=Foreground"))
        .await
        .json();
    assert_eq!(
        marked["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );

    for name in ["x", "y"] {
        client
            .post(WIDGETS, widget(name, json!({"color": "red"})))
            .await;
    }
    client
        .delete(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred"))
        .await;
    assert_eq!(names(&client.get(WIDGETS).await.json()), ["parent"]);
    server.stop().await;
}
