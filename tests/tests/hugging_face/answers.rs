//! What answers say: headers, parts, pages, one commit each.

use emberline_tests::conformance::record;
use futures::StreamExt;
use sha1::Sha1;

use super::*;

fn git_id(bytes: &[u8]) -> String {
    hex(&Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat()))
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_name_commit_and_digest_and_nothing_of_xet() {
    let settings = small();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let door = Door::open(&hub).await;
    let check = |headers: &HeaderMap, file: &HubFile| {
        let tag = if file.is_large { sha256(&file.bytes) } else { git_id(&file.bytes) };
        assert_eq!(told(headers, "etag"), format!("\"{tag}\""), "{}", file.path);
        assert_eq!(told(headers, "x-repo-commit"), hub.commit());
        assert_eq!(told(headers, "accept-ranges"), "bytes");
        assert_eq!(told(headers, "content-length"), file.bytes.len().to_string(), "{}", file.path);
        assert_eq!(told(headers, "x-linked-etag").is_empty(), !file.is_large);
        for absent in ["x-xet-hash", "content-encoding", "location", "x-emberline-stale"] {
            assert!(!headers.contains_key(absent), "{absent}");
        }
    };
    for file in &settings.files {
        let head = door.head(&format!("org/name/resolve/main/{}", file.path)).await;
        assert_eq!(head.status(), 200);
        check(head.headers(), file);
    }
    assert!(door.agent.artifacts(false).await.is_empty(), "a head brings nothing");
    for revision in ["main", &hub.commit(), "refs%2Fpr%2F1", "refs/pr/1"] {
        for file in &settings.files {
            let got = door.get(&format!("org/name/resolve/{revision}/{}", file.path), &[]).await;
            assert_eq!(got.status(), 200, "{revision} {}", file.path);
            check(got.headers(), file);
            assert_eq!(sha256(&got.bytes().await.unwrap()), sha256(&file.bytes), "{revision} {}", file.path);
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_given_as_each_client_asks_for_them_while_the_file_comes_and_after() {
    let settings = small();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let door = Door::open(&hub).await;
    let (path, bytes) = ("org/name/resolve/main/model.safetensors", &settings.files[3].bytes);
    let size = bytes.len();
    hub.pace(4 << 20);
    for round in ["coming", "sealed"] {
        for (range, from, to) in [
            (format!("bytes={}-{}", size - 9, size - 1), size - 9, size),
            ("bytes=0-0".to_owned(), 0, 1),
            // The last part of hf_transfer ends one byte too late.
            (format!("bytes={}-{size}", size - 100), size - 100, size),
            (format!("bytes={}-", size - 5), size - 5, size),
            (format!("bytes={CHUNK}-{}", CHUNK + 10), CHUNK, CHUNK + 11),
            ("bytes=-7".to_owned(), size - 7, size),
        ] {
            let got = door.get(path, &[("range", &range)]).await;
            assert_eq!(got.status(), 206, "{round} {range}");
            assert_eq!(
                told(got.headers(), "content-range"),
                format!("bytes {from}-{}/{size}", to - 1),
                "{range}"
            );
            assert_eq!(told(got.headers(), "x-repo-commit"), hub.commit());
            assert!(got.bytes().await.unwrap() == bytes.slice(from..to), "{round} {range}");
        }
        let tag = format!("\"{}\"", sha256(bytes));
        let unchanged = door.get(path, &[("if-none-match", &tag)]).await;
        assert_eq!(unchanged.status(), 304);
        let other = door.get(path, &[("if-range", "\"other\""), ("range", "bytes=0-0")]).await;
        assert_eq!((other.status().as_u16(), other.bytes().await.unwrap().len()), (200, size));
        hub.pace(0);
        door.whole().await;
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_thousands_comes_in_pages_of_the_commit_that_the_first_one_named() {
    let mut files: Vec<HubFile> =
        (0..2500).map(|n| file(&format!("shards/{n:05}.txt"), n.to_string())).collect();
    files.insert(0, file("config.json", "{}"));
    let hub = Hub::start(HubSettings { files, page: 1000, ..small() }).await.unwrap();
    let door = Door::open(&hub).await;
    let first = door.get("api/models/org/name/tree/main?recursive=True&expand=False", &[]).await;
    let link = told(first.headers(), "link").to_owned();
    assert!(link.contains(&format!("/hf/api/models/org/name/tree/{}?", hub.commit())), "{link}");
    assert!(link.starts_with("<http://127.0.0.1:") && link.ends_with("rel=\"next\""), "{link}");
    let first: serde_json::Value = first.json().await.unwrap();
    assert_eq!(first.as_array().unwrap().len(), 1000);

    let program = "import huggingface_hub as h
entries = [e.path for e in h.HfApi().list_repo_tree('org/name', recursive=True)]
files = [p for p in entries if p.endswith('.txt')]
below = [e.path for e in h.HfApi().list_repo_tree('org/name', 'shards')]
assert below == files, len(below)
print(len(entries), len(files), files == sorted(set(files)), end='')";
    for client in [HubClient::New, HubClient::Old] {
        // 2,500 shards, their directory, and the configuration.
        assert_eq!(Home::at(&door.base).run(client, program, &[]).await.unwrap(), "2502 2500 True");
        record(DOOR, client.name().0, client.name().1, "list_repo_tree of 2500 files by pages");
    }
    let missing = door.get("api/models/org/name/tree/main/nothing", &[]).await;
    assert_eq!((missing.status().as_u16(), told(missing.headers(), "x-error-code")), (404, "EntryNotFound"));
    assert_eq!(told(missing.headers(), "x-repo-commit"), hub.commit());
    let some = door.json("api/models/org/name/tree/main?recursive=true&limit=2").await;
    assert_eq!(some.as_array().unwrap().len(), 2);
    door.close().await;
}

/// Clients quote a revision's slashes; people with curl do not.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_look_like_routes_are_read_and_paged_at_revisions_with_slashes() {
    let files: Vec<HubFile> = (0..1500).map(|n| file(&format!("{n:05}.txt"), n.to_string())).collect();
    for name in ["gpt2", "org/tree", "tree/refs"] {
        let hub = Hub::start(HubSettings { name: name.into(), files: files.clone(), page: 1000, ..small() });
        let hub = hub.await.unwrap();
        let door = Door::open(&hub).await;
        for revision in ["refs%2Fpr%2F1", "refs/pr/1"] {
            let first = door.get(&format!("api/models/{name}/tree/{revision}?limit=2"), &[]).await;
            assert_eq!(first.status(), 200, "{name} {revision}");
            let link = told(first.headers(), "link").to_owned();
            assert!(link.contains(&format!("/hf/api/models/{name}/tree/{}?", hub.commit())), "{link}");
            let next = link.trim_start_matches('<').split('>').next().unwrap();
            let next: serde_json::Value = Client::new().get(next).send().await.unwrap().json().await.unwrap();
            assert_eq!(next[0]["path"], "00002.txt", "{name} {revision}");
            let about = door.json(&format!("api/models/{name}/revision/{revision}")).await;
            assert_eq!((about["id"].as_str(), about["sha"].as_str()), (Some(name), Some(&*hub.commit())));
        }
        let program = "import sys, huggingface_hub as h
entries = list(h.HfApi().list_repo_tree(sys.argv[1], revision='refs/pr/1', recursive=True))
path = h.hf_hub_download(sys.argv[1], '00007.txt', revision='refs/pr/1')
print(len(entries), open(path).read(), end='')";
        for client in [HubClient::New, HubClient::Old] {
            let said = Home::at(&door.base).run(client, program, &[name]).await.unwrap();
            assert_eq!(said, "1500 7", "{name}");
        }
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_moves_moves_here_and_its_old_commit_stays() {
    let hub = Hub::start(small()).await.unwrap();
    let door = Door::open(&hub).await;
    let old = hub.commit();
    let get = async |revision: &str| {
        let got = door.get(&format!("org/name/resolve/{revision}/config.json"), &[]).await;
        assert_eq!(got.status(), 200, "{revision}");
        told(got.headers(), "x-repo-commit").to_owned()
    };
    assert_eq!(get("main").await, old);
    door.whole().await;
    let new = "f".repeat(40);
    hub.move_branch(&new);
    let start = Instant::now();
    while door.json("api/models/org/name/revision/main").await["sha"] != new.as_str() {
        assert!(start.elapsed() < LISTED_FOR + Duration::from_secs(15), "the branch does not move");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(get("main").await, new);
    // The Hub serves it no more; what is here is.
    assert_eq!(get(&old).await, old);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_hub_never_makes_a_stream_fall_silent_for_as_long_as_clients_wait() {
    let settings = small();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let door = Door::open(&hub).await;
    // A chunk takes fourteen seconds; clients give up after ten without a byte.
    let rate = 300_000;
    hub.pace(rate);
    let start = Instant::now();
    let got = door.get("org/name/resolve/main/model.safetensors", &[]).await;
    assert_eq!(got.status(), 200);
    let (mut last, mut longest, mut body) = (Instant::now(), Duration::ZERO, Vec::new());
    longest = longest.max(start.elapsed());
    let mut pieces = got.bytes_stream();
    while let Some(piece) = pieces.next().await {
        longest = longest.max(last.elapsed());
        last = Instant::now();
        body.extend_from_slice(&piece.unwrap());
    }
    let a_chunk = Duration::from_secs_f64(CHUNK as f64 / rate as f64);
    assert!(start.elapsed() > a_chunk, "the Hub was not slow: {:?}", start.elapsed());
    assert!(longest < Duration::from_secs(9), "silent for {longest:?}");
    assert_eq!(sha256(&body), sha256(&settings.files[3].bytes));
    door.close().await;
}
