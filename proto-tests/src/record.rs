//! A [`Sink`] that writes down what it is told.

use std::collections::HashMap;

use seqshadow::pgoutput::transaction::{
    Commit, CommitPrepared, LogicalMessage, Prepare, RollbackPrepared, StreamCommit,
};
use seqshadow::pgoutput::{Relation, Sink, StreamXids, Tracked, Truncation, Unreadable};
use seqshadow::types::Lsn;

/// One call of the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Relation(u32),
    Id { slot: u32, id: i64 },
    Unreadable { slot: u32, relation: u32, column: u16, why: Unreadable },
    Begin { final_lsn: Lsn, xid: u32 },
    Commit { commit_lsn: Lsn, end_lsn: Lsn },
    Truncate { relations: Vec<u32>, cascade: bool, restart_identity: bool, stream: Option<StreamXids> },
    StreamStart { xid: u32, first: bool },
    StreamStop { xid: u32 },
    StreamCommit { xid: u32, commit_lsn: Lsn, end_lsn: Lsn },
    StreamAbort { xid: u32, subxid: u32 },
    BeginPrepare { xid: u32, gid: String },
    Prepare { xid: u32, gid: String },
    CommitPrepared { xid: u32, gid: String, end_lsn: Lsn },
    RollbackPrepared { xid: u32, gid: String },
    StreamPrepare { xid: u32, gid: String },
    Message { transactional: bool, prefix: String, content: Vec<u8> },
}

/// Which columns of a relation it tracks.
type Choice = Box<dyn FnMut(&Relation) -> Vec<Tracked> + Send>;

/// See the module.
pub struct Recorder {
    pub events: Vec<Event>,
    /// Base types of domains, by the domain's oid.
    pub base_types: HashMap<u32, u32>,
    choose: Choice,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("events", &self.events).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Tracks what `choose` answers.
    #[must_use]
    pub fn choosing(choose: impl FnMut(&Relation) -> Vec<Tracked> + Send + 'static) -> Self {
        Recorder { events: Vec::new(), base_types: HashMap::new(), choose: Box::new(choose) }
    }

    /// Tracks these columns of this relation.
    #[must_use]
    pub fn tracking(oid: u32, tracked: Vec<Tracked>) -> Self {
        Self::choosing(move |relation| if relation.oid == oid { tracked.clone() } else { Vec::new() })
    }

    /// The ids seen, in order.
    #[must_use]
    pub fn ids(&self) -> Vec<(u32, i64)> {
        let ids = self.events.iter().filter_map(|event| match event {
            Event::Id { slot, id } => Some((*slot, *id)),
            _ => None,
        });
        ids.collect()
    }
}

impl Sink for Recorder {
    fn relation(&mut self, relation: &Relation) -> Vec<Tracked> {
        self.events.push(Event::Relation(relation.oid));
        (self.choose)(relation)
    }

    fn base_type(&mut self, relation: &Relation, column: u16) -> Option<u32> {
        let column = relation.columns.get(usize::from(column))?;
        self.base_types.get(&column.type_oid).copied()
    }

    fn id(&mut self, slot: u32, id: i64) {
        self.events.push(Event::Id { slot, id });
    }

    fn unreadable_id(&mut self, slot: u32, relation: &Relation, column: u16, why: Unreadable) {
        self.events.push(Event::Unreadable { slot, relation: relation.oid, column, why });
    }

    fn begin(&mut self, final_lsn: Lsn, xid: u32) {
        self.events.push(Event::Begin { final_lsn, xid });
    }

    fn commit(&mut self, &Commit { commit_lsn, end_lsn, .. }: &Commit) {
        self.events.push(Event::Commit { commit_lsn, end_lsn });
    }

    fn truncate(&mut self, truncation: &Truncation<'_>) {
        let &Truncation { relations, cascade, restart_identity, stream } = truncation;
        let relations = relations.collect();
        self.events.push(Event::Truncate { relations, cascade, restart_identity, stream });
    }

    fn stream_start(&mut self, xid: u32, first: bool) {
        self.events.push(Event::StreamStart { xid, first });
    }

    fn stream_stop(&mut self, xid: u32) {
        self.events.push(Event::StreamStop { xid });
    }

    fn stream_commit(&mut self, &StreamCommit { xid, commit_lsn, end_lsn, .. }: &StreamCommit) {
        self.events.push(Event::StreamCommit { xid, commit_lsn, end_lsn });
    }

    fn stream_abort(&mut self, xid: u32, subxid: u32) {
        self.events.push(Event::StreamAbort { xid, subxid });
    }

    fn begin_prepare(&mut self, prepare: &Prepare<'_>) {
        self.events.push(Event::BeginPrepare { xid: prepare.xid, gid: prepare.gid.to_string() });
    }

    fn prepare(&mut self, prepare: &Prepare<'_>) {
        self.events.push(Event::Prepare { xid: prepare.xid, gid: prepare.gid.to_string() });
    }

    fn commit_prepared(&mut self, commit: &CommitPrepared<'_>) {
        let (gid, end_lsn) = (commit.gid.to_string(), commit.end_lsn);
        self.events.push(Event::CommitPrepared { xid: commit.xid, gid, end_lsn });
    }

    fn rollback_prepared(&mut self, rollback: &RollbackPrepared<'_>) {
        self.events.push(Event::RollbackPrepared { xid: rollback.xid, gid: rollback.gid.to_string() });
    }

    fn stream_prepare(&mut self, prepare: &Prepare<'_>) {
        self.events.push(Event::StreamPrepare { xid: prepare.xid, gid: prepare.gid.to_string() });
    }

    fn message(&mut self, message: &LogicalMessage<'_>) {
        self.events.push(Event::Message {
            transactional: message.transactional,
            prefix: message.prefix.to_string(),
            content: message.content.to_vec(),
        });
    }
}
