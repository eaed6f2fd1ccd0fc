//! Clients for object stores: where a bucket is, and with which credentials.
//!
//! Owns the merging of settings and environment. The requests themselves, and their signatures, are
//! `object_store`'s; that they pass our limits is [`Connector`]'s. Credentials live inside the library's
//! client and nowhere else.

use std::{path::Path, sync::Arc};

use object_store::{
    ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::ClientOptions,
    gcp::GoogleCloudStorageBuilder,
    list::PaginatedListStore,
    multipart::MultipartStore,
};
use url::Url;

use super::{
    aws_profile::{self, Profile},
    client::{find, host_key},
    config::{AzConfig, GsConfig, S3Config},
    connector::{Connector, Ways},
    guard::{is_loopback, parse_endpoint},
    secrets::{non_empty_var, read as read_secret},
};
use crate::error::{Error, ErrorKind, Result};

/// A bucket that can be asked, and what with.
pub(super) struct Store {
    pub(super) objects: Arc<dyn ObjectStore>,
    /// The same, for listings by pages.
    pub(super) pages: Arc<dyn PaginatedListStore>,
    /// The same, for uploads in parts.
    pub(super) parts: Arc<dyn MultipartStore>,
    /// The host that bears its limits.
    pub(super) host: String,
    /// What kind of credentials is used, for messages.
    credentials: String,
    /// What to set for others, for messages.
    advice: &'static str,
}

impl Store {
    /// An error of the library, with what to do about it.
    pub(super) fn explain(&self, error: object_store::Error, what: &str) -> Error {
        let (kind, why) = kind_of(&error);
        let text = match kind {
            ErrorKind::Denied => format!("{what}: {why}; asked with {}; {}", self.credentials, self.advice),
            _ => format!("{what}: {why}"),
        };
        Error::new(kind, text)
    }
}

/// A store of S3's protocol.
///
/// # Errors
/// `Invalid` for a bucket, endpoint or profile that cannot be; reading the credentials file.
/// What an error of the library is in ours. Answers of the store come through as they were classed where
/// they arrived; what is left never reached the store.
fn kind_of(error: &object_store::Error) -> (ErrorKind, String) {
    if let Some(own) = find::<Error>(error) {
        return (own.kind(), own.to_string());
    }
    let kind = match error {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::Precondition { .. } => ErrorKind::Corrupt,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            ErrorKind::Denied
        }
        // An answer that does not parse, a range that is not the one asked for, a key with empty parts.
        _ => ErrorKind::Invalid,
    };
    (kind, error.to_string())
}

pub(super) fn s3(config: &S3Config, bucket: &str, ways: Ways) -> Result<Store> {
    check_name("bucket", bucket)?;
    let anonymous = config.anonymous || allowed_by("AWS_SKIP_SIGNATURE");
    let profile = if anonymous { Profile::default() } else { aws_profile::load(config)? };
    let region = (config.region.clone())
        .or_else(|| non_empty_var("AWS_REGION"))
        .or_else(|| non_empty_var("AWS_DEFAULT_REGION"))
        .or(profile.region)
        .unwrap_or_else(|| "us-east-1".to_owned());
    check_name("region", &region)?;
    let endpoint = s3_endpoint(config, bucket, &region)?;

    let mut builder = AmazonS3Builder::new();
    // What the configuration names wins over the environment, the environment over the usual files.
    let configured = config.credentials_file.is_some() || config.profile.is_some();
    let in_environment = non_empty_var("AWS_ACCESS_KEY_ID").is_some();
    let credentials;
    match profile.keys {
        _ if anonymous => {
            credentials = "no credentials (anonymous)".to_owned();
            builder = builder.with_skip_signature(true);
        }
        Some(keys) if configured || !in_environment => {
            credentials = keys.source.clone();
            builder = keys.apply(builder);
        }
        _ => {
            credentials = environment_source().to_owned();
            builder = from_aws_environment(builder);
        }
    }
    let host = host_key(&endpoint);
    let objects = builder
        .with_region(region)
        .with_bucket_name(bucket)
        // The bucket stands in the endpoint already, in its path or in its host.
        .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint.as_str().trim_end_matches('/'))
        .with_virtual_hosted_style_request(true)
        .with_retry(no_retries())
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_http_connector(Connector { ways, host: host.clone() })
        .build()
        .map_err(|e| Error::new(ErrorKind::Invalid, format!("s3://{bucket}: {e}")))?;
    let objects = Arc::new(objects);
    Ok(Store {
        objects: objects.clone(),
        pages: objects.clone(),
        parts: objects,
        host,
        credentials,
        advice: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; to read a public bucket anonymously \
                 set origins.s3.anonymous or AWS_SKIP_SIGNATURE=true",
    })
}

