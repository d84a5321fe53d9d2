//! Middle values, percentiles, histograms.

use std::time::Duration;

/// The middle one of several rounds.
pub fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Durations in the order of their length.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn new(mut samples: Vec<Duration>) -> Samples {
        samples.sort_unstable();
        Samples(samples)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// In milliseconds; `share` from 0 to 1.
    pub fn percentile(&self, share: f64) -> f64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
        self.0.get(index).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1e3)
    }

    /// How large a share of the samples took up to each of these times: points of a curve, milliseconds and share.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        (0..=200).map(|n| f64::from(n) / 200.0).map(|share| (self.percentile(share), share)).collect()
    }
}
