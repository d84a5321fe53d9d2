//! Whether we may replicate, proven by a replication connection, and what our slot and those of others look like.

use super::{Code, Context, Finding, Severity, up_to_five};
use crate::config::ByteSize;
use crate::demo::text::bytes;
use crate::demo::text::counted;
use crate::ops::ask::Side;
use crate::ops::check::provider::Provider;
use crate::publisher::connection::{ReplicationConnection, ReplicationError};
use crate::publisher::slot::{self, Slot, Verdict};
use crate::sides::SidesError;
use crate::sql;
use crate::types::{SlotName, quote_identifier, quote_literal};

const REFUSED: Code = Code {
    code: "replication-refused",
    severity: Severity::Blocker,
    meaning: "The publisher refuses our replication connection.",
};
const POOLER: Code = Code {
    code: "pooler",
    severity: Severity::Blocker,
    meaning: "The publisher's address leads to a connection pooler, which lets queries through but cannot replicate.",
};
const SLOT_MISSING: Code = Code {
    code: "slot-missing",
    severity: Severity::Notice,
    meaning: "Our slot is not there yet: it is made at the first start.",
};
const SLOT_NOT_MADE: Code = Code {
    code: "slot-not-made",
    severity: Severity::Blocker,
    meaning: "Our slot is not there, and create_slot is off: nobody makes it.",
};
const SLOT_REFUSED: Code = Code {
    code: "slot-refused",
    severity: Severity::Blocker,
    meaning: "The slot named with --slot is not ours: streaming it would lose somebody else's rows.",
};
const SLOT_IN_USE: Code = Code {
    code: "slot-in-use",
    severity: Severity::Notice,
    meaning: "A seqshadow streams our slot: one that is started now would wait for its end.",
};
const SLOT_LOST: Code = Code {
    code: "slot-lost",
    severity: Severity::Warning,
    meaning: "Our slot's WAL is gone: it is dropped and made anew, and everything is looked at again.",
};
const SLOT_RETAINS: Code = Code {
    code: "slot-retains-wal",
    severity: Severity::Warning,
    meaning: "Our slot holds back more WAL than max_retained_wal: the sidecar is stopped, or does not keep up.",
};
const INACTIVE_SLOT: Code = Code {
    code: "inactive-slot",
    severity: Severity::Notice,
    meaning: "Nobody reads this slot of somebody else's, and it holds back WAL on the publisher.",
};
const LONG_WRITER: Code = Code {
    code: "long-writing-transaction",
    severity: Severity::Notice,
    meaning: "A transaction that has been writing for more than a minute delays the making of our slot until it ends.",
};
const WRITERS_HIDDEN: Code = Code {
    code: "writers-hidden",
    severity: Severity::Notice,
    meaning: "Transactions are writing, but our role may not see for how long: they delay the making of our slot.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[
    REFUSED,
    POOLER,
    SLOT_MISSING,
    SLOT_NOT_MADE,
    SLOT_REFUSED,
    SLOT_IN_USE,
    SLOT_LOST,
    SLOT_RETAINS,
    INACTIVE_SLOT,
    LONG_WRITER,
    WRITERS_HIDDEN,
];

/// `transactionid` locks are seen by everybody; since when they are held is told to few.
const WRITERS: &str = "
SELECT l.pid, floor(extract(epoch FROM clock_timestamp() - min(a.xact_start)) / 60)::int8
  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
 GROUP BY l.pid ORDER BY min(a.xact_start), l.pid";

/// Others' slots that nobody reads, and how much WAL each holds back.
const INACTIVE: &str = "
SELECT slot_name::text, slot_type::text, database::text,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                            ELSE pg_current_wal_lsn() END, restart_lsn)::int8
  FROM pg_replication_slots
 WHERE NOT active AND NOT temporary AND restart_lsn IS NOT NULL AND slot_name IS DISTINCT FROM $1
 ORDER BY 4 DESC, 1";

pub(super) async fn findings(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let mut found = Vec::new();
    let mut state = None;
    if let Some(name) = &context.settings.slot {
        let looked = slot::load(&context.publisher.client, context.publisher.version, name);
        let slot = sql::within(crate::publisher::look::LOOK_TIMEOUT, looked).await;
        let slot = slot.map_err(SidesError::on_publisher)?;
        let database: String =
            Side::Publisher.value(&context.publisher.client, "SELECT current_database()::text", &[]).await?;
        let verdict = slot::judge(name, slot.as_ref(), &database, &context.sides.slots);
        found.extend(about_slot(context, name, slot.as_ref(), &verdict));
        state = Some(verdict);
    }
    found.extend(connection(context, state.as_ref()).await);
    found.extend(inactive(context).await?);
    if matches!(state, None | Some(Verdict::Missing | Verdict::Lost { .. })) {
        found.extend(writers(context).await?);
    }
    Ok(found)
}

