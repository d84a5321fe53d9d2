//! Finds whole messages in a growing buffer.
//!
//! In: whatever bytes the socket has delivered so far. Out: [`Frame`]s that borrow from that buffer, and how many
//! bytes they took; half a message is not an error, it waits. Never: copies, allocates, or asks for more than
//! [`Limits::window`] bytes of one message: of a longer one the first `window` bytes are handed out and the rest is
//! passed over as it comes, so that a row of 1 GB costs no more memory than a row of 1 MB.
//!
//! ```
//! use seqshadow::wire::{Limits, Scanner};
//!
//! let mut scanner = Scanner::new(Limits::default());
//! let buffer = [b'c', 0, 0, 0, 4, b'Z', 0];
//! let mut frames = scanner.scan(&buffer);
//! assert_eq!(frames.next().unwrap()?.tag, b'c');
//! assert!(frames.next().is_none());
//! assert_eq!(frames.consumed(), 5); // drop these, read more, scan again
//! # Ok::<(), seqshadow::wire::FrameError>(())
//! ```

/// Bytes before a body: the tag and a 32-bit length that counts itself.
pub const HEADER_BYTES: usize = 5;

/// The most that PostgreSQL puts into one message: `MaxAllocSize` of `src/include/utils/memutils.h`.
pub const POSTGRES_BODY_BYTES_MAX: usize = 0x3FFF_FFFF;

/// How much of a peer's message is believed, and how much of it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A longer body is refused: the peer is broken or no PostgreSQL.
    pub body: usize,
    /// Of a longer body only so many bytes are handed out. Every message that is not a row or a logical message is
    /// far shorter: a Relation of 1600 columns has some 120 kB.
    pub window: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { body: POSTGRES_BODY_BYTES_MAX, window: 1 << 20 }
    }
}

/// Why the bytes are not a sequence of messages. The connection cannot be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("message {tag:?}: expected a length of at least 4, got {got}", tag = char::from(*.tag))]
    Length { tag: u8, got: i32 },
    #[error("message {tag:?}: expected at most {limit} bytes, got {got}", tag = char::from(*.tag))]
    TooLong { tag: u8, got: usize, limit: usize },
}

/// One message of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub tag: u8,
    /// What follows the length; of a long message only its first [`Limits::window`] bytes.
    pub body: &'a [u8],
    /// Bytes of the message after `body`, zero for all but long ones. They never are handed out.
    pub rest: usize,
}

/// Remembers between two looks at the buffer how much of a long message is still to be passed over.
#[derive(Clone, Debug)]
pub struct Scanner {
    limits: Limits,
    skip: usize,
}

impl Scanner {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Scanner { limits, skip: 0 }
    }

    /// The messages that begin in `buffer`, whose first byte must be the first one not consumed by the last scan.
    #[inline]
    pub fn scan<'s, 'b>(&'s mut self, buffer: &'b [u8]) -> Frames<'s, 'b> {
        let mut frames = Frames {
            limits: self.limits,
            scanner: self,
            left: buffer,
            total: buffer.len(),
            wanted: HEADER_BYTES,
        };
        frames.pass_over();
        frames
    }

    /// Whether the last scan ended between two messages, not inside a long one.
    #[must_use]
    pub fn between_messages(&self) -> bool {
        self.skip == 0
    }
}

/// The messages of one buffer, in order; see [`Scanner::scan`]. After an error there are no more.
#[derive(Debug)]
pub struct Frames<'s, 'b> {
    limits: Limits,
    scanner: &'s mut Scanner,
    left: &'b [u8],
    total: usize,
    wanted: usize,
}

impl Frames<'_, '_> {
    /// Bytes of the buffer that are done with: the caller drops exactly these before the next scan.
    #[inline]
    #[must_use]
    pub fn consumed(&self) -> usize {
        self.total.saturating_sub(self.left.len())
    }

    /// After `None`: how many bytes from the first unconsumed one are needed before another look is worth while.
    /// Never more than the window and a header, so this bounds the buffer.
    #[inline]
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    #[inline]
    fn pass_over(&mut self) {
        if self.scanner.skip > 0 {
            let now = self.scanner.skip.min(self.left.len());
            self.scanner.skip = self.scanner.skip.saturating_sub(now);
            self.left = self.left.get(now..).unwrap_or_default();
        }
    }
}

