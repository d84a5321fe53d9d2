//! Marks: the furthest id seen per sequence, from one connection's stream.
//!
//! In: what [`Tap`](crate::pgoutput::Tap) decodes. Out: once per batch, what changed, into the [`Handover`]; in bulk once
//! per [`HELD_IN_BULK`]. It does no IO and never waits. The hot path is a `Vec` slot per sequence.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::handover::{Handover, Seen};
use crate::pgoutput::transaction::{Commit, CommitPrepared, Prepare, RollbackPrepared, StreamCommit};
use crate::pgoutput::{Relation, Sink, Tracked, Truncation, Unreadable};
use crate::tracking::{Tracking, Watched};
use crate::types::{Lsn, QualifiedName, quote_identifier};

/// How long marks may be held back in bulk, where nobody waits for one row. What all rows of so long a time say of a
/// sequence is told once.
const HELD_IN_BULK: Duration = Duration::from_millis(5);

/// One sequence's maximum. Ids of descending sequences are kept complemented (`!id` turns the order around without
/// overflowing), so that the hot path only ever asks for the greater one. With many sequences each id finds its mark out
/// of the cache: two marks share a line of it, and what is rare is elsewhere.
#[derive(Clone, Copy, Debug)]
struct Mark {
    flip: i64,
    limit: i64,
    /// Only if `is_known`.
    furthest: i64,
    is_known: bool,
    dirty: bool,
    /// There is something in its [`Rare`].
    has_rare: bool,
}

/// What most sequences never have.
#[derive(Clone, Copy, Debug, Default)]
struct Rare {
    beyond: Option<i64>,
    /// The furthest before a truncate that is not committed yet.
    before_truncate: Option<i64>,
    restarted: Option<Lsn>,
}

impl Mark {
    fn new(descending: bool) -> Self {
        let flip = if descending { -1 } else { 0 };
        Mark { flip, limit: i64::MAX, furthest: 0, is_known: false, dirty: false, has_rare: false }
    }

    fn furthest(&self) -> Option<i64> {
        self.is_known.then_some(self.furthest)
    }

    fn take_furthest(&mut self) -> Option<i64> {
        std::mem::take(&mut self.is_known).then_some(self.furthest)
    }

    /// Takes note of `key`, if it is further.
    fn reach(&mut self, key: Option<i64>) {
        if let Some(furthest) = self.furthest().max(key) {
            (self.furthest, self.is_known) = (furthest, true);
        }
    }
}

/// A `TRUNCATE … RESTART IDENTITY` whose transaction is still open.
#[derive(Debug)]
struct OpenRestart {
    /// `(top-level, own)` transaction of a streamed one; `None` is the plain transaction that is being read.
    stream: Option<(u32, u32)>,
    slots: Vec<u32>,
}

/// Watches one connection's stream.
#[derive(Debug)]
pub struct Observer {
    tracking: Arc<Tracking>,
    marks: Vec<Mark>,
    /// Of the same sequences.
    rare: Vec<Rare>,
    dirty: Vec<u32>,
    /// By the publisher's relation OID, from Relation messages.
    restarts: HashMap<u32, Vec<u32>>,
    open_restarts: Vec<OpenRestart>,
    in_transaction: bool,
    up_to: Lsn,
    rows: u64,
    unknown_tables: bool,
    /// By the publisher's clock, in microseconds.
    newest_commit: Option<i64>,
    /// Sequences of which a value could not be read since the last handing over.
    unreadable: BTreeSet<u32>,
    /// When that was.
    given: Option<Instant>,
}

impl Observer {
    #[must_use]
    pub fn new(tracking: Arc<Tracking>) -> Self {
        let marks = tracking.descending.iter().map(|descending| Mark::new(*descending)).collect();
        Observer {
            rare: vec![Rare::default(); tracking.descending.len()],
            tracking,
            marks,
            dirty: Vec::new(),
            restarts: HashMap::new(),
            open_restarts: Vec::new(),
            in_transaction: false,
            up_to: Lsn::ZERO,
            rows: 0,
            unknown_tables: false,
            newest_commit: None,
            unreadable: BTreeSet::new(),
            given: None,
        }
    }

