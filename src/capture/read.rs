//! Reads a capture, section by section, and believes none before its digest is right.
//!
//! In: anything that can be read. Out: the [`Header`], [`Record`]s, the [`Ending`]; or a [`CaptureError`] with the byte
//! where it is wrong. Memory is bounded by one section.

use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::write::digest;
use super::{
    CaptureError, DIGEST, Ending, Header, MAGIC, SECTION_BYTES_MAX, SECTION_HEAD, Section, VERSION, WINDOW,
};
use crate::wire::Reader;
use crate::wire::frame::POSTGRES_BODY_BYTES_MAX;

/// A capture that is being read.
#[derive(Debug)]
pub struct CaptureReader<R> {
    from: R,
    offset: u64,
    chain: [u8; DIGEST],
    header: Header,
    content: Vec<u8>,
    /// Records and bytes so far.
    seen: (u64, u64),
    ending: Option<Ending>,
}

/// One CopyData.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Microseconds after the one before.
    pub micros: u32,
    /// The first [`WINDOW`] bytes of its body at most.
    pub body: &'a [u8],
    /// Bytes of it that were not kept.
    pub rest: usize,
}

/// The records of one block, and where in the file it begins.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    pub offset: u64,
    content: &'a [u8],
}

impl<R: Read> CaptureReader<R> {
    /// Reads up to the end of the header.
    ///
    /// # Errors
    /// When it is no capture, one of a newer version, cut off or damaged.
    pub fn open(mut from: R) -> Result<Self, CaptureError> {
        let mut magic = [0; MAGIC.len()];
        let got = fill(&mut from, &mut magic, 0)?;
        if magic != *MAGIC {
            let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
            return Err(CaptureError::Magic {
                expected: shown(MAGIC),
                got: shown(magic.get(..got).unwrap_or_default()),
            });
        }
        let mut version = [0; 4];
        exact(&mut from, &mut version, 16, "format version")?;
        match u32::from_be_bytes(version) {
            VERSION => {}
            0 => {
                let (expected, got) = ("a format version", "0".to_owned());
                return Err(CaptureError::Unexpected { offset: 16, expected, got });
            }
            got => return Err(CaptureError::Newer { newest: VERSION, got }),
        }
        let mut sha = Sha256::new();
        sha.update(magic);
        sha.update(version);
        let mut reader = CaptureReader {
            from,
            offset: 20,
            chain: sha.finalize().into(),
            header: Header::default(),
            content: Vec::new(),
            seen: (0, 0),
            ending: None,
        };
        match reader.section()? {
            (Section::Header, offset) => reader.header = reader.json(offset, "header")?,
            (other, offset) => return Err(unexpected(offset, "a header 'H'", other.tag())),
        }
        Ok(reader)
    }

