//! The words, literals and marks of a function's text. In: the text. Out: [`Token`]s. No IO.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Literal(String),
    Mark(char),
}
use Token::{Literal, Mark, Word};

/// Without comments. `None` where the text holds what is not read here: quotes that a backslash hides, or by dollars.
pub(super) fn tokens(text: &str) -> Option<Vec<Token>> {
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
