//! Ours, as the daemon's stream task does it: fill the buffer, find messages, decode, mark, hand over.
//!
//! It is the loop of `seqshadow::publisher::stream` without the socket, made of the same parts: [`Scanner`],
//! [`Backend`], [`Replication`], [`Tap`], [`Observer`] and, in time, [`Handover`].

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use seqshadow::handover::Handover;
use seqshadow::observe::Observer;
use seqshadow::pgoutput::{IdFormat, Tap};
use seqshadow::tracking::{Tracking, Watched};
use seqshadow::types::{Lsn, QualifiedName};
use seqshadow::wire::{Backend, Limits, Replication, Scanner};

use crate::contestant::Contestant;
use crate::marks::Wanted;
use crate::streams::Stream;

/// As much as the stream task asks the socket for.
const READ_BYTES: usize = 256 * 1024;

/// One connection.
pub struct Ours {
    scanner: Scanner,
    sink: Sunk,
    buffer: BytesMut,
    received: Lsn,
    wal_end: Lsn,
}

/// The decoder and what it tells, which the framing of others is put on top of, too.
pub struct Sunk {
    pub tap: Tap,
    pub observer: Observer,
    handover: Handover,
    tracking: Arc<Tracking>,
}

impl Sunk {
    pub fn new(stream: &Stream) -> Self {
        let tracking = Arc::new(tracking(&stream.wanted));
        Sunk {
            tap: Tap::new(stream.version, stream.streaming),
            observer: Observer::new(tracking.clone()),
            handover: Handover::default(),
            tracking,
        }
    }

    pub fn begin_batch(&mut self) {
        self.observer.take_limits(&self.handover);
    }

    /// As the stream task does it in bulk.
    pub fn end_batch(&mut self) {
        self.observer.give_in_time(&self.handover, Instant::now(), true);
    }

    /// What was handed over; the observer begins anew.
    pub fn marks(&mut self) -> Vec<Option<i64>> {
        self.observer.give(&self.handover);
        self.observer = Observer::new(self.tracking.clone());
        let mut marks = vec![None; self.tracking.descending.len()];
        for (slot, seen) in self.handover.take().seen {
            if let Some(mark) = marks.get_mut(slot as usize) {
                *mark = seen.furthest;
            }
        }
        marks
    }
}

fn tracking(wanted: &Wanted) -> Tracking {
    let watched = |(column, slot): &(String, u32)| Watched {
        column: column.clone(),
        slot: *slot,
        format: IdFormat::Integer,
    };
    let table = |((schema, table), columns): (&(String, String), &Vec<(String, u32)>)| {
        (QualifiedName::new(schema.clone(), table.clone()), columns.iter().map(watched).collect())
    };
    Tracking {
        tables: wanted.tables.iter().map(table).collect(),
        descending: vec![false; wanted.slots()],
        ..Tracking::default()
    }
}

impl Ours {
    pub fn new(stream: &Stream) -> anyhow::Result<Self> {
        let mut ours = Ours {
            scanner: Scanner::new(Limits::default()),
            sink: Sunk::new(stream),
            buffer: BytesMut::new(),
            received: Lsn::ZERO,
            wal_end: Lsn::ZERO,
        };
        ours.piece(&stream.preamble)?;
        Ok(ours)
    }

    /// `consume` of the stream task.
    fn consume(&mut self, bytes: &[u8]) -> anyhow::Result<usize> {
        let (mut received, mut wal_end) = (self.received, self.wal_end);
        let mut frames = self.scanner.scan(bytes);
        for frame in frames.by_ref() {
            let frame = frame?;
            let Backend::CopyData(body) = Backend::parse(frame)? else { anyhow::bail!("no CopyData") };
            match Replication::parse(body)? {
                Replication::XLogData { start, wal_end: end, payload, .. } => {
                    self.sink.tap.feed_cut(payload, frame.rest, &mut self.sink.observer)?;
                    received = received.max(start);
                    wal_end = wal_end.max(end);
                }
                Replication::Keepalive { wal_end: end, .. } => self.sink.observer.keepalive(end),
            }
        }
        (self.received, self.wal_end) = (received, wal_end);
        Ok(frames.consumed())
    }
}

impl Contestant for Ours {
    fn name(&self) -> &'static str {
        "seqshadow"
    }

    fn wants_own(&self) -> bool {
        false
    }

    fn memory(&mut self, stream: &[u8], _: &mut BytesMut) -> anyhow::Result<()> {
        self.sink.begin_batch();
        let consumed = self.consume(stream)?;
        self.sink.end_batch();
        anyhow::ensure!(consumed == stream.len(), "bytes were left over");
        Ok(())
    }

    fn piece(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.reserve(READ_BYTES.max(piece.len()));
        buffer.extend_from_slice(piece);
        self.sink.begin_batch();
        let consumed = self.consume(&buffer)?;
        buffer.advance(consumed);
        self.buffer = buffer;
        self.sink.end_batch();
        Ok(())
    }

    fn marks(&mut self) -> Vec<Option<i64>> {
        self.sink.marks()
    }
}
