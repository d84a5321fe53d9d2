//! How much of the stream should be there before we wake for it.
//!
//! In: how many bytes each read brought, and when; how old the commits in it were. Out: the socket's receive low-water
//! mark.
//!
//! A publisher sends message by message. A reader that wakes for each costs both sides a context switch a message, and
//! in bulk that is most of the time. So the mark follows the rate: what arrives in a certain time wakes us once.
//!
//! | stream | collects for | and takes what is there after |
//! |---|---|---|
//! | quiet | no time: the mark is one byte | |
//! | commits as they are made | [`DELAY`] | [`PATIENCE`] |
//! | bulk: a backlog, or a long transaction | [`DELAY_IN_BULK`] | [`PATIENCE_IN_BULK`] |
//!
//! Bulk is what has come for [`LONG`] without a [`PAUSE`], and for [`CALM`] without a commit that was fresher than
//! [`STALE`]. Nobody waits for one row of it: what is not committed is not yet anybody's, and what is a second late is
//! not much later.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::session::LowWater;

/// What collecting may cost an id in a steady stream.
const DELAY: Duration = Duration::from_micros(500);

/// After this long whatever is there is read. The timer's own resolution, a millisecond, adds to it.
const PATIENCE: Duration = Duration::from_millis(1);

/// What it may cost in bulk: a hundredth of [`STALE`] at most, a tenth of [`LONG`].
const DELAY_IN_BULK: Duration = Duration::from_millis(5);
pub(super) const PATIENCE_IN_BULK: Duration = Duration::from_millis(10);

/// A commit that was so old when it was sent is part of a backlog.
const STALE: Duration = Duration::from_secs(1);

/// So long after a fresh commit another one may follow.
const CALM: Duration = Duration::from_secs(1);

/// What is shorter is a burst.
const LONG: Duration = Duration::from_millis(100);

/// Without a byte for so long the stream begins anew.
const PAUSE: Duration = Duration::from_millis(50);

/// The rate is measured over no less than this.
const WINDOW: Duration = Duration::from_millis(1);

/// Below so much it is not worth to wait for more: about one small commit.
const LEAST: u64 = 256;

/// From here on more is no gain: a wake-up for so much is a hundredth of the time it takes to decode and to send.
const MOST: u64 = 64 * 1024;

/// The mark of one stream's socket, set as [`Moderation`] says.
#[derive(Debug)]
pub struct Wakeups {
    low_water: Option<LowWater>,
    moderation: Moderation,
}

impl Wakeups {
    /// Nothing is ever moderated where there is no mark to set.
    #[must_use]
    pub fn of(low_water: Option<LowWater>) -> Self {
        Wakeups { low_water, moderation: Moderation::new(Instant::now()) }
    }

    /// For how long to wait at most before [`overdue`](Self::overdue) has to be called; `None`: as long as one likes.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        self.moderation.patience()
    }

    /// Whether nobody waits for what comes now.
    #[must_use]
    pub fn in_bulk(&self) -> bool {
        self.moderation.in_bulk
    }

    /// A read brought `bytes`.
    pub fn read(&mut self, now: Instant, bytes: usize) {
        if self.low_water.is_some() {
            let mark = self.moderation.read(now, bytes);
            self.set(mark);
        }
    }

    /// The newest commit of what was read was so old when the publisher sent it.
    pub fn committed(&mut self, now: Instant, lag: Duration) {
        let mark = self.moderation.committed(now, lag);
        self.set(mark);
    }

    /// The wait was as long as it may be: what is there now wakes the reader.
    pub fn overdue(&mut self) {
        let mark = self.moderation.overdue();
        self.set(mark);
    }

    fn set(&mut self, mark: Option<u32>) {
        let (Some(low_water), Some(mark)) = (&self.low_water, mark) else { return };
        if let Err(error) = low_water.set(mark) {
            debug!(%error, mark, "the receive low-water mark cannot be set: every message wakes the reader");
            // One that could be set must not stay: whatever is below it would wait for ever.
            let _ = low_water.set(1);
            self.low_water = None;
            self.moderation = Moderation::new(Instant::now());
        }
    }
}

