//! What Maven Central has: libraries with all they need, and small Java programs that are written against them.

use std::{path::Path, process::Command};

use super::{Result, cache::run};

const PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1";

/// Puts libraries, `group:artifact:version`, and all they need into `lib` of a part.
pub(super) fn libraries(dir: &Path, artifacts: &[&str]) -> Result<()> {
    let mut dependencies = String::new();
    for artifact in artifacts {
        let [group, name, version] = artifact.split(':').collect::<Vec<_>>()[..] else {
            return Err(format!("{artifact} is no group:artifact:version"));
        };
        dependencies.push_str(&format!(
            "<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        ));
    }
    write(
        dir,
        "pom.xml",
        &format!(
            "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
             <groupId>emberline</groupId><artifactId>tests</artifactId><version>1</version>\
             <dependencies>{dependencies}</dependencies></project>"
        ),
    )?;
    let arguments = ["-DoutputDirectory=lib", "-DincludeScope=runtime"];
    maven(dir, "copy-dependencies", &arguments, &artifacts.join(", "))
}

/// Unpacks an archive, `group:artifact:version:type`, into a folder of a part.
pub(super) fn archive(dir: &Path, artifact: &str, folder: &str) -> Result<()> {
    let arguments = [format!("-Dartifact={artifact}"), format!("-DoutputDirectory={folder}")];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    maven(dir, "unpack", &arguments, artifact)
}

/// Writes a program into a part and compiles it against the part's libraries.
pub(super) fn program(dir: &Path, class: &str, source: &str) -> Result<()> {
    let file = format!("{class}.java");
    write(dir, &file, source)?;
    let mut javac = Command::new("javac");
    javac.args(["-cp", "lib/*", "-d", ".", &file]);
    run(&mut javac, dir, "a JDK of version 17 or later (apt-get install openjdk-17-jdk-headless)")
}

fn maven(dir: &Path, goal: &str, arguments: &[&str], what: &str) -> Result<()> {
    let mut maven = Command::new("mvn");
    maven.args(["--quiet", "--batch-mode", &format!("{PLUGIN}:{goal}")]).args(arguments);
    run(&mut maven, dir, &format!("Maven (apt-get install maven), and {what}"))
}

fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    std::fs::write(dir.join(name), text).map_err(|e| format!("{}/{name}: {e}", dir.display()))
}
