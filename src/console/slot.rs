//! `SHOW SLOT`: our replication slot on the publisher.

use super::answer::Kind::{Bool, Int8, Text};
use super::answer::{Column, Rows};
use super::view::{View, doing};

pub(super) const COLUMNS: &[Column] = &[
    ("name", Text),
    ("state", Text),
    ("retained_bytes", Int8),
    ("ceiling_bytes", Int8),
    ("lost", Int8),
    ("temporary", Bool),
    ("failover", Bool),
];

pub(super) fn rows(view: &View) -> Rows {
    let settings = view.settings.borrow().clone();
    let state = view.slot_state.borrow().clone();
    let row = vec![
        settings.slot.as_ref().map(ToString::to_string).into(),
        doing(state.doing).into(),
        state.retained_bytes.into(),
        settings.max_retained_wal.0.into(),
        state.lost.into(),
        settings.temporary_slot.into(),
        settings.failover.into(),
    ];
    Box::new(std::iter::once(row))
}
