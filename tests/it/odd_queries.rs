//! Packets no stub resolver sends: each has its code, and none is met with silence that has a header.

use crate::harness::{Nodens, Upstream, tcp, udp, udp_within};
use std::time::Duration;

const ID: [u8; 2] = [0xab, 0xcd];
const QNAME: &[u8] = b"\x03wWw\x07example\x03com\x00";
const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";

fn packet(flags: u16, counts: [u16; 4], body: &[&[u8]]) -> Vec<u8> {
    let mut out = ID.to_vec();
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    out.extend(body.concat());
    out
}

fn question(qtype: u16, qclass: u16) -> Vec<u8> {
    [QNAME, &qtype.to_be_bytes(), &qclass.to_be_bytes()].concat()
}

fn ask(qtype: u16, qclass: u16) -> Vec<u8> {
    packet(0x0100, [1, 0, 0, 0], &[&question(qtype, qclass)])
}

fn opt(size: u16, version: u8, flags: u16, options: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 41];
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&[0, version]);
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&(options.len() as u16).to_be_bytes());
    out.extend_from_slice(options);
    out
}

fn edns(opt: &[u8]) -> Vec<u8> {
    packet(0x0100, [1, 0, 0, 1], &[&question(1, 1), opt])
}

struct Case {
    what: &'static str,
    packet: Vec<u8>,
    rcode: u8,
    /// The question comes back.
    question: bool,
}

fn case(what: &'static str, packet: Vec<u8>, rcode: u8, question: bool) -> Case {
    Case { what, packet, rcode, question }
}

const NOERROR: u8 = 0;
const FORMERR: u8 = 1;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

fn cases() -> Vec<Case> {
    let cookie = |length: usize| [&[0, 10, 0, length as u8][..], &vec![7; length]].concat();
    let mut all = vec![
        case("no question", packet(0x0100, [0; 4], &[]), FORMERR, false),
        case(
            "a cookie and no question (RFC 7873 section 5.4)",
            packet(0, [0, 0, 0, 1], &[&opt(1232, 0, 0, &cookie(8))]),
            NOERROR,
            false,
        ),
        case(
            "two questions (RFC 9619)",
            packet(0x0100, [2, 0, 0, 0], &[&question(1, 1), &question(28, 1)]),
            FORMERR,
            false,
        ),
        case("a question that is not there", packet(0x0100, [1, 0, 0, 0], &[]), FORMERR, false),
        case("class CH", ask(16, 3), REFUSED, true),
        case("class HS", ask(1, 4), REFUSED, true),
        case("class NONE", ask(1, 254), REFUSED, true),
        case("ANY (RFC 8482)", ask(255, 1), NOERROR, true),
        case("AXFR", ask(252, 1), REFUSED, true),
        case(
            "IXFR with its SOA",
            packet(
                0,
                [1, 0, 1, 0],
                &[&question(251, 1), b"\xc0\x0c\x00\x06\x00\x01\0\0\0\0\x00\x16\0\0", &[0; 20]],
            ),
            REFUSED,
            true,
        ),
        case("type OPT", ask(41, 1), FORMERR, true),
        case("type TSIG", ask(250, 1), FORMERR, true),
        case("EDNS version 1 (RFC 6891 section 6.1.3)", edns(&opt(1232, 1, 0, &[])), 0, true),
        case("two OPT records", packet(0x0100, [1, 0, 0, 2], &[&question(1, 1), OPT, OPT]), FORMERR, false),
        case("OPT as an answer", packet(0x0100, [1, 1, 0, 0], &[&question(1, 1), OPT]), FORMERR, false),
        case(
            "OPT below the root",
            packet(0x0100, [1, 0, 0, 1], &[&question(1, 1), b"\x01a", OPT]),
            FORMERR,
            false,
        ),
        case("an option that overruns", edns(&opt(1232, 0, 0, &[0, 3, 0, 9])), FORMERR, false),
        case("a cookie of 7 octets", edns(&opt(1232, 0, 0, &cookie(7))), FORMERR, false),
        case(
            "a pointer in the name",
            packet(0x0100, [1, 0, 0, 0], &[b"\x01a\xc0\x0c\x00\x01\x00\x01"]),
            FORMERR,
            false,
        ),
        case(
            "label type 0x40",
            packet(0x0100, [1, 0, 0, 0], &[b"\x41a\x00\x00\x01\x00\x01"]),
            FORMERR,
            false,
        ),
        case(
            "label type 0x80",
            packet(0x0100, [1, 0, 0, 0], &[b"\x81a\x00\x00\x01\x00\x01"]),
            FORMERR,
            false,
        ),
        case(
            "a name of 256 octets",
            packet(
                0x0100,
                [1, 0, 0, 0],
                &[&[&[63][..], &[b'a'; 63]].concat().repeat(4), b"\x00\x00\x01\x00\x01"],
            ),
            FORMERR,
            false,
        ),
        case("TC in a query", packet(0x0300, [1, 0, 0, 0], &[&question(1, 1)]), NOERROR, true),
        case("octets behind it", [ask(1, 1), vec![0xff; 9]].concat(), NOERROR, true),
        case("a UDP size of 0", edns(&opt(0, 0, 0, &[])), NOERROR, true),
        case("EDNS Z bits", edns(&opt(1232, 0, 0x7fff, &[])), NOERROR, true),
        case(
            "RD clear, not cached",
            packet(0, [1, 0, 0, 0], &[b"\x05fresh\x07example\x03com\x00\x00\x01\x00\x01"]),
            REFUSED,
            true,
        ),
        case("RD clear, cached", packet(0, [1, 0, 0, 0], &[&question(1, 1)]), NOERROR, true),
    ];
    for opcode in [1, 2, 3, 4, 5, 6, 15] {
        all.push(case(
            "an opcode",
            packet(opcode << 11 | 0x0130, [1, 0, 0, 0], &[&question(1, 1)]),
            NOTIMP,
            false,
        ));
    }
    all
}

