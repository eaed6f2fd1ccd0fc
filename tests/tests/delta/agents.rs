//! Real agents that hold one version of a real model pull the next, from a real S3 server.
//!
//! What the origin gives is counted by a relay in front of it; what peers give, by the agents.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use emberline_agent::api::{Plan, PlanRequest, PublishReport, PullRequest, PullStatus, Sources};
use emberline_tests::{
    agent_process::{AgentOptions, AgentProcess},
    client::AgentClient,
    cluster::{Cluster, wait_members},
    command::{answers, fails},
    delta_bench::pairs::{Files, WEIGHTS, Weights, is_late, write},
    environment::{Hub, HubFile, HubSettings, Moto, S3_KEY, S3_SECRET},
    relay::Relay,
};
use reqwest::Method;

/// Long for the machine that also compiles, short for a hang.
const PATIENCE: Duration = Duration::from_secs(180);

const V1: &str = "s3://models/v1";
const V2: &str = "s3://models/v2";

/// What one request reads of a model of this size.
const SPAN_BYTES: u64 = 4 << 20;
/// Listings, the headers that are cut by, a manifest: what the origin gives besides chunks, for a few agents.
const OVERHEAD_BYTES: u64 = 400_000;

/// A bucket with two versions of a model, of which the second has other values in its last layers.
struct Bucket {
    _moto: Moto,
    relay: Relay,
    v2: Files,
    v2_bytes: u64,
    changed_bytes: u64,
}

impl Bucket {
    async fn start() -> Self {
        let (moto, v2, changed_bytes) = tokio::task::spawn_blocking(|| {
            let moto = Moto::start().expect("moto");
            let (mut weights, original) = Weights::original().expect("a model");
            upload(&moto, "v1", &vec![(WEIGHTS.to_owned(), original)]);
            let changed_bytes = weights.train(1, |name| is_late(name, 4));
            let v2 = weights.whole().expect("a model");
            upload(&moto, "v2", &v2);
            (moto, v2, changed_bytes as u64)
        })
        .await
        .expect("no panic");
        let upstream = moto.url().trim_start_matches("http://").parse().expect("an address");
        let relay = Relay::start(upstream, None).await.expect("a relay");
        let v2_bytes = v2.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        assert!(changed_bytes > v2_bytes / 10 && changed_bytes < v2_bytes / 2, "{changed_bytes}");
        Self { _moto: moto, relay, v2, v2_bytes, changed_bytes }
    }

    fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", self.relay.url().as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", S3_KEY),
            ("AWS_SECRET_ACCESS_KEY", S3_SECRET),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }

    async fn join<'a>(&self, cluster: &'a mut Cluster) -> &'a AgentProcess {
        let env = self.environment();
        cluster.join(|options: &mut AgentOptions| options.env = env).await.expect("an agent")
    }

    /// `count` agents that all have the first version.
    async fn with_v1(&self, count: usize) -> Cluster {
        let mut cluster = Cluster::empty().expect("a secret");
        for _ in 0..count {
            self.join(&mut cluster).await;
        }
        cluster.wait_formed(count).await.expect("formed");
        pull_all(cluster.agents(), V1).await;
        cluster
    }

    fn is_v2(&self, status: &PullStatus) {
        let dir = status.path.as_deref().expect("a complete pull has a path");
        for (name, bytes) in &self.v2 {
            assert!(std::fs::read(dir.join(name)).expect("published") == *bytes, "{name} differs");
        }
    }

    /// The changed bytes, with 2 % for what is cut together with them.
    fn allowed(&self) -> u64 {
        self.changed_bytes * 102 / 100
    }
}

fn upload(moto: &Moto, prefix: &str, files: &Files) {
    let dir = tempfile::tempdir().expect("temporary directory");
    write(files, dir.path()).expect("written");
    moto.upload("models", dir.path(), &format!("{prefix}/")).expect("uploaded");
}

async fn pull_all(agents: &[AgentProcess], reference: &str) -> Vec<PullStatus> {
    let pulls = agents.iter().map(|agent| agent.client().pull(reference, PATIENCE));
    futures::future::try_join_all(pulls).await.expect("pulled")
}

async fn plan(client: &AgentClient, reference: &str) -> Plan {
    let request = PlanRequest { reference: reference.to_owned(), ..PlanRequest::default() };
    client.post("/v1/plan", &request).await.expect("planned")
}

