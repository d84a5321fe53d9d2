//! What a server says on a replication connection after authentication, by its tag.
//!
//! In: a [`Frame`]. Out: a [`Backend`] that borrows from it. Never: an unknown tag taken for something else; it is a
//! typed error. The content of CopyData is read by [`super::replication`], that of rows by [`super::rows`].
//! Source: PostgreSQL manual, "Message Formats" and "Error and Notice Message Fields".

use std::fmt;

use super::frame::Frame;
use super::reader::{ReadError, Reader, Text};

/// One message of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend<'a> {
    /// `d`: content for [`super::Replication::parse`].
    CopyData(&'a [u8]),
    /// `W`: the stream begins. The overall format (0 text, 1 binary) says nothing about logical replication.
    CopyBoth { format: i8 },
    /// `H`: the reply to `START_REPLICATION` of servers in front of which stands something half-duplex.
    CopyOut { format: i8 },
    /// `c`
    CopyDone,
    /// `E`
    Error(Notice<'a>),
    /// `N`
    Notice(Notice<'a>),
    /// `S`
    ParameterStatus { name: Text<'a>, value: Text<'a> },
    /// `K`: what cancels a query of this session. The key has 4 bytes, up to 256 with protocol 3.2.
    BackendKeyData { pid: i32, key: &'a [u8] },
    /// `Z`: `I`dle, in a `T`ransaction, or in a failed one (`E`).
    ReadyForQuery { status: u8 },
    /// `C`
    CommandComplete { tag: Text<'a> },
    /// `I`
    EmptyQuery,
    /// `T`: body for [`super::rows::column_names`].
    RowDescription(&'a [u8]),
    /// `D`: body for [`super::rows::data_row`].
    DataRow(&'a [u8]),
    /// `v`: the server speaks at most 3.`minor`, and knows none of the `unknown_options`.
    NegotiateProtocolVersion { version: u32, unknown_options: u32 },
    /// `R`: 0 is "ok", 10 to 12 are the steps of SASL, whose `data` others read.
    Authentication { kind: i32, data: &'a [u8] },
}

/// Why a frame is not a message of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    #[error("expected a server message, got the unknown tag {tag:?}", tag = char::from(*.tag))]
    UnknownTag { tag: u8 },
    #[error("server message {tag:?} is {rest} bytes longer than what is kept of one", tag = char::from(*.tag))]
    TooLong { tag: u8, rest: usize },
    #[error("server message {tag:?}: {source}", tag = char::from(*.tag))]
    Malformed { tag: u8, source: ReadError },
}

impl<'a> Backend<'a> {
    /// # Errors
    /// [`BackendError`] when the tag is unknown, the body is of another shape, or only a part of a body that is not
    /// CopyData was kept.
    #[inline]
    pub fn parse(frame: Frame<'a>) -> Result<Self, BackendError> {
        if frame.tag == b'd' {
            return Ok(Backend::CopyData(frame.body));
        }
        Self::parse_other(frame)
    }

    fn parse_other(frame: Frame<'a>) -> Result<Self, BackendError> {
        let Frame { tag, body, rest } = frame;
        if rest > 0 {
            return Err(BackendError::TooLong { tag, rest });
        }
        let mut r = Reader::new(body);
        let message = Self::read(tag, &mut r).ok_or(BackendError::UnknownTag { tag })?;
        message
            .and_then(|message| r.finish().map(|()| message))
            .map_err(|source| BackendError::Malformed { tag, source })
    }

    fn read(tag: u8, r: &mut Reader<'a>) -> Option<Result<Self, ReadError>> {
        Some(match tag {
            b'W' => copy_format(r).map(|format| Backend::CopyBoth { format }),
            b'H' => copy_format(r).map(|format| Backend::CopyOut { format }),
            b'c' => Ok(Backend::CopyDone),
            b'I' => Ok(Backend::EmptyQuery),
            b'E' => Notice::read(r).map(Backend::Error),
            b'N' => Notice::read(r).map(Backend::Notice),
            b'S' => parameter(r),
            b'K' => r.i32().map(|pid| Backend::BackendKeyData { pid, key: r.rest() }),
            b'Z' => r.u8().map(|status| Backend::ReadyForQuery { status }),
            b'C' => r.cstr().map(|tag| Backend::CommandComplete { tag }),
            b'T' => Ok(Backend::RowDescription(r.rest())),
            b'D' => Ok(Backend::DataRow(r.rest())),
            b'v' => negotiation(r),
            b'R' => r.i32().map(|kind| Backend::Authentication { kind, data: r.rest() }),
            _ => return None,
        })
    }
}

/// The overall format, and one per column, which a replication stream does not have but may.
fn copy_format(r: &mut Reader<'_>) -> Result<i8, ReadError> {
    let format = r.i8()?;
    let columns = r.u16()?;
    r.take(usize::from(columns) * 2)?;
    Ok(format)
}

fn parameter<'a>(r: &mut Reader<'a>) -> Result<Backend<'a>, ReadError> {
    Ok(Backend::ParameterStatus { name: r.cstr()?, value: r.cstr()? })
}

fn negotiation<'a>(r: &mut Reader<'a>) -> Result<Backend<'a>, ReadError> {
    let (version, unknown_options) = (r.u32()?, r.u32()?);
    for _ in 0..unknown_options {
        r.cstr()?;
    }
    Ok(Backend::NegotiateProtocolVersion { version, unknown_options })
}

/// The fields of an error or a notice that a reader acts on or shows; fields that are absent are empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Notice<'a> {
    /// `ERROR`, `FATAL`, `NOTICE` …, never translated (field `V`, or `S` where a server or pooler sends only that).
    pub severity: Text<'a>,
    /// Five characters: manual, appendix A.
    pub sqlstate: Text<'a>,
    pub message: Text<'a>,
    pub detail: Text<'a>,
    pub hint: Text<'a>,
}

impl<'a> Notice<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, ReadError> {
        let mut notice = Notice::default();
        let mut translated = Text::default();
        loop {
            let field = match r.u8()? {
                0 => break,
                kind => (kind, r.cstr()?),
            };
            match field {
                (b'V', text) => notice.severity = text,
                (b'S', text) => translated = text,
                (b'C', text) => notice.sqlstate = text,
                (b'M', text) => notice.message = text,
                (b'D', text) => notice.detail = text,
                (b'H', text) => notice.hint = text,
                _ => {} // the manual asks to ignore fields of unknown kind
            }
        }
        if notice.severity == Text::default() {
            notice.severity = translated;
        }
        Ok(notice)
    }

    #[must_use]
    pub fn to_error(&self) -> ServerError {
        ServerError {
            severity: self.severity.to_string(),
            sqlstate: self.sqlstate.to_string(),
            message: self.message.to_string(),
            detail: self.detail.to_string(),
            hint: self.hint.to_string(),
        }
    }
}

