//! Settings of all origins, as they stand in the configuration file.
//!
//! Owns names, defaults and the checks between settings. Holds no secret: credentials come from the
//! environment or from files named here, so that printing a configuration never leaks one. Where the
//! usual environment variables of a store say something else, the configuration wins.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// How references begin that an origin stands behind, as they are compared with what may be opened.
const SCHEMES: [&str; 8] = ["s3", "gs", "az", "hf", "https", "http", "hdfs", "file"];

/// Settings of all origins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginsConfig {
    /// S3 and everything that speaks it.
    pub s3: S3Config,
    /// Google Cloud Storage.
    pub gs: GsConfig,
    /// Azure Blob Storage.
    pub az: AzConfig,
    /// Hugging Face Hubs.
    pub hf: HubConfig,
    /// Plain HTTP servers.
    pub http: HttpOriginConfig,
    /// HDFS.
    pub hdfs: HdfsConfig,
    /// How long a read may go without a byte before it counts as stalled. Sane: 5 s to 2 min.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// How long the head of an answer, or one page of a listing, may take. Sane: 5 s to 2 min.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Requests under way at once to one host. Sane: 4 to 256.
    pub max_concurrent_requests: usize,
    /// Further attempts after one that failed for a passing reason. Sane: 0 to 10.
    pub retries: u32,
    /// The longest this node waits before one further attempt; a `Retry-After` beyond it is handed
    /// to the caller instead.
    #[serde(with = "humantime_serde")]
    pub max_retry_wait: Duration,
    /// Redirects followed for one request. Sane: 0 to 20.
    pub max_redirects: usize,
    /// Prefixes of references that may be opened (`s3://models/`, `https://cdn.example.com/`,
    /// `file:///models`). Every hop of a redirect is held to them too, unless it stays on its host: name
    /// the content servers of a Hub as well. Empty: everything.
    pub allow: Vec<String>,
}

impl Default for OriginsConfig {
    fn default() -> Self {
        Self {
            s3: S3Config::default(),
            gs: GsConfig::default(),
            az: AzConfig::default(),
            hf: HubConfig::default(),
            http: HttpOriginConfig::default(),
            hdfs: HdfsConfig::default(),
            stall_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            max_concurrent_requests: 64,
            retries: 5,
            max_retry_wait: Duration::from_secs(120),
            max_redirects: 5,
            allow: Vec::new(),
        }
    }
}

/// S3 and everything that speaks it. Credentials: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and
/// `AWS_SESSION_TOKEN`, else the shared credentials file, else web identity, container or instance role.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// Base URL of the service; `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, else AWS itself.
    pub endpoint: Option<String>,
    /// Region to sign for; `AWS_REGION`, `AWS_DEFAULT_REGION`, else `us-east-1`.
    pub region: Option<String>,
    /// Address buckets as `bucket.host` instead of `host/bucket`. With an `endpoint`, the bucket is put
    /// in front of its host.
    pub virtual_host: Option<bool>,
    /// Send no credentials.
    pub anonymous: bool,
    /// Permit `http://` endpoints. Endpoints on loopback are always permitted.
    pub allow_http: bool,
    /// PEM file with certificate authorities to trust besides the system's; `AWS_CA_BUNDLE`.
    pub ca_file: Option<PathBuf>,
    /// A credentials file in the AWS format; `AWS_SHARED_CREDENTIALS_FILE`, else `~/.aws/credentials`.
    pub credentials_file: Option<PathBuf>,
    /// The section of that file; `AWS_PROFILE`, else `default`.
    pub profile: Option<String>,
    /// What differs for single buckets, by bucket name. Whatever is not named is as above.
    pub buckets: BTreeMap<String, S3BucketConfig>,
}

