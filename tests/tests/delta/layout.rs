//! What a fine-tune, a resharding and a longer vocabulary share with the model they came from: the
//! chunks of every tensor that did not change. On a real model, cut by the layout and, to compare,
//! in fixed steps.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use coordinatorless_p2p::ChunkHash;
use emberline_agent::{
    manifest::{Blueprint, Cutting},
    snapshot::{FileVersion, Snapshot, SnapshotFile},
};
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};

/// Tensors of a quarter of the target size or more have chunks of their own.
const OWN_CHUNKS_BYTES: usize = 256 << 10;

struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

type Model = Vec<(String, Tensor)>;
type Files = Vec<(&'static str, Vec<u8>)>;

fn original() -> (Vec<u8>, Model) {
    let file = std::fs::read(emberline_tests::environment::minilm_dir().join("model.safetensors")).unwrap();
    let mut model: Model = SafeTensors::deserialize(&file)
        .unwrap()
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            (name, Tensor { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() })
        })
        .collect();
    // The crate gives them in no order.
    model.sort_by(|(a, _), (b, _)| a.cmp(b));
    (file, model)
}

fn written<'a>(tensors: impl Iterator<Item = &'a (String, Tensor)>) -> Vec<u8> {
    let views = tensors.map(|(name, tensor)| {
        (name, TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap())
    });
    serialize(views, Some(HashMap::from([("format".to_owned(), "pt".to_owned())]))).unwrap()
}

/// As a resolver does it: reads only what the cutting asks for.
fn blueprint(files: &Files) -> Blueprint {
    let listed = files.iter().map(|(path, bytes)| SnapshotFile {
        path: path.parse().unwrap(),
        size: bytes.len() as u64,
        version: FileVersion::default(),
        digest: None,
    });
    let snapshot = Snapshot::new("s3://models/minilm", None, listed.collect()).unwrap();
    let mut cutting = Cutting::new(&snapshot).unwrap();
    let mut read_bytes = 0;
    while let Some((file, Range { start, end })) = cutting.next_need() {
        read_bytes += end - start;
        cutting.supply(file, &files[file].1[start as usize..end as usize]).unwrap();
    }
    assert!(read_bytes <= 1 << 20, "a header is a small part of a model, not {read_bytes} bytes");
    cutting.finish().unwrap()
}

/// The hash of every chunk with its place: file, begin, end.
fn by_layout(files: &Files) -> Vec<(ChunkHash, usize, Range<usize>)> {
    let blueprint = blueprint(files);
    (0..blueprint.chunk_count())
        .map(|chunk| {
            let place = blueprint.place(chunk).unwrap();
            let range = place.offset as usize..place.offset as usize + place.bytes as usize;
            (ChunkHash::of(&files[place.file].1[range.clone()]), place.file, range)
        })
        .collect()
}

/// The same, in steps of 1 MiB from each file's start.
fn by_fixed_steps(files: &Files) -> Vec<(ChunkHash, usize, Range<usize>)> {
    let mut chunks = Vec::new();
    for (file, (_, bytes)) in files.iter().enumerate() {
        for (step, chunk) in bytes.chunks(1 << 20).enumerate() {
            let begin = step << 20;
            chunks.push((ChunkHash::of(chunk), file, begin..begin + chunk.len()));
        }
    }
    chunks
}

/// The part of the bytes that is in chunks known from `base`.
fn share(base: &HashSet<ChunkHash>, chunks: &[(ChunkHash, usize, Range<usize>)]) -> f64 {
    let bytes = |known: bool| -> usize {
        chunks.iter().filter(|(hash, ..)| !known || base.contains(hash)).map(|(.., range)| range.len()).sum()
    };
    bytes(true) as f64 / bytes(false) as f64
}

