//! `seqshadow verify --data`: proves that the published tables hold the same rows on both sides, or names rows that
//! differ.
//!
//! In: both servers. Out: a [`Comparison`]. It writes nothing on either, and never uses more than `jobs` connections
//! to one server.
//!
//! # The point at which both sides are compared
//!
//! 1. All connections to the publisher share one exported snapshot; then the WAL position is read. So everything that
//!    the snapshot shows was committed before that position.
//! 2. The subscription is waited for until its slot has confirmed the position: what the snapshot shows is applied.
//! 3. Tables are cut into [`chunks`]; row count and checksum of each are read on the publisher in the snapshot and on
//!    the subscriber as it is. Where nothing is written, both sides are at the same point, and this is the answer.
//!
//! Under load the subscriber is past the snapshot, and what was written since differs. So nothing that differs is
//! believed at once: those chunks are compared row by row ([`settle`]), and each row that differs is looked at again,
//! first on the publisher, then, when the subscription has applied what that look saw, on the subscriber. A row is
//! different only if
//!
//! - its version on the publisher (where it lies, and who wrote it) was the same in two looks, with an unequal look at
//!   the subscriber between them and after them: the subscriber had to show it, or
//! - the publisher had no such row in two looks, and the subscriber's version was the same in the looks after each:
//!   between those it went through a state without the row.
//!
//! A row that is equal in any two adjacent looks is settled: it arrived. Everything else changed meanwhile and is
//! looked at again until `wait` has passed; then its table is not proven either way, and says so. An `equal` thus means: each
//! row of the snapshot, or a later version of it, was found on the subscriber, and no other.
//!
//! A commit that waits for a synchronous standby can be applied on the subscriber before other sessions of the
//! publisher see it; that makes a false difference only if it waits for longer than the second between two looks.
//!
//! # What the text of a value depends on
//!
//! Everything known is pinned ([`session`]). What remains: `money` follows the operating system's locales where
//! `lc_monetary` is not pinned by C; `"char"` with bytes above 127 is printed otherwise since 16; `regclass` and its
//! like are compared by name, `aclitem` by role names. A column whose type differs between the sides is compared by its
//! text: `int` and `bigint` are equal, `char(5)` and `text` are not.

mod alone;
mod applied;
mod chunks;
mod followed;
mod relations;
mod report;
mod session;
mod settle;
mod state;
mod statement;
mod suspect;
mod tables;
mod work;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Client;

use crate::config::{SequencePattern, Settings};
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::publisher::publication;
use crate::sides::{Sides, SidesError};
use crate::sql::{self, Connection};
use crate::types::{Lsn, QualifiedName};

pub use report::{Comparison, Difference, SCHEMA, Status, TableReport};
pub use suspect::Kind;

use alone::Leaf;
use applied::Applied;
use chunks::Course;
use followed::Followed;
use session::{Both, Session};
use settle::Settler;
use state::{State, Subject};
use statement::Digest;
use tables::{Found, Sought};

/// What is to be compared, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only tables that match one of these; none: all.
    pub tables: Vec<SequencePattern>,
    pub exclude_tables: Vec<SequencePattern>,
    /// Rows of a chunk, about.
    pub chunk_rows: u32,
    /// Connections to each server, at least 1.
    pub jobs: usize,
    /// Rows named of each table that differs, at least 1.
    pub limit: usize,
    /// Only so many percent of the chunks.
    pub sample: Option<f64>,
    /// Which chunks those are.
    pub seed: u64,
    /// Where to keep what was found equal.
    pub state: Option<PathBuf>,
    /// How long to wait for the subscription, and for rows that change all the time.
    pub wait: Duration,
}

/// What is being done, for a progress bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many chunks of so many are compared.
    Chunks { done: usize, total: usize },
    /// So many chunks or rows are looked at again.
    Again(usize),
}