/// What was planned is what happened, to 1 % of the model.
fn came_true(plan: &Plan, sources: Sources) {
    for (what, planned, happened) in [
        ("origin", plan.origin_bytes, sources.origin),
        ("peers", plan.peer_bytes, sources.peers),
        ("disk", plan.local_bytes + plan.reusable_bytes, sources.reused),
    ] {
        let off = planned.abs_diff(happened);
        assert!(off * 100 <= plan.total_bytes, "{what}: {planned} planned, {happened} came; {plan:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_manifest_has_only_changed_chunks_leave_origin_and_peers() {
    let bucket = Bucket::start().await;
    let mut elsewhere = Cluster::empty().expect("a secret");
    let publisher = bucket.join(&mut elsewhere).await.client().clone();
    let printed = {
        let publisher = publisher.clone();
        tokio::task::spawn_blocking(move || answers(&publisher, &["publish", V2])).await.expect("no panic")
    };
    let report: PublishReport = serde_json::from_value(printed).expect("a report");
    assert_eq!(
        (report.total_bytes, report.written_to.as_str()),
        (bucket.v2_bytes, "s3://models/v2/.emberline-manifest")
    );

    let cluster = bucket.with_v1(3).await;
    let [first, others @ ..] = cluster.agents() else { panic!("three agents") };
    let planned = plan(first.client(), V2).await;
    assert!(planned.manifest_known, "{planned:?}");
    let delivered = bucket.relay.delivered();
    let status = first.client().pull(V2, PATIENCE).await.expect("pulled");
    bucket.is_v2(&status);
    came_true(&planned, status.sources);
    assert!(status.sources.origin <= bucket.allowed(), "{:?} of {}", status.sources, bucket.changed_bytes);
    assert_eq!(status.manifest.as_deref(), Some(report.manifest.as_str()));

    let planned = plan(others[0].client(), V2).await;
    for status in pull_all(others, V2).await {
        bucket.is_v2(&status);
        came_true(&planned, status.sources);
        assert_eq!(status.sources.origin, 0, "{:?}", status.sources);
        assert!(status.sources.peers <= bucket.allowed(), "{:?}", status.sources);
    }
    let gave = bucket.relay.delivered() - delivered;
    assert!(gave <= bucket.allowed() + OVERHEAD_BYTES, "the origin gave {gave} of {}", bucket.changed_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_at_once_with_a_manifest_cost_the_origin_the_changed_bytes_once() {
    let bucket = Bucket::start().await;
    let mut elsewhere = Cluster::empty().expect("a secret");
    let publisher = bucket.join(&mut elsewhere).await.client().clone();
    let named = serde_json::json!({"reference": V2});
    let _: PublishReport = publisher.post("/v1/publish", &named).await.expect("published");
    let cluster = bucket.with_v1(3).await;
    let request = PullRequest { reference: V2.to_owned(), require_manifest: true, ..PullRequest::default() };
    for agent in cluster.agents() {
        agent.client().start_pull(&request).await.expect("started");
    }
    let mut from_origin = 0;
    for status in pull_all(cluster.agents(), V2).await {
        bucket.is_v2(&status);
    }
    for agent in cluster.agents() {
        let pulls: Vec<PullStatus> = agent.client().get("/v1/pulls").await.expect("pulls");
        let required = pulls.iter().find(|p| p.manifest.is_some() && p.reference == V2).expect("the pull");
        from_origin += required.sources.origin;
        let fetched = required.sources.origin + required.sources.peers;
        assert!(fetched <= bucket.allowed(), "{:?} of {}", required.sources, bucket.changed_bytes);
    }
    // Changed are two spans or three: two nodes that begin one of them at the same moment may both read it.
    let once = bucket.allowed() + SPAN_BYTES;
    assert!(from_origin <= once, "{from_origin} of {}", bucket.changed_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_manifest_the_origin_is_read_once_and_common_chunks_come_from_each_disk() {
    let bucket = Bucket::start().await;
    let mut cluster = bucket.with_v1(3).await;
    let delivered = bucket.relay.delivered();
    let statuses = pull_all(cluster.agents(), V2).await;
    let gave = bucket.relay.delivered() - delivered;
    let allowed = bucket.v2_bytes * 102 / 100;
    assert!(gave <= allowed, "the origin gave {gave} of {}", bucket.v2_bytes);
    for status in &statuses {
        bucket.is_v2(status);
        assert!(status.sources.peers <= bucket.allowed(), "{:?} of {}", status.sources, bucket.changed_bytes);
    }
    let reused: u64 = statuses.iter().map(|status| status.sources.reused).sum();
    let shared = bucket.v2_bytes - bucket.changed_bytes;
    assert!(reused >= 2 * shared * 95 / 100, "two of three take what they have: {reused} of {shared}");

    // Who comes later hears of all hashes at once.
    let late = bucket.join(&mut cluster).await.client().clone();
    cluster.wait_formed(4).await.expect("formed");
    late.pull(V1, PATIENCE).await.expect("pulled");
    let planned = plan(&late, V2).await;
    let status = late.pull(V2, PATIENCE).await.expect("pulled");
    bucket.is_v2(&status);
    came_true(&planned, status.sources);
    assert_eq!(status.sources.origin, 0, "{:?}", status.sources);
    assert!(status.sources.peers <= bucket.allowed(), "{:?}", status.sources);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn homes_keep_a_manifest_when_its_data_is_gone_and_hand_it_over_when_the_ring_changes() {
    let bucket = Bucket::start().await;
    let mut cluster = bucket.with_v1(2).await;
    pull_all(&cluster.agents()[..1], V2).await;
    kept(&cluster.agents()[1]).await;
    for agent in cluster.agents() {
        // The other one has nothing of it; that is as good.
        let path = format!("/v1/artifacts?reference={V2}&force=true");
        drop(agent.client().request(Method::DELETE, &path, None).await);
    }
    let heir = bucket.join(&mut cluster).await.client().clone();
    cluster.wait_formed(3).await.expect("formed");
    heir.pull(V1, PATIENCE).await.expect("pulled");
    kept(&cluster.agents()[2]).await;
    for agent in &mut cluster.agents_mut()[..2] {
        agent.stop().await.expect("stopped");
    }
    wait_members(&[&cluster.agents()[2]], 1).await.expect("alone");

    let planned = plan(&heir, V2).await;
    let status = heir.pull(V2, PATIENCE).await.expect("pulled");
    bucket.is_v2(&status);
    came_true(&planned, status.sources);
    assert!(status.sources.origin <= bucket.allowed(), "{:?} of {}", status.sources, bucket.changed_bytes);
    // A hint is no manifest to insist on: this node vouches only since it has pulled.
    assert!(!planned.manifest_known, "{planned:?}");
}

/// Waits until an agent keeps one manifest for others that it has not the data of.
async fn kept(agent: &AgentProcess) {
    let dir = agent.data_dir().join("manifests");
    let start = std::time::Instant::now();
    // One of the first version, one of the second.
    while count(&dir) < 2 {
        assert!(start.elapsed() < PATIENCE, "{} keeps {} manifests", agent.name(), count(&dir));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn count(dir: &Path) -> usize {
    let named = |entry: &std::fs::DirEntry| entry.path().extension().is_none();
    std::fs::read_dir(dir).map_or(0, |entries| entries.flatten().filter(named).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_the_sha256_that_the_hub_promises_is_taken_from_this_disk_whole() {
    let bucket = Bucket::start().await;
    let files = bucket.v2.iter().map(|(path, bytes)| HubFile {
        path: path.clone(),
        bytes: Bytes::from(bytes.clone()),
        is_large: true,
    });
    let name = "org/minilm".to_owned();
    let hub = Hub::start(HubSettings {
        name,
        kind: "models",
        files: files.collect(),
        page: 10,
        token: None,
        is_gated: false,
    })
    .await
    .expect("a hub");
    let mut cluster = Cluster::empty().expect("a secret");
    let mut env = bucket.environment();
    env.push(("HF_ENDPOINT".to_owned(), hub.url().to_owned()));
    let agent = cluster.join(|options| options.env = env).await.expect("an agent").client().clone();
    // S3 gives no digest: this one is computed when somebody asks for it.
    agent.pull(V2, PATIENCE).await.expect("pulled");
    let reference = "hf://org/minilm@main";
    let planned = plan(&agent, reference).await;
    assert_eq!(planned.reusable_bytes, bucket.v2_bytes, "{planned:?}");
    let status = agent.pull(reference, PATIENCE).await.expect("pulled");
    bucket.is_v2(&status);
    came_true(&planned, status.sources);
    assert_eq!((status.sources.origin, status.sources.peers), (0, 0), "{:?}", status.sources);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_where_nothing_can_be_written_says_so_and_a_directory_gets_its_manifest() {
    let model = tempfile::tempdir().expect("temporary directory");
    let (weights, _) =
        tokio::task::spawn_blocking(|| Weights::original().expect("a model")).await.expect("no panic");
    write(&weights.sharded(2).expect("files"), model.path()).expect("written");
    let mut cluster = Cluster::empty().expect("a secret");
    let agent = cluster.join(|_| {}).await.expect("an agent").client().clone();
    let dir = model.path().to_str().expect("text").to_owned();
    tokio::task::spawn_blocking(move || {
        fails(&agent, &["publish", "hf://org/name"], 2, "hf://org/name");
        let shard = format!("{dir}/model-00001-of-00002.safetensors");
        fails(&agent, &["publish", &shard], 2, "one file");
        let report = answers(&agent, &["publish", &dir]);
        let written = report["written_to"].as_str().expect("text");
        assert!(Path::new(written).exists() && written.ends_with(".emberline-manifest"), "{report}");
        // It is no part of the model, and the model is not another for it.
        let plan = answers(&agent, &["plan", &dir]);
        assert_eq!((&plan["swarm"], &plan["local_bytes"]), (&report["swarm"], &report["total_bytes"]));
    })
    .await
    .expect("no panic");
}
