//! An internet: any name under some domains has addresses made from it, a few labels have a meaning, the rest is not.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, NS, NULL, SOA, TXT};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};

use super::{Found, Told};

/// TTL of addresses.
pub const TTL: u32 = 300;
/// TTL of SOA records, and the MINIMUM in them.
const DENIAL: (u32, u32) = (900, 300);
/// Domains that have every name.
pub const DOMAINS: &[&str] = &[
    "example.com.",
    "example.org.",
    "example.net.",
    "example.com.br.",
    "google.com.",
    "github.com.",
    "amazon.com.",
];
/// Names above these domains: they exist and have nothing of their own.
const ABOVE: &[&str] = &["com.", "org.", "net.", "br.", "com.br.", "internal."];
/// A zone of a cloud's private names: only hosts named by their address exist.
const EC2: &str = "ec2.internal.";
/// A type nobody knows (RFC 3597; of the range for private use, RFC 6895 section 3.1).
const UNKNOWN_TYPE: u16 = 65_280;

/// Answers a question.
pub fn find(qname: &LowerName, qtype: RecordType) -> Told {
    let name = Name::from(qname).to_lowercase();
    let text = name.to_ascii();
    if let Some(domain) = DOMAINS.iter().find(|domain| is_under(&text, domain)) {
        let labels = text.strip_suffix(*domain).unwrap_or_default().trim_end_matches('.');
        return told(in_domain(&name, labels, domain, qtype), domain);
    }
    if is_under(&text, EC2) {
        return told(in_ec2(&name, &text, qtype), EC2);
    }
    let found =
        if text == "." || ABOVE.contains(&text.as_str()) { Found::NoData(vec![]) } else { Found::NxDomain };
    let above = ABOVE.iter().filter(|zone| is_under(&text, zone)).max_by_key(|zone| zone.len());
    told(found, above.unwrap_or(&"."))
}

fn is_under(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn told(found: Found, zone: &str) -> Told {
    Told { found, soa: parsed(zone).map(|zone| soa(&zone)), zone: zone.into() }
}

fn parsed(text: &str) -> Option<Name> {
    Name::from_ascii(text).ok()
}

fn in_domain(name: &Name, labels: &str, domain: &str, qtype: RecordType) -> Found {
    let says = |word: &str| labels.split('.').any(|label| label == word);
    if says("nx") {
        return Found::NxDomain;
    }
    if says("servfail") {
        return Found::ServFail;
    }
    if let Some(step) = ALIASES.iter().position(|alias| says(alias)) {
        return aliases(name, labels, domain, qtype, step);
    }
    let data: Vec<RData> = match qtype {
        RecordType::A if !says("v6only") && !says("nodata") => {
            addresses_v4(name, if says("big") { 100 } else { 1 })
        }
        RecordType::AAAA if !says("v4only") && !says("nodata") => {
            addresses_v6(name, if says("big") { 60 } else { 1 })
        }
        RecordType::TXT if says("big") => {
            (0..15u8).map(|number| text(&format!("{number:02}").repeat(100))).collect()
        }
        RecordType::TXT => vec![text("v=lab1")],
        RecordType::MX => {
            parsed(&format!("mail.{domain}")).map(|mail| RData::MX(MX::new(10, mail))).into_iter().collect()
        }
        RecordType::NS if labels.is_empty() => ["ns1", "ns2"]
            .iter()
            .filter_map(|ns| parsed(&format!("{ns}.{domain}")))
            .map(|ns| RData::NS(NS(ns)))
            .collect(),
        RecordType::SOA if labels.is_empty() => return Found::Records(vec![soa(name)]),
        RecordType::Unknown(UNKNOWN_TYPE) if says("type") => {
            vec![RData::Unknown { code: qtype, rdata: NULL::with(b"\x00opaque\xc0\x0c\xff".to_vec()) }]
        }
        _ => vec![],
    };
    if data.is_empty() {
        return Found::NoData(vec![]);
    }
    Found::Records(data.into_iter().map(|data| Record::from_rdata(name.clone(), TTL, data)).collect())
}

/// Labels of a chain of three aliases, in order.
const ALIASES: [&str; 3] = ["cname", "cname-one", "cname-two"];

/// The rest of a chain of aliases, from the one with this number on; it ends in another domain.
fn aliases(name: &Name, labels: &str, domain: &str, qtype: RecordType, step: usize) -> Found {
    let elsewhere = if domain == "example.org." { "example.com." } else { "example.org." };
    let named = |label: &str| {
        let own = |text| if ALIASES.contains(&text) { label } else { text };
        labels.split('.').map(own).collect::<Vec<_>>().join(".")
    };
    let host = named("end");
    let further = ALIASES.iter().skip(step + 1).map(|alias| format!("{}.{domain}", named(alias)));
    let steps: Vec<String> = further.chain([format!("{host}.{elsewhere}")]).collect();
    let mut records = Vec::new();
    let mut owner = name.clone();
    for target in steps.iter().filter_map(|step| parsed(step)) {
        records.push(Record::from_rdata(owner, TTL, RData::CNAME(CNAME(target.clone()))));
        if qtype == RecordType::CNAME {
            return Found::Records(records);
        }
        owner = target;
    }
    match in_domain(&owner, &host, elsewhere, qtype) {
        Found::Records(end) => Found::Records([records, end].concat()),
        _ => Found::NoData(records),
    }
}

fn in_ec2(name: &Name, text: &str, qtype: RecordType) -> Found {
    let host = text.strip_suffix(EC2).unwrap_or_default().trim_end_matches('.');
    let ip = host.strip_prefix("ip-").and_then(|address| address.replace('-', ".").parse::<Ipv4Addr>().ok());
    match (ip, qtype) {
        (Some(ip), RecordType::A) => {
            Found::Records(vec![Record::from_rdata(name.clone(), 60, RData::A(A(ip)))])
        }
        (Some(_), _) => Found::NoData(vec![]),
        (None, _) if host.is_empty() => Found::NoData(vec![]),
        (None, _) => Found::NxDomain,
    }
}

fn text(content: &str) -> RData {
    RData::TXT(TXT::new(vec![content.into()]))
}

/// The same number for the same name, on every machine (FNV-1a).
fn number(name: &Name) -> u32 {
    name.to_ascii()
        .bytes()
        .fold(0x811c_9dc5, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193))
}

