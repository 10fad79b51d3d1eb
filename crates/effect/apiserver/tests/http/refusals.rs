//! What is wrong with a request is a Status with its reason.

use http::Method;
use serde_json::json;

use crate::support::{TestServer, WIDGETS, widget};

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
            // Nowhere in particular, whatever the body says.
            Method::POST,
            "/apis/example.com/v1/widgets".into(),
            json_type.to_vec(),
            widget("b", json!({})).to_string(),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
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
