//! What a fine-tune, a resharding and a longer vocabulary share with the model they came from: the
//! chunks of every tensor that did not change. On a real model, cut by the layout and, to compare,
//! in fixed steps and by content.

use std::collections::HashSet;

use coordinatorless_p2p::ChunkHash;
use emberline_tests::delta_bench::{
    boundaries::{Boundaries, hashed},
    compare,
    pairs::{EMBEDDING, Files, WEIGHTS, Weights, is_late, versions},
};
use safetensors::SafeTensors;

/// Tensors of a quarter of the target size or more have chunks of their own.
const OWN_CHUNKS_BYTES: usize = 256 << 10;

/// Checks that every unchanged tensor has all its chunks in the original; the shares kept by the layout and
/// by fixed steps.
fn shares(files: &Files, original: &[u8], changed: impl Fn(&str) -> bool) -> (f64, f64) {
    let base: Files = vec![(WEIGHTS.to_owned(), original.to_vec())];
    let places = Boundaries::Tensors.cut(&base).unwrap();
    let known: HashSet<ChunkHash> = hashed(&base, &places).into_iter().collect();
    let places = Boundaries::Tensors.cut(files).unwrap();
    let chunks: Vec<_> = hashed(files, &places).into_iter().zip(&places).collect();

    let mut checked = 0;
    for (file, (path, bytes)) in files.iter().enumerate() {
        let (header_bytes, header) = SafeTensors::read_metadata(bytes).unwrap();
        for (name, tensor) in header.tensors() {
            let (begin, end) = tensor.data_offsets;
            if changed(&name) || end - begin < OWN_CHUNKS_BYTES {
                continue;
            }
            let place = 8 + header_bytes + begin..8 + header_bytes + end;
            let own: Vec<_> = chunks
                .iter()
                .filter(|(_, (f, range))| *f == file && place.start < range.end && range.start < place.end)
                .collect();
            let own_bytes: usize = own.iter().map(|(_, (_, range))| range.len()).sum();
            assert_eq!(own_bytes, end - begin, "{name} of {path}");
            assert!(own.iter().all(|(hash, _)| known.contains(hash)), "{name} of {path} is not shared");
            checked += 1;
        }
    }
    assert!(checked >= 30, "{checked} tensors were compared");
    let kept = |boundaries| compare(&base, "", files, boundaries).unwrap().kept;
    (kept(Boundaries::Tensors), kept(Boundaries::Fixed))
}

#[test]
fn a_fine_tune_shares_every_tensor_that_it_did_not_change() {
    let (mut model, original) = Weights::original().unwrap();
    let changed = |name: &str| is_late(name, 5);
    let changed_bytes = model.train(1, changed);
    assert!(changed_bytes > original.len() / 20, "the last layer is a real part of it: {changed_bytes}");
    let (kept, _) = shares(&model.whole().unwrap(), &original, changed);
    // All the rest, the header included, less the few small tensors gathered with a changed one.
    let possible = 1.0 - changed_bytes as f64 / original.len() as f64;
    assert!(kept > possible - 0.001 && kept <= possible, "{kept} of {possible}");
}

#[test]
fn a_resharded_model_shares_every_tensor() {
    let (model, original) = Weights::original().unwrap();
    let (kept, fixed) = shares(&model.sharded(2).unwrap(), &original, |_| false);
    assert!(kept > 0.98 && fixed < 0.9, "{kept}, {fixed}");
}

#[test]
fn a_longer_vocabulary_shares_all_but_its_own_last_rows() {
    let (mut model, original) = Weights::original().unwrap();
    model.extend_vocabulary(7, 8);
    let (kept, fixed) = shares(&model.whole().unwrap(), &original, |name| name == EMBEDDING);
    // Two chunks at the end of the embedding and the header.
    assert!(kept > 0.97 && fixed < kept, "{kept}, {fixed}");
}

/// Where something is kept at all, cutting at tensors keeps as much as the best of the others but for the
/// few chunks at which the change begins and ends.
#[test]
fn no_other_boundaries_keep_more_by_much() {
    let (model, original) = Weights::original().unwrap();
    let base: Files = vec![(WEIGHTS.to_owned(), original)];
    for version in versions(&model).unwrap() {
        let [ours, fixed, by_content] =
            Boundaries::ALL.map(|b| compare(&base, version.name, &version.files, b).unwrap().kept);
        let best = fixed.max(by_content);
        assert!(ours > best - 0.02, "{}: {ours} by us, {fixed} fixed, {by_content} FastCDC", version.name);
    }
}
