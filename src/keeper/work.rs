//! What the keeper does: reads, advances, verifies.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::{debug, info, warn};

use super::managed::{Hold, Managed, Todo};
use super::{Keeper, within};
use crate::catalog::Sequence;
use crate::plan::State;
use crate::readings::{self, Reading, Trouble};
use crate::sql::SqlError;
use crate::subscriber::advance::{Advanced, Advancer, Outcome, Step, WRITER_LOCK};

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
    blocked: Vec<u32>,
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
        if slots.is_empty() {
            return Ok(());
        }
        let sequences: Vec<&Sequence> =
            slots.iter().filter_map(|slot| self.managed.get(*slot as usize)).map(|m| &m.sequence).collect();
        let readings = within(advancer.reader().read(client, &sequences)).await?;
        let wal = within(advancer.wal_end(client)).await?;
        let mut states = Vec::new();
        for (slot, reading) in slots.iter().zip(readings) {
            if let Some((state, news)) = self.found(*slot, reading)
                && (news || receipts == Receipts::All)
            {
                states.push((*slot, state));
            }
        }
        self.pending.expect(wal.end, states);
        self.prove(wal.flushed);
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
            Reading::Failed(why) => {
                self.failed(slot, why);
                return None;
            }
        };
        self.look_for_setback(slot, state);
        let managed = self.managed.get_mut(slot as usize)?;
        let news = managed.state != Some(state);
        managed.state = Some(state);
        let unblocked = managed.hold.as_ref().is_some_and(Hold::is_passing);
        if news || unblocked {
            self.dirty.insert(slot);
        }
        if unblocked {
            self.release(slot);
        }
        // What is owed needs a receipt also where nothing has moved: the old one may have been revoked.
        Some((state, news || self.confirm.is_owing(slot)))
    }

    /// Whether the sequence is found short of where it was seen before: then nothing of what is known about it on the
    /// subscriber counts any more.
    fn look_for_setback(&mut self, slot: u32, now: State) {
        let Some(managed) = self.managed.get_mut(slot as usize).filter(|m| m.went_back(now)) else { return };
        let from = managed.state.map(|seen| seen.last_value);
        let (expected, to) = (managed.rewound(), now.last_value);
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
        let (blocked, free): (Vec<u32>, Vec<u32>) =
            slots.into_iter().partition(|slot| self.is_blocked(*slot));
        self.read(client, advancer, &free, Receipts::News).await?;
        self.read_blocked(client, advancer, blocked).await
    }

    /// Whether it was locked, or refused, at the last try: it goes apart from the others, so as not to spoil their batch.
    fn is_blocked(&self, slot: u32) -> bool {
        self.managed.get(slot as usize).and_then(|m| m.hold.as_ref()).is_some_and(Hold::is_passing)
    }

    fn is_locked(&self, slot: u32) -> bool {
        self.managed.get(slot as usize).is_some_and(|m| m.hold == Some(Hold::Locked))
    }

    async fn read_blocked(
        &mut self,
        client: &Client,
        advancer: &Advancer,
        slots: Vec<u32>,
    ) -> Result<(), SqlError> {
        let (locked, refused): (Vec<u32>, Vec<u32>) =
            slots.into_iter().partition(|slot| self.is_locked(*slot));
        let free = self.no_longer_locked(client, locked).await?;
        self.read(client, advancer, &free, Receipts::News).await?;
        for slot in refused {
            self.read(client, advancer, &[slot], Receipts::News).await?;
        }
        Ok(())
    }

    /// Those of `slots` that nobody holds locked any more; the others are to wait. To ask is cheap however many they
    /// are, while each try takes the whole `lock_timeout`.
    async fn no_longer_locked(&mut self, client: &Client, slots: Vec<u32>) -> Result<Vec<u32>, SqlError> {
        let sequences = slots.iter().filter_map(|slot| self.managed.get(*slot as usize)).map(|m| &m.sequence);
        let locked = within(readings::locked(client, &sequences.collect::<Vec<_>>())).await?;
        let is_locked = |slot: &u32| {
            self.managed.get(*slot as usize).is_some_and(|managed| locked.contains(&managed.oid()))
        };
        let (waiting, free): (Vec<u32>, Vec<u32>) = slots.into_iter().partition(is_locked);
        for slot in waiting {
            self.hold(slot, Hold::Locked, Some(RETRY_LOCKED));
        }
        Ok(free)
    }

    /// Everything is looked at again, whatever is known.
    pub(super) fn assert_everything(&mut self) {
        self.dirty.extend(self.managed.iter().map(|m| m.slot));
        for managed in &mut self.managed {
            managed.retry_at = None;
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
        self.retry_at = self.managed.iter().filter_map(|managed| managed.retry_at).min();
    }

    /// A sequence is to be tried again then; to be early costs a look at all of them.
    fn retry_by(&mut self, at: Instant) {
        self.retry_at = Some(self.retry_at.map_or(at, |known| known.min(at)));
    }

    /// Does all that is due.
    pub(super) async fn work(&mut self, client: &Client, advancer: &Advancer) -> Result<(), SqlError> {
        let until = Instant::now() + WORK_BUDGET;
        while !self.dirty.is_empty() && Instant::now() < until {
            let begun = Instant::now();
            let Due { mut steps, follows, blocked } = self.due();
            // What was locked or refused before goes after the others, which it must not hold up again.
            let blocked_steps: BTreeMap<u32, i64> =
                steps.extract_if(.., |(slot, _)| self.is_blocked(*slot)).collect();
            if !steps.is_empty() {
                self.advance(client, advancer, &steps).await?;
                self.last_delay = Some(begun.elapsed());
            }
            self.read_blocked(client, advancer, blocked).await?;
            self.advance_blocked(client, advancer, &blocked_steps).await?;
            for (slot, exact) in follows {
                self.follow(client, advancer, slot, exact).await?;
            }
        }
        self.announce();
        if self.announced {
            self.links.registry.set_protecting();
        }
        Ok(())
    }

    /// Gives a CYCLE sequence the publisher's state.
    async fn follow(
        &mut self,
        client: &Client,
        advancer: &Advancer,
        slot: u32,
        exact: State,
    ) -> Result<(), SqlError> {
        let Some(managed) = self.managed.get(slot as usize) else { return Ok(()) };
        let Some(seen) = managed.state else { return Ok(()) };
        let advanced = within(advancer.follow(client, &managed.sequence, seen, exact)).await?;
        let Some(managed) = self.managed.get_mut(slot as usize) else { return Ok(()) };
        match advanced.outcomes.as_slice() {
            [Outcome::At(now)] if *now != exact => {
                // Somebody draws from it: perhaps later.
                managed.state = Some(*now);
                self.retry(slot, RETRY_LOCKED);
            }
            outcomes => {
                if outcomes == [Outcome::At(exact)] {
                    managed.copied();
                }
                self.settle(&[slot], &advanced);
            }
        }
        Ok(())
    }

    async fn advance_blocked(
        &mut self,
        client: &Client,
        advancer: &Advancer,
        steps: &BTreeMap<u32, i64>,
    ) -> Result<(), SqlError> {
        let (locked, refused): (Vec<u32>, Vec<u32>) = steps.keys().partition(|slot| self.is_locked(**slot));
        let free = self.no_longer_locked(client, locked).await?;
        let free: Vec<(u32, i64)> = free.iter().filter_map(|slot| Some((*slot, *steps.get(slot)?))).collect();
        if !free.is_empty() {
            self.advance(client, advancer, &free).await?;
        }
        for step in refused.iter().filter_map(|slot| Some((*slot, *steps.get(slot)?))) {
            self.advance(client, advancer, &[step]).await?;
        }
        Ok(())
    }

    /// What is to be done for the sequences about which something changed.
    fn due(&mut self) -> Due {
        let lead = self.links.settings.borrow().lead;
        let (now, clock) = (Instant::now(), self.born.elapsed());
        let mut due = Due::default();
        let mut calm = Vec::new();
        for slot in std::mem::take(&mut self.dirty) {
            let Some(managed) = self.managed.get(slot as usize) else { continue };
            if managed.dropped || managed.retry_at.is_some_and(|at| at > now) {
                continue;
            }
            let todo = managed.todo(lead, clock);
            let moves = matches!(todo, Todo::Advance { .. } | Todo::Follow(_));
            calm.push((slot, managed.calm_until().filter(|_| todo == Todo::Nothing)));
            match todo {
                // What was seen before it was locked, or refused, says nothing of it now.
                Todo::Nothing if managed.excluded.is_none() && self.is_blocked(slot) => {
                    due.blocked.push(slot);
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
        self.links.handover.calm_until(&calm);
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
                Outcome::Refused(Trouble::Other(why)) => self.failed(*slot, why.clone()),
            }
            if let Some(managed) = self.managed.get(*slot as usize) {
                self.links.registry.put(managed.status(&self.role));
            }
        }
        self.pending.expect(advanced.wal.end, states);
        self.prove(advanced.wal.flushed);
    }

    /// The server refused. Perhaps the sequence is dropped at this moment: the catalog says so then.
    fn failed(&mut self, slot: u32, why: String) {
        let hold = Hold::Failed(why);
        let known = self.managed.get(slot as usize).and_then(|managed| managed.hold.as_ref());
        self.refresh_wanted |= known != Some(&hold);
        self.hold(slot, hold, Some(RETRY_FAILED));
    }

    fn arrived(&mut self, slot: u32, state: State) {
        // Between its last reading and this one somebody may have set it back.
        self.look_for_setback(slot, state);
        let Some(managed) = self.managed.get_mut(slot as usize) else { return };
        let moved = managed.state != Some(state);
        debug!(sequence = %managed.sequence.name, from = managed.state.map(|s| s.last_value), to = state.last_value, "advanced");
        managed.state = Some(state);
        if moved {
            self.verify_order.touch(slot);
            managed.advances += 1;
            managed.last_advance = Some(SystemTime::now());
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
        let at = Instant::now() + after;
        if let Some(managed) = self.managed.get_mut(slot as usize) {
            managed.retry_at = Some(at);
            self.retry_by(at);
        }
    }

    fn hold(&mut self, slot: u32, hold: Hold, retry: Option<Duration>) {
        let Some(managed) = self.managed.get_mut(slot as usize).filter(|m| m.excluded.is_none()) else {
            return;
        };
        managed.retry_at = retry.map(|after| Instant::now() + after);
        self.retry_at = [self.retry_at, managed.retry_at].into_iter().flatten().min();
        self.confirm.waive(slot, !hold.is_passing());
        let known = managed.hold.as_ref().is_some_and(|known| known.is_like(&hold));
        managed.hold = Some(hold);
        managed.settle();
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
