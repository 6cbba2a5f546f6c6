//! What was asked, by server and zone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Counters of one zone at one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ZoneCounts {
    /// Questions that arrived.
    pub questions: u64,
    /// By type.
    pub by_type: BTreeMap<String, u64>,
    /// Answers that went out.
    pub answered: u64,
    /// Of these, denials of the name.
    pub nxdomain: u64,
    /// Of these, failures.
    pub servfail: u64,
    /// Questions and answers that were lost on purpose.
    pub lost: u64,
    /// Questions that were over the limit.
    pub over_limit: u64,
}

/// All counters at one time: server, then zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot(pub BTreeMap<&'static str, BTreeMap<String, ZoneCounts>>);

/// The counters. One lock: the lab is no benchmark of itself.
#[derive(Default)]
pub struct Counts(Mutex<Snapshot>);

/// Types counted by name in a zone; further ones count as "other".
const MAX_TYPES: usize = 64;

impl Counts {
    /// Changes the counters of a zone.
    pub fn count(&self, server: &'static str, zone: &str, change: impl FnOnce(&mut ZoneCounts)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.0.entry(server).or_default().entry(zone.to_string()).or_default());
    }

    /// A copy.
    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ZoneCounts {
    /// Counts a question of a type.
    pub fn question(&mut self, qtype: &str) {
        self.questions += 1;
        let full = self.by_type.len() >= MAX_TYPES && !self.by_type.contains_key(qtype);
        *self.by_type.entry(if full { "other".into() } else { qtype.into() }).or_default() += 1;
    }
}

impl fmt::Display for Snapshot {
    /// A table, a line for each zone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<10} {:<22} {:>10} {:>10} {:>9} {:>9} {:>7} {:>10}  types",
            "server", "zone", "questions", "answered", "nxdomain", "servfail", "lost", "over limit"
        )?;
        for (server, zones) in &self.0 {
            for (zone, counts) in zones {
                let types: Vec<String> =
                    counts.by_type.iter().map(|(qtype, count)| format!("{qtype}={count}")).collect();
                writeln!(
                    f,
                    "{server:<10} {zone:<22} {:>10} {:>10} {:>9} {:>9} {:>7} {:>10}  {}",
                    counts.questions,
                    counts.answered,
                    counts.nxdomain,
                    counts.servfail,
                    counts.lost,
                    counts.over_limit,
                    types.join(" ")
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_show_as_a_table_and_as_json() {
        let counts = Counts::default();
        counts.count("internet", "example.com.", |zone| zone.question("A"));
        counts.count("internet", "example.com.", |zone| zone.answered += 1);
        let snapshot = counts.snapshot();
        assert!(snapshot.to_string().lines().nth(1).unwrap().ends_with("A=1"));
        let json = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(json["internet"]["example.com."]["by_type"]["A"], 1);
    }
}
