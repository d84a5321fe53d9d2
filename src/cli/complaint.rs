//! How an error is shown on a terminal: within its margins, with SQL that is to be pasted on lines of its own.
//!
//! In: the text. Out: lines. What is no terminal gets the text as it is: a program looks for words in it.

use std::io::IsTerminal as _;

use crate::demo::text::COLUMNS;

/// What a statement in a message begins with.
const VERBS: [&str; 12] = [
    "ALTER", "COMMENT", "COMMIT", "CREATE", "DELETE", "DROP", "GRANT", "REVOKE", "ROLLBACK", "SELECT", "SET",
    "UPDATE",
];

/// Prints `error` to standard error, as this program's.
pub fn complain(error: &dyn std::fmt::Display) {
    let text = format!("seqshadow: {error}");
    if std::io::stderr().is_terminal() {
        eprintln!("{}", wrapped(&text));
    } else {
        eprintln!("{text}");
    }
}

/// `text` in lines that fit, the lines that are added indented by two. A statement that ends with `;` is not cut.
fn wrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for given in text.lines() {
        if given.chars().count() <= COLUMNS {
            lines.push(given.to_owned());
            continue;
        }
        let mut line = String::new();
        for unit in units(given) {
            let fits = line.chars().count() + 1 + unit.chars().count() <= COLUMNS;
            if !line.is_empty() && !fits {
                lines.push(std::mem::replace(&mut line, " ".to_owned()));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&unit);
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// The words of a line, with each statement as one of them.
fn units(line: &str) -> Vec<String> {
    let mut units: Vec<String> = Vec::new();
    let mut words = line.split(' ').peekable();
    while let Some(word) = words.next() {
        let begins = units.last().is_some_and(|before| before.ends_with(':')) && VERBS.contains(&word);
        if !begins || !words.clone().any(|later| later.ends_with(';')) {
            units.push(word.to_owned());
            continue;
        }
        let mut statement = word.to_owned();
        while !statement.ends_with(';') {
            let Some(next) = words.next() else { break };
            statement.push(' ');
            statement.push_str(next);
        }
        units.push(statement);
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_wrapped_and_statements_are_not() {
        let sql =
            "ALTER ROLE seqshadow_orders_moves NOLOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION;";
        let text = format!(
            "seqshadow: role seqshadow_orders_moves may log in: who is behind it would have what setup grants to it; where \
             setup has made it: {sql} else use another name for the slot"
        );
        let shown = wrapped(&text);
        let long: Vec<&str> = shown.lines().filter(|line| line.chars().count() > COLUMNS).collect();
        assert_eq!(long, [format!("  {sql}")], "{shown}");
        assert!(shown.lines().count() >= 4, "{shown}");
        assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), text.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn what_fits_and_what_has_no_spaces_stays_as_it_is() {
        let long = "x".repeat(100);
        for text in ["seqshadow: short", "seqshadow: one\n  two", long.as_str(), ""] {
            assert_eq!(wrapped(text), text);
        }
        assert_eq!(wrapped(&format!("a: DROP {long}")), format!("a: DROP\n  {long}"));
    }
}
