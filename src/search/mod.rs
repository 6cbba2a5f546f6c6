//! Hops 3 and 5: the first step of a client's search list, answered with what its search would have ended with.
//!
//! [`list`] takes names apart and says which questions may be composed at all, [`walk`] decides from what is known of the
//! candidates, [`compose`] makes the answer, [`recent`] remembers who was left to search for himself. All of it is told
//! the time and asks nobody; [`crate::resolve`] walks.

pub mod compose;
pub mod list;
pub mod recent;
pub mod walk;

use std::net::IpAddr;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::cache::ttl::Moment;
use crate::query::Query;
use crate::wire::answer::Kind;
use crate::wire::iana::rtype;
use crate::wire::name::Name;
use list::{Step, Suffixes};
use recent::Recent;

/// Longer than a stub resolver takes for one look-up, retries included: what is begun is ended alike.
pub const LOOK_UP: Duration = Duration::from_secs(30);
/// For how long a base stays literal after a walk that came to no end, or to another than the one before.
pub const UNSETTLED: Duration = Duration::from_secs(10);
/// For how long a walk may keep its client waiting, counted from its first question.
pub const WALK: Duration = Duration::from_secs(1);
/// For how long a name that existed is remembered: a headless service without ready pods is NXDOMAIN meanwhile.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Names remembered, and decisions; some 400 bytes each with a long name.
pub const MAX_REMEMBERED: u64 = 16_384;

/// Whose questions are composed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nobody's.
    Off,
    /// Everybody searches in this one namespace, a label without its length.
    Static(Box<[u8]>),
}

/// What is known of search lists.
pub struct Search {
    mode: Mode,
    suffixes: Suffixes,
    recent: Recent,
    existed: Cache<Box<[u8]>, ()>,
    decisions: Cache<Box<[u8]>, u8>,
}

impl Search {
    /// Search lists of a cluster, in a mode.
    pub fn new(mode: Mode, suffixes: Suffixes) -> Search {
        let table = || Cache::builder().max_capacity(MAX_REMEMBERED).eviction_policy(EvictionPolicy::lru());
        Search {
            mode,
            suffixes,
            recent: Recent::default(),
            existed: table().time_to_live(REMEMBERED).build(),
            decisions: Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(REMEMBERED)
                .build(),
        }
    }

    /// Taking names apart.
    pub fn suffixes(&self) -> &Suffixes {
        &self.suffixes
    }

    /// Who was left to search for himself.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// The query as the first step of a search list that its client has, if it is one.
    ///
    /// What is not an address of class IN asked of a recursive server by a client that leaves validation to others
    /// comes from no search list.
    #[inline]
    pub fn step<'q>(&self, query: &Query<'q>, _client: IpAddr) -> Option<Step<'q>> {
        let Mode::Static(namespace) = &self.mode else { return None };
        let addresses = matches!(query.question.qtype, rtype::A | rtype::AAAA);
        if !addresses || !query.recursion_desired() || query.dnssec_ok() || query.checking_disabled() {
            return None;
        }
        let step = self.suffixes.step(query.question.qname())?;
        (step.labels() > 1 && step.namespace().eq_ignore_ascii_case(namespace)).then_some(step)
    }

    /// True where somebody may search in a namespace.
    pub fn is_searched(&self, namespace: &[u8]) -> bool {
        matches!(&self.mode, Mode::Static(own) if own.eq_ignore_ascii_case(namespace))
    }

    /// Takes note of what upstream said of a name, in lower case.
    pub fn learn_of(&self, qname: &[u8], kind: Kind) {
        if self.mode == Mode::Off || !matches!(kind, Kind::Data | Kind::NoData) {
            return;
        }
        if self.suffixes.step(qname).is_some_and(|step| step.labels() == 1) {
            self.existed.insert(qname.into(), ());
        }
    }

    /// True where a name has been seen to exist within a day.
    pub fn has_existed(&self, name: &Name) -> bool {
        self.existed.contains_key(name.as_wire())
    }

    /// The names that a base may be read as the first step of, when it is asked under a later suffix of another
    /// namespace's list: each must stay literal until that search is over.
    pub fn bars(&self, qname: &[u8]) -> Vec<Name> {
        let Some(step) = self.suffixes.step(qname).filter(|_| self.mode != Mode::Off) else { return vec![] };
        let read_so = |name: &Name| {
            let read = self.suffixes.step(name.as_wire());
            read.is_some_and(|read| self.is_searched(read.namespace()) && self.suffixes.may_compose(&read))
        };
        let later = self.suffixes.candidates(&step).into_iter().take(list::CLUSTER_CANDIDATES);
        later.flatten().filter(read_so).collect()
    }

    /// Remembers which candidate a walk ended with; true where the walk before ended with another.
    pub fn has_changed(&self, qname: &[u8], candidate: u8) -> bool {
        let before = self.decisions.get(qname);
        if before != Some(candidate) {
            self.decisions.insert(qname.into(), candidate);
        }
        before.is_some_and(|before| before != candidate)
    }

    /// Takes note that a client was given the literal answer to a step.
    pub fn left_literal(&self, client: IpAddr, qname: &[u8], now: Moment) {
        self.recent.note(client, qname, now);
    }
}
