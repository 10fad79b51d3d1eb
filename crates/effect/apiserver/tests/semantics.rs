//! What a request may ask, and what it gets: over raw HTTP, wordings as kube-apiserver has them.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use support::{Client, TestServer, WIDGETS, widget};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

async fn post_text(client: &mut Client, query: &str, text: &str) -> support::Reply {
    let path = format!("{WIDGETS}{query}");
    client
        .call(Method::POST, &path, JSON, text.to_owned())
        .await
}

fn warnings(reply: &support::Reply) -> Vec<&str> {
    let all = reply.headers.get_all("warning").iter();
    all.map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn fields_said_twice_are_told() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let text = |name: &str| {
        format!(
            r#"{{"metadata": {{"name": "{name}"}}, "spec": {{"size": 2, "size": 3, "sise": 1}}}}"#
        )
    };
    let warned = post_text(&mut client, "", &text("a")).await;
    assert_eq!(warned.status, StatusCode::CREATED);
    assert_eq!(warned.json()["spec"]["size"], 3, "the last one counts");
    assert_eq!(
        warnings(&warned),
        [
            "299 - \"duplicate field \\\"spec.size\\\"\"",
            "299 - \"unknown field \\\"spec.sise\\\"\""
        ]
    );
    let strict = post_text(&mut client, "?fieldValidation=Strict", &text("b")).await;
    assert_eq!(strict.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        strict.json()["message"],
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: duplicate field \"spec.size\", unknown field \"spec.sise\""
    );
    let ignored = post_text(&mut client, "?fieldValidation=Ignore", &text("c")).await;
    assert_eq!(
        (ignored.status, warnings(&ignored).len()),
        (StatusCode::CREATED, 0)
    );

    let merge = [("content-type", "application/merge-patch+json")];
    let path = format!("{WIDGETS}/a?fieldValidation=Strict");
    let patch = r#"{"spec": {"size": 4, "size": 5}}"#;
    let patched = client.call(Method::PATCH, &path, &merge, patch).await;
    assert_eq!(patched.status, StatusCode::UNPROCESSABLE_ENTITY);
    let message = patched.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with(" \"\" is invalid: patch: Invalid value: "),
        "{message}"
    );
    assert!(
        message.ends_with("strict decoding error: duplicate field \"spec.size\""),
        "{message}"
    );
    server.stop().await;
}