/// The bucket's own URL.
fn s3_endpoint(config: &S3Config, bucket: &str, region: &str) -> Result<Url> {
    let named = match &config.endpoint {
        Some(text) => Some(parse_endpoint("origins.s3.endpoint", text)?),
        None => match ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
            .into_iter()
            .find_map(|name| Some((name, non_empty_var(name)?)))
        {
            Some((name, text)) => Some(parse_endpoint(name, &text)?),
            None => None,
        },
    };
    let in_environment = || Some(non_empty_var("AWS_VIRTUAL_HOSTED_STYLE_REQUEST")? == "true");
    // A name with dots matches no wildcard certificate.
    let virtual_host = (config.virtual_host)
        .or_else(in_environment)
        .unwrap_or_else(|| named.is_none() && !bucket.contains('.'));
    let base = match named {
        Some(url) => {
            require_tls(&url, config.allow_http || allowed_by("AWS_ALLOW_HTTP"), "origins.s3.allow_http")?;
            url
        }
        None => {
            let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            parse_endpoint("region", &format!("https://s3.{region}.{domain}"))?
        }
    };
    let wrong =
        |_| Error::new(ErrorKind::Invalid, format!("bucket {bucket:?} cannot stand in front of {base}"));
    if virtual_host {
        let host = format!("{bucket}.{}", base.host_str().unwrap_or_default());
        let mut url = base.clone();
        url.set_host(Some(&host)).map_err(wrong)?;
        return Ok(url);
    }
    Url::parse(&format!("{}/{bucket}", base.as_str().trim_end_matches('/'))).map_err(wrong)
}

