//! Lists, tables, and what the API says of itself.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{TestServer, WIDGETS, widget};

pub(crate) fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|one| one["metadata"]["name"].as_str().unwrap())
        .collect()
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
