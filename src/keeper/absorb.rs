//! What the keeper learns: from the stream, from the publisher, from the subscriber's tables.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::managed::{Beyond, Managed};
use super::own_tables::{Found, InOwnTable};
use super::{Input, Keeper};
use crate::catalog::coverage::Coverage;
use crate::config::Outliers;
use crate::confirm::FlushLsn;
use crate::handover::{Seen, further};
use crate::publisher::follow::AnotherPublisher;
use crate::publisher::look::PublisherValue;
use crate::publisher::poll::{Polled, Report};
use crate::registry::Class;
use crate::types::{Lsn, Oid};

impl Keeper {
    /// Takes in one piece of news; true when it is time to stop.
    pub(super) fn take_in(&mut self, input: Input) -> bool {
        match input {
            Input::Stop => return true,
            Input::AnotherPublisher(AnotherPublisher { wal_end, forgotten }) => {
                self.links.handover.forget_positions();
                self.confirm.forget_positions(wal_end);
                self.links.flush.send_replace(FlushLsn::default());
                self.managed.iter_mut().for_each(Managed::forget_positions);
                let _ = forgotten.send(());
            }
            Input::Stream => self.stream_news(),
            Input::Report(report) => self.publisher_news(*report),
            Input::OwnTables(found) => {
                self.take_own_tables(found);
                let outliers = self.settings().outliers;
                self.own_tables.read_again_if_asked(&self.managed, outliers);
            }
            Input::Settings => {
                // Another lead, other outliers: every target is another. Other exclusions: the catalog says which.
                for slot in 0..self.managed.len() {
                    let slot = u32::try_from(slot).unwrap_or(u32::MAX);
                    self.reconsider(slot);
                    self.tell_limit(slot);
                    self.dirty.insert(slot);
                }
                self.refresh_wanted = true;
            }
            Input::GiveUp => {
                let owed = self.confirm.give_up();
                warn!(
                    sequences = owed,
                    "the WAL ceiling is reached: what has no receipt is owed to a new seed"
                );
            }
        }
        false
    }

    fn stream_news(&mut self) {
        let taken = self.links.handover.take();
        self.links.registry.totals.rows.store(taken.rows, Ordering::Relaxed);
        self.refresh_wanted |= taken.unknown_tables;
        let now = self.born.elapsed();
        let outliers = self.settings().outliers;
        let mut seed = false;
        for (slot, Seen { furthest, beyond, restarted }) in taken.seen {
            let Some(managed) = self.managed.get_mut(slot as usize) else { continue };
            if managed.excluded.is_some() {
                continue;
            }
            if managed.cycles() {
                // Its ids say nothing, but where it was put by us is taken back when the truncate is applied.
                if let Some(at) = restarted.filter(|at| *at > managed.epoch()) {
                    managed.restarted(at, now);
                    seed = true;
                }
                continue;
            }
            if restarted.is_some_and(|at| at < managed.epoch()) {
                // After a crash of the publisher the stream shows again what it has shown: a truncate older than the last
                // one known, and ids that this one did away with. Neither says anything of today.
                continue;
            }
            if let Some(at) = restarted {
                info!(sequence = %managed.sequence.name, lsn = %at, "restarted on the publisher by TRUNCATE: ids before it count no more");
                managed.restarted(at, now);
                self.confirm.restart(slot, at);
                self.pending.forget_slot(slot);
                seed = true;
            }
            let (within, hiding) = match furthest {
                Some(id) if managed.is_beyond(id, outliers) => (None, Some(id)),
                within => (within, None),
            };
            if let Some(id) = within {
                managed.seen_in_stream(id);
                self.confirm.owe(slot, id);
            }
            if let Some(id) = further(managed.descending(), hiding, beyond) {
                let verdict = managed.seen_beyond(id, outliers);
                if verdict != Beyond::Known {
                    // Until the publisher has answered it may be an id like any other.
                    self.confirm.owe(slot, id);
                }
                if verdict == Beyond::Ask {
                    self.links.requests.sequence(managed.oid());
                }
            }
            managed.measure(now, self.last_delay);
            self.dirty.insert(slot);
            if hiding.is_some() {
                // The stream did not know the limit yet; what the far id hides from us lies in the tables.
                self.tell_limit(slot);
                seed = true;
            }
        }
        self.confirm.observe(taken.up_to);
        for slot in taken.unreadable {
            let Some(managed) = self.managed.get_mut(slot as usize) else { continue };
            if managed.excluded.is_none() && !std::mem::replace(&mut managed.unreadable, true) {
                warn!(sequence = %managed.sequence.name, consumers = %managed.sequence.consumers_text(), "a value in the stream cannot be read as an id (a row of more than 1 MiB before it, or a type without text): the publisher's sequence is asked each time");
            }
            self.links.requests.sequence(managed.oid());
            self.dirty.insert(slot);
        }
        if seed {
            // The other consumers of a restarted sequence kept their rows, and its value is another now.
            self.links.requests.seed();
        }
    }

