//! EDNS(0): what a client says in its OPT record and what ours says back (RFC 6891, RFC 7873, RFC 8914).

use super::header::HEADER_LEN;
use super::iana::{InfoCode, Rcode, rtype};
use super::{u16_at, u32_at};

/// The UDP payload we offer and the most we send: fits any path without fragments (DNS Flag Day 2020).
pub const UDP_SIZE: u16 = 1232;
/// The UDP payload of a client without EDNS (RFC 1035 section 4.2.1), and the least a size may mean (RFC 6891 section 6.2.3).
pub const PLAIN_UDP_SIZE: u16 = 512;
/// Octets of an OPT record without options.
pub const OPT_LEN: usize = 11;
/// Octets of the COOKIE option we send: code, length, client cookie, server cookie (RFC 9018 section 4).
pub const COOKIE_OPTION_LEN: usize = 4 + 8 + 16;

const OPTION_COOKIE: u16 = 10;
const OPTION_EDE: u16 = 15;
const DO_BIT: u32 = 0x8000;

/// What a query's OPT record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientEdns {
    /// The largest UDP answer the client takes, at least 512.
    pub udp_size: u16,
    /// The version; anything but 0 is answered BADVERS.
    pub version: u8,
    /// DNSSEC records are wanted (RFC 3225).
    pub dnssec_ok: bool,
    /// The client cookie (RFC 7873 section 4.1).
    pub cookie: Option<[u8; 8]>,
}

/// An OPT record of the additional section and where it ends.
#[derive(Clone, Copy, Debug)]
pub struct OptAt {
    /// What it says.
    pub edns: ClientEdns,
    /// The octet behind it.
    pub end: usize,
}

/// Reads an OPT record whose root owner stands at `at`.
///
/// `None`: that is no OPT record at the root. `Some(None)`: it is, but its options overrun it or a cookie
/// has a length that no cookie has (RFC 7873 section 5.2.2).
#[inline]
pub fn read_opt(message: &[u8], at: usize) -> Option<Option<OptAt>> {
    if *message.get(at)? != 0 || u16_at(message, at + 1)? != rtype::OPT {
        return None;
    }
    Some(read_opt_body(message, at))
}

fn read_opt_body(message: &[u8], at: usize) -> Option<OptAt> {
    let flags = u32_at(message, at + 5)?;
    let end = at + OPT_LEN + usize::from(u16_at(message, at + 9)?);
    let mut cookie = None;
    for (code, data) in checked_options(message.get(at + OPT_LEN..end)?)? {
        if code == OPTION_COOKIE {
            let client = client_cookie(data)?;
            // RFC 7873 section 5.2: all but the first are ignored.
            cookie.get_or_insert(client);
        }
    }
    Some(OptAt {
        edns: ClientEdns {
            udp_size: u16_at(message, at + 3)?.max(PLAIN_UDP_SIZE),
            version: (flags >> 16) as u8,
            dnssec_ok: flags & DO_BIT != 0,
            cookie,
        },
        end,
    })
}

fn client_cookie(data: &[u8]) -> Option<[u8; 8]> {
    match data.len() {
        8 | 16..=40 => data.first_chunk::<8>().copied(),
        _ => None,
    }
}

/// The options of an OPT record's RDATA, if they fill it exactly.
fn checked_options(rdata: &[u8]) -> Option<impl Iterator<Item = (u16, &[u8])>> {
    let mut at = 0;
    while at < rdata.len() {
        at += 4 + usize::from(u16_at(rdata, at + 2)?);
    }
    (at == rdata.len()).then(|| options(rdata))
}

/// The options of an OPT record's RDATA, up to the first that overruns it.
pub fn options(rdata: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = rdata;
    std::iter::from_fn(move || {
        let code = u16_at(rest, 0)?;
        let end = 4 + usize::from(u16_at(rest, 2)?);
        let data = rest.get(4..end)?;
        rest = rest.get(end..)?;
        Some((code, data))
    })
}

/// The extended-error options among `rdata`, as they stand there, at most `limit` octets of them.
pub fn extended_errors(rdata: &[u8], limit: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (code, data) in options(rdata) {
        // The info code alone takes two octets (RFC 8914 section 2).
        if code == OPTION_EDE && data.len() >= 2 && out.len() + 4 + data.len() <= limit {
            out.extend_from_slice(&code.to_be_bytes());
            out.extend_from_slice(&(data.len() as u16).to_be_bytes());
            out.extend_from_slice(data);
        }
    }
    out
}