impl<'b> Iterator for Frames<'_, 'b> {
    type Item = Result<Frame<'b>, FrameError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Some((&[tag, a, b, c, d], after)) = self.left.split_first_chunk::<HEADER_BYTES>() else {
            self.wanted = HEADER_BYTES;
            return None;
        };
        let announced = i32::from_be_bytes([a, b, c, d]);
        let length = match usize::try_from(announced).ok().and_then(|n| n.checked_sub(4)) {
            Some(length) if length <= self.limits.body => length,
            other => return Some(Err(refused(tag, announced, other, self.limits.body))),
        };
        if length <= self.limits.window
            && let Some((body, rest)) = after.split_at_checked(length)
        {
            self.left = rest;
            return Some(Ok(Frame { tag, body, rest: 0 }));
        }
        self.long_or_incomplete(tag, length, after)
    }
}

impl<'b> Frames<'_, 'b> {
    #[cold]
    fn long_or_incomplete(
        &mut self,
        tag: u8,
        length: usize,
        after: &'b [u8],
    ) -> Option<Result<Frame<'b>, FrameError>> {
        let held = length.min(self.limits.window);
        let Some((body, rest)) = after.split_at_checked(held) else {
            self.wanted = held.saturating_add(HEADER_BYTES);
            return None;
        };
        self.left = rest;
        self.scanner.skip = length.saturating_sub(held);
        let frame = Frame { tag, body, rest: self.scanner.skip };
        self.pass_over();
        Some(Ok(frame))
    }
}

#[cold]
fn refused(tag: u8, announced: i32, length: Option<usize>, limit: usize) -> FrameError {
    match length {
        None => FrameError::Length { tag, got: announced },
        Some(got) => FrameError::TooLong { tag, got, limit },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    /// Feeds `bytes` in pieces of `step`, keeping what was not consumed, as the stream task does.
    fn scan_in_steps(bytes: &[u8], step: usize, limits: Limits) -> Vec<(u8, Vec<u8>, usize)> {
        let mut scanner = Scanner::new(limits);
        let (mut buffer, mut seen) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            let mut frames = scanner.scan(&buffer);
            for frame in frames.by_ref() {
                let frame = frame.unwrap();
                seen.push((frame.tag, frame.body.to_vec(), frame.rest));
            }
            assert!(frames.wanted() <= limits.window.max(HEADER_BYTES) + HEADER_BYTES);
            let consumed = frames.consumed();
            buffer.drain(..consumed);
        }
        assert!(buffer.is_empty() && scanner.between_messages());
        seen
    }

    #[test]
    fn the_same_messages_whatever_the_reads() {
        let bytes = [frame(b'd', b"hello"), frame(b'c', b""), frame(b'd', &[7; 300])].concat();
        let whole = scan_in_steps(&bytes, bytes.len(), Limits::default());
        assert_eq!(whole.len(), 3);
        for step in 1..bytes.len() {
            assert_eq!(scan_in_steps(&bytes, step, Limits::default()), whole, "step {step}");
        }
    }

    #[test]
    fn of_a_long_message_only_the_window_is_held() {
        let limits = Limits { body: 1 << 20, window: 16 };
        let bytes = [frame(b'd', &[1; 16]), frame(b'd', &[2; 17]), frame(b'd', &[3; 5000]), frame(b'c', b"")];
        let bytes = bytes.concat();
        let expected = vec![
            (b'd', vec![1; 16], 0),
            (b'd', vec![2; 16], 1),
            (b'd', vec![3; 16], 4984),
            (b'c', Vec::new(), 0),
        ];
        for step in [1, 3, 16, 100, 4999, bytes.len()] {
            assert_eq!(scan_in_steps(&bytes, step, limits), expected, "step {step}");
        }
    }

    #[test]
    fn lengths_that_no_server_sends_are_refused() {
        fn first(bytes: &[u8]) -> Option<Result<Frame<'_>, FrameError>> {
            Scanner::new(Limits { body: 100, window: 50 }).scan(bytes).next()
        }
        assert_eq!(first(&[b'd', 0, 0, 0, 3]), Some(Err(FrameError::Length { tag: b'd', got: 3 })));
        assert_eq!(
            first(&[b'd', 0xFF, 0, 0, 0]),
            Some(Err(FrameError::Length { tag: b'd', got: -0x0100_0000 }))
        );
        let error = FrameError::TooLong { tag: b'd', got: 101, limit: 100 };
        assert_eq!(first(&[b'd', 0, 0, 0, 105]), Some(Err(error)));
        assert_eq!(first(&[b'd', 0, 0, 0, 104]), None);
        assert_eq!(first(&[b'd', 0, 0]), None);
        assert_eq!(error.to_string(), "message 'd': expected at most 100 bytes, got 101");
    }
}
