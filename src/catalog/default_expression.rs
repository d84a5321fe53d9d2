//! Reads a column default as `pg_get_expr` prints it and says whether an id can be got back from the values it makes.
//!
//! Only expressions that can be inverted with certainty are accepted: a bare `nextval(…)`, or text made of literals
//! around one `nextval(…)`, optionally padded with zeros by `lpad`. Everything else is [`Shape::Other`], and the
//! sequence is then followed by polling.

/// What a default expression does with the sequence's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The value itself, perhaps cast to another integer type.
    Bare,
    /// Text: `prefix`, the value's digits (perhaps padded with zeros), `suffix`.
    Affix { prefix: String, suffix: String },
    /// Anything else.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Literal(String),
    Number(String),
    Concat,
    Cast,
    Comma,
    Open,
    Close,
}

/// Classifies `expression`, the text of `pg_get_expr(adbin, adrelid)`.
#[must_use]
pub fn classify(expression: &str) -> Shape {
    tokens(expression)
        .and_then(without_casts)
        .and_then(|t| shape(&without_grouping(&t)))
        .unwrap_or(Shape::Other)
}

/// Splits the expression; `None` where it holds anything that the accepted shapes never do.
fn tokens(expression: &str) -> Option<Vec<Token>> {
    let mut found = Vec::new();
    let mut rest = expression.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\n' | '\t' => {}
            '(' => found.push(Token::Open),
            ')' => found.push(Token::Close),
            ',' => found.push(Token::Comma),
            '|' if rest.next_if_eq(&'|').is_some() => found.push(Token::Concat),
            ':' if rest.next_if_eq(&':').is_some() => found.push(Token::Cast),
            '\'' => {
                let mut text = String::new();
                loop {
                    match rest.next()? {
                        '\'' if rest.next_if_eq(&'\'').is_some() => text.push('\''),
                        '\'' => break,
                        other => text.push(other),
                    }
                }
                found.push(Token::Literal(text));
            }
            c if c.is_ascii_digit() => {
                let mut digits = String::from(c);
                while let Some(d) = rest.next_if(char::is_ascii_digit) {
                    digits.push(d);
                }
                found.push(Token::Number(digits));
            }
            c if c.is_alphabetic() || c == '_' => {
                let mut word = String::from(c);
                while let Some(w) = rest.next_if(|w| w.is_alphanumeric() || matches!(w, '_' | '.')) {
                    word.push(w);
                }
                // E'…' literals hold backslashes: not worth a second set of escape rules.
                if rest.peek() == Some(&'\'') {
                    return None;
                }
                found.push(Token::Word(word));
            }
            _ => return None,
        }
    }
    Some(found)
}

/// Drops casts that leave the digits as they are; `None` at any other cast (`::numeric(10,2)`, `::character(12)`).
fn without_casts(tokens: Vec<Token>) -> Option<Vec<Token>> {
    let mut kept = Vec::new();
    let mut rest = tokens.into_iter().peekable();
    while let Some(token) = rest.next() {
        if token != Token::Cast {
            kept.push(token);
            continue;
        }
        let Some(Token::Word(name)) = rest.next() else { return None };
        let harmless = match name.as_str() {
            "character" => rest.next() == Some(Token::Word("varying".to_owned())),
            other => matches!(other, "smallint" | "integer" | "bigint" | "numeric" | "text" | "regclass"),
        };
        if !harmless || rest.peek() == Some(&Token::Open) {
            return None;
        }
    }
    Some(kept)
}

/// Drops the parentheses that only group. With `||` as the only operator they change nothing.
fn without_grouping(tokens: &[Token]) -> Vec<Token> {
    let mut kept: Vec<Token> = Vec::new();
    let mut opened = Vec::new();
    for token in tokens {
        match token {
            Token::Open => {
                let is_call = matches!(kept.last(), Some(Token::Word(_)));
                opened.push(is_call);
                if is_call {
                    kept.push(Token::Open);
                }
            }
            Token::Close => {
                if opened.pop() == Some(true) {
                    kept.push(Token::Close);
                }
            }
            other => kept.push(other.clone()),
        }
    }
    kept
}

