//! Hostile and broken requests, byte for byte, and what each is answered.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::stack::{Setting, Stack};

/// An answer, or what came of it.
#[derive(Debug, Default)]
struct Got {
    status: u16,
    text: String,
}

impl Got {
    fn code(&self) -> &str {
        let code = self.text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map_or("", |(code, _)| code)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().take_while(|line| !line.is_empty()).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// What is asked for, with which headers, and the status and code it is answered with.
type Row<'a> = (&'a str, Vec<(&'a str, &'a str)>, u16, &'a str);

/// Sends bytes and reads until the door closes.
fn send(door: &str, request: &[u8]) -> Got {
    let mut stream = TcpStream::connect(door).expect("the door is open");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    // A door that has heard enough closes early.
    let _ = stream.write_all(request);
    read(&mut stream)
}

fn read(stream: &mut TcpStream) -> Got {
    let mut bytes = Vec::new();
    // A reset behind the answer is as good as an end.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Got { status, text }
}

fn request(line: &str, headers: &[(&str, &str)]) -> String {
    let host = if headers.iter().any(|(name, _)| *name == "Host") { "" } else { "Host: 127.0.0.1\r\n" };
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{line} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hostile_request_gets_its_answer() {
    let anonymous = Stack::start(Setting { anonymous: true, ..Setting::default() }).await;
    let signed = Stack::start(Setting::default()).await;
    let door = |stack: &Stack| stack.url().trim_start_matches("http://").to_owned();
    let (open, closed) = (door(&anonymous), door(&signed));
    let rows = tokio::task::spawn_blocking(move || {
        requests(&open);
        unsigned(&closed);
        heads(&open);
    });
    rows.await.expect("every answer is the right one");
    for stack in [&anonymous, &signed] {
        assert!(!stack.agent.log().contains("panicked"), "{}", stack.agent.log());
        assert!(stack.agent.client().is_ready().await);
    }
}

/// `data/part 07…` is one byte, `7`; `data/table.parquet` is long.
fn requests(door: &str) {
    let many = format!("bytes={}", (0..1000).map(|n| format!("{n}-{n}")).collect::<Vec<_>>().join(","));
    let seventeen =
        format!("bytes={}", (0..17).map(|n| format!("{0}-{0}", 2 * n)).collect::<Vec<_>>().join(","));
    let long = format!("GET /zoo/{}", "k".repeat(1100));
    let table = "GET /zoo/data/table.parquet";
    let range = |value| vec![("Range", value)];
    #[rustfmt::skip]
    let rows: Vec<Row<'_>> = vec![
        // Ranges
        (table, range("bytes=5-2"), 416, "InvalidRange"),
        (table, range("bytes=-0"), 416, "InvalidRange"),
        (table, range("bytes=99999999999-"), 416, "InvalidRange"),
        (table, range("bytes=0-99999999999999999999"), 206, ""),
        (table, range("bytes=99999999999999999999-"), 416, "InvalidRange"),
        (table, range("bytes=-99999999999999999999"), 206, ""),
        (table, range("bytes=0-5,3-9"), 206, ""),
        (table, range("bytes=0-5,100-109"), 200, ""),
        (table, range(&seventeen), 416, "InvalidRange"),
        (table, range(&many), 416, "InvalidRange"),
        (table, range("items=0-1"), 200, ""),
        (table, range("bytes=x-y"), 416, "InvalidRange"),
        (table, range("nonsense"), 416, "InvalidRange"),
        ("GET /zoo/data/empty", range("bytes=0-"), 200, ""),
        ("GET /zoo/data/empty", range("bytes=5-"), 416, "InvalidRange"),
        ("HEAD /zoo/data/table.parquet", range("bytes=0-1"), 206, ""),
        // Conditions
        (table, vec![("If-Match", "\"stale\"")], 412, "PreconditionFailed"),
        (table, vec![("If-Range", "\"stale\""), ("Range", "bytes=0-1")], 200, ""),
        (table, vec![("If-None-Match", "*")], 304, ""),
        (table, vec![("If-Modified-Since", "no date")], 200, ""),
        ("GET /zoo/data/table.parquet?partNumber=2", vec![], 416, "InvalidPartNumber"),
        ("GET /zoo/data/table.parquet?partNumber=0", vec![], 400, "InvalidArgument"),
        ("GET /zoo/data/table.parquet?partNumber=1", range("bytes=0-1"), 400, "InvalidRequest"),
        ("GET /zoo/data/table.parquet?versionId=abc", vec![], 404, "NoSuchVersion"),
        // Names
        ("GET /zoo/../../../etc/passwd", vec![], 404, "NoSuchKey"),
        ("GET /zoo/%2e%2e/%2e%2e/etc/passwd", vec![], 404, "NoSuchKey"),
        ("GET /zoo/..%5c..%5cetc", vec![], 404, "NoSuchKey"),
        ("GET /zoo/a%00b", vec![], 404, "NoSuchKey"),
        ("GET /zoo/a%0d%0ax:%20y", vec![], 404, "NoSuchKey"),
        ("GET /zoo/data//table.parquet", vec![], 404, "NoSuchKey"),
        ("GET /zoo/data/table.parquet/", vec![], 404, "NoSuchKey"),
        ("GET /zoo/%ff%fe", vec![], 400, "InvalidURI"),
        (&long, vec![], 400, "KeyTooLongError"),
        ("GET /../zoo", vec![], 400, "InvalidBucketName"),
        ("GET /no%5cbucket/", vec![], 400, "InvalidBucketName"),
        // Listings
        ("GET /zoo/?list-type=2&max-keys=-1", vec![], 400, "InvalidArgument"),
        ("GET /zoo/?list-type=2&max-keys=many", vec![], 400, "InvalidArgument"),
        ("GET /zoo/?list-type=2&max-keys=2147483647", vec![], 200, ""),
        ("GET /zoo/?list-type=2&continuation-token=zz", vec![], 400, "InvalidArgument"),
        ("GET /zoo/?list-type=2&delimiter=-", vec![], 501, "NotImplemented"),
        ("GET /zoo/?list-type=2&prefix=../", vec![], 200, ""),
        ("GET /zoo/?list-type=2&encoding-type=rot13", vec![], 400, "InvalidArgument"),
        // Whom it is for
        (table, vec![("Host", "evil.example")], 403, "AccessDenied"),
        (table, vec![("Host", "127.0.0.1"), ("Origin", "https://evil.example")], 403, "AccessDenied"),
        ("GET http://evil.example/zoo/data/empty", vec![], 403, "AccessDenied"),
        ("GET http://127.0.0.1/zoo/data/empty", vec![], 200, ""),
        ("GET /data/empty", vec![("Host", "zoo.localhost")], 200, ""),
        ("GET /empty", vec![("Host", "localhost")], 404, "NoSuchBucket"),
        // Signatures that nobody can check are none
        (table, vec![("Authorization", "AWS4-HMAC-SHA256 rubbish"), ("Range", "bytes=0-0")], 206, ""),
        ("GET /zoo/data/empty?X-Amz-Signature=rubbish", vec![], 200, ""),
        // What is not here
        ("GET /zoo/data/empty?acl", vec![], 501, "NotImplemented"),
        ("BREW /zoo/data/empty", vec![], 501, "NotImplemented"),
    ];
    for (line, headers, status, code) in rows {
        let got = send(door, request(line, &headers).as_bytes());
        let shown: String = got.text.chars().take(600).collect();
        assert_eq!((got.status, got.code()), (status, code), "{line} {headers:?}\n{shown}");
        assert!(code.is_empty() || got.text.contains("<Message>"), "{line} {headers:?}\n{shown}");
        match got.status {
            416 if code == "InvalidRange" => {
                assert!(got.header("content-range").is_some_and(|r| r.starts_with("bytes */")), "{shown}");
            }
            200 | 206 if line.contains("/data/") => assert!(got.header("etag").is_some(), "{shown}"),
            _ => {}
        }
    }
}

fn unsigned(door: &str) {
    let long_ago = "AWS4-HMAC-SHA256 Credential=door-key/20010101/us-east-1/s3/aws4_request, \
                    SignedHeaders=host;x-amz-date, Signature=00";
    let skewed = [
        ("Authorization", long_ago),
        ("x-amz-date", "20010101T000000Z"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
    ];
    let expired = "GET /zoo/data/empty?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=door-key%2F20010101%2Fus-east-1%2Fs3\
                   %2Faws4_request&X-Amz-Date=20010101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=\
                   0000000000000000000000000000000000000000000000000000000000000000";
    #[rustfmt::skip]
    let rows: Vec<Row<'_>> = vec![
        ("GET /zoo/data/empty", skewed.to_vec(), 403, "RequestTimeTooSkewed"),
        ("GET /zoo/?list-type=2", skewed.to_vec(), 403, "RequestTimeTooSkewed"),
        (expired, vec![], 403, "AccessDenied"),
        ("GET /", vec![], 403, "AccessDenied"),
        ("GET /zoo/", vec![], 403, "AccessDenied"),
        ("HEAD /zoo/data/empty", vec![], 403, ""),
        ("GET /zoo/data/empty", vec![], 403, "AccessDenied"),
        ("GET /zoo/data/no-such-key", vec![], 403, "AccessDenied"),
        ("PUT /zoo/data/new", vec![("Content-Length", "0")], 403, "AccessDenied"),
        ("DELETE /zoo/data/empty", vec![], 403, "AccessDenied"),
        ("GET /zoo/data/empty", vec![("Authorization", "rubbish")], 400, "InvalidRequest"),
    ];
    for (line, headers, status, code) in rows {
        let got = send(door, request(line, &headers).as_bytes());
        assert_eq!((got.status, got.code()), (status, code), "{line} {headers:?}\n{}", got.text);
        assert!(code.is_empty() || got.text.contains("<Message>"), "{line} {headers:?}\n{}", got.text);
    }
}

fn heads(door: &str) {
    // More than the limit and what one read may bring beyond it.
    let huge = request("GET /zoo/data/empty", &[("x-filler", &"x".repeat(200 << 10))]);
    assert_eq!(send(door, huge.as_bytes()).status, 431);
    let fillers: Vec<(String, &str)> = (0..200).map(|n| (format!("x-{n}"), "y")).collect();
    let fillers: Vec<(&str, &str)> = fillers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(send(door, request("GET /zoo/data/empty", &fillers).as_bytes()).status, 431);
    // A head that drips is not waited for for ever.
    let mut stream = TcpStream::connect(door).expect("the door is open");
    stream.write_all(b"GET /zoo/data/empty HTTP/1.1\r\nHost: 127").expect("sent");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let began = Instant::now();
    let got = read(&mut stream);
    assert!(began.elapsed() < Duration::from_secs(45) && got.status != 200, "{got:?}");
    // A body that is no form, and one that claims to be endless.
    let form = [("Content-Type", "multipart/form-data; boundary=x"), ("Content-Length", "4")];
    let got = send(door, format!("{}rubb", request("POST /zoo/", &form)).as_bytes());
    assert!((400..500).contains(&got.status), "{got:?}");
    let endless = [("Content-Length", "99999999999999")];
    let got = send(door, format!("{}<Delete>", request("POST /zoo/?delete", &endless)).as_bytes());
    assert!((400..500).contains(&got.status), "{got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_connections_the_door_says_slow_down() {
    let stack =
        Stack::start(Setting { anonymous: true, door: "max_connections = 2", ..Setting::default() }).await;
    let door = stack.url().trim_start_matches("http://").to_owned();
    let got = tokio::task::spawn_blocking(move || {
        let held: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(&door).expect("open")).collect();
        let got = send(&door, request("GET /zoo/data/empty", &[]).as_bytes());
        drop(held);
        got
    });
    let got = got.await.expect("answered");
    assert_eq!((got.status, got.code(), got.header("retry-after")), (503, "SlowDown", Some("2")), "{got:?}");
    assert!(got.text.contains("s3.max_connections"), "{got:?}");
    assert!(stack.metric("emberline_http_shed_total").await >= 1.0);
}