/// Compares.
///
/// # Errors
/// Where a server or the state file cannot be used, or nothing is there to be compared. What concerns one table only
/// is in the result.
pub async fn compare(
    sides: &Sides,
    settings: &Settings,
    options: &Options,
    mut progress: impl FnMut(Step),
) -> Result<Comparison, OpsError> {
    let (publishers, more_subscribers) = connect(sides, options.jobs).await?;
    let subscribers = std::iter::once(&sides.subscriber).chain(&more_subscribers);
    let mut both = Vec::new();
    for (publisher, subscriber) in publishers.iter().zip(subscribers) {
        both.push(Both {
            publisher: Session::new(Side::Publisher, &publisher.client).await?,
            subscriber: Session::new(Side::Subscriber, &subscriber.client).await?,
        });
    }
    let (Some(first), Some(publisher)) = (both.first(), publishers.first()) else {
        return Err(nothing("no connection was asked for", "give --jobs 1 or more"));
    };
    let followed = Followed::find(sides, &publisher.client).await?;
    are_there(sides, &followed, &publisher.client).await?;
    let digest = digest(first).await?;
    let sought =
        Sought { version: publisher.version, publications: &followed.publications, settings, digest };
    let (found, alone) = find(&sought, options, first).await?;
    let state = RefCell::new(State::open(options.state.as_deref(), subject(sides, first, options).await?)?);
    let mut reports = Vec::new();
    let mut courses = Vec::new();
    for one in found {
        match one {
            Found::Comparable(table) => courses.push(RefCell::new(Course::new(*table))),
            Found::Not { name, why } => reports.push(TableReport::not_compared(name, why)),
        }
    }
    let applied = Applied::find(&followed.subscriptions, &publisher.client).await?;
    let lsn = share_snapshot(&both).await?;
    let mut comparison = Comparison::new(lsn, options.sample, applied.is_known());
    match applied.wait(&publisher.client, lsn, options.wait).await? {
        Ok(()) => {
            chunks::cut(&both, &courses, &state, options).await?;
            let told = |done, total| progress(Step::Chunks { done, total });
            chunks::compare(&both, &courses, &state, lsn, told).await?;
        }
        Err(why) => {
            for course in &courses {
                course.borrow_mut().stopped = Some(why.clone());
            }
        }
    }
    for both in &both {
        both.publisher.release_snapshot().await?;
    }
    let settler = Settler::new(&both, &courses, &applied, options);
    let cases = settler.settle(|open| progress(Step::Again(open))).await?;
    for (course, case) in courses.into_iter().zip(cases) {
        reports.push(TableReport::of(course.into_inner(), case, options));
    }
    reports.extend(alone::reports(first, alone, &sought, options).await?);
    comparison.conclude(reports);
    if comparison.equal {
        state.into_inner().finished();
    }
    Ok(comparison)
}

/// The tables that are to be compared, and those that only the subscriber has; an error where there are none.
async fn find(
    sought: &Sought<'_>,
    options: &Options,
    both: &Both<'_>,
) -> Result<(Vec<Found>, Vec<Leaf>), OpsError> {
    let wanted = |name: &QualifiedName| is_wanted(name, sought.settings, options);
    let found = tables::find(&both.publisher, &both.subscriber, sought, wanted).await?;
    let alone = alone::find(both, sought, wanted).await?;
    if found.is_empty() && alone.is_empty() {
        let publications = sought.publications.join(", ");
        let what = format!("publication {publications} has no table that is to be compared");
        return Err(nothing(&what, "look at --table, --schema and what excludes tables"));
    }
    Ok((found, alone))
}

/// As many connections to each side as there are jobs; the first to the subscriber is there.
async fn connect(sides: &Sides, jobs: usize) -> Result<(Vec<Connection>, Vec<Connection>), OpsError> {
    let (mut publishers, mut subscribers) = (Vec::new(), Vec::new());
    for job in 0..jobs {
        publishers.push(sides.publisher().await?);
        if job > 0 {
            let connected = sql::connect(&sides.subscriber_conninfo, "subscriber").await;
            subscribers.push(connected.map_err(SidesError::on_subscriber)?);
        }
    }
    Ok((publishers, subscribers))
}

