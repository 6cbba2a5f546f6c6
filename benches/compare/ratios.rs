//! The ratios that the promises are about, round by round: both sides of a pair stood in the same minute.

use crate::Results;
use crate::contenders::Role;
use crate::measure::{Row, Sample};
use crate::workloads::Workload;

/// Least, middle and greatest of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Spread {
        let mut all: Vec<f64> = numbers.into_iter().collect();
        all.sort_by(f64::total_cmp);
        let middle = all.len() / 2;
        let median = if all.len() % 2 == 1 { all[middle] } else { (all[middle - 1] + all[middle]) / 2.0 };
        Spread { least: all[0], median, most: all[all.len() - 1] }
    }

    /// Of the costs of some runs.
    pub fn of_costs(samples: &[Sample]) -> Spread {
        Spread::of(samples.iter().map(Sample::cost_us))
    }
}

/// One cost in parts of another.
pub struct Ratio {
    pub what: String,
    pub spread: Spread,
    /// Not to be exceeded by the median.
    pub goal: Option<f64>,
}

impl Ratio {
    pub fn is_met(&self) -> Option<bool> {
        self.goal.map(|goal| self.spread.median <= goal)
    }
}

/// Of all that was measured.
pub fn all(results: &Results) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for (workload, rows) in &results.rows {
        let Some(ours) = rows.iter().find(|row| row.contender.role == Role::Ours) else { continue };
        let echo = rows.iter().find(|row| row.contender.role == Role::Echo);
        ratios.extend(echo.and_then(|echo| pairs(*workload, ours, echo, Some(1.15))));
        let goal = match workload {
            Workload::HotUdp => Some(0.82),
            Workload::HotTcp => Some(0.8),
            _ => None,
        };
        let best = best_peer(rows, ours);
        ratios.extend(best.and_then(|best| pairs(*workload, ours, best, goal)));
        // What the kernel leaves to be gained.
        let floor = rows.iter().find(|row| row.contender.role == Role::Floor);
        ratios.extend(floor.zip(best).and_then(|(floor, best)| pairs(*workload, floor, best, None)));
    }
    for line in &results.learned {
        let Some(echo) = line.against.and_then(|index| results.learned.get(index)) else { continue };
        let costs = |samples: &[Sample]| samples.iter().map(Sample::cost_us).collect::<Vec<_>>();
        let spread = each(&costs(&line.samples), &costs(&echo.samples));
        ratios.push(Ratio {
            what: format!("250 clients: {} / {}", line.label, echo.label),
            spread,
            goal: Some(1.15),
        });
    }
    let memory = |name: &str| results.memory.iter().find(|one| one.contender.name == name)?.bytes_each;
    if let (Some(ours), Some(unbound)) = (memory("nodens"), memory("unbound")) {
        let spread = Spread::of([ours / unbound]);
        ratios.push(Ratio { what: "memory per answer: nodens / unbound".into(), spread, goal: Some(1.0) });
    }
    ratios
}

/// The cheapest peer that keeps up with the rate and answers practically everything.
pub fn best_peer<'a>(rows: &'a [Row], ours: &Row) -> Option<&'a Row> {
    let cost = |row: &Row| Spread::of_costs(&row.samples).median;
    rows.iter()
        .filter(|row| row.contender.role == Role::Peer && row.rate == ours.rate && row.is_reliable())
        .min_by(|one, other| cost(one).total_cmp(&cost(other)))
}

/// Nothing where the two were offered different rates.
fn pairs(workload: Workload, ours: &Row, other: &Row, goal: Option<f64>) -> Option<Ratio> {
    let costs = |row: &Row| row.samples.iter().map(Sample::cost_us).collect::<Vec<_>>();
    let what = format!("{}: {} / {}", workload.title(), ours.contender.name, other.contender.name);
    (ours.rate == other.rate).then(|| Ratio { what, spread: each(&costs(ours), &costs(other)), goal })
}

fn each(ones: &[f64], others: &[f64]) -> Spread {
    Spread::of(ones.iter().zip(others).map(|(one, other)| one / other))
}

/// Fails where the middle is not the middle.
pub fn check_spread() {
    let spread = |numbers: &[f64]| Spread::of(numbers.iter().copied());
    assert_eq!(spread(&[3.0, 1.0, 2.0]), Spread { least: 1.0, median: 2.0, most: 3.0 });
    assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
    assert_eq!(each(&[2.0, 9.0], &[1.0, 3.0]), Spread { least: 2.0, median: 2.5, most: 3.0 });
}
