//! The product's main job, end to end: a real model from S3 onto every node, read once, every byte checked.
//!
//! The model is all-MiniLM-L6-v2 as its package ships it, the S3 server is moto, the agents are
//! processes. What the origin gave is counted by a relay in front of it, not by the agents.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use emberline_agent::api::PullStatus;
use emberline_tests::{
    agent_process::{AgentOptions, AgentProcess},
    cluster::Cluster,
    command::succeeds,
    environment::{Moto, S3_KEY, S3_SECRET, minilm_dir},
    model::sha256,
    module_graph::files,
    relay::Relay,
};
use memmap2::Mmap;
use safetensors::SafeTensors;

const REFERENCE: &str = "s3://models/minilm";

/// Long for the machine that also compiles, short for a hang.
const PATIENCE: Duration = Duration::from_secs(180);

/// A real model in a real bucket behind a relay that counts.
struct Bucket {
    relay: Relay,
    _moto: Moto,
    bytes: u64,
}

impl Bucket {
    async fn with_minilm() -> Self {
        let moto = tokio::task::spawn_blocking(|| {
            let moto = Moto::start().expect("moto");
            moto.upload("models", &minilm_dir(), "minilm/").expect("uploaded");
            moto
        })
        .await
        .expect("no panic");
        let upstream = moto.url().trim_start_matches("http://").parse().expect("an address");
        let relay = Relay::start(upstream, None).await.expect("a relay");
        let bytes = files(&minilm_dir())
            .expect("readable")
            .iter()
            .map(|path| fs::metadata(path).expect("readable").len())
            .sum();
        Self { relay, _moto: moto, bytes }
    }

    /// What an agent must be told to find the bucket.
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
}

/// Every tensor of the copy, read through a mapping as a server would, equals the original's.
fn tensors_are_equal(copy: &Path) {
    let map = |dir: &Path| {
        let file = fs::File::open(dir.join("model.safetensors")).expect("the weights");
        // SAFETY: published files are never written again, and the package's copy is not ours to write.
        unsafe { Mmap::map(&file) }.expect("mapped")
    };
    let (original, copy) = (map(&minilm_dir()), map(copy));
    let original = SafeTensors::deserialize(&original).expect("a model");
    let copy = SafeTensors::deserialize(&copy).expect("a model");
    let names =
        |model: &SafeTensors<'_>| model.names().into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(names(&original), names(&copy));
    assert!(original.len() > 100, "only {} tensors", original.len());
    for (name, tensor) in original.tensors() {
        let other = copy.tensor(&name).expect("the same names");
        assert_eq!((tensor.dtype(), tensor.shape()), (other.dtype(), other.shape()), "{name}");
        assert!(tensor.data() == other.data(), "{name} differs");
    }
}

/// Every file of the copy equals the original's, and can only be read.
fn files_are_equal(copy: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let original = minilm_dir();
    for path in files(&original).expect("readable") {
        let relative = path.strip_prefix(&original).expect("below it");
        let here = copy.join(relative);
        assert_eq!(
            sha256(&here).expect("published"),
            sha256(&path).expect("readable"),
            "{}",
            relative.display()
        );
        let mode = fs::metadata(&here).expect("readable").permissions().mode() & 0o777;
        assert_eq!(mode, 0o444, "{}", relative.display());
    }
}

fn path(status: &PullStatus) -> &Path {
    status.path.as_deref().expect("a complete pull has a path")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_model_reaches_every_node_from_one_read_of_s3() {
    let bucket = Bucket::with_minilm().await;
    let mut cluster = Cluster::empty().expect("a secret");
    for _ in 0..4 {
        bucket.join(&mut cluster).await;
    }
    cluster.wait_formed(4).await.expect("formed");

    let pulls = cluster.agents().iter().map(|agent| agent.client().pull(REFERENCE, PATIENCE));
    let copies = futures::future::try_join_all(pulls).await.expect("pulled");
    let delivered = bucket.relay.delivered();
    for copy in &copies {
        tensors_are_equal(path(copy));
        files_are_equal(path(copy));
        assert_eq!((copy.done_bytes, copy.total_bytes), (bucket.bytes, bucket.bytes));
    }
    let ratio = delivered as f64 / bucket.bytes as f64;
    assert!((1.0..=1.03).contains(&ratio), "the origin gave {ratio:.3} × the model");
    let from_peers: u64 = copies.iter().map(|copy| copy.sources.peers).sum();
    assert!(from_peers >= 3 * bucket.bytes * 97 / 100, "only {from_peers} bytes came from peers");

    let late = bucket.join(&mut cluster).await.client().clone();
    cluster.wait_formed(5).await.expect("formed");
    let before = bucket.relay.delivered();
    let copy = late.pull(REFERENCE, PATIENCE).await.expect("pulled");
    let cost = bucket.relay.delivered() - before;
    tensors_are_equal(path(&copy));
    files_are_equal(path(&copy));
    assert!(cost * 100 < bucket.bytes, "the late joiner cost the origin {cost} bytes");
    assert_eq!(copy.sources.origin, 0, "the late joiner read from the origin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_costs_no_payload_and_no_time() {
    let bucket = Bucket::with_minilm().await;
    let mut cluster = Cluster::empty().expect("a secret");
    let agent = bucket.join(&mut cluster).await;
    let first = agent.client().pull(REFERENCE, PATIENCE).await.expect("pulled");
    assert!(first.sources.origin >= bucket.bytes, "{first:?}");

    let before = bucket.relay.delivered();
    let again = agent.client().pull(REFERENCE, PATIENCE).await.expect("pulled");
    let cost = bucket.relay.delivered() - before;
    // A listing and headers may be asked for again; that is not payload.
    assert!(cost < 100_000, "the rerun cost the origin {cost} bytes");
    assert_eq!((again.sources.origin, again.sources.peers), (0, 0), "{again:?}");
    assert_eq!(path(&again), path(&first));
    assert!(
        again.elapsed_seconds < 0.1 || again.elapsed_seconds < first.elapsed_seconds / 20.0,
        "the rerun took {:.3} s, the first {:.3} s",
        again.elapsed_seconds,
        first.elapsed_seconds
    );

    let printed = succeeds(agent.client(), &["pull", REFERENCE]);
    tensors_are_equal(Path::new(printed.lines().last().expect("a path").trim()));
}
