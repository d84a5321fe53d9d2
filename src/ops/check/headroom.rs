//! How long the sequences last: how much of each is used, on either server, and how fast ids are being taken.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::bundle::bundle;
use super::definitions::Counterparts;
use super::widen::widening;
use super::{Code, Context, Finding, Severity};
use crate::catalog::Sequence;
use crate::demo::text::number;
use crate::keeper::{Managed, Todo};
use crate::ops::ask::Side;
use crate::ops::plan::todo;
use crate::plan::State;
use crate::publisher::look::LOOK_TIMEOUT;
use crate::readings::{Reader, Reading};
use crate::sides::SidesError;
use crate::sql::{self, SqlError};
use crate::types::Oid;

const EXHAUSTED: Code = Code {
    code: "sequence-exhausted",
    severity: Severity::Blocker,
    meaning: "A sequence of the publisher, or a column that it fills, has no value left: inserts fail.",
};
const NEARLY: Code = Code {
    code: "sequence-nearly-exhausted",
    severity: Severity::Warning,
    meaning: "More than 80 % of a sequence, or of what a column that it fills can hold, is used.",
};
const FORECAST: Code = Code {
    code: "sequence-exhaustion-forecast",
    severity: Severity::Notice,
    meaning: "If ids are taken as fast as in the second in which this was measured, a sequence is used up within 90 days.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[EXHAUSTED, NEARLY, FORECAST];

/// From how many parts in a thousand of its range on a sequence is nearly used up.
const NEARLY_FROM: i128 = 800;

/// The rate is measured over this time, and only for those that could be used up in some years at a million ids a second.
const MEASURED_OVER: Duration = Duration::from_secs(1);
const LEFT_MAX: i128 = 100_000_000_000_000;

const SOON: Duration = Duration::from_secs(90 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// How far a sequence has got, on one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    /// The last value that can be used.
    end: i64,
    /// The furthest id that was handed out.
    furthest: i64,
    /// In parts of a thousand, from START to the end.
    used: i128,
    /// How many more ids there are.
    left: i128,
}

impl Room {
    fn of(sequence: &Sequence, furthest: i64) -> Self {
        let (d, bounds) = (&sequence.definition, sequence.bounds());
        let end = if d.descending() { d.min.max(bounds.lowest) } else { d.max.min(bounds.highest) };
        let place = |value: i64| i128::from(value) * i128::from(d.increment.signum());
        let range = (place(end) - place(d.start) + 1).max(1);
        let used = (place(furthest) - place(d.start) + 1).clamp(0, range);
        let left = (place(end) - place(furthest)).max(0) / i128::from(d.increment.unsigned_abs());
        Room { end, furthest, used: used * 1000 / range, left }
    }

    fn text(&self, forecast: Option<&str>) -> String {
        let forecast = forecast.map(|text| format!("; {text}")).unwrap_or_default();
        let (whole, tenth) = (self.used / 1000 * 100 + self.used % 1000 / 10, self.used % 10);
        format!(
            "is {whole}.{tenth} % used: it stands at {}, and its last usable value is {}{forecast}",
            number(self.furthest),
            number(self.end)
        )
    }
}

pub(super) async fn findings(
    context: &Context<'_>,
    counterparts: &Counterparts<'_>,
) -> Result<Vec<Finding>, SidesError> {
    let managed = context.survey.sequences.iter().map(|one| &one.managed);
    let looked: Vec<Looked<'_>> = managed
        .filter(|one| one.excluded.is_none() && !one.cycles())
        .map(|one| Looked::at(one, counterparts))
        .collect();
    let rates = rates(context, &looked).await?;
    let (mut exhausted, mut nearly, mut soon) = (Vec::new(), Vec::new(), Vec::new());
    for one in &looked {
        let room = one.there.map(|(_, room)| room);
        let rate = rates.get(&one.managed.oid()).copied().unwrap_or_default();
        let forecast = room.and_then(|room| rate.forecast(room.left));
        let words = forecast.as_ref().map(|(_, words)| words.as_str());
        if let Some((sequence, room)) = one.there {
            let object = sequence.name.to_string();
            let mend = widening(sequence);
            let with_mend = |finding: Finding| finding.mend(&*mend);
            if room.left == 0 {
                let message = format!(
                    "is used up: it stands at {}, and its last usable value is {}",
                    number(room.furthest),
                    number(room.end)
                );
                exhausted.push(with_mend(Finding::on_publisher(&EXHAUSTED, object, message)));
            } else if room.used >= NEARLY_FROM {
                nearly.push(with_mend(Finding::on_publisher(&NEARLY, object, room.text(words))));
            } else if let Some((_, words)) = forecast.as_ref().filter(|(lasts, _)| *lasts <= SOON) {
                soon.push(with_mend(Finding::on_publisher(&FORECAST, object, room.text(Some(words)))));
            }
        }
        if let Some(room) = one.here.filter(|room| room.used >= NEARLY_FROM)
            && !matches!(todo(one.managed, context.settings.lead), Todo::Hold(_))
        {
            let mend = widening(&one.managed.sequence);
            let finding =
                Finding::on_subscriber(&NEARLY, one.managed.sequence.name.to_string(), room.text(words));
            nearly.push(finding.mend(mend));
        }
    }
    let mut found = bundle(exhausted, "sequence");
    found.extend(bundle(nearly, "sequence"));
    found.extend(bundle(soon, "sequence"));
    Ok(found)
}

struct Looked<'a> {
    managed: &'a Managed,
    there: Option<(&'a Sequence, Room)>,
    here: Option<Room>,
}

impl<'a> Looked<'a> {
    fn at(managed: &'a Managed, counterparts: &'a Counterparts<'_>) -> Self {
        let definition = &managed.sequence.definition;
        let state = managed.publisher_value().and_then(|value| value.state);
        let there = counterparts.of(&managed.sequence).and_then(|sequence| {
            let furthest = state?.mark(&sequence.definition)?;
            Some((sequence, Room::of(sequence, furthest)))
        });
        let mark = managed.mark().map(|(mark, _)| mark);
        let own = managed.state.and_then(|state| state.mark(definition));
        let furthest = mark.into_iter().chain(own).reduce(|a, b| definition.further(a, b));
        let here = furthest.map(|furthest| Room::of(&managed.sequence, furthest));
        Looked { managed, there, here }
    }
}

/// How many ids were taken, and in how long.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    taken: u128,
    over: Duration,
}

