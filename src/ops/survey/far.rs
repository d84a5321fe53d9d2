//! How many ids are set aside, and the furthest of them: a look for the furthest id finds only one in each column.
//!
//! In: a connection to the subscriber, and sequences that are judged. Out: of those with an id set aside how many there are,
//! as far as that is cheap to know; the furthest few are noted in the sequence. What has come within the limit since it was
//! looked for is followed.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::on_subscriber;
use crate::catalog::{Consumer, Readable};
use crate::config::Outliers;
use crate::keeper::Managed;
use crate::pgoutput::IdFormat;
use crate::readings::trouble;
use crate::sides::SidesError;
use crate::sql::STATEMENT_TIMEOUT;
use crate::tables::{self, Question};
use crate::types::{Oid, quote_identifier};

/// So many of a sequence are named.
pub(crate) const NAMED: usize = 10;

/// So many of a sequence are counted; one more stands for any number of them.
pub(crate) const COUNTED: usize = 1000;

/// A cutover looks in its pause: what takes longer is not counted.
const PATIENCE: Duration = Duration::from_secs(1);
const BUDGET: Duration = Duration::from_secs(2);

/// Columns asked in one statement.
const AT_ONCE: usize = 100;

/// How often the limit may rise because of what came within it.
const ROUNDS: usize = 4;

/// What is known of the ids that are set aside, by sequence: how many, or nothing where not all could be counted.
#[derive(Debug, Default)]
pub(super) struct Far {
    counts: HashMap<Oid, Option<usize>>,
    /// Sequences whose limit rose and rose.
    pub(super) restless: Vec<Oid>,
}

impl Far {
    /// Of one sequence.
    pub(super) fn count(&self, one: &Managed) -> Option<usize> {
        self.counts.get(&one.oid()).copied().unwrap_or(Some(0))
    }
}

/// Looks for them.
///
/// # Errors
/// Where the connection is lost.
pub(super) async fn far_ids(
    client: &Client,
    managed: &mut [Managed],
    outliers: Outliers,
) -> Result<Far, SidesError> {
    let mut far = Far::default();
    let is_concerned = |one: &Managed| one.excluded.is_none() && one.set_aside().next().is_some();
    if !managed.iter().any(is_concerned) {
        return Ok(far);
    }
    far.restless = follow_near(client, managed, outliers).await?;
    let columns: Vec<(usize, Consumer, i64, bool)> = managed
        .iter()
        .enumerate()
        .filter(|(_, one)| is_concerned(one))
        .flat_map(|(index, one)| {
            let (limit, descending) = (one.limit(outliers), one.descending());
            cheap(one).map(move |consumer| (index, consumer.clone(), limit, descending))
        })
        .collect();
    let mut found: HashMap<usize, BTreeSet<i64>> = HashMap::new();
    let mut open: BTreeSet<usize> = BTreeSet::new();
    let deadline = Instant::now() + BUDGET;
    limit_statements(client, PATIENCE).await?;
    for batch in columns.chunks(AT_ONCE) {
        let answer = match Instant::now() < deadline {
            true => Some(client.query(&statement(batch), &[]).await),
            false => None,
        };
        match answer {
            Some(Ok(rows)) => {
                for row in rows {
                    let index: i64 = row.try_get(0).map_err(SidesError::on_subscriber)?;
                    let id: i64 = row.try_get(1).map_err(SidesError::on_subscriber)?;
                    found.entry(usize::try_from(index).unwrap_or(usize::MAX)).or_default().insert(id);
                }
            }
            Some(Err(error)) if trouble(&error).is_none() => return Err(SidesError::on_subscriber(error)),
            Some(Err(_)) | None => open.extend(batch.iter().map(|(index, ..)| *index)),
        }
    }
    limit_statements(client, STATEMENT_TIMEOUT).await?;
    for (index, one) in managed.iter_mut().enumerate().filter(|(_, one)| is_concerned(one)) {
        let mut ids = found.remove(&index).unwrap_or_default();
        // Also those that only the publisher has, or a scan has found.
        ids.extend(one.set_aside());
        let is_counted = !open.contains(&index) && is_all_cheap(one);
        far.counts.insert(one.oid(), is_counted.then_some(ids.len().min(COUNTED + 1)));
        let descending = one.descending();
        let mut name = |id| one.set_aside_too(id, outliers);
        if descending {
            ids.into_iter().take(NAMED).for_each(&mut name);
        } else {
            ids.into_iter().rev().take(NAMED).for_each(&mut name);
        }
    }
    Ok(far)
}

