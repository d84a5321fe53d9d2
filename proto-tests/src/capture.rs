//! Recorded streams: what real publishers sent, for tests without a server.
//!
//! A file is a text header, `key=value` lines after the line `pgoutput-capture 1` and up to an empty line, then
//! records up to the end: 8 bytes XLogData start LSN, 4 bytes length, both in network byte order, and so many bytes
//! of payload. See `captures/README.md` for how they are recorded.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use seqshadow::pgoutput::{ProtocolVersion, Streaming};
use seqshadow::types::Lsn;
use seqshadow::wire::Reader;

const MAGIC: &str = "pgoutput-capture 1";

/// One recorded stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// `server`: its version; the others are options of `START_REPLICATION`.
    pub header: Vec<(String, String)>,
    pub records: Vec<Record>,
}

/// One XLogData.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub start: Lsn,
    pub payload: Vec<u8>,
}

impl Capture {
    /// The value of a header line.
    #[must_use]
    pub fn option(&self, key: &str) -> Option<&str> {
        self.header.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// # Errors
    /// When the header does not say what was asked for.
    pub fn protocol(&self) -> anyhow::Result<(ProtocolVersion, Streaming)> {
        let number: u32 = self.option("proto_version").context("no proto_version")?.parse()?;
        let streaming = match self.option("streaming") {
            None | Some("off") => Streaming::Off,
            Some("on") => Streaming::On,
            Some("parallel") => Streaming::Parallel,
            Some(other) => bail!("streaming={other}"),
        };
        Ok((ProtocolVersion::try_from(number)?, streaming))
    }

    /// # Errors
    /// When the bytes are no capture.
    pub fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let end = bytes.windows(2).position(|pair| pair == b"\n\n").context("no end of the header")?;
        let (header, records) = bytes.split_at_checked(end).context("no header")?;
        let mut lines = std::str::from_utf8(header)?.lines();
        ensure!(lines.next() == Some(MAGIC), "expected the first line {MAGIC:?}");
        let pair = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        let header = lines.map(pair).collect::<Option<Vec<_>>>().context("a header line without =")?;
        let mut r = Reader::new(records);
        r.take(2)?;
        let mut records = Vec::new();
        while !r.is_empty() {
            records.push(Record { start: Lsn(r.u64()?), payload: r.counted()?.to_vec() });
        }
        Ok(Capture { header, records })
    }

    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{MAGIC}\n").into_bytes();
        for (key, value) in &self.header {
            bytes.extend_from_slice(format!("{key}={value}\n").as_bytes());
        }
        bytes.push(b'\n');
        for record in &self.records {
            bytes.extend_from_slice(&record.start.0.to_be_bytes());
            let length = u32::try_from(record.payload.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&record.payload);
        }
        bytes
    }
}

/// Every committed capture with its file name, sorted.
///
/// # Errors
/// When one cannot be read.
pub fn all() -> anyhow::Result<Vec<(String, Capture)>> {
    let directory: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "capture") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let capture = Capture::parse(&std::fs::read(&path)?).with_context(|| name.clone())?;
            found.push((name, capture));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}
