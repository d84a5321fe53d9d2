//! Connection strings of the form `host=db port=5432 password='two words'`.
//!
//! Goes in: the text. Comes out: [`Options`]. The grammar is the manual's ("Keyword/Value Connection Strings"): blanks
//! around `=` are allowed, a value with blanks is quoted with `'`, and `\` takes the next character literally.

use std::iter::Peekable;
use std::str::Chars;

use super::error::ConninfoError;
use super::keywords;
use super::options::Options;
use super::redact;

/// The blanks of C's `isspace` in the C locale.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

/// Reads `text`; a keyword that is named twice keeps its last value.
pub(crate) fn parse(text: &str) -> Result<Options, ConninfoError> {
    let mut options = Options::default();
    let mut rest = text.chars().peekable();
    // An unquoted secret ends at a blank: what follows may be the rest of it, so errors do not repeat it.
    let mut after_secret = false;
    loop {
        skip_blanks(&mut rest);
        if rest.peek().is_none() {
            return Ok(options);
        }
        let keyword = take_keyword(&mut rest);
        skip_blanks(&mut rest);
        if rest.next_if_eq(&'=').is_none() {
            let word = if after_secret {
                "a word (not shown: it follows an unquoted secret)".to_owned()
            } else {
                redact::shown(&keyword)
            };
            return Err(ConninfoError::MissingEquals { word });
        }
        skip_blanks(&mut rest);
        let quoted = rest.peek() == Some(&'\'');
        let value =
            if quoted { take_quoted(&mut rest, &keyword, after_secret)? } else { take_bare(&mut rest) };
        options.set(&keyword, value).map_err(|error| hide_keyword(error, after_secret))?;
        after_secret = !quoted && keywords::find(&keyword).is_some_and(|row| row.secret);
    }
}

/// A keyword that is no known word and follows an unquoted secret may be a piece of that secret.
fn hide_keyword(error: ConninfoError, after_secret: bool) -> ConninfoError {
    match error {
        ConninfoError::UnknownKeyword { nearest: None, .. } if after_secret => {
            ConninfoError::UnknownKeyword {
                keyword: "(not shown: it follows an unquoted secret)".to_owned(),
                nearest: None,
            }
        }
        other => other,
    }
}

fn skip_blanks(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| is_blank(*c)).is_some() {}
}

fn take_keyword(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut keyword = String::new();
    while let Some(c) = rest.next_if(|c| *c != '=' && !is_blank(*c)) {
        keyword.push(c);
    }
    keyword
}

fn take_bare(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut value = String::new();
    while let Some(c) = rest.next_if(|c| !is_blank(*c)) {
        match c {
            '\\' => value.extend(rest.next()),
            c => value.push(c),
        }
    }
    value
}

fn take_quoted(
    rest: &mut Peekable<Chars<'_>>,
    keyword: &str,
    after_secret: bool,
) -> Result<String, ConninfoError> {
    let mut value = String::new();
    rest.next();
    while let Some(c) = rest.next() {
        match c {
            '\\' => value.extend(rest.next()),
            '\'' => return Ok(value),
            c => value.push(c),
        }
    }
    let known = keywords::find(keyword).is_some();
    let keyword = if after_secret && !known { "(not shown)".to_owned() } else { redact::shown(keyword) };
    Err(ConninfoError::UnterminatedQuote { keyword })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(text: &str, keyword: &str) -> String {
        parse(text).unwrap().get(keyword).unwrap().to_owned()
    }

    #[test]
    fn values_are_read_as_the_manual_says() {
        assert_eq!(get("host=a port=1", "port"), "1");
        assert_eq!(get(" host =  a ", "host"), "a");
        assert_eq!(get("password='it\\'s \\\\ mine' host=a", "password"), "it's \\ mine");
        assert_eq!(get("password=a\\ b", "password"), "a b");
        assert_eq!(get("host='a'port=2", "port"), "2");
        assert_eq!(get("host=a host=b", "host"), "b");
        assert_eq!(get("host= ", "host"), "");
        assert_eq!(get("host='' port=1", "host"), "");
        assert_eq!(get("requiressl=1", "sslmode"), "require");
        assert_eq!(get("requiressl=0", "sslmode"), "prefer");
        // An empty unquoted value swallows the next word, as libpq does.
        assert_eq!(get("host= port=1", "host"), "port=1");
    }

    #[test]
    fn errors_name_the_word_but_never_a_piece_of_a_password() {
        let shown = |text: &str| parse(text).unwrap_err().to_string();
        assert!(shown("hots=a").contains("\"hots\" (did you mean \"host\"?)"));
        assert!(shown("host").contains("after \"host\""));
        assert!(shown("password='abc").contains("unterminated"));
        assert!(!shown("password=abc hunter2").contains("hunter2"));
        assert!(!shown("password=abc hunter2=b").contains("hunter2"));
        assert!(!shown("password=abc hunter2='b").contains("hunter2"));
        assert!(shown("password=abc hots=b").contains("hots"));
        for odd in
            ["jdbc:postgresql://u:hunter2@h/d?a", "jdbc:postgresql://u:hunter2@h/d?a=b", "u:hunter2@h='x"]
        {
            assert!(!shown(odd).contains("hunter2"), "{}", shown(odd));
        }
    }
}
