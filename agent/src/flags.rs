//! The flags of an agent, the same for the daemon and for `preload agent`.
//!
//! Owns which flag stands for which setting. What the values mean, and what is said when one is
//! wrong, is [`config`](crate::config)'s. The data directory and the cluster secret come from the
//! caller, since `preload` understands them at every command.

use std::path::PathBuf;

use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser},
};

use crate::{
    config::{Config, ConfigSources, DEFAULT_FILE, Flag},
    error::Result,
    expose::fuse,
    store,
};

/// What can be said of an agent on its command line.
#[derive(Debug, Clone, Default, Args)]
pub struct AgentFlags {
    /// Configuration file; /etc/emberline/agent.toml if it is there.
    #[arg(long, value_name = "FILE", env = "EMBERLINE_CONFIG", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub config: Option<PathBuf>,
    /// Where to listen for HTTP.
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Option<String>,
    /// File with the token that HTTP callers must bring; required off loopback.
    #[arg(long, value_name = "FILE")]
    pub http_token_file: Option<String>,
    /// An empty directory to mount the namespace at.
    #[arg(long, value_name = "DIR")]
    pub mount: Option<String>,
    /// Where to listen for S3; nowhere unless it is said.
    #[arg(long, value_name = "ADDR:PORT")]
    pub s3: Option<String>,
    /// Where to listen for QUIC.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
    /// What other nodes should dial, if it is not --listen.
    #[arg(long, value_name = "ADDR:PORT")]
    pub advertise: Option<String>,
    /// A member to join by; may be given more than once.
    #[arg(long, value_name = "HOST:PORT")]
    pub seed: Vec<String>,
    /// Availability zone of this node.
    #[arg(long)]
    pub zone: Option<String>,
    /// The most payload a second served to other nodes, such as 100MB; 0: no limit.
    #[arg(long, value_name = "SIZE")]
    pub max_upload: Option<String>,
    /// The most payload a second asked of other nodes; 0: no limit.
    #[arg(long, value_name = "SIZE")]
    pub max_download: Option<String>,
    /// What people call this node.
    #[arg(long)]
    pub name: Option<String>,
    /// `text` or `json`.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives by module.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Check the configuration and exit.
    #[arg(long)]
    pub check_config: bool,
    /// Print a commented configuration file and exit.
    #[arg(long)]
    pub print_config_example: bool,
}

/// Files and directories that belong to an agent's settings but not to its own flags.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// `--data-dir`: where artifacts live.
    pub data_dir: Option<PathBuf>,
    /// `--secret-file`: the cluster secret.
    pub secret_file: Option<PathBuf>,
}

impl AgentFlags {
    /// Where to read settings from: these flags, this process's environment, and the file.
    pub fn sources(self, places: Places) -> ConfigSources {
        let text = |path: Option<PathBuf>| path.map(|path| path.to_string_lossy().into_owned());
        let one =
            |flag, key, value: Option<String>| value.map(|value| Flag { flag, key, values: vec![value] });
        let seeds = (!self.seed.is_empty()).then_some(Flag {
            flag: "--seed",
            key: "cluster.seeds",
            values: self.seed,
        });
        let flags = [
            one("--data-dir", "data_dir", text(places.data_dir)),
            one("--http", "http.listen", self.http),
            one("--http-token-file", "http.token_file", self.http_token_file),
            one("--mount", "fuse.mountpoint", self.mount),
            one("--s3", "s3.listen", self.s3),
            one("--listen", "cluster.listen", self.listen),
            one("--advertise", "cluster.advertise", self.advertise),
            seeds,
            one("--secret-file", "cluster.secret_file", text(places.secret_file)),
            one("--zone", "cluster.zone", self.zone),
            one("--max-upload", "cluster.max_upload_bytes", self.max_upload),
            one("--max-download", "cluster.max_download_bytes", self.max_download),
            one("--name", "cluster.name", self.name),
            one("--log-format", "log.format", self.log_format),
            one("--log-level", "log.level", self.log_level),
        ];
        let default_file = || Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists());
        // An empty variable is one that is not set.
        let named = self.config.filter(|file| !file.as_os_str().is_empty());
        ConfigSources::of_process(named.or_else(default_file), flags.into_iter().flatten().collect())
    }
}

/// What `--check-config` says of a configuration that works.
///
/// # Errors
/// As looking at the mountpoint and at the place of the store.
pub fn approval(config: &Config) -> Result<String> {
    fuse::check(&config.fuse)?;
    store::inspect(&config.data_dir, &config.store)?;
    Ok(format!(
        "the configuration is fine: data in {}, HTTP on {}, QUIC on {}",
        config.data_dir.display(),
        config.http.listen,
        config.cluster.listen
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: AgentFlags,
    }

    #[test]
    fn an_empty_name_of_a_configuration_is_none() {
        let line = Line::try_parse_from(["agent", "--config", ""]).unwrap();
        let default = Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists());
        assert_eq!(line.flags.sources(Places::default()).file, default);
        let line = Line::try_parse_from(["agent", "--config", "/x.toml"]).unwrap();
        assert_eq!(line.flags.sources(Places::default()).file, Some(PathBuf::from("/x.toml")));
    }

    #[test]
    fn every_flag_that_is_a_setting_reaches_the_configuration_under_its_own_name() {
        let settings: Vec<String> = Line::command()
            .get_arguments()
            .filter(|argument| argument.get_action().takes_values() && argument.get_id() != "config")
            .filter_map(|argument| Some(format!("--{}", argument.get_long()?)))
            .collect();
        let words = settings.iter().flat_map(|flag| [flag.as_str(), "value"]);
        let line = Line::try_parse_from(std::iter::once("agent").chain(words)).unwrap();
        let sources = line.flags.sources(Places::default());
        let given: BTreeSet<&str> = sources.flags.iter().map(|flag| flag.flag).collect();
        assert_eq!(given, settings.iter().map(String::as_str).collect());
        assert!(sources.flags.iter().all(|flag| flag.values == ["value"]));
    }
}
