//! Names in the mount: many, hostile, missing; and nothing that can be written.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, OpenOptions},
    io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
};

use emberline_tests::{conformance, environment::Nginx, mounted::DOOR};

use crate::{is_skipped, mounted, output, version_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_many_names_is_listed_whole_and_in_pieces() {
    if is_skipped("a_directory_of_many_names_is_listed_whole_and_in_pieces") {
        return;
    }
    const NAMES: usize = 5_000;
    let origin = tempfile::tempdir().expect("temporary directory");
    let many = origin.path().join("many");
    fs::create_dir(&many).expect("created");
    for n in 0..NAMES {
        fs::write(many.join(format!("shard-{n:05}-of-{NAMES}.bin")), "x").expect("written");
    }
    let mount = mounted(origin.path()).await;
    let at = mount.models().join("many");
    let shown = at.to_str().expect("text").to_owned();
    let work = move || {
        let listed: BTreeSet<String> = fs::read_dir(&at)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        let expected: BTreeSet<String> = (0..NAMES).map(|n| format!("shard-{n:05}-of-{NAMES}.bin")).collect();
        assert!(listed == expected, "{} names of {NAMES}", listed.len());
        assert_eq!(output("ls", &["-l", &shown]).lines().count(), NAMES + 1);
        assert_eq!(output("find", &[&shown, "-type", "f", "-size", "1c"]).lines().count(), NAMES);
        // Back to where one was, as seekdir(3) does.
        let program = "
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
stream = ctypes.c_void_p(libc.opendir(sys.argv[1].encode()))
def name():
    entry = libc.readdir(stream)
    return ctypes.string_at(entry + 19) if entry else None
for _ in range(2500): name()
place = libc.telldir(stream)
there = name()
while name(): pass
libc.seekdir(stream, ctypes.c_long(place))
assert name() == there, (there,)
libc.rewinddir(stream)
count = 0
while name(): count += 1
print(count)
";
        assert_eq!(output("python3", &["-c", program, &shown]).trim(), (NAMES + 2).to_string());
    };
    tokio::task::spawn_blocking(work).await.expect("no panic");
    conformance::record(DOOR, "find", &version_of("find"), "a directory of 5,000 files");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_and_missing_names_get_an_answer_and_lead_nowhere() {
    if is_skipped("hostile_and_missing_names_get_an_answer_and_lead_nowhere") {
        return;
    }
    let origin = tempfile::tempdir().expect("temporary directory");
    let fine = ["a b", "-rf", "ü", "%41", "'quote\"", "#hash?x=1&y", "…"];
    let hostile = ["back\\slash", "new\nline", "%2e%2e%2fetc"];
    for name in fine.iter().chain(&hostile) {
        fs::write(origin.path().join(name), name).expect("written");
    }
    let not_utf8 = OsStr::from_bytes(b"\xff\xfe");
    fs::write(origin.path().join(not_utf8), "x").expect("written");
    std::os::unix::fs::symlink("/etc/passwd", origin.path().join("outside")).expect("linked");
    let mount = mounted(origin.path()).await;
    let models = mount.models();
    let work = move || {
        let listed: BTreeSet<_> = fs::read_dir(&models)
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        for name in fine {
            assert!(listed.contains(OsStr::new(name)), "{name} of {listed:?}");
            let read = fs::read(models.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(read, name.as_bytes());
        }
        for name in hostile.map(OsStr::new).into_iter().chain([not_utf8]) {
            assert!(!listed.contains(name), "{name:?}");
            let missing = fs::metadata(models.join(name)).expect_err("not there");
            assert_eq!(missing.kind(), io::ErrorKind::NotFound, "{name:?}: {missing}");
        }
        let code = |path: &str| fs::metadata(models.join(path)).expect_err("not there").raw_os_error();
        let errno = |errno: rustix::io::Errno| Some(errno.raw_os_error());
        assert_eq!(code("nothing"), errno(rustix::io::Errno::NOENT));
        assert_eq!(code("a b/below"), errno(rustix::io::Errno::NOTDIR));
        assert_eq!(code(&"x".repeat(256)), errno(rustix::io::Errno::NAMETOOLONG));
        assert_eq!(code("../nothing/x"), errno(rustix::io::Errno::NOENT));
        assert!(fs::read_dir(models.join("a b")).is_err());
        assert!(fs::read(&models).is_err(), "a directory is no file");
    };
    tokio::task::spawn_blocking(work).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_can_be_written() {
    if is_skipped("nothing_can_be_written") {
        return;
    }
    let origin = tempfile::tempdir().expect("temporary directory");
    fs::write(origin.path().join("a"), "abc").expect("written");
    let mount = mounted(origin.path()).await;
    let models = mount.models();
    let work = move || {
        let file = models.join("a");
        let tries: [(&str, io::Result<()>); 10] = [
            ("create", fs::File::create(models.join("new")).map(drop)),
            ("open", OpenOptions::new().write(true).open(&file).map(drop)),
            ("append", OpenOptions::new().append(true).open(&file).map(drop)),
            ("truncate", OpenOptions::new().write(true).truncate(true).open(&file).map(drop)),
            ("remove", fs::remove_file(&file)),
            ("mkdir", fs::create_dir(models.join("dir"))),
            ("rename", fs::rename(&file, models.join("b"))),
            ("chmod", fs::set_permissions(&file, fs::Permissions::from_mode(0o644))),
            ("symlink", std::os::unix::fs::symlink("x", models.join("link"))),
            (
                "setxattr",
                rustix::fs::setxattr(&file, "user.x", b"x", rustix::fs::XattrFlags::empty())
                    .map_err(io::Error::from),
            ),
        ];
        for (what, tried) in tries {
            let refused = tried.expect_err(what);
            assert_eq!(
                refused.raw_os_error(),
                Some(rustix::io::Errno::ROFS.raw_os_error()),
                "{what}: {refused}"
            );
        }
        assert_eq!(fs::read(&file).expect("readable"), b"abc");
    };
    tokio::task::spawn_blocking(work).await.expect("no panic");
    assert_eq!(fs::read(origin.path().join("a")).expect("readable"), b"abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_deep_below_a_web_server_that_lists_nothing_can_be_opened() {
    if is_skipped("a_file_deep_below_a_web_server_that_lists_nothing_can_be_opened") {
        return;
    }
    let root = tempfile::tempdir().expect("temporary directory");
    let deep = root.path().join("llama-3.1-8b/v1.0");
    fs::create_dir_all(&deep).expect("created");
    fs::write(deep.join("file.bin"), "what is deep").expect("written");
    let served = root.path().to_owned();
    let started = tokio::task::spawn_blocking(move || {
        // Redirects to the slash and then refuses, as nginx does; and a server that knows no directories at all.
        let redirects = Nginx::start(&served, "").expect("nginx");
        let knows_none = "if (-d $request_filename) { return 404; }";
        (redirects, Nginx::start(&served, knows_none).expect("nginx"))
    });
    let (redirects, knows_none) = started.await.expect("no panic");
    let mount = mounted(root.path()).await;
    for server in [&redirects, &knows_none] {
        let host = server.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
        let at = mount.at().join("http").join(host);
        let work = move || {
            let file = at.join("llama-3.1-8b/v1.0/file.bin");
            assert_eq!(output("cat", &[file.to_str().expect("text")]), "what is deep");
            // Programs believe what they hear of files that may be there or not.
            for missing in ["llama-3.1-8b/config.json", "llama-3.1-8b/v1.0/model.safetensors"] {
                let e = fs::metadata(at.join(missing)).expect_err("missing");
                assert_eq!(e.kind(), io::ErrorKind::NotFound, "{missing}");
            }
        };
        tokio::task::spawn_blocking(work).await.expect("no panic");
    }
}
