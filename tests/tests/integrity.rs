//! Lies, rot and want: peers and origins that give wrong bytes or none, disks that are full.
//!
//! Every test shows that its fault fired. Numbers in comments are those of the promises they test.

use std::{
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use emberline_agent::api::Phase;
use emberline_tests::{
    agent_process::{AgentOptions, AgentProcess},
    client::POLL_INTERVAL,
    cluster::Cluster,
    command,
    model::Model,
    site::{PATIENCE, Site},
};

/// The value of a metric's line that starts with `name`, labels included.
async fn metric(agent: &AgentProcess, name: &str) -> f64 {
    let page = agent.client().metrics().await.expect("metrics");
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no metric {name} in\n{page}"))
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "{what} has not come true");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The first file of weights: several chunks, and an origin's digest.
fn weights(model: &Model) -> String {
    let file = model.files.iter().find(|file| file.path.ends_with(".safetensors"));
    file.expect("a model has weights").path.clone()
}

fn variable(options: &mut AgentOptions, name: &str, value: impl ToString) {
    options.env.push((name.to_owned(), value.to_string()));
}

// 1: a peer flips bits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_serves_wrong_bytes_is_named_and_shunned_and_no_wrong_byte_gets_in() {
    let site = Site::start(64, 2).await;
    let mut cluster = Cluster::empty().expect("a secret");
    let lies = |options: &mut AgentOptions| variable(options, "EMBERLINE_FAULT", "serve.corrupt:0.1");
    cluster.join(lies).await.expect("a liar");
    for _ in 0..3 {
        cluster.join(|_| {}).await.expect("an agent");
    }
    cluster.wait_formed(4).await.expect("formed");
    let (liar, honest) = cluster.agents().split_first().expect("four agents");
    // It has everything, so that everybody asks it.
    site.is_whole(&site.pull(liar).await);
    let pulls = honest.iter().map(|agent| site.pull(agent));
    for status in futures::future::join_all(pulls).await {
        site.is_whole(&status);
    }
    assert!(liar.log().contains("serve.corrupt"), "the fault never fired");
    let id = liar.client().status().await.expect("alive").node.id.to_string();
    let mut found = 0.0;
    for agent in honest {
        found += metric(agent, "emberline_corrupt_chunks_total{found=\"peer\"}").await;
    }
    assert!(found >= 1.0, "nobody noticed");
    let shunned = |agent: &AgentProcess| {
        agent.log().lines().any(|line| line.contains("shun") && line.contains(id.get(..8).unwrap_or(&id)))
    };
    assert!(honest.iter().any(shunned), "nobody names {id}:\n{}", honest[0].log());
}

// 2: a body of the right size and the wrong content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_the_origin_does_not_vouch_for_get_no_path() {
    let site = Site::unpaced(16).await;
    let victim = weights(site.model());
    let file = std::fs::OpenOptions::new().write(true).open(site.model().dir.join(&victim)).expect("there");
    file.write_all_at(b"not what the listing says", 1 << 20).expect("written");
    let cluster = Cluster::start(2).await.expect("a cluster");
    let reference = site.reference();
    for agent in cluster.agents() {
        let client = agent.client().clone();
        let (reference, named) = (reference.clone(), victim.clone());
        tokio::task::spawn_blocking(move || {
            command::fails(&client, &["pull", &reference], 7, &named);
            command::fails(&client, &["path", &reference], 5, "not whole");
        })
        .await
        .expect("no panic");
        assert!(
            find(&agent.data_dir().join("artifacts"), &|path| path.ends_with(format!("files/{victim}")))
                .is_empty()
        );
        assert!(find(&agent.data_dir().join("models"), &|path| path.is_file()).is_empty());
    }
}

/// Every file below `dir` that `wanted` says yes to; links are not followed.
fn find(dir: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => find(&entry.path(), wanted),
            _ => Some(entry.path()).into_iter().filter(|path| wanted(path)).collect(),
        })
        .collect()
}

// 3: never two versions in one file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_replaced_during_the_pull_ends_in_the_new_version_on_every_node() {
    let mut site = Site::start(64, 8).await;
    let cluster = Cluster::start(3).await.expect("a cluster");
    let started = cluster.agents().iter().map(|agent| site.pull_until(agent.client(), 0.2));
    let statuses = futures::future::join_all(started).await;
    site.replace_model().await;
    for (agent, status) in cluster.agents().iter().zip(&statuses) {
        let ended = agent.client().watch_pull(&status.id, PATIENCE, |_| false).await.expect("alive");
        assert_eq!(ended.phase, Phase::Complete, "{ended:?}");
        site.is_whole(&ended);
    }
    let noticed = cluster.agents().iter().any(|agent| agent.log().contains("origin changed"));
    assert!(noticed, "nobody read the origin after it changed: the fault did not fire");
}

