//! Decodes a capture as the daemon would have: the same buffer, scanner, decoder and marks, without a socket.
//!
//! In: a file. Out: a [`Replayed`]: figures, kinds of messages, the mark of each sequence. Only filling the buffer,
//! decoding and handing marks over is timed, not reading and checking the file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, BytesMut};
use serde::Serialize;

use super::read::Record;
use super::{CaptureError, CaptureReader};
use crate::handover::Handover;
use crate::observe::Observer;
use crate::pgoutput::{Kind, Tap};
use crate::publisher::connection::ReplicationError;
use crate::publisher::stream::{Progress, READ_BYTES, decode};
use crate::wire::{Limits, Scanner};

/// The name and version of the JSON.
pub const SCHEMA: &str = "seqshadow.replay/1";

/// Bytes of an XLogData before the message of the plugin.
const XLOG_HEAD: usize = 25;

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("byte {from} to {to}: the messages there cannot be decoded: {source}")]
    Decode { from: u64, to: u64, source: Box<ReplicationError> },
    #[error("byte {offset}: expected the same file in every loop, got another: it is being changed")]
    Changed { offset: u64 },
}

/// What was found, and how fast.
#[derive(Clone, Debug, Serialize)]
pub struct Replayed {
    pub schema: &'static str,
    pub file: String,
    pub server_version: u32,
    pub publications: Vec<String>,
    pub redacted: bool,
    /// When it was recorded.
    pub recorded_at: String,
    /// How long the recording lasted.
    pub recorded_seconds: f64,
    /// Why the recording ended; null where the file is cut off.
    pub ended: Option<String>,
    pub loops: u32,
    /// Messages of pgoutput, of one loop; keepalives are among the kinds only.
    pub messages: u64,
    /// Bytes of one loop as they came over the wire.
    pub bytes: u64,
    /// Rows with ids, of one loop.
    pub rows: u64,
    /// Of all loops.
    pub seconds: f64,
    pub messages_per_second: f64,
    /// Million bytes.
    pub megabytes_per_second: f64,
    pub nanoseconds_per_message: f64,
    /// Messages of one loop, by kind.
    pub kinds: Vec<KindCount>,
    /// The end of the last commit.
    pub committed_lsn: String,
    /// Sequences of which something was seen.
    pub marks: Vec<MarkShown>,
}

/// How many messages of one kind there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KindCount {
    /// As PostgreSQL's manual names it.
    pub message: &'static str,
    pub count: u64,
}

/// What the stream told of one sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MarkShown {
    pub sequence: String,
    /// The furthest id.
    pub furthest_id: Option<i64>,
    /// `TRUNCATE … RESTART IDENTITY` restarted it last here; ids from before do not count.
    pub restarted_at: Option<String>,
    /// A value was seen that may be an id and cannot be read as one.
    pub unreadable: bool,
}

/// Replays `loops` times what `open` gives. `partial`: a file that is cut off counts up to there.
///
/// # Errors
/// What is wrong with it, and at which byte.
pub fn replay<R: Read, E>(
    file: &str,
    loops: u32,
    partial: bool,
    mut open: impl FnMut() -> Result<R, E>,
) -> Result<Replayed, E>
where
    E: From<ReplayError>,
{
    let mut first: Option<Loop> = None;
    let mut spent = Duration::ZERO;
    for _ in 0..loops.max(1) {
        let reader = CaptureReader::open(open()?).map_err(ReplayError::from)?;
        let one = one(reader, partial)?;
        spent = spent.saturating_add(one.spent);
        match &first {
            Some(first) if !first.is_like(&one) => {
                return Err(ReplayError::Changed { offset: one.end }.into());
            }
            Some(_) => {}
            None => first = Some(one),
        }
    }
    Ok(first.unwrap_or_default().shown(file, loops.max(1), spent))
}

/// What one loop found.
#[derive(Debug, Default)]
struct Loop {
    header: super::Header,
    ended: Option<String>,
    messages: u64,
    bytes: u64,
    rows: u64,
    micros: u64,
    kinds: BTreeMap<&'static str, u64>,
    committed: String,
    marks: Vec<MarkShown>,
    spent: Duration,
    /// The file's length.
    end: u64,
}

/// The daemon's decoding, with the bytes of a file in place of a socket's.
struct Path {
    scanner: Scanner,
    buffer: BytesMut,
    tap: Tap,
    observer: Observer,
    handover: Handover,
    progress: Progress,
    spent: Duration,
}

impl Path {
    /// What the reader of a stream does when `bytes` have come.
    fn take(&mut self, bytes: &[u8]) -> Result<(), ReplicationError> {
        let begun = Instant::now();
        self.observer.take_limits(&self.handover);
        self.buffer.reserve(READ_BYTES);
        self.buffer.put_slice(bytes);
        let Path { scanner, buffer, tap, observer, progress, .. } = self;
        decode(scanner, buffer, tap, observer, progress, |_, _| {})?;
        // Of a recorded stream nobody waits for one row.
        self.observer.give_in_time(&self.handover, Instant::now(), true);
        self.spent = self.spent.saturating_add(begun.elapsed());
        Ok(())
    }
}

