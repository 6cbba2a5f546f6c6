//! An upstream as it is written, such as `tls://192.0.2.1#dns.example`: its kind and its parts.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Upstream;
use crate::upstream::headless::Service;
use crate::upstream::health::{Endpoint, Transport};
use crate::upstream::identity::{Identity, Roots};
use crate::wire::name::Name;

/// Ports where nothing is said: RFC 1035 section 4.2, RFC 7858 section 3.1, RFC 9110 section 4.2.2.
const DNS: u16 = 53;
const TLS: u16 = 853;
const HTTPS: u16 = 443;
/// Where public servers answer over HTTPS; RFC 8484 prescribes none.
const PATH: &str = "/dns-query";
/// Most bootstrap servers of a headless Service: both families of a cluster DNS address twice.
pub(super) const MAX_BOOTSTRAP: usize = 4;

pub(super) const ANY: &str = "udp://IP[:PORT], tcp://IP[:PORT], tls://IP[:PORT]#NAME, https://IP[:PORT][/PATH]#NAME, \
     headless://NAME[:PORT]?bootstrap=IP[:PORT] or resolv.conf, up to 16 for a zone";
const ENCRYPTED: &str = "tls://IP[:PORT]#NAME or https://IP[:PORT][/PATH]#NAME: the address to connect to, since a name \
                         would have to be looked up first, and the name in the server's certificate";
const HEADLESS: &str = "headless://NAME[:PORT]?bootstrap=IP[:PORT], more of them with &bootstrap=…, up to 4";

/// Reads one, but for `resolv.conf`, which is no URL. `roots` vouch for servers inside TLS.
///
/// # Errors
/// What is allowed.
pub(super) fn parse(url: &str, roots: Option<&Arc<Roots>>) -> Result<Upstream, &'static str> {
    let (scheme, rest) = url.split_once("://").ok_or(ANY)?;
    let server = match scheme {
        "udp" => Endpoint::plain(Transport::Udp, address(rest, DNS).ok_or(ANY)?),
        "tcp" => Endpoint::plain(Transport::Tcp, address(rest, DNS).ok_or(ANY)?),
        "tls" | "https" => encrypted(scheme, rest, roots).ok_or(ENCRYPTED)?,
        "headless" => {
            return headless(rest).map(|service| Upstream::Headless(Box::new(service))).ok_or(HEADLESS);
        }
        _ => return Err(ANY),
    };
    Ok(Upstream::Server(server))
}

/// True for what needs roots.
pub(super) fn is_encrypted(url: &str) -> bool {
    url.starts_with("tls://") || url.starts_with("https://")
}

/// An address, with or without a port; one of IPv6 may stand in brackets.
pub(super) fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = |text: &str| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
    let bracketed = |text: &str| bare(text.strip_prefix('[')?.strip_suffix(']')?);
    let addr: SocketAddr = text.parse().ok().or_else(|| bare(text)).or_else(|| bracketed(text))?;
    (addr.port() != 0 && !addr.ip().is_unspecified()).then_some(addr)
}

fn encrypted(scheme: &str, rest: &str, roots: Option<&Arc<Roots>>) -> Option<Endpoint> {
    let (place, name) = rest.split_once('#').filter(|(_, name)| Identity::is_name(name))?;
    let (place, path) = match (scheme, place.find('/')) {
        ("tls", None) => (place, None),
        ("tls", Some(_)) => return None,
        (_, None) => (place, Some(PATH)),
        (_, Some(at)) => place.split_at_checked(at).map(|(place, path)| (place, Some(path)))?,
    };
    // What RFC 3986 section 3.3 lets stand in a path without being encoded, and what is encoded.
    let fits = |octet: u8| octet.is_ascii_alphanumeric() || b"/-._~!$&'()*+;=:@%".contains(&octet);
    let is_path = path.is_none_or(|path| path.bytes().all(fits));
    // An IPv6 address in place of a name cannot be written into an HTTP request as it stands.
    if !is_path || path.is_some() && name.contains(':') {
        return None;
    }
    let addr = address(place, if path.is_some() { HTTPS } else { TLS })?;
    let identity = Identity { name: name.into(), path: path.map(Into::into), roots: Arc::clone(roots?) };
    Some(Endpoint::encrypted(addr, Arc::new(identity)))
}

