//! Noticing that an upstream server is this very process, at start and while it runs.
//!
//! A server whose address is one of ours is found before the first question. A way back through other
//! forwarders shows as a question that waits for itself: where such a one failed, a name that nobody can guess
//! is sent to the server, and if it arrives here, the server leads back. A packet from outside cannot
//! do that: it would have to guess 128 bits.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::health::Server;

/// Names that are out at once; a further probe waits for another occasion.
pub const MAX_NONCES: usize = 32;
/// How long a name may take to come back.
const NONCE_LIFE: Duration = Duration::from_secs(5);
/// A server is probed at most this often.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// True where an address of an upstream is one that this process listens on.
pub fn is_own(upstream: SocketAddr, listening: &[SocketAddr]) -> bool {
    listening.iter().any(|own| {
        own.port() == upstream.port()
            && (own.ip() == upstream.ip() || own.ip().is_unspecified() && is_local(upstream))
    })
}

/// An address can be bound just where it is this host's.
fn is_local(addr: SocketAddr) -> bool {
    UdpSocket::bind((addr.ip(), 0)).is_ok()
}

struct Nonce {
    label: [u8; 32],
    server: Arc<Server>,
    sent: Instant,
}

/// The names that are out.
#[derive(Default)]
pub struct Nonces {
    count: AtomicUsize,
    out: Mutex<Vec<Nonce>>,
}

impl Nonces {
    /// A label to ask the server for, unless it was probed lately.
    pub fn issue(&self, server: &Arc<Server>, now: Instant, random: u128) -> Option<[u8; 32]> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.retain(|nonce| now < nonce.sent + PROBE_EVERY);
        if out.len() >= MAX_NONCES || out.iter().any(|nonce| nonce.server.number == server.number) {
            return None;
        }
        let mut label = [0; 32];
        for (index, place) in label.iter_mut().enumerate() {
            let digit = (random >> (4 * index)) as u8 & 0x0f;
            *place = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
        }
        out.push(Nonce { label, server: Arc::clone(server), sent: now });
        self.count.store(out.len(), Ordering::Release);
        Some(label)
    }

    /// The server that a question's name was sent to as a probe, if it was.
    pub fn came_back(&self, qname: &[u8], now: impl FnOnce() -> Instant) -> Option<Arc<Server>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let (label, now) = (qname.strip_prefix(&[32])?.get(..32)?, now());
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.retain(|nonce| now < nonce.sent + PROBE_EVERY);
        self.count.store(out.len(), Ordering::Release);
        let found = out.iter().find(|n| n.label.eq_ignore_ascii_case(label) && now < n.sent + NONCE_LIFE)?;
        Some(Arc::clone(&found.server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::health::{Endpoint, Transport};

    #[test]
    fn own_addresses_are_known_also_behind_a_wildcard() {
        let addr = |text: &str| text.parse().unwrap();
        assert!(is_own(addr("127.0.0.1:53"), &[addr("127.0.0.1:53")]));
        assert!(is_own(addr("127.0.0.1:53"), &[addr("0.0.0.0:53")]));
        assert!(!is_own(addr("127.0.0.1:5353"), &[addr("127.0.0.1:53")]));
        assert!(!is_own(addr("192.0.2.1:53"), &[addr("0.0.0.0:53")]));
    }

    #[test]
    fn only_a_name_that_was_sent_counts_and_only_in_time() {
        let endpoint = Endpoint::plain(Transport::Udp, "192.0.2.1:53".parse().unwrap());
        let (server, nonces, now) = (Arc::new(Server::new(0, endpoint)), Nonces::default(), Instant::now());
        let label = nonces.issue(&server, now, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef).unwrap();
        assert!(nonces.issue(&server, now, 1).is_none(), "probed just now");
        let qname = [&[32][..], &label.to_ascii_uppercase(), b"\x07invalid\x00"].concat();
        assert!(nonces.came_back(&qname, || now).is_some());
        assert!(nonces.came_back(&qname, || now + NONCE_LIFE).is_none());
        let guess = [&[32][..], &[b'0'; 32], b"\x00"].concat();
        assert!(nonces.came_back(&guess, || now).is_none());
    }
}
