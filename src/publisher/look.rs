//! What one connection to the publisher knows of its sequences and tables, and how they are asked.
//!
//! In: sequences of the subscriber. Out: what the publisher's say of them, and the furthest ids in its tables.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio_postgres::{Client, Error};

use super::publication::{self, Publications};
use crate::catalog::coverage::{Coverage, Published, coverage};
use crate::catalog::{self, Catalog, Persistence, Readable, Sequence};
use crate::pgoutput::IdFormat;
use crate::plan::State;
use crate::readings::{Reader, Reading};
use crate::sql::{self, Connection, SqlError};
use crate::tables::{self, Question};
use crate::types::{Lsn, Oid, QualifiedName};

/// What is known of one subscriber sequence from the publisher's side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublisherValue {
    /// The state of the sequence of the same name (of the one behind the same column, where there is none).
    pub state: Option<State>,
    /// The furthest id that any sequence behind the same columns has used.
    pub mark: Option<i64>,
    /// It was locked there: this says nothing of it, and the next reading will.
    pub locked: bool,
    /// In which ways the definitions differ, `increment 2 on the publisher, 1 here`.
    pub mismatch: Option<String>,
    /// Why there is no state.
    pub unread: Option<String>,
    /// There is no such sequence on the publisher.
    pub absent: bool,
    /// There is no state because our role lacks a right.
    pub denied: bool,
}

/// The furthest ids of one sequence in one table: within the limit, and past it.
pub type InTable = (Oid, Option<i64>, Option<i64>);

/// Publisher table name → subscriber table name, where they differ.
pub type Renames = HashMap<QualifiedName, QualifiedName>;

/// What the publisher defines.
#[derive(Debug)]
pub(crate) struct Definitions {
    catalog: Catalog,
    publications: Publications,
    /// Nothing where a table is locked.
    tables: Option<HashMap<QualifiedName, Published>>,
}

/// What a comparison of both sides found.
#[derive(Debug)]
pub struct Compared {
    pub publications: Publications,
    /// By the subscriber's OIDs.
    pub coverage: HashMap<Oid, Coverage>,
}

/// How long the publisher may take for one answer.
pub(crate) const LOOK_TIMEOUT: Duration = Duration::from_secs(120);

/// One connection's knowledge.
pub(crate) struct Look {
    pub(crate) client: Client,
    pub(crate) version: u32,
    /// Which server answers, for messages.
    pub(crate) peer: String,
    pub(crate) backend_pid: i32,
    reader: Reader,
    pub(crate) publisher: Catalog,
    /// By the subscriber's table names; unknown until it could be read for the first time.
    pub(crate) published: Option<HashMap<QualifiedName, Published>>,
    /// Something could not be read because a table was locked: look again soon.
    pub(crate) incomplete: bool,
    /// For each subscriber sequence, the publisher's: by name first, then those behind the same columns.
    pub(crate) counterparts: HashMap<Oid, Vec<usize>>,
    pub(crate) blind: HashSet<Oid>,
    /// UPDATEs of their ids are not in the stream, and nobody but us can look for them.
    pub(crate) updated: HashSet<Oid>,
}

impl Look {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// The server's or the connection's error.
    pub(crate) async fn new(connection: Connection) -> Result<Self, SqlError> {
        let reader = sql::within(LOOK_TIMEOUT, Reader::prepare(&connection.client)).await?;
        Ok(Look {
            version: connection.version,
            peer: connection.peer,
            backend_pid: connection.backend_pid,
            client: connection.client,
            reader,
            publisher: Catalog::default(),
            published: None,
            incomplete: false,
            counterparts: HashMap::new(),
            blind: HashSet::new(),
            updated: HashSet::new(),
        })
    }

    /// Reads the publisher's catalog and what `publications` publish, and finds the counterparts of the sequences of
    /// `subscriber` and how each is covered. What cannot be read because a table is locked stays as it was known before.
    pub(crate) async fn compare(
        &mut self,
        subscriber: &Catalog,
        publications: &[String],
        renames: &Renames,
    ) -> Result<Compared, SqlError> {
        let definitions = self.definitions(publications).await?;
        Ok(self.compare_with(definitions, subscriber, renames))
    }

    /// Reads the publisher's catalog and what `publications` publish.
    ///
    /// # Errors
    /// The server's or the connection's error.
    pub(crate) async fn definitions(&self, publications: &[String]) -> Result<Definitions, SqlError> {
        let catalog = sql::within(LOOK_TIMEOUT, catalog::load(&self.client)).await?;
        let publications = sql::within(LOOK_TIMEOUT, publication::load(&self.client, publications)).await?;
        let tables = publication::tables(&self.client, self.version, &publications);
        let tables = sql::within(LOOK_TIMEOUT, tables).await?;
        Ok(Definitions { catalog, publications, tables })
    }

