//! `seqshadow sync`: brings every sequence of the subscriber up once, safely, from any publisher.
//!
//! In: a [`Survey`]. Out: each sequence at its target, or the reason why not. Never back (see
//! [`crate::subscriber::advance`]), but for a CYCLE sequence where that is asked for.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_postgres::Client;

use super::plan::todo;
use super::survey::{Survey, Surveyor};
use super::verdict::Verdict;
use crate::catalog::Sequence;
use crate::keeper::{Hold, Managed, Todo};
use crate::plan::{Lead, State};
use crate::publisher::look::LOOK_TIMEOUT;
use crate::readings::Trouble;
use crate::sides::SidesError;
use crate::sql;
use crate::subscriber::advance::{Advanced, Advancer, Outcome, Step, nudge_wal_writer};
use crate::types::Lsn;

/// The name and version of the JSON that is printed.
pub const SCHEMA: &str = "seqshadow.sync/1";

/// So many sequences are moved before progress is told.
const BATCH: usize = 500;

/// How long a sequence that is locked, or another writer of ours, is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// What was done. Serialized as it is printed with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Synced {
    pub schema: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    pub publisher_lsn: String,
    pub moved: Vec<Moved>,
    pub in_place: usize,
    pub excluded: usize,
    /// Those that are not past everything known, and why.
    pub failed: Vec<Failed>,
}

/// One sequence that was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moved {
    pub sequence: String,
    pub furthest_id: Option<i64>,
    /// What `nextval` would have given before, and gives now.
    pub next_before: Option<i64>,
    pub next_value: Option<i64>,
}

/// One sequence that is not where it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    pub sequence: String,
    pub reason: String,
}

impl Surveyor<'_> {
    /// See [`Mover::sync`].
    ///
    /// # Errors
    /// Where the connection to the subscriber is lost.
    pub(crate) async fn sync(
        &self,
        survey: &mut Survey,
        lead: Lead,
        progress: impl FnMut(usize, usize),
    ) -> Result<Synced, SidesError> {
        Mover { client: self.subscriber(), advancer: self.advancer() }.sync(survey, lead, progress).await
    }
}

/// Moves the sequences of a survey.
#[derive(Debug)]
pub(crate) struct Mover<'a> {
    pub(crate) client: &'a Client,
    pub(crate) advancer: &'a Advancer,
}

