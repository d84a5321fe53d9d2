//! The columns of published tables that are not alike on both sides, and what makes them so.
//!
//! In: [`Both`], and what the missing sequences bring. Out: findings, each about one column. Columns of partitions are
//! mended at their root.

use std::collections::{HashMap, HashSet};

use super::bundle::bundle;
use super::relations::{Both, Column, Published, Relation};
use super::schema::{COLUMN_MISSING, COLUMN_REQUIRED, DEFAULT_MISSING, TYPE_DIFFERS, TYPE_WIDER};
use super::{Coming, Context, Finding};
use crate::ops::ask::Side;
use crate::readings::trouble;
use crate::sides::SidesError;
use crate::sql::SqlError;
use crate::types::{Oid, quote_identifier};

/// A column that is not alike.
struct Difference<'a> {
    there: &'a Relation,
    here: &'a Relation,
    /// `here`, or the root that it is a part of.
    root: &'a Relation,
    what: What<'a>,
}

/// The publisher's column, and the subscriber's.
#[derive(Clone, Copy)]
enum What<'a> {
    Missing(&'a Column),
    Type(&'a Column, &'a Column),
    Wider(&'a Column, &'a Column),
    Default(&'a Column, &'a Column),
    Required(&'a Column),
}

impl<'a> What<'a> {
    fn column(&self) -> &'a Column {
        match self {
            What::Missing(column)
            | What::Type(column, _)
            | What::Wider(column, _)
            | What::Default(column, _)
            | What::Required(column) => column,
        }
    }
}

impl Difference<'_> {
    fn name(&self) -> String {
        quote_identifier(&self.what.column().name)
    }

    fn object(&self) -> String {
        format!("{}.{}", self.here.name, self.name())
    }

    fn alter(&self) -> String {
        format!("ALTER TABLE {} ALTER COLUMN {}", self.root.name, self.name())
    }

    fn key(&self) -> (Oid, String) {
        (self.there.oid, self.what.column().name.clone())
    }
}

pub(super) async fn findings(
    context: &Context<'_>,
    both: &Both,
    coming: &Coming,
) -> Result<Vec<Finding>, SidesError> {
    let mut all = Vec::new();
    for (table, there, here) in both.pairs() {
        compare(&mut all, both, table, there, here);
    }
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let known = Known::load(context, &all, coming).await?;
    let [mut missing, mut required, mut types, mut wider, mut defaults] = [const { Vec::new() }; 5];
    for one in &all {
        match one.what {
            What::Missing(column) => missing.push(lacks(one, column, &known)),
            What::Required(column) => required.push(is_required(one, column, both)),
            What::Type(column, same) => types.push(type_differs(one, column, same, &known)),
            What::Wider(column, same) => {
                wider.push(Finding::on_subscriber(&TYPE_WIDER, one.object(), differing(column, same)));
            }
            What::Default(column, same) => defaults.push(lacks_default(one, column, same, &known, coming)),
        }
    }
    let lists = [missing, required, types, wider, defaults];
    Ok(lists.into_iter().flat_map(|list| bundle(list, "column")).collect())
}

fn compare<'a>(
    found: &mut Vec<Difference<'a>>,
    both: &'a Both,
    table: &Published,
    there: &'a Relation,
    here: &'a Relation,
) {
    let root = both.subscriber.root(here);
    let on_publisher = both.publisher.columns(there.oid);
    let on_subscriber = both.subscriber.columns(here.oid);
    let mut add = |what| found.push(Difference { there, here, root, what });
    for column in on_publisher.iter().filter(|column| table.shows(column)) {
        let Some(same) = on_subscriber.iter().find(|other| other.name == column.name) else {
            add(What::Missing(column));
            continue;
        };
        if same.type_name != column.type_name {
            let is_wider = is_wider(&same.type_name, &column.type_name);
            add(if is_wider { What::Wider(column, same) } else { What::Type(column, same) });
        }
        if column.has_default && !same.has_default {
            add(What::Default(column, same));
        }
    }
    for column in on_subscriber {
        let sent = on_publisher.iter().any(|other| other.name == column.name && table.shows(other));
        if !sent && column.not_null && !column.has_default {
            add(What::Required(column));
        }
    }
}

/// Whether `here` holds every integer that `there` holds.
fn is_wider(here: &str, there: &str) -> bool {
    let width =
        |name: &str| ["smallint", "integer", "bigint", "numeric"].iter().position(|known| *known == name);
    width(here).zip(width(there)).is_some_and(|(here, there)| here > there)
}