fn headless(rest: &str) -> Option<Service> {
    let (place, query) = rest.split_once('?')?;
    let (name, port) = match place.split_once(':') {
        Some((name, port)) => (name, port.parse().ok().filter(|port| *port != 0)?),
        None => (place, DNS),
    };
    let name = Name::from_text(name).ok().filter(|name| *name != Name::ROOT)?;
    let server = |pair: &str| address(pair.strip_prefix("bootstrap=")?, DNS);
    let bootstrap: Vec<SocketAddr> = query.split('&').map(server).collect::<Option<_>>()?;
    (bootstrap.len() <= MAX_BOOTSTRAP).then_some(Service { name, port, bootstrap })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<String, &'static str> {
        let roots = Arc::new(Roots::built_in().unwrap());
        parse(url, Some(&roots)).map(|upstream| upstream.to_string())
    }

    #[test]
    fn each_kind_has_its_parts_and_its_defaults() {
        for (written, read_back) in [
            ("udp://192.0.2.1", "udp://192.0.2.1:53"),
            ("tcp://192.0.2.1:5353", "tcp://192.0.2.1:5353"),
            ("udp://[2001:db8::1]:53", "udp://[2001:db8::1]:53"),
            ("udp://[2001:db8::1]", "udp://[2001:db8::1]:53"),
            ("udp://2001:db8::1", "udp://[2001:db8::1]:53"),
            ("tls://192.0.2.1#dns.example", "tls://192.0.2.1:853#dns.example"),
            ("tls://[2001:db8::1]:8853#2001:db8::1", "tls://[2001:db8::1]:8853#2001:db8::1"),
            ("https://192.0.2.1#dns.example", "https://192.0.2.1:443/dns-query#dns.example"),
            ("https://192.0.2.1:8443/a/b%20c#192.0.2.1", "https://192.0.2.1:8443/a/b%20c#192.0.2.1"),
            (
                "headless://kube-dns.kube-system.svc.cluster.local?bootstrap=10.96.0.10",
                "headless://kube-dns.kube-system.svc.cluster.local:53?bootstrap=10.96.0.10:53",
            ),
            (
                "headless://dns.example.:5353?bootstrap=192.0.2.1:5300&bootstrap=2001:db8::1",
                "headless://dns.example:5353?bootstrap=192.0.2.1:5300&bootstrap=[2001:db8::1]:53",
            ),
        ] {
            assert_eq!(read(written).as_deref(), Ok(read_back), "{written}");
            assert_eq!(read(read_back).as_deref(), Ok(read_back), "read back");
        }
    }

    #[test]
    fn what_is_wrong_is_answered_with_what_that_kind_allows() {
        for wrong in [
            "192.0.2.1",
            "dns.example",
            "udp://dns.example",
            "udp://192.0.2.1:0",
            "udp://0.0.0.0",
            "quic://a",
        ] {
            assert_eq!(read(wrong), Err(ANY), "{wrong}");
        }
        for wrong in [
            "tls://192.0.2.1",
            "tls://192.0.2.1#",
            "tls://192.0.2.1#not a name",
            "tls://dns.example#dns.example",
            "tls://192.0.2.1/path#dns.example",
            "tls://0.0.0.0#dns.example",
            "https://dns.example/dns-query",
            "https://192.0.2.1/dns-query",
            "https://192.0.2.1/dns-query{?dns}#dns.example",
            "https://192.0.2.1#2001:db8::1",
        ] {
            assert_eq!(read(wrong), Err(ENCRYPTED), "{wrong}");
        }
        for wrong in [
            "headless://dns.example",
            "headless://dns.example?bootstrap=",
            "headless://dns.example?bootstrap=ns.example",
            "headless://dns.example?server=192.0.2.1",
            "headless://dns.example:0?bootstrap=192.0.2.1",
            "headless://?bootstrap=192.0.2.1",
            "headless://a..b?bootstrap=192.0.2.1",
        ] {
            assert_eq!(read(wrong), Err(HEADLESS), "{wrong}");
        }
        let five = ["bootstrap=192.0.2.1"; 5].join("&");
        assert_eq!(read(&format!("headless://dns.example?{five}")), Err(HEADLESS));
    }
}
