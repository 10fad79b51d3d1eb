//! The server over real TLS sockets.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use support::{TestServer, WIDGETS, widget};

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|one| one["metadata"]["name"].as_str().unwrap())
        .collect()
}

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

/// Method, path, headers and body; code, reason and a part of the message.
type Case<'a> = (
    Method,
    String,
    Vec<(&'a str, &'a str)>,
    String,
    u16,
    &'a str,
    &'a str,
);

#[tokio::test]
async fn errors_are_statuses() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.post(WIDGETS, widget("a", json!({}))).await;
    let json_type = [("content-type", "application/json")];
    let big = format!("{{\"x\":\"{}\"}}", "y".repeat(4 << 20));
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let cases: Vec<Case<'_>> = vec![
        (
            Method::POST,
            WIDGETS.into(),
            json_type.to_vec(),
            widget("a", json!({})).to_string(),
            409,
            "AlreadyExists",
            "widgets.example.com \"a\" already exists",
        ),
        (
            Method::POST,
            WIDGETS.into(),
            json_type.to_vec(),
            widget("b", json!({"size": 11})).to_string(),
            422,
            "Invalid",
            "Widget.example.com \"b\" is invalid: spec.size: Invalid value: 11: must be between 1 and 10, inclusive",
        ),
        (
            Method::POST,
            WIDGETS.into(),
            json_type.to_vec(),
            widget("b", json!({"size": "x"})).to_string(),
            400,
            "BadRequest",
            "Widget in version \"v1\" cannot be handled as a Widget: json: cannot unmarshal \"x\" into field spec.size of type int32",
        ),
        (
            Method::POST,
            strict,
            json_type.to_vec(),
            widget("b", json!({"siz": 1})).to_string(),
            400,
            "BadRequest",
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.siz\"",
        ),
        (
            Method::POST,
            WIDGETS.into(),
            json_type.to_vec(),
            "{".into(),
            400,
            "BadRequest",
            "the body is not valid JSON",
        ),
        (
            Method::POST,
            WIDGETS.into(),
            vec![("content-type", "application/yaml")],
            "a: [".into(),
            400,
            "BadRequest",
            "the body is not valid YAML",
        ),
        (
            Method::POST,
            WIDGETS.into(),
            vec![("content-type", "text/plain")],
            "x".into(),
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml",
        ),
        (
            Method::POST,
            WIDGETS.into(),
            json_type.to_vec(),
            big,
            413,
            "RequestEntityTooLarge",
            "Request entity too large",
        ),
        (
            Method::POST,
            WIDGETS.into(),
            json_type.to_vec(),
            json!({"kind": "Gadget"}).to_string(),
            400,
            "BadRequest",
            "the kind in the data (Gadget) does not match the expected kind (Widget)",
        ),
        (
            Method::POST,
            WIDGETS.into(),
            json_type.to_vec(),
            json!({"spec": {}}).to_string(),
            422,
            "Invalid",
            "metadata.name: Required value: name or generateName is required",
        ),
        (
            Method::POST,
            WIDGETS.into(),
            json_type.to_vec(),
            widget("a/b", json!({})).to_string(),
            422,
            "Invalid",
            "may not contain '/'",
        ),
        (
            Method::POST,
            WIDGETS.replace("default", "other"),
            json_type.to_vec(),
            widget("b", json!({})).to_string(),
            404,
            "NotFound",
            "namespaces \"other\" not found",
        ),
        (
            Method::GET,
            format!("{WIDGETS}/b"),
            vec![],
            String::new(),
            404,
            "NotFound",
            "widgets.example.com \"b\" not found",
        ),
        (
            Method::GET,
            "/apis/example.com/v1/gadgets".into(),
            vec![],
            String::new(),
            404,
            "NotFound",
            "could not find the requested resource",
        ),
        (
            Method::PUT,
            WIDGETS.into(),
            json_type.to_vec(),
            "{}".into(),
            405,
            "MethodNotAllowed",
            "does not allow this method",
        ),
        (
            Method::GET,
            WIDGETS.into(),
            vec![("accept", "application/cbor")],
            String::new(),
            406,
            "NotAcceptable",
            "application/json",
        ),
        (
            Method::GET,
            format!("{WIDGETS}?labelSelector=a%20b"),
            vec![],
            String::new(),
            400,
            "BadRequest",
            "unable to parse requirement",
        ),
        (
            Method::GET,
            format!("{WIDGETS}?fieldSelector=spec.x%3D1"),
            vec![],
            String::new(),
            400,
            "BadRequest",
            "field label not supported: spec.x",
        ),
        (
            Method::GET,
            format!("{WIDGETS}?resourceVersion=999999"),
            vec![],
            String::new(),
            504,
            "Timeout",
            "Too large resource version",
        ),
        (
            Method::GET,
            format!("{WIDGETS}?watch=1&resourceVersion=0x"),
            vec![],
            String::new(),
            400,
            "BadRequest",
            "must be a decimal number",
        ),
        (
            Method::GET,
            format!("{WIDGETS}/a/log"),
            vec![],
            String::new(),
            501,
            "NotImplemented",
            "widgets/log is not served",
        ),
        (
            Method::PATCH,
            format!("{WIDGETS}/a"),
            json_type.to_vec(),
            "{}".into(),
            415,
            "UnsupportedMediaType",
            "application/merge-patch+json",
        ),
        (
            Method::DELETE,
            format!("{WIDGETS}/a?propagationPolicy=Sideways"),
            vec![],
            String::new(),
            422,
            "Invalid",
            "propagationPolicy",
        ),
    ];
    for (method, path, headers, body, code, reason, message) in cases {
        let reply = client.call(method.clone(), &path, &headers, body).await;
        let status = reply.json();
        let shown = format!("{method} {path}: {status}");
        assert_eq!(reply.status.as_u16(), code, "{shown}");
        assert_eq!(status["kind"], "Status", "{shown}");
        assert_eq!(status["code"], code, "{shown}");
        assert_eq!(status["reason"], reason, "{shown}");
        assert!(
            status["message"].as_str().unwrap().contains(message),
            "{shown}"
        );
        if reply.status.as_u16() == 413 {
            // What was not read of the body closes the connection.
            client = server.client().await;
        }
    }
    let invalid = client
        .post(WIDGETS, widget("b", json!({"size": 0})))
        .await
        .json();
    assert_eq!(
        invalid["details"],
        json!({"name": "b", "group": "example.com", "kind": "Widget", "causes": [{
            "reason": "FieldValueInvalid", "field": "spec.size",
            "message": "Invalid value: 0: must be between 1 and 10, inclusive"}]})
    );
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
async fn lists_are_selected_and_paged() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for (at, name) in ["e", "b", "d", "a", "c"].into_iter().enumerate() {
        let color = if at % 2 == 0 { "red" } else { "blue" };
        let mut object = widget(name, json!({"color": color}));
        object["metadata"]["labels"] = json!({"at": at.to_string()});
        client.post(WIDGETS, object).await;
    }
    let all = client.get(WIDGETS).await.json();
    assert_eq!(names(&all), ["a", "b", "c", "d", "e"]);
    assert_eq!(all["kind"], "WidgetList");
    let get = |query: &str| format!("{WIDGETS}?{query}");
    assert_eq!(
        names(
            &client
                .get(&get("labelSelector=at%20in%20(1,2)"))
                .await
                .json()
        ),
        ["b", "d"]
    );
    assert_eq!(
        names(
            &client
                .get(&get("fieldSelector=spec.color%3Dblue"))
                .await
                .json()
        ),
        ["a", "b"]
    );
    assert_eq!(
        names(
            &client
                .get(&get("fieldSelector=metadata.name!%3Da"))
                .await
                .json()
        ),
        ["b", "c", "d", "e"]
    );
    assert_eq!(
        names(&client.get("/apis/example.com/v1/widgets").await.json()).len(),
        5
    );

    let first = client.get(&get("limit=2")).await.json();
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["a", "b"], &json!(3))
    );
    // What happens between two pages is not seen in the second.
    client.delete(&format!("{WIDGETS}/c")).await;
    client.post(WIDGETS, widget("bb", json!({}))).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = client
        .get(&get(&format!("limit=9&continue={token}")))
        .await
        .json();
    assert_eq!(names(&second), ["c", "d", "e"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert_eq!(second["metadata"].get("continue"), None);
    // Once history is gone, the rest can only be had inconsistently.
    for at in 0..250 {
        client
            .patch(
                &format!("{WIDGETS}/a"),
                "merge-patch+json",
                json!({"spec": {"size": at % 2 + 1}}),
            )
            .await;
    }
    let expired = client.get(&get(&format!("continue={token}"))).await;
    assert_eq!(
        (expired.status, &expired.json()["reason"]),
        (StatusCode::GONE, &json!("Expired"))
    );
    let onward = expired.json()["metadata"]["continue"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        names(&client.get(&get(&format!("continue={onward}"))).await.json()),
        ["bb", "d", "e"]
    );
    server.stop().await;
}

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

#[tokio::test]
async fn tables_and_metadata() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.post(WIDGETS, widget("a", json!({"size": 7}))).await;
    let table = [(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    )];
    let list = client.call(Method::GET, WIDGETS, &table, "").await.json();
    assert_eq!(list["kind"], "Table");
    assert_eq!(list["columnDefinitions"][1]["name"], "Size");
    assert_eq!(list["rows"][0]["cells"], json!(["a", 7]));
    assert_eq!(list["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let full = client
        .call(
            Method::GET,
            &format!("{WIDGETS}/a?includeObject=Object"),
            &table,
            "",
        )
        .await
        .json();
    assert_eq!(full["rows"][0]["object"]["spec"]["size"], 7);
    let mut watch = server
        .client()
        .await
        .watch(&format!("{WIDGETS}?watch=1"), &table)
        .await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["rows"][0]["cells"], json!(["a", 7]));
    let partial = [(
        "accept",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    )];
    let list = client.call(Method::GET, WIDGETS, &partial, "").await.json();
    assert_eq!(
        (&list["kind"], &list["items"][0]["kind"]),
        (
            &json!("PartialObjectMetadataList"),
            &json!("PartialObjectMetadata")
        )
    );
    assert_eq!(list["items"][0].get("spec"), None);
    let yaml = client
        .call(
            Method::GET,
            &format!("{WIDGETS}/a"),
            &[("accept", "application/yaml")],
            "",
        )
        .await;
    assert!(String::from_utf8_lossy(&yaml.body).contains("size: 7"));
    server.stop().await;
}

#[tokio::test]
async fn clients_are_known_by_certificate_or_token() {
    let server = TestServer::start().await;
    let mut nobody = server.connect(None).await;
    assert_eq!(nobody.get("/version").await.status, StatusCode::OK);
    assert_eq!(nobody.get("/readyz").await.body, "ok");
    assert_eq!(nobody.get("/api").await.status, StatusCode::UNAUTHORIZED);
    nobody.token = "a.b.c".into();
    let refused = nobody.get(WIDGETS).await;
    assert_eq!(
        (refused.status, &refused.json()["reason"]),
        (StatusCode::UNAUTHORIZED, &json!("Unauthorized"))
    );
    let stranger = weft_apiserver::Pki::generate("other")
        .unwrap()
        .client("admin", "")
        .unwrap();
    let mut stranger = server.connect(Some(&stranger)).await;
    assert_eq!(stranger.get(WIDGETS).await.status, StatusCode::UNAUTHORIZED);

    let mut admin = server.client().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin
        .post(accounts, json!({"metadata": {"name": "web"}}))
        .await;
    let token = admin
        .post(
            &format!("{accounts}/web/token"),
            json!({"spec": {"expirationSeconds": 600}}),
        )
        .await;
    assert_eq!(token.status, StatusCode::CREATED);
    let token = token.json()["status"]["token"].as_str().unwrap().to_owned();
    nobody.token = token.clone();
    let me = nobody
        .post(
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            json!({}),
        )
        .await
        .json();
    assert_eq!(
        me["status"]["userInfo"]["username"],
        "system:serviceaccount:default:web"
    );
    let may = nobody
        .post(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}),
        )
        .await
        .json();
    assert_eq!(may["status"]["allowed"], true);
    let review = json!({"spec": {"token": token}});
    let review = admin
        .post("/apis/authentication.k8s.io/v1/tokenreviews", review)
        .await
        .json();
    assert_eq!(review["status"]["authenticated"], true);
    let short = admin
        .post(
            &format!("{accounts}/web/token"),
            json!({"spec": {"expirationSeconds": 1}}),
        )
        .await;
    assert_eq!(short.status, StatusCode::UNPROCESSABLE_ENTITY);
    let unfit = admin
        .post(&format!("{accounts}/web/token"), json!({"spec": "text"}))
        .await;
    assert_eq!(unfit.status, StatusCode::BAD_REQUEST);
    admin.delete(&format!("{accounts}/web")).await;
    assert_eq!(
        nobody.get(WIDGETS).await.status,
        StatusCode::UNAUTHORIZED,
        "the account is gone"
    );
    server.stop().await;
}