/// Compares `files` with the original; checks every unchanged tensor; returns the shares kept by
/// the layout and by fixed steps.
fn compare(what: &str, files: &Files, original: &[u8], changed: &HashSet<&str>) -> (f64, f64) {
    let base: Files = vec![("model.safetensors", original.to_vec())];
    let known: HashSet<ChunkHash> = by_layout(&base).into_iter().map(|(hash, ..)| hash).collect();
    let chunks = by_layout(files);

    let mut checked = 0;
    for (file, (path, bytes)) in files.iter().enumerate() {
        let (header_bytes, header) = SafeTensors::read_metadata(bytes).unwrap();
        for (name, tensor) in header.tensors() {
            let (begin, end) = tensor.data_offsets;
            if changed.contains(name.as_str()) || end - begin < OWN_CHUNKS_BYTES {
                continue;
            }
            let place = 8 + header_bytes + begin..8 + header_bytes + end;
            let own: Vec<_> = chunks
                .iter()
                .filter(|(_, f, range)| *f == file && place.start < range.end && range.start < place.end)
                .collect();
            assert_eq!(
                own.iter().map(|(.., range)| range.len()).sum::<usize>(),
                end - begin,
                "{name} of {path}"
            );
            assert!(
                own.iter().all(|(hash, ..)| known.contains(hash)),
                "{what}: {name} of {path} is not shared"
            );
            checked += 1;
        }
    }
    assert!(checked >= 30, "{what}: {checked} tensors were compared");

    let fixed_known: HashSet<ChunkHash> = by_fixed_steps(&base).into_iter().map(|(hash, ..)| hash).collect();
    let (kept, fixed) = (share(&known, &chunks), share(&fixed_known, &by_fixed_steps(files)));
    println!(
        "{what}: {:.2} % shared, {:.2} % in fixed steps; {} chunks",
        kept * 100.0,
        fixed * 100.0,
        chunks.len()
    );
    (kept, fixed)
}

#[test]
fn a_fine_tune_shares_every_tensor_that_it_did_not_change() {
    let (original, mut model) = original();
    let total: usize = model.iter().map(|(_, tensor)| tensor.bytes.len()).sum();
    let mut changed_bytes = 0;
    for (name, tensor) in &mut model {
        if name.contains("encoder.layer.5.") {
            tensor.bytes.iter_mut().step_by(4).for_each(|byte| *byte ^= 1);
            changed_bytes += tensor.bytes.len();
        }
    }
    assert!(changed_bytes > total / 20, "the last layer is a real part of the model: {changed_bytes}");
    let files = vec![("model.safetensors", written(model.iter()))];
    let changed =
        model.iter().map(|(name, _)| name.as_str()).filter(|n| n.contains("encoder.layer.5.")).collect();
    let (kept, _) = compare("last layer fine-tuned", &files, &original, &changed);
    // All the rest, the header included, less the few small tensors gathered with a changed one.
    let possible = 1.0 - changed_bytes as f64 / original.len() as f64;
    assert!(kept > possible - 0.001 && kept <= possible, "{kept} of {possible}");
}

#[test]
fn a_resharded_model_shares_every_tensor() {
    let (original, model) = original();
    let half = model.len() / 2;
    let files = vec![
        ("model-00001-of-00002.safetensors", written(model[..half].iter())),
        ("model-00002-of-00002.safetensors", written(model[half..].iter())),
    ];
    let (kept, fixed) = compare("two shards", &files, &original, &HashSet::new());
    assert!(kept > 0.98 && fixed < 0.9, "{kept}, {fixed}");
}

#[test]
fn a_longer_vocabulary_shares_all_but_its_own_last_rows() {
    const EMBEDDING: &str = "embeddings.word_embeddings.weight";
    let (original, mut model) = original();
    let (_, embedding) = model.iter_mut().find(|(name, _)| name == EMBEDDING).unwrap();
    let row_bytes = embedding.bytes.len() / embedding.shape[0];
    embedding.shape[0] += 8;
    embedding.bytes.resize(embedding.bytes.len() + 8 * row_bytes, 7);
    let files = vec![("model.safetensors", written(model.iter()))];
    let (kept, fixed) = compare("eight tokens more", &files, &original, &HashSet::from([EMBEDDING]));
    // Two chunks at the end of the embedding and the header.
    assert!(kept > 0.97 && fixed < kept, "{kept}, {fixed}");
}
