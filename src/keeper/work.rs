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
use crate::subscriber::advance::{Advanced, Advancer, Outcome, Step, insert_lsn};
use crate::types::Lsn;

/// How soon to try again what was locked, what another writer of ours was at, what the server refused, and what lacks
/// a right.
const RETRY_LOCKED: Duration = Duration::from_millis(200);
const RETRY_BUSY: Duration = Duration::from_millis(30);
const RETRY_FAILED: Duration = Duration::from_secs(5);

/// How many sequences one verify tick reads at most.
const VERIFY_BATCH: usize = 1000;

/// A round of work ends here even if a long walk is not at its end: others must have their turn.
const ROUNDS_MAX: usize = 50;

/// What is to be done now, by dense index.
#[derive(Default)]
struct Due {
    /// The `last_value` to reach.
    steps: Vec<(u32, i64)>,
    /// For CYCLE sequences, the publisher's state.
    follows: Vec<(u32, State)>,
}

impl Keeper {
    /// Reads where every sequence stands.
    pub(super) async fn read_all(&mut self, client: &Client, advancer: &Advancer) -> Result<(), SqlError> {
        let slots: Vec<u32> = self.managed.iter().filter(|m| m.excluded.is_none()).map(|m| m.slot).collect();
        self.read(client, advancer, &slots).await
    }

    /// Reads the sequences that were never read.
    pub(super) async fn read_unknown(
        &mut self,
        client: &Client,
        advancer: &Advancer,
    ) -> Result<(), SqlError> {
        let unknown = |m: &&Managed| m.excluded.is_none() && m.state.is_none() && m.retry_at.is_none();
        let slots: Vec<u32> = self.managed.iter().filter(unknown).map(|m| m.slot).collect();
        if slots.is_empty() { Ok(()) } else { self.read(client, advancer, &slots).await }
    }

    async fn read(&mut self, client: &Client, advancer: &Advancer, slots: &[u32]) -> Result<(), SqlError> {
        let sequences: Vec<&Sequence> =
            slots.iter().filter_map(|slot| self.managed.get(*slot as usize)).map(|m| &m.sequence).collect();
        let readings = within(advancer.reader().read(client, &sequences)).await?;
        let durable_at = within(insert_lsn(client)).await?;
        let mut states = Vec::new();
        for (slot, reading) in slots.iter().zip(readings) {
            if let Some(state) = self.found(*slot, reading) {
                states.push((*slot, state));
            }
        }
        self.pending.expect(durable_at, states);
        Ok(())
    }

    /// A reading of the subscriber. Returns the state if it is worth a receipt.
    fn found(&mut self, slot: u32, reading: Reading) -> Option<State> {
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
                self.hold(slot, Hold::Denied, None);
                return None;
            }
            Reading::Gone => {
                self.refresh_wanted = true;
                return None;
            }
        };
        if managed.went_back(state) {
            managed.rewinds += 1;
            self.links.registry.totals.rewinds.fetch_add(1, Ordering::Relaxed);
            warn!(
                sequence = %managed.sequence.name, from = managed.promised, to = state.last_value,
                "the sequence went back on the subscriber (TRUNCATE … RESTART IDENTITY, a restore or a setval): it is put ahead again"
            );
            managed.promised = None;
            self.confirm.revoke(slot);
            self.pending.forget_slot(slot);
            let outliers = self.links.settings.borrow().outliers;
            self.own_tables.read(&self.managed, outliers);
        }
        let managed = self.managed.get_mut(slot as usize)?;
        let news = managed.state != Some(state);
        managed.state = Some(state);
        if news {
            self.dirty.insert(slot);
        }
        news.then_some(state)
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
        let from = self.verify_from % readable.len();
        let count = readable.len().min(VERIFY_BATCH);
        let slots: Vec<u32> = readable.iter().cycle().skip(from).take(count).copied().collect();
        self.verify_from = from + count;
        let (locked, free): (Vec<u32>, Vec<u32>) = slots.into_iter().partition(|slot| self.is_locked(*slot));
        self.read(client, advancer, &free).await?;
        for slot in locked {
            self.read(client, advancer, &[slot]).await?;
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
        for _ in 0..ROUNDS_MAX {
            let begun = Instant::now();
            let Due { steps, follows } = self.due();
            if steps.is_empty() && follows.is_empty() {
                break;
            }
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
        let (mut steps, mut follows) = (Vec::new(), Vec::new());
        for slot in std::mem::take(&mut self.dirty) {
            let Some(managed) = self.managed.get(slot as usize) else { continue };
            if managed.retry_at.is_some_and(|at| at > now) {
                continue;
            }
            let todo = managed.todo(lead, clock);
            let moves = matches!(todo, Todo::Advance { .. } | Todo::Follow(_));
            match todo {
                Todo::Nothing => self.release(slot),
                Todo::Advance { to } => steps.push((slot, to)),
                Todo::Follow(exact) => follows.push((slot, exact)),
                Todo::Hold(hold) => self.hold(slot, hold, None),
            }
            if let Some(managed) = self.managed.get_mut(slot as usize) {
                if !moves {
                    managed.settle();
                }
                self.links.registry.put(managed.status(&self.role));
            }
        }
        Due { steps, follows }
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
        for (slot, outcome) in slots.iter().zip(&advanced.outcomes) {
            match outcome {
                Outcome::At(state) => {
                    states.push((*slot, *state));
                    self.arrived(*slot, *state);
                }
                Outcome::Busy => self.retry(*slot, RETRY_BUSY),
                Outcome::Refused(Trouble::Locked) => self.hold(*slot, Hold::Locked, Some(RETRY_LOCKED)),
                Outcome::Refused(Trouble::Denied) => self.hold(*slot, Hold::Denied, Some(RETRY_FAILED)),
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
        managed.promised = Some(state.last_value);
        if moved {
            managed.advances += 1;
            self.links.registry.totals.advances.fetch_add(1, Ordering::Relaxed);
        }
        // Perhaps it is there; perhaps a long walk goes on, or the mark has moved meanwhile.
        self.dirty.insert(slot);
    }

    fn retry(&mut self, slot: u32, after: Duration) {
        if let Some(managed) = self.managed.get_mut(slot as usize) {
            managed.retry_at = Some(Instant::now() + after);
        }
    }

    fn hold(&mut self, slot: u32, hold: Hold, retry: Option<Duration>) {
        let Some(managed) = self.managed.get_mut(slot as usize) else { return };
        managed.retry_at = retry.map(|after| Instant::now() + after);
        managed.settle();
        self.confirm.waive(slot, !hold.is_passing());
        if managed.hold.as_ref() == Some(&hold) {
            return;
        }
        managed.hold = Some(hold);
        let reason = managed.reason(&self.role).unwrap_or_default();
        if self.announced || managed.coverage.is_some() {
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
