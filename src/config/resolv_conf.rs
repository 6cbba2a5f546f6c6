//! What a `resolv.conf` says, as hickory-resolver reads it: what it makes of a line is what a resolver makes of it.

use std::net::SocketAddr;
use std::path::Path;

use crate::limits;
use crate::search::list::MAX_HOST_DOMAINS;
use crate::upstream::health::{Endpoint, Transport};
use crate::wire::name::Name;

/// The file that the host's own programs read.
pub const PATH: &str = "/etc/resolv.conf";
/// Nameservers that are used, the first ones: the libraries of this system take no more either.
pub const MAX_SERVERS: usize = 3;
/// A longer file is none.
const MAX_OCTETS: u64 = 64 * limits::KIB;
const PORT: u16 = 53;

/// What is used of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// Its nameservers, at least one.
    pub servers: Vec<Endpoint>,
    /// The domains of its search list.
    pub domains: Vec<Name>,
}

/// Reads the file.
///
/// # Errors
/// Why nothing of it can be used.
pub fn read(path: &Path) -> Result<ResolvConf, String> {
    parse(&super::read(path, MAX_OCTETS)?)
}

fn parse(text: &[u8]) -> Result<ResolvConf, String> {
    let (parsed, _) =
        hickory_resolver::system_conf::parse_resolv_conf(text).map_err(|error| error.to_string())?;
    let endpoint = |ip| Endpoint::plain(Transport::Udp, SocketAddr::new(ip, PORT));
    let mut servers: Vec<Endpoint> = Vec::new();
    for server in parsed.name_servers().iter().filter(|server| !server.ip.is_unspecified()) {
        let server = endpoint(server.ip);
        if servers.len() < MAX_SERVERS && !servers.contains(&server) {
            servers.push(server);
        }
    }
    if servers.is_empty() {
        return Err("no nameserver".into());
    }
    let domains = parsed.search().iter().filter_map(|name| Name::from_text(&name.to_ascii()).ok());
    Ok(ResolvConf { servers, domains: domains.take(MAX_HOST_DOMAINS).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(text: &str) -> Result<Vec<String>, String> {
        Ok(parse(text.as_bytes())?.servers.iter().map(|server| server.addr.ip().to_string()).collect())
    }

    #[test]
    fn the_first_three_nameservers_count() {
        let all: String = (1..=5).map(|last| format!("nameserver 192.0.2.{last}\n")).collect();
        assert_eq!(servers(&all).unwrap(), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let twice = "nameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n";
        assert_eq!(servers(twice).unwrap(), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(servers("nameserver 192.0.2.1\nnameserver 192.0.").unwrap(), ["192.0.2.1"]);
    }

    #[test]
    fn a_file_without_nameservers_cannot_be_used() {
        for text in
            ["", "\n", "search example.com\n", "nameserver\n", "nameserver 0.0.0.0\n", "nameserver x\n"]
        {
            assert!(servers(text).is_err(), "{text:?}");
        }
        assert!(read(Path::new("/nonexistent/resolv.conf")).is_err());
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err(), "longer than 64KiB");
    }
}
