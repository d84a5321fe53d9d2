//! `SHOW STREAM`: how far the stream has come, and what lies behind it.

use std::sync::atomic::Ordering;

use super::answer::Kind::{Bool, Float8, Int8, Text};
use super::answer::{Column, Rows};
use super::pace::Pace;
use super::view::{View, doing};
use crate::types::Lsn;

pub(super) const COLUMNS: &[Column] = &[
    ("state", Text),
    ("protecting", Bool),
    ("publisher_lsn", Text),
    ("received_lsn", Text),
    ("committed_lsn", Text),
    ("confirmed_lsn", Text),
    ("lag_bytes", Int8),
    ("lag_seconds", Float8),
    ("rows", Int8),
    ("ids_per_second", Float8),
];

pub(super) fn rows(view: &View, pace: &Pace) -> Rows {
    let progress = *view.progress.borrow();
    let confirmed = view.registry.confirmed();
    let known = |lsn: Lsn| (lsn != Lsn::ZERO).then(|| lsn.to_string());
    let lag = progress.wal_end.bytes_since(confirmed);
    let is_known = progress.wal_end != Lsn::ZERO && confirmed != Lsn::ZERO;
    let row = vec![
        doing(view.slot_state.borrow().doing).into(),
        view.registry.is_protecting().into(),
        known(progress.wal_end).into(),
        known(progress.received).into(),
        known(progress.committed).into(),
        known(confirmed).into(),
        is_known.then_some(lag).into(),
        is_known.then(|| pace.lag_seconds(confirmed)).into(),
        view.registry.totals.rows.load(Ordering::Relaxed).into(),
        pace.ids_per_second().into(),
    ];
    Box::new(std::iter::once(row))
}
