//! Which places may be contacted at all.
//!
//! Owns the allow-list and the refusal of link-local and metadata addresses, both for names written
//! down and for names that only resolve to such an address. Every hop of a redirect passes here.
//! Knows nothing of what is fetched.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::error::{Error, ErrorKind, Result};

/// The addresses at which clouds hand out instance credentials, besides link-local ones.
const METADATA: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

/// Whether `address` is link-local or hands out instance credentials.
pub(crate) fn is_metadata(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    link_local || METADATA.contains(&address)
}

/// The prefixes that may be opened; none means everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowList(Arc<[String]>);

impl AllowList {
    pub(crate) fn new(prefixes: &[String]) -> Self {
        Self(prefixes.iter().cloned().collect())
    }

    /// Whether `text`, a URL or canonical reference, starts with an allowed prefix. A prefix ends at a
    /// part border: `s3://models` allows `s3://models/x`, never `s3://models-private/x`.
    pub(crate) fn permits(&self, text: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|prefix| starts_at_border(text, prefix))
    }

    /// As [`permits`](Self::permits) for a path on this machine, symlinks already resolved.
    pub(crate) fn permits_path(&self, path: &Path) -> bool {
        if self.0.is_empty() {
            return true;
        }
        self.0.iter().filter_map(|p| p.strip_prefix("file://")).any(|prefix| {
            // The allowed directory may itself be a symlink: compare where it leads.
            path.starts_with(prefix)
                || Path::new(prefix).canonicalize().is_ok_and(|real| path.starts_with(real))
        })
    }

    /// # Errors
    /// `Denied` when `text` is not allowed.
    pub(crate) fn check(&self, text: &str) -> Result<()> {
        if self.permits(text) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, format!("{text} is not below any prefix that origins.allow names")))
    }
}

fn starts_at_border(text: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('*').unwrap_or(prefix);
    text.strip_prefix(prefix)
        .is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with(['/', '@', '?']))
        || prefix.strip_suffix('/').is_some_and(|p| p == text)
}

/// Refuses a URL that names a metadata address by number, carries credentials, or is not HTTP.
///
/// # Errors
/// `Denied` or `Invalid`; the message never has the password.
pub(crate) fn check_url(url: &Url) -> Result<()> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Error::new(ErrorKind::Denied, format!("{} is neither http nor https", shown(url))));
    }
    refuse_userinfo(url)?;
    let address = match url.host() {
        Some(Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
        Some(Host::Ipv6(v6)) => Some(IpAddr::V6(v6)),
        Some(Host::Domain(_)) | None => None,
    };
    match address {
        Some(address) => check_address(url.host_str().unwrap_or_default(), address),
        None => Ok(()),
    }
}

/// Refuses a metadata address that `host` leads to.
///
/// # Errors
/// `Denied`.
pub(crate) fn check_address(host: &str, address: IpAddr) -> Result<()> {
    if is_metadata(address) { Err(refusal(host, address)) } else { Ok(()) }
}

/// # Errors
/// `Invalid` when `url` carries a user name or password.
pub(crate) fn refuse_userinfo(url: &Url) -> Result<()> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!(
            "{} has a user name or password in it: put credentials into a file or the environment",
            shown(url)
        ),
    ))
}

/// A URL as messages may show it: without user, password, and query, where signatures stand.
pub(crate) fn shown(url: &Url) -> String {
    let mut copy = url.clone();
    let _ = copy.set_username("");
    let _ = copy.set_password(None);
    let had_query = copy.query().is_some();
    copy.set_query(None);
    copy.set_fragment(None);
    if had_query { format!("{copy}?…") } else { copy.into() }
}

/// Parses a base URL from a setting.
///
/// # Errors
/// `Invalid` naming the setting.
pub(crate) fn parse_endpoint(setting: &str, text: &str) -> Result<Url> {
    let wrong = |why: &str| Error::new(ErrorKind::Invalid, format!("{setting} {why}"));
    let url = Url::parse(text).map_err(|_| wrong("is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong("is not an http or https URL with a host"));
    }
    if refuse_userinfo(&url).is_err() {
        return Err(wrong(
            "has a user name or password in it: put credentials into a file or the environment",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("must not have a query or fragment"));
    }
    Ok(url)
}

/// Whether `url` stays on this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(v4)) => v4.is_loopback(),
        Some(Host::Ipv6(v6)) => v6.is_loopback(),
        Some(Host::Domain(name)) => is_localhost(name),
        None => false,
    }
}

/// Whether a name is this machine by RFC 6761, whatever a resolver would say of it.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

fn refusal(host: &str, address: IpAddr) -> Error {
    let at = if host.trim_matches(['[', ']']) == address.to_string() {
        host.to_owned()
    } else {
        format!("{host} ({address})")
    };
    Error::new(
        ErrorKind::Denied,
        format!("{at} is a link-local or metadata address, which origins may not use"),
    )
}

/// Resolves names by the system, and refuses those that lead to a metadata address.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GuardedResolver;

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            if is_localhost(&host) {
                let here = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                return Ok(Box::new(here.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs);
            }
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            // One bad address condemns the name: a mixed answer is how rebinding works.
            if let Some(bad) = found.iter().find(|a| is_metadata(a.ip())) {
                return Err(refusal(&host, bad.ip()).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_addresses_are_refused_in_every_spelling() {
        for url in [
            "http://169.254.169.254/latest/meta-data/",
            "http://0xa9fea9fe/",
            "http://2852039166/",
            "http://[::ffff:169.254.169.254]/",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://100.100.100.200/",
        ] {
            let error = check_url(&Url::parse(url).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{url}");
        }
        for url in ["http://127.0.0.1/", "http://10.0.0.1/", "https://[2001:db8::1]/", "https://example.com/"]
        {
            check_url(&Url::parse(url).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        let url = Url::parse("https://bob:hunter2@example.com/m").unwrap();
        let error = check_url(&url).unwrap_err().to_string();
        assert!(
            error.contains("example.com") && !error.contains("hunter2") && !error.contains("bob"),
            "{error}"
        );
    }

    #[test]
    fn a_signature_in_a_query_is_not_shown() {
        let url = Url::parse("https://h/m.bin?X-Amz-Signature=canary").unwrap();
        assert_eq!(shown(&url), "https://h/m.bin?…");
    }

    #[test]
    fn a_prefix_ends_at_a_part_border() {
        let allow = AllowList::new(&["s3://models".into(), "https://cdn/x/".into(), "hf://org/name".into()]);
        for yes in ["s3://models", "s3://models/a", "https://cdn/x/y", "https://cdn/x", "hf://org/name@v1"] {
            assert!(allow.permits(yes), "{yes}");
        }
        for no in
            ["s3://models-private/a", "https://cdn/xy", "https://other/x/", "hf://org/name2", "gs://models"]
        {
            assert!(!allow.permits(no), "{no}");
        }
        assert!(AllowList::default().permits("anything://at/all"));
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_metadata_address_is_refused() {
        // The system resolver answers a number with itself, which is a name that leads there.
        let name: Name = "169.254.169.254".parse().unwrap();
        let Err(error) = GuardedResolver.resolve(name).await else { panic!("it was resolved") };
        assert!(error.to_string().contains("link-local"), "{error}");
    }

    #[tokio::test]
    async fn names_below_localhost_are_this_machine() {
        for name in ["localhost", "bucket.s3.localhost", "LOCALHOST."] {
            let found: Vec<_> = GuardedResolver.resolve(name.parse().unwrap()).await.unwrap().collect();
            assert!(!found.is_empty() && found.iter().all(|a| a.ip().is_loopback()), "{name}: {found:?}");
        }
    }
}
