//! Writes the committed captures as first inputs of the fuzz targets; `fuzz/seeds.sh` starts it.
//!
//!     fuzz-seeds DIRECTORY
//!
//! The shapes of the inputs are described at the head of each file in `fuzz/fuzz_targets`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use proto_tests::capture::{self, Capture};
use proto_tests::encode;
use seqshadow::pgoutput::Streaming;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args().nth(1).context("expected a directory")?;
    let directory = Path::new(&directory);
    for target in ["frame_scanner", "pgoutput_decode", "stream_tap"] {
        std::fs::create_dir_all(directory.join(target))?;
    }
    let mut kinds = BTreeSet::new();
    for (name, capture) in capture::all()? {
        let choice = choice(&capture)?;
        // Streams are cut into pieces: short inputs are what a fuzzer makes headway with.
        for (piece, records) in (0u32..).zip(capture.records.chunks(40)) {
            let (mut frames, mut stream) = (vec![100], vec![choice]);
            for record in records.iter().filter(|record| record.payload.len() < 0x7FFF) {
                let length = u16::try_from(record.payload.len())?;
                stream.extend_from_slice(&length.to_be_bytes());
                stream.extend_from_slice(&record.payload);
                frames.extend_from_slice(&encode::copy_data(record.start.0, &record.payload));
            }
            std::fs::write(directory.join("stream_tap").join(format!("{name}-{piece}")), stream)?;
            std::fs::write(directory.join("frame_scanner").join(format!("{name}-{piece}")), frames)?;
        }
        let mut in_stream = false;
        for (at, record) in (0u32..).zip(&capture.records) {
            let Some(&tag) = record.payload.first() else { continue };
            if kinds.insert((tag, in_stream, choice, record.payload.len() / 40)) {
                let context = choice | if in_stream { 0x80 } else { 0 };
                let input = [&[context], record.payload.as_slice()].concat();
                std::fs::write(directory.join("pgoutput_decode").join(format!("{name}-{at}")), input)?;
            }
            in_stream = tag == b'S' || (in_stream && tag != b'E');
        }
    }
    Ok(())
}

/// Version and streaming as the targets read them.
fn choice(capture: &Capture) -> anyhow::Result<u8> {
    let (version, streaming) = capture.protocol()?;
    let streaming = match streaming {
        Streaming::Off => 0,
        Streaming::On => 1,
        Streaming::Parallel => 2,
    };
    Ok((version.number() - 1) | (streaming << 2))
}
