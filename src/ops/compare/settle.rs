//! Chunks that differ are looked at again, row by row, until it is certain that they differ or that they do not.
//!
//! In: the chunks that the first pass left open. Out: a [`Case`] for each table: the rows that really differ, and
//! those that never held still. See the head of [`super`] for why neither can be wrong.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::applied::Applied;
use super::chunks::{Course, Part, checksums};
use super::session::{Both, Session, Stop};
use super::statement::{Buckets, Key, Table};
use super::suspect::{Judged, Kind, Seen, Suspect, add};
use super::{Options, work};
use crate::ops::OpsError;
use crate::sides::SidesError;

/// Between two looks at the same rows: a commit is on its way to the subscriber an instant before the publisher's
/// other sessions see it.
const PAUSE: Duration = Duration::from_secs(1);

/// Of one chunk so many rows are followed at a time, the others when those are settled.
const SUSPECTS: usize = 1_000;
/// And of one table.
const SUSPECTS_OF_TABLE: usize = 5_000;
/// Keys in one statement.
const BATCH: usize = 500;
/// A chunk that has grown is cut again, at most so often, into so many.
const CUTS: u8 = 3;
const PIECES: u64 = 1_024;

/// What becomes of a table whose chunks differ.
#[derive(Debug, Default)]
pub(super) struct Case {
    suspects: Vec<Suspect>,
    /// Rows that differ, however often they are looked at.
    pub(super) differences: Vec<(Kind, Key)>,
    /// There are more of them, or may be.
    pub(super) more: bool,
    /// Rows that changed between each two looks.
    pub(super) restless: usize,
}

/// All that is needed to look again.
pub(super) struct Settler<'a> {
    both: &'a [Both<'a>],
    courses: &'a [RefCell<Course>],
    applied: &'a Applied,
    options: &'a Options,
    cases: Vec<RefCell<Case>>,
    give_up: Cell<Instant>,
}

