//! What the keeper does: reads, advances, verifies.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::{debug, info, warn};

use super::managed::{Hold, Managed, Todo};
use super::{Keeper, within};
use crate::catalog::Sequence;
use crate::plan::State;
use crate::readings::{Reading, Trouble};
use crate::sql::SqlError;
use crate::subscriber::advance::{Advanced, Advancer, Outcome, Step, WRITER_LOCK, insert_lsn};
use crate::types::Lsn;

/// How soon to try again what was locked, what another writer of ours was at, what the server refused, and what lacks
/// a right.
const RETRY_LOCKED: Duration = Duration::from_millis(200);
const RETRY_BUSY: Duration = Duration::from_millis(30);
const RETRY_FAILED: Duration = Duration::from_secs(5);

/// Work pauses after this time even if a long walk is not at its end: news must be taken in.
const WORK_BUDGET: Duration = Duration::from_millis(200);

/// Another writer of ours needs some milliseconds; one that takes so long deserves a line in the log.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);

/// Which readings are worth a receipt: after a reconnect all of them, for the old receipts are worth nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Receipts {
    News,
    All,
}

/// What is to be done.
#[derive(Default)]
struct Due {
    steps: Vec<(u32, i64)>,
    follows: Vec<(u32, State)>,
    /// To be read before anything else can be said.
    locked: Vec<u32>,
}

impl Keeper {
    /// Reads where every sequence stands.
    pub(super) async fn read_all(&mut self, client: &Client, advancer: &Advancer) -> Result<(), SqlError> {
        let slots: Vec<u32> = self.managed.iter().filter(|m| m.excluded.is_none()).map(|m| m.slot).collect();
        self.read(client, advancer, &slots, Receipts::All).await
    }

    /// Reads the sequences that were never read.
    pub(super) async fn read_unknown(
        &mut self,
        client: &Client,
        advancer: &Advancer,
    ) -> Result<(), SqlError> {
        let unknown = |m: &&Managed| m.excluded.is_none() && m.state.is_none() && m.retry_at.is_none();
        let slots: Vec<u32> = self.managed.iter().filter(unknown).map(|m| m.slot).collect();
        if slots.is_empty() { Ok(()) } else { self.read(client, advancer, &slots, Receipts::News).await }
    }

    async fn read(
        &mut self,
        client: &Client,
        advancer: &Advancer,
        slots: &[u32],
        receipts: Receipts,
    ) -> Result<(), SqlError> {
        let sequences: Vec<&Sequence> =
            slots.iter().filter_map(|slot| self.managed.get(*slot as usize)).map(|m| &m.sequence).collect();
        let readings = within(advancer.reader().read(client, &sequences)).await?;
        let durable_at = within(insert_lsn(client)).await?;
        let mut states = Vec::new();
        for (slot, reading) in slots.iter().zip(readings) {
            if let Some((state, news)) = self.found(*slot, reading)
                && (news || receipts == Receipts::All)
            {
                states.push((*slot, state));
            }
        }
        self.pending.expect(durable_at, states);
        Ok(())
    }

    /// A reading of the subscriber. Returns the state, and whether it is another than before.
    fn found(&mut self, slot: u32, reading: Reading) -> Option<(State, bool)> {
        let managed = self.managed.get_mut(slot as usize)?;
        let state = match reading {
            Reading::State(state) => state,
            // Without SELECT, all that is known of a sequence that was never called is its definition.
            Reading::Uncalled => State { last_value: managed.sequence.definition.start, is_called: false },
            Reading::Locked => {
                self.hold(slot, Hold::Locked, Some(RETRY_LOCKED));
                return None;
            }
            Reading::Denied => {
                // The catalog says which right is missing.
                self.refresh_wanted |= managed.sequence.privileges.may_read();
                self.hold(slot, Hold::Denied, None);
                return None;
            }
            Reading::Gone => {
                self.refresh_wanted = true;
                return None;
            }
        };
        if managed.went_back(state) {
            let from = managed.state.map(|seen| seen.last_value);
            let (expected, to) = (managed.rewound(), state.last_value);
            let sequence = &managed.sequence.name;
            if expected {
                info!(%sequence, from, to, "the sequence went back on the subscriber, by the TRUNCATE that the stream showed");
            } else {
                warn!(%sequence, from, to, "the sequence went back on the subscriber (TRUNCATE … RESTART IDENTITY, a restore or a setval): it is put ahead again");
            }
            self.links.registry.totals.rewinds.fetch_add(1, Ordering::Relaxed);
            self.confirm.revoke(slot);
            self.pending.forget_slot(slot);
            let outliers = self.links.settings.borrow().outliers;
            self.own_tables.read(&self.managed, outliers);
        }
        let managed = self.managed.get_mut(slot as usize)?;
        let news = managed.state != Some(state);
        managed.state = Some(state);
        let unlocked = managed.hold == Some(Hold::Locked);
        if news || unlocked {
            self.dirty.insert(slot);
        }
        if unlocked {
            self.release(slot);
        }
        // What is owed needs a receipt also where nothing has moved: the old one may have been revoked.
        Some((state, news || self.confirm.is_owing(slot)))
    }

