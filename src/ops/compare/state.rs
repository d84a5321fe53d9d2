//! What earlier runs found equal, in a file: a comparison that was interrupted goes on where it was.
//!
//! In: a path. Out: for each table its chunks, and which of them were equal at which LSN. The file is replaced as a
//! whole, so that a kill leaves the one before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::statement::Key;
use crate::ops::OpsError;
use crate::sides::SidesError;

/// The name and version of the file's content.
const SCHEMA: &str = "seqshadow.compare-state/1";

/// So much work may be done again after a kill.
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// Which two databases are compared, and how they are cut into chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) publisher: String,
    pub(super) subscriber: String,
    pub(super) chunk_rows: u32,
}

/// A chunk that was equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Equal {
    pub(super) rows: u64,
    /// The publisher's, of the snapshot in which it was read.
    pub(super) lsn: String,
}

/// How a table is cut into chunks, and which of them are done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// What was compared: with other columns, another key or filter everything begins anew.
    fingerprint: String,
    /// The last keys of all chunks but the last.
    pub(super) bounds: Vec<Key>,
    /// Or so many buckets.
    pub(super) modulus: u32,
    pub(super) equal: BTreeMap<u32, Equal>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    schema: String,
    subject: Subject,
    tables: BTreeMap<String, Progress>,
}

/// The file, or the memory of one run where there is none.
#[derive(Debug)]
pub(super) struct State {
    path: Option<PathBuf>,
    content: Content,
    written: Instant,
    changed: bool,
}

impl State {
    /// Reads the file; one that is not there is begun.
    ///
    /// # Errors
    /// Where it cannot be read, is damaged, or is about other databases.
    pub(super) fn open(path: Option<&Path>, subject: Subject) -> Result<Self, OpsError> {
        let fresh = |subject| Content { schema: SCHEMA.to_owned(), subject, tables: BTreeMap::new() };
        let text = match path.map(std::fs::read_to_string) {
            None => None,
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
            Some(Ok(text)) => Some(text),
            Some(Err(source)) => return Err(OpsError::Io { what: shown(path), source }),
        };
        let content = match text {
            Some(text) => {
                let content: Content = serde_json::from_str(&text)
                    .map_err(|error| unusable(path, &format!("is damaged, or no such file: {error}")))?;
                check(path, &content, &subject)?;
                content
            }
            None => fresh(subject),
        };
        let state = State { path: path.map(Path::to_owned), content, written: Instant::now(), changed: true };
        // A path that cannot be written is said before the work, not after it.
        state.write()?;
        Ok(state)
    }

    /// What is known of a table, if it was compared in the same way before.
    pub(super) fn table(&self, name: &str, fingerprint: &str) -> Option<&Progress> {
        self.content.tables.get(name).filter(|progress| progress.fingerprint == fingerprint)
    }

    /// Notes how a table is cut into chunks.
    pub(super) fn planned(&mut self, name: &str, fingerprint: String, bounds: Vec<Key>, modulus: u32) {
        let progress = Progress { fingerprint, bounds, modulus, equal: BTreeMap::new() };
        self.content.tables.insert(name.to_owned(), progress);
        self.changed = true;
    }

    /// Notes that a chunk is equal.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn equal(&mut self, name: &str, chunk: u32, equal: Equal) -> Result<(), OpsError> {
        if let Some(progress) = self.content.tables.get_mut(name) {
            progress.equal.insert(chunk, equal);
            self.changed = true;
        }
        if self.written.elapsed() >= WRITE_EVERY { self.save() } else { Ok(()) }
    }

    /// Everything was found equal: the next run compares anew, and does not tell what was so today.
    pub(super) fn finished(self) {
        if let Some(path) = &self.path {
            // One that stays is only a file of the past, and says so by its positions.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Writes what was not written yet.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn save(&mut self) -> Result<(), OpsError> {
        if self.changed {
            self.write()?;
            self.changed = false;
            self.written = Instant::now();
        }
        Ok(())
    }

    fn write(&self) -> Result<(), OpsError> {
        let Some(path) = &self.path else { return Ok(()) };
        let failed = |source| OpsError::Io { what: shown(Some(path)), source };
        let text = serde_json::to_string(&self.content).map_err(|error| failed(error.into()))?;
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path)).map_err(failed)
    }
}

fn check(path: Option<&Path>, content: &Content, subject: &Subject) -> Result<(), OpsError> {
    if content.schema != SCHEMA {
        return Err(unusable(path, &format!("has schema {:?}, expected {SCHEMA:?}", content.schema)));
    }
    let differs = [
        ("publisher", &content.subject.publisher, &subject.publisher),
        ("subscriber", &content.subject.subscriber, &subject.subscriber),
    ];
    for (side, then, now) in differs {
        if then != now {
            return Err(unusable(path, &format!("is about another {side}: {then}, and this one is {now}")));
        }
    }
    let (then, now) = (content.subject.chunk_rows, subject.chunk_rows);
    if then != now {
        return Err(unusable(path, &format!("was begun with --chunk-rows {then}, not {now}")));
    }
    Ok(())
}

fn shown(path: Option<&Path>) -> String {
    format!("state file {}", path.unwrap_or(Path::new("")).display())
}

fn unusable(path: Option<&Path>, why: &str) -> OpsError {
    OpsError::Sides(SidesError::Setting {
        what: format!("{} {why}", shown(path)),
        action: "name another file with --state, or remove this one to begin anew".to_owned(),
    })
}