impl Drop for Wakeups {
    /// Whoever reads from here on waits for every byte.
    fn drop(&mut self) {
        self.overdue();
    }
}

/// Follows the rate of one stream. It does no IO.
#[derive(Debug)]
struct Moderation {
    since: Instant,
    bytes: u64,
    /// Bytes per second, smoothed.
    rate: u64,
    mark: u64,
    /// Until then commits are taken as they are made.
    fresh_until: Instant,
    last: Instant,
    /// When it began to flow.
    flows_since: Instant,
    in_bulk: bool,
}

impl Moderation {
    /// A stream of which nothing is known.
    fn new(now: Instant) -> Self {
        Moderation {
            since: now,
            bytes: 0,
            rate: 0,
            mark: 1,
            fresh_until: now,
            last: now,
            flows_since: now,
            in_bulk: false,
        }
    }

    /// A read brought `bytes`. Gives the mark to set, if it should be another one from now on.
    fn read(&mut self, now: Instant, bytes: usize) -> Option<u32> {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if now.saturating_duration_since(self.last) >= PAUSE {
            self.flows_since = now;
        }
        self.last = now;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < WINDOW {
            return None;
        }
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = self.bytes.saturating_mul(1_000_000) / micros;
        // A pause ends bulk at once, a single burst does not begin it.
        self.rate = if rate < self.rate / 4 { rate } else { self.rate.midpoint(rate) };
        (self.since, self.bytes) = (now, 0);
        self.in_bulk = now >= self.fresh_until && now.saturating_duration_since(self.flows_since) >= LONG;
        let wanted = mark_for(self.rate, self.in_bulk);
        // Each change is a system call.
        let near = wanted >= self.mark / 2 && wanted <= self.mark.saturating_mul(2);
        if near && (wanted > 1) == (self.mark > 1) { None } else { self.set(wanted) }
    }

    /// A commit came that was `lag` old. Gives the mark to set, if it should be another one from now on.
    fn committed(&mut self, now: Instant, lag: Duration) -> Option<u32> {
        if lag >= STALE {
            return None;
        }
        self.fresh_until = now + CALM;
        if !std::mem::take(&mut self.in_bulk) {
            return None;
        }
        let wanted = mark_for(self.rate, false);
        if wanted < self.mark { self.set(wanted) } else { None }
    }

    /// Nothing came within [`patience`](Self::patience): what is there is wanted now. Gives the mark to set.
    fn overdue(&mut self) -> Option<u32> {
        if self.mark == 1 { None } else { self.set(1) }
    }

    /// How long less than the mark may lie there.
    fn patience(&self) -> Option<Duration> {
        match (self.mark, self.in_bulk) {
            (1, _) => None,
            (_, true) => Some(PATIENCE_IN_BULK),
            (_, false) => Some(PATIENCE),
        }
    }

    fn set(&mut self, mark: u64) -> Option<u32> {
        self.mark = mark;
        u32::try_from(mark).ok()
    }
}

