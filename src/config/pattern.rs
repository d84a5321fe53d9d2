//! Names as users write them: patterns in the manner of psql's `\d`, qualified names, and the rename map.

use std::fmt;
use std::str::FromStr;

use super::value::{ValueError, malformed};
use crate::types::QualifiedName;

const SCHEMA: &str = "a schema pattern such as app or tenant_*";
const SEQUENCE: &str = "a sequence pattern such as audit_* or app.orders_*_seq";
const TABLE: &str = "a table as schema.table";
const RENAME: &str = "a renamed table as publisher_schema.table=subscriber_schema.table";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    /// `*`
    Any,
    /// `?`
    One,
    /// a dot outside quotes
    Dot,
    Char(char),
}

/// A pattern for one name: `*` stands for any characters, `?` for one; letters are folded to lower case outside
/// double quotes, and inside them nothing is special (as in psql).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern {
    text: String,
    tokens: Vec<Token>,
}

impl NamePattern {
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        glob(&self.tokens, name)
    }
}

impl FromStr for NamePattern {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let tokens = tokens(text).filter(|tokens| !tokens.is_empty() && !tokens.contains(&Token::Dot));
        tokens
            .map(|tokens| NamePattern { text: text.to_owned(), tokens })
            .ok_or_else(|| malformed(SCHEMA, text))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A pattern for a sequence: `name`, in any schema, or `schema.name`; each part as a [`NamePattern`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SequencePattern {
    text: String,
    schema: Vec<Token>,
    name: Vec<Token>,
}

impl SequencePattern {
    #[must_use]
    pub fn matches(&self, sequence: &QualifiedName) -> bool {
        glob(&self.schema, &sequence.schema) && glob(&self.name, &sequence.name)
    }
}

impl FromStr for SequencePattern {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = tokens(text).map(|tokens| {
            tokens.split(|token| *token == Token::Dot).map(<[Token]>::to_vec).collect::<Vec<_>>()
        });
        let (schema, name) = match parts.as_deref() {
            Some([name]) => (vec![Token::Any], name.clone()),
            Some([schema, name]) => (schema.clone(), name.clone()),
            _ => return Err(malformed(SEQUENCE, text)),
        };
        if schema.is_empty() || name.is_empty() {
            return Err(malformed(SEQUENCE, text));
        }
        Ok(SequencePattern { text: text.to_owned(), schema, name })
    }
}

impl fmt::Display for SequencePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A table that has another name on the subscriber.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rename {
    pub publisher: QualifiedName,
    pub subscriber: QualifiedName,
}

impl FromStr for Rename {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || malformed(RENAME, text);
        let parts = split_unquoted(text, '=');
        let [publisher, subscriber] = parts.as_slice() else { return Err(wrong()) };
        Ok(Rename {
            publisher: parse_table(publisher).map_err(|_| wrong())?,
            subscriber: parse_table(subscriber).map_err(|_| wrong())?,
        })
    }
}

impl fmt::Display for Rename {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.publisher, self.subscriber)
    }
}

/// `schema.table`, folded and quoted as in SQL.
pub fn parse_table(text: &str) -> Result<QualifiedName, ValueError> {
    let mut parts = vec![String::new()];
    for token in tokens(text.trim()).unwrap_or_default() {
        match (token, parts.last_mut()) {
            (Token::Dot, _) => parts.push(String::new()),
            (Token::Char(c), Some(part)) => part.push(c),
            _ => return Err(malformed(TABLE, text)),
        }
    }
    match parts.as_slice() {
        [schema, table] if !schema.is_empty() && !table.is_empty() => Ok(QualifiedName::new(schema, table)),
        _ => Err(malformed(TABLE, text)),
    }
}

/// `text` at every `at` outside double quotes.
pub(super) fn split_unquoted(text: &str, at: char) -> Vec<&str> {
    let mut quoted = false;
    text.split(|c| {
        quoted ^= c == '"';
        c == at && !quoted
    })
    .map(str::trim)
    .collect()
}

