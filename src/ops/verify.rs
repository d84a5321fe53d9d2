//! `seqshadow verify`: proves, without burning an id, that each sequence's next value is past everything known.

use serde::Serialize;

use super::survey::far::{COUNTED, NAMED};
use super::survey::{Survey, Surveyed};
use super::verdict::Verdict;
use crate::catalog::Sequence;
use crate::keeper::Managed;
use crate::plan::State;
use crate::types::quote_identifier;

/// The name and version of the JSON that is printed.
pub const SCHEMA: &str = "seqshadow.verify/1";

/// The verdict on a sequence that is past the publisher's own, and no more is proven: not every column that takes its values
/// is known and can be read.
pub const PAST_PUBLISHER: &str = "past_publisher";

/// The verdict on a sequence that is past the ids in its tables, and that the publisher lacks.
pub const PAST_ROWS: &str = "past_rows";

/// The verdict on a CYCLE sequence that has the publisher's state.
pub const AS_PUBLISHER: &str = "as_publisher";

/// The verdicts that are less than past every id, and what each means, of one sequence.
pub const LESSER: [(&str, &str); 3] = [
    (PAST_PUBLISHER, "is past the publisher's own, and no more is proven"),
    (PAST_ROWS, "is past the ids in its tables, and no more is proven"),
    (AS_PUBLISHER, "has the publisher's state, and no more is proven"),
];

/// The whole answer. Serialized as it is printed with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    pub schema: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    /// The publisher's WAL position: everything committed before it was looked at.
    pub publisher_lsn: String,
    /// Whether there are sequences that are not excluded, and each of them is proven.
    pub proven: bool,
    pub sequences: Vec<Proof>,
}

/// What is proven of one sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// `schema.name`, quoted where SQL needs it.
    pub sequence: String,
    /// `past`, one of [`LESSER`], `behind`, `unproven` or `excluded`.
    pub verdict: &'static str,
    /// Why it is not proven, or not past every id, or is left out.
    pub reason: Option<String>,
    /// The columns that are known to take its values.
    pub columns: Vec<String>,
    /// Without a column: who seems to take its values all the same.
    pub suspects: Vec<String>,
    /// `last_value` of the publisher's sequence; of an uncalled one the id before its first.
    pub publisher_value: Option<i64>,
    /// The furthest id known, from whichever source.
    pub furthest_id: Option<i64>,
    /// `sequence` or `table`.
    pub source: Option<&'static str>,
    /// What `nextval` would give on the subscriber.
    pub next_value: Option<i64>,
    /// Steps between the furthest id and the next value.
    pub margin: Option<u64>,
    /// The furthest ids too far out to follow, the furthest first: the exceptions to the proof.
    pub set_aside: Vec<i64>,
    /// How many of them there are: they are counted up to 1,000, and 1,001 stands for more. Nothing where not every column
    /// could be looked at for all of them.
    pub set_aside_count: Option<usize>,
}

impl Verification {
    /// Judges a survey.
    #[must_use]
    pub fn of(survey: &Survey) -> Self {
        let sequences: Vec<Proof> = survey.sequences.iter().map(|one| Proof::of(one, &survey.role)).collect();
        Verification {
            schema: SCHEMA,
            at: super::now(),
            publisher_lsn: survey.tag.to_string(),
            proven: sequences.iter().any(Proof::is_past)
                && sequences.iter().all(|proof| proof.is_past() || proof.verdict == "excluded"),
            sequences,
        }
    }
}

impl Proof {
    /// Judges one sequence.
    #[must_use]
    pub fn of(one: &Surveyed, role: &str) -> Self {
        let managed = &one.managed;
        let verdict = one.verdict(role);
        let definition = &managed.sequence.definition;
        let mark = managed.mark();
        let (word, lesser) = match one.lesser().filter(|_| verdict == Verdict::Past) {
            Some((word, why)) => (word, Some(why)),
            None => (verdict.as_str(), None),
        };
        let reason = match &verdict {
            Verdict::Past => lesser,
            Verdict::Behind => Some("its next value is in use, or will be".to_owned()),
            Verdict::Unproven(why) => Some(why.clone()),
            Verdict::Excluded(why) => Some((*why).to_owned()),
        };
        let state: Option<State> = managed.publisher_value().and_then(|value| value.state);
        Proof {
            sequence: managed.sequence.name.to_string(),
            verdict: word,
            reason,
            columns: columns(&managed.sequence),
            suspects: managed.sequence.suspects.iter().map(|suspect| suspect.what.clone()).collect(),
            publisher_value: state.and_then(|state| state.mark(definition)),
            furthest_id: mark.map(|(mark, _)| mark),
            source: mark.map(|(_, source)| source.as_str()),
            next_value: managed.state.and_then(|state| state.next(definition)),
            margin: managed.lead_steps(),
            set_aside: furthest_first(managed),
            set_aside_count: one.set_aside_count,
        }
    }

    /// Whether the next value is past everything that it was held against.
    #[must_use]
    pub fn is_past(&self) -> bool {
        self.verdict == "past" || self.meaning().is_some()
    }

    /// Of a verdict that is less than past every id: what is proven of the sequence, and why no more is.
    #[must_use]
    pub fn lesser(&self) -> Option<String> {
        let reason = self.reason.as_deref().unwrap_or_default();
        self.meaning().map(|meaning| format!("{} {meaning}: {reason}", self.sequence))
    }

    /// The ids that are set aside, for people; nothing where there is none.
    #[must_use]
    pub fn set_aside_text(&self) -> Option<String> {
        if self.set_aside.is_empty() {
            return None;
        }
        let ids = self.set_aside.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let named = self.set_aside.len();
        Some(match self.set_aside_count {
            Some(count) if count > COUNTED => {
                format!("{ids} and more than {} more", COUNTED.saturating_sub(named))
            }
            Some(count) if count > named => format!("{ids} and {} more", count.saturating_sub(named)),
            Some(_) => ids,
            None => format!("{ids}, and there may be more"),
        })
    }

    fn meaning(&self) -> Option<&'static str> {
        LESSER.iter().find(|(verdict, _)| *verdict == self.verdict).map(|(_, meaning)| *meaning)
    }
}

/// As many as are named.
fn furthest_first(managed: &Managed) -> Vec<i64> {
    let mut ids: Vec<i64> = managed.set_aside().collect();
    if !managed.descending() {
        ids.reverse();
    }
    ids.truncate(NAMED);
    ids
}

/// Its columns by name, without those that have it from a table above.
fn columns(sequence: &Sequence) -> Vec<String> {
    let own = sequence.consumers.iter().filter(|consumer| !consumer.inherited);
    own.map(|consumer| format!("{}.{}", consumer.table, quote_identifier(&consumer.column))).collect()
}