impl<'a> Settler<'a> {
    /// Nothing is settled yet.
    pub(super) fn new(
        both: &'a [Both<'a>],
        courses: &'a [RefCell<Course>],
        applied: &'a Applied,
        options: &'a Options,
    ) -> Self {
        let cases = courses.iter().map(|_| RefCell::default()).collect();
        Settler { both, courses, applied, options, cases, give_up: Cell::new(Instant::now() + options.wait) }
    }

    /// Looks again until everything is settled, or nothing new was for as long as the options say. `progress` hears how
    /// many chunks and rows are open.
    ///
    /// # Errors
    /// Where a connection is lost.
    pub(super) async fn settle(self, mut progress: impl FnMut(usize)) -> Result<Vec<Case>, OpsError> {
        loop {
            self.examine_all().await?;
            self.drop_what_is_enough();
            let waiting: usize = self.cases.iter().map(|case| case.borrow().suspects.len()).sum();
            let open: usize = self.courses.iter().map(|course| course.borrow().open.len()).sum();
            progress(waiting + open);
            if waiting == 0 && open == 0 {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            let is_last = Instant::now() >= self.give_up.get();
            self.judge_all(is_last).await?;
            self.drop_what_is_enough();
            if is_last {
                break;
            }
        }
        let cases = self.cases.into_iter().map(RefCell::into_inner).zip(self.courses);
        let close = |(mut case, course): (Case, &RefCell<Course>)| {
            case.restless = case.suspects.len() + course.borrow().open.len();
            case
        };
        Ok(cases.map(close).collect())
    }

    /// Of a table that has as many differences as are to be named nothing more need be known.
    fn drop_what_is_enough(&self) {
        for (course, case) in self.courses.iter().zip(&self.cases) {
            let (mut course, mut case) = (course.borrow_mut(), case.borrow_mut());
            let enough = case.differences.len() >= self.options.limit;
            if enough || course.stopped.is_some() {
                case.more |= enough && !(course.open.is_empty() && case.suspects.is_empty());
                course.open.clear();
                case.suspects.clear();
            }
        }
    }

    /// Takes a first look at the rows of the chunks that are open, as many as may be followed at a time.
    async fn examine_all(&self) -> Result<(), OpsError> {
        let most = self.courses.iter().map(|course| course.borrow().open.len()).max().unwrap_or(0);
        let mut pieces = VecDeque::new();
        // Every table's first chunk before any second one.
        for _ in 0..most {
            for (index, course) in self.courses.iter().enumerate() {
                if let Some(part) = course.borrow_mut().open.pop_front() {
                    pieces.push_back((index, part));
                }
            }
        }
        work::each(self.both, pieces, async |both, (index, part)| self.examine(both, index, part).await).await
    }

    async fn examine(&self, both: &Both<'_>, index: usize, part: Part) -> Result<(), OpsError> {
        let (Some(course), Some(case)) = (self.courses.get(index), self.cases.get(index)) else {
            return Ok(());
        };
        if course.borrow().stopped.is_some() {
            return Ok(());
        }
        if case.borrow().suspects.len() >= SUSPECTS_OF_TABLE {
            course.borrow_mut().open.push_back(part);
            return Ok(());
        }
        if !part.looked_at {
            self.give_up.set(Instant::now() + self.options.wait);
        }
        let table = course.borrow().table.clone();
        let chunk_rows = u64::from(self.options.chunk_rows);
        let done = if part.rows > chunk_rows * 2 && part.cuts < CUTS {
            self.cut(both, course, &table, part).await
        } else {
            self.look_at(both, course, case, &table, part).await
        };
        settled(course, done)
    }

    /// Cuts a chunk with too many rows into buckets, and keeps those that differ.
    async fn cut(
        &self,
        both: &Both<'_>,
        course: &RefCell<Course>,
        table: &Table,
        part: Part,
    ) -> Result<(), Stop> {
        let pieces = (part.rows / u64::from(self.options.chunk_rows) + 1).min(PIECES);
        let pieces = u32::try_from(pieces).unwrap_or(1);
        let old = part.buckets.modulus;
        let Some(modulus) = old.checked_mul(pieces) else {
            course.borrow_mut().open.push_back(Part { cuts: CUTS, ..part });
            return Ok(());
        };
        let remainders: Vec<u32> = part
            .buckets
            .remainders
            .iter()
            .flat_map(|r| (0..pieces).map(move |piece| r + piece * old))
            .collect();
        let buckets = Buckets { modulus, remainders };
        let [here, there] = checksums(both, table, &part.range, &buckets).await?;
        for remainder in buckets.remainders {
            let (here, there) = (here.get(&remainder), there.get(&remainder));
            if here == there {
                continue;
            }
            let rows = here.map_or(0, |sum| sum.rows).max(there.map_or(0, |sum| sum.rows));
            let buckets = Buckets { modulus, remainders: vec![remainder] };
            let piece = Part { buckets, rows, cuts: part.cuts + 1, ..part.clone() };
            course.borrow_mut().open.push_back(piece);
        }
        Ok(())
    }

    /// Compares all rows of a chunk, and follows those that differ.
    async fn look_at(
        &self,
        both: &Both<'_>,
        course: &RefCell<Course>,
        case: &RefCell<Case>,
        table: &Table,
        part: Part,
    ) -> Result<(), Stop> {
        let sql = |session: &Session<'_>| table.rows_sql(session.side, &part.range, &part.buckets);
        let mut here = Looked::default();
        here.read(&both.publisher, &sql(&both.publisher), table).await?;
        self.wait(both).await?;
        let mut there = Looked::default();
        there.read(&both.subscriber, &sql(&both.subscriber), table).await?;
        let mut case = case.borrow_mut();
        let followed: HashSet<Key> = case.suspects.iter().map(|s| s.key.clone()).collect();
        let missing_here = there.order.iter().filter(|key| !here.seen.contains_key(*key));
        let mut taken = 0;
        for key in here.order.iter().chain(missing_here) {
            let (publisher, subscriber) = (here.seen.get(key).copied(), there.seen.get(key).copied());
            if Seen::is_same(publisher, subscriber) || followed.contains(key) {
                continue;
            }
            if taken >= SUSPECTS {
                course.borrow_mut().open.push_back(Part { looked_at: true, ..part });
                break;
            }
            taken += 1;
            case.suspects.push(Suspect { key: key.clone(), publisher, subscriber });
        }
        Ok(())
    }

    /// Waits until the subscription has applied all that was visible when it was called.
    async fn wait(&self, both: &Both<'_>) -> Result<(), Stop> {
        let client = both.publisher.client();
        let lsn = Applied::now(client).await?;
        self.applied.wait(client, lsn, self.options.wait).await?.map_err(Stop::Table)
    }

    async fn judge_all(&self, is_last: bool) -> Result<(), OpsError> {
        let pieces = (0..self.cases.len()).collect();
        work::each(self.both, pieces, async |both, index| {
            let (Some(course), Some(case)) = (self.courses.get(index), self.cases.get(index)) else {
                return Ok(());
            };
            if case.borrow().suspects.is_empty() {
                return Ok(());
            }
            let suspects = std::mem::take(&mut case.borrow_mut().suspects);
            let table = course.borrow().table.clone();
            let done = self.judge(both, case, &table, suspects, is_last).await;
            settled(course, done)
        })
        .await
    }

    /// Looks at the rows in question again, first on the publisher, and judges each.
    async fn judge(
        &self,
        both: &Both<'_>,
        case: &RefCell<Case>,
        table: &Table,
        suspects: Vec<Suspect>,
        is_last: bool,
    ) -> Result<(), Stop> {
        let keys: Vec<&Key> = suspects.iter().map(|suspect| &suspect.key).collect();
        let (mut here, mut there) = (Looked::default(), Looked::default());
        for batch in keys.chunks(BATCH) {
            here.read(&both.publisher, &table.keys_sql(both.publisher.side, batch), table).await?;
        }
        self.wait(both).await?;
        for batch in keys.chunks(BATCH) {
            there.read(&both.subscriber, &table.keys_sql(both.subscriber.side, batch), table).await?;
        }
        // Where nobody knows how far the subscription is, only time tells.
        let is_certain = self.applied.is_known() || is_last;
        for suspect in suspects {
            let (now, then) = (here.seen.get(&suspect.key).copied(), there.seen.get(&suspect.key).copied());
            match suspect.judge(now, then) {
                Judged::Same => {}
                Judged::Different(kind) if is_certain => {
                    case.borrow_mut().differences.push((kind, suspect.key));
                }
                Judged::Different(_) | Judged::Open => {
                    case.borrow_mut().suspects.push(Suspect { publisher: now, subscriber: then, ..suspect });
                }
            }
        }
        Ok(())
    }
}

