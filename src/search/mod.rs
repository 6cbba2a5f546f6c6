//! Hops 3 and 5: the first step of a client's search list, answered with what its search would have ended with.
//!
//! [`list`] takes names apart and says which questions may be composed at all, [`walk`] decides from what is known of the
//! candidates, [`compose`] makes the answer, [`recent`] remembers who was left to search for himself,
//! [`clients`] who searches where, which [`learner`] finds out;
//! [`polls`] notices who waits for a name. All of it is told
//! the time and asks nobody; [`crate::resolve`] walks.

pub mod clients;
pub mod compose;
pub mod learner;
pub mod list;
pub mod polls;
pub mod recent;
pub mod walk;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use foldhash::quality::RandomState;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use papaya::HashMap;

use crate::cache::ttl::Moment;
use crate::query::Query;
use crate::wire::answer::Kind;
use crate::wire::iana::rtype;
use crate::wire::name::Name;
use crate::wire::question::Question;
use clients::{Clients, ClientsPin, Standing};
use list::{Step, Suffixes};
use recent::Recent;

/// Namespaces that are counted by name; what is composed in others counts together.
const MAX_COUNTED: usize = 128;
/// Longer than a stub resolver takes for one look-up, retries included: what is begun is ended alike.
pub const LOOK_UP: Duration = Duration::from_secs(30);
/// For how long a base stays literal after a walk that came to no end, or to another than the one before.
pub const UNSETTLED: Duration = Duration::from_secs(10);
/// For how long a walk may keep its client waiting, counted from its first question: less than the second that is the
/// shortest timeout of a resolv.conf, after which musl gives a step up.
pub const WALK: Duration = Duration::from_millis(800);
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
    /// Who searches where is learned from what he asks.
    Learn,
}

/// What is known of search lists.
pub struct Search {
    mode: Mode,
    suffixes: ArcSwap<Suffixes>,
    recent: Recent,
    clients: Clients,
    composed: HashMap<Box<str>, AtomicU64, RandomState>,
    existed: Cache<Box<[u8]>, ()>,
    decisions: Cache<Box<[u8]>, Decided>,
    cut: Option<Cut>,
}

/// What a batch of queries is held against: the suffixes as they were when it began, and one pin of what is known of
/// addresses.
pub struct SearchPin<'s> {
    search: &'s Search,
    suffixes: Guard<Arc<Suffixes>>,
    clients: ClientsPin<'s>,
}

/// The denial cut, where it is switched on.
#[derive(Default)]
struct Cut {
    asked: AtomicU64,
    /// Milliseconds of [`Moment`] until which it is off.
    off_until: AtomicU64,
}

/// Of so many questions that the denial cut could answer one is asked all the same.
const CHECKED: u64 = 16;
/// For how long a denial cut that was wrong is off.
const CUT_OFF: Duration = Duration::from_secs(3600);

/// What a walk ended with.
#[derive(Clone, Copy)]
struct Decided {
    candidate: u8,
    composed_until: Moment,
}

impl Search {
    /// Search lists of a cluster, in a mode.
    ///
    /// `denial_cut`: what a name denies, it denies for all names below (RFC 8020), inside a namespace.
    pub fn new(mode: Mode, suffixes: Suffixes, denial_cut: bool) -> Search {
        let table = || Cache::builder().max_capacity(MAX_REMEMBERED).eviction_policy(EvictionPolicy::lru());
        Search {
            cut: denial_cut.then(Cut::default),
            mode,
            suffixes: ArcSwap::from_pointee(suffixes),
            recent: Recent::default(),
            clients: Clients::default(),
            composed: HashMap::with_hasher(RandomState::default()),
            existed: table().time_to_live(REMEMBERED).build(),
            decisions: Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(REMEMBERED)
                .build(),
        }
    }

    /// The name right below a namespace that a name is below of, where denials are cut.
    pub fn above(&self, qname: &[u8]) -> Option<Name> {
        self.cut.as_ref()?;
        let suffixes = self.suffixes();
        let step = suffixes.step(qname).filter(|step| step.labels() > 1)?;
        step.last_under_namespace()
    }

    /// The name whose denial denies this one, unless this is one of those that are asked all the same.
    pub fn cut_at(&self, qname: &[u8], now: Moment) -> Option<Name> {
        let cut = self.cut.as_ref()?;
        let above = self.above(qname)?;
        let is_on = now >= Moment(cut.off_until.load(Ordering::Relaxed));
        let turn = cut.asked.fetch_add(1, Ordering::Relaxed);
        (is_on && turn % CHECKED != CHECKED - 1).then_some(above)
    }

    /// Switches the denial cut off for a while; true where it was on.
    pub fn cut_is_wrong(&self, now: Moment) -> bool {
        let Some(cut) = &self.cut else { return false };
        cut.off_until.swap(now.after(CUT_OFF).0, Ordering::Relaxed) <= now.0
    }

    /// Taking names apart.
    #[inline]
    pub fn suffixes(&self) -> Guard<Arc<Suffixes>> {
        self.suffixes.load()
    }

    /// The host's own domains have changed. What was composed before lives to its end: no longer than a denial.
    pub fn set_suffixes(&self, suffixes: Suffixes) {
        self.suffixes.store(Arc::new(suffixes));
    }

