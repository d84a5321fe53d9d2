//! What a survey proves of one sequence.
//!
//! In: a [`Surveyed`] sequence. Out: its [`Verdict`]. No IO.

use std::time::Duration;

use super::survey::Surveyed;
use super::verify::{AS_PUBLISHER, PAST_PUBLISHER, PAST_ROWS};
use crate::catalog::{Consumer, Readable};
use crate::keeper::{Hold, Todo};
use crate::plan::{Lead, State};
use crate::publisher::look::PublisherValue;
use crate::types::quote_identifier;

/// Whether a sequence is proven to be past everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The next value is past every id that is known, as far as any can be: [`Surveyed::lesser`] says where that is less
    /// than everything.
    Past,
    /// The next value is not past the furthest id.
    Behind,
    /// It cannot be told, for this reason.
    Unproven(String),
    /// Nobody's business, for this reason.
    Excluded(&'static str),
}

impl Verdict {
    /// In one word, for tables and JSON.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Verdict::Past => "past",
            Verdict::Behind => "behind",
            Verdict::Unproven(_) => "unproven",
            Verdict::Excluded(_) => "excluded",
        }
    }
}

impl Surveyed {
    /// Whether the sequence, where it was last read, is past every id known.
    #[must_use]
    pub fn verdict(&self, role: &str) -> Verdict {
        let one = &self.managed;
        if let Some(why) = one.excluded {
            // What nobody has asked to leave out, and is in use, is no less unproven for it.
            return if self.gaps.is_empty() {
                Verdict::Excluded(why)
            } else {
                Verdict::Unproven(format!("{why}: {}", self.gaps.join("; ")))
            };
        }
        if let Some(hold) = &one.hold {
            return Verdict::Unproven(one.hold_text(hold, role));
        }
        let Some(state) = one.state else {
            return Verdict::Unproven("it was not read".to_owned());
        };
        let value = one.publisher_value();
        if one.cycles() {
            return cycling(one.is_further(), state, value);
        }
        if one.is_behind() {
            return Verdict::Behind;
        }
        match state.next(&one.sequence.definition) {
            None => {
                return Verdict::Unproven(format!(
                    "it is used up: {} was its last value, and nextval fails",
                    state.last_value
                ));
            }
            Some(next) if !(one.bounds.lowest..=one.bounds.highest).contains(&next) => {
                return Verdict::Unproven(self.too_wide(next, role));
            }
            Some(_) => {}
        }
        match value {
            Some(value)
                if value.absent && one.mark().is_none() && !one.sequence.consumers.iter().any(may_tell) =>
            {
                return Verdict::Unproven(
                    "there is no such sequence on the publisher, and no column here tells of it".to_owned(),
                );
            }
            Some(value) if value.absent => {}
            Some(PublisherValue { unread: Some(why), .. }) => return Verdict::Unproven(why.clone()),
            Some(_) => {}
            None => return Verdict::Unproven("the publisher was not asked".to_owned()),
        }
        if self.gaps.is_empty() { Verdict::Past } else { Verdict::Unproven(self.gaps.join("; ")) }
    }

    /// Of a next value that a column of it cannot hold: nextval gives it, and the INSERT fails.
    fn too_wide(&self, next: i64, role: &str) -> String {
        let one = &self.managed;
        match one.todo(Lead::Steps(0), Duration::ZERO) {
            Todo::Hold(hold @ Hold::Plan(_)) => one.hold_text(&hold, role),
            _ => format!("its next value {next} does not fit into a column that takes its values"),
        }
    }

    /// Why nothing tells where it should stand: the publisher's was not read, or there is none and the columns here were
    /// not looked at. `None` where something tells, and where [`Managed::hold`](crate::keeper::Managed) says why not.
    #[must_use]
    pub fn unread(&self) -> Option<String> {
        let one = &self.managed;
        if one.excluded.is_some() || one.hold.is_some() {
            return None;
        }
        let value = one.publisher_value()?;
        let why = value.unread.clone()?;
        if value.absent {
            // Without a column, or with one that says nothing, there is nothing to bring it up to.
            let is_known = one.cycles() || one.mark().is_some() || self.gaps.is_empty();
            return (!is_known).then(|| format!("{why}, and {}", self.gaps.join("; ")));
        }
        (!one.cycles() || value.state.is_none()).then_some(why)
    }

    /// What [`Verdict::Past`] means where it does not mean past every id, in one word, and why.
    #[must_use]
    pub fn lesser(&self) -> Option<(&'static str, String)> {
        if self.managed.cycles() {
            let why = "a CYCLE sequence has no furthest id, so that nothing proves it free of collisions";
            return Some((AS_PUBLISHER, why.to_owned()));
        }
        let by_columns = self.not_by_columns();
        if self.managed.publisher_value().is_some_and(|value| value.absent) {
            let absent =
                "the publisher has no such sequence, so that ids of deleted rows are not known".to_owned();
            return Some((
                PAST_ROWS,
                [Some(absent), by_columns].into_iter().flatten().collect::<Vec<_>>().join("; "),
            ));
        }
        by_columns.map(|why| (PAST_PUBLISHER, why))
    }

    /// Why it may be past the publisher's own sequence, but not past every id: no column is known to take its values, or
    /// what one holds cannot be turned back into ids. With what to do.
    fn not_by_columns(&self) -> Option<String> {
        let sequence = &self.managed.sequence;
        let unknown = sequence.unknown_column().map(|unknown| {
            format!(
                "{unknown}; where a column holds its values unchanged, this on the subscriber makes it known: {}",
                sequence.naming_text()
            )
        });
        let unread =
            sequence.consumers.iter().filter(|consumer| !consumer.inherited).filter_map(|consumer| {
                match consumer.readable {
                    Readable::No(why) => {
                        let column = format!("{}.{}", consumer.table, quote_identifier(&consumer.column));
                        Some(format!("{column} was not looked at: {why}"))
                    }
                    _ => None,
                }
            });
        let told: Vec<String> = unknown.into_iter().chain(unread).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

/// Whether the ids in a column can be told.
fn may_tell(consumer: &Consumer) -> bool {
    !matches!(consumer.readable, Readable::No(_))
}

fn cycling(is_further: bool, here: State, value: Option<&PublisherValue>) -> Verdict {
    match value.and_then(|value| value.state) {
        Some(there) if there == here => Verdict::Past,
        Some(there) if is_further => Verdict::Unproven(further(here, there)),
        Some(there) => Verdict::Unproven(format!(
            "it may CYCLE, so that no id is the furthest, and stands at {} here and at {} on the publisher",
            here.last_value, there.last_value
        )),
        None => Verdict::Unproven("it may CYCLE, and the publisher's cannot be read".to_owned()),
    }
}

/// Of a CYCLE sequence that is left where it is: why, and what sets it back.
pub(super) fn further(here: State, there: State) -> String {
    format!(
        "it may CYCLE, so that no id is the furthest, and stands at {} here and at {} on the publisher: somebody has drawn \
         from it here, or it has begun anew there; plan, sync and cutover set it back with --cycle-back only",
        here.last_value, there.last_value
    )
}
