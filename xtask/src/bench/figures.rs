//! What was measured: figures of both sides, their ratio, and what it should be.

use serde::{Deserialize, Serialize};

/// What a value should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// No less than this.
    AtLeast(f64),
    /// No more than this.
    AtMost(f64),
}

impl Bound {
    /// Whether `value` is so.
    pub(crate) fn met(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        }
    }

    /// How far `value` is on the right side of it: 1 is just met, more is better.
    pub(crate) fn margin(self, value: f64) -> f64 {
        match self {
            Bound::AtLeast(bound) => value / bound,
            Bound::AtMost(bound) => bound / value,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bound::AtLeast(bound) => write!(f, "≥ {bound}"),
            Bound::AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

/// One target.
#[derive(Debug)]
pub(crate) struct Goal {
    /// What is measured.
    pub(crate) what: &'static str,
    /// What it should be.
    pub(crate) bound: Bound,
    /// What the bound is counted in: `× nbdkit null`, `ms`.
    pub(crate) of: &'static str,
}

/// One side's figures, one for each round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Side {
    /// Whose.
    pub(crate) name: String,
    /// In the outcome's unit.
    pub(crate) figures: Vec<f64>,
    /// Median latency and the 99th percentile of each round, µs, where the load knows it.
    pub(crate) latency_us: Vec<(f64, f64)>,
    /// Seconds of the server's processors for a million requests, of each round.
    pub(crate) server_cpu: Vec<f64>,
}

impl Side {
    /// One with figures alone.
    pub(crate) fn new(name: &str, figures: Vec<f64>) -> Self {
        Side {
            name: name.to_owned(),
            figures,
            ..Side::default()
        }
    }

    /// Its median.
    pub(crate) fn median(&self) -> f64 {
        median(&self.figures)
    }
}

/// What came out for one goal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// What the goal's bound is held against.
    pub(crate) value: f64,
    /// Of the sides' figures.
    pub(crate) unit: String,
    /// The first is ours.
    pub(crate) sides: Vec<Side>,
    /// What else there is to say.
    pub(crate) note: String,
}

impl Outcome {
    /// The median over the rounds of ours divided by the best peer's in the same round. The best peer is the one with the best median:
    /// the highest, or the lowest where less is better.
    pub(crate) fn ratio(unit: &str, sides: Vec<Side>, less_is_better: bool) -> Option<Self> {
        let (ours, peers) = sides.split_first()?;
        let better = |a: &&Side, b: &&Side| match less_is_better {
            true => b.median().total_cmp(&a.median()),
            false => a.median().total_cmp(&b.median()),
        };
        let best = peers.iter().max_by(better)?;
        let ratios: Vec<f64> = ours
            .figures
            .iter()
            .zip(&best.figures)
            .map(|(ours, best)| ours / best)
            .collect();
        let note = format!(
            "against {}; rounds {:.2} to {:.2}",
            best.name,
            least(&ratios),
            most(&ratios)
        );
        Some(Outcome {
            value: median(&ratios),
            unit: unit.to_owned(),
            note,
            sides,
        })
    }

    /// A figure of ours that stands for itself: its median.
    pub(crate) fn alone(unit: &str, figures: Vec<f64>) -> Self {
        let ours = Side::new("holdfast", figures);
        Outcome {
            value: ours.median(),
            unit: unit.to_owned(),
            sides: vec![ours],
            note: String::new(),
        }
    }

    /// With something to say beside it.
    pub(crate) fn noting(mut self, note: String) -> Self {
        self.note = note;
        self
    }
}

/// The one in the middle; zero of nothing.
pub(crate) fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}

/// The figure below which the share `q` of them is; between two of them, in proportion.
pub(crate) fn quantile(figures: &[f64], q: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = last as f64 * q;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

/// The least of them; zero of nothing.
pub(crate) fn least(figures: &[f64]) -> f64 {
    quantile(figures, 0.0)
}

/// The most of them; zero of nothing.
pub(crate) fn most(figures: &[f64]) -> f64 {
    quantile(figures, 1.0)
}

#[cfg(test)]
mod tests {
    use super::{Bound, Outcome, Side, median, quantile};

    #[test]
    fn quantiles_lie_between_figures() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(quantile(&[0.0, 10.0], 0.99), 9.9);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn rounds_are_paired_and_the_best_peer_is_taken() {
        let sides = vec![
            Side::new("holdfast", vec![20.0, 10.0, 40.0]),
            Side::new("slow", vec![1.0, 1.0, 1.0]),
            Side::new("best", vec![10.0, 10.0, 10.0]),
        ];
        let outcome = Outcome::ratio("IOPS", sides.clone(), false).unwrap();
        assert_eq!(outcome.value, 2.0);
        assert!(outcome.note.contains("best"));
        // Where less is better, so is the peer with less.
        assert_eq!(Outcome::ratio("s", sides, true).unwrap().value, 20.0);
    }

    #[test]
    fn a_margin_is_more_than_one_when_met() {
        assert!(Bound::AtLeast(2.0).met(2.0) && Bound::AtLeast(2.0).margin(3.0) == 1.5);
        assert!(!Bound::AtMost(2.0).met(4.0) && Bound::AtMost(2.0).margin(4.0) == 0.5);
    }
}
