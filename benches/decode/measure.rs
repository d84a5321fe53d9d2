//! One pass of one contestant over one stream, timed, and the best of all passes.
//!
//! Only minima are compared: whatever else the machine does makes a pass slower, never faster.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::BytesMut;

use crate::contestant::{Contestant, in_pieces};
use crate::streams::Stream;

/// What a read of the socket gives.
pub const PIECE: usize = 64 << 10;

/// How the bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// All of them lie in memory and are read there.
    Memory,
    /// In reads of 64 KiB, each copied into the contestant's buffer first.
    Reads,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Shape::Memory => "in memory",
            Shape::Reads => "in reads of 64 KiB",
        }
    }
}

/// Reads the stream once; how long it took. Finding other marks than are in it is an error.
pub fn pass(contestant: &mut dyn Contestant, stream: &Stream, shape: Shape) -> anyhow::Result<Duration> {
    let wants_own = shape == Shape::Memory && contestant.wants_own();
    let mut own = if wants_own { BytesMut::from(&stream.bytes[..]) } else { BytesMut::new() };
    let begin = Instant::now();
    match shape {
        Shape::Memory => contestant.memory(black_box(&stream.bytes), &mut own)?,
        Shape::Reads => in_pieces(contestant, black_box(&stream.bytes), PIECE)?,
    }
    let took = begin.elapsed();
    ensure!(own.is_empty(), "{} left {} bytes of {}", contestant.name(), own.len(), stream.name);
    check(contestant, stream)?;
    Ok(took)
}

/// Reads `bytes`, which are those of the stream at another place, in reads of 64 KiB; as [`pass`].
pub fn pass_over(contestant: &mut dyn Contestant, stream: &Stream, bytes: &[u8]) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    in_pieces(contestant, black_box(bytes), PIECE)?;
    let took = begin.elapsed();
    check(contestant, stream)?;
    Ok(took)
}

/// Whether it found what is there.
pub fn check(contestant: &mut dyn Contestant, stream: &Stream) -> anyhow::Result<()> {
    let found = contestant.marks();
    if found != stream.expected {
        let pairs = found.iter().zip(&stream.expected).enumerate();
        let first = pairs.filter(|(_, (found, expected))| found != expected).take(3).collect::<Vec<_>>();
        let name = contestant.name();
        anyhow::bail!("{name} found other marks in {}: (slot, (found, expected)) {first:?}", stream.name);
    }
    Ok(())
}

/// The sum of all 64-bit words: the least that can be done with every byte.
pub fn memory_sum(bytes: &[u8]) -> Duration {
    let begin = Instant::now();
    let (words, _) = black_box(bytes).as_chunks::<8>();
    black_box(words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word))));
    begin.elapsed()
}

/// A copy of everything to where nothing has to be allocated.
pub fn memcpy(bytes: &[u8], into: &mut [u8]) -> Duration {
    let begin = Instant::now();
    black_box(&mut *into).copy_from_slice(black_box(bytes));
    begin.elapsed()
}

/// The shortest time of each contestant for one pass over each stream.
#[derive(Debug, Default)]
pub struct Best {
    passes: BTreeMap<(String, Shape, &'static str), Figure>,
}

/// A pass.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub seconds: f64,
    pub messages: f64,
    pub bytes: f64,
}

impl Figure {
    pub fn ns_per_message(&self) -> f64 {
        self.seconds * 1e9 / self.messages
    }

    pub fn messages_per_second(&self) -> f64 {
        self.messages / self.seconds
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.bytes / self.seconds
    }
}

impl Best {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub fn note(&mut self, stream: &Stream, shape: Shape, contestant: &'static str, took: Duration) {
        let seconds = took.as_secs_f64();
        let figure = Figure { seconds, messages: stream.messages as f64, bytes: stream.bytes.len() as f64 };
        let known = self.passes.entry((stream.name.clone(), shape, contestant)).or_insert(figure);
        known.seconds = known.seconds.min(seconds);
    }

    pub fn get(&self, stream: &str, shape: Shape, contestant: &'static str) -> Option<Figure> {
        self.passes.get(&(stream.to_owned(), shape, contestant)).copied()
    }

    pub fn all(&self) -> impl Iterator<Item = (&str, Shape, &'static str, Figure)> {
        self.passes.iter().map(|((stream, shape, name), figure)| (stream.as_str(), *shape, *name, *figure))
    }
}
