//! How far ahead a sequence is kept: a fixed number of steps, or as many as the publisher takes while we look away.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Fewest steps of an automatic lead: a commit of a few rows on an idle table needs no advance at all.
pub const LEAD_STEPS_MIN: u64 = 32;
/// Most steps of an automatic lead.
pub const LEAD_STEPS_MAX: u64 = 1_000_000;

/// A lead covers what comes in the delay observed, and in this time besides.
const HORIZON_US: u128 = 2_000_000;
/// The shortest time over which a rate is taken, so that one commit of many rows is not an endless rate.
const WINDOW_US: u128 = 1_000_000;
/// How slowly the rate falls: half of a change is forgotten after this time.
const FALL_US: u128 = 5_000_000;
/// A delay longer than this tells of an outage, not of the pace to keep.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// The lead that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Lead {
    /// From the rate of ids, see [`LeadMeter`].
    #[default]
    Auto,
    /// This many, subject to the 1 % rule of [`decide`](super::decide).
    Steps(u64),
}

/// A text that is no [`Lead`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected auto or a number of ids, got {got:?}")]
pub struct LeadError {
    got: String,
}

impl FromStr for Lead {
    type Err = LeadError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Lead::Auto);
        }
        text.parse().map(Lead::Steps).map_err(|_| LeadError { got: text.chars().take(40).collect() })
    }
}

impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lead::Auto => f.write_str("auto"),
            Lead::Steps(steps) => steps.fmt(f),
        }
    }
}

/// The pace of one sequence. It follows a rise at once, because too short a lead is what must not be, and a fall
/// slowly, so that a lead does not swing with every pause. Times are durations since any fixed instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeadMeter {
    step: u64,
    descending: bool,
    /// Thousandths of a step per second, as of the start of the window.
    rate_milli: u128,
    window: Option<Window>,
    delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    start: Duration,
    mark_at_start: i64,
    mark: i64,
}

impl LeadMeter {
    /// For a sequence of this increment (zero counts as one).
    #[must_use]
    pub fn new(increment: i64) -> Self {
        LeadMeter {
            step: increment.unsigned_abs().max(1),
            descending: increment < 0,
            rate_milli: 0,
            window: None,
            delay: Duration::ZERO,
        }
    }

    /// The mark was `mark` at time `at`. The first call only sets the base line; a mark short of one seen before is
    /// no progress.
    pub fn observe(&mut self, at: Duration, mark: i64) {
        let Some(mut window) = self.window else {
            return self.rebase(at, mark);
        };
        let past = if self.descending { mark < window.mark } else { mark > window.mark };
        if past {
            window.mark = mark;
        }
        self.window = Some(window);
        if elapsed_us(window.start, at) >= WINDOW_US {
            self.rate_milli = self.rate_at(at);
            self.window = Some(Window { start: at, mark_at_start: window.mark, ..window });
        }
    }

    /// The mark jumped for a reason other than the publisher's pace (a table was read, a truncate restarted the
    /// sequence): go on from here without counting the jump.
    pub fn rebase(&mut self, at: Duration, mark: i64) {
        self.rate_milli = self.rate_at(at);
        self.window = Some(Window { start: at, mark_at_start: mark, mark });
    }

    /// How long it took of late from an id's commit until the subscriber's sequence was ahead of it.
    pub fn observe_delay(&mut self, delay: Duration) {
        let delay = delay.min(DELAY_MAX);
        self.delay = if delay >= self.delay { delay } else { self.delay - (self.delay - delay) / 8 };
    }

    /// Steps per second now, rounded.
    #[must_use]
    pub fn rate(&self, now: Duration) -> u64 {
        u64::try_from((self.rate_at(now) + 500) / 1000).unwrap_or(u64::MAX)
    }

    /// The lead to keep now, in steps, from [`LEAD_STEPS_MIN`] to [`LEAD_STEPS_MAX`].
    #[must_use]
    pub fn lead_steps(&self, now: Duration) -> u64 {
        let ahead_us = HORIZON_US + self.delay.as_micros();
        // Bounded before it is multiplied: a rate is at most 2^64 steps in a window, 2^80 or so in this unit.
        let steps = (self.rate_at(now) * ahead_us).div_ceil(1_000_000_000);
        u64::try_from(steps).unwrap_or(u64::MAX).clamp(LEAD_STEPS_MIN, LEAD_STEPS_MAX)
    }

    fn rate_at(&self, now: Duration) -> u128 {
        let Some(window) = self.window else { return self.rate_milli };
        let elapsed_us = elapsed_us(window.start, now);
        let steps = u128::from(window.mark.abs_diff(window.mark_at_start) / self.step);
        let rate_milli = steps * 1_000_000_000 / elapsed_us.max(WINDOW_US);
        if rate_milli >= self.rate_milli {
            return rate_milli;
        }
        rate_milli + (self.rate_milli - rate_milli) * FALL_US / (FALL_US + elapsed_us)
    }
}

