//! One row that did not look the same on both sides, and what a second look at it proves. No IO.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::Serialize;

use super::statement::Key;

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is on both sides, with other values.
    Changed,
    /// It is not on the subscriber.
    Missing,
    /// It is on the subscriber only.
    Extra,
}

/// The rows of one key, as one look at one side found them: usually one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    rows: u32,
    digest: u64,
    /// Of where it lies and which transaction wrote it: the same only where nobody changed it.
    version: u64,
}

/// Counts a row. True if it is the first of its key.
pub(super) fn add(seen: &mut Seen, digest: u64, version: &str) -> bool {
    let mut hasher = DefaultHasher::new();
    version.hash(&mut hasher);
    seen.rows += 1;
    seen.digest = seen.digest.wrapping_add(digest);
    seen.version = seen.version.wrapping_add(hasher.finish());
    seen.rows == 1
}

impl Seen {
    /// Whether both sides have the same rows.
    pub(super) fn is_same(here: Option<Seen>, there: Option<Seen>) -> bool {
        let value = |seen: Option<Seen>| seen.map(|seen| (seen.rows, seen.digest));
        value(here) == value(there)
    }
}

/// A row in question, with the last look at each side: first the publisher, then, when everything visible to that was
/// applied, the subscriber.
#[derive(Clone, Debug)]
pub(super) struct Suspect {
    pub(super) key: Key,
    pub(super) publisher: Option<Seen>,
    pub(super) subscriber: Option<Seen>,
}

/// What two looks at each side prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Same,
    Different(Kind),
    /// It changed meanwhile: look again.
    Open,
}

impl Suspect {
    /// Judges the row after another look at the publisher and, again when that was applied, at the subscriber.
    pub(super) fn judge(&self, publisher: Option<Seen>, subscriber: Option<Seen>) -> Judged {
        if Seen::is_same(publisher, subscriber) || Seen::is_same(publisher, self.subscriber) {
            return Judged::Same;
        }
        let rows = |seen: Option<Seen>| seen.map_or(0, |seen| seen.rows);
        let (here, there) = (rows(publisher), rows(subscriber));
        let held_still = publisher == self.publisher;
        // The row was there, as it is, from one look at the publisher to the other; so it had to be like that on the
        // subscriber between them.
        let had_to_be_there = here > 0 && here >= rows(self.subscriber);
        // The subscriber's row was there, as it is, from one look to the other; between them it went through the state
        // that the second look at the publisher saw.
        let stayed = subscriber == self.subscriber;
        if !held_still || !(had_to_be_there || stayed) {
            return Judged::Open;
        }
        Judged::Different(match here.cmp(&there) {
            std::cmp::Ordering::Less => Kind::Extra,
            std::cmp::Ordering::Equal => Kind::Changed,
            std::cmp::Ordering::Greater => Kind::Missing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(digest: u64, version: u64) -> Option<Seen> {
        Some(Seen { rows: 1, digest, version })
    }

    #[test]
    fn only_what_held_still_is_different() {
        let first = |publisher, subscriber| Suspect { key: vec!["1".to_owned()], publisher, subscriber };
        let cases = [
            (first(seen(1, 1), seen(2, 9)), seen(1, 1), seen(2, 9), Judged::Different(Kind::Changed)),
            (first(seen(1, 1), None), seen(1, 1), None, Judged::Different(Kind::Missing)),
            (first(None, seen(1, 9)), None, seen(1, 9), Judged::Different(Kind::Extra)),
            // Applied late.
            (first(seen(1, 1), None), seen(1, 1), seen(1, 9), Judged::Same),
            // The subscriber was looked at later, and had what the publisher has now.
            (first(seen(1, 1), seen(2, 8)), seen(2, 2), seen(3, 9), Judged::Same),
            (first(None, seen(1, 9)), None, None, Judged::Same),
            // Updated between the looks, and back again.
            (first(seen(1, 1), seen(2, 8)), seen(1, 3), seen(2, 9), Judged::Open),
            // Inserted and deleted again and again.
            (first(None, seen(1, 8)), None, seen(1, 9), Judged::Open),
        ];
        for (suspect, publisher, subscriber, judged) in cases {
            assert_eq!(
                suspect.judge(publisher, subscriber),
                judged,
                "{suspect:?} {publisher:?} {subscriber:?}"
            );
        }
    }
}
