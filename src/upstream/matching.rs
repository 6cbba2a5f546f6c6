//! Whether a message is the reply to a question that was sent: ID, question and letter case (RFC 5452 section 9.1).

use crate::wire::header::{Flags, HEADER_LEN, Header};
use crate::wire::question::Question;

/// How a message relates to the question that waits under its ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The same question, letter by letter.
    Exact,
    /// The same question but for the case of letters.
    CaseDiffers,
    /// Something else; the wait goes on.
    No,
}

/// Compares a message with the question as it was sent. The socket has checked address and port, the caller the ID.
pub fn compare(message: &[u8], sent: &[u8]) -> Match {
    let Some(header) = Header::read(message) else { return Match::No };
    if !header.flags.has(Flags::QR) || header.flags.opcode() != 0 || header.questions != 1 {
        return Match::No;
    }
    let Some(question) = Question::read(message) else { return Match::No };
    let (name_len, said) = (question.qname().len(), question.octets);
    if said == sent {
        return Match::Exact;
    }
    let same_tail = said.get(name_len..) == sent.get(name_len..);
    let same_name = sent.get(..name_len).is_some_and(|name| name.eq_ignore_ascii_case(question.qname()));
    if same_tail && same_name && said.len() == sent.len() { Match::CaseDiffers } else { Match::No }
}

/// Gives each letter of a QNAME a case from `random` (draft-vixie-dnsext-dns0x20): bits a forger has to guess.
pub fn mix_case(question: &mut [u8], mut random: impl FnMut() -> u64) {
    let name_len = question.len().saturating_sub(4);
    let mut bits = 0;
    for (index, octet) in question.iter_mut().take(name_len).enumerate() {
        if index % 64 == 0 {
            bits = random();
        }
        if octet.is_ascii_alphabetic() && bits & 1 == 1 {
            *octet ^= 0x20;
        }
        bits >>= 1;
    }
}

/// The ID of a message, if it has a header.
pub fn id(message: &[u8]) -> Option<u16> {
    message.get(..HEADER_LEN).and_then(|header| crate::wire::u16_at(header, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &[u8] = b"\x03wWw\x02eX\x00\x00\x01\x00\x01";

    fn reply(flags: u16, questions: u16, question: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 7];
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&questions.to_be_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(question);
        out
    }

    #[test]
    fn one_wrong_field_is_enough() {
        assert_eq!(compare(&reply(0x8180, 1, SENT), SENT), Match::Exact);
        assert_eq!(
            compare(&reply(0x8180, 1, b"\x03www\x02ex\x00\x00\x01\x00\x01"), SENT),
            Match::CaseDiffers
        );
        for wrong in [
            reply(0x0180, 1, SENT),
            reply(0x8980, 1, SENT),
            reply(0x8180, 0, SENT),
            reply(0x8180, 2, SENT),
            reply(0x8180, 1, b"\x03wWx\x02eX\x00\x00\x01\x00\x01"),
            reply(0x8180, 1, b"\x03wWw\x02eX\x00\x00\x1c\x00\x01"),
            reply(0x8180, 1, b"\x03wWw\x02eX\x00\x00\x01\x00\x03"),
            reply(0x8180, 1, b"\x03wWw\x00\x00\x01\x00\x01"),
            reply(0x8180, 1, b"\x03wWw"),
        ] {
            assert_eq!(compare(&wrong, SENT), Match::No);
        }
    }

    #[test]
    fn mixing_touches_letters_of_the_name_only() {
        let mut question = b"\x03www\x41_-9\x00\x00\x41\x00\x41".to_vec();
        question[4] = 3;
        let before = question.clone();
        mix_case(&mut question, || u64::MAX);
        assert_eq!(&question[1..4], b"WWW");
        assert_eq!(&question[4..], &before[4..]);
    }
}
