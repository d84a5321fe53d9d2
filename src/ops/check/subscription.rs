//! The subscriptions that bring the rows: whether they are there, at work, and get what they need.

use std::collections::BTreeSet;

use super::{Code, Context, Finding, Severity, up_to_five};
use crate::demo::text::counted;
use crate::ops::ask::Side;
use crate::ops::cutover::applier;
use crate::readings::{Trouble, trouble};
use crate::sides::SidesError;
use crate::sql::SqlError;
use crate::subscriber::subscription::Subscription;
use crate::types::{QualifiedName, quote_identifier};

const NONE: Code = Code {
    code: "no-subscription",
    severity: Severity::Notice,
    meaning: "The subscriber's database has no subscription: rows come by another way, or not yet.",
};
const SEVERAL: Code = Code {
    code: "several-subscriptions",
    severity: Severity::Notice,
    meaning: "The subscriber's database has several subscriptions and none was named: one sidecar for each follows \
              all of them.",
};
const DISABLED: Code = Code {
    code: "subscription-disabled",
    severity: Severity::Warning,
    meaning: "The subscription is disabled: no row reaches the subscriber.",
};
const NO_WORKER: Code = Code {
    code: "subscription-not-running",
    severity: Severity::Warning,
    meaning: "The subscription is enabled and no worker applies its changes: it fails again and again, or there are \
              too few workers.",
};
const ERRORS: Code = Code {
    code: "subscription-errors",
    severity: Severity::Warning,
    meaning: "Applying or copying failed since the statistics of the subscription were reset.",
};
const NOT_READY: Code = Code {
    code: "relations-not-ready",
    severity: Severity::Warning,
    meaning: "Tables of the subscription are not copied or not caught up yet.",
};
const NOT_SUBSCRIBED: Code = Code {
    code: "table-not-subscribed",
    severity: Severity::Blocker,
    meaning: "A table is published, and no subscription knows it, as after its making: its rows do not come.",
};
const SLOT_MISSING: Code = Code {
    code: "subscription-slot-missing",
    severity: Severity::Blocker,
    meaning: "The subscription has no slot on the publisher: changes made meanwhile are lost to it for good.",
};
const SLOT_LOST: Code = Code {
    code: "subscription-slot-lost",
    severity: Severity::Blocker,
    meaning: "The WAL that the subscription's slot needs is gone: the subscription cannot go on.",
};
const DISABLE_ON_ERROR: Code = Code {
    code: "disable-on-error",
    severity: Severity::Notice,
    meaning: "The first conflict disables the subscription until somebody enables it.",
};
const DIFFERENT_PUBLICATIONS: Code = Code {
    code: "publications-differ",
    severity: Severity::Notice,
    meaning: "The sidecar follows other publications than the subscription: right for a narrow one of its own, wrong \
              if a table is in one of them only.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[
    NONE,
    SEVERAL,
    DISABLED,
    NO_WORKER,
    ERRORS,
    NOT_READY,
    NOT_SUBSCRIBED,
    SLOT_MISSING,
    SLOT_LOST,
    DISABLE_ON_ERROR,
    DIFFERENT_PUBLICATIONS,
];

/// `disable_on_error` and statistics of errors are there since then.
const VERSION_ERRORS: u32 = 150_000;

pub(super) async fn findings(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let mut found = Vec::new();
    let all = &context.sides.subscriptions;
    let database = quote_identifier(context.sides.subscriber_conninfo.dbname());
    if all.is_empty() {
        let message = "has no subscription: the sequences are followed beside whatever brings the rows";
        found.push(Finding::on_subscriber(&NONE, format!("database {database}"), message));
    }
    let looked_at: Vec<&Subscription> = match &context.sides.chosen {
        Some(chosen) => vec![chosen],
        None => all.iter().collect(),
    };
    if looked_at.len() > 1 {
        let names: Vec<String> = looked_at.iter().map(|one| quote_identifier(&one.name)).collect();
        let message = format!("has several subscriptions: {}", up_to_five(&names));
        found.push(
            Finding::on_subscriber(&SEVERAL, format!("database {database}"), message)
                .advise("name one with --subscription, and run one sidecar for each"),
        );
    }
    for subscription in looked_at {
        found.extend(at_work(context, subscription).await?);
        found.extend(errors(context, subscription).await?);
        found.extend(relations(context, subscription).await?);
    }
    if !all.is_empty() {
        let missing = match applier::not_subscribed(context.sides, &context.publisher.client).await {
            // Published tables that are locked are told of by whoever compares them.
            Err(SidesError::Sql { source: SqlError::Query(error), .. })
                if trouble(&error) == Some(Trouble::Locked) =>
            {
                Vec::new()
            }
            missing => missing?,
        };
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        if !names.is_empty() {
            let message = format!("published, and not known to any subscription: {}", up_to_five(&names));
            let finding = Finding::on_subscriber(&NOT_SUBSCRIBED, counted(names.len(), "table"), message);
            found.push(refreshing(context, finding, &missing).await?);
        }
    }
    if let Some(chosen) = &context.sides.chosen {
        found.extend(slot(context, chosen).await?);
        found.extend(publications(context, chosen));
    }
    Ok(found)
}

