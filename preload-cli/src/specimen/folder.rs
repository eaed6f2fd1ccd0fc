//! The folder around the shards: which tensor goes where, the index, and the small files.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use serde_json::{Map, Value, json};

use super::{
    Written, WrittenFile,
    architecture::{Architecture, Tensor},
    shard,
};

/// Tokens that the tokenizer file spells out; real ones list them all and take megabytes.
const SPELLED_TOKENS: usize = 2_000;

/// Writes everything.
pub(super) fn write(
    architecture: &Architecture,
    tensors: Vec<Tensor>,
    shards: usize,
    dir: &Path,
) -> Result<Written> {
    if shards == 0 || shards > tensors.len() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{} tensors cannot go into {shards} shards", tensors.len()),
        ));
    }
    fs::create_dir_all(dir).at(|| format!("make directory {}", dir.display()))?;
    let total_bytes: u64 = tensors.iter().map(Tensor::bytes).sum();
    let mut files = small_files(architecture);
    let shards = split(tensors, shards);
    let named: Vec<(String, &Vec<Tensor>)> =
        shards.iter().enumerate().map(|(i, tensors)| (shard_name(i, shards.len()), tensors)).collect();
    if named.len() > 1 {
        files.push(("model.safetensors.index.json".to_owned(), index(&named, total_bytes)));
    }

    let mut written = Vec::with_capacity(files.len() + named.len());
    for (path, content) in &files {
        let mut text = serde_json::to_vec_pretty(content)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("write {path}"), e))?;
        text.push(b'\n');
        fs::write(dir.join(path), &text).at(|| format!("write {}", dir.join(path).display()))?;
        written.push(WrittenFile { path: path.clone(), bytes: text.len() as u64 });
    }
    written.extend(write_shards(&named, dir)?);
    written.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Written { files: written })
}

/// Writes the shards with as many threads as there are cores.
fn write_shards(shards: &[(String, &Vec<Tensor>)], dir: &Path) -> Result<Vec<WrittenFile>> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(shards.len());
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<WrittenFile>> {
        let mut written = Vec::new();
        while let Some((path, tensors)) = shards.get(next.fetch_add(1, Ordering::Relaxed)) {
            let bytes = shard::write(&dir.join(path), tensors.to_vec())?;
            written.push(WrittenFile { path: path.clone(), bytes });
        }
        Ok(written)
    };
    let results: Vec<Result<Vec<WrittenFile>>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut written = Vec::with_capacity(shards.len());
    for result in results {
        written.extend(result?);
    }
    Ok(written)
}

/// Cuts the tensors into `shards` runs of about equal size, none of them empty.
fn split(tensors: Vec<Tensor>, shards: usize) -> Vec<Vec<Tensor>> {
    let total: u64 = tensors.iter().map(Tensor::bytes).sum();
    let mut runs: Vec<Vec<Tensor>> = vec![Vec::new()];
    let (mut before, mut left) = (0, tensors.len());
    for tensor in tensors {
        let due = before as u128 * shards as u128 >= total as u128 * runs.len() as u128;
        let must = left <= shards - runs.len();
        let begun = runs.last().is_some_and(|run| !run.is_empty());
        if begun && (due || must) && runs.len() < shards {
            runs.push(Vec::new());
        }
        before += tensor.bytes();
        left -= 1;
        if let Some(run) = runs.last_mut() {
            run.push(tensor);
        }
    }
    runs
}

fn shard_name(index: usize, count: usize) -> String {
    if count == 1 {
        "model.safetensors".to_owned()
    } else {
        format!("model-{:05}-of-{count:05}.safetensors", index + 1)
    }
}

fn index(shards: &[(String, &Vec<Tensor>)], total_bytes: u64) -> Value {
    let mut map = Map::new();
    for (path, tensors) in shards {
        map.extend(tensors.iter().map(|t| (t.name.clone(), Value::from(path.as_str()))));
    }
    json!({ "metadata": { "total_size": total_bytes }, "weight_map": map })
}

fn small_files(a: &Architecture) -> Vec<(String, Value)> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "head_dim": a.hidden / a.heads,
        "hidden_act": "silu",
        "hidden_size": a.hidden,
        "initializer_range": 0.02,
        "intermediate_size": a.intermediate,
        "max_position_embeddings": 8192,
        "model_type": "llama",
        "num_attention_heads": a.heads,
        "num_hidden_layers": a.layers,
        "num_key_value_heads": a.key_value_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "vocab_size": a.vocabulary,
    });
    let spelled: Map<String, Value> =
        (0..a.vocabulary.min(SPELLED_TOKENS)).map(|i| (format!("token{i:05}"), Value::from(i))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [
            { "id": 0, "content": "<|begin_of_text|>", "special": true },
            { "id": 1, "content": "<|end_of_text|>", "special": true },
        ],
        "model": { "type": "BPE", "vocab": spelled, "merges": [] },
    });
    let special = json!({ "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>" });
    let tokenizer_config = json!({
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "model_max_length": 8192,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    let generation = json!({ "bos_token_id": 0, "eos_token_id": 1, "do_sample": true, "temperature": 0.6 });
    [
        ("config.json", config),
        ("generation_config.json", generation),
        ("special_tokens_map.json", special),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer_config),
    ]
    .map(|(path, content)| (path.to_owned(), content))
    .into()
}
