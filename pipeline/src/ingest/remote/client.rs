//! HTTP clients for sources.
//!
//! Sources may lie in a private network. They are never on a metadata service, which hands out the
//! credentials of the machine.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, redirect};
use url::{Host, Url, form_urlencoded};

const CONNECT: Duration = Duration::from_secs(10);
/// Longest time without data from a server.
const SILENCE: Duration = Duration::from_secs(30);
/// Redirects that are followed per request.
const HOPS: usize = 10;
/// Metadata services without a link-local address: AWS, Google, Alibaba.
const METADATA: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(std::net::Ipv4Addr::new(100, 100, 100, 200)),
];

#[derive(Debug, thiserror::Error)]
#[error("{0} is an address of metadata services, and no source lies there")]
pub(super) struct Metadata(IpAddr);

/// Returns the `Authorization` header for the user and password of a URL.
pub(super) fn basic(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| {
        let escaped = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
        form_urlencoded::parse(escaped.as_bytes()).map(|(name, _)| name.into_owned()).next()
    };
    let user = decoded(url.username()).unwrap_or_default();
    let password = url.password().and_then(decoded).unwrap_or_default();
    Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

/// Creates a client for sources. `authorization` is sent to the host of the request, but not to
/// those that it redirects to.
pub(super) fn client(authorization: Option<&str>) -> Result<Client, String> {
    let mut headers = HeaderMap::new();
    if let Some(authorization) = authorization {
        let value = HeaderValue::from_str(authorization);
        let mut value = value.map_err(|_| "HF_TOKEN is not a token".to_owned())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let follow = redirect::Policy::custom(|attempt| match check(attempt.url()) {
        Err(metadata) => attempt.error(metadata),
        Ok(()) if attempt.previous().len() > HOPS => attempt.error("too many redirects"),
        Ok(()) => attempt.follow(),
    });
    Client::builder()
        .user_agent(concat!("diptych/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .redirect(follow)
        .referer(false)
        // A compressed source is read as it is.
        .no_gzip()
        .dns_resolver(Arc::new(Resolver))
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .build()
        .map_err(|error| format!("no HTTP client: {error}"))
}

/// Rejects a metadata service whose address is written as a number.
pub(super) fn check(url: &Url) -> Result<(), Metadata> {
    match url.host() {
        Some(Host::Ipv4(address)) => check_address(address.into()),
        Some(Host::Ipv6(address)) => check_address(address.into()),
        _ => Ok(()),
    }
}

fn check_address(address: IpAddr) -> Result<(), Metadata> {
    let plain = address.to_canonical();
    let is_metadata = match plain {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if is_metadata || METADATA.contains(&plain) { Err(Metadata(address)) } else { Ok(()) }
}

/// Resolves names to addresses, without those of metadata services.
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<SocketAddr> = found.collect();
            found.iter().try_for_each(|found| check_address(found.ip()))?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Gives the stores of single URLs one client, so that they share connections.
#[derive(Debug)]
pub(super) struct Shared(pub(super) Client);

impl HttpConnector for Shared {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_addresses_become_a_header() {
        let header = |url| basic(&Url::parse(url).unwrap());
        assert_eq!(header("https://host/a"), None);
        // RFC 7617, 2.
        let expected = Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned());
        assert_eq!(header("https://Aladdin:open%20sesame@host/a"), expected);
    }

    #[test]
    fn metadata_services_are_known_in_all_their_spellings() {
        for url in [
            "http://169.254.169.254/latest/meta-data",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "http://[::ffff:169.254.169.254]/",
            "http://[fd00:ec2::254]/",
            "http://[fe80::1]/",
            "http://100.100.100.200/",
        ] {
            assert!(check(&Url::parse(url).unwrap()).is_err(), "{url}");
        }
        for url in ["http://127.0.0.1/", "http://10.0.0.1/", "https://example.org/"] {
            check(&Url::parse(url).unwrap()).unwrap();
        }
    }
}
