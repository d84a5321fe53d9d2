//! Our messages in the words of `pg_walstream`, an independent decoder, so that the two can be compared.

use std::sync::Arc;

use pg_walstream::{ColumnData, ColumnInfo, LogicalReplicationMessage as Theirs, TupleData};
use seqshadow::pgoutput::message::OldTuple;
use seqshadow::pgoutput::{Message, ReplicaIdentity, Tuple, Value};

fn tuple(tuple: &Tuple<'_>) -> TupleData {
    let cells = tuple.values().map(|value| match value {
        Value::Null => ColumnData::null(),
        Value::Unchanged => ColumnData::unchanged(),
        Value::Text(bytes) => ColumnData::text(bytes.to_vec()),
        Value::Binary(bytes) => ColumnData::binary(bytes.to_vec()),
    });
    TupleData::new(cells.collect())
}

fn old_tuple(old: &OldTuple<'_>) -> (TupleData, char) {
    match old {
        OldTuple::Key(key) => (tuple(key), 'K'),
        OldTuple::Full(row) => (tuple(row), 'O'),
    }
}

/// The (sub)transaction that the message itself names because it came inside a stream.
pub fn stream_xid(message: &Message<'_>) -> Option<u32> {
    match message {
        Message::LogicalMessage(m) => m.xid,
        Message::Relation(m) => m.xid,
        Message::Type(m) => m.xid,
        Message::Insert(m) => m.xid,
        Message::Update(m) => m.xid,
        Message::Delete(m) => m.xid,
        Message::Truncate(m) => m.xid,
        _ => None,
    }
}

/// What `pg_walstream` should have made of the same bytes.
pub fn expected(message: &Message<'_>) -> Theirs {
    match message {
        Message::Begin(m) => {
            Theirs::Begin { final_lsn: m.final_lsn.0, timestamp: m.commit_time_us, xid: m.xid }
        }
        Message::Commit(m) => Theirs::Commit {
            flags: 0,
            commit_lsn: m.commit_lsn.0,
            end_lsn: m.end_lsn.0,
            timestamp: m.commit_time_us,
        },
        Message::Origin(m) => Theirs::Origin { origin_lsn: m.commit_lsn.0, origin_name: m.name.to_string() },
        Message::LogicalMessage(m) => Theirs::Message {
            flags: u8::from(m.transactional),
            lsn: m.lsn.0,
            prefix: m.prefix.to_string(),
            content: m.content.to_vec().into(),
        },
        Message::Relation(m) => Theirs::Relation {
            relation_id: m.oid,
            namespace: Arc::from(m.schema.to_string()),
            relation_name: Arc::from(m.name.to_string()),
            replica_identity: match m.replica_identity {
                ReplicaIdentity::Default => b'd',
                ReplicaIdentity::Nothing => b'n',
                ReplicaIdentity::Full => b'f',
                ReplicaIdentity::Index => b'i',
            },
            columns: m
                .columns()
                .map(|c| ColumnInfo::new(u8::from(c.key), c.name.to_string(), c.type_oid, c.type_modifier))
                .collect(),
        },
        Message::Type(m) => {
            Theirs::Type { type_id: m.oid, namespace: m.schema.to_string(), type_name: m.name.to_string() }
        }
        Message::Insert(m) => Theirs::Insert { relation_id: m.relation, tuple: tuple(&m.new) },
        Message::Update(m) => {
            let (old, kind) = m.old.as_ref().map(old_tuple).unzip();
            Theirs::Update {
                relation_id: m.relation,
                old_tuple: old,
                new_tuple: tuple(&m.new),
                key_type: kind,
            }
        }
        Message::Delete(m) => {
            let (old, kind) = old_tuple(&m.old);
            Theirs::Delete { relation_id: m.relation, old_tuple: old, key_type: kind }
        }
        Message::Truncate(m) => Theirs::Truncate {
            relation_ids: m.relations.collect(),
            flags: u8::from(m.cascade) | (u8::from(m.restart_identity) << 1),
        },
        _ => expected_of_transaction(message),
    }
}

/// What a `PREPARE TRANSACTION` tells three times: where it begins, where it ends, and where it ends in a stream.
macro_rules! prepared {
    ($m:ident, $kind:ident { $($field:ident: $value:expr)? }) => {
        Theirs::$kind {
            $($field: $value,)?
            prepare_lsn: $m.prepare_lsn.0,
            end_lsn: $m.end_lsn.0,
            timestamp: $m.prepare_time_us,
            xid: $m.xid,
            gid: $m.gid.to_string(),
        }
    };
}

fn expected_of_transaction(message: &Message<'_>) -> Theirs {
    match message {
        Message::StreamStart(m) => Theirs::StreamStart { xid: m.xid, first_segment: m.first },
        Message::StreamCommit(m) => Theirs::StreamCommit {
            xid: m.xid,
            flags: 0,
            commit_lsn: m.commit_lsn.0,
            end_lsn: m.end_lsn.0,
            timestamp: m.commit_time_us,
        },
        Message::StreamAbort(m) => Theirs::StreamAbort {
            xid: m.xid,
            subtransaction_xid: m.subxid,
            abort_lsn: m.at.map(|at| at.lsn.0),
            abort_timestamp: m.at.map(|at| at.time_us),
        },
        Message::BeginPrepare(m) => prepared!(m, BeginPrepare {}),
        Message::Prepare(m) => prepared!(m, Prepare { flags: 0 }),
        Message::StreamPrepare(m) => prepared!(m, StreamPrepare { flags: 0 }),
        Message::CommitPrepared(m) => Theirs::CommitPrepared {
            flags: 0,
            commit_lsn: m.commit_lsn.0,
            end_lsn: m.end_lsn.0,
            timestamp: m.commit_time_us,
            xid: m.xid,
            gid: m.gid.to_string(),
        },
        Message::RollbackPrepared(m) => Theirs::RollbackPrepared {
            flags: 0,
            prepare_end_lsn: m.prepare_end_lsn.0,
            rollback_end_lsn: m.rollback_end_lsn.0,
            prepare_timestamp: m.prepare_time_us,
            rollback_timestamp: m.rollback_time_us,
            xid: m.xid,
            gid: m.gid.to_string(),
        },
        _ => Theirs::StreamStop,
    }
}
