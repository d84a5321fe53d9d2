//! `SHOW CONFIG`: the settings in force, as they would be written. Of a connection string only whether there is one.

use super::answer::Kind::Text;
use super::answer::{Column, Rows};
use super::view::View;

pub(super) const COLUMNS: &[Column] = &[("name", Text), ("setting", Text)];

pub(super) fn rows(view: &View) -> Rows {
    let mut shown = view.settings.borrow().shown();
    shown.sort_unstable();
    Box::new(shown.into_iter().map(|(key, text)| vec![key.into(), text.into()]))
}
