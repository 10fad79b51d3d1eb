//! Patches of each type, and who owns what.

use http::StatusCode;
use serde_json::json;

use crate::support::{TestServer, WIDGETS, widget};

#[tokio::test]
async fn patches_of_each_type() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client
        .post(
            WIDGETS,
            widget(
                "a",
                json!({"parts": [{"name": "x", "n": 1}, {"name": "y", "n": 2}]}),
            ),
        )
        .await;
    let path = format!("{WIDGETS}/a");
    let strategic =
        json!({"spec": {"parts": [{"name": "y", "n": 3}, {"name": "x", "$patch": "delete"}]}});
    let reply = client
        .patch(&path, "strategic-merge-patch+json", strategic)
        .await
        .json();
    assert_eq!(reply["spec"]["parts"], json!([{"name": "y", "n": 3}]));
    let reply = client
        .patch(
            &path,
            "json-patch+json",
            json!([{"op": "replace", "path": "/spec/size", "value": 4}]),
        )
        .await
        .json();
    assert_eq!(reply["spec"]["size"], 4);
    let reply = client
        .patch(&path, "merge-patch+json", json!({"spec": {"parts": null}}))
        .await
        .json();
    assert_eq!(reply["spec"], json!({"size": 4}));
    let reply = client
        .patch(&path, "merge-patch+json", json!({"spec": {"size": 99}}))
        .await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    let reply = client
        .patch(
            &path,
            "merge-patch+json",
            json!({"metadata": {"resourceVersion": "1"}, "spec": {"size": 5}}),
        )
        .await;
    assert_eq!(reply.status, StatusCode::CONFLICT);
    let reply = client
        .patch(
            &path,
            "json-patch+json",
            json!([{"op": "remove", "path": "/nothing"}]),
        )
        .await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    let reply = client
        .patch(
            &format!("{path}?dryRun=All"),
            "merge-patch+json",
            json!({"spec": {"size": 5}}),
        )
        .await;
    assert_eq!(
        (reply.status, &reply.json()["spec"]["size"]),
        (StatusCode::OK, &json!(5))
    );
    assert_eq!(client.get(&path).await.json()["spec"]["size"], 4);
    let scale = client
        .patch(
            &format!("{path}/scale"),
            "merge-patch+json",
            json!({"spec": {"replicas": 3}}),
        )
        .await
        .json();
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"]),
        (&json!("Scale"), &json!(3))
    );
    assert_eq!(client.get(&path).await.json()["spec"]["replicas"], 3);
    server.stop().await;
}

fn applied(manager: &str, force: bool) -> String {
    format!("{WIDGETS}/a?fieldManager={manager}&force={force}")
}

const APPLY: &str = "apply-patch+yaml";

#[tokio::test]
async fn managers_own_what_they_apply() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let one = applied("one", false);
    let wanted = widget(
        "a",
        json!({"color": "red", "size": 2, "parts": [{"name": "x", "n": 1}]}),
    );
    let made = client.patch(&one, APPLY, wanted.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{:?}", made.body);
    let made = made.json();
    assert_eq!(
        made["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {"f:color": {}, "f:size": {}, "f:parts": {
            "k:{\"name\":\"x\"}": {".": {}, "f:n": {}, "f:name": {}}}}})
    );
    let again = client.patch(&one, APPLY, wanted).await;
    assert_eq!(
        (again.status, again.json()),
        (StatusCode::OK, made),
        "applying again changes nothing"
    );

    // Another manager adds a part, and wants another size.
    let theirs = widget("a", json!({"size": 3, "parts": [{"name": "y", "n": 2}]}));
    let refused = client
        .patch(&applied("two", false), APPLY, theirs.clone())
        .await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    let refused = refused.json();
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .spec.size"
    );
    assert_eq!(refused["details"]["causes"][0]["field"], ".spec.size");
    let forced = client
        .patch(&applied("two", true), APPLY, theirs)
        .await
        .json();
    assert_eq!(forced["spec"]["size"], 3);
    assert_eq!(
        forced["spec"]["parts"],
        json!([{"name": "x", "n": 1}, {"name": "y", "n": 2}])
    );

    // What a manager no longer names goes, unless another one has it.
    let less = client
        .patch(&one, APPLY, widget("a", json!({"parts": []})))
        .await
        .json();
    assert_eq!(
        less["spec"],
        json!({"size": 3, "parts": [{"name": "y", "n": 2}]})
    );

    // A change by other means takes the field.
    client
        .patch(
            &format!("{WIDGETS}/a?fieldManager=hand"),
            "merge-patch+json",
            json!({"spec": {"size": 4}}),
        )
        .await;
    let refused = client
        .patch(
            &applied("two", false),
            APPLY,
            widget("a", json!({"size": 3})),
        )
        .await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(
        refused.json()["message"]
            .as_str()
            .unwrap()
            .contains("\"hand\"")
    );

    let nobody = client
        .patch(&format!("{WIDGETS}/a"), APPLY, widget("a", json!({})))
        .await;
    assert_eq!(nobody.status, StatusCode::UNPROCESSABLE_ENTITY);
    server.stop().await;
}

#[tokio::test]
async fn what_was_there_before_the_first_apply_is_owned() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client
        .post(WIDGETS, widget("a", json!({"color": "red", "size": 2})))
        .await;
    let same = client
        .patch(
            &applied("one", false),
            APPLY,
            widget("a", json!({"size": 2})),
        )
        .await;
    assert_eq!(same.status, StatusCode::OK, "the same value is shared");
    let other = client
        .patch(
            &applied("one", false),
            APPLY,
            widget("a", json!({"color": "blue"})),
        )
        .await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    let kept = client
        .patch(&applied("one", false), APPLY, widget("a", json!({})))
        .await
        .json();
    assert_eq!(kept["spec"], json!({"color": "red", "size": 2}));
    server.stop().await;
}