/// What a lost slot costs.
const ANEW: &str = "then make the subscription anew, with a copy into emptied tables: what was changed on the publisher \
                    meanwhile does not come otherwise";

/// With what makes `missing` known to a subscription. It can be refreshed while it is enabled, and every table that it
/// is to follow is there.
async fn refreshing(
    context: &Context<'_>,
    finding: Finding,
    missing: &[QualifiedName],
) -> Result<Finding, SidesError> {
    let schemas: Vec<&str> = missing.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = missing.iter().map(|table| table.name.as_str()).collect();
    let sql = "SELECT k.schema, k.name FROM unnest($1::text[], $2::text[]) AS k (schema, name)
                WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                   WHERE n.nspname = k.schema AND c.relname = k.name AND c.relkind IN ('r', 'p'))";
    let side = Side::Subscriber;
    let mut absent = Vec::new();
    for row in side.rows(&context.sides.subscriber.client, sql, &[&schemas, &names]).await? {
        let name = QualifiedName::new(side.get::<String>(&row, 0)?, side.get::<String>(&row, 1)?);
        absent.push(name.to_string());
    }
    let all = &context.sides.subscriptions;
    let refresh = |one: &Subscription| {
        format!("ALTER SUBSCRIPTION {} REFRESH PUBLICATION", quote_identifier(&one.name))
    };
    let each = all.iter().map(refresh).collect::<Vec<_>>().join(", ");
    if !absent.is_empty() {
        return Ok(finding.advise(format!(
            "{} not on the subscriber: make that first, then {each}",
            if absent.len() == 1 {
                format!("{} is", absent.join(""))
            } else {
                format!("{} are", up_to_five(&absent))
            }
        )));
    }
    if !all.iter().any(|one| one.enabled) {
        return Ok(finding.advise(format!("once it is enabled, {each}")));
    }
    let enabled = all.iter().filter(|one| one.enabled).map(|one| format!("{};", refresh(one)));
    Ok(finding
        .mend(enabled.collect::<Vec<_>>().join("\n"))
        .advise("this copies their rows: on the subscriber they have to be empty"))
}

fn object(subscription: &Subscription) -> String {
    format!("subscription {}", quote_identifier(&subscription.name))
}

/// Whether it is enabled, and a worker is there. Ordinary roles of 12 may not read a subscription's OID, so that it is
/// known by its name.
async fn at_work(context: &Context<'_>, one: &Subscription) -> Result<Option<Finding>, SidesError> {
    let name = quote_identifier(&one.name);
    if !one.enabled {
        let message = "is disabled: no row reaches the subscriber";
        let disabled = Finding::on_subscriber(&DISABLED, object(one), message);
        return Ok(Some(match &one.slot {
            Some(_) => disabled.mend(format!("ALTER SUBSCRIPTION {name} ENABLE;")),
            None => disabled.advise("it has no slot, without which it cannot be enabled"),
        }));
    }
    let sql = "SELECT EXISTS (SELECT FROM pg_stat_subscription
                               WHERE subname = $1 AND pid IS NOT NULL AND relid IS NULL)";
    let side = Side::Subscriber;
    let client = &context.sides.subscriber.client;
    let runs: bool = side.value(client, sql, &[&one.name]).await?;
    let message = "is enabled, and no worker applies its changes: the subscriber's log says why";
    Ok((!runs).then(|| {
        Finding::on_subscriber(&NO_WORKER, object(one), message)
            .advise("mend what the log says; max_logical_replication_workers must allow one more")
    }))
}

/// What went wrong since the statistics were reset, and what happens when something does.
async fn errors(context: &Context<'_>, one: &Subscription) -> Result<Vec<Finding>, SidesError> {
    let version = context.sides.subscriber.version;
    if version < VERSION_ERRORS {
        return Ok(Vec::new());
    }
    let copies = if version >= 190_000 { "sync_table_error_count" } else { "sync_error_count" };
    let sql = format!(
        "SELECT s.subdisableonerr, s.oid, t.apply_error_count, t.{copies}
           FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
           LEFT JOIN pg_stat_subscription_stats t ON t.subid = s.oid
          WHERE d.datname = current_database() AND s.subname = $1"
    );
    let side = Side::Subscriber;
    let rows = side.rows(&context.sides.subscriber.client, &sql, &[&one.name]).await?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let oid: u32 = side.get(row, 1)?;
    let apply = side.get::<Option<i64>>(row, 2)?.unwrap_or(0);
    let copy = side.get::<Option<i64>>(row, 3)?.unwrap_or(0);
    let mut found = Vec::new();
    if apply > 0 || copy > 0 {
        let message = format!("has failed: {apply} times while applying, {copy} while copying");
        found.push(
            Finding::on_subscriber(&ERRORS, object(one), message)
                .mend(format!("SELECT pg_stat_reset_subscription_stats({oid});"))
                .advise("mend what the subscriber's log says first: this only counts anew"),
        );
    }
    if side.get::<bool>(row, 0)? {
        let name = quote_identifier(&one.name);
        let message = "has disable_on_error: the first conflict disables it until somebody enables it";
        found.push(
            Finding::on_subscriber(&DISABLE_ON_ERROR, object(one), message)
                .mend(format!("ALTER SUBSCRIPTION {name} SET (disable_on_error = false);")),
        );
    }
    Ok(found)
}

