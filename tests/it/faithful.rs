//! What upstream said reaches the client: record by record, code, flags, extended errors; and what was not asked does not.

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::RecordType;

use crate::harness::{Nodens, Upstream, query, tcp, udp, with_edns};
use crate::machine::unless_it_stands_still;

/// The message without what may differ: ID, case, TTLs, OPT.
fn sections(message: &Message) -> [Vec<(String, RecordType, String)>; 3] {
    [&message.answers, &message.authorities, &message.additionals].map(|section| {
        section
            .iter()
            .map(|r| (r.name.to_lowercase().to_ascii(), r.record_type(), r.data.to_string()))
            .collect()
    })
}

fn both(nodens: &Nodens, upstream: &Upstream, packet: &[u8]) -> (Message, Message) {
    (
        Message::from_vec(&udp(nodens.addr, packet)).unwrap(),
        Message::from_vec(&udp(upstream.addr, packet)).unwrap(),
    )
}

const SOA: &[u8] = b"\x07example\x03com\x00\x00\x06\x00\x01\x00\x00\x03\x84\x00\x1a\x01m\x00\x01h\x00\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x1e";

#[test]
fn types_nobody_knows_pass_as_they_are() {
    let upstream = Upstream::simple(|asked| {
        asked.raw(0, [1, 0, 0], b"\xc0\x0c\xff\x00\x00\x01\x00\x00\x00\x3c\x00\x06\x00\xc0\x0c\xff\x01\x02")
    });
    let nodens = Nodens::before(upstream.addr, &[]);
    let packet = query("type.example.com", RecordType::Unknown(65_280));
    for _ in 0..3 {
        let reply = udp(nodens.addr, &packet);
        let end = reply.len() - 11;
        assert_eq!(reply[end - 6..end], *b"\x00\xc0\x0c\xff\x01\x02", "RFC 3597 section 3");
    }
}

#[test]
fn denials_keep_their_soa_and_live_as_it_says() {
    let upstream = Upstream::simple(|asked| asked.raw(3, [0, 1, 0], SOA));
    let nodens = Nodens::before(upstream.addr, &[]);
    let (ours, theirs) = both(&nodens, &upstream, &query("nx.example.com", RecordType::A));
    assert_eq!(ours.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(sections(&ours), sections(&theirs));
    assert_eq!(ours.authorities[0].ttl, 30, "min(TTL 900, MINIMUM 30), RFC 2308 section 5");
}

#[test]
fn an_soa_beside_the_name_does_not_count() {
    let upstream = Upstream::simple(|asked| asked.raw(3, [0, 1, 0], SOA));
    let nodens = Nodens::before(upstream.addr, &[]);
    nodens.ask("nx.example.org", RecordType::A);
    std::thread::sleep(std::time::Duration::from_millis(1200));
    nodens.ask("nx.example.org", RecordType::A);
    nodens.ask("nx.example.com", RecordType::A);
    nodens.ask("nx.example.com", RecordType::A);
    assert_eq!(upstream.count(), 3, "one second for the first, thirty for the other");
}

#[test]
fn rcodes_and_extended_errors_pass_to_whoever_speaks_edns() {
    for (code, rcode) in [(2, ResponseCode::ServFail), (5, ResponseCode::Refused), (9, ResponseCode::NotAuth)]
    {
        let ede = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x0a\x00\x0f\x00\x06\x00\x17why\xff";
        let upstream = Upstream::simple(move |asked| asked.raw(code, [0, 0, 1], ede));
        let nodens = Nodens::before(upstream.addr, &[]);
        let reply = udp(nodens.addr, &query("x.example.com", RecordType::A));
        assert_eq!(reply[reply.len() - 10..], ede[11..], "code 23 with its text");
        assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, rcode);
        let plain =
            Message::from_vec(&udp(nodens.addr, &with_edns("x.example.com", RecordType::A, None, false)))
                .unwrap();
        assert_eq!((plain.metadata.response_code, plain.edns.is_none()), (rcode, true));
    }
}

