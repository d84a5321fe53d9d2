//! What the text of a function does with the values that it takes of sequences, as far as that is certain.
//!
//! In: the text, and the functions that hand such values on. Out: each call of `nextval` or of one of them ([`Draw`]), with
//! the places that its value goes to ([`Goes`]): a value is followed through variables, and what it is put into is found by
//! name or by position. What is not certain is [`Goes::Unknown`]. No IO.

use std::collections::BTreeSet;

use super::tokens::Token::{self, Literal, Mark, Word};
use super::tokens::tokens;
use super::written::{listed, selected_into_table, updated};
use crate::types::QualifiedName;

/// One call that takes a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draw {
    pub of: Source,
    pub goes: BTreeSet<Goes>,
}

/// Whose value is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// `nextval` with a name, as it is written.
    Sequence(String),
    /// `nextval` with something that is no name.
    Computed,
    /// What one of the functions hands on, by its place in the list.
    Function(usize),
}

/// Where a value goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Goes {
    /// Into a column of a trigger's new row.
    New(String),
    /// Into a column of a table.
    Column {
        schema: Option<String>,
        table: String,
        at: At,
    },
    /// To whom the function was called by.
    Result,
    Unknown,
}

/// Which column of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    Name(String),
    /// From 0 on.
    Place(usize),
}

/// Every draw in a function's text. `None` where one may be hidden in a text.
pub(super) fn draws(text: &str, functions: &[&QualifiedName]) -> Option<Vec<Draw>> {
    let tokens = tokens(text)?;
    if tokens.iter().any(|token| hides(token, functions)) {
        return None;
    }
    let body = Body { tokens: &tokens };
    let mut found = Vec::new();
    for place in 0..tokens.len() {
        let (before, here) = tokens.split_at(place);
        let [Word(word), rest @ ..] = here else { continue };
        let (schema, before) = match before {
            [before @ .., Word(schema), Mark('.')] => (Some(schema), before),
            other => (None, other),
        };
        if word == "nextval" && schema.is_none_or(|schema| schema == "pg_catalog") {
            let (arguments, after) = call(rest)?;
            let of = match arguments {
                [Literal(name)] | [Literal(name), Mark(':'), Mark(':'), Word(_)] => {
                    Source::Sequence(name.clone())
                }
                _ => Source::Computed,
            };
            found.push(Draw { of, goes: body.goes(before, after) });
        }
        for (number, function) in functions.iter().enumerate() {
            if *word == function.name && schema.is_none_or(|schema| *schema == function.schema) {
                let Some((_, after)) = call(rest) else { continue };
                found.push(Draw { of: Source::Function(number), goes: body.goes(before, after) });
            }
        }
    }
    Some(found)
}

/// Whether a text, or what looks like a name between quotes, holds a call.
fn hides(token: &Token, functions: &[&QualifiedName]) -> bool {
    let text = match token {
        Literal(text) => text.to_ascii_lowercase(),
        Word(text) if text.contains(['(', ' ', '\n']) => text.to_ascii_lowercase(),
        _ => return false,
    };
    let is_call = |function: &&QualifiedName| {
        let name = function.name.to_ascii_lowercase();
        text.match_indices(&name).any(|(at, name)| {
            let rest = text.get(at.saturating_add(name.len())..).unwrap_or_default();
            rest.trim_start_matches('"').trim_start().starts_with('(')
        })
    };
    text.contains("nextval") || functions.iter().any(is_call)
}

/// The arguments of a call, and what comes after it.
pub(super) fn call(tokens: &[Token]) -> Option<(&[Token], &[Token])> {
    let [Mark('('), rest @ ..] = tokens else { return None };
    let mut depth = 1_usize;
    for (place, token) in rest.iter().enumerate() {
        match token {
            Mark('(') => depth = depth.saturating_add(1),
            Mark(')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            let (arguments, after) = rest.split_at(place);
            return Some((arguments, after.get(1..)?));
        }
    }
    None
}

/// What takes a value at once.
pub(super) enum Taker {
    Place(Goes),
    Variable(String),
    Nobody,
}

struct Body<'a> {
    tokens: &'a [Token],
}