    fn publisher_news(&mut self, report: Report) {
        match report {
            Report::Coverage { coverage, truncates } => self.cover(&coverage, truncates),
            Report::MissingPublications(missing) => {
                if !missing.is_empty() && missing != self.missing_publications {
                    warn!(
                        publications = ?missing,
                        "publications are missing on the publisher: their tables are followed by polling only; create them"
                    );
                }
                self.missing_publications = missing;
            }
            Report::Values { tag, values, polled } => self.values(tag, values, polled),
            Report::Tables { tag, found, unread, seed } => {
                if !unread.is_empty() {
                    debug!(
                        sequences = unread.len(),
                        "not all of their tables can be read on the publisher: those of the subscriber tell"
                    );
                }
                self.links.registry.totals.seeds.fetch_add(u64::from(seed), Ordering::Relaxed);
                for (oid, within, beyond) in found {
                    if self.known(oid).is_some_and(|managed| tag >= managed.epoch()) {
                        self.take_table(oid, within, beyond, Managed::seen_in_table);
                    }
                }
            }
            Report::Applied { up_to, all_seen } => {
                for managed in &mut self.managed {
                    if managed.applied(up_to) {
                        self.dirty.insert(managed.slot);
                        self.verify_order.touch(managed.slot);
                    }
                }
                for slot in self.confirm.applied(up_to) {
                    // What was read before this moment may be of before the truncate.
                    self.pending.forget_slot(slot);
                    self.verify_order.touch(slot);
                }
                if all_seen {
                    // Ids that no stream showed and that the publisher's tables may not be asked for are here by now.
                    let outliers = self.settings().outliers;
                    self.own_tables.read(&self.managed, outliers);
                }
            }
        }
    }

    fn cover(&mut self, coverage: &HashMap<Oid, Coverage>, truncates: bool) {
        self.publisher_asked = true;
        if self.truncates != truncates {
            self.truncates = truncates;
            let tracking = self.tracking(&self.settings());
            self.links.tracking.send_replace(Arc::new(tracking));
        }
        for managed in &mut self.managed {
            let Some(new) = coverage.get(&managed.oid()) else { continue };
            let before = managed.class();
            let changed = managed.coverage.as_ref() != Some(new);
            managed.coverage = Some(new.clone());
            if self.announced && changed && managed.class() != before {
                info!(sequence = %managed.sequence.name, from = before.as_str(), to = managed.class().as_str(), "the sequence is followed in another way now");
            }
            self.dirty.insert(managed.slot);
        }
    }

    fn values(&mut self, tag: Lsn, values: Vec<(Oid, PublisherValue)>, polled: Polled) {
        let now = self.born.elapsed();
        let outliers = self.settings().outliers;
        for (oid, value) in values {
            let Some(slot) = self.by_oid.get(&oid).copied() else { continue };
            let Some(managed) = self.managed.get_mut(slot as usize) else { continue };
            let mismatch_before = managed.publisher_value().and_then(|v| v.mismatch.clone());
            let out_of_sight_before = managed.is_out_of_sight();
            let answered = managed.heard_from_publisher(tag, value);
            if managed.is_out_of_sight() && !out_of_sight_before {
                let reason = managed.reason(&self.role).unwrap_or_default();
                warn!(sequence = %managed.sequence.name, %reason, "neither stream nor polls show the sequence: it is not followed");
            }
            let judged = if answered {
                managed.judge_outlier(outliers)
            } else {
                if managed.is_asking() {
                    self.links.requests.sequence(oid);
                }
                None
            };
            if judged.is_some() {
                self.confirm.set_aside(slot, managed.stream_mark());
            }
            if let Some(id) = judged {
                tell_set_aside(managed, id, outliers);
            }
            let mismatch = managed.publisher_value().and_then(|v| v.mismatch.clone());
            if mismatch.is_some() && mismatch != mismatch_before {
                warn!(sequence = %managed.sequence.name, mismatch = mismatch.as_deref(), "the definitions differ");
            }
            // One that is only polled must have lead for the time between two polls, and be advanced in time: with half
            // of its lead left it is not.
            let is_polled = polled.all || matches!(managed.coverage, Some(Coverage::Blind(_)));
            let delay = is_polled.then(|| polled.every.saturating_mul(2));
            managed.measure(now, delay);
            self.reconsider(slot);
            self.tell_limit(slot);
            self.dirty.insert(slot);
        }
    }