fn shape(tokens: &[Token]) -> Option<Shape> {
    let (prefix, rest) = leading_literals(tokens);
    let (padded, rest) = core(rest)?;
    let suffix = trailing_literals(rest)?;
    let bare = !padded && prefix.is_empty() && suffix.is_empty();
    Some(if bare { Shape::Bare } else { Shape::Affix { prefix, suffix } })
}

fn leading_literals(mut tokens: &[Token]) -> (String, &[Token]) {
    let mut prefix = String::new();
    while let [Token::Literal(text), Token::Concat, rest @ ..] = tokens {
        prefix.push_str(text);
        tokens = rest;
    }
    (prefix, tokens)
}

fn trailing_literals(mut tokens: &[Token]) -> Option<String> {
    let mut suffix = String::new();
    while let [Token::Concat, Token::Literal(text), rest @ ..] = tokens {
        suffix.push_str(text);
        tokens = rest;
    }
    tokens.is_empty().then_some(suffix)
}

/// `nextval('…')` or `lpad(nextval('…'), width, '0')`; says whether it was padded.
fn core(tokens: &[Token]) -> Option<(bool, &[Token])> {
    match tokens {
        [Token::Word(f), Token::Open, Token::Literal(_), Token::Close, rest @ ..] if f == "nextval" => {
            Some((false, rest))
        }
        [
            Token::Word(pad),
            Token::Open,
            Token::Word(f),
            Token::Open,
            Token::Literal(_),
            Token::Close,
            Token::Comma,
            Token::Number(_),
            Token::Comma,
            Token::Literal(zero),
            Token::Close,
            rest @ ..,
        ] if pad == "lpad" && f == "nextval" && zero == "0" => Some((true, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affix(prefix: &str, suffix: &str) -> Shape {
        Shape::Affix { prefix: prefix.to_owned(), suffix: suffix.to_owned() }
    }

    /// The texts are what `pg_get_expr` printed on a PostgreSQL 15 for the defaults named in the comments.
    #[test]
    fn only_what_can_be_inverted_with_certainty_is_read() {
        let cases = [
            ("nextval('a_id_seq'::regclass)", Shape::Bare),
            ("nextval('\"Größe\".\"We''ird\"'::regclass)", Shape::Bare),
            ("(nextval('cst'::regclass))::integer", Shape::Bare),
            // 'ORD-' || lpad(nextval('txt')::text, 8, '0')
            ("('ORD-'::text || lpad((nextval('txt'::regclass))::text, 8, '0'::text))", affix("ORD-", "")),
            ("('INV'::text || nextval('txt2'::regclass))", affix("INV", "")),
            (
                "(('K'::text || lpad(((nextval('txt6'::regclass))::character varying)::text, 8, '0'::text)) || '/Z'::text)",
                affix("K", "/Z"),
            ),
            ("lpad((nextval('x'::regclass))::text, 8, '0'::text)", affix("", "")),
            ("((nextval('x'::regclass))::text || '-b'::text)", affix("", "-b")),
            // Padding with anything but zeros, arithmetic, formats and unknown functions cannot be undone surely.
            ("lpad((nextval('x'::regclass))::text, 8, '9'::text)", Shape::Other),
            ("(nextval('cst'::regclass) * 10)", Shape::Other),
            ("COALESCE(nextval('cst'::regclass), (1)::bigint)", Shape::Other),
            ("to_char(nextval('txt3'::regclass), 'FM\"A\"00000'::text)", Shape::Other),
            ("concat('X-', nextval('txt4'::regclass), '-Y')", Shape::Other),
            ("(nextval('n'::regclass))::numeric(10,2)", Shape::Other),
            ("(E'a\\\\b'::text || nextval('n'::regclass))", Shape::Other),
            ("f()", Shape::Other),
            ("(nextval('a'::regclass) || nextval('b'::regclass))", Shape::Other),
            ("", Shape::Other),
            ("'", Shape::Other),
        ];
        for (expression, expected) in cases {
            assert_eq!(classify(expression), expected, "{expression}");
        }
    }
}
