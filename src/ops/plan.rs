//! `seqshadow plan`: what would bring the subscriber's sequences up now, as an SQL script for change control.
//!
//! In: a [`Survey`]. Out: a [`Plan`]: one guarded `setval` for each sequence that is short of its target, and why.

use std::fmt::Write as _;

use serde::Serialize;

use super::survey::{Survey, Surveyed};
use super::verdict::further;
use crate::demo::text::wrap;
use crate::keeper::{Managed, Todo};
use crate::plan::{Lead, State};
use crate::types::quote_literal;

/// The name and version of the JSON that is printed.
pub const SCHEMA: &str = "seqshadow.plan/1";

/// Everything to do. Serialized as it is printed with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub schema: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    pub publisher_lsn: String,
    /// Sequences to be moved.
    pub moves: Vec<Move>,
    /// Sequences that cannot be moved where they should be.
    pub held: Vec<HeldBack>,
    /// Sequences that are where they should be.
    pub in_place: usize,
    pub excluded: usize,
}

/// One sequence to be moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    pub sequence: String,
    /// What `nextval` would give now.
    pub next_value: Option<i64>,
    /// The `last_value` to set.
    pub to: i64,
    /// Whether that value counts as handed out; false only for a CYCLE sequence that was never called.
    pub is_called: bool,
    pub furthest_id: Option<i64>,
    pub source: Option<&'static str>,
    /// Its ids have no order.
    #[serde(skip)]
    pub cycles: bool,
    /// It may be moved back.
    #[serde(skip)]
    pub goes_back: bool,
    /// The statement, ready to run.
    pub sql: String,
}

/// One sequence that cannot be moved, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldBack {
    pub sequence: String,
    pub reason: String,
    /// What would move it all the same.
    #[serde(skip)]
    pub sql: Option<String>,
}

impl Plan {
    /// What is to be done so that each sequence has its `lead`.
    #[must_use]
    pub fn of(survey: &Survey, lead: Lead) -> Self {
        let mut plan = Plan {
            schema: SCHEMA,
            at: super::now(),
            publisher_lsn: survey.tag.to_string(),
            moves: Vec::new(),
            held: Vec::new(),
            in_place: 0,
            excluded: 0,
        };
        for one in &survey.sequences {
            let managed = &one.managed;
            let sequence = managed.sequence.name.to_string();
            if managed.excluded.is_some() {
                plan.excluded += 1;
                continue;
            }
            match todo(managed, lead) {
                Todo::Nothing => match left_further(managed).or_else(|| unread(one)) {
                    Some(left) => plan.held.push(left),
                    None => plan.in_place += 1,
                },
                Todo::Advance { to } => {
                    plan.moves.push(Move::of(managed, State { last_value: to, is_called: true }));
                    // Past the rows, and nobody knows whether that is far enough.
                    plan.held.extend(unread(one));
                }
                Todo::Follow(exact) => plan.moves.push(Move::of(managed, exact)),
                Todo::Hold(hold) => {
                    let reason = managed.hold_text(&hold, &survey.role);
                    plan.held.push(HeldBack { sequence, reason, sql: None });
                }
            }
        }
        plan
    }