    /// The catalog changed. Sequences keep their dense index, so marks stay; the caller then asks the tap to retrack.
    pub fn track(&mut self, tracking: Arc<Tracking>) {
        let known = self.marks.len();
        self.marks.extend(tracking.descending.iter().skip(known).map(|descending| Mark::new(*descending)));
        self.rare.resize(self.marks.len(), Rare::default());
        for ((mark, rare), descending) in self.marks.iter_mut().zip(&mut self.rare).zip(&tracking.descending)
        {
            let flip = if *descending { -1 } else { 0 };
            if mark.flip != flip {
                (*mark, *rare) = (Mark::new(*descending), Rare::default());
            }
        }
        self.tracking = tracking;
        self.restarts.clear();
    }

    /// A new connection begins between transactions; what was open before will be sent again.
    pub fn connection_lost(&mut self) {
        self.in_transaction = false;
        for restart in std::mem::take(&mut self.open_restarts) {
            self.take_back(&restart.slots);
        }
    }

    /// Outside of a transaction everything before the keepalive's position was seen.
    pub fn keepalive(&mut self, wal_end: Lsn) {
        if !self.in_transaction {
            self.up_to = self.up_to.max(wal_end);
        }
    }

    /// The end of the last commit, or what a keepalive between transactions said.
    #[must_use]
    pub fn committed_up_to(&self) -> Lsn {
        self.up_to
    }

    /// When the newest commit since the last call was made: microseconds of the publisher's clock.
    pub fn take_newest_commit(&mut self) -> Option<i64> {
        self.newest_commit.take()
    }

    /// Rows with ids so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes the keeper's new limits. To be called before a batch is decoded, so that it is judged by the newest.
    pub fn take_limits(&mut self, handover: &Handover) {
        for (slot, limit) in handover.take_limits() {
            let Some((mark, rare)) = both(&mut self.marks, &mut self.rare, slot) else { continue };
            mark.limit = limit ^ mark.flip;
            // An id past it must not hide those within it.
            let is_past = |key: Option<i64>| key.is_some_and(|key| key > mark.limit);
            let (furthest, before) = (is_past(mark.furthest()), is_past(rare.before_truncate));
            if furthest {
                rare.beyond = rare.beyond.max(mark.take_furthest());
            }
            if before {
                rare.beyond = rare.beyond.max(rare.before_truncate.take());
            }
            if furthest || before {
                mark.has_rare = true;
                touch(&mut mark.dirty, slot, &mut self.dirty);
            }
        }
    }

    /// Hands over what changed since the last time; in bulk not before [`HELD_IN_BULK`] is over. Whether it is held
    /// back: then this has to be called again, also if nothing more comes.
    pub fn give_in_time(&mut self, handover: &Handover, now: Instant, in_bulk: bool) -> bool {
        let given = *self.given.get_or_insert(now);
        if in_bulk && now.saturating_duration_since(given) < HELD_IN_BULK {
            return true;
        }
        self.given = Some(now);
        self.give(handover);
        false
    }

    /// Hands over what changed since the last time.
    pub fn give(&mut self, handover: &Handover) {
        for slot in std::mem::take(&mut self.unreadable) {
            handover.unreadable(slot);
        }
        let (marks, all_rare) = (&mut self.marks, &mut self.rare);
        let seen = self.dirty.drain(..).filter_map(|slot| {
            let mark = marks.get_mut(slot as usize)?;
            mark.dirty = false;
            let id = |key: Option<i64>| key.map(|key| key ^ mark.flip);
            let descending = mark.flip != 0;
            if !mark.has_rare {
                return Some((slot, descending, Seen { furthest: id(mark.furthest()), ..Seen::default() }));
            }
            let rare = all_rare.get_mut(slot as usize)?;
            // Until the truncate is committed, what was there before it still counts.
            let furthest = mark.furthest().max(rare.before_truncate);
            let seen = Seen { furthest: id(furthest), beyond: id(rare.beyond), restarted: rare.restarted };
            // Past the limit every id is new to the keeper once; it judges it and then raises the limit or not.
            *rare = Rare { before_truncate: rare.before_truncate, ..Rare::default() };
            mark.has_rare = rare.before_truncate.is_some();
            Some((slot, descending, seen))
        });
        handover.give(seen, self.up_to, self.rows, std::mem::take(&mut self.unknown_tables));
    }

