//! The DNS message format: reading, checking and patching bytes, with no socket, clock or allocation policy.
//!
//! In the order a query meets them: [`header`] (twelve octets decide most refusals), [`name`] and
//! [`question`] (what is asked), [`edns`] (what the client can take), [`record`] and [`answer`] (what an
//! upstream said), [`reply`] (what goes back).

pub mod answer;
pub mod edns;
pub mod header;
pub mod iana;
pub mod name;
pub mod question;
pub mod record;
pub mod reply;

/// The two octets at `at` as a big-endian number, if the message has them.
#[inline]
pub fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    let octets = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(octets.try_into().ok()?))
}

/// The four octets at `at` as a big-endian number, if the message has them.
#[inline]
pub fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    let octets = message.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(octets.try_into().ok()?))
}

/// Overwrites the octets at `at`; false, and nothing written, where they do not fit.
#[inline]
pub fn put(message: &mut [u8], at: usize, octets: &[u8]) -> bool {
    let Some(place) = at.checked_add(octets.len()).and_then(|end| message.get_mut(at..end)) else {
        return false;
    };
    place.copy_from_slice(octets);
    true
}
