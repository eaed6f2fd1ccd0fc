//! Claims about parsing, printing and directories of references.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Reference {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_kind_of_reference_prints_in_its_canonical_form() {
    let hash = "ab".repeat(32);
    let table = [
        ("s3://models/llama/8b", "s3://models/llama/8b"),
        ("S3://models/llama/8b/", "s3://models/llama/8b"),
        ("s3://models", "s3://models"),
        ("s3://models/", "s3://models"),
        ("s3://my.bucket_1/a b/ü", "s3://my.bucket_1/a b/ü"),
        ("gs://models/x", "gs://models/x"),
        ("az://container/x/", "az://container/x"),
        ("abfs://container/x", "az://container/x"),
        ("abfss://c@acc.dfs.core.windows.net/p/q", "abfs://c@acc.dfs.core.windows.net/p/q"),
        ("az://c@ACC.blob.core.windows.net", "abfs://c@acc.dfs.core.windows.net"),
        ("hf://org/name", "hf://org/name"),
        ("hf://org/name/", "hf://org/name"),
        ("hf://models/org/name@main", "hf://org/name"),
        ("hf://gpt2@refs%2Fpr%2F1", "hf://gpt2@refs/pr/1"),
        ("hf://datasets/org/name@v1.0", "hf://datasets/org/name@v1.0"),
        ("hf://datasets/squad", "hf://datasets/squad"),
        ("hf://spaces/org/name", "hf://spaces/org/name"),
        ("HTTPS://Example.com:443/a%20b/", "https://example.com/a%20b/"),
        ("http://127.0.0.1:8080/m.gguf", "http://127.0.0.1:8080/m.gguf"),
        ("https://h/m.gguf?download=true", "https://h/m.gguf?download=true"),
        ("hdfs://nn:8020/models/x/", "hdfs://nn:8020/models/x"),
        ("hdfs://nn:8020/models/x/ ", "hdfs://nn:8020/models/x"),
        ("hdfs://cluster", "hdfs://cluster"),
        ("file:///models/a%20b", "file:///models/a b"),
        ("file://localhost/models//x/", "file:///models/x"),
        ("file:///50%25/%3F", "file:///50%25/%3F"),
        ("file:///%FF", "file:///%FF"),
        ("/models/./x/", "file:///models/x"),
        ("/odd ://x", "file:///odd :/x"),
        ("/50%20?#", "file:///50%2520%3F%23"),
        (&format!("ember://{}", hash.to_uppercase()), &format!("ember://{hash}")),
    ];
    for (typed, canonical) in table {
        let reference = parsed(typed);
        assert_eq!(reference.to_string(), canonical);
        assert_eq!(parsed(canonical), reference);
        assert!(canonical.starts_with(&format!("{}://", reference.scheme())));
    }
}

#[test]
fn what_is_no_reference_is_refused_with_the_reason() {
    let long = format!("s3://b/{}", "a".repeat(3000));
    let short_hash = format!("ember://{}", "a".repeat(63));
    let table = [
        ("", "is empty"),
        (&long, "longer than"),
        ("s3://b/a\nb", "control character"),
        ("hf://org/name\r", "control character"),
        ("file:///a%0Ab", "control character"),
        ("s3:///prefix", "names no bucket"),
        ("gs://", "names no bucket"),
        ("az://@acc.dfs.core.windows.net/x", "names no bucket"),
        ("az://c@elsewhere.example/x", "does not name an account"),
        ("s3://b/../c", "`..`"),
        ("s3://b/a/%2E%2e/c", "`..`"),
        ("s3://b/a/%2e%2e%2fc", "`..`"),
        ("gs://b/..", "`..`"),
        ("az://b/a/./c", "`..`"),
        ("https://h/a/../b", "`..`"),
        ("https://h/a/.%2e/b", "`..`"),
        ("hdfs://h/a/../b", "`..`"),
        ("file:///a/../b", "`..`"),
        ("file:///a/%2e%2e/b", "`..`"),
        ("hf://org/..", "form hf://"),
        ("hf://org/name@../x", "`..`"),
        ("hf://org/name@a//b", "empty part"),
        ("hf://org/name@", "revision"),
        ("hf://org/name@a b", "revision"),
        ("hf://org/name/file.json", "--allow-pattern"),
        ("hf://", "form hf://"),
        ("hf://datasets", "form hf://"),
        ("s3://b/a//c", "empty part"),
        ("s3://b/x?region=eu", "query"),
        ("s3://bad bucket/x", "bucket name"),
        ("s3://../x", "bucket name"),
        ("https://", "no URL"),
        ("https:///path", "no host"),
        ("https://h/a#b", "fragment"),
        ("https://h/a\\b", "backslash"),
        ("hdfs:///x", "name node"),
        ("file://host/x", "another host"),
        ("file://x", "another host"),
        (&short_hash, "64 hex digits"),
        ("s4://b/x", "did you mean s3://"),
        ("gcs://b/x", "did you mean gs://"),
        ("s3a://b/x", "did you mean s3://"),
        ("htps://h/x", "did you mean https://"),
        ("embers://x", "did you mean ember://"),
        ("://x", "unknown scheme"),
        ("quux-corge://x", "known are s3, gs"),
        ("hf:org/name", "write hf://"),
        ("meta-llama/Llama-3", "write hf://meta-llama/Llama-3"),
        ("meta-llama/Llama-3@v2", "write hf://meta-llama/Llama-3@v2"),
        ("no such thing", "no file or directory here"),
        ("../no/such/thing", "cannot be followed"),
    ];
    for (text, why) in table {
        let err = text.parse::<Reference>().expect_err(text);
        assert_eq!(err.kind(), ErrorKind::Invalid);
        let message = err.to_string();
        assert!(message.contains(why), "{text:?}: {message}");
        assert!(message.len() < 600 && !message.contains(char::is_control), "{message:?}");
    }
}

