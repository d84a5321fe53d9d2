//! The sequence zoo: every way we know in which a table gets its ids, as data.
//!
//! [`list`] describes each animal once; load, oracle and watcher only read the descriptions, so that a new kind of
//! sequence is one more entry there.

mod list;

use crate::pair::Pair;
use crate::sequence::state_columns;
use anyhow::{Context as _, Result};
use seqshadow::types::QualifiedName;
use tokio_postgres::Client;

pub use list::all;

/// The zoo's schemas, for grants.
pub const SCHEMAS: &[&str] = &["zoo", "zoo_b", "Größe"];

/// One sequence and what is known about it.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Its name, the same on both sides.
    pub name: QualifiedName,
    /// What it is here for, in a few words.
    pub about: &'static str,
    /// Its increment: ids grow for positive ones, and fall for negative ones.
    pub increment: i64,
    /// A value of the subscriber's lattice: all its ids differ from it by multiples of the increment.
    pub anchor: i64,
    /// Wraps around: no maximum means anything, and ids come again.
    pub cycle: bool,
    /// Load calls `nextval` itself too (a standalone sequence has no other draws).
    pub direct: bool,
    /// At most this many ids are drawn, where a column or the sequence holds no more.
    pub budget: u64,
    /// The columns whose values come from it.
    pub consumers: Vec<Consumer>,
}

impl Sequence {
    /// Whether `a` is further than `b` in the direction of the increment.
    #[must_use]
    pub fn further(&self, a: i64, b: i64) -> bool {
        if self.increment > 0 { a > b } else { a < b }
    }

    /// Whether load ever draws from it.
    #[must_use]
    pub fn is_drawn(&self) -> bool {
        self.direct || !self.consumers.is_empty()
    }
}

/// A column that a sequence feeds.
#[derive(Clone, Debug)]
pub struct Consumer {
    /// As SQL names it.
    pub table: String,
    /// SQL that gives the number behind the column's value, as bigint.
    pub number: String,
}

/// A table that load inserts into.
#[derive(Clone, Debug)]
pub struct Table {
    /// As SQL names it.
    pub name: String,
    /// Inserts `$1::int` rows (the column `note` and what else must be filled in by hand).
    pub insert: String,
    /// What an insert returns: the sequence's place in [`Zoo::sequences`], and SQL for the number drawn.
    pub draws: Vec<(usize, String)>,
    /// Deletes up to three of the newest rows that nobody has locked.
    pub delete_newest: String,
    /// Empties it and restarts its sequences, on the subscriber too: they are its own, and ids come from rows alone.
    pub restart: Option<String>,
}

/// The whole zoo.
#[derive(Clone, Debug, Default)]
pub struct Zoo {
    /// All sequences.
    pub sequences: Vec<Sequence>,
    /// All tables.
    pub tables: Vec<Table>,
    ddl: Vec<String>,
    on_publisher: Vec<String>,
    on_subscriber: Vec<String>,
}

impl Zoo {
    /// The whole zoo on both servers of a pair, replicated, with rights for the shadow's role.
    ///
    /// # Errors
    /// When a server refuses something, or the copies do not end.
    pub async fn replicated(pair: &Pair) -> Result<Zoo> {
        let zoo = all();
        zoo.create(&pair.on_publisher().await?, &pair.on_subscriber().await?).await?;
        pair.grant(SCHEMAS).await?;
        pair.replicate_all().await?;
        Ok(zoo)
    }

    /// Creates the zoo on both sides; the sides differ where an animal says so (lanes of interleaved sequences).
    ///
    /// # Errors
    /// When a server refuses a statement, which is in the error.
    pub async fn create(&self, publisher: &Client, subscriber: &Client) -> Result<()> {
        for (client, own) in [(publisher, &self.on_publisher), (subscriber, &self.on_subscriber)] {
            for sql in self.ddl.iter().chain(own) {
                client.batch_execute(sql).await.with_context(|| sql.clone())?;
            }
        }
        Ok(())
    }

    /// The sequence called `name` (without its schema).
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn sequence(&self, name: &str) -> &Sequence {
        let found = self.sequences.iter().find(|sequence| sequence.name.name == name);
        found.unwrap_or_else(|| panic!("the zoo has no sequence {name}"))
    }

    /// SQL that selects `(index int, last_value bigint, is_called bool)` of the sequences at these places.
    #[must_use]
    pub fn states_sql(&self, indexes: impl IntoIterator<Item = usize>) -> String {
        let one = |index: usize| {
            let name = self.sequences.get(index)?.name.to_string();
            Some(format!("SELECT {index}, {} FROM {name}", state_columns(&name)))
        };
        indexes.into_iter().filter_map(one).collect::<Vec<_>>().join(" UNION ALL ")
    }
}