    /// Finds the counterparts of the sequences of `subscriber` and how each is covered. What could not be read because a
    /// table is locked stays as it was known before.
    pub(crate) fn compare_with(
        &mut self,
        definitions: Definitions,
        subscriber: &Catalog,
        renames: &Renames,
    ) -> Compared {
        let Definitions { catalog: mut publisher, publications, tables } = definitions;
        self.incomplete = publisher.remember(&self.publisher);
        self.publisher = publisher;
        let renamed = |name: &QualifiedName| renames.get(name).unwrap_or(name).clone();
        match tables {
            Some(tables) => {
                self.published = Some(tables.into_iter().map(|(name, p)| (renamed(&name), p)).collect());
            }
            None => self.incomplete = true,
        }
        self.counterparts = counterparts(subscriber, &self.publisher, renamed);
        self.updated.clear();
        let mut found: HashMap<Oid, Coverage> = HashMap::new();
        for sequence in &subscriber.sequences {
            let mut coverage = coverage(sequence, self.published.as_ref());
            if let Coverage::Covered { but } = &mut coverage
                && !but.is_empty()
                && self.reads_every_table(sequence, renamed)
            {
                but.clear();
                self.updated.insert(sequence.oid);
            }
            found.insert(sequence.oid, coverage);
        }
        let is_blind = |coverage: &Coverage| matches!(coverage, Coverage::Blind(_));
        self.blind = found.iter().filter(|(_, c)| is_blind(c)).map(|(oid, _)| *oid).collect();
        Compared { publications, coverage: found }
    }

    /// A position that everything read afterwards is not older than.
    pub(crate) async fn current_lsn(&self) -> Result<Lsn, Error> {
        // A standby that has replayed nothing yet has no position.
        let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0')
                               ELSE pg_current_wal_insert_lsn() END";
        self.client.query_one(sql, &[]).await?.try_get(0)
    }

    pub(crate) async fn values(&self, sequences: &[&Sequence]) -> Result<Vec<(Oid, PublisherValue)>, Error> {
        let indexes: BTreeSet<usize> =
            sequences.iter().filter_map(|s| self.counterparts.get(&s.oid)).flatten().copied().collect();
        let indexes: Vec<usize> = indexes.into_iter().collect();
        let asked: Vec<&Sequence> = indexes.iter().filter_map(|&i| self.publisher.sequences.get(i)).collect();
        let readings = self.reader.read(&self.client, &asked).await?;
        let by_index: HashMap<usize, Reading> = indexes.into_iter().zip(readings).collect();
        let value = |sequence: &&Sequence| {
            let found = self.counterparts.get(&sequence.oid).map(Vec::as_slice).unwrap_or_default();
            (sequence.oid, self.value(sequence, found, &by_index))
        };
        Ok(sequences.iter().map(value).collect())
    }

    fn value(
        &self,
        sequence: &Sequence,
        found: &[usize],
        readings: &HashMap<usize, Reading>,
    ) -> PublisherValue {
        let mut value = PublisherValue::default();
        let Some(first) = found.first().and_then(|&i| self.publisher.sequences.get(i)) else {
            value.absent = true;
            value.unread = Some("there is no such sequence on the publisher".to_owned());
            return value;
        };
        value.mismatch = mismatch(&first.definition_text(), &sequence.definition_text());
        for (position, index) in found.iter().enumerate() {
            match readings.get(index) {
                Some(Reading::State(state)) => {
                    if position == 0 {
                        value.state = Some(*state);
                    }
                    let definition = &sequence.definition;
                    value.mark = match (value.mark, state.mark(definition)) {
                        (Some(a), Some(b)) => Some(definition.further(a, b)),
                        (a, b) => a.or(b),
                    };
                }
                Some(Reading::Denied | Reading::Uncalled) => {
                    value.denied = true;
                    value.unread = Some(format!(
                        "our role may not read it there: GRANT SELECT ON SEQUENCE {} TO the role we connect as",
                        first.name
                    ));
                }
                Some(Reading::Gone) | None => {
                    value.unread = Some("it was dropped on the publisher".to_owned());
                }
                Some(Reading::Failed(why)) => value.unread = Some(format!("the publisher refused: {why}")),
                Some(Reading::Locked) => {
                    value.locked = true;
                    value.unread = Some("it is locked on the publisher".to_owned());
                }
            }
        }
        value
    }

    /// Whether the furthest id of each column behind `sequence` can be read here.
    fn reads_every_table(
        &self,
        sequence: &Sequence,
        renamed: impl Fn(&QualifiedName) -> QualifiedName,
    ) -> bool {
        let found = self.counterparts.get(&sequence.oid).map(Vec::as_slice).unwrap_or_default();
        let there = found.iter().filter_map(|&i| self.publisher.sequences.get(i)).flat_map(|s| &s.consumers);
        let readable: HashSet<(QualifiedName, &str)> = there
            .filter(|c| tables::is_cheap(c) && c.readable == Readable::Yes(IdFormat::Integer))
            .map(|c| (renamed(&c.table), c.column.as_str()))
            .collect();
        let mut columns = sequence.consumers.iter().filter(|c| !c.partitioned);
        columns.all(|c| readable.contains(&(c.table.clone(), c.column.as_str())))
    }