#[test]
fn passwords_and_tokens_are_refused_and_not_repeated() {
    for text in [
        "https://user:hunter2@host/x",
        "https://hunter2@host/x",
        "https://user:hunter2/@host/x",
        "https://user:/hunter2@host/x",
        "https://user:a?hunter2@host/x",
        "https://user:a#hunter2@host/x",
        "https://host/x?X-Amz-Signature=hunter2",
        "https://host/x?a=b&sig=hunter2@x",
        "https://host/x?access_token=hunter2",
        "https://host/x#hunter2",
        "hdfs://user:hunter2@nn/x",
        "s3://key:hunter2@bucket/x",
        "s3://hunter2@bucket/x",
        "s3://bucket/x?secret=hunter2",
        "az://c:hunter2@acc.dfs.core.windows.net/x",
        "hf://user:hunter2@org/name",
        "ftps3://user:hunter2@host/x",
        "user:hunter2@host/x",
        "user:hunter2@x://host/x",
        "https://user:hunter2@host:99999/x",
    ] {
        let message = text.parse::<Reference>().expect_err(text).to_string();
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn a_path_that_exists_needs_no_scheme() {
    // Tests run in the crate's directory.
    let cwd = std::env::current_dir().unwrap();
    assert_eq!(parsed("src"), Reference::File(cwd.join("src")));
    assert_eq!(parsed("src/lib.rs"), Reference::File(cwd.join("src/lib.rs")));
    assert_eq!(parsed("./nothing"), Reference::File(cwd.join("nothing")));
    assert_eq!(parsed("src/../src"), Reference::File(cwd.canonicalize().unwrap().join("src")));
    assert_eq!(parsed("."), Reference::File(cwd));
}

#[test]
fn directories_read_as_the_reference_does() {
    let hash = "ab".repeat(32);
    for (text, revision, expected) in [
        ("hf://org/name", Some("0123abcd"), "hf/org/name/0123abcd"),
        ("hf://org/name", None, "hf/org/name/main"),
        ("hf://datasets/org/name@v1", None, "hf-datasets/org/name/v1"),
        ("s3://bucket/llama", None, "s3/bucket/llama/current"),
        ("https://host/", None, "https/host/all~329f85ac6e6310f8/current"),
        (&format!("ember://{hash}"), None, &format!("ember/manifest/{hash}/current")),
        ("abfs://c@acc.dfs.core.windows.net/x", None, "az/acc.c/x/current"),
    ] {
        assert_eq!(parsed(text).model_dir(revision).to_str(), Some(expected));
    }
    let dir = parsed("s3://bucket/models/llama").model_dir(None);
    assert!(dir.to_str().unwrap().starts_with("s3/bucket/models-llama~"), "{dir:?}");
}

#[test]
fn references_that_differ_have_directories_that_differ() {
    let llama = parsed("s3://b/a/b").model_dir(None);
    let imitation = llama.iter().nth(2).unwrap().to_str().unwrap().to_owned();
    let long = "x".repeat(200);
    let mut seen = HashMap::new();
    for text in [
        "s3://b/a/b",
        "s3://b/a-b",
        "s3://b/a_b",
        "s3://b/a b",
        "s3://b",
        "s3://b/all",
        "s3://b/.b",
        "gs://b/a/b",
        "az://b/a/b",
        "abfs://b@acc.dfs.core.windows.net/a/b",
        "hf://a/b",
        "hf://b",
        "hf://datasets/a/b",
        "hf://spaces/a/b",
        "http://b/a/b",
        "https://b/a/b",
        "https://b:8080/a/b",
        "https://b-8080/a/b",
        "hdfs://b/a/b",
        "https://b/a/b?x=1",
        "https://b/a/b/",
        "/b/a/b",
        "/a/b",
        "/a-b",
        "file:///a%FFb",
        "/a\\xffb",
        &format!("s3://b/{imitation}"),
        &format!("s3://b/{long}y"),
        &format!("s3://b/{long}"),
        &format!("s3://b/z{long}"),
    ] {
        if let Some(twin) = seen.insert(parsed(text).model_dir(None), text) {
            panic!("{text} and {twin} share a directory");
        }
    }
    let named = |revision| parsed("s3://b/a").model_dir(revision);
    assert_ne!(named(None), named(Some("current")));
    assert_ne!(named(Some("a/b")), named(Some("a-b")));
}

fn any_reference() -> impl Strategy<Value = String> {
    prop_oneof![
        "(s3|gs)://[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}(/[ -~é]{0,20}){0,3}",
        "(az|abfs|abfss)://[a-z0-9$-]{1,10}(@[a-z0-9]{1,8}\\.(dfs|blob)\\.core\\.windows\\.net)?(/[ -~]{0,10}){0,3}",
        "hf://((datasets|spaces|models)/)?[a-zA-Z0-9._-]{1,10}(/[a-zA-Z0-9._-]{1,10})?(@[a-zA-Z0-9./_-]{1,12})?",
        "https?://[a-zA-Z0-9.:-]{1,16}(/[ -~é]{0,20}){0,3}",
        "hdfs://[a-zA-Z0-9.:-]{1,16}(/[ -~é]{0,20}){0,3}",
        "file:///[ -~é]{0,40}",
        "ember://[0-9a-fA-F]{64}",
        "/[ -~é]{0,40}",
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn a_password_never_reaches_the_message(
        scheme in "(https|hdfs|s3|gs|az|hf|ftp|hffs|[a-z]{1,4})",
        odd in "[/?#@:%&= ]{0,2}",
        tail in "[ -~]{0,12}",
    ) {
        let text = format!("{scheme}://user:{odd}hunter2{odd}@host/{tail}");
        let message = text.parse::<Reference>().expect_err(&text).to_string();
        prop_assert!(!message.contains("hunter2"), "{}", message);
    }

    #[test]
    fn what_parses_prints_as_what_parses_to_the_same(text in any_reference()) {
        if let Ok(reference) = text.parse::<Reference>() {
            let canonical = reference.to_string();
            prop_assert!(!canonical.contains(char::is_control));
            let again = canonical.parse::<Reference>();
            prop_assert_eq!(again.as_ref().ok(), Some(&reference), "{} → {}: {:?}", text, canonical, again);
        }
    }

    #[test]
    fn a_model_directory_is_four_plain_components(text in any_reference(), revision in any::<Option<String>>()) {
        if let Ok(reference) = text.parse::<Reference>() {
            let dir = reference.model_dir(revision.as_deref());
            let parts: Vec<_> = dir.components().collect();
            prop_assert_eq!(parts.len(), 4, "{:?}", dir);
            for part in parts {
                let std::path::Component::Normal(name) = part else { panic!("{dir:?}") };
                let name = name.to_str().unwrap();
                prop_assert!(name.len() <= 128 && !name.starts_with('.'), "{}", name);
                prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "._-~".contains(c)), "{}", name);
            }
        }
    }

    #[test]
    fn two_references_share_a_directory_only_if_they_are_one(a in any_reference(), b in any_reference()) {
        if let (Ok(a), Ok(b)) = (a.parse::<Reference>(), b.parse::<Reference>()) {
            prop_assert_eq!(a == b, a.model_dir(None) == b.model_dir(None));
        }
    }
}