fn one<R: Read>(mut reader: CaptureReader<R>, partial: bool) -> Result<Loop, ReplayError> {
    let header = reader.header().clone();
    let content = |why| CaptureError::Content { offset: 20, what: "header", why };
    let (version, streaming) = header.protocol().map_err(content)?;
    let mut path = Path {
        scanner: Scanner::new(Limits::default()),
        buffer: BytesMut::with_capacity(READ_BYTES),
        tap: Tap::new(version, streaming),
        observer: Observer::new(header.tracking()),
        handover: Handover::default(),
        progress: Progress::default(),
        spent: Duration::ZERO,
    };
    let mut found = Loop::default();
    let mut wire = Vec::with_capacity(READ_BYTES);
    // From the first byte of the blocks in `wire`.
    let mut from = reader.offset();
    loop {
        match reader.block() {
            Ok(Some(block)) => {
                if wire.is_empty() {
                    from = block.offset;
                }
                for record in block.records() {
                    found.count(&record);
                    append(&record, &mut wire, |full| path.take(full)).map_err(|source| {
                        ReplayError::Decode { from, to: block.offset, source: source.into() }
                    })?;
                }
            }
            Ok(None) => break,
            Err(error) if partial && error.is_cut_off() => break,
            Err(error) => return Err(error.into()),
        }
    }
    let to = reader.offset();
    path.take(&wire).map_err(|source| ReplayError::Decode { from, to, source: source.into() })?;
    // What a truncate that was not committed took away counts again, as when a connection ends.
    path.observer.connection_lost();
    path.observer.give(&path.handover);
    found.spent = path.spent;
    found.rows = path.observer.rows();
    found.committed = path.progress.committed.to_string();
    found.marks = marks(&path.handover, &header);
    found.ended = reader.ending().map(|ending| ending.why.clone());
    found.end = to;
    found.header = header;
    Ok(found)
}

/// Puts a record back into its frame; each time a read's worth is there, `take` gets it.
fn append<E>(
    record: &Record<'_>,
    wire: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let length = record.body.len().saturating_add(record.rest).saturating_add(4);
    wire.push(b'd');
    wire.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    wire.extend_from_slice(record.body);
    // What was not kept is passed over unseen, so anything will do.
    let mut rest = record.rest;
    loop {
        let now = rest.min(READ_BYTES);
        wire.resize(wire.len().saturating_add(now), 0);
        rest = rest.saturating_sub(now);
        let mut pieces = wire.chunks_exact(READ_BYTES);
        for piece in pieces.by_ref() {
            take(piece)?;
        }
        let left = pieces.remainder().len();
        let done = wire.len().saturating_sub(left);
        wire.drain(..done);
        if rest == 0 {
            return Ok(());
        }
    }
}

fn marks(handover: &Handover, header: &super::Header) -> Vec<MarkShown> {
    let mut taken = handover.take();
    let seen: BTreeSet<u32> = taken.seen.iter().map(|(slot, _)| *slot).collect();
    taken.seen.extend(
        taken.unreadable.iter().filter(|slot| !seen.contains(slot)).map(|slot| (*slot, Default::default())),
    );
    let mut marks: Vec<MarkShown> = taken
        .seen
        .iter()
        .filter_map(|(slot, seen)| {
            Some(MarkShown {
                sequence: header.sequence(*slot)?,
                furthest_id: seen.furthest,
                restarted_at: seen.restarted.map(|lsn| lsn.to_string()),
                unreadable: taken.unreadable.contains(slot),
            })
        })
        .collect();
    marks.sort_by(|a, b| a.sequence.cmp(&b.sequence));
    marks
}

impl Loop {
    fn count(&mut self, record: &Record<'_>) {
        let wire = record.body.len().saturating_add(record.rest).saturating_add(5);
        self.bytes = self.bytes.saturating_add(u64::try_from(wire).unwrap_or(u64::MAX));
        self.micros = self.micros.saturating_add(u64::from(record.micros));
        let kind = match record.body.first() {
            Some(b'k') => "Keepalive",
            _ => {
                self.messages = self.messages.saturating_add(1);
                record.body.get(XLOG_HEAD).and_then(|tag| Kind::of(*tag)).map_or("?", Kind::name)
            }
        };
        let count = self.kinds.entry(kind).or_default();
        *count = count.saturating_add(1);
    }

    fn is_like(&self, other: &Loop) -> bool {
        self.header == other.header
            && self.kinds == other.kinds
            && (self.messages, self.bytes, self.rows) == (other.messages, other.bytes, other.rows)
            && self.marks == other.marks
    }

    fn shown(self, file: &str, loops: u32, spent: Duration) -> Replayed {
        let seconds = spent.as_secs_f64();
        let all = |one: u64| to_f64(one) * f64::from(loops);
        let per = |one: f64, of: f64| if of > 0.0 { one / of } else { 0.0 };
        Replayed {
            schema: SCHEMA,
            file: file.to_owned(),
            server_version: self.header.server_version,
            publications: self.header.publications,
            redacted: self.header.redacted,
            recorded_at: self.header.begun,
            recorded_seconds: to_f64(self.micros) / 1e6,
            ended: self.ended,
            loops,
            messages: self.messages,
            bytes: self.bytes,
            rows: self.rows,
            seconds,
            messages_per_second: per(all(self.messages), seconds),
            megabytes_per_second: per(all(self.bytes), seconds) / 1e6,
            nanoseconds_per_message: per(seconds * 1e9, all(self.messages)),
            kinds: self.kinds.into_iter().map(|(message, count)| KindCount { message, count }).collect(),
            committed_lsn: self.committed,
            marks: self.marks,
        }
    }
}

/// For figures that people read: what is lost past 2^53 does not matter.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn to_f64(count: u64) -> f64 {
    count as f64
}
