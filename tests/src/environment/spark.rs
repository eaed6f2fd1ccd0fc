//! Spark with S3A, from Maven Central, and the small program that reads a bucket with both.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use super::{Result, cache::part, maven};

/// The version of Hadoop is the one that Spark's own libraries have.
const PINS: &[&str] = &["org.apache.spark:spark-sql_2.13:4.0.1", "org.apache.hadoop:hadoop-aws:3.4.1"];
const SOURCE: &str = include_str!("SparkReads.java");
/// The version of `hadoop-aws` that [`spark_reads`] has.
pub const HADOOP_AWS_VERSION: &str = "3.4.1";
/// What Spark opens for itself where its own scripts start it.
const OPENED: &[&str] = &[
    "java.lang",
    "java.lang.invoke",
    "java.lang.reflect",
    "java.io",
    "java.net",
    "java.nio",
    "java.util",
    "java.util.concurrent",
    "java.util.concurrent.atomic",
    "jdk.internal.ref",
    "sun.nio.ch",
    "sun.nio.cs",
    "sun.security.action",
    "sun.util.calendar",
];

/// The program `SparkReads.java`, which says what its arguments are. Blocks.
///
/// # Errors
/// What is missing.
pub fn spark_reads(arguments: &[&str]) -> Result<Command> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    let home = MADE
        .get_or_init(|| {
            part("spark", &[PINS, &[SOURCE]].concat(), |dir| {
                maven::libraries(dir, PINS)?;
                maven::program(dir, "SparkReads", SOURCE)
            })
        })
        .clone()?;
    let mut command = Command::new("java");
    command.args([
        "-Xmx1g",
        "-XX:-UsePerfData",
        "-XX:+IgnoreUnrecognizedVMOptions",
        "-Dio.netty.tryReflectionSetAccessible=true",
    ]);
    command.args(OPENED.iter().map(|package| format!("--add-opens=java.base/{package}=ALL-UNNAMED")));
    command.arg("-cp").arg(format!("{}/lib/*:{}", home.display(), home.display()));
    command.arg("SparkReads").args(arguments);
    Ok(command)
}
