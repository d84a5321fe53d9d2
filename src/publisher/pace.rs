//! When to poll the publisher: blind sequences at each interval, all of them now and then. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Every how many polls of blind sequences all others are polled too, and how long that takes at most.
const POLLS_PER_FULL_POLL: u32 = 6;
const FULL_POLL_GAP_MAX: Duration = Duration::from_secs(60);

/// The next two deadlines. What is asked in between moves neither.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    interval: Duration,
    polled: Instant,
    polled_all: Instant,
}

impl Pace {
    /// Begins with a poll of everything at `now`.
    #[must_use]
    pub fn new(interval: Duration, now: Instant) -> Self {
        Pace { interval, polled: now, polled_all: now }
    }

    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    #[must_use]
    pub fn next(&self) -> Instant {
        (self.polled + self.interval).min(self.next_full())
    }

    /// Never more often than the interval, and else at most a minute after the last.
    fn next_full(&self) -> Instant {
        let gap = self.interval.saturating_mul(POLLS_PER_FULL_POLL).min(FULL_POLL_GAP_MAX);
        self.polled_all + gap.max(self.interval)
    }

    /// A poll begins at `now`, because it was time for it. Says whether it is one of all sequences.
    pub fn poll(&mut self, now: Instant) -> bool {
        self.polled = now;
        let full = now >= self.next_full();
        if full {
            self.polled_all = now;
        }
        full
    }

    /// Everything is polled at `now`, for another reason.
    pub fn polled_everything(&mut self, now: Instant) {
        (self.polled, self.polled_all) = (now, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds at which polls, and full polls, are due.
    fn polls(interval_s: u64, until_s: u64) -> (Vec<u64>, Vec<u64>) {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(interval_s), start);
        let (mut all, mut full) = (Vec::new(), Vec::new());
        while pace.next() <= start + Duration::from_secs(until_s) {
            let now = pace.next();
            let second = (now - start).as_secs();
            all.push(second);
            if pace.poll(now) {
                full.push(second);
            }
        }
        (all, full)
    }

    #[test]
    fn all_sequences_are_polled_at_least_every_minute() {
        assert_eq!(polls(10, 120).1, [60, 120]);
        assert_eq!(polls(1, 20).1, [6, 12, 18]);
        assert_eq!(polls(25, 120), (vec![25, 50, 60, 85, 110, 120], vec![60, 120]));
        assert_eq!(polls(300, 900), (vec![300, 600, 900], vec![300, 600, 900]), "as slowly as was asked for");
    }
}
