//! Server cookies in the form that servers of many makes share (RFC 9018 section 4).

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

/// The secret of this process; a client that kept a cookie of an earlier one simply gets a new one.
pub struct Secret([u8; 16]);

impl Secret {
    /// A secret from these octets, which must come from a cryptographic source.
    pub fn new(octets: [u8; 16]) -> Secret {
        Secret(octets)
    }

    /// Version, reserved octets, time stamp and SipHash-2-4 over client cookie, these and the client's address.
    pub fn server_cookie(&self, client_cookie: [u8; 8], client: IpAddr, unix_s: u32) -> [u8; 16] {
        let mut head = [1, 0, 0, 0, 0, 0, 0, 0];
        crate::wire::put(&mut head, 4, &unix_s.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&client_cookie);
        hasher.write(&head);
        match client {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        let mut out = [0; 16];
        crate::wire::put(&mut out, 0, &head);
        // RFC 9018 section 4.4 gives the hash in the order SipHash's authors print it, lowest octet first.
        crate::wire::put(&mut out, 8, &hasher.finish().to_le_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vector of RFC 9018 appendix A.1.
    #[test]
    fn the_rfcs_vector_holds() {
        let secret = Secret([
            0xe5, 0xe9, 0x73, 0xe5, 0xa6, 0xb2, 0xa4, 0x3f, 0x48, 0xe7, 0xdc, 0x84, 0x9e, 0x37, 0xbf, 0xcf,
        ]);
        let client = [0x24, 0x64, 0xc4, 0xab, 0xcf, 0x10, 0xc9, 0x57];
        let cookie = secret.server_cookie(client, "198.51.100.100".parse().unwrap(), 1_559_731_985);
        let hash = [0x1f, 0x81, 0x30, 0xc3, 0xee, 0xe2, 0x94, 0x80];
        assert_eq!(cookie[..8], [0x01, 0, 0, 0, 0x5c, 0xf7, 0x9f, 0x11]);
        assert_eq!(cookie[8..], hash);
    }
}
