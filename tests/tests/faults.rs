//! What may break, and what must hold when it does: crashes, dead origins, frozen peers, wrong input.
//!
//! Every test injects its fault in the middle of real work and checks that it hit the middle. The
//! origin is an nginx behind a relay that counts its bytes and holds it to a rate, so that a transfer
//! has a middle on any machine. Numbers in comments are those of the promises they test.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use emberline_agent::api::{JobState, Phase, Plan, PullStatus, Selector, WarmRequest, WarmStatus};
use emberline_tests::{
    agent_process::{AgentOptions, AgentProcess},
    client::{AgentClient, POLL_INTERVAL},
    cluster::{Cluster, fresh_secret},
    command::{command, ends_with, preload},
    environment::{Moto, S3_KEY, S3_SECRET},
    model::LISTING,
    site::{PATIENCE, Site},
};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_resumes_where_it_was() {
    let site = Site::start(256, 8).await;
    let mut cluster = Cluster::start(1).await.expect("an agent");
    let agent = &mut cluster.agents_mut()[0];
    let before = site.pull_until(agent.client(), 0.5).await;
    agent.kill().expect("killed");
    agent.restart().await.expect("restarted");
    let after = site.pull(agent).await;
    site.is_whole(&after);
    // At most 5 % of the model is fetched a second time.
    let total = site.model().bytes();
    let needed = total - before.done_bytes;
    assert!(
        after.sources.origin <= needed + total / 20,
        "{} fetched for {needed}: {after:?}",
        after.sources.origin
    );
    assert!(after.sources.reused >= total / 2 - total / 20, "{after:?}");
}

