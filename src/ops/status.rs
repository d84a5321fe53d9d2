//! `seqshadow status`: how each sequence, the stream and the slot are.
//!
//! In: the console of the running sidecar, or, where there is none, both servers. Out: a [`Status`] that says which of the
//! two it was.

mod console;
mod servers;

use std::cmp::Reverse;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::{SequencePattern, Settings};
use crate::conninfo::Environment;
use crate::console::place::{self, Surroundings};
use crate::ops::OpsError;
use crate::types::{Lsn, QualifiedName};

/// The name and version of the JSON that is printed.
pub const SCHEMA: &str = "seqshadow.status/1";

/// The stream's state where no sidecar runs.
pub const NONE: &str = "none";

/// The whole answer. Serialized as it is printed with `--json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    pub schema: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    /// Whether nothing is behind or held, the slot is not lost, and a running sidecar protects the sequences.
    pub well: bool,
    /// The sidecar that was asked; without one both servers were looked at.
    pub sidecar: Option<Sidecar>,
    /// Why no console was used though a sidecar seems to run.
    pub note: Option<String>,
    pub stream: Stream,
    /// `None` where no slot was named and no sidecar runs.
    pub slot: Option<SlotLine>,
    pub counts: Counts,
    pub sequences: Vec<SequenceLine>,
}

/// The program that answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sidecar {
    pub version: String,
    pub pid: Option<i64>,
    /// The directory of its console.
    pub console: PathBuf,
    /// Every sequence was compared with the publisher and put ahead for the first time.
    pub protecting: bool,
}

/// How far the stream has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stream {
    /// `streaming`, `connecting`, … of a running sidecar; `none` otherwise.
    pub state: String,
    /// The publisher's end of WAL.
    pub publisher_lsn: Option<String>,
    pub received_lsn: Option<String>,
    pub committed_lsn: Option<String>,
    pub confirmed_lsn: Option<String>,
    pub lag_bytes: Option<i64>,
    pub lag_seconds: Option<f64>,
    pub rows: Option<i64>,
    pub ids_per_second: Option<f64>,
}

/// Our slot on the publisher.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SlotLine {
    pub name: String,
    /// What a running sidecar does with it; otherwise `free`, `missing`, `held`, `lost` or `foreign`.
    pub state: String,
    /// Why it is lost or cannot be used.
    pub reason: Option<String>,
    pub retained_bytes: Option<i64>,
    pub ceiling_bytes: Option<i64>,
    /// How often it was lost and made anew while the sidecar ran.
    pub lost: Option<i64>,
    /// A sidecar streams from it.
    #[serde(skip)]
    pub held_by_sidecar: bool,
}

/// How many sequences there are, before `--only` leaves some out. Each is counted once, but for `set_aside`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub covered: usize,
    pub blind: usize,
    pub held: usize,
    pub excluded: usize,
    /// Whatever else they are.
    pub behind: usize,
    pub set_aside: usize,
}

/// One sequence of the subscriber.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SequenceLine {
    /// `schema.name`, quoted where SQL needs it.
    pub sequence: String,
    /// The columns that take their values from it.
    pub consumers: Option<String>,
    /// `covered`, `blind`, `held` or `excluded`.
    pub state: String,
    pub behind: bool,
    /// `last_value` of the publisher's sequence; of an uncalled one the id before its first.
    pub publisher_value: Option<i64>,
    /// The furthest id known.
    pub mark: Option<i64>,
    /// `stream`, `sequence` or `table`.
    pub source: Option<String>,
    /// `last_value` on the subscriber.
    pub subscriber_value: Option<i64>,
    pub next_value: Option<i64>,
    /// Ids between the mark and the next value.
    pub lead: Option<i64>,
    /// How long the lead lasts at the present rate; `None` where nothing moves.
    pub lead_seconds: Option<f64>,
    pub ids_per_second: Option<i64>,
    /// Ids too far out to follow.
    pub set_aside: Vec<i64>,
    /// RFC 3339, UTC; of this run of the sidecar.
    pub last_advance: Option<String>,
    pub reason: Option<String>,
}

/// By what the sequences are ordered; the name decides between equals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    #[default]
    Name,
    /// The shortest lead first
    Lead,
    /// The lead that lasts the shortest time first
    Seconds,
    /// What is behind, then held, blind, covered, excluded
    Class,
    /// The latest advance first
    Advance,
}

