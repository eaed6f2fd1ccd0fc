//! Nodes that leave while a model is on its way: stopped, or given notice. What only they have goes to others.
//!
//! Each goes in the middle of its own pull, which is checked; the origin is an nginx behind a relay that counts.

use std::time::{Duration, Instant};

use emberline_agent::api::{ArtifactInfo, DrainHook, DrainReport, HeldFile, Phase, PullStatus};
use emberline_tests::{
    client::{AgentClient, POLL_INTERVAL},
    cluster::Cluster,
    site::{PATIENCE, Site},
};
use reqwest::Method;

/// Bytes of the model that these agents hold, however often.
async fn held_bytes(agents: &[AgentClient]) -> u64 {
    let mut sum = 0;
    for agent in agents {
        let artifacts: Vec<ArtifactInfo> = agent.get("/v1/artifacts").await.expect("alive");
        let route = format!("/v1/artifacts/{}/held", artifacts[0].swarm);
        let files: Vec<HeldFile> = agent.get(&route).await.expect("alive");
        sum += files.iter().flat_map(|file| &file.ranges).map(|(from, to)| to - from).sum::<u64>();
    }
    sum
}

/// Four agents in the middle of one pull.
async fn half_way(site: &Site) -> (Cluster, Vec<AgentClient>, Vec<PullStatus>) {
    let cluster = Cluster::start(4).await.expect("a cluster");
    let clients: Vec<AgentClient> = cluster.agents().iter().map(|agent| agent.client().clone()).collect();
    let started = clients.iter().map(|client| site.pull_until(client, 0.3));
    let statuses = futures::future::join_all(started).await;
    (cluster, clients, statuses)
}

async fn the_rest_complete(site: &Site, clients: &[AgentClient], statuses: &[PullStatus]) {
    for (client, status) in clients.iter().zip(statuses) {
        let ended = client.watch_pull(&status.id, PATIENCE, |_| false).await.expect("alive");
        assert_eq!(ended.phase, Phase::Complete, "{ended:?}");
        site.is_whole(&ended);
    }
    // Two nodes may begin one span of a small model at once; beyond that nothing is read twice.
    assert!(site.ratio() <= 1.08, "the origin gave {:.3} × the model", site.ratio());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_agent_hands_over_and_the_origin_is_read_once() {
    let site = Site::start(96, 10).await;
    let (mut cluster, clients, statuses) = half_way(&site).await;
    assert!(held_bytes(&clients[3..]).await < site.model().bytes(), "it was done before it was stopped");
    let told = Instant::now();
    assert!(cluster.agents_mut()[3].stop().await.expect("stopped").success());
    assert!(told.elapsed() < Duration::from_secs(20), "it took {:?}", told.elapsed());
    let log = cluster.agents()[3].log();
    assert!(log.contains("left the cluster") && log.contains("left_bytes: 0"), "{log}");
    the_rest_complete(&site, &clients[..3], &statuses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_given_notice_hands_over_takes_nothing_new_and_may_then_be_killed() {
    let site = Site::start(96, 10).await;
    let (mut cluster, clients, statuses) = half_way(&site).await;
    let leaver = &clients[3];
    let hook = DrainHook { deadline_seconds: Some(20.0) };
    let report: DrainReport = leaver.post("/v1/hooks/drain", &hook).await.expect("drained");
    assert_eq!(report.left_bytes, 0, "{report:?}");
    assert!(report.seconds < 20.0, "{report:?}");
    let ended = leaver.pull_status(&statuses[3].id).await.expect("it serves its own machine");
    assert_eq!(ended.phase, Phase::Failed, "{ended:?}");
    assert!(ended.done_bytes < ended.total_bytes, "it was done before it was told: no fault was injected");
    assert!(leaver.status().await.expect("alive").leaving);
    assert!(!leaver.is_ready().await, "it says that it can take more");
    let again = serde_json::json!({ "reference": site.reference() });
    let refused = leaver.request(Method::POST, "/v1/pulls", Some(again)).await.expect("alive");
    assert_eq!(refused.status, 503, "{refused:?}");
    // The others heard it from itself, long before they would have missed it.
    let start = Instant::now();
    while clients[0].members().await.expect("alive").iter().filter(|m| m.state == "alive").count() > 3 {
        assert!(start.elapsed() < Duration::from_secs(3), "it is still taken for a member");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    // A second notice changes nothing.
    let second: DrainReport = leaver.post("/v1/hooks/drain", &hook).await.expect("drained");
    assert_eq!(second, report);
    cluster.agents_mut()[3].kill().expect("killed");
    the_rest_complete(&site, &clients[..3], &statuses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_that_is_no_time_is_refused_and_an_agent_alone_leaves_at_once() {
    let cluster = Cluster::start(1).await.expect("an agent");
    let client = cluster.agents()[0].client();
    for wrong in [-1.0, 1e9] {
        let hook = serde_json::json!({ "deadline_seconds": wrong });
        let refused = client.request(Method::POST, "/v1/hooks/drain", Some(hook)).await.expect("alive");
        assert!(refused.status == 400 && refused.body.contains("deadline_seconds"), "{refused:?}");
    }
    assert!(!client.status().await.expect("alive").leaving);
    let report: DrainReport = client.post("/v1/hooks/drain", &DrainHook::default()).await.expect("drained");
    assert!(report.alone_bytes == 0 && report.seconds < 5.0, "{report:?}");
    // It takes nothing more, however long one waits: who asks is told that, and whom to ask.
    let late = serde_json::json!({ "reference": "s3://bucket/model" });
    let refused = client.request(Method::POST, "/v1/pulls", Some(late)).await.expect("alive");
    let problem: serde_json::Value = serde_json::from_str(&refused.body).expect("a problem");
    assert_eq!(
        (refused.status, &problem["retry_after_seconds"]),
        (503, &serde_json::Value::Null),
        "{problem}"
    );
    let [message, advice] =
        ["message", "advice"].map(|key| problem[key].as_str().unwrap_or_default().to_owned());
    assert!(message.contains("was drained") && advice.contains("another node"), "{problem}");
}