impl Body<'_> {
    fn goes(&self, before: &[Token], after: &[Token]) -> BTreeSet<Goes> {
        let mut found = BTreeSet::new();
        self.follow(before, after, &mut BTreeSet::new(), &mut found);
        found
    }

    fn follow(
        &self,
        before: &[Token],
        after: &[Token],
        seen: &mut BTreeSet<String>,
        found: &mut BTreeSet<Goes>,
    ) {
        match taker(before, after) {
            Taker::Place(goes) => {
                found.insert(goes);
            }
            Taker::Variable(name) if seen.insert(name.clone()) => self.variable(&name, seen, found),
            Taker::Variable(_) | Taker::Nobody => {}
        }
    }

    /// Wherever a variable is used.
    fn variable(&self, name: &str, seen: &mut BTreeSet<String>, found: &mut BTreeSet<Goes>) {
        let mut is_declared = false;
        for place in 0..self.tokens.len() {
            let (before, here) = self.tokens.split_at(place);
            let [Word(word), after @ ..] = here else { continue };
            if word != name || matches!(before, [.., Mark('.')]) || matches!(after, [Mark('.'), ..]) {
                continue;
            }
            match (statement(before), after) {
                ([], [Mark(':'), Mark('='), ..] | [Mark('='), ..]) => {}
                ([], [Word(_), ..]) => is_declared = true,
                ([.., Word(into)] | [.., Word(into), _], _) if into == "into" => {}
                (statement, _) if only_reads(statement) => {}
                _ => self.follow(before, after, seen, found),
            }
        }
        // A parameter that is handed out.
        if !is_declared {
            found.insert(Goes::Result);
        }
    }
}

/// Whether what stands at the end of a statement is looked at, and goes nowhere.
fn only_reads(statement: &[Token]) -> bool {
    let is = |token: &Token, words: &[&str]| matches!(token, Word(word) if words.contains(&word.as_str()));
    if statement.first().is_some_and(|first| is(first, &["raise", "if", "elsif", "while", "assert"])) {
        return true;
    }
    let after = statement.iter().rposition(|token| is(token, &["where"])).and_then(|at| statement.get(at..));
    after.is_some_and(|after| {
        matches!(after, [.., Mark('=')])
            && !after.iter().any(|token| is(token, &["set", "insert", "select", "values"]))
    })
}

/// What stands before a place in its statement.
pub(super) fn statement(before: &[Token]) -> &[Token] {
    let starts = |token: &Token| match token {
        Mark(';') => true,
        Word(word) => matches!(word.as_str(), "begin" | "then" | "else" | "loop" | "declare"),
        _ => false,
    };
    let start = before.iter().rposition(starts).map_or(0, |place| place.saturating_add(1));
    before.get(start..).unwrap_or_default()
}

/// By what stands before a value, and by what comes after it.
fn taker(before: &[Token], after: &[Token]) -> Taker {
    let after = without_casts(after);
    let (before, after) = without_coalesce(before, after);
    let ends = matches!(after, [] | [Mark(';'), ..]);
    let words: Vec<&str> =
        statement(before).iter().map(|token| if let Word(word) = token { word } else { "" }).collect();
    match (words.as_slice(), after) {
        (["perform"], _) if ends => Taker::Nobody,
        (["return" | "select"] | ["return", "next"] | ["return", "query", "select"], _) if ends => {
            Taker::Place(Goes::Result)
        }
        (["select", "into", variable] | ["select", "into", "strict", variable], _) if ends => {
            Taker::Variable((*variable).to_owned())
        }
        (["select"], [Word(into), rest @ ..]) if into == "into" => selected(rest),
        _ => assigned(statement(before), ends)
            .or_else(|| listed(before, after))
            .or_else(|| selected_into_table(before, after))
            .or_else(|| updated(before, after))
            .unwrap_or(Taker::Place(Goes::Unknown)),
    }
}

fn without_casts(tokens: &[Token]) -> &[Token] {
    match tokens {
        [Mark(':'), Mark(':'), Word(_), rest @ ..] => without_casts(rest),
        other => other,
    }
}

/// `coalesce(NEW.no, …)` is what it stands around.
fn without_coalesce<'a>(before: &'a [Token], after: &'a [Token]) -> (&'a [Token], &'a [Token]) {
    let outer = match (before, after) {
        ([outer @ .., Word(coalesce), Mark('('), Word(_), Mark(',')], [Mark(')'), rest @ ..])
        | (
            [outer @ .., Word(coalesce), Mark('('), Word(_), Mark('.'), Word(_), Mark(',')],
            [Mark(')'), rest @ ..],
        ) if coalesce == "coalesce" => Some((outer, without_casts(rest))),
        _ => None,
    };
    outer.unwrap_or((before, after))
}

/// What follows `SELECT … INTO`.
fn selected(tokens: &[Token]) -> Taker {
    match tokens {
        [Word(strict), rest @ ..] if strict == "strict" => selected(rest),
        [Word(row), Mark('.'), Word(column), Mark(';'), ..] if row == "new" => {
            Taker::Place(Goes::New(column.clone()))
        }
        [Word(variable), Mark(';'), ..] => Taker::Variable(variable.clone()),
        _ => Taker::Place(Goes::Unknown),
    }
}

