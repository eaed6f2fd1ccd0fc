//! Hostile input, byte for byte as it is written here: the right answer each time, and the door stays open.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// Sends a request that no honest client would write; the head of the answer.
async fn raw(door: &Door, line: &str, headers: &str, body: &str) -> String {
    let address = door.base.trim_start_matches("http://").trim_end_matches("/hf");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n{body}");
    // A door that has heard enough may close before all was said.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    drop(reading.expect("the door answers and closes"));
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.split("\r\n\r\n").next().unwrap_or_default().to_owned()
}

fn status(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status: {head:?}"))
}

fn code(head: &str) -> &str {
    let code = head.lines().find_map(|line| line.strip_prefix("x-error-code: "));
    code.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_paths_ranges_heads_and_bodies_get_the_right_answers() {
    let hub = Hub::start(small()).await.unwrap();
    let door = Door::open(&hub).await;
    let size = 2 * CHUNK + 9;
    for (line, expected, expected_code) in [
        ("GET /hf/org/name/resolve/main/../../../../etc/passwd", 400, ""),
        ("GET /hf/org/name/resolve/main/..%2f..%2f..%2fetc%2fpasswd", 400, ""),
        ("GET /hf/org/name/resolve/main/%2e%2e/%2e%2e/etc/passwd", 400, ""),
        ("GET /hf/org/name/resolve/main/%252e%252e%252fetc", 400, ""),
        ("GET /hf/org/name/resolve/main//etc/passwd", 400, ""),
        ("GET /hf/org/name/resolve/main/a%00b", 400, ""),
        ("GET /hf/org/name/resolve/main/a%0d%0aset-cookie:%20x", 400, ""),
        ("GET /hf/org/name/resolve/main/%ff%fe", 400, ""),
        ("GET /hf/org/name/resolve/main/a%5C..%5Cb", 400, ""),
        ("GET /hf/org/name/resolve/ma%00in/config.json", 400, ""),
        ("GET /hf/org/name/resolve/..%2Fmain/config.json", 404, "RevisionNotFound"),
        ("GET /hf/org/name/resolve/none/config.json", 404, "RevisionNotFound"),
        ("GET /hf/org/name/resolve/main/none", 404, "EntryNotFound"),
        ("GET /hf/org/name/resolve/main/onnx", 404, "EntryNotFound"),
        ("GET /hf/..%2F..%2Fetc/name/resolve/main/passwd", 404, "RepoNotFound"),
        ("GET /hf/org/other/resolve/main/config.json", 401, "RepoNotFound"),
        ("GET /hf/api/models/%2e%2e/%2e%2e/revision/main", 404, "RepoNotFound"),
        ("GET /hf/api/models/org/name@evil/revision/main", 404, "RepoNotFound"),
        ("GET /hf/api/models/org/name/tree/main/../..", 400, ""),
        ("GET /hf/api/models/org/name/tree/main?limit=-1", 400, ""),
        ("GET /hf/api/models/org/name/tree/main?limit=99999999999999999999", 400, ""),
        ("GET /hf/api/whoami-v2", 404, ""),
        ("GET /hf/api/models?search=x", 404, ""),
        ("GET /hf/", 404, ""),
        ("POST /hf/org/name/resolve/main/config.json", 405, ""),
        ("POST /hf/api/models/org/name/commit/main", 404, ""),
        ("DELETE /hf/org/name/resolve/main/config.json", 405, ""),
        ("PUT /hf/api/models/org/name", 405, ""),
        // An encoded slash in a path is a slash.
        ("GET /hf/org/name/resolve/main/onnx%2Fmodel.onnx", 200, ""),
    ] {
        let head = raw(&door, line, "", "").await;
        assert_eq!((status(&head), code(&head)), (expected, expected_code), "{line}\n{head}");
        assert!(!head.contains("set-cookie"), "{head}");
    }
    let thousand = format!("range: bytes={}\r\n", vec!["0-0"; 1000].join(","));
    for (range, expected) in [
        ("range: bytes=5-2\r\n", 416),
        ("range: bytes=-0\r\n", 416),
        (&format!("range: bytes={size}-\r\n"), 416),
        ("range: bytes=99999999999999999999-\r\n", 416),
        ("range: bytes=0-99999999999999999999\r\n", 206),
        ("range: items=0-1\r\n", 200),
        ("range: bytes=a-b\r\n", 416),
        (&thousand, 416),
    ] {
        let head = raw(&door, "GET /hf/org/name/resolve/main/model.safetensors", range, "").await;
        assert_eq!(status(&head), expected, "{range}\n{head}");
    }
    let huge = format!("authorization: Bearer {}\r\n", "x".repeat(300_000));
    assert_eq!(status(&raw(&door, "GET /hf/api/models/org/name", &huge, "").await), 431);
    let evil = raw(&door, "GET /hf/api/models/org/name", "origin: http://evil.example\r\n", "").await;
    assert_eq!(status(&evil), 403, "a page of another site may not ask");
    let image = "sec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors\r\nsec-fetch-dest: image\r\n";
    let evil = raw(&door, "GET /hf/org/name/resolve/main/model.safetensors", image, "").await;
    assert_eq!(status(&evil), 403, "nor have an image of it");
    let line = "POST /hf/api/models/org/name/paths-info/main";
    for (kind, body, expected) in [
        ("application/json", "{".to_owned(), 400),
        ("application/json", r#"{"paths":["../../etc/passwd","config.json"]}"#.to_owned(), 200),
        ("application/x-www-form-urlencoded", "paths=a&".repeat(1001), 400),
        ("application/json", "x".repeat(2 << 20), 400),
        ("text/plain", "x".to_owned(), 200),
    ] {
        let headers = format!("content-type: {kind}\r\ncontent-length: {}\r\n", body.len());
        let head = raw(&door, line, &headers, &body).await;
        assert_eq!(status(&head), expected, "{kind} {}…\n{head}", &body[..body.len().min(40)]);
    }
    assert_eq!(door.json("api/models/org/name").await["sha"], hub.commit());
    let memory = door.agent.status(false).await.rss_bytes;
    assert!(memory < 1 << 30, "{memory} bytes resident");
    door.close().await;
}
