//! The addresses that a list may reach.
//!
//! A list comes from anywhere, so it must not be a way to access this machine's own services, its
//! neighbours or a cloud's metadata server. The address of the connection counts, so names are
//! checked when they are resolved. A name that changes its address between two lookups gains
//! nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// The reason why a name gave no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAddress {
    #[error("it leads to {0}, which is a private address; --allow-private-hosts permits these")]
    Private(IpAddr),
    #[error("there is no host with this name: {0}")]
    NoSuchHost(io::Error),
    #[error("the name server failed: {0}")]
    Failed(io::Error),
}

/// Returns whether an address belongs to the public internet, by IANA's registries of special
/// addresses (RFC 6890 and its updates).
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Carrier-grade NAT, protocol assignments, 6to4 relays, benchmarks.
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let s = address.segments();
    let embedded = |high: u16, low: u16| {
        is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
    };
    match s {
        // NAT64 and 6to4 lead to the IPv4 address within.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Teredo, ORCHID, benchmarks and other assignments; documentation.
        [0x2001, second, ..] if second < 0x200 => false,
        [0x2001, 0xdb8, ..] | [0x3fff, ..] => false,
        // Global unicast is 2000::/3; all else is loopback, link-local, unique local, multicast or
        // unassigned.
        _ => s[0] & 0xe000 == 0x2000,
    }
}

/// Refuses a URL that is not http, or whose host is a private address written as a number. Names
/// are checked when they are resolved.
pub(super) fn check(
    url: &Url,
    private_hosts: bool,
) -> Result<(), (diptych_schemas::Reason, String)> {
    use diptych_schemas::Reason;
    if !matches!(url.scheme(), "http" | "https") {
        return Err((Reason::BadUrl, format!("{}: is not http or https", url.scheme())));
    }
    let literal = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(name)) if !name.is_empty() => None,
        _ => return Err((Reason::BadUrl, "it has no host".into())),
    };
    match literal {
        Some(address) if !private_hosts && !is_public(address) => {
            Err((Reason::PrivateAddress, NoAddress::Private(address).to_string()))
        }
        _ => Ok(()),
    }
}

/// Resolves names, to public addresses only unless private ones are allowed.
pub(super) struct Resolver {
    pub(super) private_hosts: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let private_hosts = self.private_hosts;
        Box::pin(async move {
            let found: Vec<SocketAddr> = match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(found) => found.collect(),
                // getaddrinfo distinguishes "try again" (EAI_AGAIN) from "there is none" only by
                // its text.
                Err(error)
                    if error.to_string().contains("emporary")
                        || error.to_string().contains("ry again") =>
                {
                    return Err(NoAddress::Failed(error).into());
                }
                Err(error) => return Err(NoAddress::NoSuchHost(error).into()),
            };
            let (public, private): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|found| private_hosts || is_public(found.ip()));
            match private.first() {
                Some(address) if public.is_empty() => Err(NoAddress::Private(address.ip()).into()),
                _ => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known_in_all_their_spellings() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "::127.0.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "2001:4860:4860::8888",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for url in [
            "http://0x7f.1/",
            "http://2130706433/",
            "http://127.1/",
            "http://[::1]/",
            "http://017700000001/",
        ] {
            let refused = check(&Url::parse(url).unwrap(), false).unwrap_err();
            assert_eq!(refused.0, diptych_schemas::Reason::PrivateAddress, "{url}");
            check(&Url::parse(url).unwrap(), true).unwrap();
        }
        for url in [
            "file:///etc/passwd",
            "ftp://example.org/a.jpg",
            "data:image/png;base64,AA",
            "javascript:alert(1)",
        ] {
            assert_eq!(
                check(&Url::parse(url).unwrap(), true).unwrap_err().0,
                diptych_schemas::Reason::BadUrl,
                "{url}"
            );
        }
    }
}