impl Rate {
    /// How long `left` ids last, also in words.
    fn forecast(&self, left: i128) -> Option<(Duration, String)> {
        let left = u128::try_from(left).ok()?;
        if self.taken == 0 {
            return None;
        }
        let millis = (left * self.over.as_millis().max(1)) / self.taken;
        let lasts = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        let per_second = self.taken * 1000 / self.over.as_millis().max(1);
        let per_second = number(i64::try_from(per_second).unwrap_or(i64::MAX));
        let words = format!("at the present rate of {per_second} ids a second it lasts {}", duration(lasts));
        Some((lasts, words))
    }
}

fn duration(lasts: Duration) -> String {
    let seconds = lasts.as_secs();
    let steps = [(365 * DAY, "year"), (DAY, "day"), (60 * 60, "hour"), (60, "minute"), (1, "second")];
    let found = steps.into_iter().find(|(unit, _)| seconds >= 2 * unit);
    let (unit, name) = found.unwrap_or((1, "second"));
    format!("{} {name}s", number(i64::try_from(seconds / unit).unwrap_or(i64::MAX)))
}

/// How fast the publisher's sequences go on, by the subscriber's OIDs. Asks, and waits, only where it may matter.
async fn rates(context: &Context<'_>, looked: &[Looked<'_>]) -> Result<HashMap<Oid, Rate>, SidesError> {
    let pairs: Vec<(Oid, &Sequence)> = looked
        .iter()
        .filter_map(|one| one.there.map(|(sequence, room)| (one.managed.oid(), sequence, room)))
        .filter(|(_, _, room)| room.left > 0 && room.left < LEFT_MAX)
        .map(|(oid, sequence, _)| (oid, sequence))
        .collect();
    if pairs.is_empty() {
        return Ok(HashMap::new());
    }
    let client = &context.publisher.client;
    let sequences: Vec<&Sequence> = pairs.iter().map(|(_, sequence)| *sequence).collect();
    let refused = |error: SqlError| Side::Publisher.error(error);
    let reader = sql::within(LOOK_TIMEOUT, Reader::prepare(client)).await.map_err(refused)?;
    let read = async || sql::within(LOOK_TIMEOUT, reader.read(client, &sequences)).await.map_err(refused);
    let first = read().await?;
    let since = Instant::now();
    tokio::time::sleep(MEASURED_OVER).await;
    let second = read().await?;
    let over = since.elapsed();
    let mut found = HashMap::new();
    for ((oid, sequence), (before, after)) in pairs.into_iter().zip(first.iter().zip(&second)) {
        if let (Reading::State(before), Reading::State(after)) = (before, after) {
            found.insert(oid, Rate { taken: taken(sequence, *before, *after), over });
        }
    }
    Ok(found)
}

