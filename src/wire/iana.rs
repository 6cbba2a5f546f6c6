//! Numbers of the IANA DNS registries that this program treats specially, and their names for people.

use std::fmt;

/// Class IN, the only class that is served (RFC 1035 section 3.2.4).
pub const CLASS_IN: u16 = 1;

/// RR types by name; a type that is not here is carried as it is (RFC 3597).
pub mod rtype {
    #![allow(missing_docs)]
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const MD: u16 = 3;
    pub const MF: u16 = 4;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const MB: u16 = 7;
    pub const MG: u16 = 8;
    pub const MR: u16 = 9;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const MINFO: u16 = 14;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const RP: u16 = 17;
    pub const AFSDB: u16 = 18;
    pub const RT: u16 = 21;
    pub const SIG: u16 = 24;
    pub const PX: u16 = 26;
    pub const AAAA: u16 = 28;
    pub const NXT: u16 = 30;
    pub const SRV: u16 = 33;
    pub const NAPTR: u16 = 35;
    pub const KX: u16 = 36;
    pub const DNAME: u16 = 39;
    pub const OPT: u16 = 41;
    pub const DS: u16 = 43;
    pub const RRSIG: u16 = 46;
    pub const NSEC: u16 = 47;
    pub const DNSKEY: u16 = 48;
    pub const SVCB: u16 = 64;
    pub const HTTPS: u16 = 65;
    pub const TSIG: u16 = 250;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const MAILA: u16 = 254;
    pub const ANY: u16 = 255;
}

/// A response code, with the eight upper bits that EDNS adds (RFC 6891 section 6.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rcode(pub u16);

impl Rcode {
    /// No error (RFC 1035 section 4.1.1).
    pub const NOERROR: Rcode = Rcode(0);
    /// The server could not read the query.
    pub const FORMERR: Rcode = Rcode(1);
    /// The server failed; resolution failures carry it too (RFC 9520).
    pub const SERVFAIL: Rcode = Rcode(2);
    /// The name does not exist.
    pub const NXDOMAIN: Rcode = Rcode(3);
    /// This kind of query is not served.
    pub const NOTIMP: Rcode = Rcode(4);
    /// Policy forbids the answer.
    pub const REFUSED: Rcode = Rcode(5);
    /// The query's EDNS version is not known (RFC 6891 section 6.1.3).
    pub const BADVERS: Rcode = Rcode(16);

    /// The four bits that fit the header.
    pub fn low(self) -> u8 {
        (self.0 & 0x0f) as u8
    }

    /// The eight bits that only an OPT record can carry.
    pub fn high(self) -> u8 {
        (self.0 >> 4) as u8
    }
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 12] = [
            "NOERROR",
            "FORMERR",
            "SERVFAIL",
            "NXDOMAIN",
            "NOTIMP",
            "REFUSED",
            "YXDOMAIN",
            "YXRRSET",
            "NXRRSET",
            "NOTAUTH",
            "NOTZONE",
            "DSOTYPENI",
        ];
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None if *self == Rcode::BADVERS => f.write_str("BADVERS"),
            None => write!(f, "RCODE{}", self.0),
        }
    }
}

/// An extended DNS error's info code (RFC 8914 section 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InfoCode(pub u16);

impl InfoCode {
    /// None of the registered reasons; the text says which.
    pub const OTHER: InfoCode = InfoCode(0);
    /// The answer has outlived its TTL (RFC 8914 section 4.4).
    pub const STALE_ANSWER: InfoCode = InfoCode(3);
    /// So has a denial (RFC 8914 section 4.20).
    pub const STALE_NXDOMAIN_ANSWER: InfoCode = InfoCode(19);
    /// The failure comes from the cache (RFC 9520 section 3.2 and RFC 8914 section 4.14).
    pub const CACHED_ERROR: InfoCode = InfoCode(13);
    /// No server that could know answered.
    pub const NO_REACHABLE_AUTHORITY: InfoCode = InfoCode(22);
    /// The network refused the exchange.
    pub const NETWORK_ERROR: InfoCode = InfoCode(23);
}
