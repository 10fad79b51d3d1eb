//! Who a client is.

use http::StatusCode;
use serde_json::json;

use crate::support::{TestServer, WIDGETS};

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
