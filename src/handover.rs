//! Between the stream and the keeper: the latest marks, never a queue.
//!
//! In: marks per sequence from the stream, once per batch of messages. Out: everything that changed since the last
//! time, for the keeper. A mark is a maximum, so the latest wins and memory is bounded by the number of sequences;
//! the stream never waits for the subscriber. The keeper is woken at once for what may need an advance, and for the
//! rest when it likes: most commits move no sequence.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::types::Lsn;

/// What the stream learned of one sequence since the keeper last looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The furthest id within the limit.
    pub furthest: Option<i64>,
    /// The furthest id past the limit: an outlier, perhaps.
    pub beyond: Option<i64>,
    /// The sequence was restarted by a TRUNCATE committed here; `furthest` counts from there on.
    pub restarted: Option<Lsn>,
}

/// What the keeper takes.
#[derive(Debug, Default)]
pub struct Taken {
    /// Dense indexes of sequences, and what was seen of them.
    pub seen: Vec<(u32, Seen)>,
    /// Everything committed up to here is in `seen`, now or earlier.
    pub up_to: Lsn,
    /// Rows that carried ids, since the start of the process.
    pub rows: u64,
    /// Tables of the stream that the catalog does not know, or not like that.
    pub unknown_tables: bool,
    /// Sequences of which the stream carried a value that could not be read.
    pub unreadable: BTreeSet<u32>,
}

/// One sequence. With many of them each is found out of the cache: this is one line of it.
#[derive(Clone, Debug, Default)]
#[repr(align(64))]
struct Entry {
    seen: Seen,
    /// Up to where its ids need no advance; `None`: each may need one.
    calm: Option<i64>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By dense index.
    entries: Vec<Entry>,
    dirty: Vec<u32>,
    up_to: Lsn,
    rows: u64,
    unknown_tables: bool,
    unreadable: BTreeSet<u32>,
    /// From where on an id is an outlier, by dense index, and of which the stream has yet to hear.
    limits: BTreeMap<u32, i64>,
    new_limits: BTreeSet<u32>,
}

impl Inner {
    fn entry(&mut self, slot: u32) -> Option<&mut Entry> {
        let index = slot as usize;
        if self.entries.len() <= index {
            self.entries.resize(index + 1, Entry::default());
        }
        self.entries.get_mut(index)
    }
}

impl Entry {
    /// Whether what was seen may need an advance.
    fn is_urgent(&self, descending: bool, seen: &Seen) -> bool {
        let within = |calm: i64, id: i64| if descending { id >= calm } else { id <= calm };
        let is_calm = match (self.calm, seen.furthest) {
            (Some(calm), Some(id)) => within(calm, id),
            (_, None) => true,
            (None, Some(_)) => false,
        };
        !is_calm || seen.restarted.is_some() || seen.beyond.is_some()
    }
}

/// Shared by the stream task and the keeper.
#[derive(Debug, Default)]
pub struct Handover {
    inner: Mutex<Inner>,
    urgent: Notify,
    changed: Notify,
}

impl Handover {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The lock is held for plain assignments only: a panic cannot leave them half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream gives what it saw: `seen` merges into what the keeper has not taken yet.
    pub fn give(
        &self,
        seen: impl Iterator<Item = (u32, bool, Seen)>,
        up_to: Lsn,
        rows: u64,
        unknown_tables: bool,
    ) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let mut changed = up_to > inner.up_to;
        let mut urgent = unknown_tables;
        for (slot, descending, new) in seen {
            changed = true;
            let Some(entry) = inner.entry(slot) else { continue };
            urgent |= entry.is_urgent(descending, &new);
            let entry = &mut entry.seen;
            let is_first = *entry == Seen::default();
            if new.restarted.is_some() {
                *entry = new;
            } else {
                entry.furthest = further(descending, entry.furthest, new.furthest);
                entry.beyond = further(descending, entry.beyond, new.beyond);
            }
            if is_first {
                inner.dirty.push(slot);
            }
        }
        inner.up_to = inner.up_to.max(up_to);
        inner.rows = rows;
        inner.unknown_tables |= unknown_tables;
        drop(guard);
        if urgent {
            self.urgent.notify_one();
        } else if changed {
            self.changed.notify_one();
        }
    }

    /// The keeper takes all that is new.
    pub fn take(&self) -> Taken {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let mut seen = Vec::with_capacity(inner.dirty.len());
        for slot in inner.dirty.drain(..) {
            if let Some(entry) = inner.entries.get_mut(slot as usize) {
                seen.push((slot, std::mem::take(&mut entry.seen)));
            }
        }
        let unknown_tables = std::mem::take(&mut inner.unknown_tables);
        let unreadable = std::mem::take(&mut inner.unreadable);
        Taken { seen, up_to: inner.up_to, rows: inner.rows, unknown_tables, unreadable }
    }

    /// The publisher is another server: positions of the old one mean nothing.
    pub fn forget_positions(&self) {
        let mut inner = self.lock();
        inner.up_to = Lsn::ZERO;
        for entry in &mut inner.entries {
            entry.seen.restarted = None;
        }
    }

    /// The stream carried a value of `slot` that could not be read as an id.
    pub fn unreadable(&self, slot: u32) {
        self.lock().unreadable.insert(slot);
        self.urgent.notify_one();
    }

    /// Waits until there is something to take that may need an advance.
    pub async fn urgent(&self) {
        self.urgent.notified().await;
    }

    /// Waits until there is something to take that is not [`urgent`](Self::urgent).
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The keeper says up to where the ids of each of these sequences need no advance (`None`: each may need one).
    pub fn calm_until(&self, calm: &[(u32, Option<i64>)]) {
        let mut inner = self.lock();
        for (slot, until) in calm {
            if let Some(entry) = inner.entry(*slot) {
                entry.calm = *until;
            }
        }
    }

    /// The keeper tells the stream from where on an id of `slot` is an outlier.
    pub fn limit(&self, slot: u32, limit: i64) {
        let mut inner = self.lock();
        inner.limits.insert(slot, limit);
        inner.new_limits.insert(slot);
    }

    /// The stream takes the limits that are new to it.
    pub fn take_limits(&self) -> Vec<(u32, i64)> {
        let mut inner = self.lock();
        let new = std::mem::take(&mut inner.new_limits);
        new.into_iter().filter_map(|slot| Some((slot, *inner.limits.get(&slot)?))).collect()
    }

    /// A new stream begins: it needs all of them.
    pub fn tell_all_limits(&self) {
        let mut inner = self.lock();
        inner.new_limits = inner.limits.keys().copied().collect();
    }
}

