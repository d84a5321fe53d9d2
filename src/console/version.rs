//! `SHOW VERSION`: which program answers.

use super::answer::Kind::{Int8, Text};
use super::answer::{Column, Rows};

pub(super) const COLUMNS: &[Column] = &[("version", Text), ("pid", Int8)];

pub(super) fn rows() -> Rows {
    let row = vec![env!("CARGO_PKG_VERSION").into(), u64::from(std::process::id()).into()];
    Box::new(std::iter::once(row))
}
