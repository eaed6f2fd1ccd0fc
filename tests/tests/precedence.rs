//! Real agents: of two pulls that share a limit the one with the earlier deadline ends first, though it began
//! later. Judged by which is under way when the other is done, not by a clock.

use std::sync::Arc;

use emberline_agent::api::{LimitChange, Limits, PullRequest};
use emberline_tests::{
    client::POLL_INTERVAL,
    cluster::Cluster,
    command::{answers, fails},
    environment::Nginx,
    model::Model,
    site::PATIENCE,
};
use serde_json::{Value, json};

/// Both models take several seconds at the limit: time enough to begin one amid the other.
const MODEL_BYTES: u64 = 32 << 20;
const LIMIT_BYTES: u64 = 8 << 20;

/// Two models that have nothing in common, and where they are.
struct Models {
    nginx: Nginx,
    models: [Model; 2],
    _dir: tempfile::TempDir,
}

impl Models {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let make =
            |name: &str, seed| Model::generate(&dir.path().join(name), MODEL_BYTES, seed).expect("a model");
        let models = [make("a", 21), make("b", 22)];
        let nginx = Nginx::start(dir.path(), "").expect("nginx");
        Self { nginx, models, _dir: dir }
    }

    fn reference(&self, model: usize) -> String {
        format!("{}/{}/", self.nginx.url(), ["a", "b"][model])
    }
}

/// Runs what blocks beside the runtime.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_later_pull_with_the_earlier_deadline_ends_first() {
    let models = Arc::new(apart(Models::start).await);
    let cluster = Cluster::start(2).await.expect("formed");
    let [holder, puller] = cluster.agents() else { panic!("two agents") };
    for model in 0..2 {
        holder.client().pull(&models.reference(model), PATIENCE).await.expect("pulled");
    }
    let agent = puller.client().clone();
    let limit = LimitChange { max_download_bytes: Some(LIMIT_BYTES), ..LimitChange::default() };
    let body = serde_json::to_value(limit).expect("a body");
    let answer = agent.request(reqwest::Method::PUT, "/v1/limits", Some(body)).await.expect("alive");
    assert_eq!(answer.parse::<Limits>().expect("limits").max_download_bytes, LIMIT_BYTES);

    let asked = PullRequest {
        deadline: Some("1h".parse().expect("a deadline")),
        ..PullRequest { reference: models.reference(0), ..PullRequest::default() }
    };
    let first = agent.start_pull(&asked).await.expect("started");
    let some = |now: &emberline_agent::api::PullStatus| now.done_bytes * 5 > MODEL_BYTES;
    let now = agent.watch_pull(&first.id, PATIENCE, some).await.expect("alive");
    assert!(!now.phase.is_over(), "the first was over before the second began: {now:?}");

    let second: Value = apart({
        let (agent, reference) = (agent.clone(), models.reference(1));
        move || answers(&agent, &["pull", &reference, "--deadline", "1m"])
    })
    .await;
    let now = agent.pull_status(&first.id).await.expect("alive");
    assert!(!now.phase.is_over(), "the first ended before the second: {now:?}");
    assert_eq!(second["priority"], "normal");
    assert!(
        second["deadline"]
            .as_str()
            .is_some_and(|at| at < now.deadline.map_or("".into(), |d| d.to_string()).as_str())
    );
    models.models[1].check_copy(second["path"].as_str().expect("a path").as_ref()).expect("an exact copy");
    let ended = agent.watch_pull(&first.id, PATIENCE, |_| false).await.expect("alive");
    models.models[0].check_copy(ended.path.as_deref().expect("a complete pull")).expect("an exact copy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_and_priorities_are_shown_raised_and_refused_where_they_make_no_sense() {
    let models = Arc::new(apart(Models::start).await);
    let cluster = Cluster::start(2).await.expect("formed");
    let agent = cluster.agents()[0].client().clone();
    let body = json!({ "max_download_bytes": LIMIT_BYTES });
    for agent in cluster.agents() {
        agent.client().request(reqwest::Method::PUT, "/v1/limits", Some(body.clone())).await.expect("alive");
    }
    let reference = models.reference(0);
    let asked = json!({ "reference": reference, "priority": "low" });
    let low: Value = agent.post("/v1/pulls", &asked).await.expect("started");
    assert_eq!((&low["priority"], &low["deadline"]), (&json!("low"), &Value::Null), "{low}");
    // Who asks for the same with more haste joins it, and lends it that.
    let asked = json!({ "reference": reference, "priority": 7, "deadline": 600 });
    let raised: Value = agent.post("/v1/pulls", &asked).await.expect("joined");
    assert_eq!((&raised["id"], &raised["priority"], &raised["askers"]), (&low["id"], &json!(7), &json!(2)));
    assert!(raised["deadline"].as_str().is_some_and(|at| at.ends_with('Z')), "{raised}");
    let listed: Value = agent.get("/v1/pulls").await.expect("a list");
    assert_eq!(listed[0]["priority"], 7, "{listed}");
    let status = agent.status().await.expect("a status");
    assert_eq!(status.pulls[0].priority.to_string(), "7");

    let asked =
        json!({ "reference": models.reference(1), "count": 1, "deadline": "20m", "priority": "high" });
    let job: Value = agent.post("/v1/hooks/scale", &asked).await.expect("a job");
    assert_eq!(job["priority"], "high", "{job}");
    let begun = std::time::Instant::now();
    let there = 'found: loop {
        for agent in cluster.agents() {
            let pulls: Vec<Value> = agent.client().get("/v1/pulls").await.expect("a list");
            if let Some(pull) = pulls.into_iter().find(|pull| pull["reference"] == models.reference(1)) {
                break 'found pull;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "no node pulls for the hook");
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    assert_eq!((&there["priority"], &there["deadline"]), (&job["priority"], &job["deadline"]), "{there}");

    for wrong in [
        json!({ "reference": reference, "priority": "urgent" }),
        json!({ "reference": reference, "priority": 100_000 }),
        json!({ "reference": reference, "deadline": "yesterday" }),
        json!({ "reference": reference, "deadline": -1 }),
    ] {
        let answer =
            agent.request(reqwest::Method::POST, "/v1/pulls", Some(wrong.clone())).await.expect("alive");
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.body);
    }
    apart(move || {
        fails(&agent, &["pull", &reference, "--deadline", "soon"], 2, "soon");
        fails(&agent, &["warm", &reference, "--all", "--priority", "urgent"], 2, "urgent");
    })
    .await;
}