    /// Compares what the subscriber's sequences say with what was promised.
    pub(super) async fn verify(&mut self, client: &Client, advancer: &Advancer) -> Result<(), SqlError> {
        let waiting = Instant::now();
        let readable: Vec<u32> = self
            .managed
            .iter()
            .filter(|m| m.excluded.is_none() && m.retry_at.is_none_or(|at| at <= waiting))
            .map(|m| m.slot)
            .collect();
        if readable.is_empty() {
            return Ok(());
        }
        let awaits_truncate =
            |slot: u32| self.managed.get(slot as usize).is_some_and(Managed::awaits_truncate);
        let slots = self.verify_order.tick(&readable, awaits_truncate);
        let (locked, free): (Vec<u32>, Vec<u32>) = slots.into_iter().partition(|slot| self.is_locked(*slot));
        self.read(client, advancer, &free, Receipts::News).await?;
        self.read_one_by_one(client, advancer, &locked).await
    }

    /// For sequences that were locked: none of them is to hold up another.
    async fn read_one_by_one(
        &mut self,
        client: &Client,
        advancer: &Advancer,
        slots: &[u32],
    ) -> Result<(), SqlError> {
        for slot in slots {
            self.read(client, advancer, &[*slot], Receipts::News).await?;
        }
        Ok(())
    }

    fn is_locked(&self, slot: u32) -> bool {
        self.managed.get(slot as usize).is_some_and(|m| matches!(m.hold, Some(Hold::Locked | Hold::Failed)))
    }

    /// Everything is looked at again, whatever is known.
    pub(super) fn assert_everything(&mut self) {
        self.dirty.extend(self.managed.iter().map(|m| m.slot));
        for managed in &mut self.managed {
            managed.retry_at = None;
            managed.forget_copied();
        }
    }

    pub(super) fn retry_due(&mut self) {
        let now = Instant::now();
        for managed in &mut self.managed {
            if managed.retry_at.is_some_and(|at| at <= now) {
                managed.retry_at = None;
                self.dirty.insert(managed.slot);
            }
        }
    }

    /// Does all that is due.
    pub(super) async fn work(&mut self, client: &Client, advancer: &Advancer) -> Result<(), SqlError> {
        let until = Instant::now() + WORK_BUDGET;
        while !self.dirty.is_empty() && Instant::now() < until {
            let begun = Instant::now();
            let Due { steps, follows, locked } = self.due();
            self.read_one_by_one(client, advancer, &locked).await?;
            // What was locked before goes alone, so that it cannot hold up the others again.
            let (alone, together): (Vec<_>, Vec<_>) =
                steps.into_iter().partition(|(slot, _)| self.is_locked(*slot));
            if !together.is_empty() {
                self.advance(client, advancer, &together).await?;
                self.last_delay = Some(begun.elapsed());
            }
            for step in alone {
                self.advance(client, advancer, &[step]).await?;
            }
            for (slot, exact) in follows {
                let Some(managed) = self.managed.get(slot as usize) else { continue };
                let advanced = within(advancer.follow(client, &managed.sequence, exact)).await?;
                self.settle(&[slot], &advanced);
                if let ([Outcome::At(_)], Some(managed)) =
                    (advanced.outcomes.as_slice(), self.managed.get_mut(slot as usize))
                {
                    managed.copied();
                }
            }
        }
        self.announce();
        if self.announced {
            self.links.registry.set_protecting();
        }
        Ok(())
    }

    /// What is to be done for the sequences about which something changed.
    fn due(&mut self) -> Due {
        let lead = self.links.settings.borrow().lead;
        let (now, clock) = (Instant::now(), self.born.elapsed());
        let mut due = Due::default();
        for slot in std::mem::take(&mut self.dirty) {
            let Some(managed) = self.managed.get(slot as usize) else { continue };
            if managed.retry_at.is_some_and(|at| at > now) {
                continue;
            }
            let todo = managed.todo(lead, clock);
            let moves = matches!(todo, Todo::Advance { .. } | Todo::Follow(_));
            match todo {
                // What was seen before it was locked says nothing of it now.
                Todo::Nothing if managed.hold == Some(Hold::Locked) && managed.excluded.is_none() => {
                    due.locked.push(slot);
                }
                Todo::Nothing => {
                    if let Some(managed) = self.managed.get_mut(slot as usize).filter(|m| m.cycles()) {
                        managed.copied();
                    }
                    self.release(slot);
                }
                Todo::Advance { to } => due.steps.push((slot, to)),
                Todo::Follow(exact) => due.follows.push((slot, exact)),
                Todo::Hold(hold) => self.hold(slot, hold, None),
            }
            if let Some(managed) = self.managed.get_mut(slot as usize) {
                if !moves {
                    managed.settle();
                }
                self.links.registry.put(managed.status(&self.role));
            }
        }
        due
    }