#[tokio::test]
async fn discovery_and_openapi() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let v2 = [(
        "accept",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
    )];
    let groups = client.call(Method::GET, "/apis", &v2, "").await;
    assert_eq!(
        groups.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let groups = groups.json();
    let example = groups["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["metadata"]["name"] == "example.com")
        .unwrap();
    let widgets = &example["versions"][0]["resources"][0];
    assert_eq!(
        (&widgets["resource"], &widgets["shortNames"]),
        (&json!("widgets"), &json!(["wd"]))
    );
    let legacy = client.get("/apis/example.com/v1").await.json();
    assert_eq!(legacy["resources"][2]["name"], "widgets/scale");
    assert_eq!(legacy["resources"][2]["group"], "autoscaling");
    assert_eq!(
        client.get("/apis/nothing.com/v1").await.status,
        StatusCode::NOT_FOUND
    );
    let index = client.get("/openapi/v3").await.json();
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    let document = client.get(&url).await.json();
    let patch =
        &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Widget");
    assert!(
        patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["name"] == "fieldValidation")
    );
    let version_2 = client
        .call(
            Method::GET,
            "/openapi/v2",
            &[(
                "accept",
                "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
            )],
            "",
        )
        .await;
    assert_eq!(version_2.status, StatusCode::OK);
    assert_eq!(client.get("/openapi/v2").await.json()["swagger"], "2.0");
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