/// `NEW.column :=`, `variable :=`, and the same in a declaration.
fn assigned(statement: &[Token], ends: bool) -> Option<Taker> {
    let (left, is_declared) = match statement {
        [left @ .., Mark(':'), Mark('=')] => (left, true),
        [left @ .., Mark('=')] => (left, false),
        [left @ .., Word(default)] if default == "default" => (left, true),
        _ => return None,
    };
    match left {
        _ if !ends => None,
        [Word(row), Mark('.'), Word(column)] if row == "new" => Some(Taker::Place(Goes::New(column.clone()))),
        [Word(variable)] => Some(Taker::Variable(variable.clone())),
        [Word(variable), types @ ..] if is_declared && types.iter().all(|token| matches!(token, Word(_))) => {
            Some(Taker::Variable(variable.clone()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<String> {
        let next = QualifiedName::new("public", "next_no");
        let told = |goes: &Goes| match goes {
            Goes::New(column) => format!("new.{column}"),
            Goes::Column { schema, table, at: At::Name(name) } => {
                format!(
                    "{}{table}.{name}",
                    schema.as_ref().map(|schema| format!("{schema}.")).unwrap_or_default()
                )
            }
            Goes::Column { table, at: At::Place(place), .. } => format!("{table}.{place}"),
            Goes::Result => "result".to_owned(),
            Goes::Unknown => "?".to_owned(),
        };
        let draws = draws(text, &[&next])?.into_iter().map(|draw| {
            let of = match draw.of {
                Source::Sequence(name) => name,
                Source::Computed => "any".to_owned(),
                Source::Function(_) => "function".to_owned(),
            };
            let goes: Vec<String> = draw.goes.iter().map(told).collect();
            format!("{of}>{}", goes.join(","))
        });
        Some(draws.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn where_a_value_goes_is_told() {
        for (text, told) in [
            ("BEGIN NEW.no := nextval('a.q'); RETURN NEW; END", "a.q>new.no"),
            (
                "BEGIN -- nextval('other')\n IF NEW.no IS NULL THEN new.\"no\" = pg_catalog.NEXTVAL('a.q'::regclass)::int; END IF; END",
                "a.q>new.no",
            ),
            (
                "BEGIN NEW.no := coalesce(NEW.no, nextval('a.q')); /* nextval(x) */ RETURN NEW; END",
                "a.q>new.no",
            ),
            ("BEGIN SELECT nextval('a.q') INTO NEW.no; RETURN NEW; END", "a.q>new.no"),
            (
                "BEGIN NEW.no := public.next_no(); NEW.x := next_no(1); x := other.next_no(); END",
                "function>new.no function>new.x",
            ),
            ("BEGIN NEW.no := nextval(TG_ARGV[0]); RETURN NEW; END", "any>new.no"),
            ("SELECT nextval('q')", "q>result"),
            ("BEGIN RETURN nextval('q')::int; END", "q>result"),
            ("BEGIN PERFORM nextval('q'); END", "q>"),
            ("INSERT INTO s.t (a, b) VALUES (f(1, 2), nextval('q'))", "q>s.t.b"),
            ("INSERT INTO t VALUES (1, nextval('q'), 3), (nextval('q'), 2, 3)", "q>t.1 q>t.0"),
            ("INSERT INTO t (a, b) SELECT nextval('q'), x FROM y", "q>t.a"),
            ("UPDATE t SET a = 1, b = nextval('q') WHERE c = 2", "q>t.b"),
            (
                "DECLARE v bigint; BEGIN v := nextval('q'); INSERT INTO t (v, x) VALUES (v, 1); IF v > 1 THEN RAISE NOTICE '%', v; END IF; \
                 DELETE FROM u WHERE z = v; RETURN v; END",
                "q>t.v,result",
            ),
            ("DECLARE v bigint := nextval('q'); w int; BEGIN w := v; NEW.x := w; RETURN NEW; END", "q>new.x"),
            ("BEGIN SELECT nextval('q') INTO STRICT v; INSERT INTO t VALUES (v); END", "q>t.0,result"),
        ] {
            assert_eq!(of(text).as_deref(), Some(told), "{text}");
        }
    }

    #[test]
    fn what_is_not_certain_is_unknown() {
        for text in [
            "BEGIN NEW.no := nextval('q') * 10; RETURN NEW; END",
            "BEGIN IF NEW.no = nextval('q') THEN RETURN NEW; END IF; END",
            "SELECT setval('c', 7) + nextval('q')",
            "WITH x AS (SELECT nextval('q') AS id) INSERT INTO t SELECT id FROM x",
            "DECLARE v int := nextval('q'); BEGIN EXECUTE format('INSERT INTO t VALUES (%s)', v); END",
            "DECLARE v int := nextval('q'); BEGIN PERFORM log(v); END",
            "BEGIN r.id := nextval('q'); INSERT INTO t VALUES (r.*); END",
        ] {
            assert_eq!(of(text).as_deref(), Some("q>?"), "{text}");
        }
        for text in [
            "BEGIN EXECUTE 'SELECT nextval(''q'')'; END",
            "BEGIN EXECUTE 'INSERT INTO t VALUES (next_no())'; END",
            "BEGIN EXECUTE $q$SELECT 1$q$; END",
            "BEGIN RAISE E'\\''; PERFORM nextval('q'); END",
            "plpy.execute(\"SELECT nextval('q')\")",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(of("SELECT $1 + 1, next_number()").as_deref(), Some(""));
    }
}
