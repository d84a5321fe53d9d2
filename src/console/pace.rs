//! How long ago the publisher's WAL ended where we have confirmed, and how many ids come in a second: from samples
//! taken once a second, so that nobody on the way has to keep time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::Lsn;

/// How often to sample.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// More samples than these are thinned out: a lag of hours needs no second.
const SAMPLES_MAX: usize = 1024;

/// Over so many samples ids are counted.
const RATE_SAMPLES: usize = 10;

/// Samples, shared by the clients.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    samples: Arc<Mutex<Samples>>,
}

#[derive(Debug, Default)]
struct Samples {
    /// When the publisher's WAL first ended there, for what is not confirmed yet.
    ends: VecDeque<(Instant, Lsn)>,
    rows: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// Takes a sample.
    pub(super) fn sample(&self, wal_end: Lsn, confirmed: Lsn, rows: u64) {
        self.lock().add(Instant::now(), wal_end, confirmed, rows);
    }

    /// For how long the publisher's WAL has gone on past `confirmed`.
    pub(super) fn lag_seconds(&self, confirmed: Lsn) -> f64 {
        self.lock().lag(Instant::now(), confirmed)
    }

    /// Ids a second of late; `None` before the second sample.
    pub(super) fn ids_per_second(&self) -> Option<f64> {
        self.lock().rate()
    }

    fn lock(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Samples {
    fn add(&mut self, now: Instant, wal_end: Lsn, confirmed: Lsn, rows: u64) {
        while self.ends.front().is_some_and(|(_, end)| *end <= confirmed) {
            self.ends.pop_front();
        }
        // Another publisher, or an older copy of it: what was sampled means nothing.
        if self.ends.back().is_some_and(|(_, end)| *end > wal_end) {
            self.ends.clear();
        }
        if wal_end > confirmed && self.ends.back().is_none_or(|(_, end)| *end < wal_end) {
            self.ends.push_back((now, wal_end));
        }
        if self.ends.len() > SAMPLES_MAX {
            let mut index = 0_usize;
            self.ends.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.rows.push_back((now, rows));
        if self.rows.len() > RATE_SAMPLES {
            self.rows.pop_front();
        }
    }

    fn lag(&self, now: Instant, confirmed: Lsn) -> f64 {
        let first = self.ends.iter().find(|(_, end)| *end > confirmed);
        first.map_or(0.0, |(since, _)| rounded(now.saturating_duration_since(*since).as_secs_f64()))
    }

    fn rate(&self) -> Option<f64> {
        let ((from, before), (to, after)) = (self.rows.front()?, self.rows.back()?);
        let seconds = to.saturating_duration_since(*from).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // for people
        let rows = after.saturating_sub(*before) as f64;
        (seconds > 0.0).then(|| rounded(rows / seconds))
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_the_age_of_what_is_not_confirmed() {
        let (start, mut samples) = (Instant::now(), Samples::default());
        let at = |second: u64| start + Duration::from_secs(second);
        for second in 0..100 {
            samples.add(at(second), Lsn(1000 + second), Lsn(1000 + second.min(40)), second * 7);
        }
        assert!((samples.lag(at(100), Lsn(1040)) - 59.0).abs() < 0.1);
        assert!((samples.lag(at(100), Lsn(1090)) - 9.0).abs() < 0.1);
        assert!(samples.lag(at(100), Lsn(1099)).abs() < 0.1);
        assert!((samples.rate().unwrap() - 7.0).abs() < 0.1);
        samples.add(at(101), Lsn(5), Lsn(5), 0);
        assert!(samples.ends.is_empty());
    }

    #[test]
    fn samples_do_not_grow_without_end() {
        let (start, mut samples) = (Instant::now(), Samples::default());
        for second in 0..50_000 {
            samples.add(start + Duration::from_secs(second), Lsn(10 + second), Lsn(9), 0);
        }
        assert!(samples.ends.len() <= SAMPLES_MAX && samples.rows.len() <= RATE_SAMPLES);
        assert!((samples.lag(start + Duration::from_secs(50_000), Lsn(9)) - 50_000.0).abs() < 0.1);
    }
}
