//! The table of figures.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::stats::{Median, median};

/// The bound that a figure must meet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    /// The figure may not be greater.
    AtMost(f64),
    /// The figure may not be less.
    AtLeast(f64),
    /// There is no bound: the figure helps to understand the others.
    None,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// The name of the figure.
    pub(crate) what: Cow<'static, str>,
    /// The measured value.
    pub(crate) measured: f64,
    /// The unit of the measured value.
    pub(crate) unit: &'static str,
    /// The ratio to another measurement of the same run: the median over the pairs, with its interval.
    pub(crate) ratio: Median,
    /// The name of that other measurement.
    pub(crate) to: &'static str,
    /// The bound of the ratio.
    pub(crate) bound: Bound,
    /// The number of pairs.
    pub(crate) pairs: usize,
    /// Other values of the same measurement.
    pub(crate) note: String,
}

impl Row {
    /// Returns the figure of pairs: each has a measured value and the value that it is compared with, in the same unit.
    pub(crate) fn of(
        what: impl Into<Cow<'static, str>>,
        unit: &'static str,
        pairs: &[(f64, f64)],
        to: &'static str,
        bound: Bound,
        note: String,
    ) -> Self {
        let measured: Vec<f64> = pairs.iter().map(|(measured, _)| *measured).collect();
        let ratios: Vec<f64> = pairs.iter().map(|(measured, baseline)| measured / baseline).collect();
        let (measured, ratio) = (median(&measured).value, median(&ratios));
        Self { what: what.into(), measured, unit, ratio, to, bound, pairs: pairs.len(), note }
    }

    /// Returns a figure whose bound is that of the measured value and not of a ratio.
    pub(crate) fn absolute(
        what: impl Into<Cow<'static, str>>,
        unit: &'static str,
        value: Median,
        bound: Bound,
        pairs: usize,
        note: String,
    ) -> Self {
        Self { what: what.into(), measured: value.value, unit, ratio: value, to: unit, bound, pairs, note }
    }

    /// Returns the texts of its columns.
    pub(crate) fn cells(&self) -> [String; HEAD.len()] {
        let verdict = match self.is_kept() {
            Some(true) => "kept",
            Some(false) => "MISSED",
            None => "-",
        };
        let Median { value, low, high } = self.ratio;
        [
            self.what.clone().into_owned(),
            format!("{} {}", short(self.measured), self.unit),
            format!("{value:.3} {}", self.to),
            format!("{low:.3} to {high:.3} ({})", self.pairs),
            self.bound.to_string(),
            verdict.to_owned(),
            self.note.clone(),
        ]
    }

    /// Whether the median meets the bound; `None` without a bound.
    pub(crate) fn is_kept(&self) -> Option<bool> {
        match self.bound {
            Bound::AtMost(most) => Some(self.ratio.value <= most),
            Bound::AtLeast(least) => Some(self.ratio.value >= least),
            Bound::None => None,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::None => f.write_str("-"),
        }
    }
}

/// The names of the columns.
pub(crate) const HEAD: [&str; 7] = ["case", "measured", "ratio", "interval", "bound", "verdict", "note"];

/// Returns the rows as a table of text.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let mut widths = [0; HEAD.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn short(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_bound_is_shown_as_missed() {
        let median = Median { value: 0.96, low: 0.9, high: 1.0 };
        let row = Row {
            what: "x".into(),
            measured: 12_345.6,
            unit: "/s",
            ratio: median,
            to: "y",
            bound: Bound::AtLeast(0.97),
            pairs: 15,
            note: String::new(),
        };
        assert_eq!(row.is_kept(), Some(false));
        let text = table(&[row]);
        assert!(text.contains("12346 /s  0.960 y  0.900 to 1.000 (15)  >= 0.97  MISSED"), "{text}");
    }
}
