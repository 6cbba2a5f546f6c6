//! The twelve octets every message begins with (RFC 1035 section 4.1.1, bits AD and CD by RFC 4035).

use super::iana::Rcode;

/// Length of a message header in octets.
pub const HEADER_LEN: usize = 12;

/// The flag word of a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u16);

impl Flags {
    /// The message is a response.
    pub const QR: u16 = 0x8000;
    /// The responder is an authority for the name.
    pub const AA: u16 = 0x0400;
    /// The message was cut to fit the transport.
    pub const TC: u16 = 0x0200;
    /// The client wants recursion.
    pub const RD: u16 = 0x0100;
    /// The server offers recursion.
    pub const RA: u16 = 0x0080;
    /// The data were validated (RFC 6840 section 5.7).
    pub const AD: u16 = 0x0020;
    /// The client validates for itself (RFC 4035 section 3.2.2).
    pub const CD: u16 = 0x0010;

    /// True where every bit of `mask` is set.
    #[inline]
    pub fn has(self, mask: u16) -> bool {
        self.0 & mask == mask
    }

    /// The four-bit operation code.
    #[inline]
    pub fn opcode(self) -> u8 {
        ((self.0 >> 11) & 0x0f) as u8
    }

    /// The four bits of response code that the header holds.
    #[inline]
    pub fn rcode(self) -> Rcode {
        Rcode(self.0 & 0x0f)
    }
}

/// A header as read; counts say what the sender claims, not what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The message ID.
    pub id: u16,
    /// The flag word.
    pub flags: Flags,
    /// Entries in the question section.
    pub questions: u16,
    /// Records in the answer section.
    pub answers: u16,
    /// Records in the authority section.
    pub authorities: u16,
    /// Records in the additional section.
    pub additionals: u16,
}

impl Header {
    /// Reads the header, or nothing where the message is shorter than one.
    #[inline]
    pub fn read(message: &[u8]) -> Option<Header> {
        // One check of the length in place of six.
        let &[i0, i1, f0, f1, q0, q1, a0, a1, n0, n1, d0, d1] = message.first_chunk::<HEADER_LEN>()?;
        let word = |high, low| u16::from_be_bytes([high, low]);
        Some(Header {
            id: word(i0, i1),
            flags: Flags(word(f0, f1)),
            questions: word(q0, q1),
            answers: word(a0, a1),
            authorities: word(n0, n1),
            additionals: word(d0, d1),
        })
    }

    /// The octets of this header.
    pub fn octets(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let words = [self.id, self.flags.0, self.questions, self.answers, self.authorities, self.additionals];
        for (place, word) in out.chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_round_trip() {
        let octets = [0x12, 0x34, 0x81, 0x83, 0, 1, 0, 2, 0, 3, 0, 4];
        let header = Header::read(&octets).unwrap();
        assert_eq!(header.octets(), octets);
        assert!(header.flags.has(Flags::QR | Flags::RD | Flags::RA));
        assert_eq!(header.flags.rcode(), Rcode::NXDOMAIN);
    }

    #[test]
    fn eleven_octets_are_no_header() {
        assert_eq!(Header::read(&[0; 11]), None);
    }
}