/// Says no where a publication does not exist: its tables would be left out in silence.
async fn are_there(sides: &Sides, followed: &Followed, publisher: &Client) -> Result<(), OpsError> {
    for (names, action) in [
        (&sides.publications, "name those that are there with --publication"),
        (
            &followed.publications,
            "the subscription follows it: ALTER SUBSCRIPTION … SET PUBLICATION …; there",
        ),
    ] {
        let loaded = publication::load(publisher, names).await;
        let missing = loaded.map_err(SidesError::on_publisher)?.missing;
        if !missing.is_empty() {
            let what = format!("the publisher has no publication {}", missing.join(", "));
            return Err(nothing(&what, action));
        }
    }
    Ok(())
}

fn is_wanted(name: &QualifiedName, settings: &Settings, options: &Options) -> bool {
    let is_in = |patterns: &[SequencePattern]| patterns.iter().any(|pattern| pattern.matches(name));
    let in_schema = settings.schemas.is_empty() || settings.schemas.iter().any(|p| p.matches(&name.schema));
    in_schema
        && !settings.exclude_schemas.iter().any(|p| p.matches(&name.schema))
        && (options.tables.is_empty() || is_in(&options.tables))
        && !is_in(&options.exclude_tables)
}

/// One snapshot for all connections to the publisher, and a position that all it shows lies before.
async fn share_snapshot(both: &[Both<'_>]) -> Result<Lsn, SidesError> {
    let mut name: Option<String> = None;
    let mut lsn = Lsn::ZERO;
    for both in both {
        name = Some(both.publisher.keep_snapshot(name.as_deref()).await?);
        if lsn == Lsn::ZERO {
            lsn = Applied::now(both.publisher.client()).await?;
        }
    }
    Ok(lsn)
}

/// MD5, unless one of the servers refuses to compute it.
async fn digest(both: &Both<'_>) -> Result<Digest, SidesError> {
    let mut encodings = Vec::new();
    let mut sha256 = false;
    for session in [&both.publisher, &both.subscriber] {
        let sql = "SELECT current_setting('server_encoding')";
        encodings.push(session.side.value::<String>(session.client(), sql, &[]).await?);
        sha256 |= session.client().batch_execute("SELECT md5('')").await.is_err();
    }
    encodings.dedup();
    Ok(Digest { sha256, convert: encodings.len() > 1 })
}

async fn subject(sides: &Sides, both: &Both<'_>, options: &Options) -> Result<Subject, SidesError> {
    Ok(Subject {
        publisher: database(&both.publisher, sides.publisher_conninfo.dbname()).await?,
        subscriber: database(&both.subscriber, sides.subscriber_conninfo.dbname()).await?,
        chunk_rows: options.chunk_rows,
    })
}

/// A name for a database that no other has: a copy of it elsewhere has the same identifier, but is reached otherwise
/// and is refused only where it says so itself.
async fn database(session: &Session<'_>, name: &str) -> Result<String, SidesError> {
    let sql = "SELECT system_identifier::text FROM pg_control_system()";
    let system = match session.client().query_one(sql, &[]).await {
        Ok(row) => session.side.get::<String>(&row, 0)?,
        // Somebody may have revoked it.
        Err(_) => "unknown system".to_owned(),
    };
    let sql = "SELECT oid::text FROM pg_database WHERE datname = current_database()";
    let oid: String = session.side.value(session.client(), sql, &[]).await?;
    Ok(format!("{name} ({oid}) of {system}"))
}

fn nothing(what: &str, action: &str) -> OpsError {
    OpsError::Sides(SidesError::Setting { what: what.to_owned(), action: action.to_owned() })
}
