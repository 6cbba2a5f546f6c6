//! What is counted and said: per-worker [`cells`] summed at scrape by [`metrics`], a [`ring`] of each worker's last
//! answers, and a [`log`] with a budget.
//!
//! Nothing here decides anything: no other module reads a count to choose what to do.

pub mod cells;
pub mod log;
pub mod metrics;
pub mod ring;