/// How many ids were taken between two readings.
fn taken(sequence: &Sequence, before: State, after: State) -> u128 {
    let steps = (i128::from(after.last_value) - i128::from(before.last_value))
        / i128::from(sequence.definition.increment);
    let first = i128::from(after.is_called) - i128::from(before.is_called);
    u128::try_from(steps + first).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Persistence, Privileges};
    use crate::plan::Definition;
    use crate::types::QualifiedName;

    fn sequence(start: i64, increment: i64, min: i64, max: i64) -> Sequence {
        Sequence {
            oid: Oid(1),
            name: QualifiedName::new("public", "s"),
            persistence: Persistence::Permanent,
            data_type: "bigint".to_owned(),
            definition: Definition::new(start, increment, min, max, 1, false).unwrap(),
            privileges: Privileges::default(),
            consumers: Vec::new(),
            suspects: Vec::new(),
        }
    }

    #[test]
    fn what_is_used_counts_from_the_start_in_the_direction_of_the_increment() {
        let up = Room::of(&sequence(1, 1, 1, 1000), 875);
        assert_eq!((up.used, up.left, up.end), (875, 125, 1000));
        assert_eq!(up.text(None), "is 87.5 % used: it stands at 875, and its last usable value is 1,000");
        let down = Room::of(&sequence(-1, -2, -1000, -1), -501);
        assert_eq!((down.used, down.left, down.end), (501, 249, -1000));
        let fresh = Room::of(&sequence(900, 1, 1, 1000), 899);
        assert_eq!((fresh.used, fresh.left), (0, 101));
        let full = Room::of(&sequence(1, 1, 1, 1000), 1000);
        assert_eq!((full.used, full.left), (1000, 0));
        let widest = Room::of(&sequence(i64::MIN, 1, i64::MIN, i64::MAX), i64::MAX);
        assert_eq!((widest.used, widest.left), (1000, 0));
    }

    #[test]
    fn a_rate_says_how_long_it_lasts() {
        let rate = Rate { taken: 10, over: Duration::from_secs(1) };
        let (lasts, words) = rate.forecast(i128::from(10 * 3 * DAY)).unwrap();
        assert_eq!(lasts, Duration::from_secs(3 * DAY));
        assert_eq!(words, "at the present rate of 10 ids a second it lasts 3 days");
        assert_eq!(Rate::default().forecast(10), None);
        let sequence = sequence(1, -3, -1000, 1000);
        let (before, after) =
            (State { last_value: 1, is_called: false }, State { last_value: -5, is_called: true });
        assert_eq!(taken(&sequence, before, after), 3);
    }
}
