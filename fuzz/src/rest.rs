//! The REST API over a daemon in memory: any method, path, query and body. Never a panic, never a 500.

use crate::input::Input;
use api_server::testing::{Api, FakeControl};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
};
use std::{sync::Arc, time::Duration};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

const REQUESTS_MAX: usize = 4;
/// Answers are short, but for a volume's content.
const ANSWER_MAX: usize = 8 << 20;

const METHODS: [Method; 6] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::HEAD,
];

thread_local! {
    static API: Api = Api::new();
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
}

/// Some requests to one daemon. Each is a line with method (a number), path and query, and a line that is the body.
pub fn run(data: &[u8]) {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (router, closing) = API.with(|api| api.of(Arc::new(FakeControl::new())));
            let mut lines = data.split(|&byte| byte == b'\n');
            for _ in 0..REQUESTS_MAX {
                let Some(head) = lines.next() else {
                    break;
                };
                let body = lines.next().unwrap_or_default();
                request(&router, head, body).await;
            }
            closing.cancel();
        });
    });
}

async fn request(router: &Router, head: &[u8], body: &[u8]) {
    let mut head = Input::new(head);
    let method = METHODS[usize::from(head.u8()) % METHODS.len()].clone();
    let Ok(path) = std::str::from_utf8(head.rest()) else {
        return;
    };
    // It panics on purpose when asked for that.
    let fault = format!("{path}{}", String::from_utf8_lossy(body)).contains("panic");
    let built = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Body::from(body.to_vec()));
    let Ok(request) = built else {
        return;
    };
    if fault || path.contains("/events") {
        return;
    }
    let Ok(response) = router.clone().oneshot(request).await;
    let status = response.status();
    let said = tokio::time::timeout(
        Duration::from_secs(5),
        to_bytes(response.into_body(), ANSWER_MAX),
    );
    let said = said.await.expect("an answer that ends");
    assert_ne!(
        status,
        StatusCode::INTERNAL_SERVER_ERROR,
        "{path}: {said:?}"
    );
    if status.is_client_error() || status.is_server_error() {
        let said = said.expect("a short answer");
        let text = String::from_utf8_lossy(&said);
        assert!(
            text.is_empty() || text.starts_with(r#"{"error":{"#),
            "{path}: {status}: {text}"
        );
    }
}

/// Every route once, alone and behind what it needs.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let create = "\u{1}/v1/volumes\n{\"name\":\"a\",\"size\":1048576}\n";
    let requests = [
        "\u{0}/v1/store\n\n",
        "\u{0}/v1/store/usage\n\n",
        "\u{1}/v1/store/collect\n{\"dry_run\":true}\n",
        "\u{1}/v1/store/check\n{}\n",
        "\u{0}/v1/volumes\n\n",
        "\u{0}/v1/volumes/a\n\n",
        "\u{3}/v1/volumes/a\n{\"name\":\"b\",\"size\":2097152,\"codec\":\"zstd\"}\n",
        "\u{4}/v1/volumes/a?force=true\n\n",
        "\u{1}/v1/volumes/a/rollback\n{\"snapshot\":\"s\"}\n",
        "\u{0}/v1/usage/a@s\n\n",
        "\u{0}/v1/connect/a\n\n",
        "\u{1}/v1/volumes/a/snapshots\n{\"name\":\"s\"}\n",
        "\u{0}/v1/volumes/a/snapshots\n\n",
        "\u{4}/v1/volumes/a/snapshots/s\n\n",
        "\u{0}/v1/trash\n\n",
        "\u{4}/v1/trash\n\n",
        "\u{4}/v1/trash/1\n\n",
        "\u{1}/v1/trash/1/restore\n{\"name\":\"c\"}\n",
        "\u{1}/v1/import\n{\"name\":\"i\",\"path\":\"/x\"}\n",
        "\u{1}/v1/export\n{\"source\":\"a\",\"path\":\"/x\"}\n",
        "\u{0}/v1/content/a\n\n",
        "\u{2}/v1/content/n?size=1048576&codec=lz4&dedup=false\nbytes\n",
        "\u{0}/v1/jobs\n\n",
        "\u{0}/v1/jobs/1?wait=1\n\n",
        "\u{4}/v1/jobs/1\n\n",
        "\u{0}/v1/nbd\n\n",
        "\u{0}/v1/health\n\n",
        "\u{0}/metrics\n\n",
        "\u{0}/openapi.json\n\n",
        "\u{0}/v1/volumes/%61%00%ff\n\n",
        "\u{5}/\n\n",
    ];
    let alone = requests.iter().map(|request| request.to_string());
    let behind = requests.iter().map(|request| format!("{create}{request}"));
    alone.chain(behind).map(String::into_bytes).collect()
}
