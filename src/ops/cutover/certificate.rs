//! The certificate: per sequence the proof that its next value is past everything, or what else it is past and why no more
//! is known, and a checksum over all of it.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::ops::OpsError;
use crate::ops::verify::{AS_PUBLISHER, PAST_PUBLISHER, PAST_ROWS, Proof};

/// The name and version of the JSON.
pub const SCHEMA: &str = "seqshadow.certificate/1";

/// What was proven, of all databases of one cutover.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// SHA-256, in hexadecimal, of the file's text without the line that holds it.
    pub sha256: String,
    pub schema: &'static str,
    /// The version of seqshadow.
    pub seqshadow: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    /// `--exact` was asked for: no lead.
    pub exact: bool,
    /// How long the writes were stopped until the proof, in milliseconds.
    pub write_pause_ms: u64,
    pub timings: Vec<Timing>,
    pub databases: Vec<Certified>,
}

/// How long one step took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timing {
    pub step: &'static str,
    pub milliseconds: u64,
    /// The application could not write meanwhile.
    pub paused: bool,
}

/// How many sequences are proven how far. See [`Proof`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Past everything.
    pub past: usize,
    /// Past the publisher's own only: not every column that takes their values is known and can be read.
    pub past_publisher: usize,
    /// Past the ids in their tables only: the publisher lacks them.
    pub past_rows: usize,
    /// At the publisher's state: they cycle.
    pub as_publisher: usize,
}

/// One database.
#[derive(Clone, Debug, Serialize)]
pub struct Certified {
    pub database: String,
    /// Host and port, and how the connection is protected.
    pub publisher: String,
    pub subscriber: String,
    /// Who applied the rows: a subscription, a slot, a heartbeat.
    pub applier: String,
    /// The fence: everything committed on the publisher before this position is applied on the subscriber.
    pub fence_lsn: String,
    /// Up to this position no published row was committed after the fence.
    pub proven_up_to_lsn: String,
    /// Whether the writes were stopped by us, or were found to be stopped.
    pub writes_stopped_by_us: bool,
    /// Client sessions still connected to the publisher's database: any of them could begin to write again.
    pub sessions_left: usize,
    pub sequences: Vec<CertifiedSequence>,
    /// Sequences left out, by the operator or because they are temporary or unlogged.
    pub excluded: Vec<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// One sequence.
#[derive(Clone, Debug, Serialize)]
pub struct CertifiedSequence {
    #[serde(flatten)]
    pub proof: Proof,
    /// With `--exact`: whether it has the publisher's own state.
    pub exact: Option<bool>,
    /// How that was proven, or why it has not.
    pub exact_reason: Option<String>,
}

impl Certified {
    /// Tells of columns that could not be looked at, of what seems to fill one that nobody can name, of sequences that the
    /// publisher lacks, and of those that cycle.
    fn note_columns(&mut self) {
        let proofs = self.sequences.iter().map(|one| &one.proof);
        // Of one without either there is a note already.
        let told = proofs.filter(|proof| {
            proof.verdict != PAST_PUBLISHER || !proof.columns.is_empty() || !proof.suspects.is_empty()
        });
        self.notes.extend(told.filter_map(Proof::lesser));
    }
}

impl Certificate {
    /// Puts it together, without the checksum.
    pub(super) fn new(
        mut databases: Vec<Certified>,
        timings: Vec<Timing>,
        write_pause_ms: u64,
        exact: bool,
    ) -> Self {
        for one in &mut databases {
            one.note_columns();
        }
        Certificate {
            sha256: String::new(),
            schema: SCHEMA,
            seqshadow: env!("CARGO_PKG_VERSION"),
            at: crate::ops::now(),
            exact,
            write_pause_ms,
            timings,
            databases,
        }
    }

    /// How many sequences are proven how far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let with = |verdict: &str| {
            let all = self.databases.iter().flat_map(|one| &one.sequences);
            all.filter(|one| one.proof.verdict == verdict).count()
        };
        Counts {
            past: with("past"),
            past_publisher: with(PAST_PUBLISHER),
            past_rows: with(PAST_ROWS),
            as_publisher: with(AS_PUBLISHER),
        }
    }

    /// The file's text. `grep -v '"sha256"' FILE | sha256sum` gives what the line says.
    ///
    /// # Errors
    /// When it cannot be put into JSON, which does not happen.
    pub fn text(&self) -> Result<String, OpsError> {
        let text = |certificate: &Certificate| {
            let text = serde_json::to_string_pretty(certificate);
            text.map(|text| text + "\n")
                .map_err(|error| OpsError::Io { what: "the certificate".to_owned(), source: error.into() })
        };
        let unsigned = text(&Certificate { sha256: String::new(), ..self.clone() })?;
        let hashed: String = unsigned
            .lines()
            .filter(|line| !line.contains("\"sha256\""))
            .map(|line| format!("{line}\n"))
            .collect();
        let sha256 = Sha256::digest(hashed.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        text(&Certificate { sha256, ..self.clone() })
    }
}
