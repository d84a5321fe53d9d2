//! What a client sends, read through the checked reader.
//!
//! In: bytes. Out: a [`Request`], with no more in it than the console needs, or a [`Violation`] after which the
//! connection is not worth going on with. Every length is bounded before anything is kept.

use pgwire::api::results::FieldFormat;

use crate::wire::{FrameError, Limits, ReadError, Reader, Scanner};

/// The longest message that is read: psql's own queries have some kilobytes.
pub(super) const MESSAGE_MAX: usize = 64 * 1024;

/// As PostgreSQL's `MAX_STARTUP_PACKET_LENGTH`.
const STARTUP_MAX: usize = 10_000;

/// The longest name of a prepared statement or portal.
const NAME_MAX: usize = 256;

const CODE_SSL: u32 = 80_877_103;
const CODE_GSS: u32 = 80_877_104;
const CODE_CANCEL: u32 = 80_877_102;

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("invalid length of startup packet: {0}")]
    StartupLength(u32),
    #[error("unsupported frontend protocol {major}.{minor}: this console speaks 3.0")]
    Version { major: u32, minor: u32 },
    #[error("invalid frontend message: {0}")]
    Frame(#[from] FrameError),
    #[error("invalid frontend message: {0}")]
    Read(#[from] ReadError),
    #[error("invalid frontend message type {0}")]
    Type(u8),
    #[error("the name of a statement or portal is longer than {NAME_MAX} bytes")]
    Name,
}

/// What a connection begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// It asks for TLS or GSSAPI, which is refused with one byte.
    Encryption,
    /// It wants a query of another connection cancelled: there is nothing to cancel.
    Cancel,
    Startup {
        /// The minor version of protocol 3 it would like.
        minor: u32,
        database: String,
        /// Options of the protocol that we do not know.
        unknown: Vec<String>,
    },
}

/// Which of the two kinds of named things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Statement,
    Portal,
}

/// One message of an open connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Query(String),
    Parse {
        name: String,
        text: String,
        parameters: u16,
    },
    Bind {
        portal: String,
        statement: String,
        parameters: u16,
        formats: Vec<FieldFormat>,
    },
    Describe {
        what: Named,
        name: String,
    },
    Execute {
        portal: String,
        rows_max: i32,
    },
    Close {
        what: Named,
        name: String,
    },
    Flush,
    Sync,
    Terminate,
    /// A call of a function, which no client of today sends.
    FunctionCall,
    /// Data of a COPY that is not under way; PostgreSQL ignores it too.
    Copy,
}

/// Reads the first message. Returns it with its length, or `None` while it is not whole.
pub(super) fn opening(bytes: &[u8]) -> Result<Option<(Opening, usize)>, Violation> {
    let mut reader = Reader::new(bytes);
    let Ok(announced) = reader.u32() else { return Ok(None) };
    let length = usize::try_from(announced).unwrap_or(usize::MAX);
    if !(8..=STARTUP_MAX).contains(&length) {
        return Err(Violation::StartupLength(announced));
    }
    let Some(body) = bytes.get(4..length) else { return Ok(None) };
    let mut reader = Reader::new(body);
    let opening = match reader.u32()? {
        CODE_SSL | CODE_GSS => Opening::Encryption,
        CODE_CANCEL => Opening::Cancel,
        version if version >> 16 == 3 => startup(reader, version & 0xFFFF)?,
        version => return Err(Violation::Version { major: version >> 16, minor: version & 0xFFFF }),
    };
    Ok(Some((opening, length)))
}

fn startup(mut reader: Reader<'_>, minor: u32) -> Result<Opening, Violation> {
    let (mut user, mut database, mut unknown) = (String::new(), None, Vec::new());
    loop {
        let name = reader.cstr()?.lossy().into_owned();
        if name.is_empty() {
            break;
        }
        let value = reader.cstr()?.lossy().into_owned();
        match name.as_str() {
            "user" => user = value,
            "database" => database = Some(value),
            _ if name.starts_with("_pq_.") => unknown.push(name),
            _ => {}
        }
    }
    Ok(Opening::Startup { minor, database: database.unwrap_or(user), unknown })
}

/// Reads one message from the start of `bytes`. Returns it with its length, or `None` while it is not whole.
pub(super) fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, Violation> {
    // A type that does not exist is refused before its length is waited for.
    if let Some(tag) = bytes.first().filter(|tag| !b"QPBDECHSXFdcf".contains(tag)) {
        return Err(Violation::Type(*tag));
    }
    let mut scanner = Scanner::new(Limits { body: MESSAGE_MAX, window: MESSAGE_MAX });
    let mut frames = scanner.scan(bytes);
    let Some(frame) = frames.next() else { return Ok(None) };
    let frame = frame?;
    let request = decode(frame.tag, Reader::new(frame.body))?;
    Ok(Some((request, frames.consumed())))
}

