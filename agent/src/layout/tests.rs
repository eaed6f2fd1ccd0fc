//! Claims about the cut that hold for every format.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

/// What a resolver does: brings what is asked for until nothing is.
fn cut_file(path: &str, bytes: &[u8], target: u32) -> Vec<u32> {
    let size = bytes.len() as u64;
    let mut header: &[u8] = &[];
    for _ in 0..64 {
        match header_need(path, size, header) {
            HeaderNeed::Nothing => return cut(path, size, header, target),
            HeaderNeed::Bytes(needed) => {
                assert!(needed > header.len() as u64 && needed <= size && needed <= MAX_HEADER_BYTES);
                header = &bytes[..needed as usize];
            }
        }
    }
    panic!("{path} asks for ever more of {size} bytes");
}

fn assert_sound(lengths: &[u32], size: u64, target: u32) {
    assert_eq!(lengths.iter().map(|&b| u64::from(b)).sum::<u64>(), size);
    assert!(lengths.iter().all(|&b| b > 0 && b <= target));
    assert!(lengths.len() as u64 <= 8 * size / u64::from(target) + 4, "{} of {size}", lengths.len());
}

/// A safetensors file of zeros with these tensors, and where its data begins.
fn safetensors(tensors: &[(&str, u64)]) -> (Vec<u8>, u64) {
    let mut at = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(name, bytes)| {
            let begin = at;
            at += bytes;
            format!(r#""{name}":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[{begin},{at}]}}"#)
        })
        .collect();
    let json = format!("{{{}}}", entries.join(","));
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    let begin = file.len();
    file.resize(begin + at as usize, 0);
    (file, begin as u64)
}

/// A GGUF file of zeros with these tensors (32-byte aligned), and where its data begins.
fn gguf(tensors: &[(&str, u64)]) -> (Vec<u8>, u64) {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    let string = |file: &mut Vec<u8>, text: &str| {
        file.extend_from_slice(&(text.len() as u64).to_le_bytes());
        file.extend_from_slice(text.as_bytes());
    };
    file.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    file.extend_from_slice(&2u64.to_le_bytes());
    string(&mut file, "general.architecture");
    file.extend_from_slice(&8u32.to_le_bytes());
    string(&mut file, "llama");
    string(&mut file, "tokenizer.ggml.tokens");
    file.extend_from_slice(&9u32.to_le_bytes());
    file.extend_from_slice(&8u32.to_le_bytes());
    file.extend_from_slice(&2u64.to_le_bytes());
    string(&mut file, "<s>");
    string(&mut file, "</s>");
    let mut at = 0u64;
    for (name, bytes) in tensors {
        string(&mut file, name);
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&bytes.to_le_bytes());
        file.extend_from_slice(&24u32.to_le_bytes());
        file.extend_from_slice(&at.to_le_bytes());
        at = (at + bytes).next_multiple_of(32);
    }
    let begin = file.len().next_multiple_of(32);
    file.resize(begin + at as usize, 0);
    (file, begin as u64)
}

fn starts(lengths: &[u32]) -> Vec<u64> {
    lengths.iter().scan(0, |at, &bytes| Some(std::mem::replace(at, *at + u64::from(bytes)))).collect()
}

/// The chunk lengths between two places of a file that must both be boundaries.
fn within(lengths: &[u32], begin: u64, end: u64) -> Vec<u32> {
    let starts = starts(lengths);
    assert!(starts.contains(&begin), "a boundary at {begin}");
    let chunks: Vec<u32> =
        starts.iter().zip(lengths).filter(|(at, _)| (begin..end).contains(at)).map(|(_, &len)| len).collect();
    assert_eq!(chunks.iter().map(|&b| u64::from(b)).sum::<u64>(), end - begin, "a boundary at {end}");
    chunks
}

#[test]
fn the_target_grows_only_for_enormous_snapshots() {
    const GIB: u64 = 1 << 30;
    for (total, target) in [
        (0, MIB),
        (140 * GIB, MIB),
        (400_000 * MIB, MIB),
        (400_001 * MIB, 2 * MIB),
        (800_001 * 2 * MIB, 4 * MIB),
        (u64::MAX, 4 * MIB),
    ] {
        assert_eq!(u64::from(target_chunk_bytes(total)), target, "{total}");
    }
}

