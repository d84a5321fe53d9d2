//! The messages that frame changes: where transactions begin, end, are prepared or streamed, and TRUNCATE.
//!
//! Each has a `read` that takes what follows the tag. Times are microseconds since 2000-01-01 00:00 UTC on the
//! publisher's clock. Source: `src/backend/replication/logical/proto.c`, functions `logicalrep_write_*`.

use crate::types::Lsn;
use crate::wire::{ReadError, Reader, Text};

type Read<T> = Result<T, ReadError>;

/// `B`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// LSN of the commit record; the Commit repeats it.
    pub final_lsn: Lsn,
    pub commit_time_us: i64,
    pub xid: u32,
}

impl Begin {
    #[inline]
    pub(crate) fn read(r: &mut Reader<'_>) -> Read<Self> {
        Ok(Begin { final_lsn: nonzero_lsn(r)?, commit_time_us: r.i64()?, xid: r.u32()? })
    }
}

/// `C`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    pub commit_lsn: Lsn,
    /// One past the commit record: what may be confirmed as flushed.
    pub end_lsn: Lsn,
    pub commit_time_us: i64,
}

impl Commit {
    #[inline]
    pub(crate) fn read(r: &mut Reader<'_>) -> Read<Self> {
        no_flags(r)?;
        Ok(Commit { commit_lsn: Lsn(r.u64()?), end_lsn: Lsn(r.u64()?), commit_time_us: r.i64()? })
    }
}

/// `O`: the transaction was itself replicated, from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    pub commit_lsn: Lsn,
    pub name: Text<'a>,
}

impl<'a> Origin<'a> {
    pub(crate) fn read(r: &mut Reader<'a>) -> Read<Self> {
        Ok(Origin { commit_lsn: Lsn(r.u64()?), name: r.cstr()? })
    }
}

/// `M`: `pg_logical_emit_message`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// The (sub)transaction, inside a stream only.
    pub xid: Option<u32>,
    /// Part of the transaction, or sent at once and outside of any.
    pub transactional: bool,
    pub lsn: Lsn,
    pub prefix: Text<'a>,
    /// As long as `length` says, except where a long message was cut by the frame scanner.
    pub content: &'a [u8],
    pub length: usize,
}

impl<'a> LogicalMessage<'a> {
    /// `rest`: bytes of the message that were not kept.
    pub(crate) fn read(r: &mut Reader<'a>, in_stream: bool, rest: usize) -> Read<Self> {
        let xid = stream_xid(r, in_stream)?;
        let transactional = flags(r, 1)? & 1 != 0;
        let (lsn, prefix) = (Lsn(r.u64()?), r.cstr()?);
        let at = *r;
        let announced = r.i32()?;
        let length = usize::try_from(announced)
            .map_err(|_| at.value("a length that is not negative", i64::from(announced)))?;
        let content = r.take(length.saturating_sub(rest))?;
        Ok(LogicalMessage { xid, transactional, lsn, prefix, content, length })
    }
}

/// `Y`: the name of a type that is not built in, before a Relation that uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type<'a> {
    /// The (sub)transaction, inside a stream only.
    pub xid: Option<u32>,
    pub oid: u32,
    /// Empty for `pg_catalog`.
    pub schema: Text<'a>,
    pub name: Text<'a>,
}

impl<'a> Type<'a> {
    pub(crate) fn read(r: &mut Reader<'a>, in_stream: bool) -> Read<Self> {
        Ok(Type { xid: stream_xid(r, in_stream)?, oid: r.u32()?, schema: r.cstr()?, name: r.cstr()? })
    }
}

/// `T`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// The (sub)transaction, inside a stream only.
    pub xid: Option<u32>,
    pub cascade: bool,
    pub restart_identity: bool,
    pub relations: OidList<'a>,
}

impl<'a> Truncate<'a> {
    pub(crate) fn read(r: &mut Reader<'a>, in_stream: bool) -> Read<Self> {
        let xid = stream_xid(r, in_stream)?;
        let at = *r;
        let count = r.u32()?;
        let flags = flags(r, 3)?;
        let bytes = usize::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(4))
            .ok_or_else(|| at.value("a count of relations", i64::from(count)))?;
        let relations = OidList { bytes: r.take(bytes)? };
        Ok(Truncate { xid, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0, relations })
    }
}

/// Oids as they lie in the message; iterate it (it is `Copy`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OidList<'a> {
    bytes: &'a [u8],
}

impl Iterator for OidList<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (oid, rest) = self.bytes.split_first_chunk::<4>()?;
        self.bytes = rest;
        Some(u32::from_be_bytes(*oid))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.bytes.len() / 4, Some(self.bytes.len() / 4))
    }
}

impl ExactSizeIterator for OidList<'_> {}

impl std::fmt::Debug for OidList<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

/// `S`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStart {
    /// The top-level transaction.
    pub xid: u32,
    /// Its first piece.
    pub first: bool,
}

impl StreamStart {
    pub(crate) fn read(r: &mut Reader<'_>) -> Read<Self> {
        Ok(StreamStart { xid: nonzero_xid(r)?, first: r.u8()? == 1 })
    }
}

