//! A file is read as it was written, or refused: whatever was changed, cut off, added or made up.

use std::convert::Infallible;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use proptest::prelude::*;

use super::place::{Place, PlaceError};
use super::redact::Redactor;
use super::replay::{ReplayError, Replayed, replay};
use super::*;
use crate::pgoutput::{IdFormat, ProtocolVersion, Streaming};
use crate::publisher::connection::StreamOptions;
use crate::tracking::{Tracking, Watched};
use crate::types::QualifiedName;

fn tracking() -> Arc<Tracking> {
    let watched = |column: &str, slot, format| Watched { column: column.to_owned(), slot, format };
    let affix = IdFormat::Affix { prefix: b"ORD-".as_slice().into(), suffix: b"".as_slice().into() };
    let mut tracking = Tracking { descending: vec![false, true, false], ..Tracking::default() };
    let orders = QualifiedName::new("public", "orders");
    let columns = vec![watched("id", 0, IdFormat::Integer), watched("code", 1, affix)];
    tracking.tables.insert(orders.clone(), columns);
    tracking.restarts.insert(orders, vec![0]);
    Arc::new(tracking)
}

fn header(redacted: bool) -> Header {
    let options = StreamOptions::for_server(170_000, Streaming::On, vec!["pub".to_owned()]);
    let names = ["orders_id_seq", "code_seq", "third"].map(|name| QualifiedName::new("public", name));
    Header::new(&options, 170_000, redacted, &names, &tracking())
}

fn xlog(payload: &[u8]) -> Vec<u8> {
    let mut body = vec![b'w'];
    for number in [100u64, 100, 7] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    body.extend_from_slice(payload);
    body
}

fn relation() -> Vec<u8> {
    let mut message = vec![b'R'];
    message.extend_from_slice(&7u32.to_be_bytes());
    message.extend_from_slice(b"public\0orders\0d\0\x03");
    for (name, type_oid) in [("id", 20u32), ("code", 25), ("note", 25)] {
        message.push(0);
        message.extend_from_slice(name.as_bytes());
        message.push(0);
        message.extend_from_slice(&type_oid.to_be_bytes());
        message.extend_from_slice(&(-1i32).to_be_bytes());
    }
    message
}

fn insert(values: &[(u8, &[u8])]) -> Vec<u8> {
    let mut message = vec![b'I', 0, 0, 0, 7, b'N'];
    message.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
    for (kind, value) in values {
        message.push(*kind);
        if matches!(kind, b't' | b'b') {
            message.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            message.extend_from_slice(value);
        }
    }
    message
}

fn begin() -> Vec<u8> {
    let mut message = vec![b'B'];
    message.extend_from_slice(&200u64.to_be_bytes());
    message.extend_from_slice(&[0; 12]);
    message
}

fn commit() -> Vec<u8> {
    let mut message = vec![b'C', 0];
    message.extend_from_slice(&200u64.to_be_bytes());
    message.extend_from_slice(&208u64.to_be_bytes());
    message.extend_from_slice(&[0; 8]);
    message
}

/// Two rows between a Begin and a Commit, and a keepalive.
fn stream() -> Vec<Vec<u8>> {
    let mut keepalive = vec![b'k'];
    keepalive.extend_from_slice(&300u64.to_be_bytes());
    keepalive.extend_from_slice(&[0; 9]);
    vec![
        xlog(&begin()),
        xlog(&relation()),
        xlog(&insert(&[(b't', b"41"), (b't', b"ORD-7"), (b't', b"secret")])),
        xlog(&insert(&[(b't', b"42"), (b't', b"other"), (b'n', b"")])),
        xlog(&commit()),
        keepalive,
    ]
}

fn file_of(header: &Header, bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = CaptureWriter::begin(Vec::new(), header).unwrap();
    for (index, body) in bodies.iter().enumerate() {
        writer.record(250, body, 0).unwrap();
        if index == 2 {
            writer.flush().unwrap(); // two blocks
        }
    }
    let ending = Ending { why: "asked".to_owned(), ..Ending::default() };
    writer.end(&ending).unwrap().0
}

fn file() -> Vec<u8> {
    file_of(&header(false), &stream())
}

