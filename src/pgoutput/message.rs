//! Every message of pgoutput, decoded in full and checked to its last byte; nothing is copied.
//!
//! In: a payload and the [`Context`] in which it arrived. Out: a [`Message`]. Never: state; who decodes a stream
//! keeps [`Context::in_stream`] true from Stream Start to Stream Stop. The daemon uses [`super::Tap`] instead.

use crate::wire::{ReadError, Reader};

use super::error::DecodeError;
use super::protocol::{Context, ProtocolVersion, Streaming};
use super::relation::RelationMessage;
use super::transaction::{
    Begin, Commit, CommitPrepared, LogicalMessage, Origin, Prepare, RollbackPrepared, StreamAbort,
    StreamCommit, StreamStart, Truncate, Type, stream_xid,
};
use super::tuple::Tuple;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Begin(Begin),
    Commit(Commit),
    Origin(Origin<'a>),
    LogicalMessage(LogicalMessage<'a>),
    Relation(RelationMessage<'a>),
    Type(Type<'a>),
    Insert(Insert<'a>),
    Update(Update<'a>),
    Delete(Delete<'a>),
    Truncate(Truncate<'a>),
    StreamStart(StreamStart),
    StreamStop,
    StreamCommit(StreamCommit),
    StreamAbort(StreamAbort),
    BeginPrepare(Prepare<'a>),
    Prepare(Prepare<'a>),
    CommitPrepared(CommitPrepared<'a>),
    RollbackPrepared(RollbackPrepared<'a>),
    StreamPrepare(Prepare<'a>),
}

/// `I`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insert<'a> {
    /// The (sub)transaction, inside a stream only.
    pub xid: Option<u32>,
    pub relation: u32,
    pub new: Tuple<'a>,
}

/// `U`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    /// The (sub)transaction, inside a stream only.
    pub xid: Option<u32>,
    pub relation: u32,
    /// Only where the replica identity changed, or is full.
    pub old: Option<OldTuple<'a>>,
    pub new: Tuple<'a>,
}

/// `D`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The (sub)transaction, inside a stream only.
    pub xid: Option<u32>,
    pub relation: u32,
    pub old: OldTuple<'a>,
}

/// What identifies the row that was updated or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// `K`: columns that are not part of the key are NULL.
    Key(Tuple<'a>),
    /// `O`: all of it (`REPLICA IDENTITY FULL`).
    Full(Tuple<'a>),
}

impl<'a> Message<'a> {
    /// Decodes a whole payload.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not exactly one message of the agreed protocol.
    pub fn decode(payload: &'a [u8], context: &Context) -> Result<Self, DecodeError> {
        Self::decode_cut(payload, 0, context)
    }

    /// The same for a payload of which the last `rest` bytes were not kept; only a logical message can be that long.
    pub(crate) fn decode_cut(payload: &'a [u8], rest: usize, context: &Context) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let Ok(tag) = r.u8() else { return Err(DecodeError::Empty) };
        let kind = Kind::of(tag).ok_or(DecodeError::UnknownTag { tag })?;
        let message = kind.name();
        kind.check(context)?;
        if rest > 0 && kind != Kind::LogicalMessage {
            return Err(DecodeError::TooLong { message, rest });
        }
        kind.read(&mut r, rest, context)
            .and_then(|decoded| r.finish().map(|()| decoded))
            .map_err(|source| DecodeError::Malformed { message, source })
    }
}

/// The messages by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Begin,
    Commit,
    Origin,
    LogicalMessage,
    Relation,
    Type,
    Insert,
    Update,
    Delete,
    Truncate,
    StreamStart,
    StreamStop,
    StreamCommit,
    StreamAbort,
    BeginPrepare,
    Prepare,
    CommitPrepared,
    RollbackPrepared,
    StreamPrepare,
}

impl Kind {
    /// `LogicalRepMsgType` of `src/include/replication/logicalproto.h`.
    pub(crate) fn of(tag: u8) -> Option<Self> {
        Some(match tag {
            b'B' => Kind::Begin,
            b'C' => Kind::Commit,
            b'O' => Kind::Origin,
            b'M' => Kind::LogicalMessage,
            b'R' => Kind::Relation,
            b'Y' => Kind::Type,
            b'I' => Kind::Insert,
            b'U' => Kind::Update,
            b'D' => Kind::Delete,
            b'T' => Kind::Truncate,
            b'S' => Kind::StreamStart,
            b'E' => Kind::StreamStop,
            b'c' => Kind::StreamCommit,
            b'A' => Kind::StreamAbort,
            b'b' => Kind::BeginPrepare,
            b'P' => Kind::Prepare,
            b'K' => Kind::CommitPrepared,
            b'r' => Kind::RollbackPrepared,
            b'p' => Kind::StreamPrepare,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Begin => "Begin",
            Kind::Commit => "Commit",
            Kind::Origin => "Origin",
            Kind::LogicalMessage => "Message",
            Kind::Relation => "Relation",
            Kind::Type => "Type",
            Kind::Insert => "Insert",
            Kind::Update => "Update",
            Kind::Delete => "Delete",
            Kind::Truncate => "Truncate",
            Kind::StreamStart => "Stream Start",
            Kind::StreamStop => "Stream Stop",
            Kind::StreamCommit => "Stream Commit",
            Kind::StreamAbort => "Stream Abort",
            Kind::BeginPrepare => "Begin Prepare",
            Kind::Prepare => "Prepare",
            Kind::CommitPrepared => "Commit Prepared",
            Kind::RollbackPrepared => "Rollback Prepared",
            Kind::StreamPrepare => "Stream Prepare",
        }
    }

    /// May the publisher send it at all, given what was asked for? Logical messages and binary values come with
    /// options of their own, whatever the version.
    fn check(self, context: &Context) -> Result<(), DecodeError> {
        use Kind::{
            BeginPrepare, CommitPrepared, Prepare, RollbackPrepared, StreamAbort, StreamCommit,
            StreamPrepare, StreamStart, StreamStop,
        };
        let message = self.name();
        let needs = match self {
            StreamStart | StreamStop | StreamCommit | StreamAbort => ProtocolVersion::V2,
            BeginPrepare | Prepare | CommitPrepared | RollbackPrepared | StreamPrepare => ProtocolVersion::V3,
            _ => return Ok(()),
        };
        if context.version < needs {
            return Err(DecodeError::NotInVersion { message, needs, version: context.version });
        }
        let streams = matches!(self, StreamStart | StreamStop | StreamCommit | StreamAbort | StreamPrepare);
        if streams && context.streaming == Streaming::Off {
            return Err(DecodeError::NotStreaming { message });
        }
        Ok(())
    }

    fn read<'a>(self, r: &mut Reader<'a>, rest: usize, context: &Context) -> Result<Message<'a>, ReadError> {
        let in_stream = context.in_stream;
        Ok(match self {
            Kind::Begin => Message::Begin(Begin::read(r)?),
            Kind::Commit => Message::Commit(Commit::read(r)?),
            Kind::Origin => Message::Origin(Origin::read(r)?),
            Kind::LogicalMessage => Message::LogicalMessage(LogicalMessage::read(r, in_stream, rest)?),
            Kind::Relation => Message::Relation(RelationMessage::read(r, in_stream)?),
            Kind::Type => Message::Type(Type::read(r, in_stream)?),
            Kind::Insert => Message::Insert(Insert::read(r, in_stream)?),
            Kind::Update => Message::Update(Update::read(r, in_stream)?),
            Kind::Delete => Message::Delete(Delete::read(r, in_stream)?),
            Kind::Truncate => Message::Truncate(Truncate::read(r, in_stream)?),
            Kind::StreamStart => Message::StreamStart(StreamStart::read(r)?),
            Kind::StreamStop => Message::StreamStop,
            Kind::StreamCommit => Message::StreamCommit(StreamCommit::read(r)?),
            Kind::StreamAbort => {
                let parallel = context.streaming == Streaming::Parallel;
                Message::StreamAbort(StreamAbort::read(r, parallel)?)
            }
            Kind::BeginPrepare => Message::BeginPrepare(Prepare::read_begin(r)?),
            Kind::Prepare => Message::Prepare(Prepare::read(r)?),
            Kind::CommitPrepared => Message::CommitPrepared(CommitPrepared::read(r)?),
            Kind::RollbackPrepared => Message::RollbackPrepared(RollbackPrepared::read(r)?),
            Kind::StreamPrepare => Message::StreamPrepare(Prepare::read(r)?),
        })
    }
}

impl<'a> Insert<'a> {
    fn read(r: &mut Reader<'a>, in_stream: bool) -> Result<Self, ReadError> {
        let (xid, relation) = (stream_xid(r, in_stream)?, r.u32()?);
        let at = *r;
        match r.u8()? {
            b'N' => Ok(Insert { xid, relation, new: Tuple::read(r)? }),
            other => Err(at.value("a new row 'N'", i64::from(other))),
        }
    }
}

impl<'a> Update<'a> {
    fn read(r: &mut Reader<'a>, in_stream: bool) -> Result<Self, ReadError> {
        let (xid, relation) = (stream_xid(r, in_stream)?, r.u32()?);
        let mut at = *r;
        let mut kind = r.u8()?;
        let old = OldTuple::read(kind, r)?;
        if old.is_some() {
            at = *r;
            kind = r.u8()?;
        }
        match kind {
            b'N' => Ok(Update { xid, relation, old, new: Tuple::read(r)? }),
            other => Err(at.value("a new row 'N'", i64::from(other))),
        }
    }
}

impl<'a> Delete<'a> {
    fn read(r: &mut Reader<'a>, in_stream: bool) -> Result<Self, ReadError> {
        let (xid, relation) = (stream_xid(r, in_stream)?, r.u32()?);
        let at = *r;
        let kind = r.u8()?;
        match OldTuple::read(kind, r)? {
            Some(old) => Ok(Delete { xid, relation, old }),
            None => Err(at.value("an old row 'K' or 'O'", i64::from(kind))),
        }
    }
}

impl<'a> OldTuple<'a> {
    fn read(kind: u8, r: &mut Reader<'a>) -> Result<Option<Self>, ReadError> {
        match kind {
            b'K' => Tuple::read(r).map(|tuple| Some(OldTuple::Key(tuple))),
            b'O' => Tuple::read(r).map(|tuple| Some(OldTuple::Full(tuple))),
            _ => Ok(None),
        }
    }
}
