//! The sequences of a server and the columns that take their values from them (the *consumers*).
//!
//! In: an SQL connection to either server. Out: a [`Catalog`], found by OID through `pg_depend` and the column
//! defaults, never by guessing names. It never writes, and it reads no sequence's value (see [`crate::readings`]).

mod callers;
pub mod coverage;
pub mod default_expression;
mod draws;
mod load;
mod named_in_text;
mod node_tree;
mod suspects;
mod takers;
mod targets;
mod tokens;
mod views;
mod written;

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;

pub use load::load;
pub use suspects::Suspect;

use crate::pgoutput::IdFormat;
use crate::plan::{Bounds, Definition};
use crate::types::{Oid, QualifiedName};

/// What `pg_class.relpersistence` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    Permanent,
    Unlogged,
    Temporary,
}

/// What our role may do with a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Privileges {
    /// USAGE of the schema, without which none of the next three is of use (they are false then).
    pub schema: bool,
    pub usage: bool,
    pub select: bool,
    pub update: bool,
    /// Whether our role has the rights of the sequence's owner (needed by `ALTER SEQUENCE`).
    pub owner: bool,
    pub function: ByFunction,
}

/// Whether the advance-only function (see [`crate::subscriber::function`]) moves the sequence for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ByFunction {
    /// It is not used.
    #[default]
    Unused,
    /// It is to be used; and it is not there, may not be called, or may not move this sequence itself.
    OutOfReach,
    Possible,
}

impl Privileges {
    /// `nextval` asks for USAGE or UPDATE.
    #[must_use]
    pub fn may_walk(self) -> bool {
        self.usage || self.update
    }

    /// By our own rights, or by the advance-only function.
    #[must_use]
    pub fn may_advance(self) -> bool {
        self.may_walk() || self.function == ByFunction::Possible
    }

    /// `pg_sequence_last_value` asks for USAGE or SELECT.
    #[must_use]
    pub fn may_read(self) -> bool {
        self.usage || self.select
    }
}

/// How a column came to be a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// `GENERATED … AS IDENTITY` (`pg_depend.deptype = 'i'`).
    Identity,
    /// `serial` or `OWNED BY` (`pg_depend.deptype = 'a'`).
    Owned,
    /// The column's default calls the sequence (`pg_attrdef`).
    Default,
}

/// Whether ids can be read out of a consumer's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readable {
    Yes(IdFormat),
    No(&'static str),
    /// The table is locked, so its default could not be read.
    NotNow,
}

/// A column whose values come from a sequence.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub table: QualifiedName,
    pub table_oid: Oid,
    pub column: String,
    pub link: Link,
    pub readable: Readable,
    /// The values that the column's type can hold.
    pub range: RangeInclusive<i64>,
    /// Whether the column is an integer that leads a usable btree index, so that its furthest value is cheap.
    pub indexed: bool,
    /// `int2`, `int4`, `int8`, `numeric`: comparable with ids as they are.
    pub numeric: bool,
    /// Whether our role may SELECT the column.
    pub selectable: bool,
    /// A partitioned table: it holds no row itself.
    pub partitioned: bool,
    /// Only because a partitioned or inherited table above it is a consumer.
    pub inherited: bool,
    /// The partitioned or inherited tables right above it that are consumers of the same sequence.
    pub parents: BTreeSet<Oid>,
}

/// One sequence of a server and its consumers.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub oid: Oid,
    pub name: QualifiedName,
    pub persistence: Persistence,
    /// `smallint`, `integer` or `bigint`, as `format_type` prints it.
    pub data_type: String,
    pub definition: Definition,
    pub privileges: Privileges,
    pub consumers: Vec<Consumer>,
    /// Who seems to take its values beside the consumers.
    pub suspects: Vec<Suspect>,
}

impl Sequence {
    /// Takes over from an earlier reading what could not be read this time. Says whether anything is still missing.
    pub fn remember(&mut self, earlier: Option<&Sequence>) -> bool {
        let mut missing = false;
        for consumer in self.consumers.iter_mut().filter(|c| c.readable == Readable::NotNow) {
            missing = true;
            let same = |c: &&Consumer| c.table_oid == consumer.table_oid && c.column == consumer.column;
            if let Some(known) = earlier.and_then(|earlier| earlier.consumers.iter().find(same)) {
                consumer.readable = known.readable.clone();
            }
        }
        missing
    }