/// Which sequences to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Only {
    Behind,
    Held,
    Blind,
    /// With ids that were set aside
    SetAside,
}

/// What to show of what is found.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The question is about these sequences; empty for all.
    pub filters: Vec<SequencePattern>,
    pub only: Vec<Only>,
    pub sort: Sort,
}

/// What one of the two ways found, before it is judged.
struct Found {
    sidecar: Option<Sidecar>,
    stream: Stream,
    slot: Option<SlotLine>,
    sequences: Vec<(QualifiedName, SequenceLine)>,
}

/// Asks the sidecar where one runs, and both servers otherwise.
///
/// # Errors
/// When a server cannot be reached, or the settings do not say where it is.
pub async fn look(
    settings: &Settings,
    environment: &Environment,
    choice: &Choice,
) -> Result<Status, OpsError> {
    let mut note = None;
    let places =
        if settings.console { place::candidates(settings, &Surroundings::of_process()) } else { Vec::new() };
    if settings.console {
        for directory in &places {
            match console::ask(directory, settings.slot.as_ref()).await {
                Ok(Some(found)) => return Ok(Status::of(found, None, choice)),
                Ok(None) => {}
                Err(why) => note = note.or(Some(format!("the console in {}: {why}", directory.display()))),
            }
        }
    }
    let found = servers::look(settings, environment).await?;
    if settings.console && found.streams() {
        note = note.or_else(|| Some(elsewhere(&places)));
    }
    Ok(Status::of(found, note, choice))
}

/// A sidecar streams, and nobody answers where its console would be.
fn elsewhere(places: &[PathBuf]) -> String {
    let mut names: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    names.dedup();
    format!(
        "a sidecar streams, but no console answers in {}; --console-dir names its directory (it may run on another \
         machine, as another user, or with --no-console)",
        names.join(", ")
    )
}

impl Found {
    /// Whether the publisher knows a sidecar that streams.
    fn streams(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.held_by_sidecar)
    }
}

impl Status {
    fn of(found: Found, note: Option<String>, choice: &Choice) -> Status {
        let is_asked = |name: &QualifiedName| {
            choice.filters.is_empty() || choice.filters.iter().any(|filter| filter.matches(name))
        };
        let mut lines: Vec<SequenceLine> =
            found.sequences.into_iter().filter(|(name, _)| is_asked(name)).map(|(_, line)| line).collect();
        let counts = Counts::of(&lines);
        let is_lost =
            found.slot.as_ref().is_some_and(|slot| matches!(slot.state.as_str(), "lost" | "missing"));
        let protects = found.sidecar.as_ref().is_none_or(|sidecar| sidecar.protecting);
        let is_held = lines.iter().any(|line| line.state == "held");
        let well = counts.behind == 0 && !is_held && !is_lost && protects;
        lines.retain(|line| choice.only.is_empty() || choice.only.iter().any(|only| only.takes(line)));
        choice.sort.apply(&mut lines);
        Status {
            schema: SCHEMA,
            at: super::now(),
            well,
            sidecar: found.sidecar,
            note,
            stream: found.stream,
            slot: found.slot,
            counts,
            sequences: lines,
        }
    }
}

