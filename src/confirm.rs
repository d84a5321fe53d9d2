//! Which LSN may be confirmed to the publisher as flushed.
//!
//! In: marks from the stream with the position they were seen before, and [`Receipt`]s. Out: [`FlushLsn`], the only
//! value that a status update takes as its flush position; it never goes back. It does no IO.
//!
//! An LSN is confirmable when every mark seen up to it has a receipt: the subscriber's sequence is durably past it.
//! A truncate that restarts a sequence takes it back on the subscriber once it is applied there, so that until then no
//! receipt counts, and nothing from the truncate on is confirmable.
//! A sequence that we refuse to move (held) is waived: its marks stay on its account and are owed again when it is let
//! go, and after a start the seed finds them.

use std::collections::BTreeMap;

use crate::plan::Definition;
use crate::subscriber::receipt::Receipt;
use crate::types::Lsn;

/// A position up to which no id can be lost any more. Made only here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct FlushLsn(Lsn);

impl FlushLsn {
    #[must_use]
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

/// Evidence that `synchronous_standby_names` of the publisher matches us, so that its commits wait for the position
/// that we confirm. Holding them up would take the publisher down, so it is then confirmed without receipts; what that
/// leaves open is closed by the seed at every start.
#[derive(Clone, Copy, Debug)]
pub struct Synchronous(());

impl Synchronous {
    /// Whether `names`, the publisher's setting, matches our `application_name`: `*`, or the name in any of the forms
    /// of the manual (`FIRST 2 (a, b)`, `ANY 1 (a)`, `a, b`), compared without regard to case.
    #[must_use]
    pub fn matching(names: &str, application_name: &str) -> Option<Self> {
        let list = names.split_once('(').map_or(names, |(_, list)| list.trim_end().trim_end_matches(')'));
        list.split(',')
            .map(|name| name.trim().trim_matches('"'))
            .any(|name| name == "*" || name.eq_ignore_ascii_case(application_name))
            .then_some(Synchronous(()))
    }

    /// The position to confirm at once.
    #[must_use]
    pub fn confirm(self, committed: Lsn) -> FlushLsn {
        FlushLsn(committed)
    }
}

#[derive(Debug, Clone)]
struct Account {
    definition: Definition,
    /// The furthest id that the next value is proven to be past, durably.
    durable: Option<i64>,
    /// The furthest mark of the stream.
    mark: Option<i64>,
    /// The stream showed a truncate that restarts it, at this position, and the subscriber has yet to apply it durably.
    truncate: Option<Lsn>,
    waived: bool,
}

impl Account {
    fn new(definition: Definition) -> Self {
        Account { definition, durable: None, mark: None, truncate: None, waived: false }
    }

    fn is_settled(&self) -> bool {
        match (self.mark, self.durable) {
            _ if self.waived => true,
            _ if self.truncate.is_some() => false,
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mark), Some(durable)) => !self.definition.is_past(mark, durable),
        }
    }
}

/// Keeps the books: marks owed against receipts got.
#[derive(Debug, Default)]
pub struct Confirm {
    accounts: Vec<Account>,
    /// Sequences with an unproven mark, and the position before which all their marks were proven.
    owed: BTreeMap<u32, Lsn>,
    observed: Lsn,
    confirmed: Lsn,
}

impl Confirm {
    /// Opens the account of the sequence `slot`, the next dense index.
    pub fn open(&mut self, slot: u32, definition: Definition) {
        match self.accounts.get_mut(slot as usize) {
            Some(account) => account.definition = definition,
            None => self.accounts.push(Account::new(definition)),
        }
    }

    /// The stream showed `mark` somewhere after [`Self::observed`] and not later than the next one.
    pub fn owe(&mut self, slot: u32, mark: i64) {
        let observed = self.observed;
        if let Some(account) = self.accounts.get_mut(slot as usize) {
            if account.mark.is_none_or(|known| account.definition.is_past(mark, known)) {
                account.mark = Some(mark);
            }
            if !account.is_settled() {
                self.owed.entry(slot).or_insert(observed);
            }
        }
    }