#[tokio::test]
async fn what_requests_may_not_ask() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.post(WIDGETS, widget("a", json!({}))).await;
    let a = format!("{WIDGETS}/a");
    let with = |query: &str| format!("{WIDGETS}?{query}");
    let too_many = format!(
        "[{}]",
        vec![r#"{"op": "add", "path": "/spec/size", "value": 1}"#; 10_001].join(",")
    );
    let cases: Vec<(Method, String, &str, &str, u16, &str, &str)> = vec![
        (
            Method::GET,
            with("resourceVersionMatch=Exact"),
            "",
            "",
            422,
            "Invalid",
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            Method::GET,
            with("continue=abc&resourceVersion=7"),
            "",
            "",
            400,
            "BadRequest",
            "specifying resource version is not allowed when using continue",
        ),
        (
            Method::GET,
            with("resourceVersion=100000"),
            "",
            "",
            504,
            "Timeout",
            "Timeout: Too large resource version: 100000, current: ",
        ),
        (
            Method::DELETE,
            format!("{a}?propagationPolicy=Sideways"),
            "",
            "",
            422,
            "Invalid",
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sideways\"",
        ),
        (
            Method::POST,
            with("dryRun=Perhaps"),
            "application/json",
            "{}",
            422,
            "Invalid",
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: []string{\"Perhaps\"}",
        ),
        (
            Method::PATCH,
            format!("{a}?force=true"),
            "application/merge-patch+json",
            "{}",
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
        ),
        (
            Method::PATCH,
            a.clone(),
            "application/json-patch+json",
            &too_many,
            413,
            "RequestEntityTooLarge",
            "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
        ),
        (
            Method::PATCH,
            a.clone(),
            "application/json-patch+json",
            r#"[{"op": "test", "path": "/spec/size", "value": 9}]"#,
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        ),
        (
            Method::PATCH,
            a.clone(),
            "application/merge-patch+json",
            r#"{"spec": {"size": "x"}}"#,
            422,
            "Invalid",
            " \"\" is invalid: patch: Invalid value: ",
        ),
        (
            Method::PATCH,
            a.clone(),
            "application/json",
            "{}",
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
        ),
    ];
    for (method, path, kind, body, code, reason, message) in cases {
        let headers = [("content-type", kind)];
        let headers = if kind.is_empty() {
            &[][..]
        } else {
            &headers[..]
        };
        let reply = client.call(method, &path, headers, body.to_owned()).await;
        let status = reply.json();
        assert_eq!(reply.status.as_u16(), code, "{path}: {status}");
        assert_eq!(status["reason"], reason, "{path}: {status}");
        let said = status["message"].as_str().unwrap();
        assert!(said.starts_with(message), "{path}: {said}");
        if code == 504 {
            assert_eq!(reply.headers["retry-after"], "1");
            assert_eq!(
                status["details"]["causes"][0]["reason"],
                "ResourceVersionTooLarge"
            );
        }
    }
    let impersonated = client
        .call(Method::GET, WIDGETS, &[("impersonate-user", "bob")], "")
        .await;
    assert_eq!(impersonated.status, StatusCode::FORBIDDEN);
    assert_eq!(impersonated.json()["reason"], "Forbidden");
    server.stop().await;
}

#[tokio::test]
async fn an_update_creates_where_the_kind_allows_it() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let path = format!("{WIDGETS}/a");
    let mut wanted = widget("a", json!({"size": 2}));
    wanted["metadata"]["uid"] = "5b1f6c1e-0000-4000-8000-000000000000".into();
    let other = client.put(&path, wanted.clone()).await;
    assert_eq!(
        other.status,
        StatusCode::CONFLICT,
        "another object is meant"
    );
    wanted["metadata"]["uid"] = Value::Null;
    wanted["metadata"]["resourceVersion"] = "4".into();
    let dry = client
        .put(&format!("{path}?dryRun=All"), wanted.clone())
        .await;
    assert_eq!(dry.status, StatusCode::CREATED);
    assert_eq!(client.get(&path).await.status, StatusCode::NOT_FOUND);
    let made = client.put(&path, wanted.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{:?}", made.body);
    wanted["metadata"]["resourceVersion"] = Value::Null;
    wanted["spec"]["size"] = 3.into();
    assert_eq!(client.put(&path, wanted).await.status, StatusCode::OK);

    let account = json!({"metadata": {"name": "x"}});
    let path = "/api/v1/namespaces/default/serviceaccounts/x";
    assert_eq!(
        client.put(path, account).await.status,
        StatusCode::NOT_FOUND
    );
    let status = format!("{WIDGETS}/none/status");
    let none = client.put(&status, widget("none", json!({}))).await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
    server.stop().await;
}

/// Manager, operation, subresource and fields of each owner.
fn owners(object: &Value) -> Vec<(String, String, String, Value)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = object["metadata"]["managedFields"].as_array();
    list.into_iter()
        .flatten()
        .map(|one| {
            assert_eq!(one["fieldsType"], "FieldsV1");
            assert!(one["time"].is_string());
            (
                text(&one["manager"]),
                text(&one["operation"]),
                text(&one["subresource"]),
                one["fieldsV1"].clone(),
            )
        })
        .collect()
}

fn owner(
    manager: &str,
    operation: &str,
    part: &str,
    fields: Value,
) -> (String, String, String, Value) {
    (manager.into(), operation.into(), part.into(), fields)
}