    async fn advance(
        &mut self,
        client: &Client,
        advancer: &Advancer,
        steps: &[(u32, i64)],
    ) -> Result<(), SqlError> {
        let planned: Vec<(u32, Step<'_>)> = steps
            .iter()
            .filter_map(|(slot, to)| {
                let managed = self.managed.get(*slot as usize)?;
                let seen = managed.state?;
                Some((*slot, Step { sequence: &managed.sequence, seen, to: *to }))
            })
            .collect();
        let (slots, made): (Vec<u32>, Vec<Step<'_>>) = planned.into_iter().unzip();
        let advanced = within(advancer.advance(client, &made)).await?;
        self.settle(&slots, &advanced);
        Ok(())
    }

    fn settle(&mut self, slots: &[u32], advanced: &Advanced) {
        let mut states = Vec::new();
        self.tell_busy(advanced.outcomes.contains(&Outcome::Busy));
        for (slot, outcome) in slots.iter().zip(&advanced.outcomes) {
            match outcome {
                Outcome::At(state) => {
                    states.push((*slot, *state));
                    self.arrived(*slot, *state);
                }
                Outcome::Busy => self.retry(*slot, RETRY_BUSY),
                Outcome::Refused(Trouble::Locked) => self.hold(*slot, Hold::Locked, Some(RETRY_LOCKED)),
                Outcome::Refused(Trouble::Denied) => {
                    self.refresh_wanted = true;
                    self.hold(*slot, Hold::Denied, Some(RETRY_FAILED));
                }
                Outcome::Refused(Trouble::Gone) => {
                    self.refresh_wanted = true;
                    self.retry(*slot, RETRY_LOCKED);
                }
                Outcome::Refused(Trouble::Exhausted | Trouble::Other) => {
                    self.hold(*slot, Hold::Failed, Some(RETRY_FAILED));
                }
            }
            if let Some(managed) = self.managed.get(*slot as usize) {
                self.links.registry.put(managed.status(&self.role));
            }
        }
        self.pending.expect(advanced.durable_at.max(Lsn::ZERO), states);
    }

    fn arrived(&mut self, slot: u32, state: State) {
        let Some(managed) = self.managed.get_mut(slot as usize) else { return };
        let moved = managed.state != Some(state);
        debug!(sequence = %managed.sequence.name, from = managed.state.map(|s| s.last_value), to = state.last_value, "advanced");
        managed.state = Some(state);
        if moved {
            self.verify_order.touch(slot);
            managed.advances += 1;
            self.links.registry.totals.advances.fetch_add(1, Ordering::Relaxed);
        }
        // Perhaps it is there; perhaps a long walk goes on, or the mark has moved meanwhile.
        self.dirty.insert(slot);
    }

    /// All our writers take turns. One that does not give way, or a stranger with the same lock, is reported once.
    fn tell_busy(&mut self, busy: bool) {
        match self.busy {
            Some((_, told)) if !busy => {
                self.busy = None;
                if told {
                    info!("the other writer has given way: sequences are advanced again");
                }
            }
            None if busy => self.busy = Some((Instant::now(), false)),
            Some((since, false)) if since.elapsed() > BUSY_PATIENCE => {
                self.busy = Some((since, true));
                let (first, second) = WRITER_LOCK;
                warn!(
                    since = ?since.elapsed(),
                    "another session holds the lock of our writers, so that no sequence can be advanced; find it with: \
                     SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = {first} AND objid = {second} AND granted;"
                );
            }
            _ => {}
        }
    }

    fn retry(&mut self, slot: u32, after: Duration) {
        if let Some(managed) = self.managed.get_mut(slot as usize) {
            managed.retry_at = Some(Instant::now() + after);
        }
    }

    fn hold(&mut self, slot: u32, hold: Hold, retry: Option<Duration>) {
        let Some(managed) = self.managed.get_mut(slot as usize).filter(|m| m.excluded.is_none()) else {
            return;
        };
        managed.retry_at = retry.map(|after| Instant::now() + after);
        managed.settle();
        self.confirm.waive(slot, !hold.is_passing());
        let known = managed.hold.as_ref().is_some_and(|known| known.is_like(&hold));
        managed.hold = Some(hold);
        if known {
            return;
        }
        let reason = managed.reason(&self.role).unwrap_or_default();
        if self.announced {
            warn!(sequence = %managed.sequence.name, %reason, "the sequence is held; the others go on");
        }
        self.links.registry.put(managed.status(&self.role));
    }

    fn release(&mut self, slot: u32) {
        let Some(managed) = self.managed.get_mut(slot as usize) else { return };
        if managed.excluded.is_some() || managed.state.is_none() {
            return;
        }
        managed.retry_at = None;
        if managed.hold.take().is_some() {
            info!(sequence = %managed.sequence.name, "the sequence is followed again");
            self.confirm.waive(slot, managed.cycles());
        }
    }
}
