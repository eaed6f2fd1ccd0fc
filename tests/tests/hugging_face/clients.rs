//! Real clients download a real model, and find it whole.

use std::process::{Command, Stdio};

use emberline_tests::conformance::record;
use hf_hub::{Repo, RepoType, api::tokio::ApiBuilder};

use super::*;

/// Downloads the real model with each way that a client has of doing so.
async fn downloads(client: HubClient, ways: &[(&str, &[(&str, &str)])]) {
    let settings = minilm();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let door = Door::open(&hub).await;
    for (way, variables) in ways {
        let home = variables.iter().fold(Home::at(&door.base), |home, (name, value)| home.with(name, value));
        let dir = home.snapshot(client).await.unwrap_or_else(|e| panic!("{way}: {e}"));
        assert_eq!(on_disk(&dir), contents(&settings), "{way}");
        assert!(dir.ends_with(hub.commit()), "{}", dir.display());
        let (name, version) = client.name();
        record(DOOR, name, version, &format!("snapshot_download {way}"));
    }
    // Whoever downloads it, the Hub gave it once. What it sent of a request that made way for a more urgent one is
    // counted: less than a chunk.
    let whole: u64 = settings.files.iter().map(|file| file.bytes.len() as u64).sum();
    assert!(hub.served_bytes() <= whole + whole / 50 + CHUNK as u64, "{} of {whole}", hub.served_bytes());
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huggingface_hub_of_today_downloads_the_real_model_with_xet_installed_and_without() {
    let ways: [(&str, &[(&str, &str)]); 2] =
        [("with hf_xet", &[]), ("without hf_xet", &[("HF_HUB_DISABLE_XET", "1")])];
    downloads(HubClient::New, &ways).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huggingface_hub_of_yesterday_downloads_it_too_and_with_hf_transfer() {
    let ways: [(&str, &[(&str, &str)]); 3] = [
        ("with hf_xet", &[]),
        ("without hf_xet", &[("HF_HUB_DISABLE_XET", "1")]),
        ("with hf_transfer", &[("HF_HUB_ENABLE_HF_TRANSFER", "1"), ("HF_HUB_DISABLE_XET", "1")]),
    ];
    downloads(HubClient::Old, &ways).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_files_metadata_and_trees_are_what_the_hub_says() {
    let settings = small();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let door = Door::open(&hub).await;
    let program = "import json, sys, huggingface_hub as h
api = h.HfApi()
info = api.model_info('org/name', files_metadata=True)
tree = list(api.list_repo_tree('org/name', recursive=True))
some = api.get_paths_info('org/name', ['config.json', 'onnx', 'nothing'])
meta = h.get_hf_file_metadata(h.hf_hub_url('org/name', 'model.safetensors'))
path = h.hf_hub_download('org/name', 'onnx/model.onnx')
refs = api.list_repo_refs('org/name')
missing = []
for repo, file, revision in [('org/name', 'none', None), ('org/name', 'config.json', 'none'), ('org/none', 'x', None)]:
    try: h.hf_hub_download(repo, file, revision=revision)
    except Exception as e: missing.append(type(e).__name__)
print(json.dumps({
    'sha': info.sha, 'siblings': sorted((s.rfilename, s.size, s.lfs.sha256 if s.lfs else s.blob_id) for s in info.siblings),
    'tree': [(e.path, getattr(e, 'size', None), type(e).__name__) for e in tree],
    'some': sorted(e.path for e in some),
    'meta': [meta.commit_hash, meta.etag, meta.size],
    'file': open(path, 'rb').read().hex(), 'exists': h.file_exists('org/name', 'config.json'),
    'refs': [(b.name, b.target_commit) for b in refs.branches], 'missing': missing}), end='')";
    for client in [HubClient::New, HubClient::Old] {
        let home = Home::at(&door.base);
        let said: serde_json::Value =
            serde_json::from_str(&home.run(client, program, &[]).await.unwrap()).unwrap();
        let weights = &settings.files[3];
        assert_eq!(said["sha"], hub.commit());
        assert_eq!(
            said["meta"],
            serde_json::json!([hub.commit(), sha256(&weights.bytes), weights.bytes.len()])
        );
        let siblings = said["siblings"].as_array().unwrap();
        assert_eq!(siblings.len(), settings.files.len());
        assert_eq!(
            siblings[3],
            serde_json::json!(["model.safetensors", weights.bytes.len(), sha256(&weights.bytes)])
        );
        let paths: Vec<&str> =
            said["tree"].as_array().unwrap().iter().map(|e| e[0].as_str().unwrap()).collect();
        assert_eq!(
            paths,
            [
                "README.md",
                "config.json",
                "empty.txt",
                "model.safetensors",
                "onnx",
                "onnx/deep",
                "onnx/deep/model.onnx",
                "onnx/model.onnx"
            ]
        );
        assert_eq!(said["some"], serde_json::json!(["config.json", "onnx"]));
        assert_eq!(said["file"], hex(&content(200_000)));
        assert_eq!(said["exists"], true);
        assert_eq!(said["refs"], serde_json::json!([["main", hub.commit()]]));
        let errors = ["RemoteEntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError"];
        let older = ["EntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError"];
        assert!(
            said["missing"] == serde_json::json!(errors) || said["missing"] == serde_json::json!(older),
            "{}",
            said["missing"]
        );
        let (name, version) = client.name();
        for what in [
            "hf_hub_download",
            "model_info, list_repo_tree, get_paths_info, list_repo_refs",
            "errors by their codes",
        ] {
            record(DOOR, name, version, what);
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datasets_and_spaces_are_served_like_models() {
    for (kind, repo_type) in [("datasets", "dataset"), ("spaces", "space")] {
        let settings = HubSettings { kind, ..small() };
        let hub = Hub::start(settings.clone()).await.unwrap();
        let door = Door::open(&hub).await;
        let program = "import sys, huggingface_hub
print(huggingface_hub.snapshot_download('org/name', repo_type=sys.argv[1]), end='')";
        for client in [HubClient::New, HubClient::Old] {
            let home = Home::at(&door.base);
            let dir = home.run(client, program, &[repo_type]).await.unwrap();
            assert_eq!(on_disk(dir.as_ref()), contents(&settings), "{kind}");
            let (name, version) = client.name();
            record(DOOR, name, version, &format!("snapshot_download of a {repo_type}"));
        }
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_downloads_a_repository() {
    let settings = small();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let door = Door::open(&hub).await;
    for client in [HubClient::New, HubClient::Old] {
        let home = Home::at(&door.base);
        let program = client.bin().unwrap().join("hf");
        let to = home.dir.path().join("here");
        let mut command = Command::new(program);
        command
            .args(["download", "org/name", "--local-dir"])
            .arg(&to)
            .envs(home.variables())
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut here = on_disk(&to);
        here.retain(|path, _| !path.starts_with(".cache/"));
        assert_eq!(here, contents(&settings));
        record(DOOR, "hf (command line)", client.name().1, "hf download --local-dir");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transformers_loads_configuration_tokenizer_and_weights() {
    let hub = Hub::start(minilm()).await.unwrap();
    let door = Door::open(&hub).await;
    let program = "import json, transformers, safetensors.numpy
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file
config = AutoConfig.from_pretrained('org/name')
tokenizer = AutoTokenizer.from_pretrained('org/name')
weights = safetensors.numpy.load_file(cached_file('org/name', 'model.safetensors'))
ids = tokenizer('cold starts are slow')['input_ids']
print(json.dumps([config.model_type, config.hidden_size, tokenizer.decode(ids), len(weights),
    list(weights['embeddings.word_embeddings.weight'].shape)]), end='')";
    let home = Home::at(&door.base);
    let said = home.run(HubClient::Transformers, program, &[]).await.unwrap();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((said[0].as_str(), said[1].as_u64()), (Some("bert"), Some(384)));
    assert_eq!(said[2], "[CLS] cold starts are slow [SEP]");
    assert_eq!(said[4], serde_json::json!([30522, 384]));
    let (name, version) = HubClient::Transformers.name();
    record(
        DOOR,
        name,
        version,
        "AutoConfig, AutoTokenizer.from_pretrained; weights by cached_file (no PyTorch)",
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_downloads_and_finds_revisions() {
    let settings = minilm();
    let hub = Hub::start(settings.clone()).await.unwrap();
    let door = Door::open(&hub).await;
    let cache = tempfile::tempdir().unwrap();
    let api = ApiBuilder::new()
        .with_endpoint(door.base.clone())
        .with_cache_dir(cache.path().to_owned())
        .with_progress(false)
        .with_token(None)
        .build()
        .unwrap();
    let repo = api.repo(Repo::with_revision("org/name".into(), RepoType::Model, "main".into()));
    let info = repo.info().await.unwrap();
    assert_eq!((info.sha.as_str(), info.siblings.len()), (hub.commit().as_str(), settings.files.len()));
    for file in &settings.files {
        let path = repo.get(&file.path).await.unwrap();
        assert_eq!(sha256(&std::fs::read(path).unwrap()), sha256(&file.bytes), "{}", file.path);
    }
    assert!(repo.get("nothing").await.is_err());
    record(DOOR, "hf-hub (Rust)", "0.5.0", "info and get of every file");
    door.close().await;
}
