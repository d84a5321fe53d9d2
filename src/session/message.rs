//! The backend's messages of the startup phase.
//!
//! Goes in: bytes as they arrive. Comes out: one [`Message`] at a time, or "not complete yet". Every length is checked
//! against a bound before anything is kept; a malformed message is a [`ProtocolError`], never a panic.

use bytes::{Buf, Bytes, BytesMut};

use super::error::ProtocolError;
use crate::wire::ServerError;

/// No message of a healthy startup comes near this (libpq's own bound for an error is 30,000).
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What the server asks for in an Authentication message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthRequest {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    /// The mechanisms offered, in the server's order.
    Sasl(Vec<String>),
    SaslContinue(Bytes),
    SaslFinal(Bytes),
    /// Something we cannot do, by name.
    Unsupported(&'static str),
}

/// A message of the startup phase; what we need not understand is [`Message::Other`].
#[derive(Debug)]
pub enum Message {
    Authentication(AuthRequest),
    ParameterStatus {
        name: String,
        value: String,
    },
    BackendKeyData {
        process_id: u32,
        secret: Bytes,
    },
    NegotiateProtocolVersion,
    ReadyForQuery,
    Error(ServerError),
    Notice,
    /// The first column of a row, as text.
    DataRow(Option<String>),
    Other(u8),
}

/// Takes the first message off `buffer`; `None` if it is not complete yet.
pub fn take(buffer: &mut BytesMut) -> Result<Option<Message>, ProtocolError> {
    let Some((&tag, rest)) = buffer.split_first() else {
        return Ok(None);
    };
    let Some(length) = rest.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    let length = usize::try_from(length).ok().filter(|length| (4..=MESSAGE_BYTES_MAX).contains(length));
    let Some(length) = length else {
        return Err(ProtocolError::Length { tag, max: MESSAGE_BYTES_MAX });
    };
    if rest.len() < length {
        return Ok(None);
    }
    let mut message = buffer.split_to(length + 1).freeze();
    message.advance(5);
    read(tag, message).map(Some)
}

fn read(tag: u8, mut body: Bytes) -> Result<Message, ProtocolError> {
    let malformed = ProtocolError::Malformed { tag };
    let message = match tag {
        b'R' => Message::Authentication(read_authentication(body)?),
        b'S' => {
            let pair = take_text(&mut body).zip(take_text(&mut body));
            let (name, value) = pair.filter(|_| body.is_empty()).ok_or(malformed)?;
            Message::ParameterStatus { name, value }
        }
        b'K' => {
            let process_id = body.try_get_u32().map_err(|_| malformed)?;
            Message::BackendKeyData { process_id, secret: body }
        }
        b'v' => Message::NegotiateProtocolVersion,
        b'Z' => Message::ReadyForQuery,
        b'E' => Message::Error(read_fields(body)),
        b'N' => Message::Notice,
        b'D' => Message::DataRow(read_first_column(body).ok_or(malformed)?),
        other => Message::Other(other),
    };
    Ok(message)
}

fn read_authentication(mut body: Bytes) -> Result<AuthRequest, ProtocolError> {
    let malformed = ProtocolError::Malformed { tag: b'R' };
    let kind = body.try_get_u32().map_err(|_| malformed)?;
    let request = match kind {
        0 => AuthRequest::Ok,
        2 => AuthRequest::Unsupported("Kerberos V5"),
        3 => AuthRequest::Cleartext,
        5 => {
            let malformed = ProtocolError::Malformed { tag: b'R' };
            AuthRequest::Md5(body.first_chunk::<4>().copied().ok_or(malformed)?)
        }
        6 => AuthRequest::Unsupported("SCM credentials"),
        7 | 8 => AuthRequest::Unsupported("GSSAPI"),
        9 => AuthRequest::Unsupported("SSPI"),
        10 => {
            let mut mechanisms = Vec::new();
            while let Some(mechanism) = take_text(&mut body).filter(|name| !name.is_empty()) {
                mechanisms.push(mechanism);
            }
            AuthRequest::Sasl(mechanisms)
        }
        11 => AuthRequest::SaslContinue(body),
        12 => AuthRequest::SaslFinal(body),
        _ => AuthRequest::Unsupported("a method that is not known"),
    };
    Ok(request)
}

/// A text up to its zero byte. Servers may answer in any encoding before ours is agreed on, so it is read leniently.
fn take_text(body: &mut Bytes) -> Option<String> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let text = body.split_to(end);
    body.advance(1);
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Reads the fields of an ErrorResponse or NoticeResponse as far as they can be read.
fn read_fields(mut body: Bytes) -> ServerError {
    let mut error = ServerError::default();
    while let Ok(field) = body.try_get_u8() {
        let Some(value) = take_text(&mut body) else {
            break;
        };
        match field {
            b'S' if error.severity.is_empty() => error.severity = value,
            b'V' => error.severity = value,
            b'C' => error.sqlstate = value,
            b'M' => error.message = value,
            b'D' => error.detail = value,
            b'H' => error.hint = value,
            _ => {}
        }
    }
    error
}

/// `Some(None)` is NULL or a row without columns, `None` a malformed row.
fn read_first_column(mut body: Bytes) -> Option<Option<String>> {
    let columns = body.try_get_u16().ok()?;
    if columns == 0 {
        return Some(None);
    }
    match body.try_get_i32().ok()? {
        -1 => Some(None),
        length => {
            let value = body.get(..usize::try_from(length).ok()?)?;
            Some(Some(String::from_utf8_lossy(value).into_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_one(bytes: &[u8]) -> Result<Option<Message>, ProtocolError> {
        take(&mut BytesMut::from(bytes))
    }

    #[test]
    fn an_incomplete_message_waits_and_an_oversized_one_fails_at_once() {
        let whole = b"S\0\0\0\x08a\0b\0";
        for end in 0..whole.len() {
            assert!(take_one(&whole[..end]).unwrap().is_none(), "{end}");
        }
        assert!(
            matches!(take_one(whole).unwrap(), Some(Message::ParameterStatus { name, value }) if name == "a" && value == "b")
        );
        assert!(take_one(b"R\x7f\xff\xff\xff").is_err());
        assert!(take_one(b"R\0\0\0\x03").is_err());
        assert!(take_one(b"HTTP/1.1 400 Bad Request\r\n").is_err());
    }

    #[test]
    fn malformed_messages_are_errors() {
        for bytes in [
            &b"S\0\0\0\x04"[..],
            b"S\0\0\0\x06a\0",
            b"S\0\0\0\x09a\0b\0c",
            b"K\0\0\0\x06\0\0",
            b"R\0\0\0\x06\0\0",
            b"R\0\0\0\x0a\0\0\0\x05ab",
            b"D\0\0\0\x0a\0\x01\0\0\0\x09",
            b"D\0\0\0\x0a\0\x01\xff\xff\xff\x00",
        ] {
            assert!(take_one(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn error_fields_are_read_leniently() {
        let error = take_one(b"E\0\0\0\x1bSFATAL\0C28P01\0Mno\xff\0Hh\0\0").unwrap();
        let Some(Message::Error(error)) = error else { panic!("not an error") };
        assert_eq!((error.severity.as_str(), error.sqlstate.as_str()), ("FATAL", "28P01"));
        assert_eq!(error.message, "no\u{fffd}");
        assert_eq!(error.hint, "h");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>, tag in proptest::sample::select(b"RSKvZENDT".as_slice())) {
            let length = u32::try_from(bytes.len() + 4).unwrap().to_be_bytes();
            let _ = take_one(&[&[tag], &length[..], &bytes].concat());
            let _ = take_one(&bytes);
        }
    }
}
