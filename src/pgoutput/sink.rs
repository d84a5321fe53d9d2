//! What [`super::Tap`] hands on, and to whom.

use crate::types::Lsn;

use super::id::{IdFormat, Unreadable};
use super::relation::Relation;
use super::transaction::{
    Commit, CommitPrepared, LogicalMessage, OidList, Origin, Prepare, RollbackPrepared, StreamCommit,
};

/// A column whose values are ids of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Position in [`Relation::columns`]. One column may be tracked for several sequences; a position that the
    /// relation does not have is passed over.
    pub column: u16,
    /// The sequence, as a dense index of the sink's own.
    pub slot: u32,
    pub format: IdFormat,
}

/// Receives ids and transaction boundaries in the order of the stream. Calls come synchronously out of
/// [`super::Tap::feed`]; none of them may block.
pub trait Sink {
    /// A relation is new or was changed, or [`super::Tap::retrack`] asks again: which of its columns carry ids?
    fn relation(&mut self, relation: &Relation) -> Vec<Tracked>;

    /// The built-in base type of a tracked column whose type users made (a domain), if known. Only needed with the
    /// option `binary`: without it, binary values of such a column are unreadable.
    fn base_type(&mut self, relation: &Relation, column: u16) -> Option<u32> {
        let _ = (relation, column);
        None
    }

    /// An inserted or updated row carries this id. The hot call: inside a stream the transaction may yet abort.
    fn id(&mut self, slot: u32, id: i64);

    /// A tracked column holds something that is no id: the sequence needs another source for it.
    fn unreadable_id(&mut self, slot: u32, relation: &Relation, column: u16, why: Unreadable);

    /// What follows was committed at `final_lsn`.
    fn begin(&mut self, final_lsn: Lsn, xid: u32);

    /// All of the transaction was handed on; `end_lsn` is what may be confirmed for it.
    fn commit(&mut self, commit: &Commit);

    /// Tables are emptied when the transaction commits.
    fn truncate(&mut self, truncation: &Truncation<'_>);

    /// A piece of an open transaction follows; `first`: its first piece.
    fn stream_start(&mut self, xid: u32, first: bool);
    /// The piece ends; the transaction stays open.
    fn stream_stop(&mut self, xid: u32);
    /// A streamed transaction was committed.
    fn stream_commit(&mut self, commit: &StreamCommit);
    /// The subtransaction `subxid` of the streamed `xid` was rolled back; all of it when they are equal.
    fn stream_abort(&mut self, xid: u32, subxid: u32);

    /// What follows up to [`Sink::prepare`] is prepared, not committed.
    fn begin_prepare(&mut self, prepare: &Prepare<'_>);
    /// All of the prepared transaction was handed on.
    fn prepare(&mut self, prepare: &Prepare<'_>);
    /// It was committed. It may have been prepared before our slot, or be unknown to us.
    fn commit_prepared(&mut self, commit: &CommitPrepared<'_>);
    /// It was rolled back. It may be unknown to us.
    fn rollback_prepared(&mut self, rollback: &RollbackPrepared<'_>);
    /// A streamed transaction was prepared.
    fn stream_prepare(&mut self, prepare: &Prepare<'_>);

    /// `pg_logical_emit_message` (option `messages`).
    fn message(&mut self, message: &LogicalMessage<'_>) {
        let _ = message;
    }

    /// The transaction was itself replicated.
    fn origin(&mut self, origin: &Origin<'_>) {
        let _ = origin;
    }
}

/// A TRUNCATE; its relations were all announced by [`Sink::relation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation<'a> {
    /// All truncated tables, those found by CASCADE included.
    pub relations: OidList<'a>,
    pub cascade: bool,
    pub restart_identity: bool,
    /// For a streamed transaction, whose commit will apply it and which abort discards it.
    pub stream: Option<StreamXids>,
}

/// Who made a change inside a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamXids {
    /// The top-level transaction: the one that Stream Commit, Stream Prepare and Stream Abort name.
    pub xid: u32,
    /// The (sub)transaction; equal to `xid` outside of a subtransaction.
    pub subxid: u32,
}
