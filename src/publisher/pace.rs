//! When to poll the publisher: while the stream flows, blind sequences at each interval and all of them now and then;
//! while it does not, all of them all the time. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Every how many polls of blind sequences all others are polled too, and how long that takes at most.
const POLLS_PER_FULL_POLL: u32 = 6;
const FULL_POLL_GAP_MAX: Duration = Duration::from_secs(60);

/// Between two polls while no stream flows. A lead lasts for seconds, so more often gains nothing; less often, each
/// sequence would need more lead, and would be behind for longer when its pace rises.
const GAP: Duration = Duration::from_secs(1);

/// No poll begins before this many times what the last one took: a hundred thousand sequences take the publisher more
/// than a second, and must not keep it busy all the time.
const REST: u32 = 10;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// All sequences, not only those that the stream does not show.
    pub all: bool,
    /// Their tables too.
    pub tables: bool,
    /// What the publisher's catalog and publications say.
    pub compare: bool,
}

/// The next deadlines. What is asked in between moves none.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    interval: Duration,
    flowing: bool,
    polled: Instant,
    /// All sequences, in any pace, and their tables.
    compared: Instant,
    tables: Instant,
    values_took: Duration,
    tables_took: Duration,
}

impl Pace {
    /// Begins with a poll of everything at `now`, when nobody knows of a stream.
    #[must_use]
    pub fn new(interval: Duration, now: Instant) -> Self {
        Pace {
            interval,
            flowing: false,
            polled: now,
            compared: now,
            tables: now,
            values_took: Duration::ZERO,
            tables_took: Duration::ZERO,
        }
    }

    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// The stream shows what happens on the publisher, or does not (any more).
    pub fn set_flowing(&mut self, flowing: bool) {
        self.flowing = flowing;
    }

    #[must_use]
    pub fn is_flowing(&self) -> bool {
        self.flowing
    }

    /// How long the publisher took for the values of all sequences.
    pub fn took_for_values(&mut self, took: Duration) {
        self.values_took = took;
    }

    /// How long it took for their tables.
    pub fn took_for_tables(&mut self, took: Duration) {
        self.tables_took = took;
    }

    /// From one poll to the next.
    #[must_use]
    pub fn gap(&self) -> Duration {
        if self.flowing { self.interval } else { GAP.max(self.values_took * REST).min(self.interval) }
    }

    /// How long a sequence that polls alone follow may have to do with what one of them said: tables are read between
    /// two of them.
    #[must_use]
    pub fn every(&self) -> Duration {
        self.gap() + self.values_took + self.tables_took
    }

    #[must_use]
    pub fn next(&self) -> Instant {
        (self.polled + self.gap()).min(self.next_full())
    }

    /// Never more often than the interval, and else at most a minute after the last.
    fn next_full(&self) -> Instant {
        let gap = self.interval.saturating_mul(POLLS_PER_FULL_POLL).min(FULL_POLL_GAP_MAX);
        self.compared + gap.max(self.interval)
    }

    /// A poll begins at `now`, because it was time for it. Says of what.
    pub fn poll(&mut self, now: Instant) -> Due {
        self.polled = now;
        let compare = now >= self.next_full();
        if compare {
            self.compared = now;
        }
        let tables_gap = self.interval.max(self.gap()).max(self.tables_took * REST);
        let tables = compare || !self.flowing && now >= self.tables + tables_gap;
        if tables {
            self.tables = now;
        }
        Due { all: compare || !self.flowing, tables, compare }
    }

    /// Everything is polled at `now`, for another reason.
    pub fn polled_everything(&mut self, now: Instant) {
        (self.polled, self.compared, self.tables) = (now, now, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// The seconds at which polls are due, and what of.
    fn polls(mut pace: Pace, start: Instant, until_s: u64) -> Vec<(u64, Due)> {
        let mut all = Vec::new();
        while pace.next() <= start + S(until_s) {
            let now = pace.next();
            all.push(((now - start).as_secs(), pace.poll(now)));
        }
        all
    }

    /// The seconds at which polls, and full polls, are due while the stream flows.
    fn flowing(interval_s: u64, until_s: u64) -> (Vec<u64>, Vec<u64>) {
        let start = Instant::now();
        let mut pace = Pace::new(S(interval_s), start);
        pace.set_flowing(true);
        let polls = polls(pace, start, until_s);
        let full = polls.iter().filter(|(_, due)| due.all && due.tables && due.compare);
        (polls.iter().map(|(at, _)| *at).collect(), full.map(|(at, _)| *at).collect())
    }

    #[test]
    fn all_sequences_are_polled_at_least_every_minute() {
        assert_eq!(flowing(10, 120).1, [60, 120]);
        assert_eq!(flowing(1, 20).1, [6, 12, 18]);
        assert_eq!(flowing(25, 120), (vec![25, 50, 60, 85, 110, 120], vec![60, 120]));
        assert_eq!(
            flowing(300, 900),
            (vec![300, 600, 900], vec![300, 600, 900]),
            "as slowly as was asked for"
        );
    }

    #[test]
    fn without_a_stream_all_sequences_are_polled_every_second_and_their_tables_at_the_interval() {
        let start = Instant::now();
        let polls = polls(Pace::new(S(10), start), start, 60);
        assert_eq!(polls.len(), 60);
        assert!(polls.iter().all(|(_, due)| due.all));
        let at =
            |is: fn(&Due) -> bool| polls.iter().filter(|(_, d)| is(d)).map(|(at, _)| *at).collect::<Vec<_>>();
        assert_eq!(at(|due| due.tables), [10, 20, 30, 40, 50, 60]);
        assert_eq!(at(|due| due.compare), [60]);
    }

    #[test]
    fn what_takes_the_publisher_long_is_asked_less_often_and_the_lead_knows() {
        let start = Instant::now();
        let mut pace = Pace::new(S(10), start);
        assert_eq!(pace.every(), S(1));
        pace.took_for_values(Duration::from_millis(400));
        pace.took_for_tables(S(3));
        assert_eq!(
            polls(pace, start, 30).iter().map(|(at, _)| *at).collect::<Vec<_>>(),
            [4, 8, 12, 16, 20, 24, 28]
        );
        assert_eq!(pace.every(), Duration::from_millis(7_400));
        assert!(polls(pace, start, 29).iter().all(|(_, due)| !due.tables), "a tenth of the time at most");
        pace.took_for_values(S(5));
        assert_eq!(pace.next(), start + S(10), "at the interval at least");
        pace.set_flowing(true);
        assert_eq!(pace.every(), S(18));
    }

    #[test]
    fn a_short_interval_counts_without_a_stream_too() {
        let start = Instant::now();
        let pace = Pace::new(Duration::from_millis(300), start);
        assert_eq!(pace.next(), start + Duration::from_millis(300));
    }
}