/// Before the others can have noticed that it was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_and_started_again_at_once_is_fed_by_its_neighbours() {
    let site = Site::start(64, 16).await;
    let mut cluster = Cluster::start(2).await.expect("a cluster");
    let started = cluster.agents().iter().map(|agent| site.pull_until(agent.client(), 0.3));
    let statuses = futures::future::join_all(started).await;
    cluster.agents_mut()[1].kill().expect("killed");
    cluster.agents_mut()[1].restart().await.expect("restarted");
    let [first, again] = cluster.agents() else { panic!("two agents") };
    let after = site.pull(again).await;
    site.is_whole(&after);
    assert!(after.sources.peers >= site.model().bytes() / 5, "{after:?}");
    let ended = first.client().watch_pull(&statuses[0].id, PATIENCE, |_| false).await.expect("alive");
    assert_eq!(ended.phase, Phase::Complete, "{ended:?}");
    assert!(site.ratio() <= 1.2, "the origin gave {:.2} × the model", site.ratio());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_half_of_the_nodes_die_the_rest_complete() {
    let site = Site::start(64, 8).await;
    let mut cluster = Cluster::start(4).await.expect("a cluster");
    let clients: Vec<AgentClient> = cluster.agents().iter().map(|agent| agent.client().clone()).collect();
    let started = clients.iter().map(|client| site.pull_until(client, 0.25));
    let statuses = futures::future::join_all(started).await;
    for victim in &mut cluster.agents_mut()[2..] {
        victim.kill().expect("killed");
    }
    for (client, status) in clients.iter().zip(&statuses).take(2) {
        let ended = client.watch_pull(&status.id, PATIENCE, |_| false).await.expect("alive");
        assert_eq!(ended.phase, Phase::Complete, "{ended:?}");
        site.is_whole(&ended);
    }
    assert!(site.ratio() <= 2.0, "the origin gave {:.2} × the model", site.ratio());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_goes_on_while_one_of_those_who_asked_wants_it() {
    let site = Site::start(32, 6).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let client = cluster.agents()[0].client();
    let first = site.pull_until(client, 0.1).await;
    // Another client, by the command and with Ctrl-C.
    let (base, reference) = (client.base().to_owned(), site.reference());
    let mut other = command(&["pull", &reference]).env("EMBERLINE_AGENT", base).spawn().expect("preload");
    let both = client.watch_pull(&first.id, PATIENCE, |status| status.askers == 2).await.expect("alive");
    assert_eq!((both.askers, both.phase), (2, Phase::Fetching), "{both:?}");
    kill_process(Pid::from_raw(other.id() as i32).expect("a process"), Signal::INT).expect("interrupted");
    assert_eq!(other.wait().expect("ends").code(), Some(130));
    let ended = client.watch_pull(&first.id, PATIENCE, |_| false).await.expect("alive");
    assert_eq!(ended.phase, Phase::Complete, "{ended:?}");
    site.is_whole(&ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_nobody_wants_any_more_ends_and_the_next_one_is_another() {
    let site = Site::start(32, 20).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let client = cluster.agents()[0].client();
    let first = site.pull_until(client, 0.1).await;
    assert_eq!(site.start_pull(client).await.id, first.id);
    let route = format!("/v1/pulls/{}", first.id);
    for still in [1, 0] {
        assert_eq!(client.request(Method::DELETE, &route, None).await.expect("alive").status, 204);
        assert_eq!(client.pull_status(&first.id).await.expect("alive").askers, still);
    }
    let next = site.start_pull(client).await;
    assert_ne!(next.id, first.id);
    let ended = client.watch_pull(&first.id, PATIENCE, |_| false).await.expect("alive");
    assert_eq!(ended.phase, Phase::Cancelled, "{ended:?}");
    // Whoever runs the agent can end it for all.
    site.start_pull(client).await;
    let all = format!("/v1/pulls/{}?all=true", next.id);
    assert_eq!(client.request(Method::DELETE, &all, None).await.expect("alive").status, 204);
    let ended = client.watch_pull(&next.id, PATIENCE, |_| false).await.expect("alive");
    assert_eq!(ended.phase, Phase::Cancelled, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_pull_is_told_that_the_agent_stops_and_the_pull_resumes() {
    let site = Site::start(64, 8).await;
    let mut cluster = Cluster::start(1).await.expect("an agent");
    let agent = &mut cluster.agents_mut()[0];
    let before = site.pull_until(agent.client(), 0.3).await;
    let (base, reference) = (agent.client().base().to_owned(), site.reference());
    let waiting = command(&["pull", &reference]).env("EMBERLINE_AGENT", base).spawn().expect("preload");
    agent.client().watch_pull(&before.id, PATIENCE, |status| status.askers == 2).await.expect("alive");
    assert!(agent.stop().await.expect("stopped").success());
    ends_with(&waiting.wait_with_output().expect("ends"), 5, "shutting down");
    agent.restart().await.expect("restarted");
    let after = site.pull(agent).await;
    site.is_whole(&after);
    assert!(after.sources.reused >= before.done_bytes, "{after:?} after {before:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_up_outlives_the_agent_that_was_asked_and_a_restart_of_one_that_pulls() {
    let site = Site::start(64, 10).await;
    let mut cluster = Cluster::start(3).await.expect("a cluster");
    let warm = WarmRequest {
        reference: site.reference(),
        selector: Selector {
            ids: cluster.agents()[1..].iter().map(|a| a.name().to_owned()).collect(),
            ..Selector::default()
        },
        ..WarmRequest::default()
    };
    let started: WarmStatus = cluster.agents()[0].client().post("/v1/warm", &warm).await.expect("started");
    // A second warm-up of the same from another agent joins the pulls; the first goes with its agent.
    let second: WarmStatus = cluster.agents()[1].client().post("/v1/warm", &warm).await.expect("started");
    assert_eq!((started.state, second.state), (JobState::Running, JobState::Running));
    let client = cluster.agents()[2].client().clone();
    let pull = loop {
        let pulls: Vec<PullStatus> = client.get("/v1/pulls").await.expect("alive");
        if let Some(pull) = pulls.into_iter().find(|pull| pull.askers == 2 && pull.done_bytes > 0) {
            break pull;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    assert!(cluster.agents_mut()[0].stop().await.expect("stopped").success());
    let still = client.pull_status(&pull.id).await.expect("alive");
    assert_eq!((still.askers, still.error), (2, None));
    assert!(cluster.agents_mut()[2].stop().await.expect("stopped").success());
    let alive = vec![cluster.agents()[1].quic()];
    cluster.agents_mut()[2].restart_towards(alive).await.expect("restarted");

    let (follower, start) = (cluster.agents()[1].client(), Instant::now());
    let route = format!("/v1/warm/{}", second.id);
    let ended = loop {
        let status: WarmStatus = follower.get(&route).await.expect("alive");
        if status.state != JobState::Running || start.elapsed() > PATIENCE {
            break status;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    assert_eq!(ended.state, JobState::Complete, "{ended:?}");
    for agent in &cluster.agents()[1..] {
        site.is_copy(&agent.client().path(&site.reference()).await.expect("whole").path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_model_outlives_its_origin() {
    let site = Site::start(16, 1).await;
    let cluster = Cluster::start(2).await.expect("a cluster");
    let [first, second] = cluster.agents() else { panic!("two agents") };
    site.is_whole(&site.pull(first).await);
    site.relay().go_dark().await;
    let delivered = site.relay().delivered();

    let again = site.pull(first).await;
    site.is_whole(&again);
    // A listing cached moments ago is still fresh; what was not asked for cannot be stale.
    assert_eq!((again.sources.origin, again.sources.peers), (0, 0), "{again:?}");
    let from_neighbour = site.pull(second).await;
    site.is_whole(&from_neighbour);
    assert_eq!(from_neighbour.sources.origin, 0, "{from_neighbour:?}");
    assert_eq!(site.relay().delivered(), delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_whose_origin_died_before_a_restart_is_served_and_marked_stale() {
    let site = Site::start(16, 1).await;
    let mut cluster = Cluster::start(1).await.expect("an agent");
    site.is_whole(&site.pull(&cluster.agents()[0]).await);
    site.relay().go_dark().await;
    let agent = &mut cluster.agents_mut()[0];
    agent.kill().expect("killed");
    agent.restart().await.expect("restarted");
    let status = site.pull(agent).await;
    site.is_whole(&status);
    assert!(status.stale, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_origin_holds_up_nobody_who_asks_for_what_is_here() {
    let site = Site::unpaced(8).await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut options = AgentOptions::new("patient");
    options.env = vec![("EMBERLINE_MOUNTS__SITE".to_owned(), site.reference())];
    let mut agent = AgentProcess::start(&dir.path().join("data"), options).await.expect("an agent");
    site.is_whole(&site.pull(&agent).await);
    site.relay().be_silent(true);
    // Long for one answer after two seconds of silence, short for a single request that times out.
    let prompt = Duration::from_secs(15);
    // With all that was listed in memory, and with what is on the disk alone.
    for _ in 0..2 {
        let began = Instant::now();
        let status = site.pull(&agent).await;
        site.is_whole(&status);
        assert!(status.stale && began.elapsed() < prompt, "{:?}: {status:?}", began.elapsed());
        let why = status.stale_reason.expect("a reason");
        assert!(why.contains("did not answer in 2 s") && why.contains(&site.reference()), "{why}");
        assert!(why.contains("listed ") && why.contains(" ago"), "{why}");

        let began = Instant::now();
        let plan: Plan = agent
            .client()
            .post("/v1/plan", &serde_json::json!({ "reference": site.reference() }))
            .await
            .expect("a plan");
        assert!(plan.stale_reason.is_some() && began.elapsed() < prompt, "{:?}: {plan:?}", began.elapsed());
        assert_eq!(plan.local_bytes, site.model().bytes());

        let began = Instant::now();
        let listed: serde_json::Value = agent.client().get("/v1/fs/site?list").await.expect("a listing");
        let path = format!("/v1/fs/site/{}", site.model().files[0].path);
        let read = agent.client().request(Method::GET, &path, None).await.expect("alive");
        assert!(listed["stale"] == true && began.elapsed() < prompt, "{:?}: {listed}", began.elapsed());
        assert_eq!(read.status, 200);

        agent.kill().expect("killed");
        agent.restart().await.expect("restarted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_origin_holds_up_no_node_longer_because_another_was_asked_first() {
    let site = Site::unpaced(4).await;
    let cluster = Cluster::start(3).await.expect("a cluster");
    for agent in cluster.agents() {
        site.is_whole(&site.pull(agent).await);
    }
    site.relay().be_silent(true);
    // One of them, at most, is the home that lists it.
    for agent in cluster.agents() {
        let status = site.pull(agent).await;
        let why = status.stale_reason.clone().unwrap_or_default();
        assert!(why.contains("did not answer in 2 s"), "{status:?}");
        assert!(status.elapsed_seconds < 3.0, "2 s became {}", status.elapsed_seconds);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_origin_of_what_is_not_here_is_named_after_a_bounded_time() {
    let site = Site::unpaced(8).await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut options = AgentOptions::new("waiting");
    options.env = vec![("EMBERLINE_ORIGINS__REQUEST_TIMEOUT".to_owned(), "4s".to_owned())];
    let agent = AgentProcess::start(&dir.path().join("data"), options).await.expect("an agent");
    site.relay().be_silent(true);
    let started = site.start_pull(agent.client()).await;
    let waits = |status: &PullStatus| status.phase == Phase::Resolving && status.quiet_seconds.is_some();
    let said = agent.client().watch_pull(&started.id, PATIENCE, waits).await.expect("alive");
    assert!(waits(&said), "nobody said that the origin is waited for: {said:?}");
    let ended = agent.client().watch_pull(&started.id, PATIENCE, |_| false).await.expect("alive");
    let problem = ended.error.expect("nothing to pull");
    assert_eq!(problem.kind, "timeout", "{problem:?}");
    let host = site.reference().trim_end_matches('/').to_owned();
    assert!(problem.message.contains(&host), "{problem:?}");
    // Two requests of four seconds, not six.
    assert!(ended.elapsed_seconds < 16.0, "{} s", ended.elapsed_seconds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_pulls_right_after_an_upload_gets_what_was_uploaded() {
    let site = Site::unpaced(4).await;
    let cluster = Cluster::start(3).await.expect("a cluster");
    for agent in cluster.agents() {
        site.is_whole(&site.pull(agent).await);
    }
    let upload = |name: &str| {
        let listing = site.model().dir.join(LISTING);
        std::fs::write(site.model().dir.join(name), name).expect("written");
        let text = std::fs::read(&listing).expect("a listing");
        let mut files: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let entry = serde_json::json!({ "path": name, "size": name.len() });
        files["files"].as_array_mut().expect("files").push(entry);
        std::fs::write(&listing, files.to_string()).expect("written");
    };
    // One of them, whoever keeps the listing; within moments of what others and it asked before.
    let agent = &cluster.agents()[1];
    let files = site.model().files.len() as u64;
    for n in 1..=3 {
        upload(&format!("first-{n}.bin"));
        let status = site.pull(agent).await;
        assert!(!status.stale, "{status:?}");
        assert_eq!(status.total_files, files + 2 * n - 1, "{status:?}");
        upload(&format!("second-{n}.bin"));
        let asked = serde_json::json!({ "reference": site.reference() });
        let plan: Plan = agent.client().post("/v1/plan", &asked).await.expect("a plan");
        assert_eq!(plan.files.len() as u64, files + 2 * n, "a plan of what was there before");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_peer_does_not_hold_up_the_others() {
    let site = Site::start(64, 8).await;
    let cluster = Cluster::start(4).await.expect("a cluster");
    let started = cluster.agents().iter().map(|agent| site.pull_until(agent.client(), 0.3));
    let statuses = futures::future::join_all(started).await;
    let frozen = &cluster.agents()[3];
    frozen.freeze().expect("frozen");
    for (agent, status) in cluster.agents().iter().zip(&statuses).take(3) {
        let ended = agent.client().watch_pull(&status.id, PATIENCE, |_| false).await.expect("alive");
        assert_eq!(ended.phase, Phase::Complete, "{ended:?}");
        site.is_whole(&ended);
    }
    frozen.thaw().expect("thawed");
    let ended = frozen.client().watch_pull(&statuses[3].id, PATIENCE, |_| false).await.expect("alive");
    assert_eq!(ended.phase, Phase::Complete, "{ended:?}");
    site.is_whole(&ended);
    assert!(site.ratio() <= 2.0, "the origin gave {:.2} × the model", site.ratio());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_costs_the_origin_one_model_and_one_listing() {
    let site = Site::start(32, 4).await;
    let cluster = Cluster::start(8).await.expect("a cluster");
    let pulls = cluster.agents().iter().map(|agent| site.pull(agent));
    for status in futures::future::join_all(pulls).await {
        site.is_whole(&status);
    }
    assert!(site.ratio() <= 1.05, "the origin gave {:.3} × the model", site.ratio());
    let log = site.access_log();
    let listings = log.lines().filter(|line| line.contains("GET") && line.contains(LISTING)).count();
    assert_eq!(listings, 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_foreign_secret_stays_outside_and_is_told_why() {
    let cluster = Cluster::start(2).await.expect("a cluster");
    let home = tempfile::tempdir().expect("temporary directory");
    let secret_file = home.path().join("secret");
    fresh_secret(&secret_file).expect("written");
    let mut options = AgentOptions::new("stranger");
    options.secret_file = Some(secret_file);
    options.seeds = cluster.agents().iter().map(AgentProcess::quic).collect();
    let stranger = AgentProcess::start(&home.path().join("data"), options).await.expect("an agent");

    let start = Instant::now();
    let told = |log: String| log.contains("another cluster") || log.contains("secret or authority");
    while !told(stranger.log()) {
        assert!(start.elapsed() < Duration::from_secs(30), "nobody says why:\n{}", stranger.log());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    cluster.wait_formed(2).await.expect("the cluster is as it was");
    assert_eq!(stranger.client().members().await.expect("alive").len(), 1);
    let status = stranger.client().status().await.expect("alive");
    assert!(status.seed_errors.iter().any(|problem| problem.kind == "denied"), "{:?}", status.seed_errors);
    let seed = cluster.agents()[0].quic().to_string();
    for what in ["members", "status"] {
        let said = preload(&[("EMBERLINE_AGENT", stranger.client().base())], &[what]);
        let text =
            [said.stdout, said.stderr].map(|part| String::from_utf8_lossy(&part).into_owned()).concat();
        assert!(text.contains("alone") && text.contains(&seed), "{what} does not say why: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_falls_silent_is_told_of_while_it_is_waited_for() {
    let site = Site::start(64, 12).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let client = cluster.agents()[0].client();
    let before = site.pull_until(client, 0.2).await;
    assert_eq!(before.quiet_seconds, None);
    site.relay().go_dark().await;
    let silent = client
        .watch_pull(&before.id, PATIENCE, |status| status.quiet_seconds.is_some())
        .await
        .expect("alive");
    assert!(!silent.phase.is_over() && silent.quiet_seconds >= Some(5.0), "{silent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_ends_with_a_sentence_and_the_exit_code_of_its_kind() {
    let moto = tokio::task::spawn_blocking(|| {
        let empty = tempfile::tempdir().expect("temporary directory");
        let moto = Moto::start().expect("moto");
        moto.upload("models", empty.path(), "").expect("a bucket");
        moto
    })
    .await
    .expect("no panic");
    let mut cluster = Cluster::empty().expect("a secret");
    let url = moto.url();
    let agent = cluster
        .join(|options| {
            options.env = [
                ("AWS_ENDPOINT_URL", url.as_str()),
                ("AWS_REGION", "us-east-1"),
                ("AWS_ACCESS_KEY_ID", S3_KEY),
                ("AWS_SECRET_ACCESS_KEY", S3_SECRET),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec();
        })
        .await
        .expect("an agent");
    let here = [("EMBERLINE_AGENT", agent.client().base())];
    let missing = agent.data_dir().join("no-such-model").display().to_string();
    ends_with(&preload(&here, &["pull", "s4://bucket/model"]), 2, "s4");
    ends_with(&preload(&here, &["pull", "s3://no-such-bucket/model"]), 3, "no-such-bucket");
    ends_with(&preload(&here, &["pull", "s3://models/no-such-model"]), 3, "no-such-model");
    ends_with(&preload(&here, &["pull", &missing]), 3, "no-such-model");
    ends_with(&preload(&here, &["path", "s3://models/never-pulled"]), 3, "never-pulled");
    // Port 9 of loopback: nobody listens there.
    ends_with(&preload(&[("EMBERLINE_AGENT", "http://127.0.0.1:9")], &["members"]), 5, "127.0.0.1:9");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_is_refused_and_named() {
    let mut cluster = Cluster::empty().expect("a secret");
    let [right, wrong] = ["right", "wrong"].map(|name| cluster.home().join(name));
    fresh_secret(&right).expect("written");
    fresh_secret(&wrong).expect("written");
    let token_file = right.display().to_string();
    let agent = cluster
        .join(|options| options.env.push(("EMBERLINE_HTTP__TOKEN_FILE".to_owned(), token_file)))
        .await
        .expect("an agent");
    let with = |token: &Path| {
        let token = token.display().to_string();
        preload(&[("EMBERLINE_AGENT", agent.client().base()), ("EMBERLINE_TOKEN_FILE", &token)], &["members"])
    };
    assert!(with(&right).status.success());
    ends_with(&with(&wrong), 4, "token");
    ends_with(&preload(&[("EMBERLINE_AGENT", agent.client().base())], &["members"]), 4, "token");
}
