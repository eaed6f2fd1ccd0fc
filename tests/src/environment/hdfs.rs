//! HDFS: a real name node and real data nodes, Hadoop's `MiniDFSCluster` from Maven Central.
//!
//! Owns the pins, the small Java program that starts the cluster and takes commands, and its life.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    time::Duration,
};

use super::{Result, cache::part, maven};

const HADOOP: &str = "3.4.2";
const SOURCE: &str = include_str!("MiniHdfs.java");
/// It starts in some ten seconds when nothing else runs.
const START_TIMEOUT: Duration = Duration::from_secs(180);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const LOG_LINES: usize = 60;

/// A running HDFS; ends when it is dropped.
#[derive(Debug)]
pub struct MiniHdfs {
    child: Child,
    talk: Mutex<(Option<ChildStdin>, mpsc::Receiver<String>)>,
    url: String,
}

impl MiniHdfs {
    /// Starts one, with its data in `dir`; empty. Takes a while. Blocks.
    ///
    /// # Errors
    /// What is missing.
    pub fn start(dir: &Path) -> Result<Self> {
        let home = program()?;
        let log_path = dir.join("hdfs.log");
        let log = std::fs::File::create(&log_path).map_err(|e| format!("HDFS: {e}"))?;
        let mut child = Command::new("java")
            .arg("-XX:-UsePerfData")
            .arg(format!("-Djava.io.tmpdir={}", dir.display()))
            .arg("-cp")
            .arg(format!("{}/lib/*:{}", home.display(), home.display()))
            .arg("MiniHdfs")
            .arg(dir.join("data"))
            .env_remove("HADOOP_CONF_DIR")
            .env_remove("HADOOP_HOME")
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("HDFS cannot be started: {e}"))?;
        let (Some(commands), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("HDFS has no input or output".to_owned());
        };
        let (tell, answers) = mpsc::channel();
        // Ends with the child's output.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(|line| line.ok()) {
                let is_ours = ["READY ", "DONE", "FAILED "].iter().any(|start| line.starts_with(start));
                if is_ours && tell.send(line).is_err() {
                    return;
                }
            }
        });
        let mut hdfs = Self { child, talk: Mutex::new((Some(commands), answers)), url: String::new() };
        let first = {
            let talk = hdfs.talk.lock().unwrap_or_else(PoisonError::into_inner);
            talk.1.recv_timeout(START_TIMEOUT)
        };
        let ready = first.ok().and_then(|line| Some(line.strip_prefix("READY ")?.to_owned()));
        match ready {
            Some(url) => {
                hdfs.url = url.trim_end_matches('/').to_owned();
                Ok(hdfs)
            }
            None => {
                let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                Err(format!(
                    "HDFS does not start:\n{}",
                    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
                ))
            }
        }
    }

    /// `hdfs://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Copies a file or folder to a path, as Hadoop's own client does. Blocks.
    ///
    /// # Errors
    /// What the client says.
    pub fn put(&self, from: &Path, to: &str) -> Result<()> {
        self.command(&["put", from.to_str().ok_or("the name is not UTF-8")?, to])
    }

    /// Makes a directory. Blocks.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn make_directory(&self, path: &str) -> Result<()> {
        self.command(&["mkdir", path])
    }

    /// Removes a file or directory. Blocks.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn remove(&self, path: &str) -> Result<()> {
        self.command(&["remove", path])
    }

    /// Sets the mode of a file or directory, `700`. Blocks.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn set_mode(&self, path: &str, mode: &str) -> Result<()> {
        self.command(&["mode", mode, path])
    }

    /// Sets when a file was changed last, in milliseconds since the epoch. Blocks.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn touch(&self, path: &str, modified_ms: u64) -> Result<()> {
        self.command(&["touch", &modified_ms.to_string(), path])
    }

    fn command(&self, words: &[&str]) -> Result<()> {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        let (commands, answers) = &mut *talk;
        let commands = commands.as_mut().ok_or("HDFS is ending")?;
        writeln!(commands, "{}", words.join("\t"))
            .and_then(|()| commands.flush())
            .map_err(|e| format!("HDFS: {e}"))?;
        match answers.recv_timeout(COMMAND_TIMEOUT) {
            Ok(answer) if answer == "DONE" => Ok(()),
            Ok(failed) => Err(format!("HDFS: {words:?}: {failed}")),
            Err(e) => Err(format!("HDFS: {words:?}: {e}")),
        }
    }
}

impl Drop for MiniHdfs {
    fn drop(&mut self) {
        // What is gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The folder with the program's class, and Hadoop's in `lib`.
fn program() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| {
        part("hdfs", &[HADOOP, SOURCE], |dir| {
            maven::libraries(dir, &[&format!("org.apache.hadoop:hadoop-minicluster:{HADOOP}")])?;
            maven::program(dir, "MiniHdfs", SOURCE)
        })
    })
    .clone()
}
