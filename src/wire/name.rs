//! Domain names as octets: reading with and without compression, comparing, and showing to people.
//!
//! A name is a run of length-prefixed labels that ends in the root's empty one (RFC 1035 section 3.1).
//! Labels are arrays of octets: a dot, a space or a NUL inside one is data. Only ASCII letters compare
//! without case (RFC 4343).

use std::fmt;

/// Longest name in octets, length octets and root label included (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;
/// Longest label in octets (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A whole, uncompressed name in wire form.
#[derive(Clone, Copy)]
pub struct Name {
    len: u8,
    octets: [u8; MAX_NAME],
}

/// Where a name that was read in place ends; nothing where it is none.
///
/// Only plain labels are allowed: a compression pointer has nothing earlier to point at in a question,
/// and the label types 0b01 and 0b10 were never put to use (RFC 6891 section 5).
#[inline]
pub fn plain_end(message: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let len = usize::from(*message.get(at)?);
        if len > MAX_LABEL {
            return None;
        }
        at += 1 + len;
        if at - start > MAX_NAME {
            return None;
        }
        if len == 0 {
            return Some(at);
        }
    }
}

impl Name {
    /// The root, the empty name.
    pub const ROOT: Name = Name { len: 1, octets: [0; MAX_NAME] };

    /// Takes a name from the start of plain wire octets; nothing where they are no name.
    pub fn from_wire(wire: &[u8]) -> Option<Name> {
        let end = plain_end(wire, 0)?;
        let mut name = Name::ROOT;
        name.extend_from(wire.get(..end)?)?;
        Some(name)
    }

    /// Reads a name that may be compressed and tells where the next field begins.
    ///
    /// Every pointer must lead strictly backwards of the labels it ends, so that no loop exists
    /// (RFC 9267 section 3), and the whole must fit [`MAX_NAME`].
    pub fn read(message: &[u8], start: usize) -> Option<(Name, usize)> {
        let mut name = Name { len: 0, octets: [0; MAX_NAME] };
        let mut at = start;
        let mut run_start = start;
        let mut next = None;
        loop {
            let len = usize::from(*message.get(at)?);
            if len & 0xc0 == 0xc0 {
                let target = usize::from(super::u16_at(message, at)? & 0x3fff);
                if target >= run_start {
                    return None;
                }
                next.get_or_insert(at + 2);
                (at, run_start) = (target, target);
                continue;
            }
            if len > MAX_LABEL {
                return None;
            }
            name.push(message.get(at..at + 1 + len)?)?;
            at += 1 + len;
            if len == 0 {
                return Some((name, next.unwrap_or(at)));
            }
        }
    }

    /// Parses what a person wrote: labels with dots between, the last dot optional, `\` and `\DDD` escapes
    /// (RFC 1035 section 5.1).
    pub fn from_text(text: &str) -> Result<Name, &'static str> {
        if text == "." {
            return Ok(Name::ROOT);
        }
        let mut name = Name { len: 0, octets: [0; MAX_NAME] };
        let mut label = Vec::new();
        let mut octets = text.bytes();
        let mut ended = false;
        while let Some(octet) = octets.next() {
            match octet {
                b'.' => {
                    name.push_label(&label)?;
                    label.clear();
                    ended = true;
                    continue;
                }
                b'\\' => label.push(escaped(&mut octets)?),
                _ => label.push(octet),
            }
            ended = false;
        }
        if !ended {
            name.push_label(&label)?;
        }
        name.push(&[0]).ok_or("a name has at most 255 octets")?;
        Ok(name)
    }

    fn push_label(&mut self, label: &[u8]) -> Result<(), &'static str> {
        if label.is_empty() {
            return Err("a label is empty");
        }
        if label.len() > MAX_LABEL {
            return Err("a label has at most 63 octets");
        }
        self.push(&[label.len() as u8]).and_then(|()| self.push(label)).ok_or("a name has at most 255 octets")
    }

    fn push(&mut self, octets: &[u8]) -> Option<()> {
        let start = usize::from(self.len);
        self.octets.get_mut(start..start + octets.len())?.copy_from_slice(octets);
        self.len = u8::try_from(start + octets.len()).ok()?;
        Some(())
    }

    fn extend_from(&mut self, wire: &[u8]) -> Option<()> {
        self.len = 0;
        self.push(wire)
    }

    /// The name in wire form.
    #[inline]
    pub fn as_wire(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or(&[0])
    }

    /// The same name with its ASCII letters lowered, the form that keys are made of.
    pub fn to_lower(mut self) -> Name {
        make_lower(&mut self.octets);
        self
    }
}