#[test]
fn a_large_tensor_is_cut_from_its_own_start_whatever_stands_around_it() {
    let large = ("model.layers.0.mlp.down_proj.weight", 5 * MIB + 77);
    let alone = {
        let (file, begin) = safetensors(&[large]);
        within(&cut_file("m.safetensors", &file, TARGET_CHUNK_BYTES), begin, begin + large.1)
    };
    assert_eq!(alone.len(), 6);
    for (before, after) in [(1, 1), (4095, 3), (200_000, 200_000), (MIB, MIB), (3 * MIB + 1, 9)] {
        let (file, begin) = safetensors(&[("a", before), large, ("z", after)]);
        let lengths = cut_file("m.safetensors", &file, TARGET_CHUNK_BYTES);
        let start = begin + before;
        assert_eq!(within(&lengths, start, start + large.1), alone, "{before} before, {after} after");
    }
}

#[test]
fn a_tensor_added_among_small_ones_moves_only_the_boundaries_near_it() {
    let names: Vec<String> = (0..400).map(|i| format!("blocks.{i}.norm.weight")).collect();
    let tensors: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 50_000)).collect();
    let mut more = tensors.clone();
    more.insert(3, ("blocks.extra", 123_456));

    let ends_of = |tensors: &[(&str, u64)], shift: u64| {
        let (file, begin) = safetensors(tensors);
        let lengths = cut_file("m.safetensors", &file, TARGET_CHUNK_BYTES);
        starts(&lengths)
            .into_iter()
            .filter(|&at| at >= begin + shift)
            .map(|at| at - begin - shift)
            .collect::<Vec<_>>()
    };
    let (before, after) = (ends_of(&tensors, 0), ends_of(&more, 123_456));
    let shared = before.iter().filter(|at| after.contains(at)).count();
    assert!(before.len() >= 20 && shared * 10 >= before.len() * 8, "{shared} of {}", before.len());
}

#[test]
fn small_tensors_are_gathered() {
    let names: Vec<String> = (0..1000).map(|i| format!("t{i}")).collect();
    let tensors: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 4096)).collect();
    let (file, begin) = safetensors(&tensors);
    let lengths = cut_file("m.safetensors", &file, TARGET_CHUNK_BYTES);
    let data = within(&lengths, begin, file.len() as u64);
    assert!((4..=16).contains(&data.len()), "{data:?}");
}

#[test]
fn gguf_tensors_are_cut_from_their_own_starts() {
    let tensors =
        [("token_embd.weight", 3 * MIB + 5), ("blk.0.attn_norm.weight", 100), ("output.weight", MIB + 1)];
    let (file, begin) = gguf(&tensors);
    let lengths = cut_file("m.gguf", &file, TARGET_CHUNK_BYTES);
    let norm = (begin + 3 * MIB + 5).next_multiple_of(32);
    assert_eq!(within(&lengths, begin, norm).len(), 4);
    assert_eq!(within(&lengths, norm, norm + 128), [128]);
    assert_eq!(within(&lengths, norm + 128, file.len() as u64).len(), 2);
    assert_eq!(within(&lengths, 0, begin), [begin as u32]);
}

#[test]
fn what_is_no_model_is_cut_in_fixed_steps() {
    let bytes = vec![1; 3 << 20];
    for path in ["pytorch_model.bin", "safetensors", "m.safetensors.index.json", "m.gguf", "m.safetensors"] {
        assert_eq!(cut_file(path, &bytes, TARGET_CHUNK_BYTES), [1 << 20; 3], "{path}");
    }
    assert!(cut_file("m.safetensors", &[], TARGET_CHUNK_BYTES).is_empty());
    assert!(cut_file("m.gguf", &[], TARGET_CHUNK_BYTES).is_empty());
}

