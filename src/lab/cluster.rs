//! The cluster's zone by the Kubernetes DNS specification 1.1.0: services, headless services with pods, SRV, PTR.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};

use super::{Found, Told, internet};

/// TTL of all records and of denials, CoreDNS's default for the cluster.
pub const TTL: u32 = 5;

/// A service: its name, namespace, named ports, and its pods where it is headless.
struct Service {
    name: &'static str,
    namespace: &'static str,
    ports: &'static [(&'static str, &'static str, u16)],
    pods: &'static [&'static str],
}

const HTTP: &[(&str, &str, u16)] = &[("http", "tcp", 80)];

const fn service(name: &'static str, namespace: &'static str) -> Service {
    Service { name, namespace, ports: HTTP, pods: &[] }
}

/// What runs in the cluster. `mysql.default` is a stateful set whose pod `mysql-0` is not ready.
const SERVICES: &[Service] = &[
    Service { name: "kubernetes", namespace: "default", ports: &[("https", "tcp", 443)], pods: &[] },
    Service {
        name: "kube-dns",
        namespace: "kube-system",
        ports: &[("dns", "udp", 53), ("dns-tcp", "tcp", 53)],
        pods: &[],
    },
    service("a", "default"),
    service("web", "shop"),
    service("web", "prod"),
    service("api", "prod"),
    service("web", "dev"),
    service("mysql-0", "mysql"),
    Service {
        name: "mysql",
        namespace: "default",
        ports: &[("mysql", "tcp", 3306)],
        pods: &["mysql-1", "mysql-2"],
    },
    Service {
        name: "kafka",
        namespace: "shop",
        ports: &[("broker", "tcp", 9092)],
        pods: &["kafka-0", "kafka-1", "kafka-2"],
    },
];

/// External names: service, namespace, what it stands for.
const EXTERNAL: &[(&str, &str, &str)] = &[("search", "shop", "www.example.com.")];

/// All names of the cluster with their records.
pub struct Zone {
    origin: Name,
    records: BTreeMap<LowerName, Vec<Record>>,
}

impl Zone {
    /// The zone under a name.
    pub fn new(origin: &Name) -> Zone {
        let mut origin = origin.clone();
        origin.set_fqdn(true);
        let mut zone = Zone { origin, records: BTreeMap::new() };
        // Section 2.2: the version of the schema.
        zone.add("dns-version", RData::TXT(TXT::new(vec!["1.1.0".into()])));
        for (index, service) in SERVICES.iter().enumerate() {
            zone.add_service(index as u8 + 1, service);
        }
        for (name, namespace, target) in EXTERNAL {
            // Section 2.5: external names are aliases.
            if let Ok(target) = Name::from_ascii(target) {
                zone.add(&format!("{name}.{namespace}.svc"), RData::CNAME(CNAME(target)));
            }
        }
        zone
    }

    fn name(&self, relative: &str) -> Option<Name> {
        Name::from_ascii(relative).ok()?.append_domain(&self.origin).ok()
    }

    fn add(&mut self, relative: &str, data: RData) {
        if let Some(name) = self.name(relative) {
            self.add_at(name, data);
        }
    }

    fn add_at(&mut self, name: Name, data: RData) {
        let record = Record::from_rdata(name.clone(), TTL, data);
        self.records.entry(LowerName::from(name)).or_default().push(record);
    }

