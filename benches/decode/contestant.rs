//! What it takes to be in the race.

use bytes::BytesMut;

use crate::streams::Stream;

/// What a contestant does, and so what its figure may be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The daemon's own path.
    Ours,
    /// A crate that decodes rows.
    Decoder,
    /// A crate that splits the stream into messages, with our row walk on top.
    Framing,
}

/// Reads a stream and finds the marks.
pub trait Contestant {
    fn name(&self) -> &'static str;

    /// Reads a whole stream that lies in memory. Who needs a buffer of its own to take messages out of finds one with
    /// the same bytes in `own`; making it is not timed.
    fn memory(&mut self, stream: &[u8], own: &mut BytesMut) -> anyhow::Result<()>;

    /// Whether `own` is to be filled.
    fn wants_own(&self) -> bool {
        true
    }

    /// Takes the next piece of a stream as a read of the socket gives it, cut anywhere: copies it to where it reads
    /// from, and reads every whole message.
    fn piece(&mut self, piece: &[u8]) -> anyhow::Result<()>;

    /// The largest id of every slot since the last call.
    fn marks(&mut self) -> Vec<Option<i64>>;
}

/// Reads all of `bytes` in pieces.
pub fn in_pieces(contestant: &mut dyn Contestant, bytes: &[u8], piece: usize) -> anyhow::Result<()> {
    bytes.chunks(piece).try_for_each(|piece| contestant.piece(piece))
}

/// A decoder that takes messages out of a buffer.
pub trait Decoder {
    const NAME: &'static str;

    /// Reads every whole message of `buffer` and leaves the rest in it.
    fn take(&mut self, buffer: &mut BytesMut) -> anyhow::Result<()>;

    fn marks(&mut self) -> Vec<Option<i64>>;
}

/// Makes a [`Decoder`] a [`Contestant`].
pub struct Buffered<D> {
    decoder: D,
    buffer: BytesMut,
}

impl<D: Decoder + 'static> Buffered<D> {
    /// For a connection that has read the stream's preamble.
    pub fn start(decoder: D, stream: &Stream) -> anyhow::Result<Box<dyn Contestant>> {
        let mut buffered = Buffered { decoder, buffer: BytesMut::new() };
        buffered.piece(&stream.preamble)?;
        Ok(Box::new(buffered))
    }
}

impl<D: Decoder> Contestant for Buffered<D> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn memory(&mut self, _: &[u8], own: &mut BytesMut) -> anyhow::Result<()> {
        self.decoder.take(own)
    }

    fn piece(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.buffer.reserve(piece.len());
        self.buffer.extend_from_slice(piece);
        self.decoder.take(&mut self.buffer)
    }

    fn marks(&mut self) -> Vec<Option<i64>> {
        self.decoder.marks()
    }
}

/// The next CopyData of `buffer`, from its tag on, if it is there as a whole: for crates that read messages but leave
/// it to others to find them. This is the cheapest way to do so.
#[inline]
pub fn next_frame(bytes: &[u8]) -> Option<usize> {
    let (header, _) = bytes.split_first_chunk::<5>()?;
    let [_, length @ ..] = *header;
    let end = 1 + u32::from_be_bytes(length) as usize;
    (bytes.len() >= end).then_some(end)
}

/// Bytes before the payload: tag and length of CopyData, tag and 24 bytes of XLogData.
pub const BEFORE_PAYLOAD: usize = 30;