    /// Every mark that the stream showed up to `lsn`, the end of a commit, has been given to [`Self::owe`].
    pub fn observe(&mut self, lsn: Lsn) {
        self.observed = self.observed.max(lsn);
    }

    /// A sequence is durably where the receipt says, which may be short of where it was before.
    pub fn accept(&mut self, receipt: &Receipt) {
        let slot = receipt.slot();
        let confirmed = self.confirmed;
        if let Some(account) = self.accounts.get_mut(slot as usize).filter(|a| a.truncate.is_none()) {
            account.durable = Some(receipt.state().past(&account.definition));
            if account.is_settled() {
                self.owed.remove(&slot);
            } else {
                self.owed.entry(slot).or_insert(confirmed);
            }
        }
    }

    /// The furthest mark was set aside: `mark` is the furthest of the others.
    pub fn set_aside(&mut self, slot: u32, mark: Option<i64>) {
        if let Some(account) = self.accounts.get_mut(slot as usize) {
            account.mark = mark;
            self.settle(slot);
        }
    }

    /// A sequence was found short of what a receipt said (a restore, a truncate): the receipt is worth nothing.
    pub fn revoke(&mut self, slot: u32) {
        let observed = self.confirmed;
        if let Some(account) = self.accounts.get_mut(slot as usize) {
            account.durable = None;
            if !account.is_settled() {
                self.owed.entry(slot).or_insert(observed);
            }
        }
    }

    /// All receipts are worth nothing: the subscriber may be another server now.
    pub fn revoke_all(&mut self) {
        for slot in 0..u32::try_from(self.accounts.len()).unwrap_or(u32::MAX) {
            self.revoke(slot);
        }
    }

    /// A truncate committed at `at` begins a new epoch: older marks count no more, nor does any receipt until
    /// [`Self::applied`].
    pub fn restart(&mut self, slot: u32, at: Lsn) {
        let observed = self.observed;
        if let Some(account) = self.accounts.get_mut(slot as usize) {
            account.mark = None;
            account.durable = None;
            // One that comes again, before a later one that is known, does not make that one applied.
            account.truncate = account.truncate.max(Some(at));
            self.owed.entry(slot).or_insert(observed);
            self.settle(slot);
        }
    }

    /// The subscriber has durably applied everything that was committed up to `lsn`. Returns the sequences of which
    /// receipts count again: those of readings that begin after this.
    pub fn applied(&mut self, lsn: Lsn) -> Vec<u32> {
        let mut again = Vec::new();
        for (slot, account) in (0..).zip(&mut self.accounts) {
            if account.truncate.is_some_and(|at| at <= lsn) {
                account.truncate = None;
                again.push(slot);
            }
        }
        again.iter().for_each(|slot| self.settle(*slot));
        again
    }

    /// Whether the sequence holds nothing back, because we refuse to move it.
    pub fn waive(&mut self, slot: u32, waived: bool) {
        if let Some(account) = self.accounts.get_mut(slot as usize) {
            account.waived = waived;
            if !account.is_settled() {
                // Let go: what it owed from before is owed again.
                self.owed.entry(slot).or_insert(self.confirmed);
            }
        }
        self.settle(slot);
    }

    /// Past the retained-WAL ceiling, or where the publisher's commits wait for us: what is owed is left to a re-seed.
    /// Returns how many sequences are owed one.
    pub fn give_up(&mut self) -> usize {
        let owed = self.owed.len();
        self.owed.clear();
        owed
    }

    /// The publisher is another server, whose WAL ends at `wal_end` now: its positions count from here. Marks and receipts
    /// stay, for they are ids, and a truncate that is to be applied lies before that end.
    pub fn forget_positions(&mut self, wal_end: Lsn) {
        self.observed = Lsn::ZERO;
        self.confirmed = Lsn::ZERO;
        for truncate in self.accounts.iter_mut().filter_map(|account| account.truncate.as_mut()) {
            *truncate = wal_end;
        }
        for since in self.owed.values_mut() {
            *since = Lsn::ZERO;
        }
    }