#[tokio::test]
async fn every_write_has_an_owner() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let agent = [
        ("content-type", "application/json"),
        ("user-agent", "painter/v2 (linux)"),
    ];
    let body = widget("a", json!({"color": "red", "replicas": 1})).to_string();
    let made = client
        .call(Method::POST, WIDGETS, &agent, body)
        .await
        .json();
    // Of a kind that has no parts by itself, who creates an object makes them too.
    let all = json!({"f:spec": {".": {}, "f:color": {}, "f:replicas": {}, "f:size": {}}});
    assert_eq!(owners(&made), [owner("painter", "Update", "", all)]);

    let path = format!("{WIDGETS}/a");
    let mut next = made.clone();
    next["spec"]["color"] = "blue".into();
    next["metadata"]["labels"] = json!({"x": "y"});
    let moved = client
        .put(&format!("{path}?fieldManager=mover"), next)
        .await
        .json();
    let labels = json!({".": {}, "f:x": {}});
    let mover = json!({"f:metadata": {"f:labels": labels}, "f:spec": {"f:color": {}}});
    let rest = json!({"f:spec": {".": {}, "f:replicas": {}, "f:size": {}}});
    let held = [
        owner("mover", "Update", "", mover.clone()),
        owner("painter", "Update", "", rest.clone()),
    ];
    assert_eq!(owners(&moved), held);

    let mut status = moved.clone();
    status["status"] = json!({"ready": true});
    status["spec"]["size"] = 9.into();
    let path_of_status = format!("{path}/status?fieldManager=watcher");
    let told = client.put(&path_of_status, status).await.json();
    let watcher = owner(
        "watcher",
        "Update",
        "status",
        json!({"f:status": {".": {}, "f:ready": {}}}),
    );
    assert!(owners(&told).contains(&watcher), "{:?}", owners(&told));
    assert_eq!(owners(&told).len(), 3);

    let scale = json!({"spec": {"replicas": 5}});
    let path_of_scale = format!("{path}/scale?fieldManager=scaler");
    client
        .patch(&path_of_scale, "merge-patch+json", scale)
        .await;
    let scaled = client.get(&path).await.json();
    let scaler = owner(
        "scaler",
        "Update",
        "scale",
        json!({"f:spec": {"f:replicas": {}}}),
    );
    assert!(owners(&scaled).contains(&scaler), "{:?}", owners(&scaled));
    let rest = json!({"f:spec": {".": {}, "f:size": {}}});
    let rest = owner("painter", "Update", "", rest);
    assert!(owners(&scaled).contains(&rest), "{:?}", owners(&scaled));

    // What is removed belongs to nobody.
    let bare = json!({"metadata": {"labels": null}});
    let bare = client.patch(&path, "merge-patch+json", bare).await.json();
    let mover = owner("mover", "Update", "", json!({"f:spec": {"f:color": {}}}));
    assert!(owners(&bare).contains(&mover), "{:?}", owners(&bare));

    // A client may give fields away, as kubectl does before it applies on the server.
    let patch = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": [{
            "manager": "kubectl", "operation": "Apply", "apiVersion": "example.com/v1",
            "time": "2020-01-01T00:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:color": {}}}}]},
        {"op": "replace", "path": "/metadata/resourceVersion",
            "value": bare["metadata"]["resourceVersion"]},
    ]);
    let given = client.patch(&path, "json-patch+json", patch).await.json();
    let kubectl = owner("kubectl", "Apply", "", json!({"f:spec": {"f:color": {}}}));
    assert_eq!(owners(&given), [kubectl]);

    let dropped = json!({"metadata": {"managedFields": []}});
    let dropped = client
        .patch(&path, "merge-patch+json", dropped)
        .await
        .json();
    assert_eq!(owners(&dropped), []);
    let untracked = json!({"spec": {"size": 7}});
    let untracked = client
        .patch(&path, "merge-patch+json", untracked)
        .await
        .json();
    assert_eq!(owners(&untracked), [], "until the next apply");
    server.stop().await;
}

#[tokio::test]
async fn only_so_many_updaters_are_told_apart() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.post(WIDGETS, widget("a", json!({}))).await;
    for number in 0..15 {
        let path = format!("{WIDGETS}/a?fieldManager=m{number}");
        let labels = json!({"metadata": {"labels": {format!("l{number}"): "x"}}});
        client.patch(&path, "merge-patch+json", labels).await;
    }
    let object = client.get(&format!("{WIDGETS}/a")).await.json();
    let owners = owners(&object);
    assert_eq!(owners.len(), 10, "{owners:?}");
    let ancient = owners.iter().filter(|one| one.0 == "ancient-changes");
    assert_eq!(ancient.count(), 1);
    server.stop().await;
}

