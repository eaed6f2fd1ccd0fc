//! Every command of `preload` against real agents: does what it says, says it in JSON too, and ends with
//! the exit code that its help promises.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use emberline_tests::{
    agent_process::AgentProcess,
    client::AgentClient,
    cluster::{Cluster, fresh_secret},
    command::{answers, command, ends_with, fails, preload, succeeds},
    model::sha256,
    site::{PATIENCE, Site},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Three agents in two zones, and an origin.
async fn fleet() -> (Site, Cluster) {
    let site = Site::unpaced(16).await;
    let mut cluster = Cluster::empty().expect("a secret");
    for zone in ["eu-1a", "eu-1a", "eu-1b"] {
        cluster.join(|options| options.zone = zone.to_owned()).await.expect("an agent");
    }
    cluster.wait_formed(3).await.expect("formed");
    (site, cluster)
}

/// Runs what blocks beside the runtime that the origin lives on.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_life_of_a_model_on_one_node() {
    let (site, cluster) = fleet().await;
    let (agent, reference) = (cluster.agents()[0].client().clone(), site.reference());
    let (model, home) = (site.model().clone(), cluster.home().to_owned());
    apart(move || {
        let (agent, reference) = (&agent, reference.as_str());
        nothing_is_here(agent, reference);
        some_files_come_by_pattern(agent, reference, &home);
        all_of_it_comes_and_is_placed(agent, reference, &home, &model);
        pinned_is_kept(agent, reference);
        gone_is_gone(agent, reference, &home, &model);
    })
    .await;
}

fn nothing_is_here(agent: &AgentClient, reference: &str) {
    assert_eq!(answers(agent, &["ls"]), json!([]));
    fails(agent, &["path", reference], 3, reference);
    fails(agent, &["pin", reference], 3, reference);
    fails(agent, &["rm", reference], 3, reference);
    fails(agent, &["verify", reference], 3, reference);
    let plan = answers(agent, &["plan", reference]);
    assert_eq!((&plan["local_bytes"], &plan["origin_bytes"]), (&0.into(), &plan["total_bytes"]), "{plan}");
    assert!(plan["total_bytes"].as_u64() > Some(8 << 20), "{plan}");
    assert_eq!(answers(agent, &["ls"]), json!([]), "a plan brings nothing");
    let members = answers(agent, &["members"]);
    assert_eq!(members.as_array().map(Vec::len), Some(3), "{members}");
    let status = answers(agent, &["status"]);
    assert_eq!(status["members"], 3, "{status}");
}

fn some_files_come_by_pattern(agent: &AgentClient, reference: &str, home: &Path) {
    let to = home.join("some").display().to_string();
    let pull = ["pull", reference, "--allow-pattern", "*.json", "--ignore-pattern", "*index*", "--to", &to];
    let status = answers(agent, &pull);
    assert_eq!(status["phase"], "complete", "{status}");
    let here = names(Path::new(&to));
    assert!(
        !here.is_empty() && here.iter().all(|n| n.ends_with(".json") && !n.contains("index")),
        "{here:?}"
    );
    fails(agent, &["pull", reference, "--allow-pattern", "*.nothing"], 3, "patterns");
    fails(agent, &["pull", reference, "--to", "/proc/no/such/place"], 3, "/proc/no/such/place");
}

fn all_of_it_comes_and_is_placed(
    agent: &AgentClient,
    reference: &str,
    home: &Path,
    model: &emberline_tests::model::Model,
) {
    let to = home.join("all");
    let printed = succeeds(agent, &["pull", reference, "--prefault", "--to", &to.display().to_string()]);
    assert_eq!(Path::new(printed.trim()), to);
    model.check_copy(&to).expect("an exact copy");
    let printed = succeeds(agent, &["path", reference]);
    model.check_copy(Path::new(printed.trim())).expect("an exact copy");
    assert_eq!(answers(agent, &["path", reference])["path"], printed.trim());

    let artifacts = answers(agent, &["ls", "--resident"]);
    let [artifact] = artifacts.as_array().expect("a list").as_slice() else { panic!("{artifacts}") };
    assert_eq!((&artifact["complete"], &artifact["done_bytes"]), (&true.into(), &artifact["total_bytes"]));
    assert_eq!(artifact["resident_bytes"], artifact["total_bytes"], "prefault brings it into memory");
    let plan = answers(agent, &["plan", reference]);
    assert_eq!((&plan["local_bytes"], &plan["origin_bytes"]), (&plan["total_bytes"], &0.into()), "{plan}");
    let verified = answers(agent, &["verify"]);
    assert_eq!(verified[0]["reference"].as_str(), Some(reference), "{verified}");
    assert_eq!((&verified[0]["bytes"], &verified[0]["corrupt"]), (&artifact["total_bytes"], &json!([])));
    let by_swarm = succeeds(agent, &["path", artifact["swarm"].as_str().expect("an id")]);
    assert_eq!(by_swarm, printed);
    if let Some(manifest) = artifact["manifest"].as_str() {
        let again = answers(agent, &["pull", &format!("ember://{manifest}")]);
        assert_eq!(again["sources"]["origin"], 0, "{again}");
    }
}