/// What of a result does not depend on the clock.
fn essence(replayed: &Replayed) -> String {
    format!("{:?} {:?} {:?} {}", replayed.marks, replayed.kinds, replayed.committed_lsn, replayed.messages)
}

fn count(replayed: &Replayed, message: &str) -> u64 {
    replayed.kinds.iter().find(|kind| kind.message == message).map_or(0, |kind| kind.count)
}

#[derive(Debug)]
struct Error(ReplayError);

impl From<ReplayError> for Error {
    fn from(error: ReplayError) -> Self {
        Error(error)
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn replayed(bytes: &[u8], loops: u32, partial: bool) -> Result<Replayed, ReplayError> {
    replay("file", loops, partial, || Ok::<_, Error>(Cursor::new(bytes))).map_err(|error| error.0)
}

#[test]
fn what_was_recorded_is_replayed_in_every_loop() {
    let once = replayed(&file(), 1, false).unwrap();
    let marks: Vec<_> = once.marks.iter().map(|mark| (mark.sequence.as_str(), mark.furthest_id)).collect();
    assert_eq!(marks, [("public.code_seq", Some(7)), ("public.orders_id_seq", Some(42))]);
    assert_eq!((once.messages, once.rows, once.committed_lsn.as_str()), (5, 3, "0/12C"));
    assert_eq!(count(&once, "Insert"), 2);
    assert_eq!((once.ended.as_deref(), once.recorded_seconds), (Some("asked"), 0.0015));
    let thrice = replayed(&file(), 3, false).unwrap();
    assert_eq!(essence(&thrice), essence(&once));
    assert_eq!(header(false).tracking().tables, tracking().tables);
    assert_eq!(header(false).tracking().restarts, tracking().restarts);
}

#[test]
fn every_flipped_bit_is_found() {
    let right = file();
    for at in 0..right.len() {
        for bit in 0..8 {
            let mut wrong = right.clone();
            wrong[at] ^= 1 << bit;
            for partial in [false, true] {
                let found = replayed(&wrong, 1, partial);
                // A length that became greater looks like a file that is cut off: what comes before it was proven.
                let ends_early = partial && found.as_ref().is_ok_and(|found| found.ended.is_none());
                assert!(found.is_err() || ends_early, "byte {at} bit {bit}: {found:?}");
            }
        }
    }
}

#[test]
fn every_truncation_is_found_and_whole_blocks_can_be_had() {
    let right = file();
    let whole = essence(&replayed(&right, 1, false).unwrap());
    let mut had = Vec::new();
    for end in 0..right.len() {
        let cut = right.get(..end).unwrap();
        let error = replayed(cut, 1, false).unwrap_err().to_string();
        assert!(error.starts_with("byte "), "{error}");
        if let Ok(found) = replayed(cut, 1, true) {
            assert_eq!(found.ended, None, "cut at {end}");
            had.push(found.messages);
            assert!(found.messages < 5 || essence(&found) == whole, "cut at {end}");
        }
    }
    had.dedup();
    assert_eq!(had, [0, 3, 5], "up to the last whole block");
}

#[test]
fn blocks_that_are_left_out_repeated_or_added_are_found() {
    let right = file();
    let one = file_of(&header(false), &stream()[..3]);
    // The first block ends where the shorter file's end begins.
    let same = right.iter().zip(&one).take_while(|(a, b)| a == b).count();
    let header_end = {
        let length = u32::from_be_bytes(right[21..25].try_into().unwrap());
        25 + usize::try_from(length).unwrap() + DIGEST
    };
    assert!(same > header_end);
    let without = [&right[..header_end], &right[same..]].concat();
    let twice = [&right[..same], &right[header_end..]].concat();
    let more = [&right[..], b"x"].concat();
    for wrong in [&without, &twice, &more] {
        let error = replayed(wrong, 1, true).unwrap_err();
        assert!(matches!(error, ReplayError::Capture(_)), "{error}");
    }
}

#[test]
fn an_error_names_byte_expectation_and_find() {
    let error = |bytes: &[u8]| replayed(bytes, 1, false).unwrap_err().to_string();
    assert!(error(b"").contains("byte 0: expected a capture of seqshadow"), "{}", error(b""));
    let other = error(b"PGCOPY\n\xff\r\n\0 and more than that");
    assert!(other.contains("got \"PGCOPY"), "{other}");
    let mut newer = file();
    newer[19] = 2;
    assert!(error(&newer).contains("byte 16: expected format version 1 to 1, got 2"), "{}", error(&newer));
    let right = file();
    let cut = error(&right[..right.len() - 1]);
    assert!(
        cut.contains(&format!("byte {}: expected 32 bytes of checksum, got only 31", right.len() - 32)),
        "{cut}"
    );
    let row_first = file_of(&header(false), &stream()[2..]);
    let undecodable = error(&row_first);
    assert!(undecodable.contains("cannot be decoded") && undecodable.starts_with("byte "), "{undecodable}");
}

#[test]
fn a_message_longer_than_the_window_costs_no_more_than_the_window() {
    let id = insert(&[(b't', b"43"), (b'n', b""), (b't', &vec![b'v'; WINDOW + 5000])]);
    let long = xlog(&id);
    let (kept, rest) = long.split_at(WINDOW);
    let mut writer = CaptureWriter::begin(Vec::new(), &header(false)).unwrap();
    for body in [xlog(&begin()), xlog(&relation())] {
        writer.record(0, &body, 0).unwrap();
    }
    writer.record(0, kept, rest.len()).unwrap();
    writer.record(0, &xlog(&commit()), 0).unwrap();
    let (bytes, ending) = writer.end(&Ending::default()).unwrap();
    assert!(bytes.len() < WINDOW + 3000);
    assert!(ending.bytes > u64::try_from(long.len()).unwrap());
    let found = replayed(&bytes, 2, false).unwrap();
    assert_eq!((found.marks[0].furthest_id, count(&found, "Commit")), (Some(43), 1));
    assert!(found.bytes > u64::try_from(long.len()).unwrap());

    let mut redactor = Redactor::new(ProtocolVersion::V4, Streaming::On, tracking());
    let mut out = Vec::new();
    for body in [xlog(&begin()), xlog(&relation())] {
        redactor.redact(&body, 0, &mut out).unwrap();
    }
    // Wherever it is cut, nothing of the value is left.
    for cut in 60..kept.len().min(120) {
        redactor.redact(&kept[..cut], long.len() - cut, &mut out).unwrap();
        assert_eq!(out.len(), cut);
        assert!(!out.contains(&b'v'), "cut at {cut}");
    }
}

fn redacted(bodies: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut redactor = Redactor::new(ProtocolVersion::V4, Streaming::On, tracking());
    let redact = |body: &Vec<u8>| {
        let mut out = Vec::new();
        redactor.redact(body, 0, &mut out).unwrap();
        assert_eq!(out.len(), body.len());
        out
    };
    bodies.iter().map(redact).collect()
}

#[test]
fn redaction_keeps_ids_and_lengths_and_nothing_else() {
    let clean = redacted(&stream());
    let expected = xlog(&insert(&[(b't', b"41"), (b't', b"ORD-7"), (b't', b"xxxxxx")]));
    assert_eq!(clean[2], expected);
    // What is in a tracked column and no id goes, too.
    assert_eq!(clean[3], xlog(&insert(&[(b't', b"42"), (b't', b"xxxxx"), (b'n', b"")])));
    for unchanged in [0, 1, 4, 5] {
        assert_eq!(clean[unchanged], stream()[unchanged]);
    }
    let before = replayed(&file(), 1, false).unwrap();
    let after = replayed(&file_of(&header(true), &clean), 1, false).unwrap();
    assert_eq!(essence(&after), essence(&before));
}

#[test]
fn redaction_covers_old_rows_binary_values_and_logical_messages() {
    let bodies = |last: Vec<u8>| vec![xlog(&begin()), xlog(&relation()), xlog(&last)];
    let last = |message: Vec<u8>| redacted(&bodies(message)).pop().unwrap();
    let row = insert(&[(b't', b"1"), (b'u', b""), (b't', b"secret")]);
    let mut update = vec![b'U', 0, 0, 0, 7, b'O'];
    update.extend_from_slice(&row[6..]);
    update.extend_from_slice(&row[5..]);
    let clean = last(update);
    assert!(!clean.windows(6).any(|window| window == b"secret"));
    assert_eq!(clean.windows(6).filter(|window| *window == b"xxxxxx").count(), 2);

    let id = 77i64.to_be_bytes();
    let clean = last(insert(&[(b'b', &id), (b'b', b"nothing"), (b'b', b"secret")]));
    // Zeros would make a number of what is none.
    assert_eq!(clean, xlog(&insert(&[(b'b', &id), (b'b', b"xxxxxxx"), (b'b', &[0; 6])])));
    let clean = last(insert(&[(b'b', b"abc"), (b'n', b""), (b'n', b"")]));
    assert_eq!(clean, xlog(&insert(&[(b'b', &[0xFF; 3]), (b'n', b""), (b'n', b"")])));

    let mut message = b"M\x01\0\0\0\0\0\0\0\x09prefix\0\0\0\0\x06".to_vec();
    message.extend_from_slice(b"secret");
    let clean = last(message.clone());
    assert!(clean.ends_with(b"prefix\0\0\0\0\x06xxxxxx"));

    let mut unknown = insert(&[(b't', b"1")]);
    unknown[4] = 8;
    let mut redactor = Redactor::new(ProtocolVersion::V4, Streaming::On, tracking());
    let refused = redactor.redact(&xlog(&unknown), 0, &mut Vec::new());
    assert!(refused.is_err(), "what is not understood is not let through");
}

#[test]
fn a_file_has_its_name_only_when_it_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = directory.path().join("orders.cap");
    let (place, file) = Place::open(&wanted, false).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!wanted.exists() && place.partial().exists());
    // Two never write one file, not even with force.
    assert!(matches!(Place::open(&wanted, true), Err(PlaceError::Busy(_))));
    place.finish(&file).unwrap();
    let names = || -> Vec<_> {
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(names(), ["orders.cap"]);
    assert!(matches!(Place::open(&wanted, false), Err(PlaceError::Exists(_))));

    let (forced, file) = Place::open(&wanted, true).unwrap();
    drop(file);
    // Interrupted: it is there, and stays until somebody says so.
    drop(forced);
    std::fs::remove_file(&wanted).unwrap();
    assert!(matches!(Place::open(&wanted, false), Err(PlaceError::Left(_))));
    let (again, file) = Place::open(&wanted, true).unwrap();
    // Somebody was faster.
    let (late, _) = (std::fs::write(&wanted, "theirs"), ());
    late.unwrap();
    again.finish(&file).unwrap();
    assert_ne!(std::fs::read(&wanted).unwrap(), b"theirs", "with force");
    std::fs::remove_file(&wanted).unwrap();
    let (slow, file) = Place::open(&wanted, false).unwrap();
    std::fs::write(&wanted, "theirs").unwrap();
    assert!(matches!(slow.finish(&file), Err(PlaceError::Exists(_))));
    assert_eq!(std::fs::read(&wanted).unwrap(), b"theirs");
}

proptest! {
    /// What has right checksums and makes no sense: an error or a result, never a panic.
    #[test]
    fn made_up_records_do_no_harm(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..8),
        messages in prop::collection::vec((0usize..6, any::<prop::sample::Index>(), any::<u8>()), 0..12),
    ) {
        let mut all: Vec<Vec<u8>> = bodies;
        for (which, at, byte) in messages {
            let mut body = stream()[which].clone();
            let at = at.index(body.len());
            body[at] = byte;
            all.push(body);
        }
        let _ = replayed(&file_of(&header(false), &all), 1, true);
        let mut redactor = Redactor::new(ProtocolVersion::V4, Streaming::On, tracking());
        let mut out = Vec::new();
        for body in &all {
            for rest in [0, 9] {
                if redactor.redact(body, rest, &mut out).is_ok() {
                    prop_assert_eq!(out.len(), body.len());
                }
            }
        }
    }

    #[test]
    fn bytes_of_any_kind_do_no_harm(start in 0usize..60, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut wrong = file();
        wrong.truncate(start);
        wrong.extend_from_slice(&bytes);
        prop_assert!(replayed(&wrong, 1, false).is_err());
    }
}
