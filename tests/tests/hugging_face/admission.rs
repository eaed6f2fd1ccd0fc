//! Who gets answers: whom the Hub lets in himself, and nobody else, whatever is here.

use std::os::unix::fs::PermissionsExt;

use emberline_tests::conformance::record;

use super::*;

/// Every kind of question about a repository that is here.
const QUESTIONS: [(&str, &str); 7] = [
    ("GET", "api/models/org/name"),
    ("GET", "api/models/org/name/revision/main"),
    ("GET", "api/models/org/name/tree/main?recursive=true"),
    ("POST", "api/models/org/name/paths-info/main"),
    ("GET", "api/models/org/name/refs"),
    ("HEAD", "org/name/resolve/main/config.json"),
    ("GET", "org/name/resolve/main/model.safetensors"),
];

/// Status and code of every question.
async fn asked(door: &Door, token: Option<&str>) -> Vec<(u16, String)> {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    let mut answers = Vec::new();
    for (method, path) in QUESTIONS {
        let response = door.send(method.parse().unwrap(), path, &headers).await;
        answers.push((response.status().as_u16(), told(response.headers(), "x-error-code").to_owned()));
    }
    answers
}

fn all(status: u16, code: &str) -> Vec<(u16, String)> {
    vec![(status, code.to_owned()); QUESTIONS.len()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_is_none_for_everybody_but_those_whom_the_hub_lets_in() {
    let settings = HubSettings { token: Some("hf_canary".into()), ..small() };
    let hub = Hub::start(settings.clone()).await.unwrap();
    let door = Door::open(&hub).await;
    assert_eq!(asked(&door, None).await, all(401, "RepoNotFound"));
    assert_eq!(asked(&door, Some("hf_other")).await, all(401, "RepoNotFound"));
    assert!(door.agent.artifacts(false).await.is_empty(), "what is refused brings nothing");

    for client in [HubClient::New, HubClient::Old] {
        let refused = Home::at(&door.base).with("HF_TOKEN", "hf_other").snapshot(client).await.unwrap_err();
        assert!(refused.contains("RepositoryNotFoundError"), "{refused}");
        let dir = Home::at(&door.base).with("HF_TOKEN", "hf_canary").snapshot(client).await.unwrap();
        assert_eq!(on_disk(&dir), contents(&settings));
        record(DOOR, client.name().0, client.name().1, "private repository, with its token and without");
    }
    door.whole().await;
    assert_eq!(asked(&door, Some("hf_canary")).await, all(200, ""));
    // All of it is here; that opens it to nobody.
    assert_eq!(asked(&door, None).await, all(401, "RepoNotFound"));
    for wrong in ["hf_other", "", "hf_canary2", "hf_canar", "hf_canary:x"] {
        assert_eq!(asked(&door, Some(wrong)).await, all(401, "RepoNotFound"), "{wrong:?}");
    }
    let requests = hub.requests();
    assert!(requests.iter().any(|r| r.host == "cdn"), "the large file came from the second host");
    assert!(requests.iter().all(|r| r.host == "hub" || !r.had_token), "the token stays with the Hub's host");
    let data = door.close().await;
    let mut pending = vec![data.path().to_owned()];
    while let Some(at) = pending.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                pending.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                assert!(!bytes.windows(9).any(|window| window == b"hf_canary"), "{}", path.display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gated_repository_is_open_to_those_alone_who_accepted_its_terms() {
    let settings = HubSettings { is_gated: true, ..small() };
    let hub = Hub::start(settings.clone()).await.unwrap();
    hub.admit("hf_accepted");
    let data = tempfile::tempdir().unwrap();
    let ttl = Duration::from_secs(2);
    let door = Door::open_with(hub.url(), data, |config| config.hugging_face.admission_ttl = ttl).await;
    for client in [HubClient::New, HubClient::Old] {
        let refused =
            Home::at(&door.base).with("HF_TOKEN", "hf_stranger").snapshot(client).await.unwrap_err();
        assert!(refused.contains("GatedRepoError"), "{refused}");
        let dir = Home::at(&door.base).with("HF_TOKEN", "hf_accepted").snapshot(client).await.unwrap();
        assert_eq!(on_disk(&dir), contents(&settings));
        record(DOOR, client.name().0, client.name().1, "gated repository, with access and without");
    }
    door.whole().await;
    assert_eq!(asked(&door, Some("hf_accepted")).await, all(200, ""));
    assert_eq!(asked(&door, Some("hf_stranger")).await, all(403, "GatedRepo"));
    assert_eq!(asked(&door, None).await, all(403, "GatedRepo"));
    // Access that is taken away ends within the time to live.
    hub.admit_nobody();
    let taken = Instant::now();
    while asked(&door, Some("hf_accepted")).await != all(403, "GatedRepo") {
        assert!(taken.elapsed() < ttl + Duration::from_secs(10), "still let in");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // The token that was lent is taken back: this node reads the repository without it again.
    let before = hub.requests().len();
    let plan = format!("{}/v1/plan", door.base.trim_end_matches("/hf"));
    let elsewhere = serde_json::json!({"reference": "hf://org/name@refs/pr/1"});
    Client::new().post(plan).json(&elsewhere).send().await.unwrap();
    let since = &hub.requests()[before..];
    assert!(since.iter().any(|request| request.line.contains("refs%2Fpr%2F1")), "{since:?}");
    assert!(since.iter().all(|request| !request.had_token), "{since:?}");
    door.close().await;
}

/// A gated repository shows its README and `.gitattributes` to anybody; they mostly come first.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_gated_repository_shows_to_anybody_lets_nobody_in() {
    let shown = || vec![file(".gitattributes", "*.safetensors filter=lfs"), file("README.md", "# a model")];
    let model = || vec![file("model.safetensors", content(2 * CHUNK + 9))];
    for (files, has_model) in [([shown(), model()].concat(), true), (shown(), false)] {
        let hub = Hub::start(HubSettings { is_gated: true, files, ..small() }).await.unwrap();
        hub.admit("hf_accepted");
        let given = Client::new().head(format!("{}/org/name/resolve/main/README.md", hub.url()));
        assert_eq!(given.send().await.unwrap().status(), 200, "the Hub itself shows it");
        let door = Door::open(&hub).await;
        let about = |token: &'static str| {
            let door = &door;
            async move { door.get("api/models/org/name", &[("authorization", token)]).await.status().as_u16() }
        };
        assert_eq!((about("Bearer hf_stranger").await, about("Bearer hf_accepted").await), (403, 200));
        if has_model {
            let path = "org/name/resolve/main/model.safetensors";
            let response = door.get(path, &[("authorization", "Bearer hf_stranger")]).await;
            assert_eq!(response.status(), 403);
            assert!(response.bytes().await.unwrap().len() < 1000, "the model's bytes");
            let response = door.get(path, &[("authorization", "Bearer hf_accepted")]).await;
            assert_eq!(response.bytes().await.unwrap(), content(2 * CHUNK + 9));
            // It is here now, for the one who was let in.
            assert_eq!(door.get(path, &[]).await.status(), 403);
        }
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_is_asked_once_for_each_caller_not_for_each_question() {
    let hub = Hub::start(HubSettings { token: Some("hf_canary".into()), ..small() }).await.unwrap();
    let door = Door::open(&hub).await;
    let questions =
        (0..50).map(|_| door.get("api/models/org/name", &[("authorization", "Bearer hf_canary")]));
    for response in futures::future::join_all(questions).await {
        assert_eq!(response.status(), 200);
    }
    let asked = hub.requests().iter().filter(|request| request.line == "GET /api/models/org/name").count();
    assert_eq!(asked, 2, "once as a stranger, once with the token");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_repository_is_read_without_sending_the_callers_token_anywhere() {
    let hub = Hub::start(small()).await.unwrap();
    let door = Door::open(&hub).await;
    assert_eq!(asked(&door, Some("hf_whatever")).await, all(200, ""));
    door.whole().await;
    assert!(hub.requests().iter().all(|request| !request.had_token));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_wants_a_token_of_its_own_takes_both_in_one() {
    let settings = HubSettings { token: Some("hf_canary".into()), ..small() };
    let hub = Hub::start(settings.clone()).await.unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("token");
    std::fs::write(&file, "agent-token\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let guarded = |config: &mut Config| config.http.token_file = Some(file.clone());
    let door = Door::open_with(hub.url(), tempfile::tempdir().unwrap(), guarded).await;
    for (token, status) in [
        (None, 401),
        (Some("hf_canary"), 401),
        (Some("wrong:hf_canary"), 401),
        (Some("agent-token:hf_canary"), 200),
    ] {
        let answers = asked(&door, token).await;
        assert!(answers.iter().all(|(answered, _)| *answered == status), "{token:?}: {answers:?}");
    }
    // The agent's own token alone is no token for the Hub.
    assert_eq!(asked(&door, Some("agent-token")).await, all(401, "RepoNotFound"));
    for client in [HubClient::New, HubClient::Old] {
        let home = Home::at(&door.base).with("HF_TOKEN", "agent-token:hf_canary");
        assert_eq!(on_disk(&home.snapshot(client).await.unwrap()), contents(&settings));
        record(
            DOOR,
            client.name().0,
            client.name().1,
            "HF_TOKEN with the agent's token in front of the Hub's",
        );
    }
    door.close().await;
}