    fn add_addresses(&mut self, relative: &str, third: u8, last: u8) {
        let v4 = Ipv4Addr::new(10, 96, third, last);
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, third.into(), last.into());
        self.add(relative, RData::A(A(v4)));
        self.add(relative, RData::AAAA(AAAA(v6)));
    }

    /// Section 2.3.3: an address leads back to one name.
    fn add_reverse(&mut self, relative: &str, third: u8, last: u8) {
        let v4 = IpAddr::from(Ipv4Addr::new(10, 96, third, last));
        let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, third.into(), last.into()));
        for ip in [v4, v6] {
            if let Some(target) = self.name(relative) {
                self.add_at(Name::from(ip), RData::PTR(PTR(target)));
            }
        }
    }

    fn add_service(&mut self, number: u8, service: &Service) {
        let base = format!("{}.{}.svc", service.name, service.namespace);
        if service.pods.is_empty() {
            // Section 2.3.1: the service's own address.
            self.add_addresses(&base, 0, number);
            self.add_reverse(&base, 0, number);
        }
        for (index, pod) in service.pods.iter().enumerate() {
            // Section 2.4.1: a headless service has the addresses of its ready pods, each also by its name.
            let last = index as u8 + 1;
            self.add_addresses(&base, number, last);
            self.add_addresses(&format!("{pod}.{base}"), number, last);
            self.add_reverse(&format!("{pod}.{base}"), number, last);
        }
        for (port_name, proto, port) in service.ports {
            // Sections 2.3.2 and 2.4.2: a port's record leads to the service, or to each pod of a headless one.
            let targets = match service.pods {
                [] => vec![base.clone()],
                pods => pods.iter().map(|pod| format!("{pod}.{base}")).collect(),
            };
            for target in targets.iter().filter_map(|target| self.name(target)).collect::<Vec<_>>() {
                self.add(
                    &format!("_{port_name}._{proto}.{base}"),
                    RData::SRV(SRV::new(0, 100, *port, target)),
                );
            }
        }
    }

    /// Answers for the zone and the reverse zones of its addresses.
    pub fn find(&self, qname: &LowerName, qtype: RecordType) -> Told {
        let Some(origin) = self.zone_of(qname) else {
            return Told { found: Found::Refused, soa: None, zone: "other".into() };
        };
        let found = self.found(qname, qtype, &origin);
        Told { found, soa: Some(soa(&origin)), zone: origin.to_ascii() }
    }

    fn zone_of(&self, qname: &LowerName) -> Option<Name> {
        let reverse =
            ["10.in-addr.arpa.", "d.f.ip6.arpa."].into_iter().filter_map(|name| Name::from_ascii(name).ok());
        let mut zones = std::iter::once(self.origin.clone()).chain(reverse);
        zones.find(|zone| LowerName::from(zone.clone()).zone_of(qname))
    }

    fn found(&self, qname: &LowerName, qtype: RecordType, origin: &Name) -> Found {
        if *qname == LowerName::from(origin.clone()) {
            return match qtype {
                RecordType::SOA => Found::Records(vec![soa(origin)]),
                _ => Found::NoData(vec![]),
            };
        }
        if let Some(records) = self.records.get(qname) {
            let fits =
                |record: &&Record| record.record_type() == qtype || record.record_type() == RecordType::CNAME;
            let found: Vec<Record> = records.iter().filter(fits).cloned().collect();
            return if found.is_empty() { Found::NoData(vec![]) } else { with_targets(found, qtype) };
        }
        if let Some(ip) = self.pod_address(qname) {
            // Section 2.4.3 of earlier versions, which clusters still serve: a pod by its address.
            return match (qtype, ip) {
                (RecordType::A, ip) => {
                    Found::Records(vec![Record::from_rdata(qname.into(), TTL, RData::A(A(ip)))])
                }
                _ => Found::NoData(vec![]),
            };
        }
        // A name above others exists although it has no records (RFC 8020 section 2).
        match self.is_above_another(qname) {
            true => Found::NoData(vec![]),
            false => Found::NxDomain,
        }
    }

    fn is_above_another(&self, qname: &LowerName) -> bool {
        let pods = self.name("pod").map(LowerName::from);
        let namespace_of_pods = SERVICES.iter().any(|service| {
            self.name(&format!("{}.pod", service.namespace)).map(LowerName::from).as_ref() == Some(qname)
        });
        pods.as_ref() == Some(qname)
            || namespace_of_pods
            || self.records.keys().any(|name| qname.zone_of(name))
    }

    /// The address in `A-B-C-D.NAMESPACE.pod.ZONE`.
    fn pod_address(&self, qname: &LowerName) -> Option<Ipv4Addr> {
        let text = qname.to_string();
        let relative = text.strip_suffix(&format!(".pod.{}", self.origin.to_lowercase()))?;
        let (address, namespace) = relative.split_once('.')?;
        SERVICES.iter().find(|service| service.namespace == namespace)?;
        address.replace('-', ".").parse().ok()
    }
}