    /// An id that was set aside may be within the limit by now.
    fn reconsider(&mut self, slot: u32) {
        let outliers = self.settings().outliers;
        let Some(managed) = self.managed.get_mut(slot as usize) else { return };
        if let Some(id) = managed.reconsider_set_aside(outliers) {
            info!(sequence = %managed.sequence.name, id, "an id that was set aside is followed now");
            self.confirm.owe(slot, id);
        }
    }

    /// What lies in the subscriber's tables, unless a truncate was seen or applied since they were asked.
    fn take_own_tables(&mut self, found: Found) {
        for InOwnTable { oid, era, within, beyond } in found {
            if self.known(oid).is_some_and(|managed| managed.own_era() == era) {
                self.take_table(oid, within, beyond, Managed::seen_in_own_table);
            }
        }
    }

    fn known(&self, oid: Oid) -> Option<&Managed> {
        let slot = self.by_oid.get(&oid)?;
        self.managed.get(*slot as usize)
    }

    fn take_table(
        &mut self,
        oid: Oid,
        within: Option<i64>,
        beyond: Option<i64>,
        seen: impl Fn(&mut Managed, i64, Duration),
    ) {
        let (now, outliers) = (self.born.elapsed(), self.settings().outliers);
        let Some(slot) = self.by_oid.get(&oid).copied() else { return };
        let Some(managed) = self.managed.get_mut(slot as usize) else { return };
        // Whoever asked the table may have known less of the publisher than we do.
        let far = within.filter(|id| managed.is_beyond(*id, outliers));
        let (within, beyond) = match far {
            Some(_) => (None, further(managed.descending(), far, beyond)),
            None => (within, beyond),
        };
        if let Some(id) = within {
            seen(managed, id, now);
        }
        if let Some(id) = beyond
            && managed.seen_beyond(id, outliers) == Beyond::Ask
        {
            self.links.requests.sequence(oid);
        }
        self.tell_limit(slot);
        self.dirty.insert(slot);
    }

    /// The stream keeps ids past the limit apart.
    fn tell_limit(&mut self, slot: u32) {
        let outliers = self.settings().outliers;
        if let Some(managed) = self.managed.get_mut(slot as usize) {
            let limit = managed.limit(outliers);
            if managed.limit_told != Some(limit) {
                managed.limit_told = Some(limit);
                self.links.handover.limit(slot, limit);
            }
        }
    }

    /// Once, when the publisher has been asked and what it said was acted on: what is managed, and what is not and why.
    pub(super) fn announce(&mut self) {
        let settled = self.managed.iter().all(|m| m.settled || m.excluded.is_some());
        if self.announced || !self.publisher_asked || !settled {
            return;
        }
        self.announced = true;
        let present = || self.managed.iter().filter(|m| !m.dropped);
        let count = |class| present().filter(|m| m.class() == class).count();
        info!(
            sequences = present().count(),
            covered = count(Class::Covered),
            blind = count(Class::Blind),
            held = count(Class::Held),
            excluded = count(Class::Excluded),
            "sequences of the subscriber"
        );
        let unread = |m: &Managed| m.publisher_value().is_some_and(|value| value.unread.is_some());
        let gaps = |m: &Managed| matches!(&m.coverage, Some(Coverage::Covered { but }) if !but.is_empty());
        for managed in present().filter(|m| m.class() != Class::Covered || unread(m) || gaps(m)) {
            let reason = Managed::reason(managed, &self.role).unwrap_or_default();
            if managed.hold.is_some() {
                warn!(sequence = %managed.sequence.name, class = managed.class().as_str(), %reason, "the sequence is held; the others go on");
            } else {
                info!(sequence = %managed.sequence.name, class = managed.class().as_str(), %reason, "not covered by the stream alone");
            }
        }
    }
}

/// Each of the first ones, and then ever more seldom: an application may make them by the thousand.
fn tell_set_aside(managed: &Managed, id: i64, outliers: Outliers) {
    const EACH: u64 = 10;
    let (sequence, count) = (&managed.sequence.name, managed.times_set_aside());
    if count > EACH && !count.is_power_of_two() {
        debug!(%sequence, id, count, "another id is set aside");
        return;
    }
    let past = if managed.publisher_value().is_some_and(|value| value.state.is_some()) {
        "the publisher's sequence"
    } else {
        "all ids known (the publisher's sequence cannot be read)"
    };
    warn!(
        %sequence, id, limit = managed.limit(outliers), count,
        "an id lies too far past {past} and is set aside: the sequence follows the rest; look at the row, or accept it \
         with --outliers follow"
    );
}
