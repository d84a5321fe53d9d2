//! Everything known about one sequence of the subscriber, and what follows from it.
//!
//! In: marks of the three sources, readings of the subscriber's own sequence. Out: what to do now, and what a person is
//! told of it. No IO.

mod outliers;
mod status;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

pub use outliers::Beyond;
use tokio::time::Instant;

use crate::catalog::coverage::Coverage;
use crate::catalog::{Persistence, Sequence};
use crate::handover::further;
use crate::plan::{Bounds, Decision, Held, Lead, LeadMeter, State, decide, follow_exact};
use crate::publisher::look::PublisherValue;
use crate::registry::Source;
use crate::types::{Lsn, Oid};

/// Why a sequence is not moved now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The plan cannot put it past its mark.
    Plan(Held),
    /// Our role lacks a right: the catalog says so, or the server did.
    Denied,
    /// It is locked on the subscriber (a truncate in progress): tried again soon.
    Locked,
    /// The server refused for another reason, in its words: tried again.
    Failed(String),
}

impl Hold {
    /// Whether waiting is all there is to do: such a one keeps its unproven marks from being confirmed.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Hold::Locked | Hold::Failed(_))
    }

    /// Whether `other` is the same news for a person: a held sequence's mark may well go on.
    #[must_use]
    pub fn is_like(&self, other: &Hold) -> bool {
        match (self, other) {
            (Hold::Plan(one), Hold::Plan(other)) => one.is_like(other),
            _ => self == other,
        }
    }
}

/// What to do with a sequence now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Todo {
    Nothing,
    Advance {
        to: i64,
    },
    /// A CYCLE sequence: take over this state.
    Follow(State),
    Hold(Hold),
}

/// One sequence of the subscriber.
#[derive(Debug)]
pub struct Managed {
    pub slot: u32,
    pub sequence: Sequence,
    pub bounds: Bounds,
    /// Left out, with the reason.
    pub excluded: Option<&'static str>,
    /// It is no more; its slot is not used again.
    pub dropped: bool,
    pub coverage: Option<Coverage>,
    stream: Option<i64>,
    publisher: Option<(Lsn, PublisherValue)>,
    /// The furthest in the publisher's tables, and in our own.
    table: Option<i64>,
    own_table: Option<i64>,
    /// The subscriber has yet to apply a truncate that the stream has shown: what lies in its tables is of before.
    truncate_to_come: bool,
    /// How often what lies in the subscriber's tables has begun anew: a look from before counts no more.
    own_era: u64,
    /// Readings of the publisher from before this position count no more.
    epoch: Lsn,
    /// Where the subscriber's sequence was last seen.
    pub state: Option<State>,
    pub hold: Option<Hold>,
    /// What the publisher said first was acted on: it is ahead, or held, or left out.
    pub settled: bool,
    pub retry_at: Option<Instant>,
    meter: LeadMeter,
    /// An id past the limit, waiting for the publisher's word.
    asking: Option<i64>,
    set_aside: BTreeSet<i64>,
    times_set_aside: u64,
    /// The stream carried values that could not be read as ids.
    pub unreadable: bool,
    /// The publisher's state that a CYCLE sequence was given last.
    copied: Option<State>,
    /// A CYCLE sequence that is further than the publisher's is left there: whoever looks once cannot know who drew from it.
    pub stays_further: bool,
    pub advances: u64,
    pub last_advance: Option<SystemTime>,
    pub rewinds: u64,
    /// What the stream was last told.
    pub limit_told: Option<i64>,
}

impl Managed {
    #[must_use]
    pub fn new(slot: u32, sequence: Sequence, excluded_by_user: bool) -> Self {
        let meter = LeadMeter::new(sequence.definition.increment);
        let mut managed = Managed {
            slot,
            bounds: sequence.bounds(),
            sequence,
            excluded: None,
            dropped: false,
            coverage: None,
            stream: None,
            publisher: None,
            table: None,
            own_table: None,
            truncate_to_come: false,
            own_era: 0,
            epoch: Lsn::ZERO,
            state: None,
            hold: None,
            settled: false,
            retry_at: None,
            meter,
            asking: None,
            set_aside: BTreeSet::new(),
            times_set_aside: 0,
            unreadable: false,
            copied: None,
            stays_further: false,
            advances: 0,
            last_advance: None,
            rewinds: 0,
            limit_told: None,
        };
        managed.classify(excluded_by_user);
        managed
    }

