//! The door without an agent behind it: who is let in, what is described, what is refused.

use std::os::unix::fs::PermissionsExt;

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use tower::ServiceExt;

use super::*;
use crate::api::Problem;

const LOOPBACK: &str = "127.0.0.1:7580";

struct Got {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Got {
    fn problem(&self) -> Problem {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// A door whose agent is still starting: what does not need one is answered, the rest is 503.
fn door(config: &HttpConfig, listen: &str) -> Router {
    router(AgentSlot::default(), config, listen.parse().unwrap(), CancellationToken::new()).unwrap()
}

async fn send(
    door: &Router,
    method: &str,
    path: &str,
    headers: &[(header::HeaderName, &str)],
    body: &str,
) -> Got {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, LOOPBACK);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let response = door.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
    Got { status: parts.status.as_u16(), headers: parts.headers, body }
}

async fn get(door: &Router, path: &str) -> Got {
    send(door, "GET", path, &[], "").await
}

/// Every method and path of the description, with something in place of each parameter.
async fn described(door: &Router, token: &str) -> Vec<(String, String)> {
    let bearer = format!("Bearer {token}");
    let got = send(door, "GET", "/openapi.json", &[(header::AUTHORIZATION, &bearer)], "").await;
    assert_eq!(got.status, 200);
    let description: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
    let mut routes = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{id}", "x").replace("{path}", "a/b");
            assert!(!path.contains('{'), "{path}");
            routes.push((method.to_uppercase(), path));
        }
    }
    routes
}

#[tokio::test]
async fn every_described_route_denies_without_the_token_and_answers_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "t0ken").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = HttpConfig { token_file: Some(file), ..HttpConfig::default() };
    let door = door(&config, "0.0.0.0:7580");

    let routes = described(&door, "t0ken").await;
    assert!(routes.len() >= 30, "{routes:?}");
    for (method, path) in &routes {
        let open = guard::OPEN_PATHS.contains(&path.as_str());
        for headers in [&[][..], &[(header::AUTHORIZATION, "Bearer wrong")]] {
            let got = send(&door, method, path, headers, "").await;
            assert_eq!(got.status == 401, !open, "{method} {path}: {}", got.status);
            if !open && method != "HEAD" {
                assert_eq!(got.problem().kind, "denied");
            }
        }
        let got = send(&door, method, path, &[(header::AUTHORIZATION, "Bearer t0ken")], "").await;
        assert!(![401, 403, 404, 405].contains(&got.status), "{method} {path}: {}", got.status);
    }
    for unknown in ["/v2", "/v1", "/v1/pulls/", "/../v1/status", "//v1/status", "/healthz/x"] {
        assert_eq!(get(&door, unknown).await.status, 401, "{unknown}");
    }
}

