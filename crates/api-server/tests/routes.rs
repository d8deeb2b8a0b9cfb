//! Every route does what it says, and fails as it says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end")]

mod common;

use common::Server;
use http_body_util::BodyExt;
use serde_json::json;

#[tokio::test]
async fn volumes_live_and_die() {
    let s = Server::start();
    let made = s
        .expect(201, "POST", "/v1/volumes", r#"{"name":"a","size":1048576}"#)
        .await;
    assert_eq!(made["name"], "a");
    s.expect(409, "POST", "/v1/volumes", r#"{"name":"a","size":1048576}"#)
        .await;
    s.expect(
        201,
        "POST",
        "/v1/volumes",
        r#"{"name":"busy","from":"a","codec":"zstd"}"#,
    )
    .await;
    assert_eq!(
        s.expect(200, "GET", "/v1/volumes", "")
            .await
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        s.expect(200, "GET", "/v1/volumes/busy", "").await["codec"],
        "zstd"
    );
    let error = s.expect(404, "GET", "/v1/volumes/nope", "").await;
    assert!(
        error["error"]["hint"]
            .as_str()
            .unwrap()
            .contains("holdfast")
    );

    let grown = s
        .expect(
            200,
            "PATCH",
            "/v1/volumes/a",
            r#"{"size":2097152,"name":"b"}"#,
        )
        .await;
    assert_eq!(
        (&grown["size"], &grown["name"]),
        (&json!(2_097_152), &json!("b"))
    );
    s.expect(403, "PATCH", "/v1/volumes/b", r#"{"size":1048576}"#)
        .await;
    s.expect(
        507,
        "POST",
        "/v1/volumes",
        r#"{"name":"huge","size":70368744177665}"#,
    )
    .await;

    assert_eq!(s.expect(200, "GET", "/v1/usage/b", "").await["name"], "b");
    assert_eq!(s.expect(200, "GET", "/v1/connect/b", "").await["name"], "b");
    s.expect(400, "GET", "/v1/usage/b%20b", "").await;

    s.expect(409, "DELETE", "/v1/volumes/busy", "").await;
    s.expect(200, "DELETE", "/v1/volumes/busy?force=true", "")
        .await;
    let gone = s.expect(200, "DELETE", "/v1/volumes/b", "").await;
    assert_eq!(
        s.expect(200, "GET", "/v1/trash", "")
            .await
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let restore = format!("/v1/trash/{}/restore", gone["id"]);
    assert_eq!(
        s.expect(200, "POST", &restore, r#"{"name":"c"}"#).await["name"],
        "c"
    );
    s.expect(404, "POST", &restore, "").await;
    s.expect(404, "DELETE", "/v1/trash/77", "").await;
    s.expect(400, "DELETE", "/v1/trash/x", "").await;
    assert_eq!(
        s.expect(200, "DELETE", "/v1/trash", "")
            .await
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn imports_wait_and_go_on() {
    let s = Server::start();
    for name in ["filling", "filled"] {
        let request = format!(r#"{{"name":"{name}","size":1048576}}"#);
        s.expect(201, "POST", "/v1/volumes", &request).await;
    }
    for (verb, paused) in [("pause", true), ("resume", false)] {
        let path = format!("/v1/volumes/filling/import/{verb}");
        let volume = s.expect(200, "POST", &path, "").await;
        assert_eq!(volume["importing"]["paused"], paused);
        for (other, code) in [("filled", 403), ("nope", 404)] {
            let path = format!("/v1/volumes/{other}/import/{verb}");
            s.expect(code, "POST", &path, "").await;
        }
    }
}

#[tokio::test]
async fn snapshots_live_and_die() {
    let s = Server::start();
    s.expect(201, "POST", "/v1/volumes", r#"{"name":"a","size":1048576}"#)
        .await;
    s.expect(201, "POST", "/v1/volumes/a/snapshots", r#"{"name":"s1"}"#)
        .await;
    s.expect(409, "POST", "/v1/volumes/a/snapshots", r#"{"name":"s1"}"#)
        .await;
    let list = s.expect(200, "GET", "/v1/volumes/a/snapshots", "").await;
    assert_eq!(list[0]["name"], "s1");
    assert_eq!(
        s.expect(200, "GET", "/v1/usage/a@s1", "").await["name"],
        "a@s1"
    );
    s.expect(
        200,
        "POST",
        "/v1/volumes/a/rollback",
        r#"{"snapshot":"s1"}"#,
    )
    .await;
    s.expect(
        404,
        "POST",
        "/v1/volumes/a/rollback",
        r#"{"snapshot":"s2"}"#,
    )
    .await;
    s.expect(204, "DELETE", "/v1/volumes/a/snapshots/s1", "")
        .await;
    s.expect(404, "DELETE", "/v1/volumes/a/snapshots/s1", "")
        .await;
}

#[tokio::test]
async fn the_store_and_the_daemon_answer() {
    let s = Server::start();
    assert_eq!(s.expect(200, "GET", "/v1/store", "").await["path"], "/fake");
    assert_eq!(
        s.expect(200, "GET", "/v1/store/usage", "").await["dedup_ratio"],
        3.0
    );
    assert_eq!(s.expect(200, "GET", "/v1/health", "").await["status"], "ok");
    assert!(s.expect(200, "GET", "/v1/nbd", "").await["listen"].is_array());
    let metrics = s.raw("GET", "/metrics", "").await;
    let kind = metrics.headers()["content-type"].to_str().unwrap();
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    let text = metrics.into_body().collect().await.unwrap().to_bytes();
    assert!(text.ends_with(b"# EOF\n"));
}

#[tokio::test]
async fn wrong_requests_get_an_error_that_says_what_is_wrong() {
    let s = Server::start();
    let error = s
        .expect(400, "POST", "/v1/volumes", r#"{"name":"a","sise":1}"#)
        .await;
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("unknown field `sise`"), "{message}");
    let error = s
        .expect(400, "DELETE", "/v1/volumes/a?forse=true", "")
        .await;
    assert!(error.to_string().contains("forse"), "{error}");
    s.expect(400, "POST", "/v1/volumes", "{").await;
    s.expect(
        400,
        "POST",
        "/v1/volumes",
        r#"{"name":"a b","size":1048576}"#,
    )
    .await;
    s.expect(413, "POST", "/v1/volumes", &"x".repeat((1 << 20) + 1))
        .await;
    s.expect(404, "GET", "/v2/volumes", "").await;
    s.expect(405, "PUT", "/v1/volumes", "").await;
    s.expect(404, "GET", "/v1/jobs/9", "").await;
    s.expect(400, "GET", "/v1/volumes/%ff", "").await;
}

#[tokio::test]
async fn a_fault_in_the_daemon_costs_an_error_not_the_connection() {
    let s = Server::start();
    let mut sender = s.connect().await;
    for _ in 0..2 {
        let request = hyper::Request::get("/v1/volumes/panic")
            .body(http_body_util::Empty::<hyper::body::Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(serde_json::from_slice::<api_types::ErrorBody>(&body).is_ok());
    }
}

#[tokio::test]
async fn the_description_lists_every_route_with_bodies_and_errors() {
    let s = Server::start();
    let api = s.expect(200, "GET", "/openapi.json", "").await;
    assert!(api["openapi"].as_str().unwrap().starts_with("3."));
    let routes = [
        ("/v1/store", "get"),
        ("/v1/store/usage", "get"),
        ("/v1/store/collect", "post"),
        ("/v1/store/check", "post"),
        ("/v1/volumes", "get"),
        ("/v1/volumes", "post"),
        ("/v1/volumes/{name}", "get"),
        ("/v1/volumes/{name}", "patch"),
        ("/v1/volumes/{name}", "delete"),
        ("/v1/usage/{ref}", "get"),
        ("/v1/connect/{ref}", "get"),
        ("/v1/volumes/{name}/snapshots", "get"),
        ("/v1/volumes/{name}/snapshots", "post"),
        ("/v1/volumes/{name}/snapshots/{snapshot}", "delete"),
        ("/v1/volumes/{name}/rollback", "post"),
        ("/v1/trash", "get"),
        ("/v1/trash", "delete"),
        ("/v1/trash/{id}", "delete"),
        ("/v1/trash/{id}/restore", "post"),
        ("/v1/import", "post"),
        ("/v1/export", "post"),
        ("/v1/content/{name}", "put"),
        ("/v1/content/{name}", "get"),
        ("/v1/jobs", "get"),
        ("/v1/jobs/{id}", "get"),
        ("/v1/jobs/{id}", "delete"),
        ("/v1/events", "get"),
        ("/v1/nbd", "get"),
        ("/v1/vhost", "get"),
        ("/v1/vhost/{ref}", "put"),
        ("/v1/vhost/{ref}", "delete"),
        ("/v1/health", "get"),
        ("/metrics", "get"),
    ];
    for (path, method) in routes {
        let operation = &api["paths"][path][method];
        assert!(operation["summary"].is_string(), "{method} {path}");
        assert!(
            operation["responses"]["500"]["content"].is_object(),
            "{method} {path}"
        );
        if ["post", "patch", "put"].contains(&method) {
            assert!(operation["requestBody"].is_object(), "{method} {path}");
        }
    }
    for name in [
        "Volume",
        "Job",
        "ErrorBody",
        "ApiError",
        "ErrorCode",
        "Event",
        "CheckReport",
    ] {
        assert!(api["components"]["schemas"][name].is_object(), "{name}");
    }
    let text = api.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            api["components"]["schemas"][name].is_object(),
            "{name} is referred to only"
        );
    }
}

#[tokio::test]
async fn volumes_are_served_as_devices_and_no_more() {
    let s = Server::start();
    let make = |name: &str| format!(r#"{{"name":"{name}","size":1048576}}"#);
    s.expect(201, "POST", "/v1/volumes", &make("a")).await;
    s.expect(201, "POST", "/v1/volumes", &make("busy")).await;
    let device = s.expect(200, "PUT", "/v1/vhost/a", r#"{"queues":2}"#).await;
    assert_eq!(
        (&device["name"], &device["queues"]),
        (&json!("a"), &json!(2))
    );
    s.expect(200, "PUT", "/v1/vhost/busy", "").await;
    s.expect(400, "PUT", "/v1/vhost/a", r#"{"queues":-1}"#)
        .await;
    s.expect(404, "PUT", "/v1/vhost/nope", "").await;
    let status = s.expect(200, "GET", "/v1/vhost", "").await;
    assert_eq!(status["devices"].as_array().unwrap().len(), 2);
    s.expect(409, "DELETE", "/v1/vhost/busy", "").await;
    s.expect(204, "DELETE", "/v1/vhost/busy?force=true", "")
        .await;
    s.expect(204, "DELETE", "/v1/vhost/a", "").await;
    let status = s.expect(200, "GET", "/v1/vhost", "").await;
    assert!(status["devices"].as_array().unwrap().is_empty());
}
