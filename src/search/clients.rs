//! Who searches where, as its questions show: what is known of each address, and what has to be noted to learn more.
//!
//! ```text
//!                       two whole walks of different bases            10 minutes
//!   (address, NS)  unknown ───────────────────────────▶ proven ──────────────────────▶ due
//!        ▲                                                ▲   one whole walk               │
//!        │                                                └─────────────────────────────── │
//!        └──────────────────────────── 2 minutes without one ───────────────────────────── ┘
//!
//!   any ── a base asked under a suffix that is nobody's ──▶ literal for 10 minutes ──▶ unknown
//!   any ── a ninth namespace ──▶ the whole address is shared: always literal
//! ```
//!
//! A *whole walk* is one base asked under the three cluster suffixes in order, then under any of the host's domains,
//! then by itself, each question after the one before was answered NXDOMAIN. While a proof is due everything is composed
//! as before, but a base that nobody has had composed lately is left literal, so that its walk can be seen; if none
//! comes for a minute, any base whose composed answer has ended is.
//!
//! Readers look an address up without a lock. [`super::learner`] writes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use papaya::{HashMap, HashMapRef, HashSet, LocalGuard};

use super::recent::Recent;
use crate::cache::ttl::Moment;
use crate::wire::name::is_any_case_of;

/// Namespaces that one address may search in: pods of a host's own network, or behind one address.
pub const MAX_NAMESPACES: usize = 8;
/// For how long a proof lasts, however busy its client is.
pub const PROOF: Duration = Duration::from_secs(600);
/// For how long a foreign suffix keeps a list from being believed.
pub const DISTRUST: Duration = Duration::from_secs(600);
/// After a proof's end: for how long only fresh bases are left literal, and when it is over.
const PATIENT: Duration = Duration::from_secs(60);
const OVER: Duration = Duration::from_secs(120);
/// Namespaces that somebody searches in; beyond it every namespace is taken for one.
const MAX_SEARCHED: usize = 4096;

/// Where somebody stands with a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It searches there.
    Proven,
    /// It searched there; it has to be seen again. `patient`: only a base that nobody had lately is left literal.
    Due {
        /// There is time to wait for such a base.
        patient: bool,
    },
    /// Nothing is known.
    Unknown,
    /// It is not to be believed.
    Literal,
}

/// What is known of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// More namespaces than one address may search in.
    pub shared: bool,
    /// The namespaces it has shown.
    pub lists: Vec<List>,
}

/// A namespace that an address has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Its label in lower case, without its length.
    pub namespace: Box<[u8]>,
    /// The end of the proof, if there ever was one.
    pub proven_until: Option<Moment>,
    /// Until when it is not believed.
    pub literal_until: Moment,
}

impl List {
    /// Where its address stands.
    pub fn standing(&self, now: Moment) -> Standing {
        if now < self.literal_until {
            return Standing::Literal;
        }
        match self.proven_until {
            Some(until) if now < until => Standing::Proven,
            Some(until) if now < until.after(PATIENT) => Standing::Due { patient: true },
            Some(until) if now < until.after(OVER) => Standing::Due { patient: false },
            _ => Standing::Unknown,
        }
    }
}

impl View {
    /// Where the address stands with a namespace.
    pub fn standing(&self, namespace: &[u8], now: Moment) -> Standing {
        if self.shared {
            return Standing::Literal;
        }
        let list = self.lists.iter().find(|list| is_any_case_of(namespace, &list.namespace));
        list.map_or(Standing::Unknown, |list| list.standing(now))
    }

    /// True where nothing of it counts any more.
    pub fn is_over(&self, now: Moment) -> bool {
        !self.shared && self.lists.iter().all(|list| list.standing(now) == Standing::Unknown)
    }
}

type Views = HashMap<IpAddr, Arc<View>, RandomState>;

/// All addresses.
pub struct Clients {
    views: Views,
    searched: HashSet<Box<[u8]>, RandomState>,
    walking: Recent,
}

