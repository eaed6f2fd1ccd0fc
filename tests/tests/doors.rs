//! The HTTP door of a real agent, as curl and Prometheus see it: ranges, validators, refusals, metrics.

use std::process::Command;

use emberline_agent::api::Status;
use emberline_tests::{
    agent_process::AgentOptions,
    binaries::{Binaries, without_our_settings},
    cluster::{Cluster, fresh_secret},
    site::Site,
};
use serde_json::Value;

/// What curl got.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// Runs curl, sending the path as it is given. Blocks.
fn curl(url: &str, args: &[&str]) -> Got {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (head, body) = (dir.path().join("head"), dir.path().join("body"));
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--path-as-is", "--max-time", "60", "--write-out", "%{http_code}"])
        .arg("--dump-header")
        .arg(&head)
        .arg("--output")
        .arg(&body)
        .args(args)
        .arg(url)
        .output()
        .expect("curl is installed");
    let status = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default();
    assert_ne!(status, 0, "curl {args:?} {url}: {}", String::from_utf8_lossy(&output.stderr));
    Got {
        status,
        head: std::fs::read_to_string(&head).unwrap_or_default(),
        body: std::fs::read(&body).unwrap_or_default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_served_as_clients_ask_for_it_and_hostile_ranges_are_refused() {
    let site = Site::unpaced(8).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let agent = &cluster.agents()[0];
    site.is_whole(&site.pull(agent).await);
    let name = site.model().files[0].path.clone();
    let original = std::fs::read(site.model().dir.join(&name)).expect("readable");
    let url = format!("{}/v1/files/{name}?reference={}", agent.client().base(), site.reference());
    let status: Status = agent.client().status().await.expect("alive");
    let by_id = format!("{}/v1/artifacts/{}/files/{name}", agent.client().base(), status.artifacts[0].swarm);
    let base = agent.client().base().to_owned();
    let work = move || {
        whole_file(&url, &by_id, &original);
        parts(&url, &original);
        validators(&url);
        hostile(&url, &base, &original);
    };
    tokio::task::spawn_blocking(work).await.expect("no panic");
    let memory: Status = agent.client().status().await.expect("alive");
    assert!(memory.rss_bytes < 512 << 20, "{} bytes resident", memory.rss_bytes);
}

/// A strong tag of 64 digits.
fn etag_of(url: &str) -> String {
    let got = curl(url, &["--head"]);
    let etag = got.header("etag").expect("a tag").to_owned();
    let digits = etag.trim_matches('"');
    assert!(digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{etag}");
    etag
}

fn whole_file(url: &str, by_id: &str, original: &[u8]) {
    for url in [url, by_id] {
        let got = curl(url, &[]);
        assert_eq!((got.status, got.header("accept-ranges")), (200, Some("bytes")), "{}", got.head);
        assert!(got.body == original, "{url} differs");
        assert_eq!(
            got.header("etag"),
            Some(etag_of(by_id).as_str()),
            "one version has one tag at every door"
        );
    }
    let got = curl(url, &["--head"]);
    assert_eq!(got.status, 200);
    assert_eq!(got.header("content-length"), Some(original.len().to_string().as_str()), "{}", got.head);
}

fn parts(url: &str, original: &[u8]) {
    let size = original.len();
    for (range, expected) in [
        ("0-0", 0..1),
        ("8-107", 8..108),
        ("-100", size - 100..size),
        ("100-", 100..size),
        // hf_transfer ends its last range at the size: it is cut to it.
        (format!("{}-{size}", size - 10).as_str(), size - 10..size),
        ("0-99999999999999999999", 0..size),
    ] {
        let got = curl(url, &["--header", &format!("Range: bytes={range}")]);
        assert_eq!(got.status, 206, "{range}: {}", got.head);
        assert!(got.body == original[expected.clone()], "{range} differs");
        let told = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
        assert_eq!(got.header("content-range"), Some(told.as_str()), "{range}");
    }
    let got = curl(url, &["--header", "Range: bytes=0-9,20-29"]);
    let kind = got.header("content-type").unwrap_or_default();
    assert!(got.status == 206 && kind.starts_with("multipart/byteranges"), "{}", got.head);
}

fn validators(url: &str) {
    let etag = etag_of(url);
    let with = |header: String, extra: &[&str]| curl(url, &[&["--header", header.as_str()], extra].concat());
    assert_eq!(with(format!("If-None-Match: {etag}"), &[]).status, 304);
    assert_eq!(with("If-None-Match: \"other\"".to_owned(), &[]).status, 200);
    assert_eq!(with("If-Match: \"other\"".to_owned(), &[]).status, 412);
    let range = ["--header", "Range: bytes=0-9"];
    assert_eq!(with(format!("If-Range: {etag}"), &range).status, 206);
    assert_eq!(with("If-Range: \"other\"".to_owned(), &range).status, 200);
}

fn hostile(url: &str, base: &str, original: &[u8]) {
    let size = original.len();
    let many = (0..1000).map(|n| format!("{n}-{n}")).collect::<Vec<_>>().join(",");
    let overlapping = ["0-"; 17].join(",");
    for range in ["5-2", "-0", &format!("{size}-"), &many, &overlapping] {
        let got = curl(url, &["--header", &format!("Range: bytes={range}")]);
        let shown = &range[..range.len().min(20)];
        assert!(matches!(got.status, 200 | 416), "{shown}: {}", got.status);
        assert!(got.status == 416 || got.body == original, "{shown}: 200 with something else");
        assert!(got.body.len() <= size, "{shown}: {} bytes", got.body.len());
    }
    let got = curl(url, &["--header", "Range: items=0-1"]);
    assert!(got.status == 200 && got.body == original, "a unit that nobody knows is passed over");

    let swarm_less = "/v1/artifacts/x/files/";
    for path in ["../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "a%00b", "/etc/passwd", "..%5c..%5cx"] {
        let got = curl(&format!("{base}{swarm_less}{path}"), &[]);
        assert!(
            matches!(got.status, 400 | 404),
            "{path}: {} {}",
            got.status,
            String::from_utf8_lossy(&got.body)
        );
        let got = curl(&format!("{base}/v1/files/{path}?{}", url.split_once('?').expect("a query").1), &[]);
        assert!(
            matches!(got.status, 400 | 404),
            "{path}: {} {}",
            got.status,
            String::from_utf8_lossy(&got.body)
        );
    }
    // A page in a browser may resolve its own name to this machine.
    let got = curl(&format!("{base}/v1/status"), &["--header", "Host: evil.example"]);
    assert!(matches!(got.status, 400 | 403 | 421), "{}", got.status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_have_the_promised_names_and_count_what_came() {
    let site = Site::unpaced(8).await;
    let cluster = Cluster::start(2).await.expect("a cluster");
    for agent in cluster.agents() {
        site.is_whole(&site.pull(agent).await);
    }
    let page = cluster.agents()[1].client().metrics().await.expect("metrics");
    for name in [
        "emberline_origin_bytes_total",
        "emberline_peer_bytes_total",
        "emberline_reused_bytes_total",
        "emberline_served_bytes_total",
        "emberline_phase_seconds_bucket{",
        "emberline_stalls_total{reason=\"origin\"}",
        "emberline_stalls_total{reason=\"peer\"}",
        "emberline_corrupt_chunks_total{",
        "emberline_present_bytes",
        "emberline_wanted_bytes",
        "emberline_members{",
        "emberline_store_quota_bytes",
        "emberline_resident_memory_bytes",
        "emberline_build_info{",
    ] {
        assert!(page.lines().any(|line| line.starts_with(name)), "{name} is not in\n{page}");
    }
    let value = |name: &str| -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or_else(|| panic!("{name} has no value in\n{page}"))
    };
    let came = value("emberline_origin_bytes_total") + value("emberline_peer_bytes_total");
    assert!(came >= site.model().bytes() as f64, "{came}");
    assert_eq!(value("emberline_present_bytes"), site.model().bytes() as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_but_health_denies_without_the_token_and_no_token_means_loopback() {
    let mut cluster = Cluster::empty().expect("a secret");
    let token = cluster.home().join("token");
    fresh_secret(&token).expect("written");
    let file = token.display().to_string();
    let with = |options: &mut AgentOptions| options.env.push(("EMBERLINE_HTTP__TOKEN_FILE".to_owned(), file));
    let agent = cluster.join(with).await.expect("an agent");
    let base = agent.client().base().to_owned();
    let right = std::fs::read_to_string(&token).expect("readable");
    let work = move || {
        let bearer = format!("Authorization: Bearer {}", right.trim());
        let described = curl(&format!("{base}/openapi.json"), &["--header", &bearer]);
        assert_eq!(described.status, 200);
        let described: Value = serde_json::from_slice(&described.body).expect("JSON");
        let mut denied = 0;
        for (path, item) in described["paths"].as_object().expect("paths") {
            for method in item.as_object().expect("methods").keys().filter(|method| *method != "head") {
                let url = format!("{base}{}", path.replace("{id}", "x").replace("{path}", "a/b"));
                for header in ["X-Nothing: here", "Authorization: Bearer wrong"] {
                    let got = curl(&url, &["--request", &method.to_uppercase(), "--header", header]);
                    match path.as_str() {
                        "/healthz" | "/readyz" => assert_eq!(got.status, 200, "{path}"),
                        _ => {
                            assert!(matches!(got.status, 401 | 403), "{method} {path}: {}", got.status);
                            denied += 1;
                        }
                    }
                }
            }
        }
        assert!(denied > 40, "only {denied} requests were tried");
        let open = without_our_settings(Binaries::locate().expect("the programs").agent)
            .args(["--http", "0.0.0.0:0", "--check-config"])
            .output()
            .expect("the agent starts");
        let said = String::from_utf8_lossy(&open.stderr);
        assert!(!open.status.success() && said.contains("token_file"), "{said}");
    };
    tokio::task::spawn_blocking(work).await.expect("no panic");
}