/// Takes a second of silence for a stall.
fn impatient(options: &mut AgentOptions) {
    variable(options, "EMBERLINE_ORIGINS__STALL_TIMEOUT", "1s");
    variable(options, "EMBERLINE_ORIGINS__REQUEST_TIMEOUT", "1s");
}

// 14: a stall has a time-out, another source and a metric.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_origin_is_noticed_and_a_neighbour_takes_its_place() {
    let site = Site::start(64, 4).await;
    let mut cluster = Cluster::empty().expect("a secret");
    cluster.join(impatient).await.expect("an agent");
    site.is_whole(&site.pull(&cluster.agents()[0]).await);
    cluster.agents_mut()[0].kill().expect("killed");

    cluster
        .join(|options| {
            impatient(options);
            options.seeds.clear();
        })
        .await
        .expect("an agent");
    let second = cluster.agents()[1].client().clone();
    let status = site.pull_until(&second, 0.3).await;
    site.relay().be_silent(true);
    let stalls =
        async || metric(&cluster.agents()[1], "emberline_stalls_total{reason=\"origin\"}").await > 0.0;
    until("the stall is counted", stalls).await;
    let stuck = second.pull_status(&status.id).await.expect("alive");
    assert!(!stuck.phase.is_over(), "{stuck:?}");

    // Back comes the neighbour that has it all; the origin stays silent.
    let seed = cluster.agents()[1].quic();
    cluster.agents_mut()[0].restart_towards(vec![seed]).await.expect("restarted");
    let ended = second.watch_pull(&status.id, PATIENCE, |_| false).await.expect("alive");
    assert_eq!(ended.phase, Phase::Complete, "{ended:?}");
    site.is_whole(&ended);
    assert!(ended.sources.peers > 0, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_from_a_silent_origin_ends_by_its_timeout_and_goes_on_when_the_origin_does() {
    let site = Site::start(32, 4).await;
    let mut cluster = Cluster::empty().expect("a secret");
    let agent = cluster.join(impatient).await.expect("an agent");
    let status = site.pull_until(agent.client(), 0.3).await;
    agent
        .client()
        .request(reqwest::Method::DELETE, &format!("/v1/pulls/{}", status.id), None)
        .await
        .expect("alive");
    agent.client().watch_pull(&status.id, PATIENCE, |_| false).await.expect("alive");
    site.relay().be_silent(true);
    let (client, reference) = (agent.client().clone(), site.reference());
    let pull =
        move || command::fails(&client, &["pull", &reference, "--timeout", "4s"], 6, "was not here after 4s");
    tokio::task::spawn_blocking(pull).await.expect("no panic");

    let resumed = site.start_pull(agent.client()).await;
    let stalls = async || metric(agent, "emberline_stalls_total{reason=\"origin\"}").await > 0.0;
    until("the stall is counted", stalls).await;
    site.relay().be_silent(false);
    let ended = agent.client().watch_pull(&resumed.id, PATIENCE, |_| false).await.expect("alive");
    assert_eq!(ended.phase, Phase::Complete, "{ended:?}");
    site.is_whole(&ended);
    assert!(ended.sources.reused > 0, "{ended:?}");
}

// 11: the quota is hard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_holds_at_every_moment_with_four_times_as_much_asked_for_at_once() {
    const QUOTA_BYTES: u64 = 48 << 20;
    let mut sites = Vec::new();
    for _ in 0..8 {
        sites.push(Site::start(24, 2).await);
    }
    let mut cluster = Cluster::empty().expect("a secret");
    let agent = cluster
        .join(|options| variable(options, "EMBERLINE_STORE__QUOTA_BYTES", QUOTA_BYTES))
        .await
        .expect("an agent");
    let started = sites.iter().map(|site| site.start_pull(agent.client()));
    let started = futures::future::join_all(started).await;
    let (mut complete, mut refused, mut most) = (0, 0, 0);
    for (site, status) in sites.iter().zip(&started) {
        let start = Instant::now();
        let ended = loop {
            most = most.max(disk_bytes(&agent.data_dir().join("artifacts")));
            let status = agent.client().pull_status(&status.id).await.expect("alive");
            if status.phase.is_over() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "{status:?}");
        };
        match ended.error {
            None => {
                complete += 1;
                // One that came later may have taken its place already.
                if ended.path.as_deref().is_some_and(Path::exists) {
                    site.is_whole(&ended);
                }
            }
            Some(problem) => {
                assert_eq!(problem.kind, "full", "{problem:?}");
                refused += 1;
            }
        }
    }
    assert!(most <= QUOTA_BYTES, "{most} bytes on disk");
    assert!(most > QUOTA_BYTES / 4, "only {most} bytes were ever on disk");
    assert!(complete >= 1, "{refused} were refused and none came");
    // What was refused for want of room comes when there is some again.
    let last = sites.last().expect("eight");
    let ended = last.pull(agent).await;
    last.is_whole(&ended);
    assert!(disk_bytes(&agent.data_dir().join("artifacts")) <= QUOTA_BYTES);
}

