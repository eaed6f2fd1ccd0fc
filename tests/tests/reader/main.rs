//! The namespace and the reader over real servers: S3, a Hub, plain HTTP.

mod hub;
mod order;
mod s3;
mod web;

use std::{path::Path, time::Duration};

use emberline_agent::{
    agent::Agent,
    config::Config,
    metrics::Door,
    namespace::{Entry, FileEntry, NamespacePath},
    origin::OriginsConfig,
    reader::{Caller, LazyFile},
};
use tokio::time::Instant;

const CALLER: Caller = Caller { door: Door::Http };
const CHUNK: usize = 4 << 20;

/// Settings under which a failing test fails soon.
fn config(data: &Path, origins: OriginsConfig) -> Config {
    let mut config = Config { data_dir: data.to_owned(), origins, ..Config::default() };
    config.cluster.listen = ([127, 0, 0, 1], 0).into();
    config.origins.retries = 1;
    config
}

async fn start(config: Config) -> Agent {
    Agent::start(config).await.expect("the agent starts")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn path(text: &str) -> NamespacePath {
    text.parse().unwrap()
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

async fn read_all(file: &LazyFile) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let piece = file.read_at(all.len() as u64, 1 << 20, soon()).await.unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend_from_slice(&piece);
    }
}

async fn entry(agent: &Agent, at: &str) -> FileEntry {
    match agent.namespace().stat(&path(at)).await.unwrap() {
        Entry::File(entry) => entry,
        Entry::Directory => panic!("{at} is a directory"),
    }
}

/// Every name of a directory, by pages of `limit`, and how many pages that took.
async fn names(agent: &Agent, at: &str, limit: usize) -> (Vec<String>, usize) {
    let (mut all, mut after, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let page = agent.namespace().list(&path(at), after.as_deref(), limit).await.unwrap();
        all.extend(page.names.into_iter().map(|named| named.name));
        pages += 1;
        after = page.next;
        if after.is_none() {
            return (all, pages);
        }
    }
}
