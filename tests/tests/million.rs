//! A directory of a million objects, through every door that lists: each name once and in order, one request to
//! the origin a page, and no more memory than for a small one.

use std::time::Duration;

use emberline_agent::api::Listing;
use emberline_tests::{
    agent_process::{AgentOptions, AgentProcess},
    environment::VastBucket,
    mounted::{self, Mounted},
};

const OBJECTS: u64 = 1_000_000;
const PAGE: u64 = 1000;
/// What an agent may have resident, whatever the model; all names at once take twice as much.
const RSS_MAX: u64 = 200 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn settings(bucket: &VastBucket) -> Vec<(String, String)> {
    let settings = [
        ("EMBERLINE_ORIGINS__S3__ENDPOINT", bucket.url()),
        ("EMBERLINE_ORIGINS__S3__ANONYMOUS", "true"),
        ("EMBERLINE_MOUNTS__MODELS", "s3://vast"),
        ("EMBERLINE_S3__LISTEN", "127.0.0.1:0"),
    ];
    settings.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
}

/// Checks that `listed` goes on as the bucket's names do.
fn goes_on(names: &mut impl Iterator<Item = String>, listed: &str) {
    assert_eq!(names.next().as_deref(), Some(listed));
}

fn is_small(agent: &AgentProcess, door: &str) {
    let peak = agent.stats().expect("it lives").peak_rss_bytes;
    println!("{OBJECTS} names by {door}: at most {} MiB resident", peak >> 20);
    assert!(peak < RSS_MAX, "{peak} bytes resident at the most");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_objects_are_listed_by_pages_over_http_and_s3_in_bounded_memory() {
    let bucket = VastBucket::start(OBJECTS).await.expect("a bucket");
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut options = AgentOptions::new("million");
    options.env = settings(&bucket);
    let agent = AgentProcess::start(dir.path(), options).await.expect("an agent");

    let (mut names, mut after) = (bucket.names(), String::new());
    loop {
        let page: Listing = agent
            .client()
            .get(&format!("/v1/fs/models/data?list&limit={PAGE}{after}"))
            .await
            .expect("a page");
        page.entries.iter().for_each(|entry| goes_on(&mut names, &entry.name));
        match page.next {
            Some(next) => after = format!("&start_after={next}"),
            None => break,
        }
    }
    assert_eq!(names.next(), None, "the listing ended early");
    assert!(bucket.pages() <= OBJECTS / PAGE + 2, "{} pages of the origin", bucket.pages());
    is_small(&agent, "HTTP");

    let before = bucket.pages();
    let (mut names, mut token) = (bucket.names(), String::new());
    let door = format!("http://{}/models?list-type=2&prefix=data/&delimiter=/", agent.s3().expect("a door"));
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    loop {
        let answer = client.get(format!("{door}{token}")).timeout(PATIENCE).send().await.expect("an answer");
        let page = answer.error_for_status().expect("a page").text().await.expect("text");
        let texts = |tag: &'static str| {
            let parts = page.split(tag).skip(1);
            parts.map(|part| part.split('<').next().unwrap_or_default())
        };
        texts("<Key>").for_each(|key| goes_on(&mut names, key.strip_prefix("data/").expect("a key of it")));
        match texts("<NextContinuationToken>").next() {
            Some(next) => {
                let next: String =
                    reqwest::Url::parse_with_params("http://x/", [("continuation-token", next)])
                        .expect("a URL")
                        .query()
                        .expect("a query")
                        .to_owned();
                token = format!("&{next}");
            }
            None => break,
        }
    }
    assert_eq!(names.next(), None, "the listing ended early");
    assert!(bucket.pages() - before <= OBJECTS / PAGE + 2, "{} pages of the origin", bucket.pages() - before);
    is_small(&agent, "HTTP and S3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_objects_are_listed_and_looked_at_in_the_mount_in_bounded_memory() {
    if let Some(why) = mounted::why_not() {
        eprintln!("SKIPPED a_million_objects_are_listed_and_looked_at_in_the_mount_in_bounded_memory: {why}");
        return;
    }
    let bucket = VastBucket::start(OBJECTS).await.expect("a bucket");
    let mount = Mounted::start("s3://vast", |options, _| {
        let own = settings(&bucket).into_iter().filter(|(key, _)| key != "EMBERLINE_MOUNTS__MODELS");
        options.env.extend(own);
    })
    .await
    .expect("a mount");
    let (at, mut names) = (mount.models().join("data"), bucket.names());
    let work = move || {
        // Looks at each: the kernel then remembers it, and so has the agent to.
        for entry in std::fs::read_dir(&at).expect("a directory") {
            let entry = entry.expect("an entry");
            assert_eq!(entry.metadata().expect("a file").len(), 7);
            goes_on(&mut names, entry.file_name().to_str().expect("text"));
        }
        assert_eq!(names.next(), None, "the listing ended early");
    };
    tokio::task::spawn_blocking(work).await.expect("no panic");
    is_small(mount.agent(), "FUSE");
}