/// Tables that are not followed yet. (From 19 on sequences are listed there too, which are another matter.)
async fn relations(context: &Context<'_>, one: &Subscription) -> Result<Option<Finding>, SidesError> {
    let sql = "SELECT n.nspname::text, c.relname::text, r.srsubstate::text
                 FROM pg_subscription_rel r
                 JOIN pg_class c ON c.oid = r.srrelid AND c.relkind <> 'S'
                 JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE r.srsubstate <> 'r'
                  AND r.srsubid IN (SELECT subid FROM pg_stat_subscription WHERE subname = $1)
                ORDER BY 1, 2";
    let side = Side::Subscriber;
    let mut names = Vec::new();
    for row in side.rows(&context.sides.subscriber.client, sql, &[&one.name]).await? {
        let name = QualifiedName::new(side.get::<String>(&row, 0)?, side.get::<String>(&row, 1)?);
        let state = match side.get::<String>(&row, 2)?.as_str() {
            "i" => "not begun",
            "d" => "being copied",
            "f" => "copied",
            "s" => "catching up",
            _ => "in another state",
        };
        names.push(format!("{name} ({state})"));
    }
    let count = names.len();
    let message = format!("{count} not ready: {}", up_to_five(&names));
    Ok((count > 0).then(|| {
        Finding::on_subscriber(&NOT_READY, object(one), message)
            .advise("wait for the copies; the subscriber's log says what stops them")
    }))
}

/// Whether the subscription's slot is there, on the publisher that we are connected to.
async fn slot(context: &Context<'_>, one: &Subscription) -> Result<Option<Finding>, SidesError> {
    let name = quote_identifier(&one.name);
    let disable = format!("ALTER SUBSCRIPTION {name} DISABLE;\n");
    let Some(slot) = &one.slot else {
        let message = "has no slot (slot_name is NONE): it cannot be enabled";
        return Ok(Some(
            Finding::on_subscriber(&SLOT_MISSING, object(one), message)
                .mend(format!(
                    "{}DROP SUBSCRIPTION {name};",
                    if one.enabled { disable } else { String::new() }
                ))
                .advise(ANEW),
        ));
    };
    let version = context.publisher.version;
    let status = if version >= 130_000 { "wal_status" } else { "NULL::text" };
    let reason = if version >= 170_000 { "invalidation_reason" } else { "NULL::text" };
    let sql = format!(
        "SELECT {status}, {reason}, s.slot_name IS NOT NULL, pg_is_in_recovery()
           FROM (SELECT) one LEFT JOIN pg_replication_slots s ON s.slot_name = $1"
    );
    let side = Side::Publisher;
    let rows = side.rows(&context.publisher.client, &sql, &[slot]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if !side.get::<bool>(row, 2)? {
        // A standby that we follow need not be the server that the subscription follows.
        if side.get::<bool>(row, 3)? {
            return Ok(None);
        }
        let message = format!("has the slot {slot}, which is not there on the publisher");
        let leave =
            format!("{disable}ALTER SUBSCRIPTION {name} SET (slot_name = NONE);\nDROP SUBSCRIPTION {name};");
        let missing = Finding::on_subscriber(&SLOT_MISSING, object(one), message);
        return Ok(Some(missing.mend(leave).advise(ANEW)));
    }
    let status: Option<String> = side.get(row, 0)?;
    let reason: Option<String> = side.get(row, 1)?;
    let why = match (reason, status.as_deref()) {
        (Some(reason), _) => format!("it was invalidated ({reason})"),
        (None, Some("lost")) => "its WAL was removed (max_slot_wal_keep_size)".to_owned(),
        _ => return Ok(None),
    };
    let message = format!("has the slot {slot}, and cannot go on with it: {why}");
    let lost = Finding::on_subscriber(&SLOT_LOST, object(one), message);
    Ok(Some(lost.mend(format!("DROP SUBSCRIPTION {name};")).advise(ANEW)))
}

fn publications(context: &Context<'_>, one: &Subscription) -> Option<Finding> {
    let ours: BTreeSet<&String> = context.sides.publications.iter().collect();
    let theirs: BTreeSet<&String> = one.publications.iter().collect();
    let names = |set: &BTreeSet<&String>| {
        let names: Vec<String> = set.iter().map(|name| quote_identifier(name)).collect();
        up_to_five(&names)
    };
    let message = format!("follows {}, the sidecar follows {}", names(&theirs), names(&ours));
    (ours != theirs).then(|| Finding::on_subscriber(&DIFFERENT_PUBLICATIONS, object(one), message))
}
