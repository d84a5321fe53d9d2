//! What one round of following a slot leaves for the next. It does no IO.

use tokio::time::Instant;
use tracing::info;

use super::{CEILING_GRACE, Links, STABLE_AFTER};
use crate::backoff::Backoff;
use crate::publisher::connection::Identity;
use crate::told::Told;
use crate::types::SlotName;

/// What one round leaves for the next.
#[derive(Debug, Default)]
pub(in crate::publisher) struct Course {
    pub(super) backoff: Backoff,
    /// The stream was interrupted: say so when it goes on.
    pub(super) recovering: bool,
    /// Why it is interrupted, as far as that was said.
    pub(super) told: Told,
    /// So many streams in a row have ended soon.
    pub(super) short_streams: u32,
    /// Who answered last time.
    pub(super) publisher: Option<Identity>,
    /// We have streamed before.
    pub(super) streamed: bool,
    /// Another seqshadow had the slot.
    pub(super) stood_by: bool,
    /// Since when the slot is known to hold back more WAL than allowed, over all streams that were tried.
    pub(in crate::publisher) over_ceiling: Option<Instant>,
    /// There was a slot: when it is missing, somebody dropped it.
    pub(super) had_slot: bool,
    /// Receipts were possible once: when they are not, the subscriber is away, not only slow to begin.
    pub(super) began: bool,
}

impl Course {
    /// Called while a stream lasts: it is no short one from here on.
    pub(in crate::publisher) fn lasts(&mut self, since: Instant, slot: &SlotName) {
        if since.elapsed() >= STABLE_AFTER {
            self.lasted(slot);
        }
    }

    pub(super) fn lasted(&mut self, slot: &SlotName) {
        self.short_streams = 0;
        self.recovered(slot);
    }

    pub(super) fn recovered(&mut self, slot: &SlotName) {
        if self.told.is_over() {
            info!(%slot, "recovered: the stream goes on");
        }
    }

    /// Whether the slot, which was just looked at, has held back more WAL than allowed for too long.
    pub(super) fn is_over_ceiling_too_long(&mut self, links: &Links) -> bool {
        if links.state.borrow().retained_bytes <= *links.max_retained_wal.borrow() {
            self.over_ceiling = None;
            return false;
        }
        self.over_ceiling.get_or_insert_with(Instant::now).elapsed() >= CEILING_GRACE
    }

    /// The slot is gone, or about to be: the next one begins later, so a new seed is owed. It is asked for when that slot
    /// is made, and counted there.
    pub(super) fn gave_up_slot(&mut self, links: &Links) {
        self.had_slot = false;
        self.over_ceiling = None;
        links.state.send_modify(|state| state.lost += 1);
    }
}