/// `c`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamCommit {
    pub xid: u32,
    pub commit_lsn: Lsn,
    /// One past the commit record.
    pub end_lsn: Lsn,
    pub commit_time_us: i64,
}

impl StreamCommit {
    pub(crate) fn read(r: &mut Reader<'_>) -> Read<Self> {
        let xid = nonzero_xid(r)?;
        let Commit { commit_lsn, end_lsn, commit_time_us } = Commit::read(r)?;
        Ok(StreamCommit { xid, commit_lsn, end_lsn, commit_time_us })
    }
}

/// `A`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamAbort {
    /// The top-level transaction.
    pub xid: u32,
    /// What was rolled back: a subtransaction, or all of it when equal to `xid`.
    pub subxid: u32,
    /// With `streaming = parallel` only.
    pub at: Option<AbortPoint>,
}

/// Where and when the abort record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortPoint {
    pub lsn: Lsn,
    pub time_us: i64,
}

impl StreamAbort {
    pub(crate) fn read(r: &mut Reader<'_>, parallel: bool) -> Read<Self> {
        let (xid, subxid) = (nonzero_xid(r)?, nonzero_xid(r)?);
        let at = if parallel { Some(AbortPoint { lsn: Lsn(r.u64()?), time_us: r.i64()? }) } else { None };
        Ok(StreamAbort { xid, subxid, at })
    }
}

/// `b`, `P` and `p`: Begin Prepare, Prepare and Stream Prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepare<'a> {
    pub prepare_lsn: Lsn,
    /// One past the prepare record.
    pub end_lsn: Lsn,
    pub prepare_time_us: i64,
    pub xid: u32,
    pub gid: Text<'a>,
}

impl<'a> Prepare<'a> {
    pub(crate) fn read_begin(r: &mut Reader<'a>) -> Read<Self> {
        Ok(Prepare {
            prepare_lsn: nonzero_lsn(r)?,
            end_lsn: nonzero_lsn(r)?,
            prepare_time_us: r.i64()?,
            xid: nonzero_xid(r)?,
            gid: r.cstr()?,
        })
    }

    pub(crate) fn read(r: &mut Reader<'a>) -> Read<Self> {
        no_flags(r)?;
        Self::read_begin(r)
    }
}

/// `K`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitPrepared<'a> {
    pub commit_lsn: Lsn,
    /// One past the commit record.
    pub end_lsn: Lsn,
    pub commit_time_us: i64,
    pub xid: u32,
    pub gid: Text<'a>,
}

impl<'a> CommitPrepared<'a> {
    pub(crate) fn read(r: &mut Reader<'a>) -> Read<Self> {
        no_flags(r)?;
        Ok(CommitPrepared {
            commit_lsn: nonzero_lsn(r)?,
            end_lsn: nonzero_lsn(r)?,
            commit_time_us: r.i64()?,
            xid: nonzero_xid(r)?,
            gid: r.cstr()?,
        })
    }
}

/// `r`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollbackPrepared<'a> {
    /// `end_lsn` of the Prepare that is undone.
    pub prepare_end_lsn: Lsn,
    /// One past the rollback record.
    pub rollback_end_lsn: Lsn,
    pub prepare_time_us: i64,
    pub rollback_time_us: i64,
    pub xid: u32,
    pub gid: Text<'a>,
}

impl<'a> RollbackPrepared<'a> {
    pub(crate) fn read(r: &mut Reader<'a>) -> Read<Self> {
        no_flags(r)?;
        Ok(RollbackPrepared {
            prepare_end_lsn: nonzero_lsn(r)?,
            rollback_end_lsn: nonzero_lsn(r)?,
            prepare_time_us: r.i64()?,
            rollback_time_us: r.i64()?,
            xid: nonzero_xid(r)?,
            gid: r.cstr()?,
        })
    }
}

/// The transaction id with which changes inside a stream begin.
#[inline]
pub(crate) fn stream_xid(r: &mut Reader<'_>, in_stream: bool) -> Read<Option<u32>> {
    if in_stream { nonzero_xid(r).map(Some) } else { Ok(None) }
}

fn nonzero_xid(r: &mut Reader<'_>) -> Read<u32> {
    let at = *r;
    match r.u32()? {
        0 => Err(at.value("a transaction id", 0)),
        xid => Ok(xid),
    }
}

fn nonzero_lsn(r: &mut Reader<'_>) -> Read<Lsn> {
    let at = *r;
    match r.u64()? {
        0 => Err(at.value("an LSN", 0)),
        lsn => Ok(Lsn(lsn)),
    }
}

/// A byte of flags of which only those in `known` may be set.
fn flags(r: &mut Reader<'_>, known: u8) -> Read<u8> {
    let at = *r;
    match r.u8()? {
        flags if flags & !known == 0 => Ok(flags),
        flags => Err(at.value("known flags", i64::from(flags))),
    }
}

/// Flags that every version so far leaves zero; PostgreSQL's own reader refuses others too.
fn no_flags(r: &mut Reader<'_>) -> Read<()> {
    flags(r, 0).map(drop)
}
