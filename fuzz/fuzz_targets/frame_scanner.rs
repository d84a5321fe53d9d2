//! Any bytes, in any pieces: the same messages come out, or the same error; each is parsed as a server's message and
//! as replication data.
//!
//! Input: one byte for the length of the pieces, then the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use seqshadow::wire::rows::{column_names, data_row};
use seqshadow::wire::{Backend, FrameError, Limits, Replication, Scanner, StandbyStatus};

const LIMITS: Limits = Limits { body: 4096, window: 128 };

fn scan(bytes: &[u8], piece: usize) -> (Vec<(u8, Vec<u8>, usize)>, Option<FrameError>) {
    let mut scanner = Scanner::new(LIMITS);
    let (mut buffer, mut seen) = (Vec::new(), Vec::new());
    for chunk in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(chunk);
        let mut frames = scanner.scan(&buffer);
        while let Some(frame) = frames.next() {
            match frame {
                Ok(frame) => seen.push((frame.tag, frame.body.to_vec(), frame.rest)),
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(frames.wanted() <= LIMITS.window + 5);
        let consumed = frames.consumed();
        buffer.drain(..consumed);
        assert!(buffer.len() < LIMITS.window + 5, "more is held than the window");
    }
    (seen, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let whole = scan(bytes, bytes.len());
    assert_eq!(whole, scan(bytes, usize::from(piece)));

    for frame in Scanner::new(LIMITS).scan(bytes) {
        let Ok(frame) = frame else { break };
        let _ = StandbyStatus::parse(frame.body);
        match Backend::parse(frame) {
            Ok(Backend::CopyData(body)) => {
                let _ = Replication::parse(body);
            }
            Ok(Backend::Error(error)) => drop(error.to_error().to_string()),
            Ok(Backend::RowDescription(body)) => drop(column_names(body)),
            Ok(Backend::DataRow(body)) => drop(data_row(body)),
            _ => {}
        }
    }
});