/// Lowers the ASCII letters of octets, eight at a time.
///
/// Names are lowered whole: a length octet is at most 63 and so none of the letters, which begin at 65.
#[inline]
pub fn make_lower(octets: &mut [u8]) {
    let (words, rest) = octets.as_chunks_mut::<8>();
    for word in words {
        *word = lower_word(u64::from_ne_bytes(*word)).to_ne_bytes();
    }
    rest.make_ascii_lowercase();
}

/// True where octets are `lower` in any case, eight at a time; `lower` is in lower case.
#[inline]
pub fn is_any_case_of(octets: &[u8], lower: &[u8]) -> bool {
    let ((words, rest), (lower_words, lower_rest)) = (octets.as_chunks::<8>(), lower.as_chunks::<8>());
    let same = |(word, lower): (&[u8; 8], &[u8; 8])| {
        lower_word(u64::from_ne_bytes(*word)) == u64::from_ne_bytes(*lower)
    };
    octets.len() == lower.len()
        && words.iter().zip(lower_words).all(same)
        && rest.eq_ignore_ascii_case(lower_rest)
}

/// Eight octets with their ASCII letters lowered.
#[inline]
fn lower_word(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = 0x80 * EACH;
    // The top bit of each octet of a sum says that its seven low bits reach 'A', or pass 'Z'; no sum carries into the next.
    let low_bits = word & !TOP;
    let from_a = low_bits + (0x80 - b'A' as u64) * EACH;
    let past_z = low_bits + (0x7f - b'Z' as u64) * EACH;
    let upper = (from_a ^ past_z) & !word & TOP;
    word | upper >> 2
}