#[test]
fn a_cut_is_the_same_with_more_header_than_needed() {
    let (file, _) = safetensors(&[("a", MIB), ("b", 2 * MIB + 9)]);
    let size = file.len() as u64;
    let least = cut_file("m.safetensors", &file, TARGET_CHUNK_BYTES);
    assert_eq!(cut("m.safetensors", size, &file, TARGET_CHUNK_BYTES), least);
    let (file, _) = gguf(&[("a", MIB), ("b", 2 * MIB + 9)]);
    let least = cut_file("m.gguf", &file, TARGET_CHUNK_BYTES);
    assert_eq!(cut("m.gguf", file.len() as u64, &file, TARGET_CHUNK_BYTES), least);
}

fn any_tensors() -> impl Strategy<Value = Vec<(String, u64)>> {
    let bytes = prop_oneof![4 => 0u64..5_000, 3 => 0u64..40_000, 1 => 0u64..300_000];
    prop::collection::btree_map("[a-z.0-9]{1,12}", bytes, 0..40)
        .prop_map(|tensors| tensors.into_iter().collect())
}

fn borrowed(tensors: &[(String, u64)]) -> Vec<(&str, u64)> {
    tensors.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect()
}

proptest! {
    #[test]
    fn any_file_is_cut_soundly_and_large_tensors_at_their_ends(tensors in any_tensors(), target in 4096u32..100_000) {
        let tensors = borrowed(&tensors);
        let own = u64::from(target / 4);
        type Make = fn(&[(&str, u64)]) -> (Vec<u8>, u64);
        for (path, make, align) in [("m.safetensors", safetensors as Make, 1), ("m.gguf", gguf as Make, 32)] {
            let (file, begin) = make(&tensors);
            let lengths = cut_file(path, &file, target);
            assert_sound(&lengths, file.len() as u64, target);
            let mut at = begin;
            for (_, bytes) in &tensors {
                let end = begin + (at - begin + bytes).next_multiple_of(align);
                if end - at > own {
                    let chunks = within(&lengths, at, end);
                    prop_assert!(chunks.iter().all(|&b| u64::from(b) > own));
                }
                at = end;
            }
        }
    }

    #[test]
    fn the_safetensors_crate_and_the_layout_agree_on_what_is_a_file(
        tensors in any_tensors(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop::char::range(' ', '~')), 0..3),
    ) {
        let (mut file, begin) = safetensors(&borrowed(&tensors));
        for (at, value) in edits {
            file[at.index(begin as usize)] = value as u8;
        }
        let known = ::safetensors::SafeTensors::read_metadata(&file).is_ok();
        let header = super::safetensors::read(file.len() as u64, &file);
        prop_assert!(!known || matches!(header, Header::Tensors(_)), "refuses what the crate takes");
        assert_sound(&cut_file("m.safetensors", &file, 4096), file.len() as u64, 4096);
    }

    #[test]
    fn damaged_headers_never_harm(
        tensors in any_tensors(),
        edits in prop::collection::vec((0usize..600, any::<u8>()), 1..8),
        length in 0usize..2000,
    ) {
        for (path, (mut file, _)) in [("m.safetensors", safetensors(&borrowed(&tensors))), ("m.gguf", gguf(&borrowed(&tensors)))] {
            for &(at, value) in &edits {
                if let Some(byte) = file.get_mut(at) {
                    *byte = value;
                }
            }
            assert_sound(&cut_file(path, &file, 4096), file.len() as u64, 4096);
            file.truncate(length);
            assert_sound(&cut_file(path, &file, 4096), file.len() as u64, 4096);
        }
    }

    #[test]
    fn any_bytes_are_cut_soundly(bytes in prop::collection::vec(any::<u8>(), 0..300), claimed in any::<u64>()) {
        for path in ["m.safetensors", "m.gguf", "m.bin"] {
            assert_sound(&cut_file(path, &bytes, 4096), bytes.len() as u64, 4096);
            // A size that the bytes do not have, as when the file shrank after it was listed.
            let claimed = claimed % (64 * MIB);
            assert_sound(&cut(path, claimed, &bytes, 4096), claimed, 4096);
        }
    }
}