/// As `du` counts.
fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = find(dir, &|_| true);
    files.iter().filter_map(|path| path.symlink_metadata().ok()).map(|m| m.blocks() * 512).sum()
}

/// A file system of a few MiB in memory; unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let size = format!("size={mib}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the agent that was killed a moment ago may not be gone to the last page.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

// 10: a full disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_the_pull_with_the_reason_and_keeps_what_is_here() {
    let Some(disk) = SmallDisk::new(96) else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let (small, large) = (Site::unpaced(8).await, Site::unpaced(48).await);
    let agent =
        AgentProcess::start(&disk.path().join("data"), AgentOptions::new("cramped")).await.expect("an agent");
    let here = small.pull(&agent).await;
    small.is_whole(&here);

    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![1; 64 << 20]).expect("room for the filler");
    let (client, reference) = (agent.client().clone(), large.reference());
    let pull = move || command::fails(&client, &["pull", &reference], 8, "bytes");
    tokio::task::spawn_blocking(pull).await.expect("no panic");
    small.is_whole(&small.pull(&agent).await);

    std::fs::remove_file(filler).expect("removed");
    large.is_whole(&large.pull(&agent).await);
}

// 10, by the command alone: who is to make room needs none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_preload_lists_finds_and_removes_by_itself() {
    let Some(disk) = SmallDisk::new(32) else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let (kept, gone) = (Site::unpaced(4).await, Site::unpaced(4).await);
    let (kept, gone) = (kept.reference(), gone.reference());
    let by_itself = move || {
        let data = disk.path().join("data").display().to_string();
        let preload = |args: &[&str]| {
            let args: Vec<&str> = args.iter().copied().chain(["--data-dir", &data]).collect();
            let output = command::preload(&[], &args);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{args:?} ended with {}: {said}", output.status);
            String::from_utf8(output.stdout).expect("text")
        };
        for reference in [&kept, &gone] {
            preload(&["pull", reference]);
        }
        let filler = std::fs::File::create(disk.path().join("filler")).expect("a filler");
        let full = fill(filler);
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");

        let listed = preload(&["ls"]);
        assert!(listed.contains(&kept) && listed.contains(&gone), "{listed}");
        let path = preload(&["path", &gone]);
        assert!(Path::new(path.trim()).exists(), "{path}");
        preload(&["rm", &gone]);
        assert!(!Path::new(path.trim()).exists(), "{path}");
        let listed = preload(&["ls"]);
        assert!(listed.contains(&kept) && !listed.contains(&gone), "{listed}");
    };
    tokio::task::spawn_blocking(by_itself).await.expect("no panic");
}

/// Writes until the disk refuses.
fn fill(mut file: std::fs::File) -> std::io::Error {
    use std::io::Write;
    for size in [1 << 20, 1 << 12, 1] {
        while let Ok(()) = file.write_all(&vec![1; size]) {}
    }
    file.write_all(&[1]).expect_err("the disk is not full")
}

// 7 and 12 at every named step of the way to a path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_at_any_step_has_no_path_to_wrong_bytes_and_completes_after_restart() {
    let site = Site::unpaced(16).await;
    for step in [
        "after-write:5",
        "after-journal:5",
        "before-sync",
        "before-commit",
        "before-rename",
        "after-rename",
        "before-link",
        "after-link",
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut options = AgentOptions::new("mortal");
        variable(&mut options, "EMBERLINE_FAULT", step);
        let data = dir.path().join("data");
        let mut agent = AgentProcess::start(&data, options).await.expect("an agent");
        site.start_pull(agent.client()).await;
        agent.wait_exit(PATIENCE).await.expect("the fault fires");
        published_files_are_clean(site.model(), &data);
        agent.restart_without(&["EMBERLINE_FAULT"]).await.expect("restarted");
        published_files_are_clean(site.model(), &data);
        site.is_whole(&site.pull(&agent).await);
    }
}