fn differing(column: &Column, same: &Column) -> String {
    format!("is {} on the publisher and {} on the subscriber", column.type_name, same.type_name)
}

/// What has to be known for SQL that does not fail.
#[derive(Default)]
struct Known {
    /// The defaults of the publisher's columns.
    defaults: HashMap<(Oid, String), Expression>,
    /// The subscriber's columns of another type, by the publisher's.
    changing: HashMap<(Oid, String), Changing>,
    /// Types that the subscriber lacks.
    no_types: HashSet<String>,
}

struct Expression {
    sql: String,
    draws: bool,
    /// Functions and sequences that it uses, and the subscriber lacks.
    lacks: Vec<String>,
}

struct Changing {
    default: Option<String>,
    in_view: bool,
    in_partition_key: bool,
    has_cast: bool,
}

/// To print a default its table is locked for a moment.
const DEFAULTS: &str = "
SELECT k.n, pg_get_expr(d.adbin, d.adrelid),
       ARRAY(SELECT format('%I.%I', n.nspname, f.proname) FROM pg_depend p
               JOIN pg_proc f ON f.oid = p.refobjid JOIN pg_namespace n ON n.oid = f.pronamespace
              WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_proc'::regclass),
       ARRAY(SELECT format('%I.%I', n.nspname, s.relname) FROM pg_depend p
               JOIN pg_class s ON s.oid = p.refobjid AND s.relkind = 'S'
               JOIN pg_namespace n ON n.oid = s.relnamespace
              WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass)
  FROM unnest($1::oid[], $2::text[]) WITH ORDINALITY AS k (rel, name, n)
  JOIN pg_attribute a ON a.attrelid = k.rel AND a.attname = k.name
  JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum";

/// Of `$1` the functions, of `$2` the sequences, of `$3` the types that are not there.
const ABSENT: &str = "
SELECT ARRAY(SELECT k FROM unnest($1::text[]) k
              WHERE NOT EXISTS (SELECT FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
                                 WHERE format('%I.%I', n.nspname, f.proname) = k)),
       ARRAY(SELECT k FROM unnest($2::text[]) k
              WHERE NOT EXISTS (SELECT FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace
                                 WHERE s.relkind = 'S' AND format('%I.%I', n.nspname, s.relname) = k)),
       ARRAY(SELECT k FROM unnest($3::text[]) k WHERE to_regtype(k) IS NULL)";

const CHANGING: &str = "
SELECT k.n, pg_get_expr(d.adbin, d.adrelid),
       EXISTS (SELECT FROM pg_depend p
                WHERE p.classid = 'pg_rewrite'::regclass AND p.refclassid = 'pg_class'::regclass
                  AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum),
       EXISTS (SELECT FROM pg_partitioned_table t
                WHERE t.partrelid = a.attrelid AND a.attnum = ANY (t.partattrs::int2[])),
       EXISTS (SELECT FROM pg_type now, pg_type later
                WHERE now.oid = a.atttypid AND later.oid = to_regtype(k.type)
                  AND (now.oid = later.oid OR 'S' IN (now.typcategory, later.typcategory)
                       OR EXISTS (SELECT FROM pg_cast c
                                   WHERE c.castsource = now.oid AND c.casttarget = later.oid)))
  FROM unnest($1::oid[], $2::text[], $3::text[]) WITH ORDINALITY AS k (rel, name, type, n)
  JOIN pg_attribute a ON a.attrelid = k.rel AND a.attname = k.name
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum";

impl Known {
    /// What is locked is left out, and with it the statements that would need it.
    async fn load(
        context: &Context<'_>,
        all: &[Difference<'_>],
        coming: &Coming,
    ) -> Result<Self, SidesError> {
        let mut known = Known::default();
        let wanted: Vec<&Difference<'_>> =
            all.iter().filter(|one| !matches!(one.what, What::Required(_) | What::Wider(..))).collect();
        let tables: Vec<u32> = wanted.iter().map(|one| one.there.oid.0).collect();
        let names: Vec<&str> = wanted.iter().map(|one| one.what.column().name.as_str()).collect();
        let side = Side::Publisher;
        let rows = unlocked(side.rows(&context.publisher.client, DEFAULTS, &[&tables, &names]).await)?;
        let (mut functions, mut sequences) = (Vec::new(), Vec::new());
        let mut found = Vec::new();
        for row in rows {
            let Some(one) = nth(&wanted, side.get(&row, 0)?) else { continue };
            let Some(sql) = side.get::<Option<String>>(&row, 1)? else { continue };
            let calls: Vec<String> = side.get(&row, 2)?;
            let draws: Vec<String> = side.get(&row, 3)?;
            functions.extend(calls.iter().cloned());
            sequences.extend(draws.iter().cloned());
            found.push((one.key(), sql, calls, draws));
        }
        let types: Vec<&str> = wanted.iter().map(|one| one.what.column().type_name.as_str()).collect();
        let side = Side::Subscriber;
        let client = &context.sides.subscriber.client;
        let mut absent = HashSet::new();
        for row in side.rows(client, ABSENT, &[&functions, &sequences, &types]).await? {
            absent.extend(side.get::<Vec<String>>(&row, 0)?);
            absent.extend(side.get::<Vec<String>>(&row, 1)?);
            known.no_types.extend(side.get::<Vec<String>>(&row, 2)?);
        }
        let comes: HashSet<String> = coming.sequences.iter().map(ToString::to_string).collect();
        for (key, sql, calls, sequences) in found {
            let draws = !sequences.is_empty();
            let used = calls.into_iter().chain(sequences);
            let lacks = used.filter(|name| absent.contains(name) && !comes.contains(name)).collect();
            known.defaults.insert(key, Expression { sql, draws, lacks });
        }
        known.load_changing(context, &wanted).await?;
        Ok(known)
    }

    async fn load_changing(
        &mut self,
        context: &Context<'_>,
        wanted: &[&Difference<'_>],
    ) -> Result<(), SidesError> {
        let wanted: Vec<&Difference<'_>> =
            wanted.iter().filter(|one| matches!(one.what, What::Type(..))).copied().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let tables: Vec<u32> = wanted.iter().map(|one| one.root.oid.0).collect();
        let names: Vec<&str> = wanted.iter().map(|one| one.what.column().name.as_str()).collect();
        let types: Vec<&str> = wanted.iter().map(|one| one.what.column().type_name.as_str()).collect();
        let side = Side::Subscriber;
        let client = &context.sides.subscriber.client;
        for row in unlocked(side.rows(client, CHANGING, &[&tables, &names, &types]).await)? {
            let Some(one) = nth(&wanted, side.get(&row, 0)?) else { continue };
            let changing = Changing {
                default: side.get(&row, 1)?,
                in_view: side.get(&row, 2)?,
                in_partition_key: side.get(&row, 3)?,
                has_cast: side.get(&row, 4)?,
            };
            self.changing.insert(one.key(), changing);
        }
        Ok(())
    }

    /// The publisher's default, where the subscriber has all that it uses.
    fn usable(&self, one: &Difference<'_>) -> Option<&Expression> {
        self.defaults.get(&one.key()).filter(|expression| expression.lacks.is_empty())
    }
}

fn nth<'a, 'b>(all: &'b [&'a Difference<'a>], place: i64) -> Option<&'b &'a Difference<'a>> {
    all.get(usize::try_from(place.checked_sub(1)?).ok()?)
}

fn unlocked<T>(rows: Result<Vec<T>, SidesError>) -> Result<Vec<T>, SidesError> {
    match rows {
        Err(SidesError::Sql { source: SqlError::Query(error), .. }) if trouble(&error).is_some() => {
            Ok(Vec::new())
        }
        rows => rows,
    }
}

fn lacks(one: &Difference<'_>, column: &Column, known: &Known) -> Finding {
    let message = "is published and not on the subscriber";
    let finding = Finding::on_subscriber(&COLUMN_MISSING, one.object(), message);
    let type_name = &column.type_name;
    if known.no_types.contains(type_name) {
        return finding
            .advise(format!("its type {type_name} is not on the subscriber either: make that first"));
    }
    let mut add =
        format!("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {type_name}", one.root.name, one.name());
    if column.is_identity {
        return finding.mend(add + " GENERATED BY DEFAULT AS IDENTITY;").advise(
            "rows that are on the subscriber already get ids of their own: bring the publisher's over",
        );
    }
    let default = known.usable(one).filter(|default| !default.draws && !column.generated);
    let mut advice = match default {
        Some(default) => {
            add += &format!(" DEFAULT {}", default.sql);
            "rows that are on the subscriber already get the default, whatever they have on the publisher"
                .to_owned()
        }
        None => {
            "rows that are on the subscriber already get NULL: bring the publisher's values over".to_owned()
        }
    };
    if column.not_null {
        if default.is_some() {
            add += " NOT NULL";
        } else {
            advice += &format!("; it is NOT NULL there: once no row has NULL, {} SET NOT NULL", one.alter());
        }
    }
    if default.is_none() && column.has_default && !column.generated {
        advice += "; its default is told once it is there";
    }
    finding.mend(add + ";").advise(advice)
}

fn is_required(one: &Difference<'_>, column: &Column, both: &Both) -> Finding {
    let message = "is not sent by the publisher, and is NOT NULL without a default";
    let finding = Finding::on_subscriber(&COLUMN_REQUIRED, one.object(), message);
    let in_key = |table: &Relation| both.subscriber.primary_key(table.oid).contains(&column.name);
    if in_key(one.here) || in_key(one.root) {
        return finding.advise("it is of the primary key, so that it needs a default");
    }
    finding
        .mend(format!("{} DROP NOT NULL;", one.alter()))
        .advise("or SET DEFAULT, where there is a fitting one")
}

fn type_differs(one: &Difference<'_>, column: &Column, same: &Column, known: &Known) -> Finding {
    let finding = Finding::on_subscriber(&TYPE_DIFFERS, one.object(), differing(column, same));
    let type_name = &column.type_name;
    if known.no_types.contains(type_name) {
        return finding.advise(format!("the type {type_name} is not on the subscriber: make that first"));
    }
    let Some(changing) = known.changing.get(&one.key()) else { return finding };
    if changing.in_partition_key {
        return finding
            .advise("it is of the partition key, whose type cannot be changed: make the table anew");
    }
    let name = one.name();
    let alter = format!("ALTER COLUMN {name}");
    let via = if changing.has_cast { "" } else { "::text" };
    let change = format!("{alter} TYPE {type_name} USING {name}{via}::{type_name}");
    let mut steps = vec![change];
    // A default is of the old type, and need not be one of the new.
    if let Some(own) = &changing.default {
        let default = match known.usable(one) {
            Some(theirs) => theirs.sql.clone(),
            None => format!("({own}){via}::{type_name}"),
        };
        steps.insert(0, format!("{alter} DROP DEFAULT"));
        steps.push(format!("{alter} SET DEFAULT {default}"));
    }
    let sql = format!("ALTER TABLE {} {};", one.root.name, steps.join(",\n  "));
    if same.generated || changing.in_view {
        let why = if changing.in_view { "a view uses it" } else { "it is generated" };
        return finding.advise(format!(
            "{why}, so that its type cannot be changed: drop that first, then {}",
            sql.trim_end_matches(';')
        ));
    }
    finding.mend(sql).advise(
        "a value that is none of the new type makes this fail; it writes the whole table anew, and locks it meanwhile",
    )
}

fn lacks_default(
    one: &Difference<'_>,
    column: &Column,
    same: &Column,
    known: &Known,
    coming: &Coming,
) -> Finding {
    let finding = |message: &str| Finding::on_subscriber(&DEFAULT_MISSING, one.object(), message);
    let alter = one.alter();
    let expression = known.defaults.get(&one.key());
    let lacked = |expression: &Expression| {
        format!(
            "{} is not on the subscriber, and its default uses it: make that first",
            expression.lacks.join(", ")
        )
    };
    if column.generated {
        let finding = finding("is generated on the publisher, and a plain column on the subscriber");
        return match expression {
            None => finding,
            Some(expression) if !expression.lacks.is_empty() => finding.advise(lacked(expression)),
            // What is generated cannot be written by replication, so that this one has to wait.
            Some(expression) => finding
                .mend(format!(
                    "ALTER TABLE {0} DROP COLUMN {1};\nALTER TABLE {0} ADD COLUMN {1} {2} GENERATED ALWAYS AS ({3}) \
                     STORED;",
                    one.root.name,
                    one.name(),
                    column.type_name,
                    expression.sql
                ))
                .advise("after the cutover only: what is generated cannot be replicated to"),
        };
    }
    let is_filled = [one.here, one.root]
        .iter()
        .any(|table| coming.filled.contains(&(table.name.clone(), column.name.clone())));
    let with_sequence = "what mends sequence-missing gives it its default, too";
    if column.is_identity {
        let finding =
            finding("is an identity on the publisher, and gets no value by itself on the subscriber");
        if is_filled {
            return finding.advise(with_sequence);
        }
        let not_null = if same.not_null { String::new() } else { format!("{alter} SET NOT NULL;\n") };
        return finding.mend(format!("{not_null}{alter} ADD GENERATED BY DEFAULT AS IDENTITY;"));
    }
    let finding = finding("has a default on the publisher, and none on the subscriber");
    match expression {
        _ if is_filled => finding.advise(with_sequence),
        None => finding,
        Some(expression) if !expression.lacks.is_empty() => finding.advise(lacked(expression)),
        Some(expression) => finding.mend(format!("{alter} SET DEFAULT {};", expression.sql)),
    }
}
