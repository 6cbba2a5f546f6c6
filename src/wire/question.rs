//! The question section: exactly one QNAME, QTYPE and QCLASS (RFC 9619).

use super::header::HEADER_LEN;
use super::name::plain_end;
use super::u16_at;

/// A question as it stands in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'m> {
    /// QNAME, QTYPE and QCLASS as spelled.
    pub octets: &'m [u8],
    /// The type asked for.
    pub qtype: u16,
    /// The class asked for.
    pub qclass: u16,
}

impl<'m> Question<'m> {
    /// Reads the question behind the header; nothing where it is not a plain name and four octets.
    #[inline]
    pub fn read(message: &'m [u8]) -> Option<Question<'m>> {
        let name_end = plain_end(message, HEADER_LEN)?;
        Some(Question {
            octets: message.get(HEADER_LEN..name_end + 4)?,
            qtype: u16_at(message, name_end)?,
            qclass: u16_at(message, name_end + 2)?,
        })
    }

    /// A question from its octets, which end with type and class.
    pub fn of(octets: &'m [u8]) -> Option<Question<'m>> {
        let name_end = octets.len().checked_sub(4)?;
        Some(Question { octets, qtype: u16_at(octets, name_end)?, qclass: u16_at(octets, name_end + 2)? })
    }

    /// The QNAME as spelled, in wire form.
    #[inline]
    pub fn qname(&self) -> &'m [u8] {
        self.octets.get(..self.octets.len().saturating_sub(4)).unwrap_or(&[])
    }

    /// Where the record sections begin.
    #[inline]
    pub fn end(&self) -> usize {
        HEADER_LEN + self.octets.len()
    }
}