#[tokio::test]
async fn the_description_has_every_route_of_the_design_and_unique_operations() {
    let door = door(&HttpConfig::default(), LOOPBACK);
    let routes = described(&door, "").await;
    for (method, path) in [
        ("POST", "/v1/pulls"),
        ("GET", "/v1/pulls/x/events"),
        ("DELETE", "/v1/warm/x"),
        ("POST", "/v1/hooks/scale"),
        ("POST", "/v1/hooks/drain"),
        ("GET", "/v1/artifacts/x/held"),
        ("HEAD", "/v1/files/a/b"),
        ("GET", "/v1/artifacts/x/files/a/b"),
        ("DELETE", "/v1/pins"),
        ("GET", "/metrics"),
        ("GET", "/readyz"),
    ] {
        assert!(routes.contains(&(method.to_owned(), path.to_owned())), "{method} {path}");
    }
    let description = get(&door, "/openapi.json").await.body;
    let description: serde_json::Value = serde_json::from_slice(&description).unwrap();
    let mut ids: Vec<_> = description["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| item.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

#[tokio::test]
async fn a_foreign_host_gets_nothing_from_a_door_without_a_token() {
    let door = door(&HttpConfig::default(), LOOPBACK);
    for (_, path) in described(&door, "").await {
        let request = Request::builder().uri(&path).header(header::HOST, "evil.example");
        let response = door.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let open = guard::OPEN_PATHS.contains(&path.as_str());
        assert_eq!(response.status() == StatusCode::FORBIDDEN, !open, "{path}");
    }
}

#[tokio::test]
async fn a_door_whose_agent_is_starting_is_alive_and_not_ready() {
    let door = door(&HttpConfig::default(), LOOPBACK);
    assert_eq!(get(&door, "/healthz").await.status, 200);
    for path in ["/readyz", "/v1/status", "/v1/files/a?reference=x"] {
        let got = get(&door, path).await;
        assert_eq!((got.status, got.problem().kind.as_str()), (503, "unavailable"), "{path}");
        assert_eq!(got.headers[header::RETRY_AFTER], "1", "{path}");
    }
    let metrics = get(&door, "/metrics").await;
    assert!(String::from_utf8(metrics.body).unwrap().contains("emberline_build_info"));
}

#[tokio::test]
async fn wrong_requests_are_problems_in_json() {
    let json = &[(header::CONTENT_TYPE, "application/json")][..];
    let door = door(&HttpConfig::default(), LOOPBACK);
    let cases = [
        ("GET", "/nothing", &[][..], "", 404, "/nothing"),
        ("PATCH", "/v1/pulls", &[], "", 405, "PATCH"),
        ("POST", "/v1/status", &[], "", 405, "POST"),
        ("POST", "/v1/pulls", &[], "{}", 415, "Content-Type"),
        ("POST", "/v1/pulls", json, "{", 400, "body"),
        ("POST", "/v1/pulls", json, "{}", 400, "reference"),
        ("POST", "/v1/pulls", json, r#"{"reference":"x","allow_pattern":[]}"#, 400, "allow_pattern"),
        ("POST", "/v1/pulls?wiat=true", json, r#"{"reference":"x"}"#, 400, "wiat"),
        ("GET", "/v1/path", &[], "", 400, "reference"),
        ("GET", "/v1/artifacts?resident=perhaps", &[], "", 400, "query"),
        ("PUT", "/v1/pins", &[], "", 415, "Content-Type"),
    ];
    for (method, path, headers, body, status, part) in cases {
        let got = send(&door, method, path, headers, body).await;
        assert_eq!(got.status, status, "{method} {path}: {}", String::from_utf8_lossy(&got.body));
        let problem = got.problem();
        assert!(problem.message.contains(part), "{problem:?}");
    }
    assert_eq!(
        send(&door, "PATCH", "/v1/pulls", &[], "").await.headers[header::ALLOW]
            .to_str()
            .unwrap()
            .matches("POST")
            .count(),
        1
    );
    let large = format!("{{\"reference\":\"{}\"}}", "x".repeat(extract::MAX_BODY_BYTES));
    assert_eq!(send(&door, "POST", "/v1/pulls", json, &large).await.status, 413);
}

#[tokio::test]
async fn names_come_by_query_or_by_body() {
    let json = &[(header::CONTENT_TYPE, "application/json")][..];
    let door = door(&HttpConfig::default(), LOOPBACK);
    for method in ["PUT", "DELETE"] {
        // 503: understood, but there is no agent yet.
        assert_eq!(send(&door, method, "/v1/pins?reference=x", &[], "").await.status, 503);
        assert_eq!(send(&door, method, "/v1/pins", json, r#"{"reference":"x"}"#).await.status, 503);
        assert_eq!(send(&door, method, "/v1/pins", json, r#"{"named":"x"}"#).await.status, 400);
    }
}

#[tokio::test]
async fn paths_that_leave_the_artifact_are_refused_before_anyone_looks() {
    let door = door(&HttpConfig::default(), LOOPBACK);
    for path in
        ["..%2f..%2fetc%2fpasswd", "a/../b", "%2e%2e/x", "a//b", "a%00b", "a%5cb", "a%252e%252e%252fb"]
    {
        let got = get(&door, &format!("/v1/files/{path}?reference=x")).await;
        assert_eq!((got.status, got.problem().kind.as_str()), (400, "invalid"), "{path}");
    }
}
