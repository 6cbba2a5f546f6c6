//! What the windows of the adaptive rate are for, how long they are and by how much experiments change what is sent.

use std::time::Duration;

/// What a raised window multiplies the rate by: near a known limit, after one that rose, and where no limit is known.
pub const STEPS: [f64; 3] = [1.06, 1.25, 2.0];
/// How long such a window takes: small steps take longer to tell from chance.
const RAISED: [Duration; 3] =
    [Duration::from_millis(1000), Duration::from_millis(500), Duration::from_millis(250)];
/// How long a rise near a known limit has to last besides: at 1.06 x the limit it takes 120 packets of a limit of 1,000 that were saved
/// up. Below the limit some 90 are, until the next raise.
const HELD: Duration = Duration::from_secs(2);
/// How far a pulse goes below and above what comes in.
pub const PULSE: f64 = 0.4;
/// How long each half of it takes, where enough packets go out in it.
const HALF_PULSE: Duration = Duration::from_millis(250);
/// The longest half of a pulse: the first packet of it waits for two thirds as long.
const LONGEST_HALF: Duration = Duration::from_secs(1);
/// The longest window.
pub const LONGEST: Duration = Duration::from_secs(2);

/// What a window is for.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// The rate as it is.
    Cruise,
    /// Less, after a limit was found.
    Drain,
    /// The lower half of a pulse.
    Low {
        /// The rate of the upper half.
        high: f64,
    },
    /// The higher rate of an experiment.
    Trial {
        /// The number of the window that it is compared with.
        base: u32,
        /// How it is made.
        kind: Kind,
    },
    /// The same where the rate was raised and no more delivered, until the window after it is judged.
    Doubted,
    /// What follows the higher rate, for as long: the lower one again.
    After(Kind),
}

/// How an experiment is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By this step.
    Raised(usize),
    /// Raised near a known limit, and gone on with: what rose may have been what a limiter had saved up.
    Held,
    /// More and less than what comes in.
    Pulse,
}

impl Kind {
    /// How long the higher rate lasts.
    pub fn length(self) -> Duration {
        match self {
            Kind::Raised(step) => RAISED.get(step).copied().unwrap_or(LONGEST),
            Kind::Held => HELD,
            Kind::Pulse => HALF_PULSE,
        }
    }

    /// How long it lasts at most, where few packets go out.
    pub fn longest(self) -> Duration {
        match self {
            Kind::Raised(_) | Kind::Held => LONGEST,
            Kind::Pulse => LONGEST_HALF,
        }
    }
}