#[test]
fn ad_goes_only_to_who_asked_and_cd_and_rd_come_back() {
    let upstream = Upstream::simple(|asked| {
        let mut reply = asked.address(300, 1);
        reply[3] |= 0x20;
        reply
    });
    let nodens = Nodens::before(upstream.addr, &[]);
    let flags = |set: u8, dnssec_ok: bool| {
        let mut packet = with_edns("ad.example.com", RecordType::A, Some(1232), dnssec_ok);
        packet[3] |= set;
        udp(nodens.addr, &packet)[3]
    };
    assert_eq!(flags(0, false), 0x80);
    assert_eq!(flags(0x20, false), 0xa0, "AD asks for AD (RFC 6840 section 5.7)");
    assert_eq!(flags(0, true), 0xa0, "DO does too (RFC 6840 section 5.8)");
    assert_eq!(flags(0x10, false), 0x90, "CD comes back");
    assert_eq!(upstream.count(), 3, "plain, DO and CD are answers of their own");
    let asked = upstream.asked();
    assert!(asked.iter().all(|one| one.packet[3] & 0x20 != 0), "our questions set AD");
    assert!(asked.iter().all(|one| one.message().edns.is_some_and(|edns| edns.max_payload() == 1232)));
    assert_eq!(asked.iter().filter(|one| one.packet[3] & 0x10 != 0).count(), 1);
}

#[test]
fn signatures_come_with_do() {
    let rrsig = b"\xc0\x0c\x00\x2e\x00\x01\x00\x00\x00\x3c\x00\x17\x00\x01\x08\x02\0\0\0\x3c\x70\0\0\0\x60\0\0\0\x12\x34\x01x\x00\xaa\xbb";
    let upstream = Upstream::simple(|asked| {
        let with_do = asked.message().edns.is_some_and(|edns| edns.flags().dnssec_ok);
        let a = asked.address(60, 1);
        match with_do {
            true => asked.raw(0, [2, 0, 0], &[&a[12 + asked.question().len()..], rrsig].concat()),
            false => a,
        }
    });
    let nodens = Nodens::before(upstream.addr, &[]);
    let ask = |dnssec_ok| {
        Message::from_vec(&udp(
            nodens.addr,
            &with_edns("s.example.com", RecordType::A, Some(1232), dnssec_ok),
        ))
        .unwrap()
    };
    assert_eq!(ask(true).answers.len(), 2);
    assert!(ask(true).edns.unwrap().flags().dnssec_ok, "DO comes back (RFC 3225 section 3)");
    assert_eq!(ask(false).answers.len(), 1);
}

#[test]
fn what_was_not_asked_is_cut_and_what_stays_is_whole() {
    let upstream = Upstream::simple(|asked| {
        if asked.name() == "evil." {
            return asked.address(60, 9);
        }
        let evil = b"\x04evil\x00\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x06\x06\x06\x06";
        let alias = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x06\x03end\xc0\x10";
        // The alias's name stands behind the record that goes; a pointer leads to it.
        let end = 12 + asked.question().len() + evil.len() + 12;
        let pointer = (0xc000 | end as u16).to_be_bytes();
        let address = [&pointer[..], b"\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x07"].concat();
        let mx = [b"\xc0\x10\x00\x02\x00\x01\x00\x00\x00\x3c\x00\x02", &pointer[..]].concat();
        asked.raw(0, [3, 1, 0], &[&evil[..], alias, &address, &mx].concat())
    });
    let nodens = Nodens::before(upstream.addr, &[]);
    let (ours, theirs) = both(&nodens, &upstream, &query("www.example.com", RecordType::A));
    let [answers, authorities, _] = sections(&ours);
    let [their_answers, their_authorities, _] = sections(&theirs);
    assert_eq!(answers, their_answers[1..]);
    assert_eq!(authorities, their_authorities);
    assert_eq!(nodens.ask("evil", RecordType::A).answers[0].data.to_string(), "192.0.2.9", "asked by itself");
    assert_eq!(
        upstream.asked().iter().filter(|one| one.name() == "evil.").count(),
        1,
        "it was not in the cache"
    );
}