/// Every file that has its name is the model's, byte for byte.
fn published_files_are_clean(model: &Model, data: &Path) {
    for file in &model.files {
        for place in ["artifacts", "models"] {
            for path in find(&data.join(place), &|path| path.ends_with(format!("files/{}", file.path))) {
                assert_eq!(
                    emberline_tests::model::sha256(&path).expect("readable"),
                    file.sha256,
                    "{}",
                    path.display()
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_on_disk_is_found_and_fetched_again() {
    let site = Site::unpaced(16).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let agent = &cluster.agents()[0];
    let path = site.pull(agent).await.path.expect("a path");
    let victim = path.join(weights(site.model()));
    flip(&victim, 3 << 20);
    site.model().check_copy(&path).expect_err("the fault fired");
    let (client, reference) = (agent.client().clone(), site.reference());
    let report = tokio::task::spawn_blocking(move || command::answers(&client, &["verify", &reference]));
    let report = report.await.expect("no panic");
    let found = (report[0]["corrupt"].as_array().map(Vec::len), &report[0]["repaired"]);
    assert_eq!(found, (Some(1), &1.into()), "{report}");
    site.is_copy(&agent.client().path(&site.reference()).await.expect("a path").path);

    // Only reported, it keeps its path from everybody until it is pulled again.
    flip(&victim, 2 << 20);
    let (client, reference) = (agent.client().clone(), site.reference());
    let report = move || {
        command::fails(&client, &["verify", &reference, "--no-repair"], 7, "1 chunk");
        command::fails(&client, &["path", &reference], 5, "not whole");
    };
    tokio::task::spawn_blocking(report).await.expect("no panic");
    site.is_whole(&site.pull(agent).await);
    assert!(metric(agent, "emberline_corrupt_chunks_total{found=\"disk\"}").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_somebody_removes_are_reported_and_fetched_again() {
    let site = Site::unpaced(16).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let agent = &cluster.agents()[0];
    let path = site.pull(agent).await.path.expect("a path");
    let verify = async |arguments: &'static [&'static str]| {
        let (client, reference) = (agent.client().clone(), site.reference());
        let run = move || {
            let all = [&["verify", reference.as_str()], arguments].concat();
            let said = command::command(&all).env("EMBERLINE_AGENT", client.base()).output().expect("runs");
            (said.status.code(), String::from_utf8_lossy(&said.stdout).into_owned())
        };
        tokio::task::spawn_blocking(run).await.expect("no panic")
    };
    let victim = path.join(weights(site.model()));
    std::fs::remove_file(&victim).expect("removed");
    let (code, said) = verify(&["--no-repair"]).await;
    assert!(code == Some(7) && said.contains("removed or replaced on the disk"), "{code:?}: {said}");
    let (code, said) = verify(&[]).await;
    assert!(code == Some(0) && said.contains("1 of 1 restored"), "{code:?}: {said}");
    site.is_copy(&path);
    let (code, said) = verify(&[]).await;
    assert!(code == Some(0) && said.contains("all as they should be"), "{code:?}: {said}");

    // A door that opens it notices, and so does whoever pulls; without a verification.
    let told = async || agent.client().path(&site.reference()).await;
    std::fs::remove_file(&victim).expect("removed");
    told().await.expect_err("half a model has no path");
    site.is_whole(&site.pull(agent).await);
    let artifacts = agent.data_dir().join("artifacts");
    for below in ["files", ""] {
        let swarm = site.pull(agent).await.swarm.expect("resolved");
        std::fs::remove_dir_all(artifacts.join(swarm).join(below)).expect("removed");
        let status = site.pull(agent).await;
        assert_eq!(status.phase, Phase::Complete, "{below:?}: {status:?}");
        site.is_whole(&status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_goes_under_a_pull_is_made_again_and_the_pull_completes() {
    let site = Site::start(32, 6).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let agent = &cluster.agents()[0];
    let status = site.pull_until(agent.client(), 0.4).await;
    let swarm = status.swarm.expect("resolved");
    std::fs::remove_dir_all(agent.data_dir().join("artifacts").join(swarm)).expect("removed");
    let ended = agent.client().watch_pull(&status.id, PATIENCE, |_| false).await.expect("alive");
    assert_eq!(ended.phase, Phase::Complete, "{ended:?}");
    site.is_whole(&ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_fetches_nothing_that_a_pull_has_left() {
    let site = Site::start(32, 6).await;
    let cluster = Cluster::start(1).await.expect("an agent");
    let agent = &cluster.agents()[0];
    let status = site.pull_until(agent.client(), 0.4).await;
    let path = format!("/v1/pulls/{}", status.id);
    agent.client().request(reqwest::Method::DELETE, &path, None).await.expect("alive");
    agent.client().watch_pull(&status.id, PATIENCE, |_| false).await.expect("alive");
    let delivered = site.relay().delivered();
    let (client, reference) = (agent.client().clone(), site.reference());
    let report = tokio::task::spawn_blocking(move || {
        (
            command::answers(&client, &["verify", &reference]),
            command::succeeds(&client, &["verify", &reference]),
        )
    });
    let (report, said) = report.await.expect("no panic");
    assert!(
        report[0]["not_here_bytes"].as_u64() > Some(0) && report[0]["chunks"].as_u64() > Some(0),
        "{report}"
    );
    assert!(said.contains("not here yet"), "{said}");
    // What was on its way when the pull was cancelled may have come still.
    let since = site.relay().delivered() - delivered;
    assert!(since < site.model().bytes() / 4, "{since} bytes were fetched by verifying");
    site.is_whole(&site.pull(agent).await);
}

/// Flips one bit of a file that nobody may write to.
// 5: and by nobody's asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_is_found_in_the_background_and_fetched_again() {
    let site = Site::unpaced(16).await;
    let mut cluster = Cluster::empty().expect("a secret");
    let agent = cluster
        .join(|options| variable(options, "EMBERLINE_STORE__SCRUB_EVERY", "1s"))
        .await
        .expect("an agent");
    let status = site.pull(agent).await;
    let victim = status.path.expect("complete").join(weights(site.model()));
    flip(&victim, 3 << 20);
    let found = "emberline_corrupt_chunks_total{found=\"disk\"}";
    until("rot", async || metric(agent, found).await >= 1.0).await;
    let reference = site.reference();
    until("repair", async || agent.client().path(&reference).await.is_ok()).await;
    site.is_copy(&agent.client().path(&reference).await.expect("whole").path);
}

// 30: certificates are renewed while agents run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let home = tempfile::tempdir().expect("temporary directory");
    let [old, new] = [(); 2].map(|()| Authority::new());
    let both = [old.pem.as_str(), new.pem.as_str()].concat();
    let key = rcgen::KeyPair::generate().expect("a key");
    let files = CertificateFiles::write(&home.path().join("a"), &both, &old.issue(&key), &key);
    let mut options = AgentOptions::new("renewed");
    files.name(&mut options);
    let renewed = AgentProcess::start(&home.path().join("a-data"), options).await.expect("an agent");

    let other = rcgen::KeyPair::generate().expect("a key");
    let strict = CertificateFiles::write(&home.path().join("b"), &new.pem, &new.issue(&other), &other);
    let mut options = AgentOptions::new("strict");
    strict.name(&mut options);
    options.seeds = vec![renewed.quic()];
    // It believes the new authority alone, so it stays outside until the other shows a new certificate.
    let strict = AgentProcess::start(&home.path().join("b-data"), options).await.expect("an agent");
    until("a refusal", async || !strict.client().status().await.expect("alive").seed_errors.is_empty()).await;
    assert_eq!(strict.client().members().await.expect("alive").len(), 1);

    CertificateFiles::write(&home.path().join("a"), &both, &new.issue(&key), &key);
    until("company", async || strict.client().members().await.expect("alive").len() == 2).await;
}

/// An authority of a test's own.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    fn issue(&self, key: &rcgen::KeyPair) -> String {
        let names = vec!["node.example".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).expect("a name");
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(key, &self.issuer).expect("signed").pem()
    }
}

/// What an agent is given instead of a secret.
struct CertificateFiles([PathBuf; 3]);

impl CertificateFiles {
    fn write(dir: &Path, authority: &str, certificate: &str, key: &rcgen::KeyPair) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        let files = ["ca.pem", "node.pem", "node.key"].map(|name| dir.join(name));
        let contents = [authority.to_owned(), certificate.to_owned(), key.serialize_pem()];
        for (file, content) in files.iter().zip(contents) {
            // By rename, as those who renew certificates do it.
            let beside = file.with_extension("new");
            std::fs::write(&beside, content).expect("written");
            std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).expect("private");
            std::fs::rename(&beside, file).expect("renamed");
        }
        Self(files)
    }

    fn name(&self, options: &mut AgentOptions) {
        for (key, file) in ["CA_FILE", "CERTIFICATE_FILE", "KEY_FILE"].iter().zip(&self.0) {
            variable(options, &format!("EMBERLINE_CLUSTER__{key}"), file.display());
        }
    }
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("long enough");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o444)).expect("ours");
}
