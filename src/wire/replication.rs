//! The messages inside CopyData while a replication connection is in CopyBoth mode.
//!
//! In: the body of a CopyData. Out: [`Replication`] (what the publisher says) or [`StandbyStatus`] (what a
//! subscriber says; the proxy reads it). Source: PostgreSQL manual, "Streaming Replication Protocol".

use super::reader::{ReadError, Reader};
use crate::types::Lsn;

/// What a walsender says. Times are microseconds since 2000-01-01 00:00 UTC on the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication<'a> {
    /// `w`: one message of the output plugin.
    XLogData {
        /// Where in the WAL the change began; zero for what belongs to no place (Relation, Begin of a stream …).
        start: Lsn,
        /// The server's end of WAL; for logical replication the same as `start`.
        wal_end: Lsn,
        server_time_us: i64,
        payload: &'a [u8],
    },
    /// `k`: all WAL before `wal_end` was looked at.
    Keepalive { wal_end: Lsn, server_time_us: i64, reply_requested: bool },
}

impl<'a> Replication<'a> {
    /// # Errors
    /// [`ReadError`] when `body` is neither, or of another shape.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Self, ReadError> {
        // The hot one, with a single check of the length.
        if let Some((&[b'w', ref header @ ..], payload)) = body.split_first_chunk::<25>() {
            let mut r = Reader::new(header);
            let (start, wal_end) = (Lsn(r.u64()?), Lsn(r.u64()?));
            return Ok(Replication::XLogData { start, wal_end, server_time_us: r.i64()?, payload });
        }
        Self::parse_short(body)
    }

    fn parse_short(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let at = r;
        match r.u8()? {
            b'w' => Err(at.value("an XLogData of at least 25 bytes", i64::from(b'w'))),
            b'k' => {
                let (wal_end, server_time_us) = (Lsn(r.u64()?), r.i64()?);
                let reply_requested = r.u8()? != 0;
                r.finish()?;
                Ok(Replication::Keepalive { wal_end, server_time_us, reply_requested })
            }
            other => Err(at.value("a replication message 'w' or 'k'", i64::from(other))),
        }
    }
}

/// `r`: how far a subscriber has come. The server takes `flush` as the promise that nothing before it is needed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    pub write: Lsn,
    pub flush: Lsn,
    pub apply: Lsn,
    /// Microseconds since 2000-01-01 00:00 UTC on the subscriber's clock.
    pub client_time_us: i64,
    pub reply_requested: bool,
}

impl StandbyStatus {
    /// Reads the body of a subscriber's CopyData; `None` when it is another message (hot standby feedback).
    ///
    /// # Errors
    /// [`ReadError`] when it is a status of another shape.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, ReadError> {
        let mut r = Reader::new(body);
        if r.u8()? != b'r' {
            return Ok(None);
        }
        let (write, flush, apply) = (Lsn(r.u64()?), Lsn(r.u64()?), Lsn(r.u64()?));
        let (client_time_us, reply_requested) = (r.i64()?, r.u8()? != 0);
        r.finish()?;
        Ok(Some(StandbyStatus { write, flush, apply, client_time_us, reply_requested }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_keepalive_are_told_apart() {
        let mut data = vec![b'w'];
        data.extend_from_slice(&7u64.to_be_bytes());
        data.extend_from_slice(&8u64.to_be_bytes());
        data.extend_from_slice(&9i64.to_be_bytes());
        data.extend_from_slice(b"xyz");
        let expected =
            Replication::XLogData { start: Lsn(7), wal_end: Lsn(8), server_time_us: 9, payload: b"xyz" };
        assert_eq!(Replication::parse(&data), Ok(expected));
        for cut in 0..25 {
            assert!(Replication::parse(&data[..cut]).is_err(), "cut at {cut}");
        }

        let mut alive = vec![b'k'];
        alive.extend_from_slice(&7u64.to_be_bytes());
        alive.extend_from_slice(&(-1i64).to_be_bytes());
        alive.push(1);
        let expected = Replication::Keepalive { wal_end: Lsn(7), server_time_us: -1, reply_requested: true };
        assert_eq!(Replication::parse(&alive), Ok(expected));
        alive.push(0);
        assert_eq!(Replication::parse(&alive), Err(ReadError::Trailing { offset: 18, left: 1 }));
        assert!(matches!(Replication::parse(b"q"), Err(ReadError::Value { got: 113, offset: 0, .. })));
    }
}