const APPLY: &str = "apply-patch+yaml";

#[tokio::test]
async fn a_scale_is_applied() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client
        .post(WIDGETS, widget("a", json!({"replicas": 1})))
        .await;
    let scale = |replicas: u32| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": "a"}, "spec": {"replicas": replicas}})
    };
    let path = |manager: &str, force: bool| {
        format!("{WIDGETS}/a/scale?fieldManager={manager}&force={force}")
    };
    let refused = client.patch(&path("one", false), APPLY, scale(3)).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{:?}", refused.body);
    assert_eq!(
        refused.json()["details"]["causes"][0]["field"],
        ".spec.replicas"
    );
    let forced = client.patch(&path("one", true), APPLY, scale(3)).await;
    assert_eq!(forced.status, StatusCode::OK, "{:?}", forced.body);
    assert_eq!(
        (&forced.json()["kind"], &forced.json()["spec"]["replicas"]),
        (&json!("Scale"), &json!(3))
    );
    let object = client.get(&format!("{WIDGETS}/a")).await.json();
    let one = owner(
        "one",
        "Apply",
        "scale",
        json!({"f:spec": {"f:replicas": {}}}),
    );
    assert!(owners(&object).contains(&one), "{:?}", owners(&object));
    let other = client.patch(&path("two", false), APPLY, scale(4)).await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    let missing = client
        .patch(
            &format!("{WIDGETS}/b/scale?fieldManager=x"),
            APPLY,
            scale(1),
        )
        .await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    let nameless = json!({"metadata": {"name": "b"}, "spec": {"replicas": 4}});
    let nameless = client.put(&format!("{WIDGETS}/a/scale"), nameless).await;
    assert_eq!(nameless.status, StatusCode::BAD_REQUEST, "another name");
    let negative =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": -1}});
    let negative = client.patch(&path("one", true), APPLY, negative).await;
    assert_eq!(
        negative.json()["message"],
        "Scale.autoscaling \"a\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
    );
    let wrong = widget("a", json!({"replicas": 4}));
    let wrong = client.patch(&path("one", false), APPLY, wrong).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    server.stop().await;
}

#[tokio::test]
async fn a_page_that_is_forgotten_can_be_followed_inconsistently() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for name in ["a", "b", "c"] {
        client.post(WIDGETS, widget(name, json!({}))).await;
    }
    let first = client.get(&format!("{WIDGETS}?limit=1")).await.json();
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    // More changes than the history of this server keeps.
    for round in 0..250 {
        let color = json!({"spec": {"color": round.to_string()}});
        client
            .patch(&format!("{WIDGETS}/c"), "merge-patch+json", color)
            .await;
    }
    let gone = client
        .get(&format!("{WIDGETS}?limit=1&continue={token}"))
        .await;
    assert_eq!(gone.status, StatusCode::GONE);
    let gone = gone.json();
    assert_eq!(gone["reason"], "Expired");
    let fresh = gone["metadata"]["continue"].as_str().unwrap();
    let rest = client
        .get(&format!("{WIDGETS}?limit=2&continue={fresh}"))
        .await
        .json();
    let names: Vec<&Value> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["metadata"]["name"])
        .collect();
    assert_eq!(names, ["b", "c"]);
    let of_then = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{WIDGETS}?resourceVersion={of_then}&resourceVersionMatch=Exact");
    assert_eq!(client.get(&exact).await.status, StatusCode::GONE);
    let not_older =
        format!("{WIDGETS}?resourceVersion={of_then}&resourceVersionMatch=NotOlderThan");
    assert_eq!(client.get(&not_older).await.status, StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn long_answers_are_shortened_for_who_takes_it() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let color = "blue ".repeat(30_000);
    for name in ["a", "b"] {
        client
            .post(WIDGETS, widget(name, json!({"color": color})))
            .await;
    }
    let plain = client.get(WIDGETS).await;
    assert!(!plain.headers.contains_key("content-encoding"));
    let takes = [("accept-encoding", "gzip")];
    let short = client.call(Method::GET, WIDGETS, &takes, "").await;
    assert_eq!(short.headers["content-encoding"], "gzip");
    assert_eq!(short.headers["vary"], "Accept-Encoding");
    assert!(short.body.len() < plain.body.len() / 10);
    assert_eq!(unpacked(&short.body), plain.body);
    // More than is sent in one piece.
    for name in ["c", "d", "e", "f", "g", "h"] {
        client
            .post(WIDGETS, widget(name, json!({"color": color})))
            .await;
    }
    let plain = client.get(WIDGETS).await;
    assert!(plain.body.len() > 1 << 20);
    let short = client.call(Method::GET, WIDGETS, &takes, "").await;
    assert_eq!(short.headers["content-encoding"], "gzip");
    assert_eq!(unpacked(&short.body), plain.body);
    let small = client.call(Method::GET, "/apis", &takes, "").await;
    assert!(!small.headers.contains_key("content-encoding"));
    let watch = format!("{WIDGETS}?watch=1&timeoutSeconds=1&resourceVersion=1");
    let watch = client.call(Method::GET, &watch, &takes, "").await;
    assert!(
        !watch.headers.contains_key("content-encoding"),
        "a watch waits for nothing"
    );
    server.stop().await;
}

