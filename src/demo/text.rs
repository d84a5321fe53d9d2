//! Lines of text with styles, measured in columns, and numbers as people read them. No IO.

use std::fmt::Write as _;

/// The width that everything fits into.
pub const COLUMNS: usize = 80;

/// How a piece of text looks where colours are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Warning,
    Bad,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Bold => "\x1b[1m",
            Style::Dim => "\x1b[2m",
            Style::Good => "\x1b[32m",
            Style::Warning => "\x1b[33m",
            Style::Bad => "\x1b[1;31m",
        }
    }
}

/// One line, made of styled pieces. All characters used are one column wide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<(Style, String)>);

impl Line {
    /// An empty line.
    #[must_use]
    pub fn new() -> Self {
        Line::default()
    }

    /// With `text` at its end.
    #[must_use]
    pub fn add(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    /// With `text` in a column of `width`, left-aligned, cut where it is too long.
    #[must_use]
    pub fn left(self, style: Style, text: &str, width: usize) -> Self {
        let text = cut(text, width);
        self.add(style, format!("{text:<width$}"))
    }

    /// With `text` in a column of `width`, right-aligned, cut where it is too long.
    #[must_use]
    pub fn right(self, style: Style, text: &str, width: usize) -> Self {
        let text = cut(text, width);
        self.add(style, format!("{text:>width$}"))
    }

    /// With `text` so that it ends at the right margin.
    #[must_use]
    pub fn to_margin(self, style: Style, text: &str) -> Self {
        let width = (COLUMNS - 1).saturating_sub(self.width());
        self.right(style, text, width)
    }

    /// How many columns it takes.
    #[must_use]
    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// As it is written, without the line's end.
    #[must_use]
    pub fn render(&self, colours: bool) -> String {
        let mut out = String::new();
        for (style, text) in &self.0 {
            match style.code() {
                code if colours && !code.is_empty() => {
                    let _ = write!(out, "{code}{text}\x1b[0m");
                }
                _ => out.push_str(text),
            }
        }
        out.truncate(out.trim_end().len());
        out
    }
}

/// A horizontal line from margin to margin.
#[must_use]
pub fn rule() -> Line {
    Line::new().add(Style::Dim, format!(" {}", "─".repeat(COLUMNS - 2)))
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}

/// Words put into lines that keep to the margins, each begun with `indent` spaces.
#[must_use]
pub fn wrap(text: &str, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let fits = indent + line.chars().count() + 1 + word.chars().count() < COLUMNS;
        if !line.is_empty() && !fits {
            lines.push(format!("{:indent$}{line}", ""));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(format!("{:indent$}{line}", ""));
    lines
}

/// `text` in lines that keep to the margins, all but the first indented.
#[must_use]
pub fn hang(text: &str, indent: usize) -> String {
    let lines = wrap(text, indent);
    let mut out = String::new();
    for (index, line) in lines.iter().enumerate() {
        out.push_str(if index == 0 { line.trim_start() } else { line });
        out.push('\n');
    }
    out
}

/// `-12,345`.
#[must_use]
pub fn number(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0 { format!("-{out}") } else { out }
}

/// So many of something: `1 table`, `2,000 tables`.
#[must_use]
pub fn counted(n: impl TryInto<i64>, thing: &str) -> String {
    let n = n.try_into().unwrap_or(i64::MAX);
    if n == 1 { format!("1 {thing}") } else { format!("{} {thing}s", number(n)) }
}

/// As [`number`].
#[must_use]
pub fn count(value: u64) -> String {
    number(i64::try_from(value).unwrap_or(i64::MAX))
}

/// `0 B`, `1.4 kB`, `12 MB`.
#[must_use]
pub fn bytes(value: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if value < 1024 {
        return format!("{value} B");
    }
    #[allow(clippy::cast_precision_loss)] // for people
    let mut rest = value as f64 / 1024.0;
    let mut unit = 0;
    while rest >= 1024.0 && unit + 1 < units.len() {
        rest /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(rest < 10.0);
    format!("{rest:.digits$} {}", units.get(unit).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (value, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "-1,234,567"), (100_000, "100,000")]
        {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(i64::MIN), "-9,223,372,036,854,775,808");
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (value, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 kB"), (15 << 20, "15 MB"), (u64::MAX, "16777216 TB")]
        {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn lines_keep_their_columns_whatever_is_in_them() {
        let line = Line::new().left(Style::Bold, "a-name-that-is-too-long", 10).right(Style::Good, "7", 5);
        assert_eq!(line.render(false), "a-name-th…    7");
        assert_eq!(line.width(), 15);
        assert!(line.render(true).contains("\x1b[32m"));
        assert_eq!(rule().width(), COLUMNS - 1);
        assert_eq!(Line::new().add(Style::Plain, "x").to_margin(Style::Plain, "y").width(), COLUMNS - 1);
    }

    #[test]
    fn long_texts_are_wrapped_between_words() {
        let lines = wrap(&"word ".repeat(40), 3);
        assert!(lines.len() > 2);
        assert!(lines.iter().all(|line| line.len() < COLUMNS && line.starts_with("   word")));
    }
}
