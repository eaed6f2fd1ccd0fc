//! Claims about blueprints, manifests and their written form.

use proptest::prelude::*;

use super::*;
use crate::snapshot::{Snapshot, SnapshotFile};

fn file(path: &str, chunk_bytes: &[u32]) -> BlueprintFile {
    BlueprintFile {
        path: path.parse().unwrap(),
        size: chunk_bytes.iter().map(|&b| u64::from(b)).sum(),
        version: FileVersion { etag: Some("\"abc\"".into()), object_version: None },
        digest: Some(Digest::Sha256([7; 32])),
        chunk_bytes: chunk_bytes.to_vec(),
    }
}

fn blueprint() -> Blueprint {
    let files = vec![
        file("config.json", &[600]),
        file("empty", &[]),
        file("empty2", &[]),
        file("model.safetensors", &[100, 1000, 1000, 501, 500]),
    ];
    Blueprint::new("hf://org/name@main".into(), Some("0123abcd".into()), files).unwrap()
}

fn manifest() -> Manifest {
    Manifest::new(blueprint(), (0..6u8).map(|i| ChunkHash([i; 32])).collect()).unwrap()
}

const GOLDEN_BLUEPRINT: &[u8] = include_bytes!("../../tests/golden/blueprint-v1.bin");
const GOLDEN_MANIFEST: &[u8] = include_bytes!("../../tests/golden/manifest-v1.bin");

#[test]
fn version_1_is_written_as_it_always_was_and_still_opens() {
    assert_eq!(blueprint().encode(), GOLDEN_BLUEPRINT);
    assert_eq!(manifest().encode(), GOLDEN_MANIFEST);
    assert_eq!(Blueprint::decode(GOLDEN_BLUEPRINT).unwrap(), blueprint());
    assert_eq!(Manifest::decode(GOLDEN_MANIFEST).unwrap(), manifest());
}

#[test]
fn the_swarm_id_and_the_artifact_id_are_those_of_every_other_node() {
    let id = "dc8bd653f0dc4d224a0fc161e96fb4518787ac822a926d3b2ed9e0cd4c02991a";
    assert_eq!(blueprint().swarm_id().to_string(), id);
    assert_eq!(Blueprint::decode(GOLDEN_BLUEPRINT).unwrap().swarm_id().to_string(), id);
    assert_eq!(
        manifest().id().to_string(),
        "ea57e2c3c93395e17eb804b7e3538909c2d6644f412d61b1ade28cd459c3dca2"
    );
}

#[test]
fn a_reference_names_a_file_where_that_is_all_there_is() {
    let sole = |reference: &str, names: &[&str]| {
        let files = names.iter().map(|name| file(name, &[1])).collect();
        Blueprint::new(reference.into(), None, files).unwrap().sole_file()
    };
    for (reference, name) in [
        ("s3://bucket/a/model.bin", "model.bin"),
        ("https://host/a%20b.bin?key=x/y", "a b.bin"),
        ("file:///models/a.gguf", "a.gguf"),
        ("s3://bucket/odd?", "odd?"),
    ] {
        assert_eq!(sole(reference, &[name]).as_deref(), Some(name), "{reference}");
    }
    assert_eq!(sole("s3://bucket/model/", &["model"]), None, "a folder");
    assert_eq!(sole("hf://org/name", &["config.json"]), None);
    assert_eq!(sole("s3://bucket/a", &["a", "b"]), None);
}

#[test]
fn every_chunk_has_the_place_that_counting_gives() {
    let blueprint = blueprint();
    let mut chunk = 0;
    for (index, file) in blueprint.files.iter().enumerate() {
        let first = chunk;
        let mut offset = 0;
        for &bytes in &file.chunk_bytes {
            assert_eq!(blueprint.place(chunk), Some(ChunkPlace { file: index, offset, bytes }));
            offset += u64::from(bytes);
            chunk += 1;
        }
        assert_eq!(blueprint.chunks_of(index), first..chunk);
    }
    assert_eq!(blueprint.chunk_count(), chunk);
    assert_eq!(blueprint.chunk_lens(), [600, 100, 1000, 1000, 501, 500]);
    assert_eq!(blueprint.place(chunk), None);
    assert_eq!(blueprint.place(u32::MAX), None);
    assert_eq!(blueprint.chunks_of(4), 0..0);
    assert_eq!(blueprint.find(&"empty".parse().unwrap()), Some(1));
    assert_eq!(blueprint.find(&"nothing".parse().unwrap()), None);
}