    /// The catalog was read again.
    pub fn update(&mut self, sequence: Sequence, excluded_by_user: bool) {
        if self.sequence.definition.increment != sequence.definition.increment {
            self.meter = LeadMeter::new(sequence.definition.increment);
        }
        // What the catalog may have mended is looked at again at once; the hold itself ends when it works.
        if matches!(self.hold, Some(Hold::Plan(_) | Hold::Denied)) {
            self.retry_at = None;
        }
        self.bounds = sequence.bounds();
        self.sequence = sequence;
        self.classify(excluded_by_user);
        if self.excluded.is_some() {
            self.hold = None;
            self.retry_at = None;
        }
    }

    fn classify(&mut self, excluded_by_user: bool) {
        self.excluded = match self.sequence.persistence {
            _ if excluded_by_user => Some("excluded by the configuration"),
            Persistence::Temporary => Some("it is temporary"),
            Persistence::Unlogged => Some("it is unlogged"),
            Persistence::Permanent => None,
        };
    }

    #[must_use]
    pub fn oid(&self) -> Oid {
        self.sequence.oid
    }

    #[must_use]
    pub fn descending(&self) -> bool {
        self.sequence.definition.descending()
    }

    #[must_use]
    pub fn cycles(&self) -> bool {
        self.sequence.definition.cycle
    }

    /// The furthest id known, and who knew it.
    #[must_use]
    pub fn mark(&self) -> Option<(i64, Source)> {
        let known = [
            (self.stream, Source::Stream),
            (self.publisher.as_ref().and_then(|(_, value)| value.mark), Source::Sequence),
            (self.table, Source::Table),
            (self.own_table, Source::Table),
        ];
        let mut best: Option<(i64, Source)> = None;
        for (mark, source) in known {
            let Some(mark) = mark else { continue };
            if best.is_none_or(|(known, _)| self.sequence.definition.is_past(mark, known)) {
                best = Some((mark, source));
            }
        }
        best
    }

    /// Up to this id there is no hurry: at least half of the lead is left then, and we look again long before.
    pub fn calm_until(&self) -> Option<i64> {
        let value = self.state.filter(|state| state.is_called)?.last_value;
        let (mark, _) = self.mark().filter(|_| !self.cycles())?;
        if self.sequence.definition.is_past(mark, value) {
            return None;
        }
        let (mark, value) = (i128::from(mark), i128::from(value));
        i64::try_from(mark + (value - mark) / 4).ok()
    }

    /// An id within the limit from the stream.
    pub fn seen_in_stream(&mut self, id: i64) {
        self.stream = further(self.descending(), self.stream, Some(id));
    }

    /// The furthest id that the stream showed and that is followed.
    #[must_use]
    pub fn stream_mark(&self) -> Option<i64> {
        self.stream
    }

    /// An id within the limit from a table of the publisher.
    pub fn seen_in_table(&mut self, id: i64, now: Duration) {
        self.table = further(self.descending(), self.table, Some(id));
        // What lay there is not the pace of today.
        if let Some((mark, Source::Table)) = self.mark() {
            self.meter.rebase(now, mark);
        }
    }

    /// The same, from a table of the subscriber.
    pub fn seen_in_own_table(&mut self, id: i64, now: Duration) {
        self.own_table = further(self.descending(), self.own_table, Some(id));
        if let Some((mark, Source::Table)) = self.mark() {
            self.meter.rebase(now, mark);
        }
    }

    /// The publisher's word, read after its WAL stood at `tag`. Stale words are ignored; what could not be read this
    /// once stays as it was known. Says whether it was an answer at all: a lock there is none.
    pub fn heard_from_publisher(&mut self, tag: Lsn, mut value: PublisherValue) -> bool {
        let answered = !value.locked || value.state.is_some();
        // One task reads them one after the other, so the last to come is the newest.
        if tag >= self.epoch {
            let mut tag = tag;
            if let (Some(_), Some((known_tag, known))) = (&value.unread, &self.publisher) {
                value.state = value.state.or(known.state);
                value.mark = further(self.descending(), value.mark, known.mark);
                // It is as old as its oldest part.
                tag = *known_tag;
            }
            self.publisher = Some((tag, value));
        }
        answered
    }

    #[must_use]
    pub fn publisher_value(&self) -> Option<&PublisherValue> {
        self.publisher.as_ref().map(|(_, value)| value)
    }

    /// There is nothing more to do about it for now. The first time after the publisher has spoken is noted.
    pub fn settle(&mut self) {
        let known = self.coverage.is_some() && self.publisher.is_some();
        let placed = self.state.is_some() || self.hold.is_some();
        self.settled |= self.excluded.is_some() || known && placed;
    }

    /// Not followed by anybody: the stream does not show it, and our role may not read it on the publisher.
    #[must_use]
    pub fn is_out_of_sight(&self) -> bool {
        self.excluded.is_none()
            && matches!(self.coverage, Some(Coverage::Blind(_)))
            && self.publisher_value().is_some_and(|value| value.denied)
    }