fn unpacked(body: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(body), &mut text).unwrap();
    text
}

#[tokio::test]
async fn what_does_not_change_is_asked_for_by_its_tag() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let index = client.get("/openapi/v3").await.json();
    let address = index["paths"]["apis/example.com/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    for (path, accept) in [
        ("/api", aggregated),
        ("/apis", aggregated),
        ("/openapi/v3", "application/json"),
        ("/openapi/v2", "application/json"),
        (address, "application/json"),
    ] {
        let headers = [("accept", accept)];
        let first = client.call(Method::GET, path, &headers, "").await;
        assert_eq!(first.status, StatusCode::OK, "{path}");
        let tag = first.headers["etag"].to_str().unwrap().to_owned();
        let known = [("accept", accept), ("if-none-match", tag.as_str())];
        let again = client.call(Method::GET, path, &known, "").await;
        assert_eq!(again.status, StatusCode::NOT_MODIFIED, "{path}");
        assert_eq!(
            (again.headers["etag"].to_str().unwrap(), again.body.len()),
            (tag.as_str(), 0)
        );
        let other = [("accept", accept), ("if-none-match", "\"other\"")];
        let other = client.call(Method::GET, path, &other, "").await;
        assert_eq!(
            (other.status, &other.body),
            (StatusCode::OK, &first.body),
            "{path}"
        );
    }
    let document = client.get(address).await;
    assert_eq!(document.headers["cache-control"], "public, immutable");
    assert!(document.headers.contains_key("expires"));
    let tag = document.headers["etag"].to_str().unwrap().trim_matches('"');
    assert!(address.ends_with(&format!("?hash={tag}")), "{address}");
    let takes = [("accept-encoding", "gzip")];
    let short = client.call(Method::GET, address, &takes, "").await;
    assert_eq!(unpacked(&short.body), document.body);
    let old = client.get("/openapi/v3/apis/example.com/v1?hash=OLD").await;
    assert_eq!(old.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(old.headers["location"], address);
    let unnamed = client.get("/openapi/v3/apis/example.com/v1").await;
    assert!(
        !unnamed.headers.contains_key("cache-control"),
        "it may change"
    );
    let nothing = client.get("/openapi/v3/apis/nothing.com/v1").await;
    assert_eq!(nothing.status, StatusCode::NOT_FOUND);
    let version_2 = client.get("/openapi/v2").await.json();
    let widget = &version_2["definitions"]["example.com.v1.Widget"];
    assert_eq!(
        widget["x-kubernetes-group-version-kind"][0]["kind"],
        "Widget"
    );
    server.stop().await;
}