/// What object_store reads of the environment, less what is decided here.
fn from_aws_environment(mut builder: AmazonS3Builder) -> AmazonS3Builder {
    use AmazonS3ConfigKey as Name;
    for (name, value) in std::env::vars() {
        let Ok(key) = name.to_ascii_lowercase().parse::<Name>() else { continue };
        let wanted = name.starts_with("AWS_")
            && !value.is_empty()
            && !matches!(
                key,
                Name::Endpoint
                    | Name::S3Endpoint
                    | Name::Bucket
                    | Name::VirtualHostedStyleRequest
                    | Name::Client(_)
            );
        if wanted {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

fn environment_source() -> &'static str {
    let is_set = |name: &str| non_empty_var(name).is_some();
    if is_set("AWS_ACCESS_KEY_ID") && is_set("AWS_SESSION_TOKEN") {
        "the key in AWS_ACCESS_KEY_ID with AWS_SESSION_TOKEN"
    } else if is_set("AWS_ACCESS_KEY_ID") {
        "the key in AWS_ACCESS_KEY_ID"
    } else if is_set("AWS_WEB_IDENTITY_TOKEN_FILE") {
        "the web identity of AWS_WEB_IDENTITY_TOKEN_FILE"
    } else if is_set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") || is_set("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    {
        "the container's role"
    } else {
        "the instance's role (no key was found in environment or files)"
    }
}

/// Google Cloud Storage.
///
/// # Errors
/// As [`s3`].
pub(super) fn gs(config: &GsConfig, bucket: &str, ways: Ways) -> Result<Store> {
    check_name("bucket", bucket)?;
    let emulator = non_empty_var("STORAGE_EMULATOR_HOST").filter(|_| config.endpoint.is_none());
    let endpoint = match (&config.endpoint, &emulator) {
        (Some(text), _) => parse_endpoint("origins.gs.endpoint", text)?,
        (None, Some(text)) if text.contains("://") => parse_endpoint("STORAGE_EMULATOR_HOST", text)?,
        (None, Some(text)) => parse_endpoint("STORAGE_EMULATOR_HOST", &format!("http://{text}"))?,
        (None, None) => parse_endpoint("Google Cloud Storage", "https://storage.googleapis.com")?,
    };
    if emulator.is_none() {
        require_tls(&endpoint, config.allow_http, "origins.gs.allow_http")?;
    }
    let (builder, credentials) = if config.anonymous || emulator.is_some() {
        (GoogleCloudStorageBuilder::new().with_skip_signature(true), "no credentials (anonymous)")
    } else if let Some(path) = &config.service_account_file {
        let builder = GoogleCloudStorageBuilder::new().with_service_account_path(path.display().to_string());
        (builder, "origins.gs.service_account_file")
    } else {
        let source = if non_empty_var("GOOGLE_APPLICATION_CREDENTIALS").is_some() {
            "the credentials of GOOGLE_APPLICATION_CREDENTIALS"
        } else {
            "GOOGLE_* variables, the application default credentials, or the instance's service account"
        };
        (GoogleCloudStorageBuilder::from_env(), source)
    };
    let host = host_key(&endpoint);
    let objects = builder
        .with_bucket_name(bucket)
        .with_base_url(endpoint.as_str().trim_end_matches('/'))
        .with_retry(no_retries())
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_http_connector(Connector { ways, host: host.clone() })
        .build()
        .map_err(|e| Error::new(ErrorKind::Invalid, format!("gs://{bucket}: {e}")))?;
    let objects = Arc::new(objects);
    Ok(Store {
        objects: objects.clone(),
        pages: objects.clone(),
        parts: objects,
        host,
        credentials: credentials.to_owned(),
        advice: "set GOOGLE_APPLICATION_CREDENTIALS or origins.gs.service_account_file, or origins.gs.anonymous for a public bucket",
    })
}

/// Azure Blob Storage.
///
/// # Errors
/// As [`s3`]; `Invalid` when no account is named anywhere.
pub(super) fn az(config: &AzConfig, account: Option<&str>, container: &str, ways: Ways) -> Result<Store> {
    check_name("container", container)?;
    let account = (account.map(str::to_owned))
        .or_else(|| config.account.clone())
        .or_else(|| non_empty_var("AZURE_STORAGE_ACCOUNT_NAME"))
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("az://{container} names no storage account: set origins.az.account or AZURE_STORAGE_ACCOUNT_NAME, or write abfs://{container}@ACCOUNT.dfs.core.windows.net/…"),
            )
        })?;
    check_name("storage account", &account)?;
    let endpoint = match &config.endpoint {
        Some(text) => parse_endpoint("origins.az.endpoint", text)?,
        None => match non_empty_var("AZURE_STORAGE_ENDPOINT") {
            Some(text) => parse_endpoint("AZURE_STORAGE_ENDPOINT", &text)?,
            None => parse_endpoint("storage account", &format!("https://{account}.blob.core.windows.net"))?,
        },
    };
    require_tls(&endpoint, config.allow_http || allowed_by("AZURE_ALLOW_HTTP"), "origins.az.allow_http")?;
    let (builder, credentials) = if config.anonymous {
        (MicrosoftAzureBuilder::new().with_skip_signature(true), "no credentials (anonymous)")
    } else if let Some(path) = &config.account_key_file {
        (
            MicrosoftAzureBuilder::new().with_access_key(read_secret(path)?),
            "the key of origins.az.account_key_file",
        )
    } else {
        (from_azure_environment(MicrosoftAzureBuilder::new()), azure_source())
    };
    let host = host_key(&endpoint);
    let objects = builder
        .with_account(account)
        .with_container_name(container)
        .with_endpoint(endpoint.as_str().trim_end_matches('/').to_owned())
        .with_retry(no_retries())
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_http_connector(Connector { ways, host: host.clone() })
        .build()
        .map_err(|e| Error::new(ErrorKind::Invalid, format!("az://{container}: {e}")))?;
    let objects = Arc::new(objects);
    Ok(Store {
        objects: objects.clone(),
        pages: objects.clone(),
        parts: objects,
        host,
        credentials: credentials.to_owned(),
        advice: "set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_KEY or origins.az.account_key_file, or origins.az.anonymous for a public container",
    })
}

