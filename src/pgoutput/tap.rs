//! The path that the daemon and the proxy use: only what keeps sequences ahead is read out of the stream.
//!
//! In: payloads in stream order. Out: ids of tracked columns and transaction boundaries, to a [`Sink`]. Never: an
//! allocation per message, a look at a row's bytes past its last tracked column, or an id of a broken message: the
//! row is walked up to the last tracked column before the first of its ids is handed on. What lies behind that
//! column is not looked at, so a row that is broken there goes unnoticed here; [`super::Message`] checks all of it.
//!
//! The order of messages is checked as they come ([`Place`]): a row outside a transaction, of a relation that was not
//! described, or with another number of columns is an error, because then the stream is not what we take it for.

use crate::types::Lsn;
use crate::wire::Reader;

use super::error::{DecodeError, Place};
use super::expected::Expected;
use super::message::Message;
use super::protocol::{Context, ProtocolVersion, Streaming};
use super::relations::{Entry, Plan, RelationLimits, Relations};
use super::sink::{Sink, StreamXids, Truncation};
use super::transaction::{Begin, Commit, Prepare, Truncate, stream_xid};
use super::walk::{Described, Report, Row, RowKind};

/// The state of one stream.
#[derive(Debug)]
pub struct Tap {
    version: ProtocolVersion,
    streaming: Streaming,
    place: Place,
    relations: Relations,
    described: Described,
    expected: Expected,
}

impl Tap {
    /// For a stream that was asked for with these options.
    #[must_use]
    pub fn new(version: ProtocolVersion, streaming: Streaming) -> Self {
        Self::with_limits(version, streaming, RelationLimits::default())
    }

    #[must_use]
    pub fn with_limits(version: ProtocolVersion, streaming: Streaming, limits: RelationLimits) -> Self {
        Tap {
            version,
            streaming,
            place: Place::Idle,
            relations: Relations::new(limits),
            described: Described::default(),
            expected: Expected::default(),
        }
    }

    /// A new connection begins: the publisher will describe every relation anew.
    pub fn reset(&mut self) {
        self.place = Place::Idle;
        self.relations.clear();
        self.described.clear();
        self.expected.clear();
    }

    /// The catalog changed: asks the sink again about every relation described so far.
    pub fn retrack<S: Sink>(&mut self, sink: &mut S) {
        self.expected.clear();
        self.relations.retrack(sink);
    }

    /// Where the last message left off.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// How many relations the publisher has described.
    #[must_use]
    pub fn relation_count(&self) -> usize {
        self.relations.len()
    }

    /// Takes the next message of the stream, whole.
    ///
    /// # Errors
    /// [`DecodeError`] when it is broken or may not come here. Nothing of it was handed on; the stream cannot be
    /// followed any further.
    #[inline]
    pub fn feed<S: Sink>(&mut self, payload: &[u8], sink: &mut S) -> Result<(), DecodeError> {
        self.feed_cut(payload, 0, sink)
    }

    /// The same for a message of which the last `rest` bytes were not kept ([`crate::wire::Frame::rest`]). Tracked
    /// columns that lie in them are reported as [`super::Unreadable::PastWindow`].
    ///
    /// # Errors
    /// As [`Tap::feed`].
    #[inline(always)]
    pub fn feed_cut<S: Sink>(
        &mut self,
        payload: &[u8],
        rest: usize,
        sink: &mut S,
    ) -> Result<(), DecodeError> {
        if self.place != Place::Idle && self.expected.take(payload, self.in_stream(), sink) {
            return Ok(());
        }
        self.feed_fully(payload, rest, sink)
    }

    #[inline(never)]
    fn feed_fully<S: Sink>(&mut self, payload: &[u8], rest: usize, sink: &mut S) -> Result<(), DecodeError> {
        match payload.first() {
            Some(b'I') => self.row(RowKind::Insert, payload, rest, sink),
            Some(b'U') => self.row(RowKind::Update, payload, rest, sink),
            Some(b'D') => self.delete(payload),
            _ => self.control(payload, rest, sink),
        }
    }

    /// An Insert or Update: looked at only as far as ids are tracked.
    fn row<S: Sink>(
        &mut self,
        kind: RowKind,
        payload: &[u8],
        rest: usize,
        sink: &mut S,
    ) -> Result<(), DecodeError> {
        let mut r = Reader::new(payload);
        let entry = changed(self.place, &mut self.relations, kind.name(), &mut r)?;
        if !matches!(entry.plan, Plan::Skip) {
            Row { entry, kind, rest }.walk(r, &mut Report { sink, described: &mut self.described })?;
        }
        self.expected.remember(payload, matches!(self.place, Place::Stream { .. }), &entry.plan);
        Ok(())
    }

    #[inline]
    fn in_stream(&self) -> bool {
        matches!(self.place, Place::Stream { .. })
    }

    /// A Delete carries no id that was not seen before.
    fn delete(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        changed(self.place, &mut self.relations, "Delete", &mut Reader::new(payload)).map(drop)
    }