/// Addresses of 198.18.0.0/15, which is for tests (RFC 2544).
fn addresses_v4(name: &Name, count: u32) -> Vec<RData> {
    let address = |index: u32| Ipv4Addr::from(0xc612_0000 | (number(name).wrapping_add(index) & 0x0001_ffff));
    (0..count).map(|index| RData::A(A(address(index)))).collect()
}

/// Addresses of 2001:db8::/32, which is for documents (RFC 3849).
fn addresses_v6(name: &Name, count: u32) -> Vec<RData> {
    let base = 0x2001_0db8_u128 << 96;
    let address = |index: u32| Ipv6Addr::from(base | u128::from(number(name).wrapping_add(index)));
    (0..count).map(|index| RData::AAAA(AAAA(address(index)))).collect()
}

fn soa(zone: &Name) -> Record {
    let under = |label: &str| {
        parsed(label).and_then(|name| name.append_domain(zone).ok()).unwrap_or_else(|| zone.clone())
    };
    let soa = SOA::new(under("ns1"), under("hostmaster"), 1, 7200, 3600, 1_209_600, DENIAL.1);
    Record::from_rdata(zone.clone(), DENIAL.0, RData::SOA(soa))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, qtype: RecordType) -> Told {
        find(&LowerName::from(Name::from_ascii(name).unwrap()), qtype)
    }

    fn count(name: &str, qtype: RecordType) -> usize {
        match ask(name, qtype).found {
            Found::Records(records) => records.len(),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn every_name_has_both_addresses_and_always_the_same() {
        assert_eq!(count("www.example.com.", RecordType::A), 1);
        assert_eq!(count("a.b.c.google.com.", RecordType::AAAA), 1);
        assert_eq!(
            ask("WWW.example.com.", RecordType::A).found,
            ask("www.example.com.", RecordType::A).found
        );
        assert_ne!(
            ask("www1.example.com.", RecordType::A).found,
            ask("www2.example.com.", RecordType::A).found
        );
    }

    #[test]
    fn labels_with_a_meaning_have_it() {
        assert_eq!(ask("v4only.example.com.", RecordType::AAAA).found, Found::NoData(vec![]));
        assert_eq!(ask("x.v6only.example.com.", RecordType::A).found, Found::NoData(vec![]));
        assert_eq!(count("v6only.example.com.", RecordType::AAAA), 1);
        assert_eq!(ask("nx.example.com.", RecordType::A).found, Found::NxDomain);
        assert_eq!(ask("servfail.example.com.", RecordType::A).found, Found::ServFail);
        assert_eq!(count("big.example.com.", RecordType::TXT), 15);
        assert_eq!(count("cname.example.com.", RecordType::A), 4);
        let Found::Records(whole) = ask("a.cname.example.net.", RecordType::A).found else { panic!() };
        let Found::Records(rest) = ask("a.cname-two.example.net.", RecordType::A).found else { panic!() };
        assert_eq!(whole[2..], rest, "each alias leads where the whole chain does");
        assert_eq!(count("type.example.com.", RecordType::Unknown(UNKNOWN_TYPE)), 1);
        let Found::NoData(chain) = ask("v4only.cname.example.com.", RecordType::AAAA).found else { panic!() };
        assert_eq!(chain.len(), 3);
    }

    #[test]
    fn what_is_not_there_is_denied_by_the_nearest_zone() {
        let told = |name: &str| (ask(name, RecordType::A).found, ask(name, RecordType::A).zone);
        assert_eq!(told("nothing.com."), (Found::NxDomain, "com.".into()));
        assert_eq!(told("www.example.com.cluster.local."), (Found::NxDomain, ".".into()));
        assert_eq!(told("com.br."), (Found::NoData(vec![]), "com.br.".into()));
        assert_eq!(told("x.ec2.internal."), (Found::NxDomain, "ec2.internal.".into()));
        assert_eq!(count("ip-10-0-0-7.ec2.internal.", RecordType::A), 1);
        assert_eq!(told("notexample.com.").0, Found::NxDomain);
    }
}
