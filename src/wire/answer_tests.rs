//! Answers against an independent codec: what stays, what goes, and that nothing changes on the way.

use hickory_server::proto::op::{Message, MessageType, OpCode, Query};
use hickory_server::proto::rr::rdata::{A, CNAME, MX, NS, SOA, SRV};
use hickory_server::proto::rr::{Name as HName, RData, Record as HRecord, RecordType};
use proptest::prelude::*;

use super::*;

fn hname(text: &str) -> HName {
    HName::from_ascii(text).unwrap()
}

fn a(owner: &str, ttl: u32, last: u8) -> HRecord {
    HRecord::from_rdata(hname(owner), ttl, RData::A(A::new(192, 0, 2, last)))
}

fn cname(owner: &str, ttl: u32, target: &str) -> HRecord {
    HRecord::from_rdata(hname(owner), ttl, RData::CNAME(CNAME(hname(target))))
}

fn soa(owner: &str, ttl: u32, minimum: u32) -> HRecord {
    let soa = SOA::new(hname("ns.example."), hname("admin.example."), 1, 2, 3, 4, minimum);
    HRecord::from_rdata(hname(owner), ttl, RData::SOA(soa))
}

fn message(qname: &str, qtype: RecordType, answers: &[HRecord], authorities: &[HRecord]) -> Message {
    let mut message = Message::new(7, MessageType::Response, OpCode::Query);
    message.add_query(Query::query(hname(qname), qtype));
    message.add_answers(answers.iter().cloned());
    message.add_authorities(authorities.iter().cloned());
    message
}

fn read(message: &Message) -> Answer {
    Answer::read(&message.to_vec().unwrap()).unwrap()
}

fn answers_of(answer: &Answer) -> Vec<HRecord> {
    Message::from_vec(&answer.wire).unwrap().answers
}

#[test]
fn an_answer_without_surplus_stays_as_it_is() {
    let original = message(
        "www.example.",
        RecordType::A,
        &[cname("www.example.", 60, "b.example."), a("b.example.", 30, 1)],
        &[],
    );
    let bytes = original.to_vec().unwrap();
    let answer = Answer::read(&bytes).unwrap();
    assert_eq!(answer.wire, bytes);
    assert_eq!((answer.kind, answer.answer_ttl, answer.ttl_offsets.len()), (Kind::Data, Some(30), 2));
}

#[test]
fn records_of_other_names_and_types_are_cut() {
    let original = message(
        "www.example.",
        RecordType::A,
        &[
            a("evil.example.", 60, 66),
            a("b.example.", 30, 1),
            cname("www.example.", 60, "b.example."),
            HRecord::from_rdata(hname("b.example."), 5, RData::MX(MX::new(1, hname("b.example.")))),
        ],
        &[HRecord::from_rdata(hname("example."), 9, RData::NS(NS(hname("ns.example."))))],
    );
    let answer = read(&original);
    assert_eq!(answers_of(&answer), [original.answers[1].clone(), original.answers[2].clone()]);
    assert_eq!(Message::from_vec(&answer.wire).unwrap().authorities, original.authorities);
    assert_eq!(answer.answer_ttl, Some(30), "what was cut says nothing about the lifetime");
}

#[test]
fn denials_count_only_an_soa_at_or_above_the_final_name() {
    let denied = |owner: &str| {
        let mut message = message(
            "a.b.example.",
            RecordType::A,
            &[cname("a.b.example.", 50, "x.y.test.")],
            &[soa(owner, 40, 20)],
        );
        message.metadata.response_code = hickory_server::proto::op::ResponseCode::NXDomain;
        read(&message)
    };
    assert_eq!((denied("y.test.").kind, denied("y.test.").negative_ttl), (Kind::NxDomain, Some(20)));
    assert_eq!(denied(".").negative_ttl, Some(20));
    assert_eq!(denied("example.").negative_ttl, None, "the chain has left that zone");
    assert_eq!(denied("z.test.").negative_ttl, None);
}

#[test]
fn chains_end() {
    let around = message(
        "a.example.",
        RecordType::A,
        &[cname("a.example.", 1, "b.example."), cname("b.example.", 1, "a.example.")],
        &[],
    );
    assert_eq!(Answer::read(&around.to_vec().unwrap()).unwrap_err(), Malformed::Chain);
    let chain = |length: usize| {
        let mut records: Vec<_> =
            (0..length).map(|n| cname(&format!("n{n}."), 1, &format!("n{}.", n + 1))).collect();
        records.push(a(&format!("n{length}."), 1, 1));
        Answer::read(&message("n0.", RecordType::A, &records, &[]).to_vec().unwrap())
    };
    assert_eq!(chain(MAX_CHAIN).unwrap().kind, Kind::Data);
    assert_eq!(chain(MAX_CHAIN + 1).unwrap_err(), Malformed::Chain);
}

#[test]
fn an_alias_is_data_for_whoever_asks_for_aliases() {
    let original = message("a.example.", RecordType::CNAME, &[cname("a.example.", 1, "b.example.")], &[]);
    assert_eq!(read(&original).kind, Kind::Data);
    let dangling = message("a.example.", RecordType::A, &[cname("a.example.", 1, "b.example.")], &[]);
    assert_eq!(read(&dangling).kind, Kind::NoData);
}