    /// Everything that is not a row.
    #[inline(never)]
    fn control<S: Sink>(&mut self, payload: &[u8], rest: usize, sink: &mut S) -> Result<(), DecodeError> {
        let context =
            Context { version: self.version, streaming: self.streaming, in_stream: self.in_stream() };
        let message = Message::decode_cut(payload, rest, &context)?;
        match message {
            Message::Begin(begin) => {
                let Begin { final_lsn, xid, .. } = begin;
                self.enter("Begin", Place::Transaction { xid, final_lsn })?;
                sink.begin(final_lsn, xid);
            }
            Message::Commit(commit) => self.commit(commit, sink)?,
            Message::Origin(origin) => {
                self.inside("Origin")?;
                sink.origin(&origin);
            }
            Message::LogicalMessage(message) => sink.message(&message),
            Message::Relation(relation) => {
                self.inside("Relation")?;
                if self.relations.note(&relation, sink)? {
                    self.described.clear();
                    self.expected.described(relation.oid, self.relations.len());
                }
            }
            Message::Type(_) => self.inside("Type")?,
            Message::Truncate(truncate) => self.truncate(truncate, sink)?,
            Message::StreamStart(start) => {
                self.enter("Stream Start", Place::Stream { xid: start.xid })?;
                sink.stream_start(start.xid, start.first);
            }
            Message::StreamStop => {
                let Place::Stream { xid } = self.place else { return Err(self.misplaced("Stream Stop")) };
                self.place = Place::Idle;
                sink.stream_stop(xid);
            }
            Message::StreamCommit(commit) => {
                self.outside("Stream Commit")?;
                sink.stream_commit(&commit);
            }
            Message::StreamAbort(abort) => {
                self.outside("Stream Abort")?;
                sink.stream_abort(abort.xid, abort.subxid);
            }
            Message::BeginPrepare(begin) => {
                let Prepare { xid, prepare_lsn, .. } = begin;
                self.enter("Begin Prepare", Place::Preparing { xid, prepare_lsn })?;
                sink.begin_prepare(&begin);
            }
            Message::Prepare(prepare) => self.prepare(&prepare, sink)?,
            Message::CommitPrepared(commit) => {
                self.outside("Commit Prepared")?;
                sink.commit_prepared(&commit);
            }
            Message::RollbackPrepared(rollback) => {
                self.outside("Rollback Prepared")?;
                sink.rollback_prepared(&rollback);
            }
            Message::StreamPrepare(prepare) => {
                self.outside("Stream Prepare")?;
                sink.stream_prepare(&prepare);
            }
            // Told apart by their tags in `feed_cut`.
            Message::Insert(_) | Message::Update(_) | Message::Delete(_) => {}
        }
        Ok(())
    }

    fn commit<S: Sink>(&mut self, commit: Commit, sink: &mut S) -> Result<(), DecodeError> {
        let Place::Transaction { final_lsn, .. } = self.place else { return Err(self.misplaced("Commit")) };
        same_lsn("Commit", final_lsn, commit.commit_lsn)?;
        self.place = Place::Idle;
        sink.commit(&commit);
        Ok(())
    }

    fn prepare<S: Sink>(&mut self, prepare: &Prepare<'_>, sink: &mut S) -> Result<(), DecodeError> {
        let message = "Prepare";
        let Place::Preparing { xid, prepare_lsn } = self.place else { return Err(self.misplaced(message)) };
        same_lsn(message, prepare_lsn, prepare.prepare_lsn)?;
        if xid != prepare.xid {
            return Err(DecodeError::XidChanged { message, expected: xid, got: prepare.xid });
        }
        self.place = Place::Idle;
        sink.prepare(prepare);
        Ok(())
    }

    fn truncate<S: Sink>(&mut self, truncate: Truncate<'_>, sink: &mut S) -> Result<(), DecodeError> {
        let message = "Truncate";
        self.inside(message)?;
        let Truncate { xid, cascade, restart_identity, relations } = truncate;
        if let Some(oid) = relations.into_iter().find(|&oid| !self.relations.knows(oid)) {
            return Err(DecodeError::UnknownRelation { message, oid });
        }
        let stream = match (self.place, xid) {
            (Place::Stream { xid }, Some(subxid)) => Some(StreamXids { xid, subxid }),
            _ => None,
        };
        sink.truncate(&Truncation { relations, cascade, restart_identity, stream });
        Ok(())
    }

    fn enter(&mut self, message: &'static str, place: Place) -> Result<(), DecodeError> {
        self.outside(message)?;
        self.place = place;
        Ok(())
    }

    fn outside(&self, message: &'static str) -> Result<(), DecodeError> {
        if self.place == Place::Idle { Ok(()) } else { Err(self.misplaced(message)) }
    }

    fn inside(&self, message: &'static str) -> Result<(), DecodeError> {
        if self.place == Place::Idle { Err(self.misplaced(message)) } else { Ok(()) }
    }

    #[cold]
    fn misplaced(&self, message: &'static str) -> DecodeError {
        DecodeError::Misplaced { message, place: self.place }
    }
}

/// The relation that a row message is about: its tag, transaction id and relation oid are read.
#[inline]
fn changed<'r>(
    place: Place,
    relations: &'r mut Relations,
    message: &'static str,
    r: &mut Reader<'_>,
) -> Result<&'r Entry, DecodeError> {
    let malformed = |source| DecodeError::Malformed { message, source };
    r.u8().map_err(malformed)?;
    match place {
        Place::Idle => return Err(DecodeError::Misplaced { message, place }),
        Place::Stream { .. } => stream_xid(r, true).map(drop).map_err(malformed)?,
        Place::Transaction { .. } | Place::Preparing { .. } => {}
    }
    let oid = r.u32().map_err(malformed)?;
    relations.find(oid).ok_or(DecodeError::UnknownRelation { message, oid })
}

fn same_lsn(message: &'static str, expected: Lsn, got: Lsn) -> Result<(), DecodeError> {
    if expected == got { Ok(()) } else { Err(DecodeError::LsnChanged { message, expected, got }) }
}