/// What concerns the table only ends its comparison.
fn settled(course: &RefCell<Course>, done: Result<(), Stop>) -> Result<(), OpsError> {
    match done {
        Ok(()) => Ok(()),
        Err(Stop::Table(why)) => {
            course.borrow_mut().stopped = Some(why);
            Ok(())
        }
        Err(Stop::Everything(error)) => Err(OpsError::Sides(error)),
    }
}

/// Rows of one side, by key.
#[derive(Debug, Default)]
struct Looked {
    order: Vec<Key>,
    seen: HashMap<Key, Seen>,
}

impl Looked {
    async fn read(&mut self, session: &Session<'_>, sql: &str, table: &Table) -> Result<(), Stop> {
        for row in session.rows(sql).await? {
            let mut texts = row.into_iter().map(Option::unwrap_or_default);
            let (Some(digest), Some(version)) = (texts.next(), texts.next()) else { continue };
            let key: Key = texts.collect();
            let digest = u64::from_str_radix(&digest, 16).map_err(|_| unreadable(session, table))?;
            if add(self.seen.entry(key.clone()).or_default(), digest, &version) {
                self.order.push(key);
            }
        }
        Ok(())
    }
}

fn unreadable(session: &Session<'_>, table: &Table) -> SidesError {
    SidesError::Setting {
        what: format!("the {} gave no digest for a row of {}", session.on(), table.name),
        action: "please report it".to_owned(),
    }
}
