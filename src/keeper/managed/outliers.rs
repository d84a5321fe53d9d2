//! Ids too far out to be followed: where the limit is, what is asked of the publisher, and what is set aside.

use super::Managed;
use crate::config::Outliers;
use crate::handover::further;
use crate::plan::outlier;

/// How many ids that were set aside are remembered for a sequence.
const SET_ASIDE_MAX: usize = 32;

/// What to do about an id past the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// It is within the limit by now.
    Follow,
    /// It is set aside already.
    Known,
    /// Ask the publisher before it is set aside.
    Ask,
}

impl Managed {
    /// The furthest id that is followed without a question.
    #[must_use]
    pub fn limit(&self, outliers: Outliers) -> i64 {
        let end = if self.descending() { i64::MIN } else { i64::MAX };
        if outliers == Outliers::Follow || self.cycles() {
            return end;
        }
        let mark = self.mark().map(|(mark, _)| mark);
        outlier::limit(&self.sequence.definition, &self.bounds, self.publisher_state(), mark)
    }

    /// Whether `id` lies past the limit.
    #[must_use]
    pub fn is_beyond(&self, id: i64, outliers: Outliers) -> bool {
        self.sequence.definition.is_past(id, self.limit(outliers))
    }

    /// An id that was past the limit when it was found.
    pub fn seen_beyond(&mut self, id: i64, outliers: Outliers) -> Beyond {
        if !self.is_beyond(id, outliers) {
            self.seen_in_stream(id);
            return Beyond::Follow;
        }
        if self.set_aside.contains(&id) {
            return Beyond::Known;
        }
        // Also one short of what was set aside: the publisher may have got so far meanwhile.
        self.asking = further(self.descending(), self.asking, Some(id));
        Beyond::Ask
    }

    /// Whether an id waits for the publisher's word.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// The publisher has answered: follow the id that was asked about, or set it aside. Returns one newly set aside.
    pub fn judge_outlier(&mut self, outliers: Outliers) -> Option<i64> {
        let id = self.asking.take()?;
        if self.is_beyond(id, outliers) {
            self.set_aside.insert(id);
            if self.set_aside.len() > SET_ASIDE_MAX {
                // The nearest one.
                let _ =
                    if self.descending() { self.set_aside.pop_last() } else { self.set_aside.pop_first() };
            }
            self.times_set_aside += 1;
            return Some(id);
        }
        self.seen_in_stream(id);
        None
    }

    /// One more id that was found beside one that is set aside: it is set aside as well, unless it is within the limit.
    pub fn set_aside_too(&mut self, id: i64, outliers: Outliers) {
        if self.seen_beyond(id, outliers) == Beyond::Ask {
            self.judge_outlier(outliers);
        }
    }

    /// Ids that were set aside are within reach now, or are to be followed after all: the furthest of them.
    pub fn reconsider_set_aside(&mut self, outliers: Outliers) -> Option<i64> {
        let limit = self.limit(outliers);
        let definition = self.sequence.definition;
        let near = self.set_aside.extract_if(.., |id| !definition.is_past(*id, limit));
        let id = near.reduce(|a, b| definition.further(a, b))?;
        self.seen_in_stream(id);
        Some(id)
    }

    /// The ids that are set aside, in their order.
    pub fn set_aside(&self) -> impl Iterator<Item = i64> {
        self.set_aside.iter().copied()
    }

    /// How many ids were set aside until now.
    #[must_use]
    pub fn times_set_aside(&self) -> u64 {
        self.times_set_aside
    }
}
