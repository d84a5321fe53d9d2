//! What the text of a function does with `nextval`, as far as that is certain.
//!
//! In: the text. Out: the names that `nextval` is called with, and the column of the new row that each value goes into
//! ([`Draw`]); and the tables that are written to. No IO.

use std::collections::BTreeSet;

/// One call of `nextval` with a name that stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draw {
    /// The name as it is written.
    pub name: String,
    /// The column that a trigger puts the value into as it is: `NEW.no := nextval('q')`. `None`: nobody knows.
    pub into: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Literal(String),
    Mark(char),
}
use Token::{Literal, Mark, Word};

/// Every call of `nextval` in a function's text. `None` where one has no name, or may be hidden in a text.
pub(super) fn draws(text: &str) -> Option<Vec<Draw>> {
    let tokens = tokens(text)?;
    let hides =
        |token: &Token| matches!(token, Literal(text) if text.to_ascii_lowercase().contains("nextval"));
    if tokens.iter().any(hides) {
        return None;
    }
    let is_call = |(_, token): &(usize, &Token)| matches!(token, Word(word) if word == "nextval");
    tokens.iter().enumerate().filter(is_call).map(|(place, _)| draw(&tokens, place)).collect()
}

fn draw(tokens: &[Token], place: usize) -> Option<Draw> {
    let (before, after) = (tokens.get(..place)?, tokens.get(place.checked_add(1)?..)?);
    let [Mark('('), Literal(name), after @ ..] = after else { return None };
    let [Mark(')'), after @ ..] = without_cast(after) else { return None };
    Some(Draw { name: name.clone(), into: into(before, without_cast(after)) })
}

fn without_cast(tokens: &[Token]) -> &[Token] {
    match tokens {
        [Mark(':'), Mark(':'), Word(_), rest @ ..] => rest,
        other => other,
    }
}

/// The column that takes a value: by what stands before it, and by what comes after it.
fn into(before: &[Token], after: &[Token]) -> Option<String> {
    let before = match before {
        [rest @ .., Word(schema), Mark('.')] if schema == "pg_catalog" => rest,
        other => other,
    };
    match (before, after) {
        ([.., Word(select)], [Word(into), Word(row), Mark('.'), Word(column), Mark(';'), ..])
            if select == "select" && into == "into" && row == "new" =>
        {
            Some(column.clone())
        }
        (
            [left @ .., Word(coalesce), Mark('('), Word(row), Mark('.'), Word(column), Mark(',')],
            [Mark(')'), Mark(';'), ..],
        ) if coalesce == "coalesce" && row == "new" => {
            assigned(left).filter(|assigned| *assigned == column).cloned()
        }
        (left, [Mark(';'), ..]) => assigned(left).cloned(),
        _ => None,
    }
}

/// `NEW.column :=`
fn assigned(left: &[Token]) -> Option<&String> {
    let left = match left {
        [rest @ .., Mark(':'), Mark('=')] | [rest @ .., Mark('=')] => rest,
        _ => return None,
    };
    match left {
        [.., Word(row), Mark('.'), Word(column)] if row == "new" => Some(column),
        _ => None,
    }
}

/// The names of the tables that a function's text writes to, without schemas. `None` where that is not certain.
pub(super) fn writes(text: &str) -> Option<BTreeSet<String>> {
    let tokens = tokens(text)?;
    let mut found = BTreeSet::new();
    for place in 0..tokens.len() {
        let (before, here) = tokens.split_at(place);
        let target = match here {
            [Word(word), ..] if word == "execute" || word == "merge" => return None,
            [Word(word), Word(into), rest @ ..] if word == "insert" && into == "into" => rest,
            [Word(word), rest @ ..] if word == "update" && !is_clause(before) => rest,
            _ => continue,
        };
        found.insert(table(target)?);
    }
    Some(found)
}

/// Whether an `UPDATE` after this is no statement: `FOR UPDATE`, `FOR NO KEY UPDATE`, `ON CONFLICT … DO UPDATE`.
fn is_clause(before: &[Token]) -> bool {
    matches!(before, [.., Word(word)] if matches!(word.as_str(), "for" | "key" | "do"))
}

/// The last part of the name that stands first.
fn table(tokens: &[Token]) -> Option<String> {
    match tokens {
        [Word(only), rest @ ..] if only == "only" => table(rest),
        [Word(_), Mark('.'), rest @ ..] => table(rest),
        [Word(name), ..] => Some(name.clone()),
        _ => None,
    }
}

