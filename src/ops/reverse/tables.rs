//! The tables that the way back is about, and what would spoil it.
//!
//! In: the forward publications on the old server. Out: [`Tables`], with what each of them lacks on either side.

use std::collections::{BTreeSet, HashMap};

use super::ends::{Ends, NEW, OLD};
use crate::sides::SidesError;
use crate::types::QualifiedName;

/// What is to be published.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// Every table of the database, as forwards.
    pub all: bool,
    /// Rows of partitions are published as rows of their root.
    pub via_root: bool,
    pub names: Vec<QualifiedName>,
    /// Forwards there are row filters or column lists.
    pub narrowed: bool,
    /// Not on the new server, not on the old one.
    pub missing_on_new: Vec<QualifiedName>,
    pub missing_on_old: Vec<QualifiedName>,
    /// Their UPDATEs and DELETEs could not be published, and would fail on the new server.
    pub without_identity: Vec<QualifiedName>,
    /// Columns of the new server that the old one does not have.
    pub columns_missing_on_old: Vec<(QualifiedName, String)>,
    /// Where applying does more than to write rows, which `default_transaction_read_only` refuses: triggers that fire for
    /// replicated rows, and defaults of columns that only the old server has.
    pub refused_when_read_only: Vec<String>,
}

/// One table on one server.
struct There {
    columns: BTreeSet<String>,
    with_default: BTreeSet<String>,
    triggers: Vec<String>,
    has_identity: bool,
}

/// For each table asked for that is there. A partitioned one has an identity if each of its leaves has.
const THERE: &str = "
SELECT t.schema, t.name,
       (SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
       (SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
           AND (a.atthasdef OR a.attidentity <> '')),
       (SELECT coalesce(array_agg(g.tgname::text), '{}') FROM pg_trigger g
         WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled IN ('A', 'R')),
       NOT EXISTS (
         SELECT FROM (SELECT c.oid AS relid WHERE c.relkind = 'r'
                      UNION SELECT p.relid FROM pg_partition_tree(c.oid) p WHERE p.isleaf) leaf
           JOIN pg_class l ON l.oid = leaf.relid
          WHERE l.relreplident <> 'f' AND NOT EXISTS (
                SELECT FROM pg_index i WHERE i.indrelid = l.oid AND i.indisvalid AND i.indimmediate
                   AND (l.relreplident = 'd' AND i.indisprimary OR l.relreplident = 'i' AND i.indisreplident)))
  FROM unnest($1::text[], $2::text[]) AS t(schema, name)
  JOIN pg_namespace n ON n.nspname = t.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name AND c.relkind IN ('r', 'p')";

impl Tables {
    /// Reads what the forward publications publish, and how it stands with each table.
    ///
    /// # Errors
    /// Where a connection is lost.
    pub(super) async fn load(ends: &Ends) -> Result<Self, SidesError> {
        let mut tables = Tables::default();
        let via_root = if ends.old.version >= 130_000 { "pubviaroot" } else { "false" };
        let sql = format!(
            "SELECT coalesce(bool_or(puballtables), false), coalesce(bool_or({via_root}), false)
               FROM pg_publication WHERE pubname = ANY($1)"
        );
        for row in OLD.rows(&ends.old.client, &sql, &[&ends.publications]).await? {
            (tables.all, tables.via_root) = (OLD.get(&row, 0)?, OLD.get(&row, 1)?);
        }
        let sql = "SELECT DISTINCT schemaname::text, tablename::text FROM pg_publication_tables
                    WHERE pubname = ANY($1) ORDER BY 1, 2";
        let mut names = BTreeSet::new();
        for row in OLD.rows(&ends.old.client, sql, &[&ends.publications]).await? {
            names.insert(QualifiedName::new(OLD.get::<String>(&row, 0)?, OLD.get::<String>(&row, 1)?));
        }
        if ends.old.version >= 150_000 {
            let sql =
                "SELECT EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                        WHERE p.pubname = ANY($1) AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL))";
            tables.narrowed = OLD.value(&ends.old.client, sql, &[&ends.publications]).await?;
        }
        if tables.all {
            // A publication of all tables publishes those too that only the new server has.
            let sql = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                        WHERE c.oid >= 16384 AND c.relpersistence = 'p'
                          AND CASE WHEN $1 THEN c.relkind IN ('r', 'p') AND NOT c.relispartition
                                   ELSE c.relkind = 'r' END";
            for row in NEW.rows(&ends.new.client, sql, &[&tables.via_root]).await? {
                names.insert(QualifiedName::new(NEW.get::<String>(&row, 0)?, NEW.get::<String>(&row, 1)?));
            }
        }
        tables.names = names.into_iter().collect();
        tables.compare(ends).await?;
        Ok(tables)
    }

    async fn compare(&mut self, ends: &Ends) -> Result<(), SidesError> {
        let schemas: Vec<&str> = self.names.iter().map(|name| name.schema.as_str()).collect();
        let names: Vec<&str> = self.names.iter().map(|name| name.name.as_str()).collect();
        let read = async |side: crate::ops::ask::Side, client| {
            let mut there = HashMap::new();
            for row in side.rows(client, THERE, &[&schemas, &names]).await? {
                let name = QualifiedName::new(side.get::<String>(&row, 0)?, side.get::<String>(&row, 1)?);
                let columns: Vec<String> = side.get(&row, 2)?;
                let with_default: Vec<String> = side.get(&row, 3)?;
                let one = There {
                    columns: columns.into_iter().collect(),
                    with_default: with_default.into_iter().collect(),
                    triggers: side.get(&row, 4)?,
                    has_identity: side.get(&row, 5)?,
                };
                there.insert(name, one);
            }
            Ok::<_, SidesError>(there)
        };
        let old = read(OLD, &ends.old.client).await?;
        let new = read(NEW, &ends.new.client).await?;
        for name in &self.names {
            let (Some(old), Some(new)) = (old.get(name), new.get(name)) else {
                if !old.contains_key(name) {
                    self.missing_on_old.push(name.clone());
                }
                if !new.contains_key(name) {
                    self.missing_on_new.push(name.clone());
                }
                continue;
            };
            if !new.has_identity {
                self.without_identity.push(name.clone());
            }
            let missing = new.columns.difference(&old.columns);
            self.columns_missing_on_old.extend(missing.map(|column| (name.clone(), column.clone())));
            self.refused_when_read_only.extend(old.triggers.iter().map(|t| format!("trigger {t} of {name}")));
            let filled_in = old.with_default.difference(&new.columns);
            self.refused_when_read_only.extend(filled_in.map(|c| format!("the default of {name}.{c}")));
        }
        Ok(())
    }
}
