//! Statistics of repeated measurements.

/// A median with the interval that contains the true one in about 19 of 20 such runs.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(crate) struct Median {
    /// The middle value.
    pub(crate) value: f64,
    /// The interval's lower end.
    pub(crate) low: f64,
    /// The interval's upper end.
    pub(crate) high: f64,
}

/// Returns the median of at least one and at most a hundred measurements. Its interval comes from order statistics (how
/// often a fair coin shows heads), so it does not depend on the distribution of the values. The interval of fewer than
/// six values is that from the least to the greatest.
pub(crate) fn median(values: &[f64]) -> Median {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let middle = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
    let out = outside(n);
    Median { value: middle, low: sorted[out], high: sorted[n - 1 - out] }
}

/// Returns how many values can be left out at each end so that the interval of the rest contains the median with a
/// probability of 95 %.
fn outside(n: usize) -> usize {
    // The probability that no value, then that one more, is below the median: tosses of a fair coin.
    let mut chance = 0.5_f64.powi(n as i32);
    let mut at_most = chance;
    for out in 0..n {
        chance *= (n - out) as f64 / (out + 1) as f64;
        at_most += chance;
        if 2.0 * at_most > 0.05 {
            return out;
        }
    }
    0
}

/// Returns the least value that a share of all values does not exceed.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_fifteen_values_leaves_out_three_at_each_end() {
        let values: Vec<f64> = (1..=15).rev().map(f64::from).collect();
        assert_eq!(median(&values), Median { value: 8.0, low: 4.0, high: 12.0 });
    }

    #[test]
    fn few_values_have_the_widest_interval() {
        assert_eq!(median(&[3.0, 1.0]), Median { value: 2.0, low: 1.0, high: 3.0 });
        assert_eq!(median(&[7.0]), Median { value: 7.0, low: 7.0, high: 7.0 });
        let five = median(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!((five.low, five.high), (1.0, 5.0));
    }
}