impl Mover<'_> {
    /// Moves every sequence of `survey` to its target, and waits until that is durable. `progress` hears how many of how
    /// many are done.
    ///
    /// # Errors
    /// Where the connection to the subscriber is lost: what was moved by then stays moved.
    pub(crate) async fn sync(
        &self,
        survey: &mut Survey,
        lead: Lead,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Synced, SidesError> {
        let before: Vec<Option<State>> = survey.sequences.iter().map(|s| s.managed.state).collect();
        let excluded = survey.sequences.iter().filter(|s| s.managed.excluded.is_some()).count();
        let due = |survey: &Survey| -> Vec<usize> {
            let moves = |m: &Managed| matches!(todo(m, lead), Todo::Advance { .. } | Todo::Follow(_));
            let sequences = survey.sequences.iter().enumerate();
            sequences.filter(|(_, s)| moves(&s.managed)).map(|(index, _)| index).collect()
        };
        let total = due(survey).len();
        let give_up = Instant::now() + PATIENCE;
        let mut durable_at = Lsn::ZERO;
        loop {
            let (mut waiting, mut looked_at) = (0_usize, 0_usize);
            let now_due = due(survey);
            for batch in now_due.chunks(BATCH) {
                let (blocked, lsn) = self.sync_batch(survey, batch, lead).await?;
                waiting = waiting.saturating_add(blocked);
                looked_at = looked_at.saturating_add(batch.len());
                durable_at = durable_at.max(lsn);
                let to_come = now_due.len().saturating_sub(looked_at).saturating_add(waiting);
                progress(total.saturating_sub(to_come), total);
            }
            let left = due(survey).len();
            if left == 0 || waiting == left && Instant::now() > give_up {
                break;
            }
            if waiting > 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        // What the sidecar, or somebody's nextval, has put in place may not be flushed either.
        durable_at = durable_at.max(within(self.advancer.wal_end(self.client)).await?.end);
        self.wait_durable(durable_at).await?;
        let mut synced = Synced {
            schema: SCHEMA,
            at: super::now(),
            publisher_lsn: survey.tag.to_string(),
            moved: Vec::new(),
            in_place: 0,
            excluded,
            failed: Vec::new(),
        };
        for (one, before) in survey.sequences.iter().zip(before) {
            let managed = &one.managed;
            let (sequence, definition) = (managed.sequence.name.to_string(), &managed.sequence.definition);
            let next = |state: Option<State>| state.and_then(|state| state.next(definition));
            if managed.excluded.is_some() {
                continue;
            }
            if managed.state == before {
                synced.in_place += 1;
            } else {
                synced.moved.push(Moved {
                    sequence: sequence.clone(),
                    furthest_id: managed.mark().map(|(mark, _)| mark),
                    next_before: next(before),
                    next_value: next(managed.state),
                });
            }
            let reason = match (todo(managed, lead), one.verdict(&survey.role)) {
                (Todo::Hold(hold), _) => managed.hold_text(&hold, &survey.role),
                (Todo::Advance { .. } | Todo::Follow(_), _) => managed.hold_text(&Hold::Locked, &survey.role),
                (_, Verdict::Behind) => "its next value is in use, or will be".to_owned(),
                (_, Verdict::Unproven(why)) => match one.unread() {
                    Some(unread) => unread,
                    // There is nothing to bring it up to.
                    None if managed.publisher_value().is_some_and(|value| value.absent) => continue,
                    // A column that was not looked at is no failure of the move.
                    None if !one.gaps.is_empty() || !survey.publisher_known => continue,
                    None => why,
                },
                _ => continue,
            };
            if managed.state == before {
                synced.in_place -= 1;
            }
            synced.failed.push(Failed { sequence, reason });
        }
        Ok(synced)
    }

    /// Moves those of `batch`. Returns how many have to wait, and what makes the others durable.
    async fn sync_batch(
        &self,
        survey: &mut Survey,
        batch: &[usize],
        lead: Lead,
    ) -> Result<(usize, Lsn), SidesError> {
        let client = self.client;
        let mut slots = Vec::new();
        let mut steps: Vec<Step<'_>> = Vec::new();
        let mut follows: Vec<(usize, Sequence, State, State)> = Vec::new();
        for index in batch {
            let Some(managed) = survey.sequences.get(*index).map(|s| &s.managed) else { continue };
            let Some(seen) = managed.state else { continue };
            match todo(managed, lead) {
                Todo::Advance { to } => {
                    slots.push(*index);
                    steps.push(Step { sequence: &managed.sequence, seen, to });
                }
                Todo::Follow(exact) => follows.push((*index, managed.sequence.clone(), seen, exact)),
                Todo::Nothing | Todo::Hold(_) => {}
            }
        }
        let Advanced { outcomes, wal } = within(self.advancer.advance(client, &steps)).await?;
        let mut durable_at = wal.end;
        let mut done: Vec<(usize, Outcome)> = slots.into_iter().zip(outcomes).collect();
        for (index, sequence, seen, exact) in follows {
            let advanced = within(self.advancer.follow(client, &sequence, seen, exact)).await?;
            durable_at = durable_at.max(advanced.wal.end);
            done.extend(advanced.outcomes.into_iter().map(|outcome| (index, outcome)));
        }
        let mut waiting = 0;
        for (index, outcome) in done {
            let Some(managed) = survey.sequences.get_mut(index).map(|s| &mut s.managed) else { continue };
            match outcome {
                Outcome::At(state) => {
                    managed.state = Some(state);
                    if managed.cycles() {
                        managed.copied();
                    }
                }
                Outcome::Busy | Outcome::Refused(Trouble::Locked) => waiting += 1,
                Outcome::Refused(Trouble::Denied) => managed.hold = Some(Hold::Denied),
                Outcome::Refused(Trouble::Gone) => {
                    managed.hold = Some(Hold::Failed("it was dropped meanwhile".to_owned()));
                }
                Outcome::Refused(Trouble::Other(why)) => managed.hold = Some(Hold::Failed(why)),
            }
        }
        Ok((waiting, durable_at))
    }

    /// A walk comes without a flush: what was read is lost by a crash until the WAL is flushed that far.
    async fn wait_durable(&self, durable_at: Lsn) -> Result<(), SidesError> {
        let client = self.client;
        let give_up = Instant::now() + LOOK_TIMEOUT;
        loop {
            if within(self.advancer.wal_end(client)).await?.flushed >= durable_at {
                return Ok(());
            }
            if Instant::now() > give_up {
                return Err(SidesError::on_subscriber(sql::SqlError::TimedOut { after: LOOK_TIMEOUT }));
            }
            within(nudge_wal_writer(client)).await?;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, SidesError> {
    sql::within(LOOK_TIMEOUT, work).await.map_err(SidesError::on_subscriber)
}