/// Microseconds from `start` to `now`, zero when the clock went back, and at most a day, which forgets any rate.
fn elapsed_us(start: Duration, now: Duration) -> u128 {
    now.saturating_sub(start).min(Duration::from_secs(86_400)).as_micros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// One mark a millisecond at `per_ms` ids each, for `ms` milliseconds; returns the time and mark reached.
    fn run(meter: &mut LeadMeter, (from, mark): (u64, i64), ms: u64, per_ms: i64) -> (u64, i64) {
        let mut mark = mark;
        for i in 1..=ms {
            mark += per_ms;
            meter.observe(MS(from + i), mark);
        }
        (from + ms, mark)
    }

    #[test]
    fn a_lead_is_auto_or_a_number() {
        assert_eq!("auto".parse(), Ok(Lead::Auto));
        assert_eq!("100".parse(), Ok(Lead::Steps(100)));
        assert_eq!(
            "-1".parse::<Lead>().unwrap_err().to_string(),
            "expected auto or a number of ids, got \"-1\""
        );
    }

    #[test]
    fn an_idle_sequence_has_the_floor() {
        assert_eq!(LeadMeter::new(1).lead_steps(MS(0)), LEAD_STEPS_MIN);
        let mut seeded = LeadMeter::new(1);
        seeded.observe(MS(5), 1_000_000_000);
        assert_eq!(seeded.lead_steps(MS(6)), LEAD_STEPS_MIN, "the first mark is a place, not a pace");
    }

    #[test]
    fn a_steady_rate_is_covered_for_the_horizon_and_the_delay() {
        let mut meter = LeadMeter::new(1);
        let (now, _) = run(&mut meter, (0, 0), 3_000, 10);
        assert!((19_900..=20_100).contains(&meter.lead_steps(MS(now))), "{}", meter.lead_steps(MS(now)));
        meter.observe_delay(MS(1_000));
        assert!((29_900..=30_100).contains(&meter.lead_steps(MS(now))), "{}", meter.lead_steps(MS(now)));
    }

    #[test]
    fn a_rise_is_followed_within_the_window_and_a_fall_within_some_seconds() {
        let mut meter = LeadMeter::new(1);
        let at = run(&mut meter, (0, 0), 1_000, 1);
        let (now, mark) = run(&mut meter, at, 1_000, 20);
        assert!(meter.lead_steps(MS(now)) >= 35_000, "{}", meter.lead_steps(MS(now)));
        let half_later = meter.lead_steps(MS(now + 1_000));
        assert!(half_later > 15_000, "one second's pause keeps half of it: {half_later}");
        let (now, _) = run(&mut meter, (now, mark), 60_000, 1);
        assert!((1_900..=2_600).contains(&meter.lead_steps(MS(now))), "{}", meter.lead_steps(MS(now)));
        assert!(meter.lead_steps(MS(now + 600_000)) <= 64);
    }

    #[test]
    fn a_poll_after_a_long_time_is_spread_over_that_time() {
        let mut meter = LeadMeter::new(-2);
        meter.observe(MS(0), 0);
        meter.observe(MS(10_000), -20_000);
        assert_eq!(meter.rate(MS(10_000)), 1_000);
    }

    #[test]
    fn a_jump_that_is_not_pace_does_not_count() {
        let mut meter = LeadMeter::new(1);
        meter.observe(MS(0), 0);
        meter.rebase(MS(1), 5_000_000);
        assert_eq!(meter.lead_steps(MS(2)), LEAD_STEPS_MIN);
        meter.rebase(MS(3), 1);
        assert_eq!(meter.lead_steps(MS(4)), LEAD_STEPS_MIN);
    }

    #[test]
    fn a_fixed_fall_is_smooth() {
        let mut meter = LeadMeter::new(1);
        let (now, mark) = run(&mut meter, (0, 0), 2_000, 50);
        let mut lead = meter.lead_steps(MS(now));
        for i in 1..=200 {
            meter.observe(MS(now + i * 50), mark);
            let later = meter.lead_steps(MS(now + i * 50));
            assert!(later <= lead && later * 100 >= lead * 97, "{lead} to {later} in 50 ms");
            lead = later;
        }
    }

    proptest! {
        #[test]
        fn any_input_stays_within_floor_and_ceiling(
            increment: i64,
            marks in proptest::collection::vec((any::<u64>(), any::<i64>(), any::<bool>(), any::<u64>()), 0..40),
            now: u64,
        ) {
            let mut meter = LeadMeter::new(increment);
            for (at, mark, rebase, delay) in marks {
                meter.observe_delay(Duration::from_micros(delay));
                if rebase { meter.rebase(Duration::from_micros(at), mark) }
                else { meter.observe(Duration::from_micros(at), mark) }
            }
            let lead = meter.lead_steps(Duration::from_micros(now));
            prop_assert!((LEAD_STEPS_MIN..=LEAD_STEPS_MAX).contains(&lead));
        }
    }
}