impl Default for Clients {
    fn default() -> Clients {
        let hasher = RandomState::default;
        Clients {
            views: HashMap::with_hasher(hasher()),
            searched: HashSet::with_hasher(hasher()),
            walking: Recent::default(),
        }
    }
}

/// Look-ups under one pin.
pub struct ClientsPin<'c>(HashMapRef<'c, IpAddr, Arc<View>, RandomState, LocalGuard<'c>>);

impl ClientsPin<'_> {
    /// Where an address stands with a namespace.
    #[inline]
    pub fn standing(&self, address: IpAddr, namespace: &[u8], now: Moment) -> Standing {
        self.0.get(&address).map_or(Standing::Unknown, |view| view.standing(namespace, now))
    }
}

impl Clients {
    /// Pins what is known for a batch of look-ups.
    #[inline]
    pub fn pin(&self) -> ClientsPin<'_> {
        ClientsPin(self.views.pin())
    }

    /// Takes note that an address has begun a walk: its further questions are steps of it.
    pub fn walks(&self, address: IpAddr, now: Moment) {
        self.walking.note(address, b"", now);
    }

    /// True where an address may be on a walk.
    #[inline]
    pub fn is_walking(&self, address: IpAddr, now: Moment) -> bool {
        self.walking.has(address, b"", now)
    }

    /// True where somebody has been seen to search in a namespace.
    pub fn is_searched(&self, namespace: &[u8]) -> bool {
        let searched = self.searched.pin();
        searched.len() >= MAX_SEARCHED || searched.contains(&*namespace.to_ascii_lowercase())
    }

    /// Publishes what is known of an address.
    pub fn publish(&self, address: IpAddr, view: View) {
        let searched = self.searched.pin();
        for list in view.lists.iter().filter(|list| list.proven_until.is_some()) {
            if searched.len() < MAX_SEARCHED {
                searched.insert(list.namespace.clone());
            }
        }
        self.views.pin().insert(address, Arc::new(view));
    }

    /// Forgets an address.
    pub fn forget(&self, address: IpAddr) {
        self.views.pin().remove(&address);
    }

    /// How many addresses something is known of, and how many of these have a proof.
    pub fn count(&self, now: Moment) -> (u64, u64) {
        let views = self.views.pin();
        let proven = |view: &Arc<View>| view.lists.iter().any(|list| list.standing(now) == Standing::Proven);
        (views.len() as u64, views.values().filter(|view| proven(view)).count() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_ends_in_steps() {
        let until = Moment(1_000_000);
        let list =
            List { namespace: b"shop"[..].into(), proven_until: Some(until), literal_until: Moment(0) };
        let view = View { shared: false, lists: vec![list] };
        let at = |after: u64| view.standing(b"SHOP", until.after(Duration::from_secs(after)));
        assert_eq!(view.standing(b"shop", Moment(999_999)), Standing::Proven);
        assert_eq!(at(0), Standing::Due { patient: true });
        assert_eq!(at(60), Standing::Due { patient: false });
        assert_eq!(at(120), Standing::Unknown);
        assert_eq!(view.standing(b"prod", Moment(0)), Standing::Unknown);
        let shared = View { shared: true, ..view };
        assert_eq!(shared.standing(b"shop", Moment(0)), Standing::Literal);
    }

    #[test]
    fn what_is_published_is_read_until_it_is_forgotten() {
        let (clients, now) = (Clients::default(), Moment(5000));
        let address = "fd00::7".parse().unwrap();
        let list = List {
            namespace: b"shop"[..].into(),
            proven_until: Some(now.after(PROOF)),
            literal_until: Moment(0),
        };
        clients.publish(address, View { shared: false, lists: vec![list] });
        assert_eq!(clients.pin().standing(address, b"shop", now), Standing::Proven);
        assert!(clients.is_searched(b"Shop") && !clients.is_searched(b"prod"));
        assert_eq!(clients.count(now), (1, 1));
        clients.forget(address);
        assert_eq!(clients.pin().standing(address, b"shop", now), Standing::Unknown);
    }
}