    /// Who was left to search for himself.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// What is known of addresses.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Holds what is known in place for a batch of queries.
    #[inline]
    pub fn pin(&self) -> SearchPin<'_> {
        SearchPin { search: self, suffixes: self.suffixes(), clients: self.clients.pin() }
    }

    /// True where search lists are learned.
    pub fn learns(&self) -> bool {
        self.mode == Mode::Learn
    }

    /// True where whoever was given this answer may wait for a service.
    pub fn is_poll(&self, qname: &[u8], denied: bool) -> bool {
        denied && self.suffixes().step(qname).is_some_and(|step| step.labels() == 1)
    }

    /// True where somebody may search in a namespace.
    pub fn is_searched(&self, namespace: &[u8]) -> bool {
        match &self.mode {
            Mode::Off => false,
            Mode::Static(own) => own.eq_ignore_ascii_case(namespace),
            Mode::Learn => self.clients.is_searched(namespace),
        }
    }

    /// Counts a walk that ended with a composed answer, by the namespace it began in.
    pub fn count_composed(&self, qname: &[u8]) {
        let suffixes = self.suffixes();
        let Some(step) = suffixes.step(qname) else { return };
        let composed = self.composed.pin();
        let name = String::from_utf8_lossy(step.namespace()).to_ascii_lowercase();
        let room = composed.len() < MAX_COUNTED || composed.contains_key(name.as_str());
        let name: Box<str> = if room { name.into() } else { "other".into() };
        composed.get_or_insert_with(name, || AtomicU64::new(0)).fetch_add(1, Ordering::Relaxed);
    }

    /// Walks that ended with a composed answer, by namespace.
    pub fn composed(&self) -> Vec<(String, u64)> {
        let composed = self.composed.pin();
        composed.iter().map(|(name, count)| (name.to_string(), count.load(Ordering::Relaxed))).collect()
    }

    /// Takes note of what upstream said of a name, in lower case.
    pub fn learn_of(&self, qname: &[u8], kind: Kind) {
        if self.mode == Mode::Off || !matches!(kind, Kind::Data | Kind::NoData) {
            return;
        }
        if self.suffixes().step(qname).is_some_and(|step| step.labels() == 1) {
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
        let Some(step) = self.suffixes().step(qname).filter(|_| self.mode != Mode::Off) else {
            return vec![];
        };
        let read_so = |name: &Name| {
            let read = self.suffixes().step(name.as_wire());
            read.is_some_and(|read| self.is_searched(read.namespace()) && self.suffixes().may_compose(&read))
        };
        let later = self.suffixes().candidates(&step).into_iter().take(list::CLUSTER_CANDIDATES);
        later.flatten().filter(read_so).collect()
    }

    /// Remembers which candidate a walk ended with, and until when what was composed from it serves; true where the walk
    /// before ended with another.
    pub fn has_changed(&self, qname: &[u8], candidate: u8, composed_until: Moment) -> bool {
        let before = self.decisions.get(qname);
        self.decisions.insert(qname.into(), Decided { candidate, composed_until });
        before.is_some_and(|before| before.candidate != candidate)
    }

    /// True where somebody may have had a composed answer to a step within one look-up: the other half of his must be
    /// composed too.
    pub fn composed_lately(&self, qname: &[u8], now: Moment) -> bool {
        let decided = self.decisions.get(&*qname.to_ascii_lowercase());
        decided.is_some_and(|decided| now < decided.composed_until.after(LOOK_UP))
    }

    /// Takes note that a client was given the literal answer to a step.
    pub fn left_literal(&self, client: IpAddr, qname: &[u8], now: Moment) {
        self.recent.note(client, qname, now);
    }
}

impl SearchPin<'_> {
    /// Taking names apart.
    #[inline]
    pub fn suffixes(&self) -> &Suffixes {
        &self.suffixes
    }

    /// The query as the first step of a search, and where its client stands with the namespace, if it may be one.
    ///
    /// What is not an address of class IN asked of a recursive server by a client that leaves validation to others
    /// comes from no search list.
    #[inline]
    pub fn step<'q>(&self, query: &Query<'q>, client: IpAddr, now: Moment) -> Option<(Step<'q>, Standing)> {
        let addresses = matches!(query.question.qtype, rtype::A | rtype::AAAA);
        if self.search.mode == Mode::Off
            || !addresses
            || !query.recursion_desired()
            || query.dnssec_ok()
            || query.checking_disabled()
        {
            return None;
        }
        let step = self.suffixes.step(query.question.qname()).filter(|step| step.labels() > 1)?;
        let standing = match &self.search.mode {
            Mode::Static(own) if own.eq_ignore_ascii_case(step.namespace()) => Standing::Proven,
            Mode::Static(_) | Mode::Off => return None,
            Mode::Learn => self.clients.standing(client, step.namespace(), now),
        };
        Some((step, standing))
    }

    /// True where an answered question may show its client's search list, and that has still to be learned, or that its
    /// client waits for a service.
    #[inline]
    pub fn wants_note(&self, question: &Question<'_>, denied: bool, client: IpAddr, now: Moment) -> bool {
        if !matches!(question.qtype, rtype::A | rtype::AAAA) {
            return false;
        }
        let learns = self.search.mode == Mode::Learn;
        let is_walking = || learns && self.search.clients.is_walking(client, now);
        if !denied {
            // In the cluster only denials lead on; outside any answer may be to the last step.
            return is_walking() && !self.suffixes.is_in_zone(question.qname());
        }
        let Some(step) = self.suffixes.step(question.qname()) else { return is_walking() };
        if step.labels() == 1 {
            // Its client may wait for this service.
            return true;
        }
        if learns {
            let standing = self.clients.standing(client, step.namespace(), now);
            if matches!(standing, Standing::Unknown | Standing::Due { .. }) {
                self.search.clients.walks(client, now);
                return true;
            }
        }
        is_walking()
    }
}