fn mark_for(rate: u64, in_bulk: bool) -> u64 {
    let delay = if in_bulk { DELAY_IN_BULK } else { DELAY };
    let micros = u64::try_from(delay.as_micros()).unwrap_or(0);
    let within = rate.saturating_mul(micros) / 1_000_000;
    if within < LEAST { 1 } else { within.min(MOST) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads of `bytes`, one each `gap`.
    fn steady(
        moderation: &mut Moderation,
        now: &mut Instant,
        reads: u32,
        bytes: usize,
        gap: Duration,
    ) -> u64 {
        for _ in 0..reads {
            *now += gap;
            moderation.read(*now, bytes);
        }
        moderation.mark
    }

    const FRESH: Duration = Duration::from_millis(1);

    #[test]
    fn commits_as_they_are_made_are_collected_for_half_a_millisecond() {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        // A few commits a second: none waits.
        assert_eq!(steady(&mut moderation, &mut now, 100, 300, Duration::from_millis(60)), 1);
        assert_eq!(moderation.patience(), None);
        // 5,000 commits a second of 400 bytes: 2 MB/s.
        for _ in 0..1000 {
            moderation.committed(now, FRESH);
            steady(&mut moderation, &mut now, 1, 400, Duration::from_micros(200));
        }
        assert!((500..=2000).contains(&moderation.mark), "{}", moderation.mark);
        assert_eq!(moderation.patience(), Some(PATIENCE));
        // The next read after a pause ends it.
        assert_eq!(steady(&mut moderation, &mut now, 1, 300, Duration::from_secs(1)), 1);
    }

    #[test]
    fn a_long_transaction_is_bulk_until_a_fresh_commit_comes() {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        let ten_mb_per_second = |moderation: &mut Moderation, now: &mut Instant, milliseconds: u32| {
            steady(moderation, now, milliseconds * 2, 5000, Duration::from_micros(500))
        };
        let burst = ten_mb_per_second(&mut moderation, &mut now, 90);
        assert!((2000..10_000).contains(&burst), "{burst}");
        assert_eq!(moderation.patience(), Some(PATIENCE), "a burst is none");
        let bulk = ten_mb_per_second(&mut moderation, &mut now, 100);
        assert!((25_000..=MOST).contains(&bulk), "{bulk}");
        assert_eq!(moderation.patience(), Some(PATIENCE_IN_BULK));
        // Of a backlog.
        assert_eq!(moderation.committed(now, STALE), None);
        assert_eq!(moderation.patience(), Some(PATIENCE_IN_BULK));
        // Somebody else's, as it is made.
        let mark = moderation.committed(now, FRESH).unwrap();
        assert!((2000..10_000).contains(&mark), "{mark}");
        assert_eq!(moderation.patience(), Some(PATIENCE));
        ten_mb_per_second(&mut moderation, &mut now, 900);
        assert_eq!(moderation.patience(), Some(PATIENCE));
        ten_mb_per_second(&mut moderation, &mut now, 200);
        assert_eq!(moderation.patience(), Some(PATIENCE_IN_BULK));
    }

    #[test]
    fn what_is_overdue_is_taken_and_bulk_goes_on() {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        steady(&mut moderation, &mut now, 300, 60_000, Duration::from_millis(1));
        assert_eq!(moderation.overdue(), Some(1));
        assert_eq!(moderation.overdue(), None);
        now += Duration::from_millis(2);
        assert_eq!(moderation.read(now, 50_000), Some(65_536));
    }

    #[test]
    fn a_mark_near_the_one_that_is_set_is_no_system_call() {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        let mut changes = 0;
        for n in 0..1000_usize {
            now += Duration::from_millis(1);
            changes += u32::from(moderation.read(now, 4000 + n % 3000).is_some());
        }
        assert!(changes < 10, "{changes}");
    }

    proptest! {
        #[test]
        fn the_mark_is_never_zero_and_never_more_than_the_most(
            reads in prop::collection::vec(
                (0_u64..300_000, 0_usize..10_000_000, any::<bool>(), prop::option::of(0_u64..2000)),
                0..200,
            ),
        ) {
            let mut now = Instant::now();
            let mut moderation = Moderation::new(now);
            for (gap, bytes, overdue, lag) in reads {
                now += Duration::from_micros(gap);
                if let Some(mark) = moderation.read(now, bytes) {
                    prop_assert!((1..=65_536).contains(&mark));
                    prop_assert_eq!(u64::from(mark), moderation.mark);
                }
                if let Some(mark) = lag.and_then(|lag| moderation.committed(now, Duration::from_millis(lag))) {
                    prop_assert!((1..=65_536).contains(&mark));
                    prop_assert_eq!(u64::from(mark), moderation.mark);
                }
                if overdue {
                    moderation.overdue();
                    prop_assert_eq!(moderation.patience(), None);
                }
            }
        }
    }
}