/// What differs for one bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3BucketConfig {
    /// See [`S3Config::endpoint`].
    pub endpoint: Option<String>,
    /// See [`S3Config::region`].
    pub region: Option<String>,
    /// See [`S3Config::virtual_host`].
    pub virtual_host: Option<bool>,
    /// See [`S3Config::anonymous`].
    pub anonymous: Option<bool>,
    /// See [`S3Config::allow_http`].
    pub allow_http: Option<bool>,
    /// See [`S3Config::ca_file`].
    pub ca_file: Option<PathBuf>,
    /// See [`S3Config::credentials_file`].
    pub credentials_file: Option<PathBuf>,
    /// See [`S3Config::profile`].
    pub profile: Option<String>,
}

impl S3Config {
    /// The settings that hold for `bucket`, overrides applied.
    pub fn for_bucket(&self, bucket: &str) -> Self {
        let mut merged = Self { buckets: BTreeMap::new(), ..self.clone() };
        if let Some(own) = self.buckets.get(bucket) {
            merged.endpoint = own.endpoint.clone().or(merged.endpoint);
            merged.region = own.region.clone().or(merged.region);
            merged.virtual_host = own.virtual_host.or(merged.virtual_host);
            merged.anonymous = own.anonymous.unwrap_or(merged.anonymous);
            merged.allow_http = own.allow_http.unwrap_or(merged.allow_http);
            merged.ca_file = own.ca_file.clone().or(merged.ca_file);
            merged.credentials_file = own.credentials_file.clone().or(merged.credentials_file);
            merged.profile = own.profile.clone().or(merged.profile);
        }
        merged
    }
}

/// Google Cloud Storage. Credentials: `GOOGLE_APPLICATION_CREDENTIALS`, the application default
/// credentials, else the instance's service account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GsConfig {
    /// Base URL of the service; `STORAGE_EMULATOR_HOST`, else Google itself.
    pub endpoint: Option<String>,
    /// Send no credentials.
    pub anonymous: bool,
    /// Permit an `http://` endpoint. Endpoints on loopback are always permitted.
    pub allow_http: bool,
    /// PEM file with certificate authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// A service account key, JSON.
    pub service_account_file: Option<PathBuf>,
}

/// Azure Blob Storage. Credentials: `AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_SAS_KEY`, a client secret,
/// workload or managed identity, each by its usual variables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AzConfig {
    /// The storage account, for references that do not name one; `AZURE_STORAGE_ACCOUNT_NAME`.
    pub account: Option<String>,
    /// Base URL of the account's blob service; else `https://<account>.blob.core.windows.net`.
    pub endpoint: Option<String>,
    /// Send no credentials.
    pub anonymous: bool,
    /// Permit an `http://` endpoint. Endpoints on loopback are always permitted.
    pub allow_http: bool,
    /// PEM file with certificate authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// A file that holds the account key.
    pub account_key_file: Option<PathBuf>,
}

/// Hugging Face Hubs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubConfig {
    /// Base URL; `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: Option<String>,
    /// A file that holds the token; else `HF_TOKEN`, `HF_TOKEN_PATH`, `$HF_HOME/token`.
    pub token_file: Option<PathBuf>,
    /// Send no token even where one is to be found.
    pub anonymous: bool,
    /// PEM file with certificate authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// Plain HTTP servers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpOriginConfig {
    /// PEM file with certificate authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// A file that holds a bearer token, sent to the hosts below `bearer_hosts` only.
    pub bearer_token_file: Option<PathBuf>,
    /// `host` or `host:port` of the servers that get the bearer token.
    pub bearer_hosts: Vec<String>,
}

/// HDFS. Which name nodes a name service has is in Hadoop's own configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HdfsConfig {
    /// Directory with `core-site.xml` and `hdfs-site.xml`; `HADOOP_CONF_DIR`, `HADOOP_HOME/etc/hadoop`.
    pub config_dir: Option<PathBuf>,
    /// Whom to ask as; `HADOOP_USER_NAME`, else the user that the agent runs as.
    pub user: Option<String>,
}

