//! Values in statements that write to a table: which column takes one, by name or by position. In: the words before a value,
//! and those after it. Out: a [`Taker`]; `None` where it is not certain. No IO.

use super::draws::{At, Goes, Taker, call, statement};
use super::tokens::Token::{self, Mark, Word};

/// How many items of a list stand before its last one, and what comes before the list. `opens` is what the list begins with.
fn item(before: &[Token], opens: impl Fn(&Token) -> bool) -> Option<(usize, &[Token])> {
    let (mut place, mut depth) = (0_usize, 0_usize);
    if !before.last().is_some_and(|token| *token == Mark(',') || opens(token)) {
        return None;
    }
    for (at, token) in before.iter().enumerate().rev() {
        match token {
            token if depth == 0 && opens(token) => return Some((place, before.get(..at)?)),
            Mark(')') => depth = depth.saturating_add(1),
            Mark('(') => depth = depth.checked_sub(1)?,
            Mark(',') if depth == 0 => place = place.saturating_add(1),
            Mark(';') => return None,
            _ => {}
        }
    }
    None
}

/// `INSERT INTO t (a, b) VALUES (…, value, …)`; or a name in the list of columns.
pub(super) fn listed(before: &[Token], after: &[Token]) -> Option<Taker> {
    if !matches!(after, [Mark(')' | ','), ..]) {
        return None;
    }
    let (place, mut head) = item(before, |token| *token == Mark('('))?;
    // Rows before this one.
    while let [rows @ .., Mark(')'), Mark(',')] = head {
        head = item_row(rows)?;
    }
    match statement(head) {
        [insert @ .., Word(values)] if values == "values" => inserted(insert, place),
        insert => {
            let (_, columns, rest) = insert_into(insert)?;
            (columns.is_none() && rest.is_empty()).then_some(Taker::Nobody)
        }
    }
}

/// What stands before the parenthesis that closes after `tokens`.
fn item_row(tokens: &[Token]) -> Option<&[Token]> {
    let mut depth = 1_usize;
    for (at, token) in tokens.iter().enumerate().rev() {
        match token {
            Mark(')') => depth = depth.saturating_add(1),
            Mark('(') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return tokens.get(..at);
        }
    }
    None
}

/// `INSERT INTO t (a, b) SELECT …, value, … FROM`
pub(super) fn selected_into_table(before: &[Token], after: &[Token]) -> Option<Taker> {
    let ends = match after {
        [] | [Mark(',' | ';'), ..] => true,
        [Word(word), ..] => {
            matches!(word.as_str(), "from" | "where" | "on" | "returning" | "as" | "order" | "limit")
        }
        _ => false,
    };
    let (place, head) = item(before, |token| matches!(token, Word(word) if word == "select"))?;
    if ends { inserted(statement(head), place) } else { None }
}

fn inserted(insert: &[Token], place: usize) -> Option<Taker> {
    let ((schema, table), columns, rest) = insert_into(insert)?;
    let is_override = |rest: &[Token]| matches!(rest, [Word(overriding), _, _] if overriding == "overriding");
    if !rest.is_empty() && !is_override(rest) {
        return None;
    }
    let at = match columns {
        Some(columns) => At::Name(columns.get(place)?.clone()),
        None => At::Place(place),
    };
    Some(Taker::Place(Goes::Column { schema, table, at }))
}

type Table = (Option<String>, String);
type Insert<'a> = (Table, Option<Vec<String>>, &'a [Token]);

/// The table, the columns that are named, and what follows.
fn insert_into(tokens: &[Token]) -> Option<Insert<'_>> {
    let at = tokens.iter().rposition(|token| matches!(token, Word(word) if word == "insert"))?;
    let [_, Word(into), rest @ ..] = tokens.get(at..)? else { return None };
    let (table, rest) = named(rest).filter(|_| into == "into")?;
    let rest = match rest {
        [Word(as_), Word(_), rest @ ..] if as_ == "as" => rest,
        other => other,
    };
    let Some((columns, rest)) = call(rest) else { return Some((table, None, rest)) };
    let columns = columns.split(|token| *token == Mark(',')).map(|column| match column {
        [Word(column)] => Some(column.clone()),
        _ => None,
    });
    Some((table, Some(columns.collect::<Option<_>>()?), rest))
}

/// The name of the table that stands first.
fn named(tokens: &[Token]) -> Option<(Table, &[Token])> {
    match tokens {
        [Word(schema), Mark('.'), Word(name), rest @ ..] => {
            Some(((Some(schema.clone()), name.clone()), rest))
        }
        [Word(name), rest @ ..] => Some(((None, name.clone()), rest)),
        _ => None,
    }
}

/// `UPDATE t SET a = value`
pub(super) fn updated(before: &[Token], after: &[Token]) -> Option<Taker> {
    let ends = match after {
        [] | [Mark(',' | ';'), ..] => true,
        [Word(word), ..] => matches!(word.as_str(), "where" | "from" | "returning"),
        _ => false,
    };
    let statement = statement(before);
    let is = |token: &Token, word: &str| matches!(token, Word(found) if found == word);
    let [Word(update), rest @ ..] = statement else { return None };
    let rest = if rest.first().is_some_and(|first| is(first, "only")) { rest.get(1..)? } else { rest };
    let ((schema, table), rest) = named(rest).filter(|_| ends && update == "update")?;
    let [.., comes_before, Word(column), Mark('=')] = rest else { return None };
    let is_set = is(comes_before, "set") || *comes_before == Mark(',');
    if !is_set || rest.iter().any(|token| is(token, "where")) {
        return None;
    }
    Some(Taker::Place(Goes::Column { schema, table, at: At::Name(column.clone()) }))
}