fn from_azure_environment(mut builder: MicrosoftAzureBuilder) -> MicrosoftAzureBuilder {
    use AzureConfigKey as Name;
    for (name, value) in std::env::vars() {
        let Ok(key) = name.to_ascii_lowercase().parse::<Name>() else { continue };
        let decided_here = matches!(
            key,
            Name::Endpoint | Name::ContainerName | Name::AccountName | Name::UseEmulator | Name::Client(_)
        );
        if name.starts_with("AZURE_") && !value.is_empty() && !decided_here {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

fn azure_source() -> &'static str {
    let is_set = |name: &str| non_empty_var(name).is_some();
    if is_set("AZURE_STORAGE_TOKEN") {
        "the token of AZURE_STORAGE_TOKEN"
    } else if is_set("AZURE_STORAGE_ACCOUNT_KEY") || is_set("AZURE_STORAGE_ACCESS_KEY") {
        "the key of AZURE_STORAGE_ACCOUNT_KEY"
    } else if is_set("AZURE_FEDERATED_TOKEN_FILE") {
        "the workload identity of AZURE_FEDERATED_TOKEN_FILE"
    } else if is_set("AZURE_CLIENT_SECRET") || is_set("AZURE_STORAGE_CLIENT_SECRET") {
        "the client secret of AZURE_CLIENT_SECRET"
    } else if is_set("AZURE_STORAGE_SAS_KEY") || is_set("AZURE_STORAGE_SAS_TOKEN") {
        "the signature of AZURE_STORAGE_SAS_KEY"
    } else {
        "the machine's managed identity (no key was found in the environment)"
    }
}

fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn allowed_by(variable: &str) -> bool {
    non_empty_var(variable).is_some_and(|v| v.eq_ignore_ascii_case("true") || v == "1")
}

/// # Errors
/// `Invalid` for an endpoint without encryption off this machine, unless `allowed`.
fn require_tls(endpoint: &Url, allowed: bool, setting: &str) -> Result<()> {
    if endpoint.scheme() == "https" || allowed || is_loopback(endpoint) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("{endpoint} is not encrypted: if that is meant, set {setting}"),
    ))
}

/// Names stand in host names and paths, so nothing may be in them that means something there.
fn check_name(what: &str, name: &str) -> Result<()> {
    let sound = (1..=255).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'$'))
        && !name.contains("..")
        && !name.starts_with('.');
    if sound {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("{what} {name:?} has characters that no {what} has")))
}

/// The certificate authorities that hold for AWS: the setting, else the variable that its tools read.
pub(super) fn aws_ca_file(config: &S3Config) -> Option<std::path::PathBuf> {
    config.ca_file.clone().or_else(|| non_empty_var("AWS_CA_BUNDLE").map(|v| Path::new(&v).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: Option<&str>, virtual_host: Option<bool>, bucket: &str) -> String {
        let config = S3Config { endpoint: text.map(str::to_owned), virtual_host, ..S3Config::default() };
        s3_endpoint(&config, bucket, "eu-west-1").unwrap().to_string()
    }

    #[test]
    fn buckets_are_addressed_by_path_or_by_host() {
        assert_eq!(endpoint(Some("http://127.0.0.1:9000"), None, "b"), "http://127.0.0.1:9000/b");
        assert_eq!(endpoint(Some("https://s3.example.com/x/"), None, "b"), "https://s3.example.com/x/b");
        assert_eq!(
            endpoint(Some("http://s3.localhost:9000"), Some(true), "b"),
            "http://b.s3.localhost:9000/"
        );
    }

    #[test]
    fn an_endpoint_without_encryption_must_be_meant() {
        let config = S3Config { endpoint: Some("http://10.0.0.1".into()), ..S3Config::default() };
        assert!(s3_endpoint(&config, "b", "r").unwrap_err().to_string().contains("allow_http"));
        s3_endpoint(&S3Config { allow_http: true, ..config }, "b", "r").unwrap();
    }

    #[test]
    fn a_bucket_cannot_smuggle_a_host() {
        for bad in ["", "evil.com/", "evil.com#", "a@b", "..", ".a", "a..b", "a\nb", "a:80"] {
            assert!(check_name("bucket", bad).is_err(), "{bad:?}");
        }
        for good in ["b", "my.bucket-1", "$web", "under_score"] {
            check_name("bucket", good).unwrap();
        }
    }
}
