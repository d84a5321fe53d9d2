//! What of a faulty connection string may be shown.
//!
//! Goes in: a word out of it. Comes out: the word, if it cannot be or contain a password; else a stand-in. People write
//! URIs with a wrong prefix, forget to encode a `/` or `@`, and quote nothing; the pieces end up in odd places.

/// The word in quotes, or `(not shown)`.
pub(crate) fn shown(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if word.len() <= 40 && word.chars().all(plain) { format!("{word:?}") } else { "(not shown)".to_owned() }
}

/// Whether a text looks like `user:password@host`.
pub(crate) fn has_credentials(text: &str) -> bool {
    text.split_once(':').is_some_and(|(_, after)| after.contains('@'))
}
