//! What cases find besides their rows: versions of other programs, and the data of charts.

use std::cell::RefCell;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::histogram;
use crate::stats::{Median, median};

/// The shares of requests of which a chart shows the time.
const SHARES: [f64; 13] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999];

/// A bar of a chart.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Bar {
    /// The title of the chart, which all its bars have.
    pub(crate) chart: String,
    /// The unit of the value.
    pub(crate) unit: &'static str,
    /// What was measured.
    pub(crate) label: String,
    /// The value.
    pub(crate) value: Median,
}

/// A line of a chart: times by the share of requests that took at most so long.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    /// The title of the chart, which all its lines have.
    pub(crate) chart: String,
    /// What was measured.
    pub(crate) label: String,
    /// Shares, each with its time in microseconds.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A bar of steps, one after another.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stack {
    /// The title of the chart, which all its bars have.
    pub(crate) chart: String,
    /// What was measured.
    pub(crate) label: String,
    /// The steps, each with its time in milliseconds.
    pub(crate) steps: Vec<(String, f64)>,
}

/// What the cases of one run have found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Findings {
    /// Versions of other programs.
    pub(crate) versions: RefCell<Vec<String>>,
    /// The bars of all charts.
    pub(crate) bars: RefCell<Vec<Bar>>,
    /// The lines of all charts.
    pub(crate) lines: RefCell<Vec<Line>>,
    /// The bars of steps of all charts.
    pub(crate) stacks: RefCell<Vec<Stack>>,
}

impl Findings {
    /// Notes the version of another program.
    pub(crate) fn add_version(&self, version: &str) {
        let mut versions = self.versions.borrow_mut();
        if !versions.iter().any(|known| known == version) {
            versions.push(version.to_owned());
        }
    }

    /// Adds a bar with the median of several measurements.
    pub(crate) fn add_bar(&self, chart: &str, unit: &'static str, label: &str, values: &[f64]) {
        let (chart, label) = (chart.to_owned(), label.to_owned());
        self.bars.borrow_mut().push(Bar { chart, unit, label, value: median(values) });
    }

    /// Adds a line with the times of several measurements, in nanoseconds.
    pub(crate) fn add_line<'a>(
        &self,
        chart: &str,
        label: &str,
        times: impl IntoIterator<Item = &'a Histogram<u64>>,
    ) {
        let mut all = histogram();
        for times in times {
            // They have the same bounds.
            let _ = all.add(times);
        }
        // Beyond the last request there is nothing to show.
        let shares = SHARES.iter().filter(|share| (1.0 - **share) * all.len() as f64 >= 1.0);
        let points = shares.map(|share| (*share, all.value_at_quantile(*share) as f64 / 1000.0)).collect();
        self.lines.borrow_mut().push(Line { chart: chart.to_owned(), label: label.to_owned(), points });
    }

    /// Adds a bar of steps in milliseconds.
    pub(crate) fn add_stack(&self, chart: &str, label: &str, steps: Vec<(String, f64)>) {
        self.stacks.borrow_mut().push(Stack { chart: chart.to_owned(), label: label.to_owned(), steps });
    }
}
