//! The table of hostile inputs: headers, manifests, names and references that somebody made to harm.
//!
//! The claim is the same for all: no panic, no memory out of proportion, and either a typed error or
//! a file that is served as opaque bytes.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use coordinatorless_p2p::{ChunkHash, ErrorKind};
use emberline_agent::{
    layout::{HeaderNeed, TARGET_CHUNK_BYTES, cut, header_need},
    manifest::{Blueprint, Manifest},
};

/// Counts what the current thread has allocated, so that "bounded" can be asserted.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator; counting neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = NOW.try_with(|now| {
            now.set(now.get().saturating_add(layout.size()));
            let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
        });
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = NOW.try_with(|now| now.set(now.get().saturating_sub(layout.size())));
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result, and how many bytes more than before were allocated at the worst moment.
fn measured<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let result = run();
    (result, PEAK.get() - before)
}

/// What a resolver does, on a file of `size` bytes of which those after `start` are zeros.
fn cut_file(path: &str, start: &[u8], size: u64) -> Vec<u32> {
    let mut header = Vec::new();
    for _ in 0..64 {
        match header_need(path, size, &header) {
            HeaderNeed::Nothing => return cut(path, size, &header, TARGET_CHUNK_BYTES),
            HeaderNeed::Bytes(needed) => {
                assert!(needed > header.len() as u64 && needed <= size.min(100_000_000), "asks for {needed}");
                header = start[..start.len().min(needed as usize)].to_vec();
                header.resize(needed as usize, 0);
            }
        }
    }
    panic!("{path} asks for ever more");
}

fn is_opaque(path: &str, start: &[u8], size: u64) -> bool {
    let (lengths, peak) = measured(|| cut_file(path, start, size));
    assert_eq!(lengths.iter().map(|&b| u64::from(b)).sum::<u64>(), size);
    // Twice the largest header that was asked for, and the lengths; far below the 256 MiB of an agent.
    assert!(peak < 4 * start.len() + (8 << 20), "{peak} bytes for a header of {}", start.len());
    lengths == cut("opaque.bin", size, &[], TARGET_CHUNK_BYTES)
}

/// Length, JSON and as many data bytes.
fn safetensors(json: &str, data_bytes: usize) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    file.resize(file.len() + data_bytes, 0);
    file
}

