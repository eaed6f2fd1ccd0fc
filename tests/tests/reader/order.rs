//! The order in which a server really read a model is the order in which the next node fetches it.

use std::{collections::BTreeSet, fs};

use emberline_agent::api::{Phase, PullRequest};
use emberline_tests::{
    environment::{FaultProxy, Moto},
    relay::Relay,
};

use super::*;

/// Shards of one chunk each, read from the last to the first.
const SHARDS: usize = 24;
const SHARD_BYTES: usize = 1 << 20;
/// What the origin's link carries a second: the model takes three.
const LINK_BYTES: u64 = 8 << 20;

/// Which shards a cold pull asked its origin for, in order, and when, after its first request.
async fn cold_pull(moto: &Moto, records: bool) -> Vec<(usize, Duration)> {
    let data = tempfile::tempdir().unwrap();
    let upstream = moto.url().trim_start_matches("http://").parse().unwrap();
    let link = Relay::start(upstream, Some(LINK_BYTES)).await.unwrap();
    let proxy = FaultProxy::start(&link.url()).unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let mut settings = config(data.path(), s3::s3(&proxy.url(), secrets.path()));
    // So few requests at once that order can be seen.
    settings.origins.max_concurrent_requests = 4;
    let agent = start(settings).await;
    if records {
        for shard in (0..SHARDS).rev() {
            let file = agent
                .reader()
                .open(&path(&format!("/s3/bucket/m/shard-{shard:02}.bin")), CALLER)
                .await
                .unwrap();
            read_all(&file).await;
        }
    }
    let pull = async || {
        let request = PullRequest { reference: "s3://bucket/m".to_owned(), ..PullRequest::default() };
        let mut pull = agent.pull(request).unwrap();
        let ended = pull.wait_for(|status| status.phase.is_over()).await.unwrap().clone();
        assert_eq!(ended.phase, Phase::Complete, "{:?}", ended.error);
    };
    pull().await;
    if records {
        let order = agent.record_reading_order("s3://bucket/m").await.unwrap();
        assert_eq!(order.stretches.first().map(|s| s.path.as_str()), Some("shard-23.bin"));
        assert_eq!(order.chunks as usize, SHARDS);
        // The data goes and comes again; what was recorded stays with the cluster's homes, here this node.
        agent.remove("s3://bucket/m", true).await.unwrap();
        let before = proxy.seen().len();
        pull().await;
        let asked = shards_asked(&proxy, before);
        agent.shutdown(Duration::from_secs(5)).await;
        return asked;
    }
    let asked = shards_asked(&proxy, 0);
    agent.shutdown(Duration::from_secs(5)).await;
    asked
}

fn shards_asked(proxy: &FaultProxy, from: usize) -> Vec<(usize, Duration)> {
    let shard = |line: &str| line.split("shard-").nth(1)?.get(..2)?.parse().ok();
    let mut known = BTreeSet::new();
    let lines = proxy.seen();
    let began = lines[from].at;
    lines[from..]
        .iter()
        .filter(|seen| seen.line.starts_with("GET"))
        .filter_map(|seen| Some((shard(&seen.line)?, seen.at - began)))
        .filter(|(shard, _)| known.insert(*shard))
        .collect()
}

/// How many shards are asked for until the three that are read first have been, and how long that takes.
fn until_first_tensors(asked: &[(usize, Duration)]) -> (usize, Duration) {
    let at = [23, 22, 21].map(|wanted| asked.iter().position(|(shard, _)| *shard == wanted).unwrap());
    let last = at.into_iter().max().unwrap();
    (last + 1, asked[last].1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_cold_start_reaches_the_first_tensors_sooner_and_after_fewer_chunks() {
    let folder = tempfile::tempdir().unwrap();
    for shard in 0..SHARDS {
        fs::write(folder.path().join(format!("shard-{shard:02}.bin")), content(SHARD_BYTES)).unwrap();
    }
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let moto = Moto::start().unwrap();
    moto.upload("bucket", folder.path(), "m/").unwrap();
    let first = until_first_tensors(&cold_pull(&moto, false).await);
    let second = until_first_tensors(&cold_pull(&moto, true).await);
    println!(
        "shards asked for until the first three tensors, and when: {first:?}, with the recorded order {second:?}"
    );
    assert!(second.0 * 2 <= first.0, "{second:?} of {first:?}");
    assert!(second.1 * 2 <= first.1, "{second:?} of {first:?}");
}