/// Follows an external name to the internet, as a cluster DNS does: a stub resolver does not ask for the target.
fn with_targets(mut found: Vec<Record>, qtype: RecordType) -> Found {
    let target = match found.first().map(|record| &record.data) {
        Some(RData::CNAME(alias)) if qtype != RecordType::CNAME => LowerName::from(alias.0.clone()),
        _ => return Found::Records(found),
    };
    match internet::find(&target, qtype).found {
        Found::Records(records) => {
            found.extend(records);
            Found::Records(found)
        }
        Found::NoData(aliases) => {
            found.extend(aliases);
            Found::NoData(found)
        }
        _ => Found::Records(found),
    }
}

fn soa(origin: &Name) -> Record {
    let under = |label: &str| {
        Name::from_ascii(label).and_then(|name| name.append_domain(origin)).unwrap_or_else(|_| origin.clone())
    };
    let soa = SOA::new(under("ns.dns"), under("hostmaster"), 1, 7200, 1800, 86_400, TTL);
    Record::from_rdata(origin.clone(), TTL, RData::SOA(soa))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str, qtype: RecordType) -> Found {
        let zone = Zone::new(&Name::from_ascii("cluster.local.").unwrap());
        zone.find(&LowerName::from(Name::from_ascii(name).unwrap()), qtype).found
    }

    fn texts(found: Found) -> Vec<String> {
        let Found::Records(records) = found else { panic!("{found:?}") };
        records.iter().map(|record| record.data.to_string()).collect()
    }

    #[test]
    fn services_have_addresses_and_ports() {
        assert_eq!(texts(find("a.default.svc.cluster.local.", RecordType::A)), ["10.96.0.3"]);
        assert_eq!(texts(find("A.Default.svc.cluster.LOCAL.", RecordType::AAAA)), ["fd00:10:96::3"]);
        let srv = texts(find("_http._tcp.a.default.svc.cluster.local.", RecordType::SRV));
        assert_eq!(srv, ["0 100 80 a.default.svc.cluster.local."]);
        assert_eq!(texts(find("dns-version.cluster.local.", RecordType::TXT)), ["1.1.0"]);
        assert_eq!(texts(find("3.0.96.10.in-addr.arpa.", RecordType::PTR)), ["a.default.svc.cluster.local."]);
    }

    #[test]
    fn headless_services_have_their_ready_pods() {
        assert_eq!(texts(find("mysql.default.svc.cluster.local.", RecordType::A)).len(), 2);
        assert_eq!(texts(find("_mysql._tcp.mysql.default.svc.cluster.local.", RecordType::SRV)).len(), 2);
        assert_eq!(find("mysql-0.mysql.default.svc.cluster.local.", RecordType::A), Found::NxDomain);
        assert_eq!(texts(find("mysql-1.mysql.default.svc.cluster.local.", RecordType::A)).len(), 1);
        assert_eq!(texts(find("mysql-0.mysql.svc.cluster.local.", RecordType::A)).len(), 1);
    }

    #[test]
    fn names_between_exist_and_others_do_not() {
        for between in ["svc", "default.svc", "_tcp.a.default.svc", "pod", "shop.pod"] {
            assert_eq!(
                find(&format!("{between}.cluster.local."), RecordType::A),
                Found::NoData(vec![]),
                "{between}"
            );
        }
        assert_eq!(find("nx.default.svc.cluster.local.", RecordType::A), Found::NxDomain);
        assert_eq!(find("www.example.com.", RecordType::A), Found::Refused);
        assert_eq!(texts(find("172-17-0-3.default.pod.cluster.local.", RecordType::A)), ["172.17.0.3"]);
        let external = texts(find("search.shop.svc.cluster.local.", RecordType::A));
        assert!(external.len() == 2 && external[0] == "www.example.com.", "{external:?}");
    }
}