#[tokio::test]
async fn reviews_that_ask_nothing_are_refused() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let authorization = "/apis/authorization.k8s.io/v1";
    let attributes = json!({"verb": "get", "resource": "pods", "namespace": "other"});
    for (path, spec, code, message) in [
        (
            format!("{authorization}/selfsubjectaccessreviews"),
            json!({}),
            422,
            ".authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: \"null\": exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            format!("{authorization}/subjectaccessreviews"),
            json!({"resourceAttributes": attributes}),
            422,
            ".authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ),
        (
            format!("{authorization}/namespaces/default/localsubjectaccessreviews"),
            json!({"user": "x", "resourceAttributes": attributes}),
            422,
            ".authorization.k8s.io \"\" is invalid: spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace",
        ),
        (
            format!("{authorization}/selfsubjectrulesreviews"),
            json!({}),
            400,
            "no namespace on request",
        ),
        (
            "/apis/authentication.k8s.io/v1/tokenreviews".to_owned(),
            json!({}),
            400,
            "token is required for TokenReview in authentication",
        ),
    ] {
        let reply = client.post(&path, json!({"spec": spec})).await;
        assert_eq!(reply.status.as_u16(), code, "{path}: {:?}", reply.body);
        assert_eq!(reply.json()["message"], message, "{path}");
    }
    let path = format!("{authorization}/subjectaccessreviews");
    let fine = json!({"spec": {"user": "x", "resourceAttributes": attributes}});
    assert_eq!(
        client.post(&path, fine).await.json()["status"]["allowed"],
        true
    );
    server.stop().await;
}

#[tokio::test]
async fn configurations_that_are_not_of_their_kind_are_refused() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let path = format!("{WIDGETS}/a?fieldManager=me");
    for (spec, query, message) in [
        (
            json!({"sise": 1}),
            "&fieldValidation=Ignore",
            "failed to create typed patch object (default/a; example.com/v1, Kind=Widget): .spec.sise: field not declared in schema",
        ),
        (
            json!({"parts": [{"name": "x"}, {"name": "y"}, {"name": "x"}]}),
            "",
            "failed to create typed patch object (default/a; example.com/v1, Kind=Widget): .spec.parts: duplicate entries for key [name=\"x\"]",
        ),
    ] {
        let reply = client
            .patch(&format!("{path}{query}"), APPLY, widget("a", spec))
            .await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert_eq!(reply.json()["message"], message);
    }
    let mut other = widget("a", json!({}));
    other["metadata"]["uid"] = "x".into();
    let other = client.patch(&path, APPLY, other).await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    assert_eq!(
        client.get(&format!("{WIDGETS}/a")).await.status,
        StatusCode::NOT_FOUND
    );
    server.stop().await;
}

#[tokio::test]
async fn a_body_says_what_it_is() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.post(WIDGETS, widget("a", json!({}))).await;
    let path = format!("{WIDGETS}/a");
    let other = json!({"kind": "Widget", "apiVersion": "example.com/v1"}).to_string();
    let other = client.call(Method::DELETE, &path, JSON, other).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST);
    let kindless = json!({"metadata": {"name": "a"}, "spec": {"size": 2}});
    let kindless = client
        .patch(&format!("{path}?fieldManager=me"), APPLY, kindless)
        .await;
    assert_eq!(kindless.status, StatusCode::BAD_REQUEST);
    assert_eq!(client.get(&path).await.json()["spec"]["size"], 1);
    server.stop().await;
}