    /// What every one of its consumers can hold, whatever the sequence itself is limited to. A column whose default makes
    /// something else of the value (`nextval(…) % 1000`) says nothing of how far the sequence may go.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let holds_ids = |consumer: &&Consumer| matches!(consumer.readable, Readable::Yes(_));
        let consumers = self.consumers.iter().filter(holds_ids);
        let (lowest, highest) = consumers.fold((i64::MIN, i64::MAX), |(low, high), consumer| {
            (low.max(*consumer.range.start()), high.min(*consumer.range.end()))
        });
        Bounds { lowest, highest }
    }

    /// The columns that a `TRUNCATE … RESTART IDENTITY` of their table restarts this sequence for.
    pub fn owners(&self) -> impl Iterator<Item = &Consumer> {
        self.consumers.iter().filter(|consumer| consumer.link != Link::Default && !consumer.inherited)
    }

    /// What PostgreSQL 19 compares between publisher and subscriber, in its order.
    #[must_use]
    pub fn definition_text(&self) -> Vec<(&'static str, String)> {
        let d = &self.definition;
        vec![
            ("type", self.data_type.clone()),
            ("START", d.start.to_string()),
            ("INCREMENT", d.increment.to_string()),
            ("MINVALUE", d.min.to_string()),
            ("MAXVALUE", d.max.to_string()),
            ("CYCLE", d.cycle.to_string()),
        ]
    }

    /// One line per column, for messages: `public.orders.id, public.invoices.id`.
    #[must_use]
    pub fn consumers_text(&self) -> String {
        let names: Vec<String> = self
            .consumers
            .iter()
            .map(|c| format!("{}.{}", c.table, crate::types::quote_identifier(&c.column)))
            .collect();
        if names.is_empty() { "no column".to_owned() } else { names.join(", ") }
    }

    /// Where not every column is known that takes its values: that, and who seems to take them for one.
    #[must_use]
    pub fn unknown_column(&self) -> Option<String> {
        let first = match (self.consumers.is_empty(), self.suspects.is_empty()) {
            (true, _) => NO_COLUMN_KNOWN.to_owned(),
            (false, true) => return None,
            (false, false) => format!("{} may not be alone in taking its values", self.first_consumer()),
        };
        let suspects = self.suspects.iter().take(SUSPECTS_NAMED).map(|suspect| suspect.what.clone());
        let told: Vec<String> = [first].into_iter().chain(suspects).collect();
        let more = match self.suspects.len().saturating_sub(SUSPECTS_NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Some(told.join("; ") + &more)
    }

    /// The first of its columns, and how many more there are.
    fn first_consumer(&self) -> String {
        let mut own = self.consumers.iter().filter(|consumer| !consumer.inherited);
        let first = own.next().or(self.consumers.first());
        let first = first.map(|c| format!("{}.{}", c.table, crate::types::quote_identifier(&c.column)));
        match own.count() {
            0 => first.unwrap_or_default(),
            more => format!("{} with {more} more", first.unwrap_or_default()),
        }
    }

    /// The SQL that makes the columns known that take its values unchanged, for the subscriber: for each a statement, or
    /// several of which one is the right one.
    #[must_use]
    pub fn naming_sql(&self) -> Vec<Vec<String>> {
        let suspects = self.suspects.iter().take(SUSPECTS_NAMED);
        let mends: Vec<Vec<String>> =
            suspects.map(|suspect| suspect.mend.clone()).filter(|mend| !mend.is_empty()).collect();
        if !mends.is_empty() {
            mends
        } else if self.consumers.is_empty() {
            vec![vec![format!("ALTER SEQUENCE {} OWNED BY TABLE.COLUMN;", self.name)]]
        } else {
            let name = crate::types::quote_literal(&self.name.to_string());
            let sql = "ALTER TABLE TABLE_NAME ALTER COLUMN COLUMN_NAME SET DEFAULT";
            vec![vec![format!("{sql} nextval({name}::regclass);")]]
        }
    }

    /// The same in one sentence.
    #[must_use]
    pub fn naming_text(&self) -> String {
        let told = self.naming_sql().into_iter().map(|of_one| match of_one.as_slice() {
            [_, _, ..] => format!("whichever of them it is, {}", of_one.join(" or ")),
            _ => of_one.join(" "),
        });
        told.collect::<Vec<_>>().join(" ")
    }
}

/// What is said of a sequence without a consumer: it may have one that nobody can name with certainty.
pub(crate) const NO_COLUMN_KNOWN: &str = "no column is known to take its values";

/// So many suspects of a sequence are told.
const SUSPECTS_NAMED: usize = 3;

/// All sequences of one database, sorted by name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub sequences: Vec<Sequence>,
}

impl Catalog {
    /// Takes over from an earlier reading what could not be read this time. Says whether anything is still missing.
    pub fn remember(&mut self, earlier: &Catalog) -> bool {
        let by_oid: HashMap<Oid, &Sequence> = earlier.sequences.iter().map(|s| (s.oid, s)).collect();
        let mut missing = false;
        for sequence in &mut self.sequences {
            missing |= sequence.remember(by_oid.get(&sequence.oid).copied());
        }
        missing
    }

    /// The position of the sequence behind each consumer column: `(table, column) → indexes of sequences`.
    #[must_use]
    pub fn by_column(&self) -> HashMap<(QualifiedName, String), Vec<usize>> {
        let mut map: HashMap<(QualifiedName, String), Vec<usize>> = HashMap::new();
        for (index, sequence) in self.sequences.iter().enumerate() {
            for consumer in &sequence.consumers {
                map.entry((consumer.table.clone(), consumer.column.clone())).or_default().push(index);
            }
        }
        map
    }

    /// The position of each sequence by its name.
    #[must_use]
    pub fn by_name(&self) -> HashMap<QualifiedName, usize> {
        self.sequences.iter().enumerate().map(|(index, s)| (s.name.clone(), index)).collect()
    }
}
