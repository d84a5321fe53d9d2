//! Small domain types made at the edge and trusted afterwards: [`Lsn`], [`Oid`], [`SlotName`], [`QualifiedName`].

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use tokio_postgres::types::{FromSql, PgLsn, Type, accepts};

/// A position in the write-ahead log, printed as PostgreSQL prints `pg_lsn` (`16/B374D848`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, PostgreSQL's `InvalidXLogRecPtr`.
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes from `earlier` to `self`, zero when `self` is not past it.
    #[must_use]
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'a> FromSql<'a> for Lsn {
    fn from_sql(of: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Lsn(PgLsn::from_sql(of, raw)?.into()))
    }

    accepts!(PG_LSN);
}

/// Why a text is not an [`Lsn`].
#[derive(Debug, thiserror::Error)]
#[error("expected a WAL position like 16/B374D848, got {got:?}")]
pub struct LsnError {
    got: String,
}

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |part: &str| {
            let fits = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            if fits { u64::from_str_radix(part, 16).ok() } else { None }
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn((half(high)? << 32) | half(low)?)))
            .ok_or_else(|| LsnError { got: text.chars().take(40).collect() })
    }
}

/// An object id of either server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Oid(pub u32);

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A replication slot's name: 1 to 63 of `a-z 0-9 _`, as PostgreSQL's `ReplicationSlotValidateName` demands.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SlotName(String);

/// Why a text cannot name a slot.
#[derive(Debug, thiserror::Error)]
pub enum SlotNameError {
    #[error("a replication slot name must not be empty")]
    Empty,
    #[error("replication slot name {name:?} is {len} bytes long, at most 63 are allowed")]
    TooLong { name: String, len: usize },
    #[error(
        "replication slot name {name:?} contains {found:?}; only lower case letters, digits and _ are allowed"
    )]
    Character { name: String, found: char },
}

impl SlotName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = SlotNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name.is_empty() {
            return Err(SlotNameError::Empty);
        }
        if let Some(found) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '_')) {
            return Err(SlotNameError::Character { name: name.to_owned(), found });
        }
        if name.len() > 63 {
            return Err(SlotNameError::TooLong { name: name.to_owned(), len: name.len() });
        }
        Ok(SlotName(name.to_owned()))
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `schema.name` of a table or sequence, unquoted inside and quoted where shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QualifiedName {
    pub schema: String,
    pub name: String,
}

impl QualifiedName {
    #[must_use]
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        QualifiedName { schema: schema.into(), name: name.into() }
    }
}

/// Shown so that it can be pasted into SQL: identifiers are quoted where PostgreSQL needs it.
impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

/// `name` as an SQL identifier, quoted unless it is a plain lower-case word that is not a keyword.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !RESERVED.contains(&name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// `text` as an SQL string literal (`'…'`, or `E'…'` where it holds a backslash), whatever
/// `standard_conforming_strings` says.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// Reserved key words of PostgreSQL's manual, appendix C: those which cannot name a relation unquoted.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "binary",
    "bigint",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_and_prints_as_postgres_does() {
        assert_eq!("16/B374D848".parse::<Lsn>().unwrap(), Lsn(0x16_B374_D848));
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        for bad in ["", "16", "16/", "/1", "g/1", "123456789/0", "+1/2"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn slot_names_follow_the_server_rule() {
        assert!("orders_1".parse::<SlotName>().is_ok());
        assert!("x".repeat(63).parse::<SlotName>().is_ok());
        for bad in ["", "Orders", "a-b", "a b", "ü"] {
            assert!(bad.parse::<SlotName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(64).parse::<SlotName>().is_err());
    }

    #[test]
    fn names_are_quoted_where_sql_needs_it() {
        assert_eq!(QualifiedName::new("public", "orders_id_seq").to_string(), "public.orders_id_seq");
        assert_eq!(QualifiedName::new("Größe", "a\"b").to_string(), "\"Größe\".\"a\"\"b\"");
        assert_eq!(quote_identifier("user"), "\"user\"");
        assert_eq!(quote_literal("o'clock"), "'o''clock'");
        assert_eq!(quote_literal("a\\b"), " E'a\\\\b'");
    }
}
