//! Results as people read them: tables as wide as the terminal, numbers with separators.

use std::io::IsTerminal;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, TableComponent, Width};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub use crate::demo::text::{counted as count, number};

/// Width of what is not a terminal: a pipe, a file, a mail.
const COLUMNS: u16 = 80;

/// A table without borders: a line of headings, a rule, and rows.
#[derive(Debug)]
pub struct Listing {
    table: Table,
    width: u16,
}

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

impl Listing {
    /// With these headings.
    #[must_use]
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let width = width();
        let mut table = Table::new();
        table.load_preset(NOTHING);
        table.set_style(TableComponent::HeaderLines, '─');
        table.set_style(TableComponent::MiddleHeaderIntersections, '─');
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        table.set_header(columns.iter().map(|(name, _)| Cell::new(name)));
        for (index, (_, align)) in columns.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((u16::from(index > 0), 1));
                column.set_cell_alignment(match align {
                    Align::Left => CellAlignment::Left,
                    Align::Right => CellAlignment::Right,
                });
            }
        }
        Listing { table, width }
    }

    /// Keeps a column from being wrapped, in favour of the others.
    pub fn keep_whole(&mut self, index: usize) {
        if let Some(column) = self.table.column_mut(index) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }

    /// Gives a column at most this part of the width.
    pub fn limit(&mut self, index: usize, percent: u16) {
        if let Some(column) = self.table.column_mut(index) {
            column.set_constraint(ColumnConstraint::UpperBoundary(Width::Percentage(percent)));
        }
    }

    /// One more row.
    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.table.add_row(cells);
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.row_iter().next().is_none()
    }

    /// The lines, the last one ended too.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for line in self.table.lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// How many columns of characters it may take.
    #[must_use]
    pub fn width(&self) -> u16 {
        self.width
    }
}

/// The terminal's width, or that of a page.
#[must_use]
pub fn width() -> u16 {
    if !std::io::stdout().is_terminal() {
        return COLUMNS;
    }
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(COLUMNS, |size| size.ws_col.max(40))
}

/// A number, or a dash where there is none.
#[must_use]
pub fn maybe(value: Option<i64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

/// A bar on standard error while something long is under way; nothing where that is no terminal.
#[must_use]
pub fn progress(what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {human_pos} of {human_len}, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("━━─"));
    }
    bar.set_message(what.to_owned());
    bar
}
