//! Engines that query tables: Spark through S3A, and Trino; the same Parquet for both.

use emberline_tests::environment::{HADOOP_AWS_VERSION, TRINO_VERSION, Trino, TrinoBuckets, spark_reads};

use crate::stack::{DOOR_KEY, DOOR_SECRET, Setting, Stack, passed};

const CONDITION: &str = "name = 'row 5'";

/// The count of rows under [`CONDITION`] and the sum of their squares, as arithmetic has it.
fn wanted() -> (u64, u64) {
    let rows = (0..200_000_u64).filter(|n| n % 97 == 5);
    (rows.clone().count() as u64, rows.map(|n| n * n).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn spark_reads_parquet_through_s3a() {
    let stack = Stack::start(Setting::default()).await;
    let (key, _) = stack.shard();
    let (count, sum) = wanted();
    let version = stack
        .reads_with_a_version(async || {
            let (url, file) = (stack.url(), format!("s3a://zoo/{key}"));
            let spark = tokio::task::spawn_blocking(move || {
                let table = "s3a://lake/numbers/table.parquet";
                spark_reads(&[&url, DOOR_KEY, DOOR_SECRET, &file, table, CONDITION]).expect("Spark")
            });
            let text = stack.run(spark.await.expect("not cancelled")).await;
            let lines: Vec<&str> = text.lines().collect();
            let [version, digest, beside, found] = lines[..] else { panic!("{text}") };
            assert_eq!((beside, found), ("1", format!("{count} {sum}").as_str()));
            (version.to_owned(), digest.to_owned())
        })
        .await;
    let version = format!("{version}, hadoop-aws {HADOOP_AWS_VERSION}");
    passed("Spark (S3A)", &version, "SQL over Parquet, a stream of a file, a listing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trino_queries_parquet_with_a_metastore_of_files() {
    let stack = Stack::start(Setting { door: "writable_mounts = [\"shelf\"]", ..Setting::default() }).await;
    let url = stack.url();
    let asked = tokio::task::spawn_blocking(move || {
        let trino = Trino::start(TrinoBuckets {
            endpoint: &url,
            key: DOOR_KEY,
            secret: DOOR_SECRET,
            metastore: "s3://shelf/metastore",
        })
        .expect("Trino");
        let select = format!("SELECT count(*), sum(square) FROM lake.tests.numbers WHERE {CONDITION}");
        let first = trino.ask(&[
            "CREATE SCHEMA IF NOT EXISTS lake.tests",
            "CREATE TABLE IF NOT EXISTS lake.tests.numbers (id bigint, square bigint, name varchar) \
             WITH (format = 'PARQUET', external_location = 's3://lake/numbers/')",
            &select,
        ]);
        (trino, first, select)
    });
    let (trino, first, select) = asked.await.expect("not cancelled");
    let (count, sum) = wanted();
    let wanted = format!("{count}\t{sum}");
    assert_eq!(first.expect("an answer").trim(), wanted, "before the table is here");
    assert!(stack.metric("emberline_reads_total{door=\"s3\",found=\"waited\"}").await > 0.0);
    stack.is_here("s3://models/lake/numbers").await;
    let before = stack.relay.delivered();
    let second = tokio::task::spawn_blocking(move || trino.ask(&[&select])).await.expect("not cancelled");
    assert_eq!(second.expect("an answer").trim(), wanted, "when the table is here");
    assert!(stack.relay.delivered() - before < 256 << 10, "what is here was fetched again");
    passed(
        "Trino (Hive connector)",
        TRINO_VERSION,
        "external table over Parquet, its metastore's files written and read through the door",
    )
    .await;
}