fn tensor(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

#[test]
fn a_hostile_safetensors_header_makes_the_file_opaque() {
    const DATA: u64 = 3000;
    let one = |dtype, shape, begin, end| format!("{{{}}}", tensor("a", dtype, shape, begin, end));
    let two = |a: &str, b: &str| format!("{{{a},{b}}}");
    let first = tensor("a", "U8", "[1000]", 0, 1000);
    let rest = |begin| tensor("b", "U8", &format!("[{}]", DATA - begin), begin, DATA);
    let deep = |count| format!("{}{}", "[".repeat(count), "]".repeat(count));
    let object_deep = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    let huge_shape = format!("[{}1]", "4294967296,".repeat(3));
    let long_shape = format!("[{}0]", "1,".repeat(400_000));

    let good = [
        ("plain", two(&first, &rest(1000))),
        ("with metadata", format!(r#"{{"__metadata__":{{"format":"pt"}},{first},{}}}"#, rest(1000))),
        ("null metadata", format!(r#"{{"__metadata__":null,{first},{}}}"#, rest(1000))),
        ("unknown dtype", one("F2_E1M0_NEW", "[7, 3]", 0, DATA)),
        ("padded by spaces", format!("{}    ", one("U8", "[3000]", 0, DATA))),
        ("an empty tensor", two(&tensor("z", "F32", "[0]", 0, 0), &rest(0))),
        ("out of order", two(&rest(1000), &first)),
        ("more dimensions than sense", format!("{{{},{}}}", tensor("e", "U8", &long_shape, 0, 0), rest(0))),
    ];
    for (what, json) in good {
        let file = safetensors(&json, DATA as usize);
        assert!(!is_opaque("m.safetensors", &file, file.len() as u64), "{what}");
    }

    let hostile = [
        ("begin after end", one("U8", "[3000]", DATA, 0)),
        ("overlap", two(&first, &rest(999))),
        ("hole", two(&first, &rest(1001))),
        ("does not start at 0", format!("{{{}}}", rest(1))),
        ("trailing bytes", one("U8", "[2999]", 0, DATA - 1)),
        ("past the end", one("U8", "[3001]", 0, DATA + 1)),
        ("far past the end", one("F2_NEW", "[1]", 0, u64::MAX)),
        ("shape overflow", one("F32", &huge_shape, 0, DATA)),
        ("size overflow", one("F64", "[4611686018427387904]", 0, DATA)),
        ("dtype × shape ≠ span", one("F32", "[3000]", 0, DATA)),
        ("half a byte", one("F4", "[5999]", 0, DATA)),
        ("negative offset", one("U8", "[3000]", 0, DATA).replace("[0,", "[-1,")),
        ("fractional offset", one("U8", "[3000]", 0, DATA).replace("[0,", "[0.5,")),
        ("offset over 64 bits", one("U8", "[3000]", 0, DATA).replace("[0,", "[99999999999999999999999,")),
        ("three offsets", one("U8", "[3000]", 0, DATA).replace("[0,", "[0,0,")),
        ("negative dimension", one("U8", "[-3000]", 0, DATA)),
        ("no dtype", r#"{"a":{"shape":[3000],"data_offsets":[0,3000]}}"#.into()),
        ("duplicate key", two(&rest(0), &tensor("b", "U8", "[0]", DATA, DATA))),
        ("duplicate key by escape", two(&rest(0), &tensor("\\u0062", "U8", "[0]", DATA, DATA))),
        ("duplicate field", one("U8", "[3000]", 0, DATA).replace(r#""shape""#, r#""dtype":"U8","shape""#)),
        ("duplicate metadata", format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{}}}"#, rest(0))),
        ("metadata of numbers", format!(r#"{{"__metadata__":{{"a":1}},{}}}"#, rest(0))),
        ("10,000 lists deep", deep(10_000)),
        ("10,000 objects deep", object_deep.clone()),
        ("10,000 deep in metadata", format!(r#"{{"__metadata__":{object_deep},{}}}"#, rest(0))),
        ("10,000 deep in a shape", one("U8", &deep(10_000), 0, DATA)),
        ("no object", "[]".into()),
        ("nothing", String::new()),
        ("two objects", format!("{0}{0}", one("U8", "[3000]", 0, DATA))),
        ("cut off", one("U8", "[3000]", 0, DATA)[..40].into()),
    ];
    for (what, json) in hostile {
        let file = safetensors(&json, DATA as usize);
        assert!(is_opaque("m.safetensors", &file, file.len() as u64), "{what}");
    }
}

#[test]
fn a_hostile_safetensors_length_makes_the_file_opaque() {
    let size = 200_000_000;
    for length in [u64::MAX, u64::MAX - 8, 1 << 63, size, size - 7, 100_000_001, 100_000_000] {
        assert!(is_opaque("m.safetensors", &length.to_le_bytes(), size), "{length}");
    }
    for bytes in 0..8 {
        assert!(is_opaque("m.safetensors", &vec![1; bytes], bytes as u64), "{bytes} bytes");
    }
    let mut bad_utf8 = safetensors(&format!("{{{}}}", tensor("aaaa", "U8", "[10]", 0, 10)), 10);
    bad_utf8[11] = 0xff;
    assert!(is_opaque("m.safetensors", &bad_utf8, bad_utf8.len() as u64));
}

#[test]
fn more_tensors_than_any_model_has_cost_little_memory() {
    let entries: Vec<String> = (0..1_100_000)
        .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let file = safetensors(&format!("{{{}}}", entries.join(",")), 10);
    drop(entries);
    let (need, peak) = measured(|| header_need("m.safetensors", file.len() as u64, &file));
    assert_eq!(need, HeaderNeed::Nothing);
    assert!(peak < 64 << 20, "{peak} bytes");
}

/// A GGUF header in the making.
struct Gguf(Vec<u8>);

impl Gguf {
    fn new(tensors: u64, entries: u64) -> Self {
        Self(b"GGUF\x03\0\0\0".to_vec()).u64(tensors).u64(entries)
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    fn string(self, text: &str) -> Self {
        let mut this = self.u64(text.len() as u64);
        this.0.extend_from_slice(text.as_bytes());
        this
    }

    fn tensor(self, name: &str, dimensions: u32, offset: u64) -> Self {
        let this = self.string(name).u32(dimensions);
        (0..dimensions).fold(this, |this, _| this.u64(1)).u32(0).u64(offset)
    }
}

#[test]
fn a_hostile_gguf_header_makes_the_file_opaque() {
    const SIZE: u64 = 5 << 20;
    const ARRAY: u32 = 9;
    const STRING: u32 = 8;
    let good = [
        ("two tensors", Gguf::new(2, 0).tensor("a", 2, 0).tensor("b", 1, 1 << 20)),
        ("out of order", Gguf::new(2, 0).tensor("a", 2, 1 << 20).tensor("b", 1, 0)),
        ("alignment", Gguf::new(1, 1).string("general.alignment").u32(4).u32(64).tensor("a", 1, 0)),
        ("unknown type", Gguf::new(1, 0).string("a").u32(0).u32(u32::MAX).u64(0)),
    ];
    for (what, header) in good {
        assert!(!is_opaque("m.gguf", &header.0, SIZE), "{what}");
    }

    let with_start = |start: &[u8]| {
        let mut header = Gguf::new(1, 0).tensor("a", 1, 0);
        header.0[..start.len()].copy_from_slice(start);
        header
    };
    let nested =
        |depth: u32| (0..depth).fold(Gguf::new(0, 1).string("k").u32(ARRAY), |h, _| h.u32(ARRAY).u64(1));
    let hostile = [
        ("magic", with_start(b"GGUf")),
        ("another magic", with_start(b"ggml")),
        ("version 1", with_start(b"GGUF\x01\0\0\0")),
        ("version 4", with_start(b"GGUF\x04\0\0\0")),
        ("big-endian", with_start(b"GGUF\0\0\0\x03")),
        ("2^63 tensors", Gguf::new(1 << 63, 0)),
        ("2^32 tensors", Gguf::new(1 << 32, 0)),
        ("as many tensors as do not fit", Gguf::new(SIZE / 24, 0)),
        ("2^63 entries", Gguf::new(1, 1 << 63)),
        ("u64::MAX entries", Gguf::new(1, u64::MAX)),
        ("key of 2^40", Gguf::new(1, 1).u64(1 << 40)),
        ("key of u64::MAX", Gguf::new(1, 1).u64(u64::MAX)),
        ("string of 2^40", Gguf::new(1, 1).string("k").u32(STRING).u64(1 << 40)),
        ("array of 2^63 bytes", Gguf::new(1, 1).string("k").u32(ARRAY).u32(0).u64(1 << 63)),
        ("array of 2^61 words", Gguf::new(1, 1).string("k").u32(ARRAY).u32(10).u64(1 << 61)),
        ("array of 2^62 strings", Gguf::new(1, 1).string("k").u32(ARRAY).u32(STRING).u64(1 << 62)),
        ("array of arrays of arrays …", nested(1000)),
        ("array of nothing known", Gguf::new(1, 1).string("k").u32(ARRAY).u32(99).u64(10)),
        ("value of nothing known", Gguf::new(1, 1).string("k").u32(13)),
        ("alignment 0", Gguf::new(1, 1).string("general.alignment").u32(4).u32(0).tensor("a", 1, 0)),
        ("alignment 3", Gguf::new(1, 1).string("general.alignment").u32(4).u32(3).tensor("a", 1, 0)),
        ("alignment 2^31", Gguf::new(1, 1).string("general.alignment").u32(4).u32(1 << 31).tensor("a", 1, 0)),
        ("tensor name of 2^40", Gguf::new(1, 0).u64(1 << 40)),
        ("u32::MAX dimensions", Gguf::new(1, 0).string("a").u32(u32::MAX)),
        ("offset past the end", Gguf::new(1, 0).tensor("a", 1, SIZE)),
        ("offset u64::MAX", Gguf::new(2, 0).tensor("a", 1, 0).tensor("b", 1, u64::MAX)),
        ("two tensors of one name", Gguf::new(2, 0).tensor("a", 1, 0).tensor("a", 1, 32)),
    ];
    for (what, header) in hostile {
        assert!(is_opaque("m.gguf", &header.0, SIZE), "{what}");
    }
}

#[test]
fn a_gguf_file_that_ends_anywhere_is_still_cut() {
    let whole =
        Gguf::new(2, 1).string("general.alignment").u32(4).u32(64).tensor("a", 2, 0).tensor("b", 1, 64).0;
    for bytes in 0..whole.len() {
        let lengths = cut_file("m.gguf", &whole[..bytes], bytes as u64);
        assert_eq!(lengths.iter().sum::<u32>() as usize, bytes);
    }
}

const BLUEPRINT: &[u8] = include_bytes!("golden/blueprint-v1.bin");
const MANIFEST: &[u8] = include_bytes!("golden/manifest-v1.bin");

#[test]
fn no_field_of_a_manifest_can_be_huge() {
    // Every aligned 4 bytes of the archive in turn: lengths (2^32 chunks), offsets, sizes, tags.
    for golden in [BLUEPRINT, MANIFEST] {
        for at in (6..golden.len() - 3).step_by(4) {
            for value in [u32::MAX, u32::MAX - 1, 1 << 31, 1 << 30, 1 << 22, 0] {
                let mut bytes = golden.to_vec();
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                let (outcome, peak) = measured(|| {
                    let blueprint = Blueprint::decode(&bytes).err().map(|e| e.kind());
                    let manifest = Manifest::decode(&bytes).err().map(|e| e.kind());
                    [blueprint, manifest]
                });
                assert!(outcome.iter().flatten().all(|kind| *kind == ErrorKind::Invalid));
                assert!(peak < 64 << 10, "{peak} bytes for an archive of {}", golden.len());
            }
        }
    }
}

#[test]
fn a_manifest_cut_off_anywhere_is_refused() {
    for golden in [BLUEPRINT, MANIFEST] {
        for bytes in 0..golden.len() {
            assert!(
                Blueprint::decode(&golden[..bytes]).is_err() && Manifest::decode(&golden[..bytes]).is_err()
            );
        }
        let mut longer = golden.to_vec();
        longer.push(0);
        assert!(Blueprint::decode(&longer).is_err() && Manifest::decode(&longer).is_err());
    }
}

#[test]
fn a_hash_has_64_hex_digits() {
    let digits = "0123456789abcdef".repeat(4);
    assert!(digits.parse::<ChunkHash>().is_ok());
    let other = format!("{}g", &digits[..63]);
    let long = format!("{digits}0");
    for text in ["", &digits[..63], &other, &long, &digits[..32]] {
        assert_eq!(text.parse::<ChunkHash>().unwrap_err().kind(), ErrorKind::Invalid, "{text}");
    }
}