/// One extended-error option with its text (RFC 8914 section 2).
pub fn extended_error(code: InfoCode, text: &str) -> Vec<u8> {
    let text = text.as_bytes().get(..text.len().min(255)).unwrap_or_default();
    let mut out = Vec::with_capacity(6 + text.len());
    out.extend_from_slice(&OPTION_EDE.to_be_bytes());
    out.extend_from_slice(&(2 + text.len() as u16).to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(text);
    out
}

/// The COOKIE option of a reply: the client's cookie and ours.
pub fn cookie_option(client: [u8; 8], server: [u8; 16]) -> [u8; COOKIE_OPTION_LEN] {
    let mut out = [0; COOKIE_OPTION_LEN];
    let head = [0, OPTION_COOKIE as u8, 0, 24];
    for (place, octet) in out.iter_mut().zip(head.into_iter().chain(client).chain(server)) {
        *place = octet;
    }
    out
}

/// Writes an OPT record with the given options at `at`; the octet behind it, or nothing where it does not fit.
pub fn write_opt(
    out: &mut [u8],
    at: usize,
    rcode: Rcode,
    dnssec_ok: bool,
    options: [&[u8]; 2],
) -> Option<usize> {
    let length: usize = options.iter().map(|option| option.len()).sum();
    let mut fixed = [0u8; OPT_LEN];
    let flags = u32::from(rcode.high()) << 24 | if dnssec_ok { DO_BIT } else { 0 };
    super::put(&mut fixed, 1, &rtype::OPT.to_be_bytes());
    super::put(&mut fixed, 3, &UDP_SIZE.to_be_bytes());
    super::put(&mut fixed, 5, &flags.to_be_bytes());
    super::put(&mut fixed, 9, &u16::try_from(length).ok()?.to_be_bytes());
    let mut end = at;
    for piece in [&fixed[..], options[0], options[1]] {
        if !super::put(out, end, piece) {
            return None;
        }
        end += piece.len();
    }
    Some(end)
}

/// The query we send upstream: RD and AD set, our own OPT and nothing of the client's (no ECS, no cookie).
pub fn upstream_query(
    id: u16,
    question: &[u8],
    dnssec_ok: bool,
    checking_disabled: bool,
    edns: bool,
) -> Vec<u8> {
    use super::header::{Flags, Header};
    let cd = if checking_disabled { Flags::CD } else { 0 };
    let header = Header {
        id,
        flags: Flags(Flags::RD | Flags::AD | cd),
        questions: 1,
        answers: 0,
        authorities: 0,
        additionals: u16::from(edns),
    };
    let mut out = vec![0; HEADER_LEN + question.len() + if edns { OPT_LEN } else { 0 }];
    super::put(&mut out, 0, &header.octets());
    super::put(&mut out, HEADER_LEN, question);
    if edns {
        write_opt(&mut out, HEADER_LEN + question.len(), Rcode::NOERROR, dnssec_ok, [&[], &[]]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opt(rdata: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, rdata.len() as u8];
        out.extend_from_slice(rdata);
        out
    }

    #[test]
    fn a_cookie_has_8_or_16_to_40_octets() {
        for (length, good) in
            [(7u8, false), (8, true), (9, false), (15, false), (16, true), (40, true), (41, false)]
        {
            let mut rdata = vec![0, 10, 0, length];
            rdata.resize(4 + usize::from(length), 7);
            let read = read_opt(&opt(&rdata), 0).unwrap();
            assert_eq!(read.is_some(), good, "{length}");
        }
    }

    #[test]
    fn options_must_fill_their_record() {
        assert!(read_opt(&opt(&[0, 3, 0, 0]), 0).unwrap().is_some());
        assert!(read_opt(&opt(&[0, 3, 0, 1]), 0).unwrap().is_none());
        assert!(read_opt(&opt(&[0, 3, 0]), 0).unwrap().is_none());
    }

    #[test]
    fn sizes_under_512_mean_512() {
        let mut small = opt(&[]);
        small[3..5].copy_from_slice(&[0, 0]);
        assert_eq!(read_opt(&small, 0).unwrap().unwrap().edns.udp_size, 512);
    }

    #[test]
    fn only_extended_errors_are_taken_over_and_whole() {
        let ede = extended_error(InfoCode::NETWORK_ERROR, "gone");
        let rdata = [&[0, 3, 0, 1, 9][..], &ede, &ede].concat();
        assert_eq!(extended_errors(&rdata, 1024), [&ede[..], &ede].concat());
        assert_eq!(extended_errors(&rdata, ede.len()), ede);
    }
}
