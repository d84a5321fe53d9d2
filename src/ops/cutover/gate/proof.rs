//! What the gate proves of sequences: before anything is moved that it can be, and afterwards that it is.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::Gate;
use crate::keeper::Todo;
use crate::ops::cutover::applier::emit;
use crate::ops::cutover::certificate::{Certified, CertifiedSequence};
use crate::ops::cutover::stop::{Blocker, Stop};
use crate::ops::cutover::writes;
use crate::ops::plan::todo;
use crate::ops::survey::{Survey, Surveyed};
use crate::ops::verdict::Verdict;
use crate::ops::verify::Proof;
use crate::plan::{Lead, State};
use crate::types::Oid;

impl Gate<'_> {
    /// Every sequence must be where it can be brought past everything.
    pub(super) fn could_be_proven(&self, survey: &Survey) -> Result<(), Blocker> {
        if let Some(missing) = survey.missing_publications.first() {
            return Err(Blocker::new(
                "publication-missing",
                format!(
                    "publication \"{missing}\" is not on the publisher, so that nobody would see a row of it"
                ),
                "create it there, or name others with --publication",
            ));
        }
        if survey.sequences.iter().all(|one| one.managed.excluded.is_some()) {
            return Err(Blocker::new(
                "no-sequence",
                "no sequence is left to prove anything of: there is none, or all are excluded",
                "see --schema, --exclude-schema and --exclude-sequence",
            ));
        }
        for one in &survey.sequences {
            let name = &one.managed.sequence.name;
            if one.managed.excluded.is_some() && one.gaps.is_empty() {
                continue;
            }
            if let Todo::Hold(hold) = todo(&one.managed, self.lead) {
                return Err(Blocker::new(
                    "sequence-held",
                    format!(
                        "sequence {name} cannot be moved: {}",
                        one.managed.hold_text(&hold, &survey.role)
                    ),
                    "mend it, or leave it out with --exclude-sequence",
                ));
            }
            let moves = matches!(todo(&one.managed, self.lead), Todo::Advance { .. } | Todo::Follow(_));
            match one.verdict(&survey.role) {
                Verdict::Unproven(why) if !(moves && one.managed.cycles()) => {
                    return Err(unproven(one, &why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// None of the sequences that were there before the pause may be gone.
    pub(super) fn all_there(&self, survey: &Survey) -> Result<(), Blocker> {
        let there: HashSet<Oid> = survey.sequences.iter().map(|one| one.managed.oid()).collect();
        let Some((_, name)) = self.known.iter().find(|(oid, _)| !there.contains(oid)) else { return Ok(()) };
        Err(Blocker::new(
            "sequence-gone",
            format!("sequence {name} was dropped on the subscriber meanwhile"),
            "see who did, and try again",
        ))
    }

    pub(super) async fn no_row_since_the_fence(&self) -> Result<(), Stop> {
        let Some(witness) = &self.witness else { return Ok(()) };
        let Some(row) = witness.first_row_past(self.fence, self.heartbeat).await? else { return Ok(()) };
        Err(Blocker::new(
            "writes-go-on",
            format!(
                "a row of {} was committed at {} by transaction {}, after the fence at {}",
                row.table, row.at, row.xid, self.fence
            ),
            "stop that writer: a session can set default_transaction_read_only = off for itself",
        )
        .into())
    }

    /// Reads both sides anew, and hears the witness again.
    pub(in crate::ops::cutover) async fn prove(&mut self, give_up: Instant) -> Result<(), Stop> {
        let Some(mut proven) = self.survey.take() else { return Ok(()) };
        self.still_stopped().await?;
        self.nobody_writes(give_up).await?;
        self.nothing_prepared().await?;
        self.proven = emit(&self.publisher.client, "seqshadow cutover proven").await?;
        self.no_row_since_the_fence().await?;
        // Last, so that nothing is drawn between it and the word of the witness unseen.
        let before: HashMap<Oid, Option<State>> =
            proven.sequences.iter().map(|one| (one.managed.oid(), publisher_state(one))).collect();
        // The tables are as they were seen after the fence: no row has come since, as the witness will tell.
        self.surveyor.look_again(&mut proven).await?;
        for one in &proven.sequences {
            let name = one.managed.sequence.name.clone();
            let now = publisher_state(one);
            match before.get(&one.managed.oid()) {
                Some(before) if *before != now => {
                    let text = |state: &Option<State>| {
                        state.map_or_else(|| "unknown".to_owned(), |state| state.last_value.to_string())
                    };
                    return Err(Blocker::new(
                        "sequence-moved",
                        format!(
                            "sequence {name} of the publisher went from {} to {} after the fence",
                            text(before),
                            text(&now)
                        ),
                        "somebody still draws ids there: stop that writer and try again",
                    )
                    .into());
                }
                _ => {}
            }
            match one.verdict(&proven.role) {
                Verdict::Past | Verdict::Excluded(_) => {}
                Verdict::Behind => return Err(unproven(one, "its next value is in use").into()),
                Verdict::Unproven(why) => return Err(unproven(one, &why).into()),
            }
        }
        self.sessions_left = writes::others(&self.publisher.client, &self.own_sessions()).await?.len();
        if proven.sequences.iter().any(|one| one.managed.sequence.definition.cache > 1) {
            self.subscriber_sessions = writes::sessions_of(&self.sides.subscriber.client).await?;
        }
        self.survey = Some(proven);
        Ok(())
    }

    /// What goes into the certificate. The writes stay stopped.
    pub(in crate::ops::cutover) fn certify(&mut self) -> Certified {
        let (mut sequences, mut excluded) = (Vec::new(), Vec::new());
        let mut notes = std::mem::take(&mut self.notes);
        let survey = self.survey.take();
        for one in survey.iter().flat_map(|survey| &survey.sequences) {
            let sequence = &one.managed.sequence;
            if let Some(why) = one.managed.excluded {
                excluded.push(sequence.name.to_string());
                notes.push(format!("{} is not part of the proof: {why}", sequence.name));
                continue;
            }
            if sequence.definition.cache > 1 {
                let pids =
                    self.subscriber_sessions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let which = if pids.is_empty() { String::new() } else { format!(" (pids {pids})") };
                notes.push(format!(
                    "{} has CACHE {}: sessions that are connected to the subscriber now{which} may hold values; reconnect \
                     them",
                    sequence.name, sequence.definition.cache
                ));
            }
            if sequence.consumers.is_empty() && sequence.suspects.is_empty() && !one.managed.cycles() {
                notes.push(format!(
                    "no column is known to use {}: it is past the publisher's own, and no table was looked at",
                    sequence.name
                ));
            }
            let proof = Proof::of(one, survey.as_ref().map_or("", |survey| &survey.role));
            let exact = (self.lead == Lead::Steps(0)).then(|| exactness(one));
            let (exact, exact_reason) = exact.unzip();
            sequences.push(CertifiedSequence { proof, exact, exact_reason });
        }
        for name in self.surveyor.only_on_publisher() {
            notes.push(format!(
                "sequence {name} of the publisher is not on the subscriber: nextval of it fails there"
            ));
        }
        let by_us = self.undo.is_some();
        if self.sessions_left > 0 {
            notes.push(format!(
                "{} still connected to the publisher and could write again: this holds up to {}",
                if self.sessions_left == 1 {
                    "1 session is".to_owned()
                } else {
                    format!("{} sessions are", self.sessions_left)
                },
                self.proven
            ));
        }
        Certified {
            database: self.database().to_owned(),
            publisher: self.surveyor.publisher_peer().to_owned(),
            subscriber: self.sides.subscriber.peer.clone(),
            applier: self.applier.describe(),
            fence_lsn: self.fence.to_string(),
            proven_up_to_lsn: self.proven.to_string(),
            writes_stopped_by_us: by_us,
            sessions_left: self.sessions_left,
            sequences,
            excluded,
            notes,
        }
    }
}

/// Whether it has the publisher's exact state, and how that is known, or why it has not.
fn exactness(one: &Surveyed) -> (bool, String) {
    let definition = &one.managed.sequence.definition;
    let Some(there) = publisher_state(one) else {
        return (false, "where the publisher's sequence stands is not known".to_owned());
    };
    let Some(here) = one.managed.state else {
        return (false, "where it stands is not known".to_owned());
    };
    let text = |state: State| {
        let called = if state.is_called { "" } else { ", not called yet" };
        format!("{}{called}", state.last_value)
    };
    let stands = |state: State| (state.mark(definition), state.next(definition));
    if stands(here) == stands(there) {
        let how = "read on both sides after the move; the publisher's has not moved since the fence, and no id is past it";
        return (true, format!("last value {}: {how}", text(here)));
    }
    let reason = match one.managed.mark() {
        Some((furthest, source)) if Some(furthest) != there.mark(definition) => {
            format!(
                "id {furthest} (from the {}) is past the publisher's last value {}",
                source.as_str(),
                text(there)
            )
        }
        _ => format!(
            "it was past the publisher's last value {} already, at {}: ids may have been taken here, and none is \
             given twice",
            text(there),
            text(here)
        ),
    };
    (false, reason)
}

fn publisher_state(one: &Surveyed) -> Option<State> {
    one.managed.publisher_value().and_then(|value| value.state)
}

fn unproven(one: &Surveyed, why: &str) -> Blocker {
    Blocker::new(
        "sequence-unproven",
        format!("sequence {} cannot be proven: {why}", one.managed.sequence.name),
        "mend it, or leave it out with --exclude-sequence",
    )
}