/// `None` if a quote is not closed.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                tokens.push(Token::Char('"'));
            }
            '"' => quoted = !quoted,
            _ if quoted => tokens.push(Token::Char(c)),
            '*' => tokens.push(Token::Any),
            '?' => tokens.push(Token::One),
            '.' => tokens.push(Token::Dot),
            _ => tokens.push(Token::Char(c.to_ascii_lowercase())),
        }
    }
    (!quoted).then_some(tokens)
}

/// Whether the whole of `name` fits; in time `pattern × name` at worst, whatever the pattern.
fn glob(pattern: &[Token], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    // reachable[i]: the tokens so far can have matched the first i characters.
    let mut reachable = vec![false; name.len() + 1];
    reachable[0] = true;
    for token in pattern {
        let mut next = vec![false; name.len() + 1];
        match token {
            Token::Any => {
                let mut any = false;
                for (to, from) in next.iter_mut().zip(&reachable) {
                    any |= *from;
                    *to = any;
                }
            }
            Token::One | Token::Dot | Token::Char(_) => {
                for ((to, from), c) in next.iter_mut().skip(1).zip(&reachable).zip(&name) {
                    *to = *from
                        && match token {
                            Token::Char(wanted) => wanted == c,
                            Token::Dot => *c == '.',
                            _ => true,
                        };
                }
            }
        }
        reachable = next;
    }
    reachable.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, schema: &str, name: &str) -> bool {
        pattern.parse::<SequencePattern>().unwrap().matches(&QualifiedName::new(schema, name))
    }

    #[test]
    fn patterns_work_as_in_psql() {
        assert!(matches("audit_*", "app", "audit_log_id_seq"));
        assert!(matches("app.*_seq", "app", "orders_id_seq"));
        assert!(!matches("app.*_seq", "other", "orders_id_seq"));
        assert!(matches("APP.Orders_Id_Seq", "app", "orders_id_seq"));
        assert!(matches("\"App\".x", "App", "x") && !matches("\"App\".x", "app", "x"));
        assert!(
            matches("\"a.b\"", "s", "a.b") && matches("\"a*\"", "s", "a*") && !matches("\"a*\"", "s", "ab")
        );
        assert!(matches("order?", "s", "orders") && !matches("order?", "s", "order"));
        assert!(matches("\"say \"\"hi\"\"\"", "s", "say \"hi\""));
        for bad in ["", ".x", "x.", "a.b.c", "\"open"] {
            assert!(bad.parse::<SequencePattern>().is_err(), "{bad}");
        }
        assert!("app.x".parse::<NamePattern>().is_err());
        assert!("tenant_*".parse::<NamePattern>().unwrap().matches("tenant_12"));
    }

    #[test]
    fn renames_name_two_tables() {
        let rename: Rename = "public.orders = shop.\"Orders=New\"".parse().unwrap();
        assert_eq!(rename.publisher, QualifiedName::new("public", "orders"));
        assert_eq!(rename.subscriber, QualifiedName::new("shop", "Orders=New"));
        assert_eq!(rename.to_string().parse::<Rename>().unwrap(), rename);
        for bad in ["", "a=b", "a.b", "a.b=c.d=e.f", "a.b=", "a.*=b.c", "a.b=\"c"] {
            assert!(bad.parse::<Rename>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_rename_reads_back(names in proptest::array::uniform4("[^\\x00]{1,12}")) {
            let [a, b, c, d] = names;
            let rename = Rename { publisher: QualifiedName::new(a, b), subscriber: QualifiedName::new(c, d) };
            prop_assert_eq!(rename.to_string().parse::<Rename>().unwrap(), rename);
        }

        #[test]
        fn any_text_parses_or_fails(pattern in "[a*?.\"]{0,12}", name in "[ab.]{0,8}") {
            if let Ok(pattern) = pattern.parse::<SequencePattern>() {
                let _ = pattern.matches(&QualifiedName::new("a", name));
            }
        }
    }
}