#[test]
fn an_opt_between_other_records_is_taken_out_without_a_trace() {
    let bytes = b"\x00\x07\x81\x80\x00\x01\x00\x00\x00\x00\x00\x02\x01a\x00\x00\x01\x00\x01\
        \x00\x00\x29\x04\xd0\x01\x00\x80\x00\x00\x07\x00\x0f\x00\x03\x00\x16x\
        \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x01\x02\x03\x04";
    let answer = Answer::read(bytes).unwrap();
    assert_eq!(answer.rcode, Rcode(16), "the high bits are the OPT record's");
    assert_eq!(answer.ede, b"\x00\x0f\x00\x03\x00\x16x");
    let message = Message::from_vec(&answer.wire).unwrap();
    assert!(message.edns.is_none());
    assert_eq!(
        message.additionals,
        [a("a.", 5, 0)].map(|mut record| {
            record.data = RData::A(A::new(1, 2, 3, 4));
            record
        })
    );
}

#[test]
fn the_random_case_we_asked_in_does_not_show() {
    let mut original = message("wWw.eXample.", RecordType::A, &[a("wWw.eXample.", 9, 1)], &[]);
    original.metadata.id = 1;
    let mut bytes = original.to_vec().unwrap();
    lower_question(&mut bytes);
    let mut answer = Answer::read(&bytes).unwrap();
    answer.settle_case();
    assert_eq!(answers_of(&answer)[0].name.to_string(), "www.example.");
    let uncompressed = b"\x00\x07\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x01A\x00\x00\x01\x00\x01\
        \x01A\x00\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x01\x02\x03\x04";
    let mut answer = Answer::read(uncompressed).unwrap();
    answer.settle_case();
    assert_eq!(&answer.wire[19..22], b"\x01a\x00");
}

#[test]
fn broken_records_are_told() {
    let original = message("www.example.", RecordType::A, &[cname("www.example.", 60, "b.example.")], &[])
        .to_vec()
        .unwrap();
    for cut in 13..original.len() {
        assert!(Answer::read(&original[..cut]).is_err(), "cut at {cut}");
    }
    let two_opts = b"\x00\x07\x81\x80\x00\x01\x00\x00\x00\x00\x00\x02\x01a\x00\x00\x01\x00\x01\
        \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
    assert_eq!(Answer::read(two_opts).unwrap_err(), Malformed::Opt);
}

prop_compose! {
    fn any_record()(owner in 0..5usize, kind in 0..5, target in 0..5usize, ttl in 0u32..1000) -> HRecord {
        const NAMES: [&str; 5] = ["www.example.", "b.example.", "c.b.example.", "example.", "other.test."];
        let (owner, target) = (hname(NAMES[owner]), hname(NAMES[target]));
        let data = match kind {
            0 => RData::A(A::new(192, 0, 2, target.len() as u8)),
            1 => RData::CNAME(CNAME(target)),
            2 => RData::MX(MX::new(10, target)),
            3 => RData::SRV(SRV::new(1, 2, 3, target)),
            _ => RData::NS(NS(target)),
        };
        HRecord::from_rdata(owner, ttl, data)
    }
}

proptest! {
    #[test]
    fn what_stays_is_what_was_sent(
        answers in prop::collection::vec(any_record(), 0..8),
        authorities in prop::collection::vec(any_record(), 0..4),
    ) {
        let original = message("www.example.", RecordType::A, &answers, &authorities);
        let bytes = original.to_vec().unwrap();
        // Only a chain that does not end keeps a readable message from being an answer.
        let Ok(answer) = Answer::read(&bytes) else { return Ok(()) };
        let read = Message::from_vec(&answer.wire).unwrap();
        prop_assert_eq!(&read.authorities, &original.authorities);
        let mut rest = original.answers.iter();
        prop_assert!(read.answers.iter().all(|kept| rest.any(|sent| sent == kept)), "a subset in the order sent");
        for (record, &at) in read.answers.iter().chain(&read.authorities).zip(&answer.ttl_offsets) {
            prop_assert_eq!(crate::wire::u32_at(&answer.wire, usize::from(at)), Some(record.ttl));
        }
        prop_assert_eq!(answer.ttl_offsets.len(), read.answers.len() + read.authorities.len());
    }

    #[test]
    fn no_octets_can_break_the_reader(mut bytes in prop::collection::vec(any::<u8>(), 12..200)) {
        bytes[4..12].copy_from_slice(&[0, 1, 0, 2, 0, 1, 0, 1]);
        if let Ok(answer) = Answer::read(&bytes) {
            prop_assert!(answer.ttl_offsets.iter().all(|&at| record_end(&answer.wire, usize::from(at)) <= answer.wire.len()));
        }
    }

    #[test]
    fn damage_is_never_passed_on_as_something_else(
        answers in prop::collection::vec(any_record(), 1..6),
        place in 19usize..200,
        octet in any::<u8>(),
    ) {
        let mut bytes = message("www.example.", RecordType::A, &answers, &[]).to_vec().unwrap();
        if let Some(hit) = bytes.get_mut(place) { *hit = octet; }
        if let Ok(answer) = Answer::read(&bytes) {
            prop_assert!(answer.wire.len() <= bytes.len() * 20);
        }
    }
}