    fn committed(&mut self, end_lsn: Lsn, stream_xid: Option<u32>) {
        self.up_to = self.up_to.max(end_lsn);
        if self.open_restarts.is_empty() {
            return;
        }
        let (now, still_open) = std::mem::take(&mut self.open_restarts)
            .into_iter()
            .partition::<Vec<_>, _>(|restart| restart.stream.map(|(xid, _)| xid) == stream_xid);
        self.open_restarts = still_open;
        for slot in now.into_iter().flat_map(|restart| restart.slots) {
            if let Some((mark, rare)) = both(&mut self.marks, &mut self.rare, slot) {
                *rare = Rare { restarted: Some(end_lsn), ..Rare::default() };
                mark.has_rare = true;
                touch(&mut mark.dirty, slot, &mut self.dirty);
            }
        }
    }

    /// An id past the limit.
    #[cold]
    fn beyond(&mut self, slot: u32, key: i64) {
        let Some((mark, rare)) = both(&mut self.marks, &mut self.rare, slot) else { return };
        if rare.beyond.is_none_or(|known| key > known) {
            rare.beyond = Some(key);
            mark.has_rare = true;
            touch(&mut mark.dirty, slot, &mut self.dirty);
        }
    }

    /// A truncate that did not happen: what was there before it counts again.
    fn take_back(&mut self, slots: &[u32]) {
        for slot in slots {
            if let Some((mark, rare)) = both(&mut self.marks, &mut self.rare, *slot) {
                mark.reach(rare.before_truncate.take());
                touch(&mut mark.dirty, *slot, &mut self.dirty);
            }
        }
    }

    fn take_back_where(&mut self, aborted: impl Fn(Option<(u32, u32)>) -> bool) {
        let (gone, still_open) = std::mem::take(&mut self.open_restarts)
            .into_iter()
            .partition::<Vec<_>, _>(|restart| aborted(restart.stream));
        self.open_restarts = still_open;
        for restart in gone {
            self.take_back(&restart.slots);
        }
    }
}

/// What there is of one sequence.
fn both<'a>(marks: &'a mut [Mark], rare: &'a mut [Rare], slot: u32) -> Option<(&'a mut Mark, &'a mut Rare)> {
    marks.get_mut(slot as usize).zip(rare.get_mut(slot as usize))
}

#[inline]
fn touch(is_dirty: &mut bool, slot: u32, dirty: &mut Vec<u32>) {
    if !*is_dirty {
        *is_dirty = true;
        dirty.push(slot);
    }
}

impl Sink for Observer {
    fn relation(&mut self, relation: &Relation) -> Vec<Tracked> {
        let name = QualifiedName::new(relation.schema.clone(), relation.name.clone());
        if let Some(slots) = self.tracking.restarts.get(&name) {
            self.restarts.insert(relation.oid, slots.clone());
        } else {
            self.restarts.remove(&relation.oid);
        }
        let Some(watched) = self.tracking.tables.get(&name) else {
            // A table without sequences, or one that the catalog does not know yet.
            self.unknown_tables = true;
            debug!(table = %name, "no column of this table takes its values from a sequence that is known");
            return Vec::new();
        };
        let mut tracked = Vec::new();
        for Watched { column, slot, format } in watched {
            match relation.columns.iter().position(|c| c.name == *column).map(u16::try_from) {
                Some(Ok(column)) => tracked.push(Tracked { column, slot: *slot, format: format.clone() }),
                _ => debug!(table = %name, %column, "the publication does not publish this column"),
            }
        }
        tracked
    }