    /// Sequences of the publisher that are not known under any name on the subscriber.
    pub(crate) fn without_counterpart(&self) -> impl Iterator<Item = &Sequence> {
        let known: HashSet<usize> = self.counterparts.values().flatten().copied().collect();
        let all = self.publisher.sequences.iter().enumerate();
        all.filter(move |(index, _)| !known.contains(index)).map(|(_, sequence)| sequence)
    }

    /// Whether the publisher's own of this sequence survives a crash.
    pub(crate) fn is_logged(&self, sequence: &Sequence) -> bool {
        let found = self.counterparts.get(&sequence.oid).map(Vec::as_slice).unwrap_or_default();
        let mut there = found.iter().filter_map(|&i| self.publisher.sequences.get(i));
        there.any(|one| one.persistence == Persistence::Permanent)
    }

    /// The furthest ids in the publisher's tables behind the columns of `sequences`, and those of which not every table
    /// could be read.
    pub(crate) async fn tables(
        &self,
        sequences: &[&Sequence],
        limits: &HashMap<Oid, i64>,
    ) -> Result<(Vec<InTable>, HashSet<Oid>), Error> {
        let mut unread = HashSet::new();
        let mut questions = Vec::new();
        for (key, sequence) in sequences.iter().enumerate() {
            if sequence.definition.cycle {
                continue;
            }
            let found = self.counterparts.get(&sequence.oid).map(Vec::as_slice).unwrap_or_default();
            let there =
                || found.iter().filter_map(|&i| self.publisher.sequences.get(i)).flat_map(|s| &s.consumers);
            if there().any(|c| c.readable == Readable::NotNow && !c.partitioned) {
                unread.insert(sequence.oid);
            }
            let consumers: Vec<_> = there()
                .filter(|c| !c.partitioned && matches!(c.readable, Readable::Yes(IdFormat::Integer)))
                .collect();
            if consumers.is_empty() || !consumers.iter().all(|c| tables::is_cheap(c)) {
                unread.insert(sequence.oid);
            }
            let limit = limits.get(&sequence.oid).copied().unwrap_or(i64::MAX);
            let descending = sequence.definition.descending();
            let cheap = consumers.into_iter().filter(|c| tables::is_cheap(c));
            questions.extend(cheap.map(|consumer| Question { key, consumer, descending, limit }));
        }
        let (answers, refused) = tables::furthest(&self.client, &questions).await?;
        let oid = |key: usize| sequences.get(key).map(|s| s.oid);
        unread.extend(refused.iter().filter_map(|(key, _)| oid(*key)));
        let found = answers.iter().filter_map(|a| Some((oid(a.key)?, a.within, a.beyond))).collect();
        Ok((found, unread))
    }
}

/// The publisher's sequences behind each of the subscriber's: the namesake first, then those of the same columns.
fn counterparts(
    subscriber: &Catalog,
    publisher: &Catalog,
    renamed: impl Fn(&QualifiedName) -> QualifiedName,
) -> HashMap<Oid, Vec<usize>> {
    let by_name = publisher.by_name();
    let mut by_column: HashMap<(QualifiedName, &str), Vec<usize>> = HashMap::new();
    for (index, sequence) in publisher.sequences.iter().enumerate() {
        for consumer in sequence.consumers.iter().filter(|c| matches!(c.readable, Readable::Yes(_))) {
            by_column.entry((renamed(&consumer.table), consumer.column.as_str())).or_default().push(index);
        }
    }
    let mut found = HashMap::new();
    for sequence in &subscriber.sequences {
        let mut indexes: Vec<usize> = by_name.get(&sequence.name).copied().into_iter().collect();
        for consumer in sequence.consumers.iter().filter(|c| matches!(c.readable, Readable::Yes(_))) {
            let same_column = by_column.get(&(consumer.table.clone(), consumer.column.as_str()));
            for index in same_column.into_iter().flatten() {
                if !indexes.contains(index) {
                    indexes.push(*index);
                }
            }
        }
        found.insert(sequence.oid, indexes);
    }
    found
}

/// `min 1 there, 5 here; …`, or nothing where they are alike.
fn mismatch(there: &[(&'static str, String)], here: &[(&'static str, String)]) -> Option<String> {
    let differing: Vec<String> = there
        .iter()
        .zip(here)
        .filter(|((_, a), (_, b))| a != b)
        .map(|((what, a), (_, b))| format!("{what} is {a} on the publisher and {b} on the subscriber"))
        .collect();
    (!differing.is_empty()).then(|| differing.join("; "))
}