fn pinned_is_kept(agent: &AgentClient, reference: &str) {
    succeeds(agent, &["pin", reference]);
    assert_eq!(answers(agent, &["ls"])[0]["pinned"], true);
    fails(agent, &["rm", reference], 4, "pinned");
    succeeds(agent, &["unpin", reference]);
    assert_eq!(answers(agent, &["ls"])[0]["pinned"], false);
}

fn gone_is_gone(agent: &AgentClient, reference: &str, home: &Path, model: &emberline_tests::model::Model) {
    let path = succeeds(agent, &["path", reference]);
    let file = std::fs::File::open(Path::new(path.trim()).join(&model.files[0].path)).expect("there");
    // SAFETY: the file was published and is removed, never written to.
    let mapped = unsafe { memmap2::Mmap::map(&file) }.expect("mapped");
    assert_eq!(answers(agent, &["rm", reference])["removed"], json!([reference]));
    assert!(!Path::new(path.trim()).exists());
    assert_eq!(answers(agent, &["ls"]), json!([]));
    fails(agent, &["path", reference], 3, reference);
    let reread = home.join("reread");
    std::fs::write(&reread, &mapped[..]).expect("written");
    assert_eq!(sha256(&reread).expect("readable"), model.files[0].sha256, "a reader keeps what it mapped");
    model.check_copy(&home.join("all")).expect("what was placed elsewhere stays");
}

fn holders(cluster: &Cluster) -> Vec<bool> {
    let here = |agent: &AgentProcess| {
        let artifacts = answers(agent.client(), &["ls"]);
        artifacts.as_array().is_some_and(|list| list.iter().any(|artifact| artifact["complete"] == true))
    };
    cluster.agents().iter().map(here).collect()
}

