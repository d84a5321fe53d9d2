//! `SHOW SEQUENCES`: all that is known of each.

use std::time::SystemTime;

use super::answer::Kind::{Bool, Float8, Int8, Text};
use super::answer::{Column, Rows};
use super::view::View;

pub(super) const COLUMNS: &[Column] = &[
    ("sequence", Text),
    ("schema", Text),
    ("name", Text),
    ("consumers", Text),
    ("state", Text),
    ("settled", Bool),
    ("publisher_value", Int8),
    ("mark", Int8),
    ("source", Text),
    ("subscriber_value", Int8),
    ("next_value", Int8),
    ("lead", Int8),
    ("lead_seconds", Float8),
    ("ids_per_second", Int8),
    ("behind", Bool),
    ("set_aside", Text),
    ("advances", Int8),
    ("rewinds", Int8),
    ("last_advance", Text),
    ("reason", Text),
];

pub(super) fn rows(view: &View) -> Rows {
    let now = view.registry.clock();
    Box::new(view.registry.snapshot().into_iter().map(move |one| {
        let (rate, lead_seconds) = (one.rate(now), one.lead_seconds(now));
        let set_aside: Vec<String> = one.set_aside.iter().map(ToString::to_string).collect();
        vec![
            one.name.to_string().into(),
            one.name.schema.into(),
            one.name.name.into(),
            (!one.consumers.is_empty()).then_some(one.consumers).into(),
            one.class.as_str().into(),
            one.settled.into(),
            one.publisher_value.into(),
            one.mark.into(),
            one.source.map(|source| source.as_str().to_owned()).into(),
            one.last_value.into(),
            one.next_value.into(),
            one.lead_steps.into(),
            lead_seconds.into(),
            rate.into(),
            one.behind.into(),
            (!set_aside.is_empty()).then(|| set_aside.join(",")).into(),
            one.advances.into(),
            one.rewinds.into(),
            one.last_advance.and_then(rfc3339).into(),
            one.reason.into(),
        ]
    }))
}

/// To the millisecond, in UTC; both `timestamptz` and people read it.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.round(jiff::Unit::Millisecond).unwrap_or(time).to_string())
}
