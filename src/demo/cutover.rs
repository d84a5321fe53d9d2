//! The cutover: stop the load, wait for the end, insert on the subscriber without ids, and judge what happened.

use std::time::{Duration, Instant};

use super::DemoError;
use super::load::Load;
use super::pair::{Pair, Session, Side};
use super::screen::Screen;
use super::shop::{self, SLOT, SUBSCRIPTION, TABLES, Table};
use super::text::{Line, Style, count};
use crate::shadow::Running;
use crate::types::Lsn;
use tokio_postgres::error::SqlState;

/// How long the shadow has to end in order.
const GRACE: Duration = Duration::from_secs(5);

/// What an insert without an id did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Insert {
    /// It took this id.
    Took { id: String, number: i64 },
    /// The server refused: message, detail, and whether it was a duplicate key.
    Refused { message: String, detail: String, duplicate: bool },
}

/// What became of one table.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub table: Table,
    /// The furthest id that the publisher ever used.
    pub furthest: i64,
    pub insert: Insert,
}

impl Outcome {
    /// What is not as promised.
    fn complaint(&self) -> Option<String> {
        let name = self.table.name;
        match &self.insert {
            Insert::Refused { duplicate: true, .. } if self.table.sequence.control => None,
            Insert::Took { id, .. } if self.table.sequence.control => {
                Some(format!("the insert into {name}, whose sequence nobody looked after, took id {id}"))
            }
            Insert::Refused { message, .. } => Some(format!("the insert into {name} failed: {message}")),
            Insert::Took { number, .. } if self.is_past(*number) => None,
            Insert::Took { id, .. } => {
                Some(format!("{name} took id {id}, which is not past the publisher's {}", self.furthest))
            }
        }
    }

    fn is_past(&self, number: i64) -> bool {
        if self.table.sequence.descending { number < self.furthest } else { number > self.furthest }
    }
}

/// Does all of it, and says each step.
///
/// # Errors
/// When a server refuses, or a step does not come to its end.
pub async fn cut_over(
    pair: &Pair,
    load: Load,
    running: Running,
    screen: &mut Screen,
) -> Result<Vec<Outcome>, DemoError> {
    let publisher = pair.connect(Side::Publisher).await?;
    let subscriber = pair.connect(Side::Subscriber).await?;
    screen.say(&[Line::new(), Line::new().add(Style::Bold, " Cutover")])?;
    let rows = load.stop().await?;
    done(screen, &format!("the load is stopped, after {} rows", count(rows)), None)?;

    let begun = Instant::now();
    let end: Lsn = publisher
        .text("SELECT pg_current_wal_lsn()::text")
        .await?
        .parse()
        .map_err(|error| DemoError::Broken(format!("the publisher's position: {error}")))?;
    pair.wait_confirmed(&publisher, SUBSCRIPTION, end, "applying the last rows").await?;
    let counted = (publisher.number(&shop::count()).await?, subscriber.number(&shop::count()).await?);
    if counted.0 != counted.1 {
        return Err(DemoError::Broken(format!(
            "the publisher has {} rows, the subscriber {}",
            counted.0, counted.1
        )));
    }
    let both = u64::try_from(counted.0).unwrap_or_default();
    done(
        screen,
        &format!("the subscription has applied them: {} rows on each side", count(both)),
        Some(begun),
    )?;

    let begun = Instant::now();
    pair.wait_confirmed(&publisher, SLOT, end, "confirming the last rows").await?;
    running.stop(GRACE).await;
    done(screen, &format!("seqshadow has confirmed all up to {end}, and is stopped"), Some(begun))?;

    let mut outcomes = Vec::new();
    for table in TABLES {
        let furthest = publisher.number(&table.furthest()).await?;
        outcomes.push(Outcome { table, furthest, insert: insert(&subscriber, &table).await? });
    }
    Ok(outcomes)
}

/// # Errors
/// The first thing that is not as promised.
pub fn judge(outcomes: &[Outcome]) -> Result<(), DemoError> {
    let complaints: Vec<_> = outcomes.iter().filter_map(Outcome::complaint).collect();
    if complaints.is_empty() { Ok(()) } else { Err(DemoError::NotAsPromised(complaints.join("; "))) }
}

async fn insert(subscriber: &Session, table: &Table) -> Result<Insert, DemoError> {
    let doing = || format!("the insert into {}", table.name);
    match subscriber.client.query_one(&table.insert_one(), &[]).await {
        Ok(row) => {
            let read = |error| DemoError::sql(doing(), error);
            Ok(Insert::Took { id: row.try_get(0).map_err(read)?, number: row.try_get(1).map_err(read)? })
        }
        Err(error) => match error.as_db_error() {
            Some(refused) => Ok(Insert::Refused {
                message: refused.message().to_owned(),
                detail: refused.detail().unwrap_or_default().to_owned(),
                duplicate: *refused.code() == SqlState::UNIQUE_VIOLATION,
            }),
            None => Err(DemoError::sql(doing(), error)),
        },
    }
}

/// Says that a step is done, and how long it took.
///
/// # Errors
/// When nobody reads any more.
pub fn done(screen: &mut Screen, what: &str, since: Option<Instant>) -> std::io::Result<()> {
    let line = Line::new().add(Style::Good, "   ✓ ").add(Style::Plain, what);
    let took = since.map(|since| format!("{:.2} s", since.elapsed().as_secs_f64()));
    screen.say(&[match took {
        Some(took) => line.to_margin(Style::Dim, &took),
        None => line,
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, furthest: i64, insert: Insert) -> Outcome {
        Outcome { table: *TABLES.iter().find(|table| table.name == name).unwrap(), furthest, insert }
    }

    fn took(number: i64) -> Insert {
        Insert::Took { id: number.to_string(), number }
    }

    fn refused(duplicate: bool) -> Insert {
        Insert::Refused { message: "refused".to_owned(), detail: String::new(), duplicate }
    }

    #[test]
    fn only_what_was_promised_passes() {
        for (good, outcome) in [
            (true, outcome("orders", 10, took(11))),
            (false, outcome("orders", 10, took(10))),
            (false, outcome("orders", 10, refused(true))),
            (true, outcome("countdown", -10, took(-11))),
            (false, outcome("countdown", -10, took(-9))),
            (true, outcome("control", 10, refused(true))),
            (false, outcome("control", 10, refused(false))),
            (false, outcome("control", 10, took(11))),
        ] {
            assert_eq!(judge(std::slice::from_ref(&outcome)).is_ok(), good, "{outcome:?}");
        }
    }
}