#[tokio::test]
async fn one_object_is_watched_below_watch_only() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for name in ["a", "b"] {
        client.post(WIDGETS, widget(name, json!({}))).await;
    }
    let one = client.get(&format!("{WIDGETS}/a?watch=1")).await;
    assert_eq!(one.json()["kind"], "Widget");
    let old = "/apis/example.com/v1/watch/namespaces/default/widgets";
    let mut watch = server.client().await.watch(&format!("{old}/b"), &[]).await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "b".into()));
    client.delete(&format!("{WIDGETS}/a")).await;
    client.delete(&format!("{WIDGETS}/b")).await;
    assert_eq!(watch.brief().await, ("DELETED".into(), "b".into()));
    let status = client.get(&format!("{old}/b/status")).await;
    assert_eq!(status.status, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn a_dry_run_leaves_no_trace() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for name in ["a", "b"] {
        client
            .post(WIDGETS, widget(name, json!({"replicas": 1})))
            .await;
    }
    let before = client.get(WIDGETS).await.json();
    let a = format!("{WIDGETS}/a");
    let dry = "dryRun=All&fieldManager=me";
    let changed = widget("a", json!({"size": 5}));
    let media = |kind: &str| format!("application/{kind}");
    let cases: [(Method, String, String, Value); 11] = [
        (
            Method::POST,
            WIDGETS.into(),
            media("json"),
            widget("c", json!({})),
        ),
        (Method::PUT, a.clone(), media("json"), changed.clone()),
        (
            Method::PUT,
            format!("{WIDGETS}/new"),
            media("json"),
            widget("new", json!({})),
        ),
        (
            Method::PUT,
            format!("{a}/status"),
            media("json"),
            json!({"metadata": {"name": "a"}, "status": {"x": 1}}),
        ),
        (
            Method::PUT,
            format!("{a}/scale"),
            media("json"),
            json!({"spec": {"replicas": 4}}),
        ),
        (
            Method::PATCH,
            a.clone(),
            media("merge-patch+json"),
            json!({"spec": {"size": 5}}),
        ),
        (
            Method::PATCH,
            a.clone(),
            media("json-patch+json"),
            json!([{"op": "add", "path": "/spec/size", "value": 5}]),
        ),
        (
            Method::PATCH,
            a.clone(),
            media("strategic-merge-patch+json"),
            json!({"spec": {"size": 5}}),
        ),
        (
            Method::PATCH,
            format!("{WIDGETS}/new"),
            media("apply-patch+yaml"),
            widget("new", json!({})),
        ),
        (Method::DELETE, a.clone(), media("json"), json!({})),
        (
            Method::DELETE,
            WIDGETS.into(),
            media("json"),
            json!({"dryRun": ["All"]}),
        ),
    ];
    for (method, path, kind, body) in cases {
        let headers = [("content-type", kind.as_str())];
        let asked = format!("{path}?{dry}");
        let reply = client
            .call(method.clone(), &asked, &headers, body.to_string())
            .await;
        assert!(
            reply.status.is_success(),
            "{method} {path}: {:?}",
            reply.body
        );
        let after = client.get(WIDGETS).await.json();
        assert_eq!(after, before, "{method} {path}");
    }
    let real = client.post(WIDGETS, widget("c", json!({}))).await.json();
    let number = &real["metadata"]["annotations"]["number"];
    assert_eq!(number, "2", "no number was taken");
    server.stop().await;
}

#[tokio::test]
async fn a_collection_is_deleted_as_far_as_it_is_selected() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for (name, color) in [("a", "red"), ("b", "red"), ("c", "red"), ("d", "blue")] {
        client
            .post(WIDGETS, widget(name, json!({"color": color})))
            .await;
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|one| one["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let gone = client
        .delete(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred&limit=2"))
        .await;
    assert_eq!(names(&gone.json()), ["a", "b"]);
    assert_eq!(names(&client.get(WIDGETS).await.json()), ["c", "d"]);
    let selector = client
        .delete(&format!("{WIDGETS}?labelSelector=a%3Db%2C"))
        .await;
    assert_eq!(
        selector.status,
        StatusCode::BAD_REQUEST,
        "nothing goes by mistake"
    );
    client
        .delete(&format!("{WIDGETS}?fieldSelector=spec.color!%3Dred"))
        .await;
    assert_eq!(names(&client.get(WIDGETS).await.json()), ["c"]);
    // What is held is told of as it was.
    let mut held = widget("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let held = client.post(WIDGETS, held).await.json();
    let told = client
        .delete(&format!("{WIDGETS}?fieldSelector=metadata.name%3Dheld"))
        .await;
    assert_eq!(told.json()["items"], json!([held]));
    let marked = client.get(&format!("{WIDGETS}/held")).await.json();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    server.stop().await;
}