/// Without comments. `None` where the text holds what is not read here: quotes that a backslash hides, or by dollars.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut found = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            c if c.is_whitespace() => {}
            '-' if rest.next_if_eq(&'-').is_some() => while rest.next_if(|c| *c != '\n').is_some() {},
            '/' if rest.next_if_eq(&'*').is_some() => {
                let mut depth = 1_u32;
                while depth > 0 {
                    match rest.next()? {
                        '*' if rest.next_if_eq(&'/').is_some() => depth = depth.saturating_sub(1),
                        '/' if rest.next_if_eq(&'*').is_some() => depth = depth.saturating_add(1),
                        _ => {}
                    }
                }
            }
            '\'' => {
                let text = quoted(&mut rest, '\'')?;
                if text.contains("\\'") || text.ends_with('\\') {
                    return None;
                }
                found.push(Literal(text));
            }
            '"' => found.push(Word(quoted(&mut rest, '"')?)),
            '$' if !rest.peek().is_some_and(char::is_ascii_digit) => return None,
            c if c == '_' || c == '$' || c.is_alphanumeric() => {
                let mut word = String::from(c.to_ascii_lowercase());
                while let Some(c) = rest.next_if(|c| *c == '_' || *c == '$' || c.is_alphanumeric()) {
                    word.push(c.to_ascii_lowercase());
                }
                found.push(Word(word));
            }
            other => found.push(Mark(other)),
        }
    }
    Some(found)
}

/// Up to the closing `quote`, which is doubled inside.
fn quoted(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char) -> Option<String> {
    let mut text = String::new();
    loop {
        match rest.next()? {
            c if c == quote && rest.next_if_eq(&quote).is_some() => text.push(quote),
            c if c == quote => return Some(text),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Vec<(String, Option<String>)>> {
        Some(draws(text)?.into_iter().map(|draw| (draw.name, draw.into)).collect())
    }

    #[test]
    fn what_goes_into_a_column_of_the_new_row_is_told() {
        for text in [
            "BEGIN NEW.no := nextval('a.q'); RETURN NEW; END",
            "BEGIN -- nextval('other')\n IF NEW.no IS NULL THEN new.\"no\" = pg_catalog.NEXTVAL('a.q'::regclass)::int; END IF; END",
            "BEGIN NEW.no := coalesce(NEW.no, nextval('a.q')); /* nextval(x) */ RETURN NEW; END",
            "BEGIN SELECT nextval('a.q') INTO NEW.no; RETURN NEW; END",
        ] {
            assert_eq!(of(text), Some(vec![("a.q".to_owned(), Some("no".to_owned()))]), "{text}");
        }
    }

    #[test]
    fn what_goes_elsewhere_is_not() {
        for text in [
            "BEGIN INSERT INTO log VALUES (nextval('a.q')); RETURN NEW; END",
            "BEGIN NEW.no := nextval('a.q') * 10; RETURN NEW; END",
            "BEGIN IF NEW.no = nextval('a.q') THEN RETURN NEW; END IF; END",
            "BEGIN NEW.no := coalesce(NEW.other, nextval('a.q')); RETURN NEW; END",
            "BEGIN v := nextval('a.q'); RETURN NEW; END",
        ] {
            assert_eq!(of(text), Some(vec![("a.q".to_owned(), None)]), "{text}");
        }
    }

    #[test]
    fn what_is_not_certain_is_not_read() {
        for text in [
            "BEGIN NEW.no := nextval(TG_ARGV[0]); RETURN NEW; END",
            "BEGIN EXECUTE 'SELECT nextval(''q'')'; END",
            "BEGIN EXECUTE $q$SELECT 1$q$; END",
            "BEGIN RAISE E'\\''; PERFORM nextval('q'); END",
        ] {
            assert_eq!(draws(text), None, "{text}");
        }
        assert_eq!(draws("SELECT $1 + 1"), Some(Vec::new()));
    }

    #[test]
    fn the_tables_that_are_written_to_are_told() {
        let of = |text: &str| writes(text).map(|tables| tables.into_iter().collect::<Vec<_>>().join(" "));
        assert_eq!(of("BEGIN IF y THEN UPDATE ONLY s.\"B\" SET x = 1; END IF; END"), Some("B".to_owned()));
        assert_eq!(
            of("BEGIN INSERT INTO s.a VALUES (1) ON CONFLICT DO UPDATE SET x = 1; END"),
            Some("a".to_owned())
        );
        assert_eq!(of("BEGIN SELECT 1 FROM c FOR NO KEY UPDATE; END"), Some(String::new()));
        assert_eq!(of("BEGIN EXECUTE format('x'); END"), None);
    }
}
