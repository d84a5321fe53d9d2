//! The first pass: tables are cut into chunks, and the checksums of each are compared.
//!
//! In: the tables, and connections that share one snapshot of the publisher. Out: for each table what was equal, and
//! the chunks that were not.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use sha2::{Digest as _, Sha256};

use super::session::{Both, Rows, Session, Stop};
use super::state::{Equal, State};
use super::statement::{Buckets, Range, Table};
use super::{Options, work};
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::types::Lsn;

/// So many buckets at least, and at most, where a table is cut by digests: its statistics may be old.
const MODULUS: std::ops::RangeInclusive<u64> = 8..=65_536;

/// A table on its way.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) table: Table,
    pub(super) ranges: Vec<Range>,
    pub(super) modulus: u32,
    /// Numbers of the chunks that are to be compared; the sample, or all.
    pub(super) chosen: Vec<u32>,
    /// Found equal by an earlier run.
    pub(super) resumed: u64,
    pub(super) publisher_rows: u64,
    pub(super) subscriber_rows: u64,
    /// Chunks whose checksums differ.
    pub(super) open: VecDeque<Part>,
    /// Why it cannot be compared any more.
    pub(super) stopped: Option<String>,
}

/// A piece of a table.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) range: Range,
    pub(super) buckets: Buckets,
    /// On the side that has more of them.
    pub(super) rows: u64,
    /// How often it was cut out of something larger.
    pub(super) cuts: u8,
    /// Its rows were compared before.
    pub(super) looked_at: bool,
}

/// Rows and the sum of their digests; a sum of many 64-bit numbers does not fit into one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) rows: u64,
    sum: String,
}

impl Course {
    /// Nothing is known of it yet.
    pub(super) fn new(table: Table) -> Self {
        Course {
            table,
            ranges: Vec::new(),
            modulus: 1,
            chosen: Vec::new(),
            resumed: 0,
            publisher_rows: 0,
            subscriber_rows: 0,
            open: VecDeque::new(),
            stopped: None,
        }
    }

    /// How many chunks it has.
    pub(super) fn chunks(&self) -> u32 {
        if self.table.is_ranged() {
            u32::try_from(self.ranges.len()).unwrap_or(u32::MAX)
        } else {
            self.modulus
        }
    }

    fn cut(&mut self, bounds: &[Vec<String>], modulus: u32) {
        let mut after = None;
        self.ranges.clear();
        for bound in bounds {
            self.ranges.push(Range { after: after.take(), up_to: Some(bound.clone()) });
            after = Some(bound.clone());
        }
        self.ranges.push(Range { after, up_to: None });
        self.modulus = modulus;
    }

    /// Takes the sample: which chunks are in it depends on the seed and on what they hold only.
    fn choose(&mut self, options: &Options) {
        let all: Vec<u32> = (0..self.chunks()).collect();
        let Some(percent) = options.sample else {
            self.chosen = all;
            return;
        };
        let lot = |number: &u32| {
            let begins =
                usize::try_from(*number).ok().and_then(|n| self.ranges.get(n)).map(|range| &range.after);
            let text = format!("{} {} {number} {begins:?}", options.seed, self.table.name);
            let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
            let [a, b, c, d, ..] = digest;
            f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX) * 100.0
        };
        self.chosen = all.iter().copied().filter(|number| lot(number) < percent).collect();
        if self.chosen.is_empty() {
            self.chosen = all.into_iter().min_by(|a, b| lot(a).total_cmp(&lot(b))).into_iter().collect();
        }
    }
}

