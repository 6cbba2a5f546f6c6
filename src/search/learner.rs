//! From questions to proofs: one state machine per address, fed with what the workers noted, in the order of time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use super::clients::{DISTRUST, List, MAX_NAMESPACES, PROOF, View};
use super::list::{Place, Suffixes};
use super::{LOOK_UP, clients::Standing};
use crate::cache::ttl::Moment;
use crate::wire::name::MAX_NAME;

/// Addresses about which something is being learned; about 8 KiB each at most.
pub const MAX_ADDRESSES: usize = 4096;
/// Walks of one address that are followed at once, and whole ones that are remembered.
const MAX_WALKS: usize = 16;
const MAX_EVIDENCE: usize = MAX_NAMESPACES;
/// Namespaces of one address, those included that were only ever distrusted: a note that was lost makes a later step look
/// like the first in a namespace that is none.
const MAX_LISTS: usize = 2 * MAX_NAMESPACES;

/// A question and its answer, as a worker noted them.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// When it was asked and when answered, in microseconds since the process began.
    pub asked_us: u64,
    /// See above.
    pub answered_us: u64,
    /// Who asked.
    pub address: IpAddr,
    /// The QTYPE.
    pub qtype: u16,
    /// The answer was NXDOMAIN.
    pub denied: bool,
    name: [u8; MAX_NAME],
    len: u8,
}

impl Note {
    /// A note; the name in any case.
    pub fn new(
        qname: &[u8],
        qtype: u16,
        denied: bool,
        address: IpAddr,
        asked_us: u64,
        answered_us: u64,
    ) -> Note {
        let mut name = [0; MAX_NAME];
        let len = qname.len().min(MAX_NAME);
        for (place, octet) in name.iter_mut().zip(qname) {
            *place = octet.to_ascii_lowercase();
        }
        Note { asked_us, answered_us, address, qtype, denied, name, len: len as u8 }
    }

    /// The QNAME in lower case.
    pub fn qname(&self) -> &[u8] {
        self.name.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn asked(&self) -> Moment {
        Moment(self.asked_us / 1000)
    }
}

/// One base's way through a list, one family of it.
struct Walk {
    base: Box<[u8]>,
    qtype: u16,
    namespace: Box<[u8]>,
    /// The suffix that was denied last.
    reached: Place,
    begun_us: u64,
    denied_us: u64,
    /// It has been walked to its end, or left; it is remembered for what it bars.
    ended: bool,
}

/// What is known of an address, and what it is doing.
#[derive(Default)]
struct Address {
    view: View,
    walks: Vec<Walk>,
    evidence: Vec<Evidence>,
    last: Moment,
}

/// A whole walk.
struct Evidence {
    namespace: Box<[u8]>,
    base: Box<[u8]>,
    at: Moment,
}

/// All addresses.
#[derive(Default)]
pub struct Learner {
    addresses: HashMap<IpAddr, Address>,
}

impl Learner {
    /// Takes a note, which must not be older than those before it; tells what is known of its address if that has changed.
    pub fn take(&mut self, note: &Note, suffixes: &Suffixes) -> Option<View> {
        let full = self.addresses.len() >= MAX_ADDRESSES;
        let address = match self.addresses.entry(note.address) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if full => return None,
            Entry::Vacant(place) => place.insert(Address::default()),
        };
        address.last = note.asked();
        address.take(note, suffixes).then(|| address.view.clone())
    }

    /// Some notes were lost: no walk that was under way proves anything.
    pub fn lost_some(&mut self) {
        self.addresses.values_mut().for_each(|address| address.walks.clear());
    }

    /// Forgets addresses that have been silent and of which nothing counts any more; tells which.
    pub fn sweep(&mut self, now: Moment) -> Vec<IpAddr> {
        let is_over = |address: &Address| now > address.last.after(2 * LOOK_UP) && address.view.is_over(now);
        let gone: Vec<IpAddr> =
            self.addresses.iter().filter(|(_, address)| is_over(address)).map(|(ip, _)| *ip).collect();
        gone.iter().for_each(|ip| drop(self.addresses.remove(ip)));
        gone
    }
}

