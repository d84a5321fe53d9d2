//! Both servers, looked at without a sidecar.

use super::{Found, NONE, SequenceLine, SlotLine, Stream, distance};
use crate::config::Settings;
use crate::conninfo::Environment;
use crate::keeper::Todo;
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::ops::survey::{Depth, Surveyed, Surveyor};
use crate::publisher::look::LOOK_TIMEOUT;
use crate::publisher::slot::{self, Verdict};
use crate::registry::{Class, SequenceStatus};
use crate::sides::{Needs, Sides, SidesError};
use crate::sql;
use crate::types::{Lsn, QualifiedName, SlotName};

/// Looks at everything.
///
/// # Errors
/// When a server cannot be reached, or the settings do not say where it is.
pub(super) async fn look(settings: &Settings, environment: &Environment) -> Result<Found, OpsError> {
    let sides = Sides::find(settings, environment, Needs::ADDRESSES).await?;
    let mut surveyor = Surveyor::open(&sides, settings).await?;
    let survey = surveyor.survey(Depth::Indexes).await?;
    let mut stream =
        Stream { state: NONE.to_owned(), publisher_lsn: Some(survey.tag.to_string()), ..Stream::default() };
    let slot = match &settings.slot {
        Some(name) => Some(look_at_slot(&sides, name, settings, survey.tag, &mut stream).await?),
        None => None,
    };
    let sequences = survey.sequences.into_iter().map(|one| line(one, settings, &survey.role)).collect();
    Ok(Found { sidecar: None, stream, slot, sequences })
}

async fn look_at_slot(
    sides: &Sides,
    name: &SlotName,
    settings: &Settings,
    end: Lsn,
    stream: &mut Stream,
) -> Result<SlotLine, SidesError> {
    let publisher = sides.publisher().await?;
    let loading = slot::load(&publisher.client, publisher.version, name);
    let found = sql::within(LOOK_TIMEOUT, loading).await.map_err(|error| Side::Publisher.error(error))?;
    let verdict = slot::judge(name, found.as_ref(), sides.publisher_conninfo.dbname(), &sides.slots);
    let held_by_sidecar = matches!(verdict, Verdict::Standby { .. });
    let (state, reason) = state(verdict);
    let confirmed = found.as_ref().and_then(|slot| slot.confirmed_flush);
    if let Some(confirmed) = confirmed {
        stream.confirmed_lsn = Some(confirmed.to_string());
        stream.lag_bytes = Some(distance(end, confirmed));
    }
    Ok(SlotLine {
        name: name.to_string(),
        state: state.to_owned(),
        reason,
        retained_bytes: found.map(|slot| i64::try_from(slot.retained_bytes).unwrap_or(i64::MAX)),
        ceiling_bytes: i64::try_from(settings.max_retained_wal.0).ok(),
        lost: None,
        held_by_sidecar,
    })
}

fn state(verdict: Verdict) -> (&'static str, Option<String>) {
    match verdict {
        Verdict::Missing => ("missing", None),
        Verdict::Ours => ("free", None),
        Verdict::Standby { pid } => {
            ("held", Some(format!("a seqshadow streams from it (process {pid} of the publisher)")))
        }
        Verdict::Leaving => ("held", Some("whoever held it is ending".to_owned())),
        Verdict::Lost { why } => ("lost", Some(why)),
        Verdict::Refused { why, .. } => ("foreign", Some(why)),
    }
}

/// What the sidecar would make of it.
fn line(mut one: Surveyed, settings: &Settings, role: &str) -> (QualifiedName, SequenceLine) {
    if one.managed.hold.is_none()
        && let Todo::Hold(hold) = one.managed.todo(settings.lead, std::time::Duration::ZERO)
    {
        one.managed.hold = Some(hold);
    }
    let mut status = one.managed.status(role);
    // Nobody follows it now, and nothing tells where it should stand.
    if one.unread().is_some() && (status.mark.is_none() || !one.gaps.is_empty()) {
        status.class = Class::Held;
    }
    let mut reasons: Vec<String> = status.reason.iter().cloned().collect();
    reasons.extend(one.gaps);
    let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    (status.name.clone(), of(status, reason))
}

fn of(status: SequenceStatus, reason: Option<String>) -> SequenceLine {
    SequenceLine {
        sequence: status.name.to_string(),
        consumers: (!status.consumers.is_empty()).then_some(status.consumers),
        state: status.class.as_str().to_owned(),
        behind: status.behind,
        publisher_value: status.publisher_value,
        mark: status.mark,
        source: status.source.map(|source| source.as_str().to_owned()),
        subscriber_value: status.last_value,
        next_value: status.next_value,
        lead: status.lead_steps.map(|lead| i64::try_from(lead).unwrap_or(i64::MAX)),
        lead_seconds: None,
        ids_per_second: None,
        set_aside: status.set_aside,
        last_advance: None,
        reason,
    }
}