fn forget_everywhere(cluster: &Cluster) {
    for agent in cluster.agents() {
        for artifact in answers(agent.client(), &["ls"]).as_array().expect("a list") {
            succeeds(agent.client(), &["rm", artifact["swarm"].as_str().expect("an id")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_up_reaches_whom_it_names_and_a_shortfall_is_no_success() {
    let (site, mut cluster) = fleet().await;
    let reference = site.reference();
    let origin = site.relay().url();
    let cluster = apart(move || {
        let agent = cluster.agents()[0].client().clone();
        let agent = &agent;
        let reference = reference.as_str();
        for (whom, expected) in [
            (&["--zone", "eu-1b"][..], [false, false, true]),
            (&["--node", "node-1", "node-2"], [false, true, true]),
            (&["--all"], [true, true, true]),
        ] {
            let args: Vec<&str> =
                ["warm", reference, "--wait"].into_iter().chain(whom.iter().copied()).collect();
            let status = answers(agent, &args);
            assert_eq!(status["state"], "complete", "{status}");
            assert_eq!(holders(&cluster), expected, "{whom:?}");
            forget_everywhere(&cluster);
        }
        let status = answers(agent, &["warm", reference, "--nodes", "2", "--wait"]);
        assert_eq!((&status["ready"], &status["min_ready"]), (&2.into(), &2.into()), "{status}");
        assert_eq!(holders(&cluster).into_iter().filter(|here| *here).count(), 2);

        let id = answers(agent, &["members"])[0]["id"].as_str().expect("an id").to_owned();
        let name = answers(agent, &["members"])[0]["name"].as_str().expect("a name").to_owned();
        let status = answers(agent, &["warm", reference, "--node", &name, &name, "--node", &id, "--wait"]);
        assert_eq!((&status["ready"], &status["min_ready"]), (&1.into(), &1.into()), "{status}");

        fails(agent, &["warm", reference, "--zone", "mars", "--wait"], 3, "mars");
        fails(agent, &["warm", reference, "--node", "nobody", "--wait"], 3, "nobody");
        fails(agent, &["warm", reference, "--nodes", "9", "--wait"], 2, "9");
        fails(agent, &["warm", "/models/mine", "--all", "--wait"], 4, "/models/mine");
        fails(agent, &["warm", &format!("{origin}/nowhere/"), "--all", "--wait"], 3, "0 of 3");
        cluster.agents_mut()[2].freeze().expect("frozen");
        fails(agent, &["warm", reference, "--all", "--wait", "--timeout", "5s"], 5, "of 3");
        cluster.agents_mut()[2].thaw().expect("thawed");
        cluster
    })
    .await;
    scale_hook(&site, &cluster).await;
}

/// What an autoscaler calls.
async fn scale_hook(site: &Site, cluster: &Cluster) {
    let agent = cluster.agents()[1].client();
    let asked = json!({ "ref": site.reference(), "count": 2, "deadline": 120 });
    let job: Value = agent.post("/v1/hooks/scale", &asked).await.expect("a job");
    let id = job["id"].as_str().expect("an id").to_owned();
    let start = std::time::Instant::now();
    loop {
        let job: Value = agent.get(&format!("/v1/warm/{id}")).await.expect("the job");
        if job["state"] != "running" {
            assert_eq!((&job["state"], &job["ready"]), (&"complete".into(), &2.into()), "{job}");
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{job}");
        tokio::time::sleep(emberline_tests::client::POLL_INTERVAL).await;
    }
    for wrong in
        [json!({ "ref": site.reference() }), json!({ "ref": "s4://x/y", "count": 1 }), json!({ "count": 1 })]
    {
        let answer = agent
            .request(reqwest::Method::POST, "/v1/hooks/scale", Some(wrong.clone()))
            .await
            .expect("alive");
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_agent_preload_is_its_own_engine_and_resumes_after_ctrl_c() {
    let site = Site::start(32, 4).await;
    let home = tempfile::tempdir().expect("temporary directory");
    let data = home.path().join("data").display().to_string();
    let (reference, model) = (site.reference(), site.model().clone());
    let interrupted = apart({
        let (data, reference) = (data.clone(), reference.clone());
        move || interrupt_half_way(&data, &reference)
    })
    .await;
    let before = site.relay().delivered();
    apart(move || {
        let output = preload(&[], &["pull", &reference, "--data-dir", &data, "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let status: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
        model.check_copy(Path::new(status["path"].as_str().expect("a path"))).expect("an exact copy");
        assert!(status["sources"]["reused"].as_u64() >= Some(interrupted), "{interrupted}: {status}");
    })
    .await;
    let cost = site.relay().delivered() - before;
    assert!(cost + interrupted < site.model().bytes() * 21 / 20, "{cost} more after {interrupted}");
}

/// Starts a pull, sends SIGINT in the middle, and says how many bytes were there.
fn interrupt_half_way(data: &str, reference: &str) -> u64 {
    let mut child = command(&["pull", reference, "--data-dir", data, "--progress", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("preload starts");
    let mut progress = std::io::BufReader::new(child.stderr.take().expect("piped"));
    let mut done = 0;
    let mut line = String::new();
    let mut seen = String::new();
    while {
        line.clear();
        std::io::BufRead::read_line(&mut progress, &mut line).expect("readable") > 0
    } {
        seen += &line;
        let status: Value = serde_json::from_str(&line).unwrap_or_default();
        let (here, total) = (status["done_bytes"].as_u64(), status["total_bytes"].as_u64());
        if let (Some(here), Some(total)) = (here, total)
            && total > 0
            && here * 3 > total
        {
            done = here;
            let pid = Pid::from_raw(child.id() as i32).expect("a process");
            kill_process(pid, Signal::INT).expect("interrupted");
            break;
        }
    }
    let mut rest = String::new();
    progress.read_to_string(&mut rest).expect("readable");
    let status = child.wait().expect("ended");
    assert_eq!(status.code(), Some(130), "{seen}{rest}");
    assert!(rest.contains("interrupted with") && rest.contains("run the same command again"), "{rest}");
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_join_preload_takes_from_the_swarm_what_it_holds() {
    let site = Site::start(32, 4).await;
    let cluster = Cluster::start(2).await.expect("a cluster");
    site.is_whole(&site.pull(&cluster.agents()[0]).await);
    let before = site.relay().delivered();
    let (reference, model) = (site.reference(), site.model().clone());
    let member = cluster.agents()[1].quic().to_string();
    let secret = cluster.secret_file().display().to_string();
    let data = cluster.home().join("joined").display().to_string();
    apart(move || {
        let output = preload(
            &[],
            &["pull", &reference, "--join", &member, "--secret-file", &secret, "--data-dir", &data, "--json"],
        );
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let status: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
        model.check_copy(Path::new(status["path"].as_str().expect("a path"))).expect("an exact copy");
        assert!(status["sources"]["peers"].as_u64() > Some(model.bytes() / 2), "{status}");
    })
    .await;
    let cost = site.relay().delivered() - before;
    // The listing and headers, and no span: it has met the holders before it reads.
    assert!(cost * 20 < site.model().bytes(), "joining cost the origin {cost} bytes");
    // It has left again, and said so.
    cluster.wait_formed(2).await.expect("two are left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_with_a_foreign_secret_is_refused_and_says_so() {
    let site = Site::unpaced(1).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let (reference, member) = (site.reference(), cluster.agents()[0].quic().to_string());
    let secret = cluster.home().join("foreign");
    fresh_secret(&secret).expect("written");
    let (secret, home) = (secret.display().to_string(), cluster.home().to_owned());
    apart(move || {
        let data = home.join("joined").display().to_string();
        let args =
            ["pull", &reference, "--join", &member, "--secret-file", &secret, "--data-dir", &data, "--quiet"];
        let refused = preload(&[], &args);
        ends_with(&refused, 4, &member);
        ends_with(&refused, 4, "--secret-file");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("is of another cluster") && !said.contains("Verdict"), "{said}");
        // Nobody there is another thing: it may come, and until then one goes on alone.
        let nobody = ["pull", &reference, "--join", "127.0.0.1:9", "--data-dir", &data];
        assert!(preload(&[], &nobody).status.success());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_without_credentials_names_those_it_wants_and_how_to_go_without() {
    // Whoever answers there has no credentials to give, like the metadata service of a plain machine.
    let site = Site::unpaced(1).await;
    let metadata = site.relay().url();
    apart(move || {
        let home = tempfile::tempdir().expect("temporary directory");
        let data = home.path().display().to_string();
        for metadata in [metadata.as_str(), "http://127.0.0.1:9"] {
            let env = [("AWS_METADATA_ENDPOINT", metadata), ("AWS_ENDPOINT_URL", "http://127.0.0.1:10")];
            let refused = preload(&env, &["pull", "s3://models/llama", "--data-dir", &data]);
            for words in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "anonymous"] {
                ends_with(&refused, 4, words);
            }
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(said.matches("AWS_SECRET_ACCESS_KEY").count(), 1, "said twice: {said}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_of_nodes_means_those_that_have_it_first() {
    let (site, cluster) = fleet().await;
    for (n, holder) in cluster.agents().iter().enumerate() {
        site.is_whole(&site.pull(holder).await);
        let (agent, reference, name) = (holder.client().clone(), site.reference(), holder.name().to_owned());
        let id = agent.status().await.expect("alive").artifacts[0].swarm.clone();
        let asked = cluster.agents()[(n + 1) % 3].client().clone();
        apart(move || {
            // Asked for by address alone.
            let address = asked.base().trim_start_matches("http://").to_owned();
            let args = ["warm", &reference, "--nodes", "1", "--wait", "--json", "--agent", &address];
            let output = preload(&[], &args);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let status: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
            assert_eq!(status["nodes"][0]["name"].as_str(), Some(name.as_str()), "{status}");
            succeeds(&agent, &["rm", &id]);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_hangs_is_named_at_once_and_given_up() {
    let site = Site::start(32, 4).await;
    let mut cluster = Cluster::start(1).await.expect("an agent");
    let (reference, agent) = (site.reference(), cluster.agents()[0].client().clone());
    apart(move || {
        let base = agent.base().to_owned();
        let mut pull = command(&["pull", &reference, "--agent", &base, "--progress", "plain"])
            .spawn()
            .expect("preload starts");
        let mut progress = std::io::BufReader::new(pull.stderr.take().expect("piped"));
        let mut said = String::new();
        while !said.contains(" %,") {
            assert!(std::io::BufRead::read_line(&mut progress, &mut said).expect("readable") > 0, "{said}");
        }
        cluster.agents_mut()[0].freeze().expect("frozen");
        let began = std::time::Instant::now();
        let output = preload(&[], &["status", "--agent", &base]);
        assert!(began.elapsed().as_secs() < 40, "{:?}", began.elapsed());
        ends_with(&output, 6, &base);
        ends_with(&output, 6, "has not answered for");
        ends_with(&output, 6, "state T");
        progress.read_to_string(&mut said).expect("readable");
        assert_eq!(pull.wait().expect("ended").code(), Some(6), "{said}");
        assert!(said.contains("has not answered for") && said.contains(&base), "{said}");
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
        cluster.agents_mut()[0].thaw().expect("thawed");
    })
    .await;
}

/// Takes connections, and says nothing.
fn silent_origin() -> (TcpListener, String) {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let origin = format!("http://{}", silent.local_addr().expect("bound"));
    (silent, origin)
}

/// Sends whoever asks on to `origin`, or, while it throttles, away for three seconds.
fn throttling_origin(origin: String) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let throttles = Arc::new(AtomicBool::new(false));
    let now = throttles.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = String::new();
            // Whoever goes away meanwhile wants no answer.
            let _ = BufReader::new(&stream).read_line(&mut request);
            let path = request.split(' ').nth(1).unwrap_or_default();
            let answer = match now.load(Ordering::SeqCst) {
                true => "429 Too Many Requests\r\nretry-after: 3".to_owned(),
                false => format!("302 Found\r\nlocation: {origin}{path}"),
            };
            let end = "content-length: 0\r\nconnection: close\r\n\r\n";
            let _ = write!(stream, "HTTP/1.1 {answer}\r\n{end}");
        }
    });
    (url, throttles)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_waits_for_its_origin_says_so() {
    let (_silent, origin) = silent_origin();
    apart(move || {
        let home = tempfile::tempdir().expect("temporary directory");
        let data = home.path().display().to_string();
        let reference = format!("{origin}/model.bin");
        let args = ["pull", &reference, "--timeout", "7s", "--progress", "plain", "--data-dir", &data];
        let output = preload(&[], &args);
        ends_with(&output, 6, &reference);
        ends_with(&output, 6, "the origin had not answered yet");
        ends_with(&output, 6, &format!("resolving: asking {origin} for"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_waits_for_its_origin_says_so_and_ends_when_told() {
    let (_silent, origin) = silent_origin();
    apart(move || {
        let home = tempfile::tempdir().expect("temporary directory");
        let data = home.path().display().to_string();
        let reference = format!("{origin}/model.bin");
        let output = preload(&[], &["plan", &reference, "--timeout", "7s", "--data-dir", &data]);
        ends_with(&output, 6, &reference);
        ends_with(&output, 6, "the origin had not answered yet");
        ends_with(&output, 6, &format!("asking {origin} for 5"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_up_waits_for_a_silent_origin_within_its_time_and_only_when_told_to_wait() {
    let (_silent, origin) = silent_origin();
    let cluster = Cluster::start(2).await.expect("a cluster");
    let agent = cluster.agents()[0].client().clone();
    apart(move || {
        let reference = format!("{origin}/model.bin");
        for whom in [&["--all"][..], &["--nodes", "1"]] {
            let args: Vec<&str> = ["warm", &reference].into_iter().chain(whom.iter().copied()).collect();
            let began = std::time::Instant::now();
            let status = answers(&agent, &args);
            assert_eq!(status["state"], "running", "{status}");
            assert!(began.elapsed().as_secs() < 4, "{whom:?} was waited for: {:?}", began.elapsed());
            // A slip in the selector is told at once, too.
            fails(&agent, &["warm", &reference, "--zone", "mars"], 3, "mars");
            assert!(began.elapsed().as_secs() < 6, "{:?}", began.elapsed());
        }
        let args: Vec<&str> = ["warm", &reference, "--nodes", "2", "--wait", "--timeout", "8s"].into();
        let began = std::time::Instant::now();
        fails(&agent, &args, 6, "0 of 2");
        assert!(began.elapsed().as_secs() < 12, "8 s became {:?}", began.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_its_origin_throttles_says_so_with_the_model_here_or_not() {
    let site = Site::unpaced(1).await;
    let (origin, throttles) = throttling_origin(site.relay().url());
    apart(move || {
        let home = tempfile::tempdir().expect("temporary directory");
        let data = home.path().display().to_string();
        let reference = format!("{origin}/");
        let pull = ["pull", &reference, "--timeout", "7s", "--progress", "plain", "--data-dir", &data];
        throttles.store(true, Ordering::SeqCst);
        let output = preload(&[], &pull);
        ends_with(&output, 6, "the origin throttles (429), asked again in 3 s");
        ends_with(&output, 6, "was not here after 7s (the origin throttles (429)");

        throttles.store(false, Ordering::SeqCst);
        assert!(preload(&[], &pull).status.success());
        throttles.store(true, Ordering::SeqCst);
        let output = preload(&[], &pull);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("the origin throttles (429)") && !said.contains("did not answer"), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_brought_in_part_is_not_called_whole() {
    let site = Site::unpaced(1).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let (agent, reference) = (cluster.agents()[0].client().clone(), site.reference());
    let files = site.model().files.len();
    apart(move || {
        succeeds(&agent, &["pull", &reference, "--allow-pattern", "config.json"]);
        let part = format!("1 of {files} files");
        let base = agent.base().to_owned();
        let output = preload(&[], &["path", &reference, "--agent", &base]);
        assert!(output.status.success() && !output.stdout.is_empty());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&part), "{said}");
        assert!(succeeds(&agent, &["ls"]).contains(&part));
        succeeds(&agent, &["pull", &reference]);
        let output = preload(&[], &["path", &reference, "--agent", &base]);
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(succeeds(&agent, &["ls"]).contains("whole"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_removed_by_hand_is_named_and_not_called_corrupt_nor_on_its_way() {
    let site = Site::unpaced(4).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let (agent, reference) = (cluster.agents()[0].client().clone(), site.reference());
    let victim = site.model().files[0].path.clone();
    apart(move || {
        let path = succeeds(&agent, &["pull", &reference]);
        std::fs::remove_file(Path::new(path.trim()).join(&victim)).expect("removed");
        fails(&agent, &["path", &reference], 5, "not whole");
        fails(&agent, &["path", &reference], 5, "`preload pull` brings what is missing");
        let base = agent.base().to_owned();
        let output = preload(&[], &["path", &reference, "--agent", &base]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("try again in"), "nobody brings it: {said}");

        let output = preload(&[], &["verify", &reference, "--no-repair", "--json", "--agent", &base]);
        ends_with(&output, 7, "1 file removed or replaced");
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
        assert_eq!((&report[0]["corrupt"], &report[0]["lost"]), (&json!([]), &json!([victim])), "{report}");
        let report = answers(&agent, &["verify", &reference]);
        assert_eq!((&report[0]["repaired"], &report[0]["restored"]), (&0.into(), &1.into()), "{report}");
        succeeds(&agent, &["path", &reference]);

        let file = std::env::current_exe().expect("this program").display().to_string();
        fails(&agent, &["pull", &reference, "--to", &file], 2, "not a directory");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_use_ends_with_a_sentence() {
    apart(|| {
        let nobody = [("EMBERLINE_AGENT", "http://127.0.0.1:9")];
        for args in [
            &["members"][..],
            &["status"],
            &["ls"],
            &["pull", "hf://org/name"],
            &["warm", "hf://org/name", "--all"],
        ] {
            ends_with(&preload(&nobody, args), 5, "127.0.0.1:9");
        }
        ends_with(&preload(&[], &["pull"]), 2, "REF");
        ends_with(&preload(&[], &["pull", "a", "--timeout", "never"]), 2, "never");
        ends_with(&preload(&[], &["pul"]), 2, "pull");
        ends_with(
            &preload(&[("EMBERLINE_TOKEN_FILE", "/no/token"), nobody[0]], &["members"]),
            3,
            "/no/token",
        );
        for shell in ["bash", "zsh", "fish"] {
            let output = preload(&[], &["completions", shell]);
            assert!(output.status.success() && !output.stdout.is_empty(), "{shell}");
        }
    })
    .await;
}