/// Cuts every table into chunks; what an earlier run knows is taken over.
///
/// # Errors
/// Where a connection is lost or the state cannot be written.
pub(super) async fn cut(
    both: &[Both<'_>],
    courses: &[RefCell<Course>],
    state: &RefCell<State>,
    options: &Options,
) -> Result<(), OpsError> {
    work::each(both, (0..courses.len()).collect(), async |both, index| {
        let Some(course) = courses.get(index) else { return Ok(()) };
        let table = course.borrow().table.clone();
        let fingerprint = table.fingerprint();
        let known = state.borrow().table(&table.name, &fingerprint).cloned();
        let (bounds, modulus) = match known {
            Some(known) => (known.bounds, known.modulus),
            None => match plan(&both.publisher, &table, options).await {
                Ok((bounds, modulus)) => {
                    state.borrow_mut().planned(&table.name, fingerprint, bounds.clone(), modulus);
                    (bounds, modulus)
                }
                Err(Stop::Table(why)) => {
                    course.borrow_mut().stopped = Some(why);
                    return Ok(());
                }
                Err(Stop::Everything(error)) => return Err(error.into()),
            },
        };
        course.borrow_mut().cut(&bounds, modulus);
        course.borrow_mut().choose(options);
        Ok(())
    })
    .await?;
    state.borrow_mut().save()
}

/// The last keys of the chunks, or how many buckets there are.
async fn plan(
    publisher: &Session<'_>,
    table: &Table,
    options: &Options,
) -> Result<(Vec<Vec<String>>, u32), Stop> {
    if !table.is_ranged() {
        let wanted = table.estimate / u64::from(options.chunk_rows) + 1;
        let modulus = wanted.clamp(*MODULUS.start(), *MODULUS.end());
        return Ok((Vec::new(), u32::try_from(modulus).unwrap_or(1)));
    }
    let rows = publisher.rows(&table.bounds_sql(options.chunk_rows)).await?;
    let mut bounds: Vec<Vec<String>> = Vec::new();
    for row in rows {
        let bound: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
        // Many rows may have one value in the leading columns.
        if bounds.last() != Some(&bound) {
            bounds.push(bound);
        }
    }
    Ok((bounds, 1))
}

/// One look at a range: of a table that is cut into ranges at one chunk, else at all of its buckets.
#[derive(Debug)]
struct Look {
    course: usize,
    range: Range,
    buckets: Buckets,
    /// The number of the chunk, in the order of the remainders.
    chunks: Vec<u32>,
}

/// Compares the checksums of all chunks. `progress` hears how many of how many are done.
///
/// # Errors
/// Where a connection is lost or the state cannot be written.
pub(super) async fn compare(
    both: &[Both<'_>],
    courses: &[RefCell<Course>],
    state: &RefCell<State>,
    lsn: Lsn,
    mut progress: impl FnMut(usize, usize),
) -> Result<(), OpsError> {
    let mut looks = VecDeque::new();
    let mut total = 0;
    for (index, course) in courses.iter().enumerate() {
        let mut course = course.borrow_mut();
        total += course.chosen.len();
        looks.extend(take_over(index, &mut course, &state.borrow()));
    }
    let waiting: usize = looks.iter().map(|look| look.chunks.len()).sum();
    let mut done = total.saturating_sub(waiting);
    progress(done, total);
    let told = RefCell::new(|chunks: usize| {
        done += chunks;
        progress(done, total);
    });
    work::each(both, looks, async |both, look| {
        let Some(course) = courses.get(look.course) else { return Ok(()) };
        let table = course.borrow().table.clone();
        if course.borrow().stopped.is_none() {
            match checksums(both, &table, &look.range, &look.buckets).await {
                Ok(sums) => note(&mut course.borrow_mut(), &look, sums, &mut state.borrow_mut(), lsn)?,
                Err(Stop::Table(why)) => course.borrow_mut().stopped = Some(why),
                Err(Stop::Everything(error)) => return Err(error.into()),
            }
        }
        (told.borrow_mut())(look.chunks.len());
        Ok(())
    })
    .await?;
    state.borrow_mut().save()
}

/// What of a table is still to be looked at, after what an earlier run found equal is counted.
fn take_over(index: usize, course: &mut Course, state: &State) -> Vec<Look> {
    if course.stopped.is_some() {
        return Vec::new();
    }
    let known = state.table(&course.table.name, &course.table.fingerprint());
    let mut left = Vec::new();
    for number in course.chosen.clone() {
        match known.and_then(|progress| progress.equal.get(&number)) {
            Some(equal) => {
                course.resumed += 1;
                course.publisher_rows += equal.rows;
                course.subscriber_rows += equal.rows;
            }
            None => left.push(number),
        }
    }
    if !course.table.is_ranged() {
        let buckets = Buckets { modulus: course.modulus, remainders: left.clone() };
        let look = Look { course: index, range: Range::default(), buckets, chunks: left };
        return if look.chunks.is_empty() { Vec::new() } else { vec![look] };
    }
    let range = |number: u32| usize::try_from(number).ok().and_then(|n| course.ranges.get(n)).cloned();
    left.into_iter()
        .filter_map(|number| {
            let range = range(number)?;
            Some(Look { course: index, range, buckets: Buckets::all(), chunks: vec![number] })
        })
        .collect()
}

fn note(
    course: &mut Course,
    look: &Look,
    [here, there]: [BTreeMap<u32, Checksum>; 2],
    state: &mut State,
    lsn: Lsn,
) -> Result<(), OpsError> {
    for (remainder, chunk) in look.buckets.remainders.iter().zip(&look.chunks) {
        let of = |sums: &BTreeMap<u32, Checksum>| sums.get(remainder).cloned().unwrap_or_default();
        let (here, there) = (of(&here), of(&there));
        course.publisher_rows += here.rows;
        course.subscriber_rows += there.rows;
        if here == there {
            state.equal(&course.table.name, *chunk, Equal { rows: here.rows, lsn: lsn.to_string() })?;
            continue;
        }
        let buckets = Buckets { modulus: look.buckets.modulus, remainders: vec![*remainder] };
        let rows = here.rows.max(there.rows);
        course.open.push_back(Part { range: look.range.clone(), buckets, rows, cuts: 0, looked_at: false });
    }
    Ok(())
}

/// The checksums of both sides, read at the same time; buckets without rows are left out.
///
/// # Errors
/// What concerns the table only, or the loss of a connection.
pub(super) async fn checksums(
    both: &Both<'_>,
    table: &Table,
    range: &Range,
    buckets: &Buckets,
) -> Result<[BTreeMap<u32, Checksum>; 2], Stop> {
    let of = |side: Side| table.checksum_sql(side, range, buckets);
    let (here, there) = (of(Side::Publisher), of(Side::Subscriber));
    let asked = futures_util::future::join(both.publisher.rows(&here), both.subscriber.rows(&there));
    let (here, there) = asked.await;
    Ok([read(here?), read(there?)])
}

fn read(rows: Rows) -> BTreeMap<u32, Checksum> {
    let mut found = BTreeMap::new();
    for row in rows {
        let [Some(bucket), Some(rows), Some(sum)] = row.as_slice() else { continue };
        let rows = rows.parse().unwrap_or(0);
        if rows > 0 {
            found.insert(bucket.parse().unwrap_or(0), Checksum { rows, sum: sum.clone() });
        }
    }
    found
}
