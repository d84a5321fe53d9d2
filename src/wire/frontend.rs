//! Encodes what a client says on a replication connection.
//!
//! In: values. Out: whole messages, appended to the caller's buffer, which is only ever grown. Never: IO.
//! Authentication and startup messages come from `postgres-protocol`.

use bytes::{BufMut, BytesMut};

use super::replication::StandbyStatus;

/// Why a message cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the query contains a zero byte at {offset}")]
    ZeroByte { offset: usize },
    #[error("expected a query of less than 1 GiB, got {bytes} bytes")]
    TooLong { bytes: usize },
}

/// Bytes of one standby status on the wire.
pub const STANDBY_STATUS_BYTES: usize = 39;

/// CopyData with a standby status update. Confirming is the caller's decision: see [`crate`]'s invariants.
pub fn standby_status(status: &StandbyStatus, out: &mut BytesMut) {
    out.reserve(STANDBY_STATUS_BYTES);
    out.put_u8(b'd');
    out.put_u32(38);
    out.put_u8(b'r');
    out.put_u64(status.write.0);
    out.put_u64(status.flush.0);
    out.put_u64(status.apply.0);
    out.put_i64(status.client_time_us);
    out.put_u8(u8::from(status.reply_requested));
}

/// A simple query.
///
/// # Errors
/// [`EncodeError`] when `sql` cannot be one message; nothing was written then.
pub fn query(sql: &str, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Some(offset) = sql.bytes().position(|byte| byte == 0) {
        return Err(EncodeError::ZeroByte { offset });
    }
    let length = u32::try_from(sql.len())
        .ok()
        .filter(|&n| n < 1 << 30)
        .ok_or(EncodeError::TooLong { bytes: sql.len() })?;
    out.put_u8(b'Q');
    out.put_u32(length + 5);
    out.put_slice(sql.as_bytes());
    out.put_u8(0);
    Ok(())
}

/// The end of our half of the stream; the server answers with its own CopyDone.
pub fn copy_done(out: &mut BytesMut) {
    out.put_slice(&[b'c', 0, 0, 0, 4]);
}

/// The end of the connection; there is no answer.
pub fn terminate(out: &mut BytesMut) {
    out.put_slice(&[b'X', 0, 0, 0, 4]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Lsn;
    use crate::wire::{Limits, Scanner};

    #[test]
    fn a_status_is_read_back_as_it_was_meant() {
        let status = StandbyStatus {
            write: Lsn(3),
            flush: Lsn(2),
            apply: Lsn(u64::MAX),
            client_time_us: -5,
            reply_requested: true,
        };
        let mut out = BytesMut::new();
        standby_status(&status, &mut out);
        assert_eq!(out.len(), STANDBY_STATUS_BYTES);
        let frame = Scanner::new(Limits::default()).scan(&out).next().unwrap().unwrap();
        assert_eq!((frame.tag, StandbyStatus::parse(frame.body)), (b'd', Ok(Some(status))));
        assert_eq!(StandbyStatus::parse(b"h"), Ok(None));
        assert!(StandbyStatus::parse(b"r").is_err());
    }

    #[test]
    fn queries_and_endings_are_whole_messages() {
        let mut out = BytesMut::new();
        query("SHOW x", &mut out).unwrap();
        copy_done(&mut out);
        terminate(&mut out);
        let mut scanner = Scanner::new(Limits::default());
        let mut frames = scanner.scan(&out);
        let seen: Vec<_> = frames.by_ref().map(|f| f.map(|f| (f.tag, f.body)).unwrap()).collect();
        assert_eq!(seen, [(b'Q', &b"SHOW x\0"[..]), (b'c', b""), (b'X', b"")]);
        assert_eq!(frames.consumed(), out.len());
        assert_eq!(query("a\0b", &mut out), Err(EncodeError::ZeroByte { offset: 1 }));
    }
}