    #[inline]
    fn id(&mut self, slot: u32, id: i64) {
        self.rows = self.rows.wrapping_add(1);
        let Some(mark) = self.marks.get_mut(slot as usize) else { return };
        let key = id ^ mark.flip;
        if key > mark.limit {
            return self.beyond(slot, key);
        }
        if !mark.is_known || key > mark.furthest {
            (mark.furthest, mark.is_known) = (key, true);
            touch(&mut mark.dirty, slot, &mut self.dirty);
        }
    }

    fn unreadable_id(&mut self, slot: u32, relation: &Relation, column: u16, why: Unreadable) {
        // What is no number, or has other text around it, never came from the sequence. The others may have.
        let may_be_an_id = match why {
            Unreadable::NotANumber | Unreadable::Fraction | Unreadable::Affix => false,
            Unreadable::Overflow
            | Unreadable::BinaryType
            | Unreadable::BinaryLength
            | Unreadable::PastWindow => true,
        };
        if may_be_an_id {
            self.unreadable.insert(slot);
        }
        let column = relation.columns.get(usize::from(column)).map_or("?", |c| c.name.as_str());
        let (schema, table) = (quote_identifier(&relation.schema), quote_identifier(&relation.name));
        // The value itself is the user's data and is not logged.
        debug!(column = %format!("{schema}.{table}.{}", quote_identifier(column)), %why, "a value is no id");
    }

    fn begin(&mut self, _final_lsn: Lsn, _xid: u32) {
        self.in_transaction = true;
    }

    fn commit(&mut self, commit: &Commit) {
        self.in_transaction = false;
        self.committed(commit.end_lsn, None);
        self.newest_commit = Some(commit.commit_time_us);
    }

    fn truncate(&mut self, truncation: &Truncation<'_>) {
        if !truncation.restart_identity {
            return;
        }
        let slots: Vec<u32> =
            truncation.relations.filter_map(|oid| self.restarts.get(&oid)).flatten().copied().collect();
        for slot in &slots {
            if let Some((mark, rare)) = both(&mut self.marks, &mut self.rare, *slot) {
                rare.before_truncate = rare.before_truncate.max(mark.take_furthest());
                mark.has_rare = true;
            }
        }
        let stream = truncation.stream.map(|by| (by.xid, by.subxid));
        self.open_restarts.push(OpenRestart { stream, slots });
    }

    fn stream_start(&mut self, _xid: u32, _first: bool) {
        self.in_transaction = true;
    }

    fn stream_stop(&mut self, _xid: u32) {
        // Replay goes by commit LSN: confirming past an open streamed transaction is safe.
        self.in_transaction = false;
    }

    fn stream_commit(&mut self, commit: &StreamCommit) {
        self.committed(commit.end_lsn, Some(commit.xid));
        self.newest_commit = Some(commit.commit_time_us);
    }

    fn stream_abort(&mut self, xid: u32, subxid: u32) {
        self.take_back_where(|stream| {
            stream.is_some_and(|(top, own)| top == xid && (xid == subxid || own == subxid))
        });
    }

    fn begin_prepare(&mut self, _prepare: &Prepare<'_>) {
        self.in_transaction = true;
    }

    // We never ask for two_phase. Should a server send it all the same, a prepared truncate starts no epoch: marks
    // that are too far only cost ids.
    fn prepare(&mut self, prepare: &Prepare<'_>) {
        self.in_transaction = false;
        self.take_back_where(|stream| stream.is_none());
        self.up_to = self.up_to.max(prepare.end_lsn);
    }

    fn commit_prepared(&mut self, commit: &CommitPrepared<'_>) {
        self.up_to = self.up_to.max(commit.end_lsn);
        self.newest_commit = Some(commit.commit_time_us);
    }

    fn rollback_prepared(&mut self, rollback: &RollbackPrepared<'_>) {
        self.up_to = self.up_to.max(rollback.rollback_end_lsn);
    }

    fn stream_prepare(&mut self, prepare: &Prepare<'_>) {
        self.take_back_where(|stream| stream.is_some_and(|(top, _)| top == prepare.xid));
        self.up_to = self.up_to.max(prepare.end_lsn);
    }
}
