//! The settings as text, keyword by keyword, before they are understood.
//!
//! Goes in: keyword and value from the connection string, a service file or the environment; the first source that
//! names a keyword wins, an empty value included (as in libpq). Comes out: the value. It never shows a secret.

use std::collections::BTreeMap;
use std::fmt;

use super::error::ConninfoError;
use super::keywords::{self, Keyword};
use super::redact;

/// Keyword → value, only keywords of the table.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    values: BTreeMap<&'static str, String>,
}

impl Options {
    pub(crate) fn get(&self, keyword: &str) -> Option<&str> {
        self.values.get(keyword).map(String::as_str)
    }

    /// The value, unless it is absent or empty: for settings where libpq takes both for "not given".
    pub(crate) fn filled(&self, keyword: &str) -> Option<&str> {
        self.get(keyword).filter(|value| !value.is_empty())
    }

    /// All keywords with a value that is not empty.
    pub(crate) fn filled_ones(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let values = self.values.iter().map(|(keyword, value)| (*keyword, value.as_str()));
        values.filter(|(_, value)| !value.is_empty())
    }

    /// Sets a value as a connection string does: the last mention wins, and `requiressl` is the old name of two
    /// `sslmode`s.
    pub(crate) fn set(&mut self, keyword: &str, value: String) -> Result<(), ConninfoError> {
        if keyword == "requiressl" {
            let mode = if value.starts_with('1') { "require" } else { "prefer" };
            self.values.insert("sslmode", mode.to_owned());
            return Ok(());
        }
        let row = keywords::find(keyword).ok_or_else(|| ConninfoError::UnknownKeyword {
            keyword: redact::shown(keyword),
            nearest: keywords::nearest(keyword),
        })?;
        if value.contains('\0') {
            return Err(ConninfoError::ZeroByte { keyword: row.name });
        }
        self.values.insert(row.name, value);
        Ok(())
    }

    /// Sets a default of a keyword that the caller knows to exist.
    pub(crate) fn set_default(&mut self, keyword: &'static str, value: &str) {
        self.values.entry(keyword).or_insert_with(|| value.to_owned());
    }

    /// Sets a value only where none is: what service files, the environment and defaults do.
    pub(crate) fn set_if_absent(&mut self, row: &'static Keyword, value: String) {
        self.values.entry(row.name).or_insert(value);
    }
}

/// Shows which keywords are set and the values of those that are no secrets.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.values.iter().map(|(name, value)| {
            let secret = keywords::find(name).is_none_or(|row| row.secret);
            (name, if secret { "[hidden]" } else { value.as_str() })
        });
        f.debug_map().entries(shown).finish()
    }
}
