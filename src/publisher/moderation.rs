//! How much of the stream should be there before we wake for it.
//!
//! In: how many bytes each read brought, and when. Out: the socket's receive low-water mark.
//!
//! A publisher sends message by message. A reader that wakes for each costs both sides a context switch a message, and
//! in bulk that is most of the time. So the mark follows the rate: what arrives in [`DELAY`] wakes us once. A quiet
//! stream has a mark of one byte and loses nothing; at most [`PATIENCE`] goes by until what is below the mark is taken,
//! and [`PATIENCE_IN_BULK`] at the end of bulk.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::session::LowWater;

/// What collecting may cost an id in a steady stream.
const DELAY: Duration = Duration::from_micros(500);

/// After this long whatever is there is read. The timer's own resolution, a millisecond, adds to it.
const PATIENCE: Duration = Duration::from_millis(1);

/// The same in bulk, where a millisecond is not enough for [`MOST`]: only the end of the bulk waits so long, and what
/// comes after it falls under [`PATIENCE`] again.
const PATIENCE_IN_BULK: Duration = Duration::from_millis(10);

/// The rate is measured over no less than this.
const WINDOW: Duration = Duration::from_millis(1);

/// Below so much it is not worth to wait for more: about one small commit.
const LEAST: u64 = 256;

/// From here on more is no gain: a wake-up for so much is a hundredth of the time it takes to decode and to send.
const MOST: u64 = 64 * 1024;

/// A stream so fast is bulk: nobody waits for one row of it, and [`MOST`] is there within a few milliseconds.
const BULK_BYTES_PER_SECOND: u64 = 16 * 1024 * 1024;

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

    /// A read brought `bytes`.
    pub fn read(&mut self, now: Instant, bytes: usize) {
        if self.low_water.is_some() {
            let mark = self.moderation.read(now, bytes);
            self.set(mark);
        }
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
}

impl Moderation {
    /// A stream of which nothing is known.
    fn new(now: Instant) -> Self {
        Moderation { since: now, bytes: 0, rate: 0, mark: 1 }
    }

    /// A read brought `bytes`. Gives the mark to set, if it should be another one from now on.
    fn read(&mut self, now: Instant, bytes: usize) -> Option<u32> {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < WINDOW {
            return None;
        }
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = self.bytes.saturating_mul(1_000_000) / micros;
        // A pause ends bulk at once, a single burst does not begin it.
        self.rate = if rate < self.rate / 4 { rate } else { self.rate.midpoint(rate) };
        (self.since, self.bytes) = (now, 0);
        let wanted = mark_for(self.rate);
        // Each change is a system call.
        let near = wanted >= self.mark / 2 && wanted <= self.mark.saturating_mul(2);
        if near && (wanted > 1) == (self.mark > 1) { None } else { self.set(wanted) }
    }

    /// Nothing came within [`patience`](Self::patience): what is there is wanted now. Gives the mark to set.
    fn overdue(&mut self) -> Option<u32> {
        if self.mark == 1 { None } else { self.set(1) }
    }

    /// How long less than the mark may lie there.
    fn patience(&self) -> Option<Duration> {
        match self.mark {
            1 => None,
            MOST => Some(PATIENCE_IN_BULK),
            _ => Some(PATIENCE),
        }
    }

    fn set(&mut self, mark: u64) -> Option<u32> {
        self.mark = mark;
        u32::try_from(mark).ok()
    }
}

fn mark_for(rate: u64) -> u64 {
    if rate >= BULK_BYTES_PER_SECOND {
        return MOST;
    }
    let micros = u64::try_from(DELAY.as_micros()).unwrap_or(0);
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

    #[test]
    fn the_mark_is_what_arrives_in_half_a_millisecond() {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        // A few commits a second: none waits.
        assert_eq!(steady(&mut moderation, &mut now, 100, 300, Duration::from_millis(20)), 1);
        assert_eq!(moderation.patience(), None);
        // 5,000 commits a second of 400 bytes: 2 MB/s.
        let mark = steady(&mut moderation, &mut now, 1000, 400, Duration::from_micros(200));
        assert!((500..=2000).contains(&mark), "{mark}");
        assert_eq!(moderation.patience(), Some(PATIENCE));
        // Bulk.
        assert_eq!(steady(&mut moderation, &mut now, 1000, 20_000, Duration::from_micros(300)), MOST);
        assert_eq!(moderation.patience(), Some(PATIENCE_IN_BULK));
        // The next read after a pause ends it.
        assert_eq!(steady(&mut moderation, &mut now, 1, 300, Duration::from_secs(1)), 1);
    }

    #[test]
    fn what_is_overdue_is_taken_and_bulk_goes_on() {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        steady(&mut moderation, &mut now, 100, 60_000, Duration::from_millis(1));
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
            reads in prop::collection::vec((0_u64..3_000_000, 0_usize..10_000_000, any::<bool>()), 0..200),
        ) {
            let mut now = Instant::now();
            let mut moderation = Moderation::new(now);
            for (gap, bytes, overdue) in reads {
                now += Duration::from_micros(gap);
                if let Some(mark) = moderation.read(now, bytes) {
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
