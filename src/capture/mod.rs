//! Recorded replication streams: `capture` writes a publisher's stream into a file, `replay` decodes it as the daemon
//! would.
//!
//! In: a publisher ([`record`]), or a file ([`read`], [`replay`]). Out: a file ([`write`], under its name only once it
//! is whole: [`place`]), or marks and figures. Never: a position confirmed to the publisher, a password or an address
//! in the file, a file that others may read.
//!
//! The file, all numbers in network byte order:
//!
//! | bytes | what |
//! |---|---|
//! | 16 | [`MAGIC`] |
//! | 4 | [`VERSION`] |
//! | … | sections: one header, any number of blocks, one end |
//!
//! A section is its kind (one byte: `H`, `B`, `E`), the length of its content (4 bytes), the content, and a SHA-256 of
//! the section before (of magic and version for the first one) and all of this one: what is changed, left out, repeated
//! or moved is noticed. The content of `H` and `E` is JSON ([`Header`], [`Ending`]). That of a block is records: 4
//! bytes of microseconds since the record before (at most an hour or so), 4 bytes of length, and the body of one
//! CopyData. Of a longer body than [`WINDOW`] only so much is there: the daemon, too, keeps no more of one.

pub mod error;
pub mod header;
pub mod place;
pub mod read;
pub mod record;
pub mod redact;
pub mod replay;
pub mod run;
pub mod write;

pub use error::CaptureError;
pub use header::{Ending, Header};
pub use read::CaptureReader;
pub use write::CaptureWriter;

/// What a file begins with. The end of line shows a copy that was made as text.
pub const MAGIC: &[u8; 16] = b"seqshadow-cap\r\n\x1a";

/// Of the format; a reader refuses newer ones.
pub const VERSION: u32 = 1;

/// How much of one CopyData is kept.
pub const WINDOW: usize = 1 << 20;

/// A block that has so many bytes is written.
const BLOCK_BYTES: usize = 64 * 1024;

/// No section is longer: a block, one more record, and to spare for the header of a database of many tables.
const SECTION_BYTES_MAX: usize = 256 << 20;

/// Bytes before a section's content, and after it.
const SECTION_HEAD: usize = 5;
const DIGEST: usize = 32;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Header,
    Block,
    End,
}

impl Section {
    fn tag(self) -> u8 {
        match self {
            Section::Header => b'H',
            Section::Block => b'B',
            Section::End => b'E',
        }
    }

    fn of(tag: u8) -> Option<Self> {
        [Section::Header, Section::Block, Section::End].into_iter().find(|section| section.tag() == tag)
    }
}

#[cfg(test)]
mod tests;