/// A [`Notice`] that outlives its buffer; what is absent is empty.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerError {
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.sqlstate)?;
        for (label, text) in [("detail", &self.detail), ("hint", &self.hint)] {
            if !text.is_empty() {
                write!(f, "; {label}: {text}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(tag: u8, body: &[u8]) -> Result<Backend<'_>, BackendError> {
        Backend::parse(Frame { tag, body, rest: 0 })
    }

    const ERROR: &[u8] =
        b"SFEHLER\0VERROR\0C55006\0Mreplication slot \"s\" is active for PID 7\0Dd\0Hh\0Fslot.c\0\0";

    #[test]
    fn messages_are_told_apart_by_tag() {
        assert_eq!(parse(b'W', &[0, 0, 0]), Ok(Backend::CopyBoth { format: 0 }));
        assert_eq!(parse(b'W', &[1, 0, 1, 0, 0]), Ok(Backend::CopyBoth { format: 1 }));
        assert_eq!(parse(b'd', b"any"), Ok(Backend::CopyData(b"any")));
        assert_eq!(parse(b'c', b""), Ok(Backend::CopyDone));
        assert_eq!(parse(b'Z', b"I"), Ok(Backend::ReadyForQuery { status: b'I' }));
        assert_eq!(
            parse(b'v', &[0, 3, 0, 0, 0, 0, 0, 1, b'_', b'x', 0]),
            Ok(Backend::NegotiateProtocolVersion { version: 0x0003_0000, unknown_options: 1 })
        );
        let Ok(Backend::ParameterStatus { name, value }) = parse(b'S', b"server_version\x0017.1\0") else {
            panic!("no ParameterStatus");
        };
        assert_eq!((name, value), (Text(b"server_version"), Text(b"17.1")));
        assert_eq!(parse(b'?', b""), Err(BackendError::UnknownTag { tag: b'?' }));
        let trailing = ReadError::Trailing { offset: 0, left: 1 };
        assert_eq!(parse(b'c', b"x"), Err(BackendError::Malformed { tag: b'c', source: trailing }));
        let long = Frame { tag: b'E', body: ERROR, rest: 9 };
        assert_eq!(Backend::parse(long), Err(BackendError::TooLong { tag: b'E', rest: 9 }));
    }

    #[test]
    fn errors_are_shown_with_what_helps() {
        let Ok(Backend::Error(error)) = parse(b'E', ERROR) else { panic!("no error") };
        assert_eq!(
            error.to_error().to_string(),
            "ERROR: replication slot \"s\" is active for PID 7 (SQLSTATE 55006); detail: d; hint: h"
        );
        for cut in 0..ERROR.len() {
            assert!(parse(b'E', &ERROR[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_negotiation_that_announces_more_than_it_has_is_refused() {
        assert!(parse(b'v', &[0, 3, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, b'a', 0]).is_err());
    }
}