    #[must_use]
    pub fn epoch(&self) -> Lsn {
        self.epoch
    }

    #[must_use]
    pub fn own_era(&self) -> u64 {
        self.own_era
    }

    /// A committed TRUNCATE … RESTART IDENTITY: what was known before counts no more. `now` is of the clock of
    /// [`Self::measure`].
    pub fn restarted(&mut self, at: Lsn, now: Duration) {
        self.meter.rebase(now, self.sequence.definition.start);
        self.epoch = at;
        self.stream = None;
        self.table = None;
        self.own_table = None;
        self.truncate_to_come = true;
        self.own_era += 1;
        if self.publisher.as_ref().is_some_and(|(tag, _)| *tag < at) {
            self.publisher = None;
        }
        self.asking = None;
        self.set_aside.clear();
        self.meter = LeadMeter::new(self.sequence.definition.increment);
    }

    /// What limits the ids that are followed without a question. The subscriber's own sequence, which may stand anywhere,
    /// stands in only until the publisher has answered: an id past that limit is asked about. An answer that says nothing
    /// of the publisher's sequence leaves it to the marks.
    fn publisher_state(&self) -> Option<State> {
        match &self.publisher {
            Some((_, value)) if value.state.is_some() || !value.locked => value.state,
            _ => self.state,
        }
    }

    /// The publisher is another server: what it says counts whatever its positions are.
    pub fn forget_positions(&mut self) {
        self.epoch = Lsn::ZERO;
        self.publisher = self.publisher.take().map(|(_, value)| (Lsn::ZERO, value));
    }

    /// Whether its ids are followed: not if it is left out, and not if it cycles.
    #[must_use]
    pub fn is_followed_by_ids(&self) -> bool {
        self.excluded.is_none() && !self.cycles()
    }

    /// The subscription has applied everything up to `lsn`. What was read in the subscriber's tables before that may be of
    /// before the truncate.
    /// Says whether there was something to apply.
    pub fn applied(&mut self, lsn: Lsn) -> bool {
        let is_applied = self.truncate_to_come && self.epoch <= lsn;
        if is_applied {
            self.truncate_to_come = false;
            self.own_table = None;
            self.own_era += 1;
            // One that cycles was restarted here, too: the publisher's state is to be copied again.
            self.copied = None;
        }
        is_applied
    }

    /// The subscriber has yet to apply a truncate that the stream has shown.
    #[must_use]
    pub fn awaits_truncate(&self) -> bool {
        self.truncate_to_come
    }

    /// The sequence was found short of where it was. Says whether that was a truncate that the stream has shown.
    pub fn rewound(&mut self) -> bool {
        self.rewinds += 1;
        self.own_era += 1;
        let expected = std::mem::take(&mut self.truncate_to_come);
        if expected {
            // Perhaps read before the truncate was applied here.
            self.own_table = None;
        }
        expected
    }

    /// Tells the pace. `now` counts from any fixed instant.
    pub fn measure(&mut self, now: Duration, delay: Option<Duration>) {
        if let Some((mark, _)) = self.mark() {
            self.meter.observe(now, mark);
        }
        if let Some(delay) = delay {
            self.meter.observe_delay(delay);
        }
    }

    /// What is to be done now. `now` is of the same clock as in [`Self::measure`].
    #[must_use]
    pub fn todo(&self, lead: Lead, now: Duration) -> Todo {
        if self.excluded.is_some() {
            return Todo::Nothing;
        }
        let privileges = self.sequence.privileges;
        if !privileges.may_read() {
            return Todo::Hold(Hold::Denied);
        }
        let Some(state) = self.state else { return Todo::Nothing };
        if self.cycles() {
            let Some(publisher) = self.publisher_exact() else { return Todo::Nothing };
            // If only the subscriber has moved, somebody draws from it there: that is no reason to take it back.
            if self.copied == Some(publisher) || self.stays_further && self.is_further() {
                return Todo::Nothing;
            }
            return match follow_exact(&self.sequence.definition, publisher, state) {
                Ok(Some(_)) if !privileges.update => Todo::Hold(Hold::Denied),
                Ok(Some(exact)) => Todo::Follow(exact),
                Ok(None) => Todo::Nothing,
                Err(held) => Todo::Hold(Hold::Plan(held)),
            };
        }
        let lead_steps = match lead {
            Lead::Auto => self.meter.lead_steps(now),
            Lead::Steps(steps) => steps,
        };
        let mark = self.mark().map(|(mark, _)| mark);
        match decide(&self.sequence.definition, &self.bounds, &state, mark, lead_steps) {
            Decision::Enough { .. } => Todo::Nothing,
            Decision::Advance { .. } if !privileges.may_advance() => Todo::Hold(Hold::Denied),
            Decision::Advance { to, .. } => Todo::Advance { to },
            Decision::Held(held) => Todo::Hold(Hold::Plan(held)),
        }
    }

