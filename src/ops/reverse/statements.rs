//! The SQL of each step, one text for the runbook and for `--apply`.
//!
//! In: names and what was found. Out: statements, ended, that run in psql and in a session of ours alike. What belongs
//! together is in one transaction, so that a comment of ours is never missing on what we have made.

use super::names::{Mark, Names};
use super::tables::Tables;
use crate::types::{quote_identifier, quote_literal};

/// A literal without the blank before `E'…'`.
fn literal(text: &str) -> String {
    quote_literal(text).trim_start().to_owned()
}

/// On the new server.
pub(super) fn create_publication(names: &Names, tables: &Tables, mark: &Mark) -> String {
    let what = if tables.all {
        "ALL TABLES".to_owned()
    } else {
        let list: Vec<String> = tables.names.iter().map(ToString::to_string).collect();
        format!("TABLE\n  {}", list.join(",\n  "))
    };
    let with = if tables.via_root { "\n  WITH (publish_via_partition_root = true)" } else { "" };
    format!(
        "BEGIN;\nCREATE PUBLICATION {name} FOR {what}{with};\nCOMMENT ON PUBLICATION {name} IS {comment};\nCOMMIT;",
        name = names.object,
        comment = literal(&mark.comment())
    )
}

/// On the new server.
pub(super) fn disable(subscription: &str) -> String {
    format!("ALTER SUBSCRIPTION {} DISABLE;", quote_identifier(subscription))
}

/// On the new server.
pub(super) fn enable(subscription: &str) -> String {
    format!("ALTER SUBSCRIPTION {} ENABLE;", quote_identifier(subscription))
}

/// On the new server.
pub(super) fn create_slot(names: &Names) -> String {
    format!("SELECT lsn FROM pg_create_logical_replication_slot({}, 'pgoutput');", literal(&names.object))
}

/// On either server.
pub(super) fn drop_slot(slot: &str) -> String {
    format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots\n  WHERE slot_name = {};",
        literal(slot)
    )
}

/// On either server. The slot is dropped by itself, so that one server need not reach the other, and nothing is left
/// behind whichever of the two steps is the last that was made.
pub(super) fn drop_subscription(subscription: &str) -> String {
    let name = quote_identifier(subscription);
    format!(
        "BEGIN;\nALTER SUBSCRIPTION {name} DISABLE;\nALTER SUBSCRIPTION {name} SET (slot_name = NONE);\n\
         DROP SUBSCRIPTION {name};\nCOMMIT;"
    )
}

/// On the new server.
pub(super) fn drop_publication(names: &Names) -> String {
    format!("DROP PUBLICATION {};", names.object)
}

/// On the old server, of that version. Its slot is there and its rows are there: nothing is made or copied.
fn create(names: &Names, connection: &str, old_version: u32, enabled: bool) -> String {
    let origin = if old_version >= 160_000 { ", origin = none" } else { "" };
    format!(
        "CREATE SUBSCRIPTION {name}\n  CONNECTION {connection}\n  PUBLICATION {name}\n  \
         WITH (copy_data = false, create_slot = false, slot_name = {name},\n        enabled = {enabled}{origin});",
        name = names.object,
        connection = literal(connection)
    )
}

/// On the old server. `comment` is an SQL expression for a literal: a psql variable, or a literal.
pub(super) fn create_subscription(
    names: &Names,
    connection: &str,
    old_version: u32,
    comment: &str,
) -> String {
    format!(
        "BEGIN;\n{}\nCOMMENT ON SUBSCRIPTION {} IS {comment};\nCOMMIT;",
        create(names, connection, old_version, true),
        names.object
    )
}

/// The same to see whether it could be done: the server connects, looks, and forgets it.
pub(super) fn rehearse_subscription(names: &Names, connection: &str, old_version: u32) -> String {
    format!("BEGIN;\n{}\nROLLBACK;", create(names, connection, old_version, false))
}

/// The same of the publication.
pub(super) fn rehearse_publication(names: &Names, tables: &Tables) -> String {
    create_publication(names, tables, &Mark::default()).replace("\nCOMMIT;", "\nROLLBACK;")
}

/// A literal of a comment, for [`create_subscription`].
pub(super) fn comment(mark: &Mark) -> String {
    literal(&mark.comment())
}

/// Rows that a slot of the old server has yet to send, as `FROM …`: a message each, with `kind` as pgoutput names it.
pub(super) fn messages(slot: &str, publications: &[String], old_version: u32, local_only: bool) -> String {
    let quoted: Vec<String> =
        publications.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    let origin = if local_only && old_version >= 160_000 { ", 'origin', 'none'" } else { "" };
    format!(
        "(SELECT lsn, xid, get_byte(data, 0) AS kind FROM pg_logical_slot_peek_binary_changes({}, NULL, NULL,\n    \
         'proto_version', '1', 'publication_names', {}{origin})) AS message",
        literal(slot),
        literal(&quoted.join(","))
    )
}

/// The kinds of [`messages`] that are rows or truncates: `D`, `I`, `T`, `U`.
pub(super) const CHANGES: &str = "(68, 73, 84, 85)";
/// The kind that says that its transaction came by replication: `O`.
pub(super) const ORIGIN: i32 = 79;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::QualifiedName;

    #[test]
    fn names_are_quoted_and_old_servers_are_not_asked_for_an_origin() {
        let names = Names::of(&"s".parse().unwrap()).unwrap();
        let tables = Tables {
            names: vec![QualifiedName::new("public", "a"), QualifiedName::new("Größe", "b c")],
            via_root: true,
            ..Tables::default()
        };
        let sql = create_publication(&names, &tables, &Mark::default());
        assert!(sql.contains("FOR TABLE\n  public.a,\n  \"Größe\".\"b c\"\n  WITH (publish_via"), "{sql}");
        assert!(rehearse_publication(&names, &tables).ends_with("ROLLBACK;"));
        assert!(!create_subscription(&names, "host=a", 150_000, "'x'").contains("origin"));
        let newer = create_subscription(&names, "host=a password='it\\'s'", 160_000, "'x'");
        assert!(newer.contains("enabled = true, origin = none)"), "{newer}");
        assert!(newer.contains("CONNECTION E'host=a password=''it\\\\''s'''"), "{newer}");
        let peek = messages("s", &["a".to_owned(), "B\"'".to_owned()], 120_000, true);
        assert!(peek.contains("'publication_names', '\"a\",\"B\"\"''\"')"), "{peek}");
    }
}
