//! What the stream must look for: which columns of which tables carry ids of which sequence.
//!
//! In: the keeper's sequences. Out: [`Tracking`], given to the stream whole whenever the catalog changes. Pure.

use std::collections::HashMap;

use crate::pgoutput::IdFormat;
use crate::types::QualifiedName;

/// One column to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    pub column: String,
    /// Dense index of the sequence.
    pub slot: u32,
    pub format: IdFormat,
}

/// Everything the stream needs to know of the catalog.
#[derive(Clone, Debug, Default)]
pub struct Tracking {
    /// By the *publisher's* table name, as Relation messages carry it.
    pub tables: HashMap<QualifiedName, Vec<Watched>>,
    /// Sequences that `TRUNCATE … RESTART IDENTITY` of a table restarts on both sides, by the publisher's name.
    pub restarts: HashMap<QualifiedName, Vec<u32>>,
    /// By dense index: whether ids get smaller.
    pub descending: Vec<bool>,
}