/// Opens a replication connection: on some services a role may replicate although no catalog says so.
async fn connection(context: &Context<'_>, slot: Option<&Verdict>) -> Option<Finding> {
    let conninfo = &context.sides.publisher_conninfo;
    let asked = async { ReplicationConnection::open(conninfo).await?.identify().await };
    let error = asked.await.err()?;
    // All WAL senders are at work, and one of them is ours: that is proof enough.
    if error.sqlstate() == Some("53300") && matches!(slot, Some(Verdict::Standby { .. })) {
        return None;
    }
    Some(refusal(&error, conninfo.user(), conninfo.dbname(), context.publisher_provider))
}

/// Why `user` got no replication connection to `database`, and what mends it.
fn refusal(error: &ReplicationError, user: &str, database: &str, provider: Provider) -> Finding {
    let is_pooler = matches!(error, ReplicationError::Connect(error) if error.is_pooler_refusal());
    if is_pooler {
        return Finding::on_publisher(
            &POOLER,
            "--publisher",
            format!("leads to a connection pooler: {error}"),
        )
        .advise("give the server's own host and port in --publisher");
    }
    let message = format!("may not replicate: {error}");
    let finding = Finding::on_publisher(&REFUSED, format!("role {}", quote_identifier(user)), message);
    match error.sqlstate() {
        Some("42501") => finding.remedy(provider.replication_right(user)),
        Some("53300") => {
            finding.advise("raise max_wal_senders, max_connections or the role's CONNECTION LIMIT")
        }
        Some(state) if state.starts_with("28") => finding.advise(format!(
            "in the publisher's pg_hba.conf: host {} {} OUR-ADDRESS/32 scram-sha-256",
            quote_identifier(database),
            quote_identifier(user)
        )),
        _ => finding.advise("mend what the publisher says, and check again"),
    }
}

fn about_slot(
    context: &Context<'_>,
    name: &SlotName,
    slot: Option<&Slot>,
    verdict: &Verdict,
) -> Vec<Finding> {
    let finding = |code: &Code, message: &str| Finding::on_publisher(code, format!("slot {name}"), message);
    let mut found = Vec::new();
    match verdict {
        Verdict::Missing if context.settings.create_slot => {
            found.push(finding(&SLOT_MISSING, "is not there yet: it is made at the first start"));
        }
        Verdict::Missing => {
            let literal = quote_literal(name.as_str()).trim_start().to_owned();
            let mend = format!("SELECT pg_create_logical_replication_slot({literal}, 'pgoutput');");
            found.push(finding(&SLOT_NOT_MADE, "is not there, and create_slot is off").mend(mend));
        }
        Verdict::Standby { pid } => {
            found.push(finding(&SLOT_IN_USE, &format!("is streamed by another seqshadow (pid {pid})")));
        }
        Verdict::Lost { why } => found.push(
            finding(&SLOT_LOST, &format!("is of no use any more: {why}; it is made anew at the next start"))
                .advise("start the sidecar, which drops it and makes it anew"),
        ),
        Verdict::Refused { why, action } => found.push(finding(&SLOT_REFUSED, why).advise(action)),
        Verdict::Ours | Verdict::Leaving => {}
    }
    let limit = context.settings.max_retained_wal;
    let is_ours = matches!(verdict, Verdict::Ours | Verdict::Standby { .. } | Verdict::Leaving);
    if let Some(slot) = slot.filter(|slot| is_ours && slot.retained_bytes > limit.0) {
        found.push(retains(name, slot, limit));
    }
    found
}

fn retains(name: &SlotName, slot: &Slot, limit: ByteSize) -> Finding {
    let message = format!(
        "holds back {} of WAL, more than the {limit} of max_retained_wal",
        bytes(slot.retained_bytes)
    );
    let finding = Finding::on_publisher(&SLOT_RETAINS, format!("slot {name}"), message);
    if slot.active_pid.is_some() {
        return finding.advise(
            "see what the running sidecar logs: its subscriber may be away, or a transaction be open for long",
        );
    }
    finding
        .mend(format!("SELECT pg_drop_replication_slot({});", quote_literal(name.as_str()).trim_start()))
        .advise(
            "start the sidecar; where it stays away, drop the slot, which it makes anew when it comes back",
        )
}

