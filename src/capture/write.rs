//! Writes a capture, block by block.
//!
//! In: a [`Header`], then bodies of CopyData as they come, then an [`Ending`]. Out: the file's bytes. What was flushed
//! can be read even if nothing follows.

use std::io::{self, Write};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{BLOCK_BYTES, DIGEST, Ending, Header, MAGIC, Section, VERSION, WINDOW};

/// A capture that is being written.
#[derive(Debug)]
pub struct CaptureWriter<W> {
    to: W,
    /// Digest of the section before.
    chain: [u8; DIGEST],
    block: Vec<u8>,
    records: u64,
    /// As the publisher sent them.
    bytes: u64,
    written: u64,
}

impl<W: Write> CaptureWriter<W> {
    /// Begins the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(mut to: W, header: &Header) -> io::Result<Self> {
        let mut first = MAGIC.to_vec();
        first.extend_from_slice(&VERSION.to_be_bytes());
        to.write_all(&first)?;
        let mut writer = CaptureWriter {
            to,
            chain: Sha256::digest(&first).into(),
            block: Vec::with_capacity(BLOCK_BYTES * 2),
            records: 0,
            bytes: 0,
            written: u64::try_from(first.len()).unwrap_or(u64::MAX),
        };
        writer.json(Section::Header, header)?;
        Ok(writer)
    }

    /// Takes the body of one CopyData, of which `rest` more bytes were not kept, `micros` after the one before.
    ///
    /// # Errors
    /// When the file cannot be written; the body is too long for PostgreSQL.
    pub fn record(&mut self, micros: u32, body: &[u8], rest: usize) -> io::Result<()> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "a message of more than 4 GiB");
        let length = u32::try_from(body.len().saturating_add(rest)).map_err(|_| too_long())?;
        let kept = body.get(..body.len().min(WINDOW)).unwrap_or_default();
        self.block.extend_from_slice(&micros.to_be_bytes());
        self.block.extend_from_slice(&length.to_be_bytes());
        self.block.extend_from_slice(kept);
        self.records = self.records.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::from(length));
        if self.block.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what is held back.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            let block = std::mem::take(&mut self.block);
            self.section(Section::Block, &block)?;
            self.block = block;
            self.block.clear();
        }
        self.to.flush()
    }

    /// Records so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of their bodies, as the publisher sent them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file's length with what is held back.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.written.saturating_add(u64::try_from(self.block.len()).unwrap_or(u64::MAX))
    }

    /// Ends the file: `ending` says why; its counts are filled in.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self, ending: &Ending) -> io::Result<(W, Ending)> {
        self.flush()?;
        let ending = Ending { records: self.records, bytes: self.bytes, ..ending.clone() };
        self.json(Section::End, &ending)?;
        self.to.flush()?;
        Ok((self.to, ending))
    }

    fn json(&mut self, section: Section, content: &impl Serialize) -> io::Result<()> {
        let content = serde_json::to_vec(content)?;
        self.section(section, &content)
    }

    fn section(&mut self, section: Section, content: &[u8]) -> io::Result<()> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "a section of more than 256 MiB");
        let length = u32::try_from(content.len()).ok().filter(|_| content.len() <= super::SECTION_BYTES_MAX);
        let mut head = vec![section.tag()];
        head.extend_from_slice(&length.ok_or_else(too_long)?.to_be_bytes());
        let digest = digest(&self.chain, &head, content);
        for part in [head.as_slice(), content, &digest] {
            self.to.write_all(part)?;
            self.written = self.written.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        }
        self.chain = digest;
        Ok(())
    }
}

/// Of a section, and with the one before it of all that is before.
pub(super) fn digest(chain: &[u8; DIGEST], head: &[u8], content: &[u8]) -> [u8; DIGEST] {
    let mut sha = Sha256::new();
    sha.update(chain);
    sha.update(head);
    sha.update(content);
    sha.finalize().into()
}