/// The publisher may have got further before an id was set aside, and others short of that one be within reach by now.
async fn follow_near(
    client: &Client,
    managed: &mut [Managed],
    outliers: Outliers,
) -> Result<Vec<Oid>, SidesError> {
    let mut restless = Vec::new();
    for _ in 0..ROUNDS {
        let columns: Vec<(usize, Consumer)> = managed
            .iter()
            .enumerate()
            .filter(|(_, one)| one.excluded.is_none() && one.set_aside().next().is_some())
            .flat_map(|(index, one)| cheap(one).map(move |consumer| (index, consumer.clone())))
            .collect();
        let mut questions = Vec::new();
        for (key, (index, consumer)) in columns.iter().enumerate() {
            let Some(one) = managed.get(*index) else { continue };
            let (descending, limit) = (one.descending(), one.limit(outliers));
            questions.push(Question { key, consumer, descending, limit });
        }
        let (answers, _) = on_subscriber(tables::furthest(client, &questions)).await?;
        restless.clear();
        for answer in answers {
            let one = columns.get(answer.key).and_then(|(index, _)| managed.get_mut(*index));
            let (Some(one), Some(id)) = (one, answer.within) else { continue };
            let definition = one.sequence.definition;
            if one.mark().is_none_or(|(mark, _)| definition.is_past(id, mark)) {
                one.seen_in_own_table(id, Duration::ZERO);
                one.reconsider_set_aside(outliers);
                restless.push(one.oid());
            }
        }
        if restless.is_empty() {
            break;
        }
    }
    Ok(restless)
}

/// Its columns that an index leads through.
fn cheap(one: &Managed) -> impl Iterator<Item = &Consumer> {
    one.sequence.consumers.iter().filter(|consumer| is_cheap(consumer))
}

fn is_cheap(consumer: &Consumer) -> bool {
    tables::is_cheap(consumer) && consumer.readable == Readable::Yes(IdFormat::Integer)
}

/// Whether all columns in which ids can be found are among them.
fn is_all_cheap(one: &Managed) -> bool {
    let mut others = one.sequence.consumers.iter().filter(|c| !c.partitioned && !is_cheap(c));
    others.all(|consumer| matches!(consumer.readable, Readable::No(_)))
}

async fn limit_statements(client: &Client, timeout: Duration) -> Result<(), SidesError> {
    let sql = format!("SET statement_timeout = {}", timeout.as_millis());
    client.batch_execute(&sql).await.map_err(SidesError::on_subscriber)
}

fn statement(columns: &[(usize, Consumer, i64, bool)]) -> String {
    let mut sql = String::new();
    for (index, consumer, limit, descending) in columns {
        let union = if sql.is_empty() { "" } else { " UNION ALL " };
        let (past, order) = if *descending { ("<", "ASC") } else { (">", "DESC") };
        let (column, table) = (quote_identifier(&consumer.column), &consumer.table);
        let (lowest, highest, most) = (i64::MIN, i64::MAX, COUNTED + 1);
        // Writing to a String cannot fail.
        let _ = write!(
            sql,
            "{union}(SELECT {index}::int8, far.id::int8 FROM (SELECT DISTINCT {column} AS id FROM ONLY {table} \
             WHERE {column} {past} '{limit}'::int8 AND {column} BETWEEN '{lowest}'::int8 AND '{highest}'::int8 \
             ORDER BY id {order} LIMIT {most}) AS far)"
        );
    }
    sql
}
