//! `SHOW HELP`: the commands.

use super::answer::Kind::Text;
use super::answer::{Column, Rows};
use super::command::COMMANDS;

pub(super) const COLUMNS: &[Column] = &[("command", Text), ("shows", Text)];

pub(super) fn rows() -> Rows {
    Box::new(COMMANDS.iter().map(|(name, shows, _)| vec![(*name).into(), (*shows).into()]))
}
