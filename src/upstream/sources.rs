//! Where servers come from that may become others, and what came of looking there.

use super::tally::Tally;

/// What a look did to the set of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is another one now.
    Changed,
    /// It is the same.
    Same,
    /// What was found is nothing to go by; the last set stays.
    Kept,
}

impl Heard {
    /// All of them, in the order of their counters.
    pub const ALL: [Heard; 3] = [Heard::Changed, Heard::Same, Heard::Kept];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Heard::Changed => "changed",
            Heard::Same => "same",
            Heard::Kept => "kept",
        }
    }
}

/// A source of servers.
pub struct Source {
    /// As it is written in a configuration.
    pub text: String,
    heard: Tally<{ Heard::ALL.len() }>,
}

impl Source {
    /// One where nobody has looked yet.
    pub fn new(text: String) -> Source {
        Source { text, heard: Tally::default() }
    }

    /// Counts a look.
    pub fn count(&self, heard: Heard) {
        self.heard.count(heard as usize);
    }

    /// Looks by what came of them.
    pub fn heard(&self) -> [(Heard, u64); Heard::ALL.len()] {
        Heard::ALL.map(|heard| (heard, self.heard.get(heard as usize)))
    }
}