impl OriginsConfig {
    /// Finds settings that contradict each other.
    ///
    /// # Errors
    /// `Invalid`, naming the setting.
    pub fn validate(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::new(ErrorKind::Invalid, why));
        if self.max_concurrent_requests == 0 {
            return refuse("origins.max_concurrent_requests is 0: nothing could be read".into());
        }
        for prefix in &self.allow {
            let is_known = prefix.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme));
            if !is_known {
                return refuse(format!(
                    "origins.allow has {prefix:?}, which is no beginning of a reference: write for example \
                     \"s3://models/\"; the schemes are {}",
                    SCHEMES.join(", ")
                ));
            }
        }
        for (name, duration) in
            [("stall_timeout", self.stall_timeout), ("request_timeout", self.request_timeout)]
        {
            if duration.is_zero() {
                return refuse(format!("origins.{name} is 0: every read would fail at once"));
            }
        }
        if self.http.bearer_token_file.is_some() && self.http.bearer_hosts.is_empty() {
            return refuse(
                "origins.http.bearer_token_file is set but origins.http.bearer_hosts names no host to send it to"
                    .into(),
            );
        }
        let endpoints = [
            ("s3.endpoint", &self.s3.endpoint),
            ("gs.endpoint", &self.gs.endpoint),
            ("az.endpoint", &self.az.endpoint),
            ("hf.endpoint", &self.hf.endpoint),
        ];
        let buckets = self.s3.buckets.values().map(|b| ("s3.buckets.….endpoint", &b.endpoint));
        for (name, endpoint) in endpoints.into_iter().chain(buckets) {
            if let Some(text) = endpoint {
                super::guard::parse_endpoint(&format!("origins.{name}"), text)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_setting_is_refused() {
        assert!(toml::from_str::<OriginsConfig>("[s3]\nendpiont = \"x\"").is_err());
        assert!(toml::from_str::<OriginsConfig>("secret = 1").is_err());
    }

    #[test]
    fn a_prefix_that_would_permit_a_whole_scheme_by_a_slip_is_refused() {
        let allowing = |prefix: &str| {
            OriginsConfig { allow: vec![prefix.to_owned()], ..OriginsConfig::default() }.validate()
        };
        for fine in ["s3://models/", "s3://", "https://cdn.example.com/", "file:///models", "hf://org/name"] {
            assert!(allowing(fine).is_ok(), "{fine}");
        }
        for slip in ["s3:/", "s3", "", "*", "/models", "s4://models", "ember://"] {
            assert_eq!(allowing(slip).unwrap_err().kind(), ErrorKind::Invalid, "{slip}");
        }
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(toml::from_str::<OriginsConfig>("").unwrap(), OriginsConfig::default());
    }

    #[test]
    fn a_bucket_overrides_only_what_it_names() {
        let config: OriginsConfig = toml::from_str(
            "[s3]\nendpoint = \"https://a\"\nregion = \"r\"\n[s3.buckets.b]\nendpoint = \"https://b\"\nanonymous = true",
        )
        .unwrap();
        let own = config.s3.for_bucket("b");
        assert_eq!(
            (own.endpoint.as_deref(), own.region.as_deref(), own.anonymous),
            (Some("https://b"), Some("r"), true)
        );
        assert_eq!(config.s3.for_bucket("c").endpoint.as_deref(), Some("https://a"));
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for (text, word) in [
            ("max_concurrent_requests = 0", "max_concurrent_requests"),
            ("stall_timeout = \"0s\"", "stall_timeout"),
            ("[http]\nbearer_token_file = \"/t\"", "bearer_hosts"),
            ("[s3]\nendpoint = \"https://user:hunter2@host\"", "s3.endpoint"),
            ("[hf]\nendpoint = \"not a url\"", "hf.endpoint"),
        ] {
            let error = toml::from_str::<OriginsConfig>(text).unwrap().validate().unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
