//! One thing that `setup` makes and `teardown` removes, and what became of it.

use serde::Serialize;

use crate::ops::ask::Side;

/// A publication, a slot, a role, what a role was granted, a function or its schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Object {
    /// `publisher` or `subscriber`.
    pub side: &'static str,
    /// `publication`, `slot`, `role`, `grants`, `function`, `schema`.
    pub kind: &'static str,
    pub name: String,
    pub outcome: Outcome,
    /// More about it, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What was run, or would be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sql: Vec<String>,
}

/// What became of an [`Object`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Made,
    Changed,
    /// It was there, as it should be, and nothing was done.
    Kept,
    /// It is not as it should be, and nothing was done.
    Open,
    Removed,
    /// It was not there.
    Absent,
    /// It is not ours to remove, or could not be removed.
    Left,
    ToMake,
    ToChange,
    ToRemove,
}

impl Outcome {
    /// As tables show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Made => "made",
            Outcome::Changed => "changed",
            Outcome::Kept => "kept",
            Outcome::Open => "not done",
            Outcome::Removed => "removed",
            Outcome::Absent => "not there",
            Outcome::Left => "left",
            Outcome::ToMake => "to be made",
            Outcome::ToChange => "to be changed",
            Outcome::ToRemove => "to be removed",
        }
    }
}

impl Object {
    pub(crate) fn new(side: Side, kind: &'static str, name: &str, outcome: Outcome) -> Self {
        Object { side: side.name(), kind, name: name.to_owned(), outcome, note: None, sql: Vec::new() }
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    pub(crate) fn sql<S: Into<String>>(mut self, sql: impl IntoIterator<Item = S>) -> Self {
        self.sql = sql.into_iter().map(Into::into).collect();
        self
    }
}
