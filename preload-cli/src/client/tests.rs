//! The client against a server that says exactly what each case needs.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    body::Body,
    extract::RawQuery,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::{get, post},
};
use emberline_agent::{
    api::Phase,
    error::{Error, exit_code},
};
use futures::{StreamExt, stream};
use tokio::{net::TcpListener, sync::Notify};

use super::*;

pub(crate) fn pull(phase: Phase, done_bytes: u64) -> PullStatus {
    PullStatus {
        phase,
        total_bytes: 100,
        done_bytes,
        total_files: 1,
        ..PullStatus::new("p1", "s3://bucket/llama")
    }
}

async fn serve(routes: Router) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Client::new(&format!("http://{addr}"), Some("secret".to_owned())).unwrap()
}

fn event(name: &str, status: &PullStatus) -> String {
    format!("event: {name}\ndata: {}\n\n", serde_json::to_string(status).unwrap())
}

#[tokio::test]
async fn an_agent_that_is_starting_is_waited_for() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let answer = move || async move {
        let problem = Problem::from(&Error::new(ErrorKind::UNAVAILABLE, "the agent is still starting"));
        match counter.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => {
                (StatusCode::SERVICE_UNAVAILABLE, [(STARTING_HEADER, "1")], Json(problem)).into_response()
            }
            _ => Json(Vec::<Member>::new()).into_response(),
        }
    };
    let client = serve(Router::new().route("/v1/members", get(answer))).await;
    assert!(client.members().await.unwrap().is_empty());
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[test]
fn an_address_without_a_scheme_is_one_of_http() {
    for address in ["127.0.0.1:7580", "localhost:7580", "[::1]:7580", "node-a:7580"] {
        assert_eq!(Client::new(address, None).unwrap().base().scheme(), "http", "{address}");
    }
}

#[tokio::test]
async fn a_stream_that_lasts_needs_no_poll() {
    let body = event("progress", &pull(Phase::Fetching, 10)) + &event("end", &pull(Phase::Complete, 100));
    let routes = Router::new().route("/v1/pulls/p1/events", get(move || async move { body }));
    let mut heard = Vec::new();
    let client = serve(routes).await;
    let last = client.follow(pull(Phase::Resolving, 0), |s| heard.push(s.done_bytes)).await.unwrap();
    assert_eq!((last.phase, heard), (Phase::Complete, vec![0, 10, 100]));
}

#[tokio::test]
async fn a_stream_cut_midway_falls_back_to_asking_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let arrived = Arc::new(Notify::new());
    let cut_after = arrived.clone();
    let cut = || async {
        let whole = event("progress", &pull(Phase::Fetching, 10));
        let half = event("progress", &pull(Phase::Fetching, 90))[..30].to_owned();
        let first = stream::iter([Ok(whole + &half)]);
        let cut = stream::once(async move {
            cut_after.notified().await;
            Err(std::io::Error::other("cut"))
        });
        Body::from_stream(first.chain(cut)).into_response()
    };
    let answer = move || async move {
        match counter.fetch_add(1, Ordering::Relaxed) {
            0 => Json(pull(Phase::Fetching, 50)),
            _ => Json(pull(Phase::Complete, 100)),
        }
    };
    let routes = Router::new().route("/v1/pulls/p1/events", get(cut)).route("/v1/pulls/p1", get(answer));
    let mut heard = Vec::new();
    let client = serve(routes).await;
    let hear = |status: &PullStatus| {
        heard.push(status.done_bytes);
        if status.done_bytes == 10 {
            arrived.notify_one();
        }
    };
    let last = client.follow(pull(Phase::Resolving, 0), hear).await.unwrap();
    assert_eq!((last.phase, heard), (Phase::Complete, vec![0, 10, 50, 100]));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_agent_that_is_gone_amid_a_job_is_said_to_be_waited_for_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let answer = move || {
        let problem = Problem::from(&Error::new(ErrorKind::UNAVAILABLE, "this agent is shutting down"));
        let answer = match asked.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => (StatusCode::SERVICE_UNAVAILABLE, Json(problem)).into_response(),
            _ => Json(pull(Phase::Complete, 100)).into_response(),
        };
        async { answer }
    };
    let routes = Router::new()
        .route("/v1/pulls/p1/events", get(|| async { StatusCode::SERVICE_UNAVAILABLE }))
        .route("/v1/pulls/p1", get(answer));
    let said: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let hear = said.clone();
    let client = serve(routes).await.telling(move |text| hear.lock().unwrap().push(text.to_owned()));
    let last = client.follow(pull(Phase::Fetching, 0), |_| {}).await.unwrap();
    assert_eq!(last.phase, Phase::Complete);
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("shutting down") && said[0].contains("waiting up to 15"), "{said:?}");
}

#[tokio::test]
async fn an_end_without_a_status_is_followed_by_one_question() {
    let routes = Router::new()
        .route("/v1/pulls/p1/events", get(|| async { "event: end\ndata:\n\n" }))
        .route("/v1/pulls/p1", get(|| async { Json(pull(Phase::Failed, 7)) }));
    let last = serve(routes).await.follow(pull(Phase::Resolving, 0), |_| {}).await.unwrap();
    assert_eq!(last.phase, Phase::Failed);
}

