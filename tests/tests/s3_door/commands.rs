//! Clients on the command line.

use std::process::Command;

use emberline_tests::environment::{s3_clients, system_program};

use crate::stack::{DOOR_KEY, DOOR_SECRET, Setting, Stack, digest, passed};

fn client(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(s3_clients().expect("clients of S3").join(name));
    command.args(arguments);
    command
}

fn installed(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(system_program(name, name).expect("a client of S3"));
    command.args(arguments);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_cli_copies_syncs_and_lists() {
    let stack = Stack::start(Setting::default()).await;
    let (key, _) = stack.shard();
    let (source, copy) = (format!("s3://zoo/{key}"), stack.dir.path().join("copy"));
    let target = copy.display().to_string();
    stack
        .reads_while_it_comes_and_after(async || {
            stack.run(client("aws", &["s3", "cp", "--no-progress", &source, &target])).await;
            digest(&copy)
        })
        .await;
    let listed = stack.run(client("aws", &["s3", "ls", "s3://zoo/"])).await;
    assert!(listed.contains("PRE data/") && listed.contains("PRE llama/"), "{listed}");
    assert!(stack.run(client("aws", &["s3", "ls"])).await.contains("zoo"));
    stack.run(client("aws", &["s3", "sync", "--no-progress", "s3://zoo/llama", "model"])).await;
    for file in &stack.origin.model.files {
        assert_eq!(digest(&stack.dir.path().join("model").join(&file.path)), file.sha256, "{}", file.path);
    }
    let version = stack.run(client("aws", &["--version"])).await;
    let version = version.trim_start_matches("aws-cli/").split(' ').next().unwrap_or_default();
    passed("awscli", version, "cp, sync, ls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_signs_and_reads_by_http2() {
    let stack = Stack::start(Setting::default()).await;
    let (key, _) = stack.shard();
    let (url, copy) = (format!("{}/zoo/{key}", stack.url()), stack.dir.path().join("copy"));
    let target = copy.display().to_string();
    let user = format!("{DOOR_KEY}:{DOOR_SECRET}");
    let signed = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user];
    // SHA-256 of nothing, which this curl does not send by itself.
    let empty = "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let curl = |arguments: &[&str]| {
        let how =
            ["--http2-prior-knowledge", "--silent", "--show-error", "--header", empty, "--output", &target];
        let tell = ["--write-out", "%{http_version} %{http_code}"];
        installed("curl", &[&how[..], &tell, arguments, &[&url]].concat())
    };
    stack
        .reads_while_it_comes_and_after(async || {
            assert_eq!(stack.run(curl(&signed)).await, "2 200");
            digest(&copy)
        })
        .await;
    let whole = std::fs::read(&copy).expect("readable");
    let part = [&signed[..], &["--range", "1000-2999"]].concat();
    assert_eq!(stack.run(curl(&part)).await, "2 206");
    assert!(std::fs::read(&copy).expect("readable") == whole[1000..3000]);
    let wrong = format!("{DOOR_KEY}:other");
    assert_eq!(stack.run(curl(&["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &wrong])).await, "2 403");
    assert_eq!(stack.run(curl(&[])).await, "2 403");
    let version = stack.run(installed("curl", &["--version"])).await;
    passed("curl", version.split(' ').nth(1).unwrap_or_default(), "--aws-sigv4 over HTTP/2, a range").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s5cmd_copies_and_lists() {
    let stack = Stack::start(Setting::default()).await;
    let (key, _) = stack.shard();
    let (source, copy) = (format!("s3://zoo/{key}"), stack.dir.path().join("copy"));
    let target = copy.display().to_string();
    let url = stack.url();
    let s5cmd = |arguments: &[&str]| client("s5cmd", &[&["--endpoint-url", &url], arguments].concat());
    stack
        .reads_while_it_comes_and_after(async || {
            stack.run(s5cmd(&["cp", "--concurrency", "4", "--part-size", "1", &source, &target])).await;
            digest(&copy)
        })
        .await;
    let listed = stack.run(s5cmd(&["ls", "s3://zoo/data/*.txt"])).await;
    assert_eq!(listed.lines().count(), 25, "{listed}");
    assert_eq!(stack.run(s5cmd(&["cat", "s3://zoo/data/part 04+ü&.txt"])).await, "4");
    std::fs::create_dir(stack.dir.path().join("model")).expect("a folder");
    stack.run(s5cmd(&["cp", "s3://zoo/llama/*", "model/"])).await;
    for file in &stack.origin.model.files {
        assert_eq!(digest(&stack.dir.path().join("model").join(&file.path)), file.sha256, "{}", file.path);
    }
    let version = stack.run(client("s5cmd", &["version"])).await;
    let version = version.trim().trim_start_matches('v').split('-').next().unwrap_or_default().to_owned();
    passed("s5cmd", &version, "cp in parts, cp of a prefix, cat, ls with a glob").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rclone_copies_checks_and_lists_in_version_1() {
    let stack = Stack::start(Setting::default()).await;
    let (key, _) = stack.shard();
    let remote = format!(
        ":s3,provider=Other,access_key_id={DOOR_KEY},secret_access_key={DOOR_SECRET},endpoint='{}':zoo",
        stack.url()
    );
    let source = format!("{remote}/{key}");
    let name = key.rsplit('/').next().expect("a name");
    stack
        .reads_while_it_comes_and_after(async || {
            drop(std::fs::remove_dir_all(stack.dir.path().join("copy")));
            stack.run(installed("rclone", &["copy", &source, "copy"])).await;
            digest(&stack.dir.path().join("copy").join(name))
        })
        .await;
    let listed = stack.run(installed("rclone", &["lsf", "-R", &remote])).await;
    assert!(listed.contains("data/part 09+ü&.txt") && listed.contains("llama/"), "{listed}");
    stack.run(installed("rclone", &["sync", &format!("{remote}/llama"), "model"])).await;
    stack.run(installed("rclone", &["check", "--download", &format!("{remote}/llama"), "model"])).await;
    let version = stack.run(installed("rclone", &["version"])).await;
    let version = version.lines().next().unwrap_or_default().trim_start_matches("rclone v").to_owned();
    passed("rclone", &version, "copy, sync, check, lsf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3cmd_gets_and_lists() {
    let stack = Stack::start(Setting::default()).await;
    let (key, _) = stack.shard();
    let host = stack.url().trim_start_matches("http://").to_owned();
    let keys = [format!("--access_key={DOOR_KEY}"), format!("--secret_key={DOOR_SECRET}")];
    let hosts = [format!("--host={host}"), format!("--host-bucket={host}")];
    let s3cmd = |arguments: &[&str]| {
        let mut command = installed("s3cmd", &["--config=/dev/null", "--no-ssl", "--force"]);
        command.args(&keys).args(&hosts).args(arguments);
        command
    };
    let source = format!("s3://zoo/{key}");
    stack
        .reads_while_it_comes_and_after(async || {
            stack.run(s3cmd(&["get", "--no-progress", &source, "copy"])).await;
            digest(&stack.dir.path().join("copy"))
        })
        .await;
    let listed = stack.run(s3cmd(&["ls", "s3://zoo/"])).await;
    assert!(listed.contains("s3://zoo/data/") && listed.contains("s3://zoo/llama/"), "{listed}");
    // By itself it signs this one request for a region called US, which s3s takes for none.
    assert!(stack.run(s3cmd(&["--region=us-east-1", "ls"])).await.contains("s3://zoo"));
    let version = stack.run(installed("s3cmd", &["--version"])).await;
    passed("s3cmd", version.trim().trim_start_matches("s3cmd version "), "get, ls").await;
}