fn decode(tag: u8, mut reader: Reader<'_>) -> Result<Request, Violation> {
    let request = match tag {
        b'Q' => Request::Query(reader.cstr()?.lossy().into_owned()),
        b'P' => {
            let (name, text) = (name(&mut reader)?, reader.cstr()?.lossy().into_owned());
            let parameters = reader.u16()?;
            for _ in 0..parameters {
                reader.u32()?;
            }
            Request::Parse { name, text, parameters }
        }
        b'B' => bind(&mut reader)?,
        b'D' => Request::Describe { what: named(&mut reader)?, name: name(&mut reader)? },
        b'E' => Request::Execute { portal: name(&mut reader)?, rows_max: reader.i32()? },
        b'C' => Request::Close { what: named(&mut reader)?, name: name(&mut reader)? },
        b'H' => Request::Flush,
        b'S' => Request::Sync,
        b'X' => Request::Terminate,
        b'F' => return Ok(Request::FunctionCall),
        b'd' | b'c' | b'f' => return Ok(Request::Copy),
        other => return Err(Violation::Type(other)),
    };
    reader.finish()?;
    Ok(request)
}

fn bind(reader: &mut Reader<'_>) -> Result<Request, Violation> {
    let (portal, statement) = (name(reader)?, name(reader)?);
    for _ in 0..reader.u16()? {
        reader.u16()?;
    }
    let parameters = reader.u16()?;
    for _ in 0..parameters {
        let mut null = *reader;
        if null.i32()? == -1 {
            *reader = null;
        } else {
            reader.counted()?;
        }
    }
    let wanted = reader.u16()?;
    let mut formats = Vec::new();
    for _ in 0..wanted {
        let at = *reader;
        formats.push(match reader.i16()? {
            0 => FieldFormat::Text,
            1 => FieldFormat::Binary,
            other => return Err(at.value("a format code of 0 or 1", i64::from(other)).into()),
        });
    }
    Ok(Request::Bind { portal, statement, parameters, formats })
}

fn named(reader: &mut Reader<'_>) -> Result<Named, Violation> {
    let at = *reader;
    match reader.u8()? {
        b'S' => Ok(Named::Statement),
        b'P' => Ok(Named::Portal),
        other => Err(at.value("S or P", i64::from(other)).into()),
    }
}

fn name(reader: &mut Reader<'_>) -> Result<String, Violation> {
    let text = reader.cstr()?;
    if text.as_bytes().len() > NAME_MAX {
        return Err(Violation::Name);
    }
    Ok(text.lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag][..], &length, body].concat()
    }

    fn startup_packet(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 8).unwrap().to_be_bytes();
        [&length[..], &code.to_be_bytes(), body].concat()
    }

    #[test]
    fn a_connection_begins_in_one_of_three_ways() {
        let packet = startup_packet(3 << 16 | 2, b"user\0bob\0_pq_.x\0y\0options\0z\0\0");
        let expected =
            Opening::Startup { minor: 2, database: "bob".to_owned(), unknown: vec!["_pq_.x".to_owned()] };
        assert_eq!(opening(&packet), Ok(Some((expected, packet.len()))));
        for cut in 0..packet.len() {
            assert_eq!(opening(&packet[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(opening(&startup_packet(CODE_SSL, b"")), Ok(Some((Opening::Encryption, 8))));
        assert_eq!(opening(&startup_packet(CODE_CANCEL, &[0; 8])), Ok(Some((Opening::Cancel, 16))));
        for bad in [
            startup_packet(2 << 16, b""),
            startup_packet(3 << 16, b""),
            startup_packet(3 << 16, b"user\0bob"),
            vec![0, 0, 0, 7],
            vec![0xFF; 4],
            b"GET / HTTP/1.1".to_vec(),
        ] {
            assert!(opening(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn messages_are_read_whole_or_not_at_all() {
        let parse = message(b'P', b"s\0SHOW SLOT\0\0\x01\0\0\0\x14");
        let expected = Request::Parse { name: "s".to_owned(), text: "SHOW SLOT".to_owned(), parameters: 1 };
        assert_eq!(request(&parse), Ok(Some((expected, parse.len()))));
        for cut in 0..parse.len() {
            assert_eq!(request(&parse[..cut]), Ok(None), "{cut}");
        }
        let bind = message(b'B', b"\0s\0\0\x01\0\0\0\x02\xFF\xFF\xFF\xFF\0\0\0\x01x\0\x01\0\x01");
        let expected = Request::Bind {
            portal: String::new(),
            statement: "s".to_owned(),
            parameters: 2,
            formats: vec![FieldFormat::Binary],
        };
        assert_eq!(request(&bind), Ok(Some((expected, bind.len()))));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in [
            message(b'P', b"s\0SHOW SLOT\0\xFF\xFF"),
            message(b'B', b"\0\0\0\0\0\x01\x7F\xFF\xFF\xFF"),
            message(b'B', b"\0\0\0\0\0\x01\xFF\xFF\xFF\xFE"),
            message(b'B', b"\0\0\0\0\0\0\0\x01\0\x07"),
            message(b'D', b"Xname\0"),
            message(b'Q', b"no end"),
            message(b'Q', b"one\0two\0"),
            message(b'S', b"more"),
            message(b'E', b"\0"),
            message(b'C', &[&b"S"[..], &[b'a'; 300], b"\0"].concat()),
            vec![b'Q', 0x7F, 0xFF, 0xFF, 0xFF],
            vec![b'Q', 0, 0, 0, 3],
            vec![b'p'],
            vec![0xFF],
        ] {
            assert!(request(&bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), tag in 0..13_usize) {
            let _ = opening(&bytes);
            let _ = request(&bytes);
            let _ = request(&message(b"QPBDECHSXFdcf"[tag], &bytes));
        }
    }
}
