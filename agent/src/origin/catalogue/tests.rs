//! Pages of catalogues: order, borders and what is left out.

use std::{collections::BTreeSet, fs, path::Path};

use super::{directory::DirectoryCatalogue, objects::drop_markers, snapshots::page_of, *};
use crate::{
    origin::{file::FileOrigin, guard::AllowList},
    snapshot::{Snapshot, SnapshotFile},
};

/// Names that sort differently by path and by text, and a control file.
const NAMES: [&str; 8] =
    ["a-b", "a/x", "a/y/z", "a0", "b/.emberline-manifest", "b/c/d", "emberline-files.json", "z"];

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in NAMES {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    dir
}

fn directory(at: &Path) -> DirectoryCatalogue {
    let origin = FileOrigin::new("file:///x".into(), at.to_owned(), AllowList::default());
    DirectoryCatalogue::new(origin, at.to_owned())
}

fn snapshot() -> Snapshot {
    let file = |name: &&str| SnapshotFile {
        path: name.parse().unwrap(),
        size: 1,
        version: FileVersion::default(),
        digest: None,
    };
    let files = NAMES.iter().filter(|name| !crate::origin::is_control_file(name)).map(file).collect();
    Snapshot::new("hf://org/name", None, files).unwrap()
}

/// Every name with that prefix by pages of `limit`, from a directory and from a snapshot alike.
async fn both(prefix: &str, delimited: bool, limit: usize, ahead: usize) -> Vec<String> {
    let (dir, snapshot) = (folder(), snapshot());
    let catalogue = directory(dir.path()).with_ahead(ahead);
    let (mut all, mut start_after) = (Vec::new(), None);
    loop {
        let request = PageRequest { prefix: prefix.to_owned(), delimited, start_after, limit };
        let page = catalogue.page(&request).await.unwrap();
        let keys = |page: &ListedPage| page.names.iter().map(|n| n.key().to_owned()).collect::<Vec<_>>();
        let other = page_of(&snapshot, "", &request);
        assert_eq!((keys(&page), page.more), (keys(&other), other.more), "{request:?}");
        assert!(page.names.len() <= limit);
        all.extend(keys(&page));
        if !page.more {
            return all;
        }
        start_after = all.last().cloned();
    }
}

#[tokio::test]
async fn pages_of_any_size_give_every_name_once_in_the_order_of_their_bytes() {
    for (limit, ahead) in [1, 2, 3, 100].into_iter().flat_map(|limit| [0, 1, 100].map(|ahead| (limit, ahead)))
    {
        let both = async |prefix: &str, delimited| both(prefix, delimited, limit, ahead).await;
        assert_eq!(both("", true).await, ["a-b", "a/", "a0", "b/", "z"]);
        assert_eq!(both("", false).await, ["a-b", "a/x", "a/y/z", "a0", "b/c/d", "z"]);
        assert_eq!(both("a/", true).await, ["a/x", "a/y/"]);
        assert_eq!(both("a", true).await, ["a-b", "a/", "a0"]);
        assert_eq!(both("a/y", false).await, ["a/y/z"]);
        assert_eq!(both("nothing/", true).await, [] as [&str; 0]);
    }
}

#[tokio::test]
async fn one_reading_of_a_directory_gives_the_pages_that_follow_too() {
    let dir = tempfile::tempdir().unwrap();
    let add = |names: std::ops::Range<u32>| {
        names.for_each(|n| drop(fs::File::create(dir.path().join(format!("part-{n:02}"))).unwrap()));
    };
    add(0..9);
    let catalogue = directory(dir.path()).with_ahead(4);
    let page = async |start_after: Option<&str>| {
        let start_after = start_after.map(str::to_owned);
        let request = PageRequest { prefix: "part".to_owned(), delimited: true, start_after, limit: 2 };
        let page = catalogue.page(&request).await.unwrap();
        (page.names.iter().map(|name| name.key()[5..].to_owned()).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(page(None).await, (vec!["00".to_owned(), "01".to_owned()], true));
    // What comes now is seen by the next reading; what went is not given out, however it was found.
    fs::rename(dir.path().join("part-03"), dir.path().join("part-02a")).unwrap();
    assert_eq!(page(Some("part-01")).await, (vec!["02".to_owned(), "04".to_owned()], true));
    assert_eq!(page(None).await.0, ["00", "01"]);
    assert_eq!(page(Some("part-01")).await.0, ["02", "02a"]);
    // All that was found has gone: the page is not taken for the end.
    (0..6).for_each(|n| drop(fs::remove_file(dir.path().join(format!("part-{n:02}")))));
    fs::remove_file(dir.path().join("part-02a")).unwrap();
    assert_eq!(page(Some("part-01")).await, (vec!["06".to_owned(), "07".to_owned()], true));
    assert_eq!(page(Some("part-07")).await, (vec!["08".to_owned()], false));
}

#[tokio::test]
async fn a_directory_with_many_files_is_read_by_pages_without_looking_at_each_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let many = 20_000;
    for n in 0..many {
        fs::File::create(dir.path().join(format!("part-{n:06}"))).unwrap();
    }
    let catalogue = directory(dir.path());
    let (mut seen, mut start_after) = (BTreeSet::new(), None);
    loop {
        let request =
            PageRequest { prefix: String::new(), delimited: true, start_after, limit: MAX_PAGE_NAMES };
        let page = catalogue.page(&request).await.unwrap();
        assert!(page.names.len() <= MAX_PAGE_NAMES);
        seen.extend(page.names.iter().map(|name| name.key().to_owned()));
        start_after = page.names.last().map(|name| name.key().to_owned());
        if !page.more {
            break;
        }
    }
    assert_eq!(seen.len(), many);
}

#[tokio::test]
async fn what_may_not_be_read_is_not_listed_and_what_is_no_file_is_missing() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret"), "x").unwrap();
    fs::write(dir.path().join("open"), "x").unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("link")).unwrap();
    let allow = AllowList::new(&[format!("file://{}", dir.path().canonicalize().unwrap().display())]);
    let origin = FileOrigin::new("file:///x".into(), dir.path().to_owned(), allow);
    let catalogue = DirectoryCatalogue::new(origin, dir.path().to_owned());
    let request = PageRequest { prefix: String::new(), delimited: true, start_after: None, limit: 10 };
    let page = catalogue.page(&request).await.unwrap();
    assert_eq!(page.names.iter().map(ListedName::key).collect::<Vec<_>>(), ["open", "sub/"]);
    for missing in ["link", "sub", "nothing", "../open", "/open", ""] {
        let error = catalogue.file(missing).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied), "{missing}: {error}");
    }
    assert_eq!(catalogue.file("open").await.unwrap().size, 1);
}

#[test]
fn an_empty_object_is_a_marker_where_names_go_on_behind_it_and_a_file_elsewhere() {
    let file = |key: &str, size| {
        ListedName::File(Listed {
            key: key.to_owned(),
            size,
            version: FileVersion::default(),
            digest: None,
            modified: None,
        })
    };
    let mut names =
        vec![file("a", 0), file("a-b", 0), file("a/x", 1), file("b", 1), file("b/x", 1), file("c", 0)];
    drop_markers(&mut names);
    assert_eq!(names.iter().map(ListedName::key).collect::<Vec<_>>(), ["a-b", "a/x", "b", "b/x", "c"]);
}