    fn settle(&mut self, slot: u32) {
        if self.accounts.get(slot as usize).is_none_or(Account::is_settled) {
            self.owed.remove(&slot);
        }
    }

    /// Whether a mark of the sequence is not proven durable.
    #[must_use]
    pub fn is_owing(&self, slot: u32) -> bool {
        self.owed.contains_key(&slot)
    }

    /// Sequences with marks that are not proven durable.
    #[must_use]
    pub fn owing(&self) -> usize {
        self.owed.len()
    }

    /// The position to confirm.
    pub fn flush(&mut self) -> FlushLsn {
        let limit = self.owed.values().min().copied().unwrap_or(self.observed);
        self.confirmed = self.confirmed.max(limit.min(self.observed));
        FlushLsn(self.confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::State;
    use crate::subscriber::receipt::PendingReceipts;

    fn receipt(slot: u32, last_value: i64) -> Receipt {
        let mut pending = PendingReceipts::default();
        pending.expect(Lsn(1), vec![(slot, State { last_value, is_called: true })]);
        pending.collect(Lsn(1)).remove(0)
    }

    fn two_sequences() -> Confirm {
        let mut confirm = Confirm::default();
        let definition = |increment| Definition::new(1, increment, -9999, 9999, 1, false).unwrap();
        confirm.open(0, definition(1));
        confirm.open(1, definition(-1));
        confirm
    }

    #[test]
    fn nothing_is_confirmed_past_an_unproven_mark() {
        let mut confirm = two_sequences();
        confirm.observe(Lsn(10));
        assert_eq!(confirm.flush().lsn(), Lsn(10));
        confirm.owe(0, 100);
        confirm.observe(Lsn(20));
        assert_eq!(confirm.flush().lsn(), Lsn(10));
        confirm.accept(&receipt(0, 99));
        assert_eq!(confirm.flush().lsn(), Lsn(10));
        confirm.accept(&receipt(0, 132));
        assert_eq!(confirm.flush().lsn(), Lsn(20));
        // Within the lead a mark is proven already.
        confirm.owe(0, 132);
        confirm.observe(Lsn(30));
        assert_eq!(confirm.flush().lsn(), Lsn(30));
    }

    #[test]
    fn descending_sequences_are_proven_downwards() {
        let mut confirm = two_sequences();
        confirm.owe(1, -5);
        confirm.observe(Lsn(20));
        confirm.accept(&receipt(1, -4));
        assert_eq!(confirm.flush().lsn(), Lsn(0));
        confirm.accept(&receipt(1, -5));
        assert_eq!(confirm.flush().lsn(), Lsn(20));
    }

    #[test]
    fn what_the_next_value_is_past_is_proven_whether_it_was_called_or_not() {
        let mut confirm = Confirm::default();
        confirm.open(0, Definition::new(1, 1, 1, 99_999, 1, false).unwrap());
        confirm.open(1, Definition::new(1, 10, 1, 95, 1, false).unwrap());
        confirm.owe(0, 200);
        confirm.owe(1, 85);
        confirm.observe(Lsn(20));
        let mut pending = PendingReceipts::default();
        // Restarted far ahead by hand; and the last but one value of its lattice, short of the mark by itself.
        let far = State { last_value: 5000, is_called: false };
        let near = State { last_value: 81, is_called: true };
        pending.expect(Lsn(1), vec![(0, far), (1, near)]);
        pending.collect(Lsn(1)).iter().for_each(|receipt| confirm.accept(receipt));
        assert_eq!(confirm.flush().lsn(), Lsn(20));
    }

    #[test]
    fn one_waiting_sequence_holds_the_position_and_a_held_one_does_not() {
        let mut confirm = two_sequences();
        confirm.owe(0, 1);
        confirm.owe(1, -1);
        confirm.observe(Lsn(20));
        confirm.accept(&receipt(0, 50));
        assert_eq!((confirm.flush().lsn(), confirm.owing()), (Lsn(0), 1));
        confirm.waive(1, true);
        assert_eq!((confirm.flush().lsn(), confirm.owing()), (Lsn(20), 0));
    }

    #[test]
    fn synchronous_standby_names_are_read_as_the_manual_writes_them() {
        let matches = |names| Synchronous::matching(names, "seqshadow").is_some();
        for yes in ["*", "seqshadow", "a, SeqShadow", "FIRST 2 (a, \"seqshadow\")", "ANY 1 (*)", "2 (*, b)"] {
            assert!(matches(yes), "{yes}");
        }
        for no in ["", "seqshadow2", "FIRST 1 (a, b)"] {
            assert!(!matches(no), "{no}");
        }
    }

    #[test]
    fn a_receipt_short_of_the_mark_holds_the_position_again() {
        let mut confirm = two_sequences();
        confirm.owe(0, 5);
        confirm.accept(&receipt(0, 50));
        confirm.observe(Lsn(20));
        assert_eq!(confirm.flush().lsn(), Lsn(20));
        confirm.accept(&receipt(0, 1));
        confirm.observe(Lsn(30));
        assert_eq!((confirm.flush().lsn(), confirm.owing()), (Lsn(20), 1));
    }

    #[test]
    fn an_id_set_aside_is_owed_no_more_and_the_others_are() {
        let mut confirm = two_sequences();
        confirm.owe(0, 5);
        confirm.owe(0, 2_147_483_647);
        confirm.observe(Lsn(20));
        confirm.accept(&receipt(0, 4));
        confirm.set_aside(0, Some(5));
        assert_eq!(confirm.flush().lsn(), Lsn(0));
        confirm.accept(&receipt(0, 5));
        assert_eq!(confirm.flush().lsn(), Lsn(20));
    }

    #[test]
    fn nothing_is_confirmed_past_a_truncate_before_it_is_applied() {
        let mut confirm = two_sequences();
        confirm.owe(0, 5000);
        confirm.observe(Lsn(20));
        confirm.accept(&receipt(0, 5032));
        assert_eq!(confirm.flush().lsn(), Lsn(20));
        confirm.restart(0, Lsn(30));
        confirm.observe(Lsn(30));
        assert_eq!(confirm.flush().lsn(), Lsn(20), "also without an id after it");
        confirm.owe(0, 200);
        confirm.observe(Lsn(40));
        // It still stands where it stood before the truncate: no proof of anything.
        confirm.accept(&receipt(0, 5032));
        assert_eq!(confirm.flush().lsn(), Lsn(20));
        assert!(confirm.applied(Lsn(29)).is_empty());
        assert_eq!(confirm.applied(Lsn(35)), [0]);
        assert_eq!(confirm.flush().lsn(), Lsn(20));
        confirm.accept(&receipt(0, 232));
        assert_eq!(confirm.flush().lsn(), Lsn(40));
    }

    #[test]
    fn a_truncate_that_comes_again_does_not_make_a_later_one_applied() {
        let mut confirm = two_sequences();
        confirm.observe(Lsn(20));
        assert_eq!(confirm.flush().lsn(), Lsn(20));
        confirm.restart(0, Lsn(30));
        confirm.owe(0, 200);
        confirm.observe(Lsn(40));
        // The publisher has crashed and begins at an older position.
        confirm.restart(0, Lsn(10));
        confirm.owe(0, 5000);
        assert!(confirm.applied(Lsn(25)).is_empty());
        confirm.accept(&receipt(0, 5032));
        assert_eq!(confirm.flush().lsn(), Lsn(20));
    }

    #[test]
    fn a_revoked_receipt_holds_the_position_but_never_takes_it_back() {
        let mut confirm = two_sequences();
        confirm.owe(0, 5);
        confirm.observe(Lsn(20));
        confirm.accept(&receipt(0, 50));
        assert_eq!(confirm.flush().lsn(), Lsn(20));
        confirm.revoke(0);
        confirm.observe(Lsn(30));
        assert_eq!(confirm.flush().lsn(), Lsn(20));
        confirm.accept(&receipt(0, 50));
        assert_eq!(confirm.flush().lsn(), Lsn(30));
    }
}