#[tokio::test]
async fn a_job_forgotten_by_a_restarted_agent_ends_in_words() {
    let routes = Router::new();
    let failure = serve(routes).await.follow(pull(Phase::Resolving, 0), |_| {}).await.unwrap_err();
    // A 404 without a problem comes from no agent of ours.
    assert!(failure.problem.message.contains("404"), "{failure:?}");

    let gone = || async {
        let problem = Problem::from(&Error::new(ErrorKind::NotFound, "pull p1"));
        (StatusCode::NOT_FOUND, Json(problem))
    };
    let routes = Router::new().route("/v1/pulls/p1", get(gone)).route("/v1/pulls/p1/events", get(gone));
    let failure = serve(routes).await.follow(pull(Phase::Resolving, 0), |_| {}).await.unwrap_err();
    assert!(failure.problem.message.contains("restarted"), "{failure:?}");
    assert_eq!(failure.exit, exit_code(ErrorKind::UNAVAILABLE));
}

#[tokio::test]
async fn every_problem_gets_the_exit_code_of_its_kind() {
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::Denied,
        ErrorKind::Invalid,
        ErrorKind::UNAVAILABLE,
        ErrorKind::Timeout,
        ErrorKind::Corrupt,
        ErrorKind::Full,
        ErrorKind::Cancelled,
    ];
    for kind in kinds {
        let answer = move || async move {
            let status = StatusCode::from_u16(emberline_agent::error::http_status(kind)).unwrap();
            (status, Json(Problem::from(&Error::new(kind, "why"))))
        };
        let client = serve(Router::new().route("/v1/plan", post(answer))).await;
        let failure = client.plan(&PlanRequest::default()).await.unwrap_err();
        assert_eq!(failure.exit, exit_code(kind), "{kind:?}");
        assert_eq!(failure.problem.message, "why");
    }
}

#[tokio::test]
async fn references_arrive_whole_and_with_the_token() {
    let echo = |RawQuery(query): RawQuery, headers: HeaderMap| async move {
        assert_eq!(headers["authorization"], "Bearer secret");
        let query = query.unwrap_or_default();
        let pairs = Url::parse(&format!("http://x/?{query}")).unwrap();
        let reference = pairs.query_pairs().find(|(k, _)| k == "reference").map(|(_, v)| v.into_owned());
        Json(PathAnswer {
            reference: reference.unwrap_or_default(),
            path: "/x".into(),
            file: None,
            files: 3,
            all_files: 3,
        })
    };
    let client = serve(Router::new().route("/v1/path", get(echo))).await;
    for reference in ["hf://org/name@rev", "https://h/a?b=c&d=e#f", "/models/ä ö+%2e"] {
        assert_eq!(client.path(reference).await.unwrap().reference, reference);
    }
}

#[tokio::test]
async fn an_answer_from_something_else_is_called_that() {
    let routes = Router::new().route("/v1/members", get(|| async { "<html>hello</html>" }));
    let failure = serve(routes).await.members().await.unwrap_err();
    assert!(failure.problem.message.contains("not ours"), "{failure:?}");
    assert_eq!(failure.exit, exit_code(ErrorKind::Invalid));
}

#[tokio::test]
async fn an_endless_answer_is_not_swallowed() {
    let endless = || async {
        let piece = vec![b' '; 1 << 20];
        Body::from_stream(stream::repeat_with(move || Ok::<_, Infallible>(piece.clone())))
    };
    let failure = serve(Router::new().route("/v1/members", get(endless))).await.members().await.unwrap_err();
    assert!(failure.problem.message.contains("longer than any"), "{failure:?}");
}

#[tokio::test]
async fn nobody_there_is_a_sentence_with_advice() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let failure = Client::new(&format!("http://{addr}"), None).unwrap().members().await.unwrap_err();
    assert_eq!(failure.exit, exit_code(ErrorKind::UNAVAILABLE));
    assert!(failure.problem.message.contains("Connection refused"), "{failure:?}");
    assert!(failure.problem.advice.is_some_and(|a| a.contains("preload agent")));
}

#[tokio::test]
async fn a_slow_answer_of_an_agent_that_lives_is_no_hang() {
    let slow = || async {
        // Longer than it takes to become suspicious.
        sleep(Duration::from_secs(4)).await;
        Json(Vec::<Member>::new())
    };
    let routes = Router::new().route("/v1/members", get(slow)).route("/healthz", get(|| async { "ok" }));
    let said: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let hear = said.clone();
    let client = serve(routes).await.telling(move |text| hear.lock().unwrap().push(text.to_owned()));
    assert!(client.members().await.unwrap().is_empty());
    assert!(said.lock().unwrap().is_empty(), "{said:?}");
}

#[tokio::test]
async fn https_at_an_agent_is_explained() {
    let client = serve(Router::new()).await;
    let address = client.base().as_str().replace("http://", "https://");
    let failure = Client::new(&address, None).unwrap().members().await.unwrap_err();
    assert!(
        failure.problem.advice.as_deref().is_some_and(|a| a.contains("agents speak http")),
        "{failure:?}"
    );
}

#[test]
fn addresses_that_are_none_are_refused() {
    for address in ["", "ftp://host", "http://", "no host:1"] {
        let refused = Client::new(address, None).unwrap_err();
        assert_eq!(refused.exit, 2, "{address}: {refused:?}");
    }
}