/// The further of two ids in the sequence's direction.
#[must_use]
pub fn further(descending: bool, one: Option<i64>, other: Option<i64>) -> Option<i64> {
    match (one, other) {
        (Some(a), Some(b)) if descending => Some(a.min(b)),
        (Some(a), Some(b)) => Some(a.max(b)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(furthest: i64) -> Seen {
        Seen { furthest: Some(furthest), ..Seen::default() }
    }

    #[test]
    fn the_latest_wins_and_nothing_is_lost_in_between() {
        let handover = Handover::default();
        handover.give([(3, false, seen(5))].into_iter(), Lsn(10), 1, false);
        handover.give([(3, false, seen(4)), (1, true, seen(-7))].into_iter(), Lsn(20), 3, false);
        let taken = handover.take();
        assert_eq!(taken.seen, [(3, seen(5)), (1, seen(-7))]);
        assert_eq!((taken.up_to, taken.rows), (Lsn(20), 3));
        assert!(handover.take().seen.is_empty());
    }

    /// Whether `seen` wakes the keeper at once, or in its own time.
    async fn wakes(handover: &Handover, slot: u32, descending: bool, seen: Seen) -> bool {
        handover.give([(slot, descending, seen)].into_iter(), Lsn(1), 1, false);
        tokio::select! {
            biased;
            () = handover.urgent() => true,
            () = handover.changed() => false,
        }
    }

    #[tokio::test]
    async fn only_what_may_need_an_advance_is_urgent() {
        let handover = Handover::default();
        assert!(wakes(&handover, 0, false, seen(5)).await, "nothing was said of it yet");
        handover.calm_until(&[(0, Some(100)), (1, Some(-100))]);
        assert!(!wakes(&handover, 0, false, seen(100)).await);
        assert!(wakes(&handover, 0, false, seen(101)).await);
        assert!(!wakes(&handover, 1, true, seen(-100)).await);
        assert!(wakes(&handover, 1, true, seen(-101)).await);
        assert!(wakes(&handover, 2, false, seen(1)).await);
        let restarted = Seen { furthest: Some(1), restarted: Some(Lsn(1)), beyond: None };
        assert!(wakes(&handover, 0, false, restarted).await);
        let far = Seen { furthest: None, restarted: None, beyond: Some(1 << 40) };
        assert!(wakes(&handover, 0, false, far).await);
        handover.calm_until(&[(0, None)]);
        assert!(wakes(&handover, 0, false, seen(5)).await);
        // A commit without ids.
        handover.give(std::iter::empty(), Lsn(2), 1, false);
        handover.changed().await;
    }

    #[test]
    fn a_new_stream_hears_of_every_limit() {
        let handover = Handover::default();
        handover.limit(0, 5);
        handover.limit(0, 7);
        handover.limit(3, -1);
        assert_eq!(handover.take_limits(), [(0, 7), (3, -1)]);
        assert!(handover.take_limits().is_empty());
        handover.tell_all_limits();
        assert_eq!(handover.take_limits(), [(0, 7), (3, -1)]);
    }

    #[test]
    fn a_restart_forgets_what_was_seen_before_it() {
        let handover = Handover::default();
        handover.give([(0, false, seen(5000))].into_iter(), Lsn(10), 1, false);
        let restarted = Seen { furthest: Some(2), beyond: None, restarted: Some(Lsn(15)) };
        handover.give([(0, false, restarted)].into_iter(), Lsn(20), 2, false);
        handover.give([(0, false, seen(3))].into_iter(), Lsn(30), 3, false);
        let Seen { furthest, restarted, .. } = handover.take().seen[0].1;
        assert_eq!((furthest, restarted), (Some(3), Some(Lsn(15))));
    }
}
