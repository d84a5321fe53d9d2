//! What lies in the subscriber's own tables: through an index, or by a scan where that is asked for.

use std::collections::{HashMap, HashSet};

use tokio_postgres::Client;

use super::{Depth, limit, on_subscriber};
use crate::catalog::{Consumer, Readable};
use crate::config::{Outliers, Settings};
use crate::keeper::Managed;
use crate::ops::ask::Side;
use crate::pgoutput::IdFormat;
use crate::readings::Trouble;
use crate::sides::SidesError;
use crate::tables::{self, Question, Scan};
use crate::types::{Oid, quote_identifier};

/// What lies in the subscriber's tables.
pub(super) struct OwnTables {
    /// Position of the sequence, and its furthest ids within the limit and past it.
    found: Vec<(usize, Option<i64>, Option<i64>)>,
    /// What could not be looked at, by sequence.
    gaps: HashMap<Oid, Vec<String>>,
}

impl OwnTables {
    /// Takes in what was found; gives what could not be looked at.
    pub(super) fn take(self, managed: &mut [Managed], outliers: Outliers) -> HashMap<Oid, Vec<String>> {
        for (index, within, beyond) in self.found {
            if let Some(one) = managed.get_mut(index) {
                super::take(one, within, beyond, outliers, Managed::seen_in_own_table);
            }
        }
        self.gaps
    }
}

/// Looks for what lies in the subscriber's tables.
pub(super) async fn own_tables(
    client: &Client,
    settings: &Settings,
    role: &str,
    managed: &[Managed],
    depth: Depth,
) -> Result<OwnTables, SidesError> {
    let mut gaps: HashMap<Oid, Vec<String>> = HashMap::new();
    let mut found = Vec::new();
    {
        let columns: Vec<(usize, &Consumer)> = managed
            .iter()
            .enumerate()
            .filter(|(_, m)| m.is_followed_by_ids())
            .flat_map(|(index, m)| m.sequence.consumers.iter().map(move |c| (index, c)))
            .filter(|(_, c)| !c.partitioned && !matches!(c.readable, Readable::No(_)))
            .collect();
        let is_quick = |c: &Consumer| tables::is_cheap(c) && c.readable == Readable::Yes(IdFormat::Integer);
        let mut questions = Vec::new();
        for (key, (index, consumer)) in columns.iter().enumerate().filter(|(_, (_, c))| is_quick(c)) {
            let Some(one) = managed.get(*index) else { continue };
            let (descending, limit) = (one.descending(), limit(settings, one));
            questions.push(Question { key, consumer, descending, limit });
        }
        let (answers, refused) = on_subscriber(tables::furthest(client, &questions)).await?;
        found.extend(answers.into_iter().map(|a| (a.key, a.within, a.beyond)));
        let why_refused: HashMap<usize, Trouble> = refused.into_iter().collect();
        let is_suspect = |(key, (_, consumer)): (usize, &(usize, &Consumer))| {
            let suspect = !is_quick(consumer) || why_refused.get(&key) == Some(&Trouble::Denied);
            suspect.then_some(consumer.table_oid)
        };
        let veiled = veiled(client, columns.iter().enumerate().filter_map(is_suspect).collect()).await?;
        for (key, (index, consumer)) in columns.iter().enumerate() {
            let quick = is_quick(consumer);
            let veiled = veiled.contains(&consumer.table_oid);
            let why = match why_refused.get(&key) {
                None if quick => continue,
                _ if veiled => unveil(consumer, role),
                Some(Trouble::Locked) => "it is locked, or its index is slow".to_owned(),
                Some(Trouble::Gone) => "it was dropped meanwhile".to_owned(),
                Some(Trouble::Denied) => grant(consumer, role),
                Some(Trouble::Other(why)) => why.clone(),
                None if consumer.readable == Readable::NotNow => {
                    "the table is locked, so that its default cannot be read".to_owned()
                }
                None if !consumer.selectable => grant(consumer, role),
                None if consumer.numeric => "the column has no index".to_owned(),
                None => "its ids are inside text".to_owned(),
            };
            let Some(one) = managed.get(*index) else { continue };
            let readable = consumer.selectable && !veiled && consumer.readable != Readable::NotNow;
            let can_scan = depth == Depth::Scan && readable;
            let why = if can_scan {
                let scan = Scan { consumer, descending: one.descending(), limit: limit(settings, one) };
                match tables::scan(client, scan).await.map_err(SidesError::on_subscriber)? {
                    Ok((within, beyond)) => {
                        found.push((key, within, beyond));
                        continue;
                    }
                    Err(refusal) => refusal,
                }
            } else if readable {
                format!("{why}; --full scans it")
            } else {
                why
            };
            let column = format!("{}.{}", consumer.table, quote_identifier(&consumer.column));
            gaps.entry(one.oid()).or_default().push(format!("{column} was not looked at: {why}"));
        }
        // The keys were of columns; from here on they are of sequences.
        for (key, ..) in &mut found {
            *key = columns.get(*key).map_or(usize::MAX, |(index, _)| *index);
        }
    }
    Ok(OwnTables { found, gaps })
}

/// Those of these tables some of whose rows a policy may hide from our role: they refuse to be read.
async fn veiled(client: &Client, tables: Vec<Oid>) -> Result<HashSet<Oid>, SidesError> {
    if tables.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = "SELECT DISTINCT t FROM unnest($1::oid[]) AS t WHERE row_security_active(t)";
    let tables: Vec<u32> = tables.into_iter().map(|oid| oid.0).collect();
    let rows = Side::Subscriber.rows(client, sql, &[&tables]).await?;
    rows.iter().map(|row| Side::Subscriber.get(row, 0).map(Oid)).collect()
}

/// What lets our role see every row. A policy would not do: nobody could tell that it hides none.
fn unveil(consumer: &Consumer, role: &str) -> String {
    let unveil = format!(
        "row-level security may hide rows of it from us: ALTER ROLE {} BYPASSRLS;",
        quote_identifier(role)
    );
    if consumer.selectable { unveil } else { format!("{unveil} {}", grant(consumer, role)) }
}

fn grant(consumer: &Consumer, role: &str) -> String {
    format!(
        "GRANT SELECT ({}) ON {} TO {};",
        quote_identifier(&consumer.column),
        consumer.table,
        quote_identifier(role)
    )
}