impl Address {
    /// True where what is known has changed.
    fn take(&mut self, note: &Note, suffixes: &Suffixes) -> bool {
        let look_up_us = LOOK_UP.as_micros() as u64;
        self.walks.retain(|walk| note.asked_us.saturating_sub(walk.begun_us) <= look_up_us);
        let mut is_step = false;
        let mut whole = Vec::new();
        let mut foreign = Vec::new();
        for walk in self.walks.iter_mut().filter(|walk| walk.qtype == note.qtype) {
            let Some(suffix) = note.qname().strip_prefix(&*walk.base) else { continue };
            match suffixes.place(suffix, &walk.namespace) {
                Some(place) => {
                    // Also a question that came before, or too early, is a step of this search.
                    is_step |= place != Place::First;
                    if walk.steps_to(place, note) {
                        whole.push((walk.namespace.clone(), walk.base.clone()));
                    }
                }
                None if !walk.ended && walk.labels() > 1 && !suffixes.is_in_zone(note.qname()) => {
                    walk.ended = true;
                    foreign.push(walk.namespace.clone());
                }
                None => {}
            }
        }
        let mut changed = false;
        for namespace in foreign {
            changed |= self.distrust(namespace, note.asked());
        }
        for (namespace, base) in whole {
            changed |= self.proves(namespace, base, note.asked());
        }
        if note.denied && !is_step {
            self.begin(note, suffixes);
        }
        changed
    }

    /// The first step of a walk, unless it may be a later step of another one: that is a bar.
    fn begin(&mut self, note: &Note, suffixes: &Suffixes) {
        let Some(step) = suffixes.step(note.qname()) else { return };
        let is_same = |walk: &Walk| {
            *walk.base == *step.base() && walk.qtype == note.qtype && *walk.namespace == *step.namespace()
        };
        self.walks.retain(|walk| !is_same(walk));
        if self.walks.len() >= MAX_WALKS {
            self.walks.remove(0);
        }
        self.walks.push(Walk {
            base: step.base().into(),
            qtype: note.qtype,
            namespace: step.namespace().into(),
            reached: Place::First,
            begun_us: note.asked_us,
            denied_us: note.answered_us,
            ended: false,
        });
    }

    /// What is known of a namespace. One that was only ever distrusted makes room for another.
    fn list(&mut self, namespace: Box<[u8]>) -> Option<&mut List> {
        let lists = &mut self.view.lists;
        if let Some(known) = lists.iter().position(|list| list.namespace == namespace) {
            return lists.get_mut(known);
        }
        if lists.len() >= MAX_LISTS
            && let Some(first) = lists.iter().position(|list| list.proven_until.is_none())
        {
            lists.remove(first);
        }
        lists.push(List { namespace, proven_until: None, literal_until: Moment(0) });
        lists.last_mut()
    }

    fn distrust(&mut self, namespace: Box<[u8]>, now: Moment) -> bool {
        if self.view.shared {
            return false;
        }
        self.evidence.retain(|evidence| evidence.namespace != namespace);
        if let Some(list) = self.list(namespace) {
            list.proven_until = None;
            list.literal_until = now.after(DISTRUST);
        }
        true
    }

    /// A whole walk: the second one of another base proves a list, one renews a proof that is due.
    fn proves(&mut self, namespace: Box<[u8]>, base: Box<[u8]>, now: Moment) -> bool {
        if self.view.shared {
            return false;
        }
        self.forget_lists(now);
        let standing = self.view.standing(&namespace, now);
        if matches!(standing, Standing::Literal | Standing::Proven) {
            return false;
        }
        self.evidence.retain(|evidence| now <= evidence.at.after(PROOF));
        let another = |evidence: &Evidence| evidence.namespace == namespace && evidence.base != base;
        if matches!(standing, Standing::Due { .. }) || self.evidence.iter().any(another) {
            self.evidence.retain(|evidence| evidence.namespace != namespace);
            if let Some(list) = self.list(namespace) {
                list.proven_until = Some(now.after(PROOF));
            }
            let proven = self.view.lists.iter().filter(|list| list.proven_until.is_some()).count();
            if proven > MAX_NAMESPACES {
                self.view = View { shared: true, lists: vec![] };
            }
            return true;
        }
        if self.evidence.len() >= MAX_EVIDENCE {
            self.evidence.remove(0);
        }
        self.evidence.push(Evidence { namespace, base, at: now });
        false
    }

    /// Lists of which nothing counts any more make room.
    fn forget_lists(&mut self, now: Moment) {
        self.view.lists.retain(|list| list.standing(now) != Standing::Unknown);
    }
}

impl Walk {
    /// True where this step makes the walk whole.
    fn steps_to(&mut self, place: Place, note: &Note) -> bool {
        // Each step is asked after the one before was denied; one that comes again, or too early, is none.
        if self.ended || note.asked_us < self.denied_us || !self.reached.is_followed_by(place) {
            // A step that was left out shows another list.
            self.ended |= place > self.reached && note.asked_us >= self.denied_us;
            return false;
        }
        if place == Place::Bare {
            self.ended = true;
            return true;
        }
        // What exists ends the search here: nothing is said about the rest of the list.
        self.ended = !note.denied;
        (self.reached, self.denied_us) = (place, note.answered_us);
        false
    }

    fn labels(&self) -> usize {
        crate::wire::name::labels(&self.base).count()
    }
}

#[cfg(test)]
mod tests;