    /// The script: runs in psql, and in anything else that runs SQL.
    #[must_use]
    pub fn script(&self, publisher: &str, subscriber: &str) -> String {
        let mut out = format!(
            "-- seqshadow plan, made {}\n-- of the publisher's state at {}\n{}{}--\n\
             -- Run it on the subscriber: psql -X -v ON_ERROR_STOP=1 -f plan.sql\n\
             -- A line moves its sequence forward or not at all, but for a CYCLE sequence\n\
             -- where its line says so: it gets the publisher's state, also back. While\n\
             -- others call nextval there, use seqshadow sync instead, which cannot race\n\
             -- with them.\n\n\
             SET lock_timeout = '5s';\n\
             -- A server that was cut over from is read-only by default.\n\
             SET default_transaction_read_only = off;\n",
            self.at,
            self.publisher_lsn,
            comment(&format!("publisher:  {publisher}")),
            comment(&format!("subscriber: {subscriber}"))
        );
        for one in &self.moves {
            let known = match (one.furthest_id, one.source) {
                _ if one.goes_back => "CYCLE, to the publisher's state, also back".to_owned(),
                _ if one.cycles => "CYCLE, to the publisher's state".to_owned(),
                (Some(id), Some("table")) => format!("furthest id {id}, in a table"),
                (Some(id), _) => format!("furthest id {id}, of the publisher's sequence"),
                (None, _) => "the publisher's state".to_owned(),
            };
            let next = one.next_value.map_or_else(|| "used up".to_owned(), |next| format!("next was {next}"));
            // Writing to a String cannot fail.
            let said = comment(&format!("{}: {known}; {next}", one.sequence));
            let _ = write!(out, "\n{said}{}\n", one.sql);
        }
        for one in &self.held {
            let said = comment(&format!("HELD {}: {}", one.sequence, one.reason));
            let _ = write!(out, "\n{said}");
            if let Some(sql) = &one.sql {
                let _ = writeln!(out, "-- {}", flat(sql));
            }
        }
        let _ = write!(
            out,
            "\n-- {} to move, {} in place, {} held, {} excluded\n",
            self.moves.len(),
            self.in_place,
            self.held.len(),
            self.excluded
        );
        out
    }
}

/// On one line: what comes after `--` must not become a statement, whatever somebody has named a sequence.
pub(crate) fn flat(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// What is to be done with one sequence, by what a survey knows.
#[must_use]
pub fn todo(managed: &Managed, lead: Lead) -> Todo {
    match &managed.hold {
        Some(hold) => Todo::Hold(hold.clone()),
        None => managed.todo(lead, std::time::Duration::ZERO),
    }
}

/// A CYCLE sequence that is further than the publisher's, and is left there.
fn left_further(managed: &Managed) -> Option<HeldBack> {
    let (here, there) = (managed.state?, managed.publisher_value()?.state?);
    let is_left = managed.cycles() && managed.stays_further && managed.is_further();
    is_left.then(|| HeldBack {
        sequence: managed.sequence.name.to_string(),
        reason: further(here, there),
        sql: Some(setval(managed, there, "")),
    })
}

/// A sequence of which nothing tells where it should stand.
fn unread(one: &Surveyed) -> Option<HeldBack> {
    let sequence = one.managed.sequence.name.to_string();
    one.unread().map(|reason| HeldBack { sequence, reason, sql: None })
}

/// A comment in lines that keep to the margins.
fn comment(text: &str) -> String {
    // A line break in a name is a blank here: what comes after it must not become a statement.
    let lines = wrap(text, 5);
    let mut out = String::new();
    for (index, line) in lines.iter().enumerate() {
        let indent = if index == 0 { "--" } else { "--  " };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{indent} {}", line.trim_start());
    }
    out
}

fn setval(managed: &Managed, State { last_value, is_called }: State, guard: &str) -> String {
    let name = &managed.sequence.name;
    let literal = quote_literal(&name.to_string());
    format!("SELECT setval({}, {last_value}, {is_called}) FROM {name}{guard};", literal.trim_start())
}

impl Move {
    fn of(managed: &Managed, to: State) -> Self {
        let name = &managed.sequence.name;
        let mark = managed.mark();
        let State { last_value, is_called } = to;
        let goes_back = managed.cycles() && !managed.stays_further;
        let guard = if goes_back {
            String::new()
        } else if managed.cycles() {
            let nearer = if managed.descending() { '>' } else { '<' };
            format!(" WHERE NOT is_called OR last_value {nearer} {last_value}")
        } else if managed.descending() {
            format!(" WHERE last_value > {last_value} OR last_value = {last_value} AND NOT is_called")
        } else {
            format!(" WHERE (last_value, is_called) < ({last_value}, true)")
        };
        Move {
            sequence: name.to_string(),
            next_value: managed.state.and_then(|state| state.next(&managed.sequence.definition)),
            to: last_value,
            is_called,
            cycles: managed.cycles(),
            goes_back,
            furthest_id: mark.map(|(mark, _)| mark),
            source: mark.map(|(_, source)| source.as_str()),
            sql: setval(managed, to, &guard),
        }
    }
}