/// The octet behind a backslash: three digits are its value, anything else is itself.
fn escaped(octets: &mut std::str::Bytes<'_>) -> Result<u8, &'static str> {
    const BAD: &str = "a backslash wants a character or three digits up to 255";
    let first = octets.next().ok_or(BAD)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut value = u32::from(first - b'0');
    for _ in 0..2 {
        let digit = octets.next().filter(u8::is_ascii_digit).ok_or(BAD)?;
        value = value * 10 + u32::from(digit - b'0');
    }
    u8::try_from(value).map_err(|_| BAD)
}

impl PartialEq for Name {
    /// Equality of names: octet by octet but for the case of ASCII letters (RFC 4343 section 3).
    fn eq(&self, other: &Name) -> bool {
        self.as_wire().eq_ignore_ascii_case(other.as_wire())
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Name {
    /// Presentation form with its final dot; octets a terminal or a metric could trip over are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut any = false;
        for label in labels(self.as_wire()) {
            any = true;
            for &octet in label {
                match octet {
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => {
                        write!(f, "\\{}", char::from(octet))?
                    }
                    0x21..=0x7e => write!(f, "{}", char::from(octet))?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
            f.write_str(".")?;
        }
        if any { Ok(()) } else { f.write_str(".") }
    }
}

/// The labels of a name in wire form, root label left out.
pub fn labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let (&len, tail) = rest.split_first()?;
        let label = tail.get(..usize::from(len)).filter(|label| !label.is_empty())?;
        rest = tail.get(usize::from(len)..)?;
        Some(label)
    })
}

/// The name itself, then each of its ancestors down to the root, all in wire form.
pub fn ancestors(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(wire);
    std::iter::from_fn(move || {
        let current = rest?;
        let len = usize::from(*current.first()?);
        rest = if len == 0 { None } else { current.get(1 + len..) };
        Some(current)
    })
}

/// True where `name` is `ancestor` or lies below it, both in wire form.
pub fn is_at_or_under(name: &[u8], ancestor: &[u8]) -> bool {
    ancestors(name).any(|suffix| suffix.eq_ignore_ascii_case(ancestor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    #[test]
    fn text_and_wire_agree() {
        assert_eq!(name("www.example.com").as_wire(), b"\x03www\x07example\x03com\x00");
        assert_eq!(name("example.com.").to_string(), "example.com.");
        assert_eq!(name(".").to_string(), ".");
        assert_eq!(name(r"a\.b.c\032d.").to_string(), r"a\.b.c\032d.");
    }

    #[test]
    fn bad_text_says_why() {
        assert!(Name::from_text("a..b").is_err());
        assert!(Name::from_text("").is_err());
        assert!(Name::from_text(&"a".repeat(64)).is_err());
        assert!(Name::from_text(&"abcdefg.".repeat(32)).is_err());
        assert!(Name::from_text(r"a\999").is_err());
    }

    #[test]
    fn the_longest_name_has_255_octets() {
        let text = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        let longest = name(&text);
        assert_eq!(longest.as_wire().len(), MAX_NAME);
        assert!(Name::from_text(&format!("{text}b")).is_err());
        assert_eq!(Name::read(longest.as_wire(), 0).unwrap().1, MAX_NAME);
    }

    #[test]
    fn pointers_lead_strictly_backwards() {
        let message = b"\x03com\x00\x03www\xc0\x00";
        let (read, next) = Name::read(message, 5).unwrap();
        assert_eq!((read.to_string().as_str(), next), ("www.com.", 11));
        assert!(Name::read(b"\xc0\x00", 0).is_none(), "to itself");
        assert!(Name::read(b"\x01a\xc0\x00", 0).is_none(), "into its own labels");
        assert!(Name::read(b"\xc0\x02\x00", 0).is_none(), "forward");
        assert!(Name::read(b"\x00\xc0\x03\xc0\x01", 3).is_none(), "a chain that comes back");
        assert!(Name::read(b"\x40a\x00", 0).is_none(), "label type 0b01");
    }

    #[test]
    fn ancestry_ignores_case_and_respects_labels() {
        let host = name("a.B.example.COM");
        assert!(is_at_or_under(host.as_wire(), name("example.com").as_wire()));
        assert!(is_at_or_under(host.as_wire(), b"\0"));
        assert!(!is_at_or_under(host.as_wire(), name("ample.com").as_wire()));
        assert_eq!(ancestors(host.as_wire()).count(), 5);
        assert_eq!(labels(host.as_wire()).count(), 4);
    }

    proptest! {
        #[test]
        fn letters_are_lowered_as_the_standard_library_does(octets in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut lowered = octets.clone();
            make_lower(&mut lowered);
            prop_assert_eq!(&lowered, &octets.to_ascii_lowercase());
            prop_assert!(is_any_case_of(&octets, &lowered));
            let another = [&lowered[..], b"a"].concat();
            prop_assert!(!is_any_case_of(&octets, &another));
            for at in 0..lowered.len() {
                lowered[at] ^= 0x80;
                prop_assert!(!is_any_case_of(&octets, &lowered));
                lowered[at] ^= 0x80;
            }
        }

        #[test]
        fn shown_names_read_back(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..9)) {
            let mut wire: Vec<u8> = labels.iter().flat_map(|l| [&[l.len() as u8][..], l].concat()).collect();
            wire.push(0);
            let read = Name::from_wire(&wire).unwrap();
            let shown = Name::from_text(&read.to_string()).unwrap();
            prop_assert_eq!(shown.as_wire(), &wire[..]);
        }

        #[test]
        fn reading_never_leaves_the_message(message in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..320) {
            if let Some((read, next)) = Name::read(&message, at) {
                prop_assert!(next <= message.len() && read.as_wire().len() <= MAX_NAME);
                prop_assert_eq!(plain_end(read.as_wire(), 0), Some(read.as_wire().len()));
            }
        }
    }
}