    /// What the file says of itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How the recording ended, once all blocks were read.
    #[must_use]
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// Where in the file the next section begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next block, whose records were all checked; `None` after the last one.
    ///
    /// # Errors
    /// When the file is cut off, damaged, or goes on after its end.
    pub fn block(&mut self) -> Result<Option<Block<'_>>, CaptureError> {
        if self.ending.is_some() {
            return Ok(None);
        }
        let (section, offset) = self.section()?;
        match section {
            Section::Block => {
                self.check(offset)?;
                Ok(Some(Block { offset, content: &self.content }))
            }
            Section::End => {
                let ending: Ending = self.json(offset, "end")?;
                let (records, bytes) = self.seen;
                if (ending.records, ending.bytes) != self.seen {
                    let expected = "an end that counts the records before it";
                    let got = format!(
                        "{} records of {} bytes for {records} of {bytes}",
                        ending.records, ending.bytes
                    );
                    return Err(CaptureError::Unexpected { offset, expected, got });
                }
                let mut more = [0];
                if fill(&mut self.from, &mut more, self.offset)? > 0 {
                    return Err(unexpected(self.offset, "the end of the file", more[0]));
                }
                self.ending = Some(ending);
                Ok(None)
            }
            Section::Header => Err(unexpected(offset, "a block 'B' or the end 'E'", section.tag())),
        }
    }

    /// Reads one section into `content`, and says where it began.
    fn section(&mut self) -> Result<(Section, u64), CaptureError> {
        let offset = self.offset;
        let mut head = [0; SECTION_HEAD];
        exact(&mut self.from, &mut head, offset, "section head")?;
        let [tag, length @ ..] = head;
        let Some(section) = Section::of(tag) else {
            return Err(unexpected(offset, "a section 'H', 'B' or 'E'", tag));
        };
        let length = u32::from_be_bytes(length);
        let length = usize::try_from(length).ok().filter(|length| *length <= SECTION_BYTES_MAX).ok_or(
            CaptureError::Unexpected {
                offset: offset.saturating_add(1),
                expected: "a section of at most 256 MiB",
                got: format!("{length} bytes"),
            },
        )?;
        let start = offset.saturating_add(5);
        self.content.clear();
        // Grows with what is there, not with what is announced.
        let limit = u64::try_from(length).unwrap_or(u64::MAX);
        let read = (&mut self.from).take(limit).read_to_end(&mut self.content);
        let got = read.map_err(|source| CaptureError::Io { offset: start, source })?;
        if got < length {
            return Err(CaptureError::CutOff { offset: start, what: "a section", expected: length, got });
        }
        let mut told = [0; DIGEST];
        let end = start.saturating_add(limit);
        exact(&mut self.from, &mut told, end, "checksum")?;
        let right = digest(&self.chain, &head, &self.content);
        if told != right {
            let what = match section {
                Section::Header => "header",
                Section::Block => "block",
                Section::End => "end",
            };
            return Err(CaptureError::Damaged { offset, what, expected: hex(&told), got: hex(&right) });
        }
        self.chain = right;
        self.offset = end.saturating_add(32);
        Ok((section, offset))
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        offset: u64,
        what: &'static str,
    ) -> Result<T, CaptureError> {
        serde_json::from_slice(&self.content).map_err(|error| CaptureError::Content {
            offset,
            what,
            why: error.to_string(),
        })
    }

    /// Walks the records of a block and counts them.
    fn check(&mut self, offset: u64) -> Result<(), CaptureError> {
        let mut records = Records { r: Reader::new(&self.content) };
        loop {
            let at = records.r.offset();
            match records.read() {
                None => return Ok(()),
                Some(Ok(record)) => {
                    let length = record.body.len().saturating_add(record.rest);
                    let (count, bytes) = self.seen;
                    self.seen = (
                        count.saturating_add(1),
                        bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX)),
                    );
                }
                Some(Err(why)) => {
                    let before = u64::try_from(at.saturating_add(SECTION_HEAD)).unwrap_or(0);
                    let offset = offset.saturating_add(before);
                    return Err(CaptureError::Content { offset, what: "record", why });
                }
            }
        }
    }
}

impl<'a> Block<'a> {
    /// Its records, in order.
    pub fn records(self) -> impl Iterator<Item = Record<'a>> {
        let mut records = Records { r: Reader::new(self.content) };
        // They were walked before.
        std::iter::from_fn(move || records.read()?.ok())
    }
}

struct Records<'a> {
    r: Reader<'a>,
}

impl<'a> Records<'a> {
    fn read(&mut self) -> Option<Result<Record<'a>, String>> {
        if self.r.is_empty() { None } else { Some(self.record()) }
    }

    fn record(&mut self) -> Result<Record<'a>, String> {
        let short = |error: crate::wire::ReadError| error.to_string();
        let micros = self.r.u32().map_err(short)?;
        let length = usize::try_from(self.r.u32().map_err(short)?).unwrap_or(usize::MAX);
        // A server would be refused as well.
        if length > POSTGRES_BODY_BYTES_MAX {
            return Err(format!("expected a message of less than 1 GiB, got {length} bytes"));
        }
        let kept = length.min(WINDOW);
        let body = self.r.take(kept).map_err(short)?;
        Ok(Record { micros, body, rest: length.saturating_sub(kept) })
    }
}

/// Reads until `into` is full or there is no more; says how much there was.
fn fill(from: &mut impl Read, into: &mut [u8], offset: u64) -> Result<usize, CaptureError> {
    let mut got = 0;
    while let Some(left) = into.get_mut(got..).filter(|left| !left.is_empty()) {
        match from.read(left) {
            Ok(0) => break,
            Ok(more) => got = got.saturating_add(more),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(CaptureError::Io { offset, source }),
        }
    }
    Ok(got)
}

fn exact(from: &mut impl Read, into: &mut [u8], offset: u64, what: &'static str) -> Result<(), CaptureError> {
    let expected = into.len();
    let got = fill(from, into, offset)?;
    if got < expected { Err(CaptureError::CutOff { offset, what, expected, got }) } else { Ok(()) }
}

fn unexpected(offset: u64, expected: &'static str, got: u8) -> CaptureError {
    CaptureError::Unexpected { offset, expected, got: format!("{:?}", char::from(got)) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>() + "…"
}