    /// Whether the subscriber's sequence was called, and has come further in its direction than the publisher's.
    #[must_use]
    pub fn is_further(&self) -> bool {
        let (Some(here), Some(there)) = (self.state, self.publisher_exact()) else { return false };
        let (from, to) = if self.descending() {
            (here.last_value, there.last_value)
        } else {
            (there.last_value, here.last_value)
        };
        here.is_called && (from < to || from == to && !there.is_called)
    }

    /// The subscriber's CYCLE sequence is at the publisher's state.
    pub fn copied(&mut self) {
        if self.state.is_some() {
            self.copied = self.publisher_exact();
        }
    }

    fn publisher_exact(&self) -> Option<State> {
        self.publisher.as_ref().and_then(|(_, value)| value.state)
    }

    /// Whether the sequence is found short of where it was seen before, by its next value.
    #[must_use]
    pub fn went_back(&self, now: State) -> bool {
        !self.cycles() && self.state.is_some_and(|seen| now.is_short_of(seen, &self.sequence.definition))
    }

    /// Ids between the mark and the next value, in steps. Zero where it is behind.
    #[must_use]
    pub fn lead_steps(&self) -> Option<u64> {
        let (mark, _) = self.mark()?;
        let next = self.state?.next(&self.sequence.definition)?;
        let step = i128::from(self.sequence.definition.increment);
        let distance = (i128::from(next) - i128::from(mark)) * step.signum() - step.abs();
        u64::try_from(distance.max(0) / step.abs()).ok()
    }

    /// Whether the next value is known not to be past the mark. One that cycles has no furthest id to be behind of.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        if self.cycles() {
            return false;
        }
        let definition = &self.sequence.definition;
        let next = self.state.and_then(|state| state.next(definition));
        self.mark().zip(next).is_some_and(|((mark, _), next)| !definition.is_past(next, mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Privileges;
    use crate::config::Outliers;
    use crate::plan::Definition;
    use crate::types::QualifiedName;

    fn managed() -> Managed {
        of(Definition::new(1, 1, 1, i64::MAX, 1, false).unwrap())
    }

    fn of(definition: Definition) -> Managed {
        let sequence = Sequence {
            oid: Oid(1),
            name: QualifiedName::new("public".to_owned(), "s".to_owned()),
            persistence: Persistence::Permanent,
            data_type: "bigint".to_owned(),
            definition,
            privileges: Privileges::default(),
            consumers: Vec::new(),
            suspects: Vec::new(),
        };
        Managed::new(0, sequence, false)
    }

    #[test]
    fn a_lock_on_the_publisher_makes_nothing_unknown_and_judges_nobody() {
        let mut managed = managed();
        let state = State { last_value: 500, is_called: true };
        let known = PublisherValue { state: Some(state), mark: Some(500), ..PublisherValue::default() };
        assert!(managed.heard_from_publisher(Lsn(10), known));
        let locked =
            PublisherValue { locked: true, unread: Some("locked".to_owned()), ..PublisherValue::default() };
        assert!(!managed.heard_from_publisher(Lsn(20), locked));
        let value = managed.publisher_value().unwrap();
        assert_eq!((value.state, value.mark), (Some(state), Some(500)));
        assert_eq!(value.unread.as_deref(), Some("locked"));
        // What it still says is of 10: a restart at 15 ends it.
        managed.restarted(Lsn(15), Duration::ZERO);
        assert_eq!(managed.publisher_value(), None);
    }
    #[test]
    fn of_many_ids_that_are_set_aside_the_furthest_are_remembered() {
        for (definition, sign) in [
            (Definition::new(1, 1, 1, i64::MAX, 1, false).unwrap(), 1),
            (Definition::new(-1, -1, i64::MIN, -1, 1, false).unwrap(), -1),
        ] {
            let mut managed = of(definition);
            let state = State { last_value: 10 * sign, is_called: true };
            managed.heard_from_publisher(
                Lsn(10),
                PublisherValue { state: Some(state), ..PublisherValue::default() },
            );
            let far: Vec<i64> = (0..40).map(|i| sign * (9_000_000_000_000_000_000 + i)).collect();
            for id in &far {
                managed.set_aside_too(*id, Outliers::Aside);
            }
            // One that is nearer comes last.
            managed.set_aside_too(sign * 8_000_000_000_000_000_000, Outliers::Aside);
            let mut kept: Vec<i64> = managed.set_aside().collect();
            if sign < 0 {
                kept.reverse();
            }
            assert_eq!(kept, far[8..]);
            assert_eq!(managed.mark(), None);
        }
    }
}
