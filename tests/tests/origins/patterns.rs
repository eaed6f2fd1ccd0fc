//! Patterns, against `huggingface_hub` itself.

use emberline_agent::origin::Patterns;
use emberline_tests::environment::run_python;

const PATHS: &[&str] = &[
    "config.json",
    "Config.json",
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "onnx/model.onnx",
    "onnx/deep/model.onnx",
    "onnx",
    "onnx2/model.onnx",
    "a[b].bin",
    "a-b",
    "ab",
    "a.b",
    "a^b",
    "a!b",
    "a]b",
    ".gitattributes",
    "übung/modèle.bin",
    "model.bin.index.json",
    "{a,b}",
    "x*y",
];

const PATTERNS: &[&str] = &[
    "*",
    "*.json",
    "onnx/",
    "onnx/*",
    "onnx*",
    "*/model.onnx",
    "**/model.onnx",
    "model-?????-of-*.safetensors",
    "[a-c]*",
    "[!a-c]*",
    "[^a]*",
    "a[[]b].bin",
    "a[]]b",
    "a[!]]b",
    "a[-.]b",
    "a[.-]b",
    "a[!-]b",
    "a[^]b",
    "a[.-^]b",
    "a[^-.]b",
    "a[",
    "a[b",
    "[]",
    "[!]",
    "[z-a]*",
    "[!z-a]*",
    "[a-c-e]*",
    "a[--.]b",
    "[a-]b",
    "config.jso?",
    "CONFIG.JSON",
    "{a,b}",
    "x[*]y",
    "x\\*y",
    "*.b*",
    "übung/*",
    "?bung/*",
    "*è*",
    "./config.json",
    "/config.json",
    "onnx/deep/",
    "*/",
    ".*",
    "a?b",
];

#[test]
fn every_pattern_means_what_the_hub_client_says_it_means() {
    let program = "import json, sys
from huggingface_hub.utils import filter_repo_objects
paths, cases = json.loads(sys.argv[1])
print(json.dumps([list(filter_repo_objects(paths, allow_patterns=a or None, ignore_patterns=i or None)) for a, i in cases]))";
    let mut cases: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
    for pattern in PATTERNS {
        cases.push((vec![pattern], vec![]));
        cases.push((vec![], vec![pattern]));
    }
    for pair in PATTERNS.windows(2) {
        cases.push((pair.to_vec(), vec![]));
        cases.push((vec![pair[0]], vec![pair[1]]));
    }
    let input = serde_json::json!([PATHS, cases]).to_string();
    let output = run_python(program, &[&input], &[]).unwrap();
    let expected: Vec<Vec<String>> = serde_json::from_str(&output).unwrap();
    assert_eq!(expected.len(), cases.len());
    for ((allow, ignore), expected) in cases.iter().zip(expected) {
        let patterns = Patterns::new(allow, ignore).unwrap();
        let got: Vec<_> = PATHS.iter().copied().filter(|p| patterns.matches(&p.parse().unwrap())).collect();
        assert_eq!(got, expected, "allow {allow:?} ignore {ignore:?}");
    }
}
