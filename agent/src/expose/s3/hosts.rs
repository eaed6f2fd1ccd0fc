//! Whom a request is addressed to: `bucket.domain` and `bucket.localhost`, else the bucket stands in the path.

use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
};

/// The domains that buckets stand in front of.
#[derive(Debug, Clone)]
pub(super) struct Domains(Vec<String>);

impl Domains {
    pub(super) fn new(configured: Option<&str>) -> Self {
        let configured = configured.map(str::to_ascii_lowercase);
        Self(configured.into_iter().chain(["localhost".to_owned()]).collect())
    }

    /// The bucket that a `Host` names; `None` where it stands in the path.
    pub(super) fn bucket(&self, host: &str) -> Option<String> {
        let name = without_port(host).to_ascii_lowercase();
        let bucket = |domain: &String| name.strip_suffix(domain.as_str())?.strip_suffix('.');
        self.0.iter().find_map(bucket).filter(|bucket| !bucket.is_empty()).map(str::to_owned)
    }

    /// Whether a host is one of these or a bucket of one.
    pub(super) fn names(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        self.0.contains(&name) || self.bucket(host).is_some()
    }
}

fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let found = VirtualHost::new(host);
        Ok(match self.bucket(host) {
            Some(bucket) => found.with_bucket(bucket),
            None => found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_stands_in_front_of_a_known_domain_and_nowhere_else() {
        let domains = Domains::new(Some("S3.example.com"));
        for (host, bucket) in [
            ("models.s3.example.com", Some("models")),
            ("Models.s3.EXAMPLE.com:7582", Some("models")),
            ("a.b.s3.example.com", Some("a.b")),
            ("models.localhost:7582", Some("models")),
            ("models.localhost.", Some("models")),
            ("s3.example.com", None),
            ("localhost:7582", None),
            ("127.0.0.1:7582", None),
            ("[::1]:7582", None),
            ("evils3.example.com", None),
            (".localhost", None),
            ("models.elsewhere.example", None),
        ] {
            assert_eq!(domains.bucket(host).as_deref(), bucket, "{host}");
        }
        assert!(domains.names("s3.example.com:1") && domains.names("x.s3.example.com"));
        assert!(!domains.names("elsewhere.example"));
    }
}
