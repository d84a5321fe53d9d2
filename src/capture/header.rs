//! What a capture says of itself: how the stream was asked for, which columns carry ids, how it ended.
//!
//! In: the options of the stream and the daemon's own [`Tracking`]. Out: JSON, and the same `Tracking` again. There is no
//! host, database, role or password in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::pgoutput::{IdFormat, ProtocolVersion, Streaming};
use crate::publisher::connection::StreamOptions;
use crate::tracking::{Tracking, Watched};
use crate::types::QualifiedName;

/// The first section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the program that wrote it.
    pub seqshadow: String,
    /// When the stream began, as RFC 3339.
    pub begun: String,
    /// `server_version_num` of the publisher.
    pub server_version: u32,
    pub proto_version: u32,
    /// `off`, `on` or `parallel`.
    pub streaming: String,
    /// Whether values were asked for in binary format.
    pub binary: bool,
    pub publications: Vec<String>,
    /// Whether values were replaced by filler.
    pub redacted: bool,
    /// By dense index.
    pub sequences: Vec<SequenceEntry>,
    /// Tables of the publisher that are watched.
    pub relations: Vec<RelationEntry>,
}

/// A sequence of the subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceEntry {
    pub schema: String,
    pub name: String,
    /// Its ids get smaller.
    pub descending: bool,
}

/// A table by the publisher's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationEntry {
    pub schema: String,
    pub name: String,
    /// Known to the catalog; false where it is only among those that restart sequences.
    pub known: bool,
    pub columns: Vec<ColumnEntry>,
    /// Indexes of sequences that `TRUNCATE … RESTART IDENTITY` restarts.
    pub restarts: Vec<u32>,
}

/// A column whose values are ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnEntry {
    pub column: String,
    /// Index of the sequence.
    pub sequence: u32,
    /// Text around the number; neither is there for a plain number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
}

/// The last section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Why the recording ended, for people.
    pub why: String,
    /// Records, keepalives included.
    pub records: u64,
    /// Bytes of their bodies as the publisher sent them.
    pub bytes: u64,
    /// How far the publisher had been heard, as `pg_lsn`.
    pub received: String,
}

impl Header {
    /// For a stream that was asked for with `options`, of which `tracking` says what is looked for; `sequences` are the
    /// names by dense index.
    #[must_use]
    pub fn new(
        options: &StreamOptions,
        server_version: u32,
        redacted: bool,
        sequences: &[QualifiedName],
        tracking: &Tracking,
    ) -> Self {
        Header {
            seqshadow: env!("CARGO_PKG_VERSION").to_owned(),
            begun: crate::ops::now(),
            server_version,
            proto_version: u32::from(options.version.number()),
            streaming: streaming_text(options.streaming).to_owned(),
            binary: options.binary,
            publications: options.publications.clone(),
            redacted,
            sequences: sequences
                .iter()
                .zip(&tracking.descending)
                .map(|(name, descending)| SequenceEntry {
                    schema: name.schema.clone(),
                    name: name.name.clone(),
                    descending: *descending,
                })
                .collect(),
            relations: relations(tracking),
        }
    }

    /// How the stream was asked for.
    ///
    /// # Errors
    /// What of it is not known here.
    pub fn protocol(&self) -> Result<(ProtocolVersion, Streaming), String> {
        let version = ProtocolVersion::try_from(self.proto_version).map_err(|error| error.to_string())?;
        let streaming = [Streaming::Off, Streaming::On, Streaming::Parallel]
            .into_iter()
            .find(|streaming| streaming_text(*streaming) == self.streaming)
            .ok_or_else(|| format!("expected streaming off, on or parallel, got {:?}", self.streaming))?;
        Ok((version, streaming))
    }

    /// What the daemon looked for when this was recorded.
    #[must_use]
    pub fn tracking(&self) -> Arc<Tracking> {
        let mut tracking = Tracking {
            descending: self.sequences.iter().map(|sequence| sequence.descending).collect(),
            ..Tracking::default()
        };
        for relation in &self.relations {
            let name = QualifiedName::new(relation.schema.clone(), relation.name.clone());
            if !relation.restarts.is_empty() {
                tracking.restarts.insert(name.clone(), relation.restarts.clone());
            }
            if relation.known {
                let watched = relation.columns.iter().map(ColumnEntry::to_watched).collect();
                tracking.tables.insert(name, watched);
            }
        }
        Arc::new(tracking)
    }

    /// The sequence of this index, as people write it.
    #[must_use]
    pub fn sequence(&self, slot: u32) -> Option<String> {
        let sequence = self.sequences.get(usize::try_from(slot).ok()?)?;
        Some(QualifiedName::new(sequence.schema.clone(), sequence.name.clone()).to_string())
    }
}

impl ColumnEntry {
    fn of(watched: &Watched) -> Self {
        let text = |bytes: &[u8]| Some(String::from_utf8_lossy(bytes).into_owned());
        let (prefix, suffix) = match &watched.format {
            IdFormat::Integer => (None, None),
            IdFormat::Affix { prefix, suffix } => (text(prefix), text(suffix)),
        };
        ColumnEntry { column: watched.column.clone(), sequence: watched.slot, prefix, suffix }
    }

    fn to_watched(&self) -> Watched {
        let format = match (&self.prefix, &self.suffix) {
            (None, None) => IdFormat::Integer,
            (prefix, suffix) => {
                let bytes = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes().into();
                IdFormat::Affix { prefix: bytes(prefix), suffix: bytes(suffix) }
            }
        };
        Watched { column: self.column.clone(), slot: self.sequence, format }
    }
}

fn relations(tracking: &Tracking) -> Vec<RelationEntry> {
    let mut found: BTreeMap<&QualifiedName, RelationEntry> = BTreeMap::new();
    for (name, watched) in &tracking.tables {
        let entry = found.entry(name).or_default();
        entry.known = true;
        entry.columns = watched.iter().map(ColumnEntry::of).collect();
    }
    for (name, slots) in &tracking.restarts {
        found.entry(name).or_default().restarts.clone_from(slots);
    }
    let named = |(name, entry): (&QualifiedName, RelationEntry)| RelationEntry {
        schema: name.schema.clone(),
        name: name.name.clone(),
        ..entry
    };
    found.into_iter().map(named).collect()
}

fn streaming_text(streaming: Streaming) -> &'static str {
    match streaming {
        Streaming::Off => "off",
        Streaming::On => "on",
        Streaming::Parallel => "parallel",
    }
}
