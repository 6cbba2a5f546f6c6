//! What composed answers rest on. Those they are made of are found here when the store has dropped them, so that what is in
//! use is not asked for a second time; and when another kind of answer comes to one of them, what rests on it ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::entry::Entry;
use super::key::{PassThrough, QueryKey};
use crate::wire::answer::Kind;

/// Answers known here, some 300 bytes each. Beyond it the least used is forgotten: it may be asked for again, and what
/// rests on it lives to its end.
pub const MAX_HELD: u64 = 32_768;
/// Composed answers that rest on one, above which those that are gone are swept out.
const SWEEP_AT: usize = 16;

/// The table.
pub struct Held(Cache<u64, Arc<Holding>, PassThrough>);

struct Holding {
    kind: Kind,
    state: Mutex<State>,
}

struct State {
    entry: Weak<Entry>,
    dependents: Vec<Weak<Entry>>,
}

impl Default for Held {
    fn default() -> Held {
        let table = Cache::builder().max_capacity(MAX_HELD).eviction_policy(EvictionPolicy::lru());
        Held(table.build_with_hasher(PassThrough::default()))
    }
}

impl Held {
    /// The answer to a key, if a composed one still holds it.
    pub fn get(&self, key: &QueryKey) -> Option<Arc<Entry>> {
        let entry = self.0.get(&key.hash())?.state().entry.upgrade()?;
        entry.answers(key).then_some(entry)
    }

    /// Takes note of what a composed answer rests on.
    pub fn rests(&self, composed: &Arc<Entry>, on: &[Arc<Entry>]) {
        for entry in on {
            let current = self.0.get(&entry.hash()).filter(|holding| holding.kind == entry.kind());
            let holding = current.unwrap_or_else(|| {
                let state = Mutex::new(State { entry: Weak::new(), dependents: vec![] });
                let new = Arc::new(Holding { kind: entry.kind(), state });
                self.0.insert(entry.hash(), Arc::clone(&new));
                new
            });
            let mut state = holding.state();
            state.entry = Arc::downgrade(entry);
            if state.dependents.len() >= SWEEP_AT {
                state.dependents.retain(|dependent| dependent.strong_count() > 0);
            }
            state.dependents.push(Arc::downgrade(composed));
        }
    }

    /// Ends what rests on another kind of answer to a key than the one that has come.
    pub fn came(&self, key: &QueryKey, kind: Kind) {
        let Some(holding) = self.0.get(&key.hash()).filter(|holding| holding.kind != kind) else { return };
        self.0.invalidate(&key.hash());
        holding.state().dependents.iter().filter_map(Weak::upgrade).for_each(|composed| composed.make_void());
    }
}

impl Holding {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