#[test]
fn letter_case_is_the_clients() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let nodens = Nodens::before(upstream.addr, &[]);
    for spelled in ["wWw.eXaMple.COM", "www.example.com", "WWW.EXAMPLE.COM"] {
        let packet = query(spelled, RecordType::A);
        let reply = udp(nodens.addr, &packet);
        assert_eq!(reply[12..33], packet[12..33]);
        assert_eq!(Message::from_vec(&reply).unwrap().answers[0].name.to_ascii(), format!("{spelled}."));
    }
    assert_eq!(upstream.count(), 1);
}

#[test]
fn large_answers_are_cut_over_udp_and_whole_over_tcp() {
    let upstream = Upstream::simple(|asked| {
        if !asked.tcp {
            return asked.raw(0x0200, [0; 3], &[]);
        }
        let records: Vec<u8> = (0..200u8)
            .flat_map(|n| {
                [b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\x0a\x00\x00", &[n][..]].concat()
            })
            .collect();
        asked.raw(0, [200, 0, 0], &records)
    });
    let nodens = Nodens::before(upstream.addr, &[]);
    for (size, most) in [(None, 512), (Some(512), 512), (Some(1232), 1232), (Some(4096), 1232)] {
        let reply = udp(nodens.addr, &with_edns("big.example.com", RecordType::A, size, false));
        let message = Message::from_vec(&reply).unwrap();
        assert!(
            message.metadata.truncation && reply.len() <= most && reply.len() > most - 28,
            "{size:?}: {}",
            reply.len()
        );
    }
    let whole =
        Message::from_vec(&tcp(nodens.addr, &query("big.example.com", RecordType::A)).unwrap()).unwrap();
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
    assert_eq!(upstream.count(), 2, "TC once, TCP once");
}

#[test]
fn without_rd_only_the_cache_answers() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let nodens = Nodens::before(upstream.addr, &[]);
    let mut packet = query("rd.example.com", RecordType::A);
    packet[2] &= !1;
    assert_eq!(udp(nodens.addr, &packet)[3] & 0x0f, 5);
    nodens.ask("rd.example.com", RecordType::A);
    let cached = udp(nodens.addr, &packet);
    assert_eq!((cached[3] & 0x0f, cached[2] & 1, upstream.count()), (0, 0, 1));
}

#[test]
fn ttls_count_down_and_nonsense_is_zero() {
    unless_it_stands_still(ttls);
}

fn ttls() {
    let upstream = Upstream::simple(|asked| {
        asked.address(if asked.name().starts_with("neg") { 0x8000_0001 } else { 2 }, 1)
    });
    let nodens = Nodens::before(upstream.addr, &[]);
    let ttl = |name: &str| nodens.ask(name, RecordType::A).answers[0].ttl;
    assert_eq!(ttl("a.example.com"), 2);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(ttl("a.example.com"), 1);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(ttl("a.example.com"), 2, "asked again");
    assert_eq!((ttl("neg.example.com"), ttl("neg.example.com")), (0, 0), "RFC 2181 section 8");
    assert_eq!(upstream.count(), 4);
}

#[test]
fn the_longest_zone_is_asked() {
    let (cluster, internet) =
        (Upstream::simple(|asked| asked.address(60, 1)), Upstream::simple(|asked| asked.address(60, 2)));
    let forward = format!("cluster.local=udp://{}", cluster.addr);
    let nodens = Nodens::before(internet.addr, &["--forward", &forward]);
    let last = |name: &str| nodens.ask(name, RecordType::A).answers[0].data.to_string();
    assert_eq!(last("a.default.svc.Cluster.local"), "192.0.2.1");
    assert_eq!(last("notcluster.local"), "192.0.2.2");
    assert_eq!((cluster.count(), internet.count()), (1, 1));
}
