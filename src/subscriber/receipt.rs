//! Receipts: proofs that a sequence's state is durable on the subscriber.
//!
//! In: states read back after an advance, with the WAL position that makes them durable. Out: a [`Receipt`] each,
//! once the subscriber says that its WAL is flushed that far. Nothing else can make one.
//!
//! The commit of a `setval` flushes, but a walk, or a value that somebody else had moved, may come without a
//! transaction id and so without a flush: its state is then lost by a crash although it could be read.

use std::collections::VecDeque;

use crate::plan::State;
use crate::types::Lsn;

/// The sequence of `slot` is durably at `state`.
#[derive(Debug, PartialEq, Eq)]
pub struct Receipt {
    slot: u32,
    state: State,
}

impl Receipt {
    /// The dense index of the sequence.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }
}

/// States that are not known to be durable yet.
#[derive(Debug, Default)]
pub struct PendingReceipts {
    batches: VecDeque<(Lsn, Vec<(u32, State)>)>,
}

impl PendingReceipts {
    /// `states` were read before `durable_at` was the end of the subscriber's WAL.
    pub fn expect(&mut self, durable_at: Lsn, states: Vec<(u32, State)>) {
        if !states.is_empty() {
            self.batches.push_back((durable_at, states));
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// All receipts that the subscriber's `flushed` position proves.
    pub fn collect(&mut self, flushed: Lsn) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        while let Some((_, states)) = self.batches.pop_front_if(|(durable_at, _)| *durable_at <= flushed) {
            receipts.extend(states.into_iter().map(|(slot, state)| Receipt { slot, state }));
        }
        receipts
    }

    /// The subscriber was lost: what was in flight there is known again only by reading it.
    pub fn forget(&mut self) {
        self.batches.clear();
    }

    /// A sequence went back: what was read before says nothing any more.
    pub fn forget_slot(&mut self, slot: u32) {
        for (_, states) in &mut self.batches {
            states.retain(|(other, _)| *other != slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_proven_only_by_a_flush_past_its_reading() {
        let state = State { last_value: 7, is_called: true };
        let mut pending = PendingReceipts::default();
        pending.expect(Lsn(100), vec![(1, state)]);
        pending.expect(Lsn(200), vec![(2, state), (3, state)]);
        assert!(pending.collect(Lsn(99)).is_empty());
        let proven: Vec<u32> = pending.collect(Lsn(150)).iter().map(Receipt::slot).collect();
        assert_eq!(proven, [1]);
        pending.forget_slot(2);
        let proven: Vec<u32> = pending.collect(Lsn(200)).iter().map(Receipt::slot).collect();
        assert_eq!(proven, [3]);
        assert!(pending.is_empty());
    }
}