async fn inactive(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let side = Side::Publisher;
    let ours = context.settings.slot.as_ref().map(SlotName::as_str);
    let rows = side.rows(&context.publisher.client, INACTIVE, &[&ours]).await?;
    let mut found = Vec::new();
    for row in &rows {
        let name: String = side.get(row, 0)?;
        let kind: String = side.get(row, 1)?;
        let database: Option<String> = side.get(row, 2)?;
        let held: Option<i64> = side.get(row, 3)?;
        let Some(held) = held.and_then(|held| u64::try_from(held).ok()).filter(|held| *held > 0) else {
            continue;
        };
        let of = database.map(|name| format!(" of database {}", quote_identifier(&name))).unwrap_or_default();
        let message = format!("a {kind} slot{of}, is read by nobody and holds back {} of WAL", bytes(held));
        let literal = quote_literal(&name);
        found.push(
            Finding::on_publisher(&INACTIVE_SLOT, format!("slot {name}"), message)
                .mend(format!("SELECT pg_drop_replication_slot({});", literal.trim_start()))
                .advise("drop it only if nobody comes back for it: whose it is loses what was written since"),
        );
    }
    Ok(found)
}

/// Who would delay the making of a slot.
async fn writers(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let side = Side::Publisher;
    let (mut long, mut pids, mut hidden) = (Vec::new(), Vec::new(), Vec::new());
    for row in side.rows(&context.publisher.client, WRITERS, &[]).await? {
        // A prepared transaction has no process; it is looked for elsewhere.
        let Some(pid) = side.get::<Option<i32>>(&row, 0)? else { continue };
        match side.get::<Option<i64>>(&row, 1)? {
            Some(minutes @ 1..) => {
                long.push(format!("pid {pid} ({minutes} min)"));
                pids.push(pid);
            }
            Some(_) => {}
            None => hidden.push(format!("pid {pid}")),
        }
    }
    let object = |count: usize| counted(count, "transaction");
    let mut found = Vec::new();
    if !long.is_empty() {
        let message = format!("writing for long, delays the making of our slot: {}", up_to_five(&long));
        let ends: Vec<String> =
            pids.iter().map(|pid| format!("SELECT pg_terminate_backend({pid});")).collect();
        found.push(
            Finding::on_publisher(&LONG_WRITER, object(long.len()), message)
                .mend(ends.join("\n"))
                .advise("wait for its end; ending its session loses what it has done"),
        );
    }
    if !hidden.is_empty() {
        let message = format!("writing, for how long is hidden from our role: {}", up_to_five(&hidden));
        let role = quote_identifier(context.sides.publisher_conninfo.user());
        found.push(
            Finding::on_publisher(&WRITERS_HIDDEN, object(hidden.len()), message)
                .mend(format!("GRANT pg_read_all_stats TO {role};")),
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::ConnectError;
    use crate::wire::ServerError;

    #[test]
    fn each_refusal_says_what_mends_it() {
        let refused = |state: &str, message: &str, provider| {
            let error = ServerError {
                sqlstate: state.to_owned(),
                message: message.to_owned(),
                ..ServerError::default()
            };
            let error = ConnectError::Server { peer: "db:5432".to_owned(), error: Box::new(error) };
            let finding = refusal(&error.into(), "shadow", "My shop", provider);
            (finding.code, finding.mend.or(finding.advice).unwrap_or_default())
        };
        let none = Provider::None;
        assert_eq!(
            refused("42501", "permission denied", none),
            ("replication-refused", "ALTER ROLE shadow REPLICATION;".to_owned())
        );
        assert_eq!(
            refused("42501", "permission denied", Provider::Rds).1,
            "GRANT rds_replication TO shadow;"
        );
        let hba = refused("28000", "no pg_hba.conf entry", none).1;
        assert!(hba.ends_with("host \"My shop\" shadow OUR-ADDRESS/32 scram-sha-256"), "{hba}");
        let (code, mend) = refused("08P01", "unsupported startup parameter: replication", none);
        assert!(code == "pooler" && mend.contains("own host and port"), "{code} {mend}");
        assert!(refused("53300", "too many", none).1.contains("max_wal_senders"));
    }
}