#[test]
fn a_range_touches_the_chunks_that_have_a_byte_of_it() {
    let blueprint = blueprint();
    // Chunks of file 3 begin at 0, 100, 1100, 2100, 2601 and end at 3101; its first chunk is 1.
    for (range, chunks) in [
        (0..1, 1..2),
        (0..100, 1..2),
        (0..101, 1..3),
        (99..100, 1..2),
        (100..101, 2..3),
        (1099..1101, 2..4),
        (3100..3101, 5..6),
        (3100..u64::MAX, 5..6),
        (0..u64::MAX, 1..6),
    ] {
        assert_eq!(blueprint.chunks_overlapping(3, range.clone()), chunks, "{range:?}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "a reader may ask for one")]
    for (file, range) in [(3, 5..5), (3, 7..5), (3, 3101..4000), (1, 0..10), (9, 0..10)] {
        assert!(blueprint.chunks_overlapping(file, range.clone()).is_empty(), "{range:?}");
    }
}

#[test]
fn spans_cover_every_chunk_once_and_stay_within_a_file() {
    let blueprint = blueprint();
    assert_eq!(blueprint.spans(1), [0..1, 1..2, 2..3, 3..4, 4..5, 5..6]);
    assert_eq!(blueprint.spans(1100), [0..1, 1..3, 3..4, 4..6]);
    assert_eq!(blueprint.spans(u64::MAX), [0..1, 1..6]);
}

#[test]
fn an_etag_changes_with_any_chunk_of_its_file_and_with_no_other() {
    let before = manifest();
    let mut hashes = before.hashes.clone();
    hashes[2] = ChunkHash([99; 32]);
    let after = Manifest::new(blueprint(), hashes).unwrap();
    assert_eq!(before.file_etag(0), after.file_etag(0));
    assert_ne!(before.file_etag(3), after.file_etag(3));
    assert_ne!(before.id(), after.id());
    assert_eq!(before.file_etag(1), ChunkHash::of(b""));
}

#[test]
fn a_blueprint_that_contradicts_itself_is_refused_made_or_decoded() {
    let tampered = |change: &dyn Fn(&mut Blueprint)| {
        let mut blueprint = blueprint();
        change(&mut blueprint);
        blueprint
    };
    let table: [(&str, Blueprint); 12] = [
        ("add up", tampered(&|b| b.files[3].size += 1)),
        ("add up", tampered(&|b| b.files[1].size = 5)),
        ("a chunk of 0 bytes", tampered(&|b| b.files[3].chunk_bytes.push(0))),
        ("a chunk of 4194305 bytes", tampered(&|b| b.files[0].chunk_bytes = vec![MAX_CHUNK_BYTES + 1])),
        ("out of order", tampered(&|b| b.files.swap(0, 1))),
        ("listed twice", tampered(&|b| b.files[1].path = b.files[0].path.clone())),
        ("only in case", tampered(&|b| b.files[0].path = "EMPTY".parse().unwrap())),
        ("also the directory", tampered(&|b| b.files[2].path = "empty/x".parse().unwrap())),
        ("reference", tampered(&|b| b.reference = "s3://a\nb".into())),
        ("revision", tampered(&|b| b.revision = Some(String::new()))),
        ("etag", tampered(&|b| b.files[0].version.etag = Some("x\r\nHost: evil".into()))),
        ("object version", tampered(&|b| b.files[0].version.object_version = Some("a".repeat(5000)))),
    ];
    for (why, blueprint) in table {
        let Blueprint { reference, revision, files, .. } = blueprint.clone();
        for err in [
            Blueprint::new(reference, revision, files).unwrap_err(),
            Blueprint::decode(&blueprint.encode()).unwrap_err(),
        ] {
            assert_eq!(err.kind(), ErrorKind::Invalid);
            assert!(err.to_string().contains(why), "{why}: {err}");
        }
    }
}

#[test]
fn a_path_that_was_never_parsed_is_refused() {
    // The length of the path stays, so the archive stays sound: only validation can tell.
    for evil in
        ["../nfig.jso", "/etc/passwd", "a\\..\\..\\..x", "%2e%2e%2fxx", "a\0b\0c\0d\0e\0f", "a//////////"]
    {
        assert_eq!(evil.len(), "config.json".len());
        let mut bytes = blueprint().encode();
        let at = bytes.windows(11).position(|w| w == b"config.json").unwrap();
        bytes[at..at + 11].copy_from_slice(evil.as_bytes());
        let err = Blueprint::decode(&bytes).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Invalid, "{evil:?}");
        assert!(err.to_string().contains("file name"), "{err}");
    }
}

#[test]
fn a_manifest_needs_one_hash_for_each_chunk() {
    for count in [0, 5, 7] {
        let hashes = vec![ChunkHash([1; 32]); count];
        let err = Manifest::new(blueprint(), hashes.clone()).unwrap_err();
        assert!(err.to_string().contains("6 chunks"), "{err}");
        assert!(Manifest::decode(&Manifest { blueprint: blueprint(), hashes }.encode()).is_err());
    }
}

#[test]
fn another_version_is_refused_with_words() {
    let mut bytes = GOLDEN_BLUEPRINT.to_vec();
    bytes[4] = 2;
    assert!(Blueprint::decode(&bytes).unwrap_err().to_string().contains("format version 2"));
    assert!(Manifest::decode(GOLDEN_BLUEPRINT).unwrap_err().to_string().contains("no manifest"));
    assert!(Blueprint::decode(b"").is_err() && Blueprint::decode(&GOLDEN_BLUEPRINT[..6]).is_err());
}

#[test]
fn more_bytes_than_the_limit_are_not_looked_at() {
    let mut bytes = GOLDEN_BLUEPRINT[..6].to_vec();
    bytes.resize(MAX_ENCODED_BYTES + 1, 0);
    let err = Blueprint::decode(&bytes).unwrap_err();
    assert!(err.to_string().contains("longer than"), "{err}");
}

#[test]
fn a_value_has_one_encoding_and_no_flipped_bit_goes_unnoticed() {
    let original = blueprint();
    let mut survivors = 0;
    for bit in 0..GOLDEN_BLUEPRINT.len() * 8 {
        let mut bytes = GOLDEN_BLUEPRINT.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(decoded) = Blueprint::decode(&bytes) {
            survivors += 1;
            assert_ne!(decoded, original, "bit {bit} means nothing");
            assert_ne!(decoded.swarm_id(), original.swarm_id());
        }
    }
    // A digest, an ETag and a revision can hold any bits: these are other blueprints.
    assert!(survivors > 0);
}

#[test]
fn more_chunks_than_the_limit_are_refused() {
    let too_many = MAX_CHUNKS as usize + 1;
    let file = BlueprintFile { chunk_bytes: vec![1; too_many], size: too_many as u64, ..file("a", &[]) };
    let err = Blueprint::new("s3://b".into(), None, vec![file]).unwrap_err();
    assert!(err.to_string().contains("more than"), "{err}");
}

#[test]
fn the_largest_manifest_is_within_the_length_limit() {
    let most = MAX_CHUNKS as usize;
    let file = BlueprintFile { chunk_bytes: vec![1; most], size: most as u64, ..file("a", &[]) };
    let blueprint = Blueprint::new("s3://b".into(), None, vec![file]).unwrap();
    let manifest = Manifest::new(blueprint, vec![ChunkHash([1; 32]); most]).unwrap();
    assert!(manifest.encode().len() <= MAX_ENCODED_BYTES);
}

#[test]
fn a_clone_that_is_changed_does_not_keep_what_was_computed() {
    let mut changed = blueprint();
    let _ = (changed.chunk_count(), changed.swarm_id());
    changed = changed.clone();
    changed.files.pop();
    assert_eq!(changed.chunk_count(), 1);
    assert_ne!(changed.swarm_id(), blueprint().swarm_id());
}

fn snapshot_of(files: &[(&str, &[u8])]) -> Snapshot {
    let files = files
        .iter()
        .map(|(path, bytes)| SnapshotFile {
            path: path.parse().unwrap(),
            size: bytes.len() as u64,
            version: FileVersion::default(),
            digest: None,
        })
        .collect();
    Snapshot::new("s3://bucket/model", None, files).unwrap()
}

/// A safetensors file whose header is longer than the first read.
fn large_header() -> Vec<u8> {
    let mut json = String::from("{");
    for i in 0..2000 {
        let comma = if i == 0 { "" } else { "," };
        let (begin, end) = (i * 4, i * 4 + 4);
        json += &format!(r#"{comma}"t{i}":{{"dtype":"F32","shape":[1],"data_offsets":[{begin},{end}]}}"#);
    }
    json += "}";
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + 8000, 1);
    bytes
}

#[test]
fn cutting_asks_for_headers_until_it_can_cut_whatever_pieces_it_gets() {
    let model = large_header();
    let files: [(&str, &[u8]); 3] = [("a.json", b"{}"), ("m.safetensors", &model), ("n.safetensors", &model)];
    let snapshot = snapshot_of(&files);
    let mut results = Vec::new();
    for piece in [usize::MAX, 10_000, 1] {
        let mut cutting = Cutting::new(&snapshot).unwrap();
        assert_eq!(cutting.needs().map(|(file, _)| file).collect::<Vec<_>>(), [1, 2]);
        let mut asked = 0;
        while let Some((file, range)) = cutting.next_need() {
            asked += 1;
            let (start, end) = (range.start as usize, range.end as usize);
            cutting.supply(file, &files[file].1[start..end.min(start.saturating_add(piece))]).unwrap();
        }
        assert!(
            piece != usize::MAX || asked == 4,
            "two requests a file when each is answered whole: {asked}"
        );
        results.push(cutting.finish().unwrap());
    }
    assert!(results[0] == results[1] && results[1] == results[2]);
    // The header, two steps' worth at most, apart from the data: 8000 bytes, which are gathered.
    assert_eq!(results[0].files[1].chunk_bytes.last(), Some(&8000));
}

#[test]
fn cutting_tells_of_a_file_that_is_shorter_than_listed() {
    let model = large_header();
    let mut cutting = Cutting::new(&snapshot_of(&[("m.safetensors", &model)])).unwrap();
    assert_eq!(cutting.supply(0, b"").unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(cutting.finish().unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_snapshot_too_large_for_any_blueprint_is_refused_before_it_is_cut() {
    let mut snapshot = snapshot_of(&[("a.bin", b"")]);
    snapshot.files[0].size = 1 << 60;
    assert!(Cutting::new(&snapshot).is_err());
}

prop_compose! {
    fn any_blueprint()(
        files in prop::collection::btree_map("[a-z]{1,12}", (prop::collection::vec(1..=MAX_CHUNK_BYTES, 0..20), any::<Option<[u8; 20]>>()), 0..12),
        revision in proptest::option::of("[a-f0-9]{40}"),
    ) -> Blueprint {
        let files = files
            .into_iter()
            .map(|(path, (chunks, digest))| BlueprintFile { digest: digest.map(Digest::GitSha1), ..file(&path, &chunks) })
            .collect();
        Blueprint::new("s3://bucket/x".into(), revision, files).unwrap()
    }
}

proptest! {
    #[test]
    fn what_was_encoded_decodes_to_the_same(blueprint in any_blueprint()) {
        let bytes = blueprint.encode();
        prop_assert_eq!(&bytes, &blueprint.clone().encode());
        let decoded = Blueprint::decode(&bytes).unwrap();
        prop_assert_eq!(decoded.swarm_id(), blueprint.swarm_id());
        prop_assert_eq!(&decoded, &blueprint);
        let hashes = (0..blueprint.chunk_count()).map(|i| ChunkHash::of(&i.to_le_bytes())).collect();
        let manifest = Manifest::new(blueprint, hashes).unwrap();
        prop_assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    }

    #[test]
    fn spans_are_runs_of_about_the_target(blueprint in any_blueprint(), target in 1u64..64 << 20) {
        let spans = blueprint.spans(target);
        let mut next = 0;
        for span in spans {
            prop_assert_eq!(span.start, next);
            next = span.end;
            let places: Vec<_> = span.map(|chunk| blueprint.place(chunk).unwrap()).collect();
            prop_assert!(places.iter().all(|place| place.file == places[0].file));
            let bytes: u64 = places.iter().map(|place| u64::from(place.bytes)).sum();
            let last = u64::from(places.last().unwrap().bytes);
            prop_assert!(places.len() == 1 || bytes <= target + last.div_ceil(2));
        }
        prop_assert_eq!(next, blueprint.chunk_count());
    }

    #[test]
    fn damage_is_refused_or_changes_the_name(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let damage = |golden: &[u8]| {
            let mut bytes = golden.to_vec();
            for (at, value) in &edits {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if let Some(cut) = &cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        };
        let bytes = damage(GOLDEN_BLUEPRINT);
        if let Ok(decoded) = Blueprint::decode(&bytes) {
            prop_assert!(decoded.validate().is_ok());
            prop_assert_eq!(decoded.encode(), bytes.clone());
            prop_assert_eq!(decoded == blueprint(), bytes == GOLDEN_BLUEPRINT);
        }
        let bytes = damage(GOLDEN_MANIFEST);
        if let Ok(decoded) = Manifest::decode(&bytes) {
            prop_assert!(decoded.validate().is_ok());
            prop_assert_eq!(decoded.encode(), bytes.clone());
            prop_assert_eq!(decoded == manifest(), bytes == GOLDEN_MANIFEST);
        }
    }
}