impl Counts {
    fn of(lines: &[SequenceLine]) -> Self {
        let with = |state: &str| lines.iter().filter(|line| line.state == state && !line.behind).count();
        Counts {
            covered: with("covered"),
            blind: with("blind"),
            held: with("held"),
            excluded: with("excluded"),
            behind: lines.iter().filter(|line| line.behind).count(),
            set_aside: lines.iter().filter(|line| !line.set_aside.is_empty()).count(),
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> usize {
        self.covered + self.blind + self.held + self.excluded + self.behind
    }
}

impl Only {
    fn takes(self, line: &SequenceLine) -> bool {
        match self {
            Only::Behind => line.behind,
            Only::Held => line.state == "held",
            Only::Blind => line.state == "blind",
            Only::SetAside => !line.set_aside.is_empty(),
        }
    }
}

impl Sort {
    fn apply(self, lines: &mut [SequenceLine]) {
        let unknown_last = |seconds: Option<f64>| seconds.unwrap_or(f64::INFINITY);
        lines.sort_by(|a, b| {
            let order = match self {
                Sort::Name => std::cmp::Ordering::Equal,
                Sort::Lead => (a.lead.is_none(), a.lead).cmp(&(b.lead.is_none(), b.lead)),
                Sort::Seconds => unknown_last(a.lead_seconds).total_cmp(&unknown_last(b.lead_seconds)),
                Sort::Class => rank(a).cmp(&rank(b)),
                Sort::Advance => Reverse(&a.last_advance).cmp(&Reverse(&b.last_advance)),
            };
            order.then_with(|| a.sequence.cmp(&b.sequence))
        });
    }
}

fn rank(line: &SequenceLine) -> usize {
    let ranks = ["held", "blind", "covered", "excluded"];
    if line.behind { 0 } else { 1 + ranks.iter().position(|r| *r == line.state).unwrap_or(ranks.len()) }
}

/// The bytes between two positions, for people and JSON.
fn distance(end: Lsn, start: Lsn) -> i64 {
    i64::try_from(end.bytes_since(start)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, state: &str, lead: Option<i64>) -> (QualifiedName, SequenceLine) {
        let name = QualifiedName::new("public", name);
        let line = SequenceLine {
            sequence: name.to_string(),
            state: state.to_owned(),
            lead,
            ..SequenceLine::default()
        };
        (name, line)
    }

    fn status(lines: Vec<(QualifiedName, SequenceLine)>, choice: &Choice) -> Status {
        let found = Found { sidecar: None, stream: Stream::default(), slot: None, sequences: lines };
        Status::of(found, None, choice)
    }

    fn names(status: &Status) -> Vec<&str> {
        status.sequences.iter().map(|line| line.sequence.trim_start_matches("public.")).collect()
    }

    #[test]
    fn a_filter_narrows_the_question_and_only_narrows_what_is_shown() {
        let lines = vec![line("a", "covered", Some(3)), line("b", "held", None), line("c", "blind", Some(1))];
        let all = status(lines.clone(), &Choice::default());
        assert!(!all.well && all.counts.all() == 3);
        let only = Choice { only: vec![Only::Blind], ..Choice::default() };
        let blind = status(lines.clone(), &only);
        assert_eq!((names(&blind), blind.well, blind.counts.held), (vec!["c"], false, 1));
        let filter = Choice { filters: vec!["public.a".parse().unwrap()], ..Choice::default() };
        let asked = status(lines, &filter);
        assert_eq!((names(&asked), asked.well, asked.counts.held), (vec!["a"], true, 0));
    }

    #[test]
    fn all_is_well_only_when_nothing_is_amiss() {
        let sidecar =
            |protecting| Sidecar { version: String::new(), pid: None, console: "/c".into(), protecting };
        let slot = |state: &str| SlotLine { state: state.to_owned(), ..SlotLine::default() };
        let well = |sidecar: Option<Sidecar>, state: &str, behind: bool| {
            let mut sequences = vec![line("a", "covered", Some(1))];
            sequences[0].1.behind = behind;
            let found = Found { sidecar, stream: Stream::default(), slot: Some(slot(state)), sequences };
            Status::of(found, None, &Choice::default()).well
        };
        assert!(well(None, "free", false) && well(Some(sidecar(true)), "streaming", false));
        assert!(!well(Some(sidecar(false)), "streaming", false), "it has yet to look at them");
        assert!(!well(None, "lost", false) && !well(Some(sidecar(true)), "streaming", true));
    }

    #[test]
    fn the_order_puts_first_what_deserves_a_look() {
        let mut lines = vec![
            line("a", "covered", Some(300)),
            line("b", "held", None),
            line("c", "blind", Some(1)),
            line("d", "covered", Some(0)),
        ];
        lines[3].1.behind = true;
        lines[0].1.last_advance = Some("2026-11-21T15:00:00Z".to_owned());
        lines[0].1.lead_seconds = Some(2.0);
        for (sort, expected) in [
            (Sort::Name, ["a", "b", "c", "d"]),
            (Sort::Lead, ["d", "c", "a", "b"]),
            (Sort::Class, ["d", "b", "c", "a"]),
            (Sort::Advance, ["a", "b", "c", "d"]),
            (Sort::Seconds, ["a", "b", "c", "d"]),
        ] {
            let sorted = status(lines.clone(), &Choice { sort, ..Choice::default() });
            assert_eq!(names(&sorted), expected, "{sort:?}");
        }
    }
}