fn check(case: &Case, reply: &[u8]) {
    let what = case.what;
    assert_eq!(reply[..2], ID, "{what}");
    assert_eq!(reply[2] & 0x80, 0x80, "{what}: a response");
    assert_eq!(reply[2] & 0x06, 0, "{what}: neither AA nor TC");
    assert_eq!(reply[3] & 0x0f, case.rcode, "{what}");
    assert_eq!(reply[3] & 0x40, 0, "{what}: Z");
    assert_eq!(reply[5], u8::from(case.question), "{what}: the question");
    let asked = &case.packet[12..];
    if case.question {
        let length = if asked.starts_with(QNAME) { QNAME.len() + 4 } else { 23 };
        assert_eq!(reply[12..12 + length], asked[..length], "{what}: as spelled");
    }
    if case.rcode == NOTIMP {
        assert_eq!(reply[2] & 0x07 | reply[3] & 0xf0, 0, "{what}: all flags clear");
        assert_eq!(reply[2] & 0x78, case.packet[2] & 0x78, "{what}: the opcode");
        assert_eq!(reply.len(), 12, "{what}");
    }
}

#[test]
fn each_odd_query_has_its_code_over_udp_and_tcp() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let nodens = Nodens::before(upstream.addr, &[]);
    udp(nodens.addr, &ask(1, 1));
    for case in cases() {
        check(&case, &udp(nodens.addr, &case.packet));
        check(&case, &tcp(nodens.addr, &case.packet).unwrap());
    }
}

#[test]
fn badvers_says_version_zero_and_nothing_else() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let nodens = Nodens::before(upstream.addr, &[]);
    let reply = udp(nodens.addr, &edns(&opt(1232, 1, 0, &[])));
    assert_eq!(reply[6..12], [0, 0, 0, 0, 0, 1]);
    let opt = &reply[12 + QNAME.len() + 4..];
    assert_eq!(opt, b"\x00\x00\x29\x04\xd0\x01\x00\x00\x00\x00\x00", "extended code 1, version 0");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn any_is_answered_with_what_is_known_else_with_hinfo() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let nodens = Nodens::before(upstream.addr, &[]);
    let unknown = udp(nodens.addr, &ask(255, 1));
    assert_eq!(unknown[12 + QNAME.len() + 4 + 2..][..2], [0, 13], "HINFO");
    udp(nodens.addr, &ask(1, 1));
    let known = udp(nodens.addr, &ask(255, 1));
    assert_eq!(known[12 + QNAME.len() + 4 + 2..][..2], [0, 1], "A");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn what_is_no_query_gets_no_word() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let nodens = Nodens::before(upstream.addr, &[]);
    let local = "127.0.0.1".parse().unwrap();
    for packet in [vec![], vec![0; 11], packet(0x8100, [1, 0, 0, 0], &[&question(1, 1)])] {
        assert_eq!(udp_within(local, nodens.addr, &packet, Duration::from_millis(300)), None);
    }
    udp(nodens.addr, &ask(1, 1));
}

#[test]
fn cookies_are_answered_with_ours_beside_theirs() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let nodens = Nodens::before(upstream.addr, &[]);
    let reply = udp(nodens.addr, &edns(&opt(1232, 0, 0, b"\x00\x0a\x00\x08CLIENT-C")));
    let option = &reply[reply.len() - 28..];
    assert_eq!(option[..12], *b"\x00\x0a\x00\x18CLIENT-C");
    assert_eq!(option[12..16], [1, 0, 0, 0], "RFC 9018 section 4.2");
}

/// A small generator of its own: the same mutations on every machine.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
fn no_mutation_is_met_with_silence_or_stops_the_server() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let nodens = Nodens::before(upstream.addr, &[]);
    let mut state = 7;
    for round in 0..400 {
        let mut packet = edns(&opt(1232, 0, 0x8000, b"\x00\x0a\x00\x08CLIENT-C"));
        for _ in 0..=next(&mut state) % 4 {
            let place = 2 + next(&mut state) % (packet.len() - 2);
            packet[place] = next(&mut state) as u8;
        }
        packet.truncate(packet.len().min(12 + next(&mut state) % 80));
        packet[2] &= 0x7f;
        let reply = udp(nodens.addr, &packet);
        assert!(reply.len() >= 12 && reply[..2] == packet[..2], "round {round}: {packet:02x?}");
    }
    assert_eq!(nodens.metric("nodens_panics_total", &[]), 0);
}

#[test]
fn a_datagram_longer_than_any_query_is_an_error() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let nodens = Nodens::before(upstream.addr, &[]);
    let reply = udp(nodens.addr, &[ask(1, 1), vec![0; 9000]].concat());
    assert_eq!((reply.len(), reply[3] & 0x0f), (12, FORMERR));
}
