//! Which sequences there are on the subscriber, and what the stream must look for.
//!
//! In: the subscriber's catalog, at each refresh. Out: the managed sequences, told to the poller and the stream.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tracing::{debug, info};

use super::{Keeper, Managed, within};
use crate::catalog::{Persistence, Readable, Sequence};
use crate::config::Settings;
use crate::readings::trouble;
use crate::sql::{self, Connection, SqlError};
use crate::subscriber::function::load_catalog;
use crate::subscriber::subscription;
use crate::tracking::{Tracking, Watched};
use crate::types::QualifiedName;

impl Keeper {
    /// Reads the catalog, and tells the poller and the stream if it changed.
    pub(super) async fn refresh(&mut self, connection: &Connection) -> Result<(), SqlError> {
        let function = self.settings().advance_function.clone();
        let mut found = match within(load_catalog(&connection.client, function.as_ref())).await {
            Ok(found) => found,
            // Printing a default waits for a table that is being truncated: what is known holds until later.
            Err(SqlError::Query(error)) if trouble(&error).is_some() && !self.managed.is_empty() => {
                debug!(error = %sql::describe(&error), "the catalog cannot be read now; it is read again");
                self.refresh_wanted = true;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for sequence in &mut found.sequences {
            let earlier = self.by_oid.get(&sequence.oid).and_then(|slot| self.managed.get(*slot as usize));
            self.refresh_wanted |= sequence.remember(earlier.map(|managed| &managed.sequence));
        }
        let settings = self.settings();
        let mut seen = BTreeSet::new();
        let mut changed = !self.catalog_told;
        self.catalog_told = true;
        for sequence in &found.sequences {
            let excluded = settings.excludes(&sequence.name);
            let slot = match self.by_oid.get(&sequence.oid) {
                Some(slot) => {
                    if let Some(known) = self.managed.get_mut(*slot as usize) {
                        changed |= differs(&known.sequence, sequence);
                        let renamed = known.sequence.name != sequence.name;
                        if renamed {
                            self.links.registry.remove(&known.sequence.name);
                        }
                        let before = known.is_followed_by_ids();
                        known.update(sequence.clone(), excluded);
                        let after = known.is_followed_by_ids();
                        self.confirm.open(*slot, known.sequence.definition);
                        if before != after {
                            // Left out, or taken in: what was seen before says nothing for the time after.
                            changed = true;
                            self.confirm.revoke(*slot);
                            self.confirm.waive(*slot, !after);
                        }
                    }
                    *slot
                }
                // Those of sessions come and go, and are nobody's but the session's: a list of them would only grow.
                None if self.announced && sequence.persistence == Persistence::Temporary => continue,
                None => {
                    changed = true;
                    self.add(sequence.clone(), excluded)
                }
            };
            seen.insert(slot);
            self.dirty.insert(slot);
        }
        let gone: Vec<u32> = self.by_oid.values().filter(|slot| !seen.contains(slot)).copied().collect();
        for slot in gone {
            changed = true;
            self.drop_sequence(slot);
        }
        let slots = within(subscription::slots(&connection.client)).await?;
        self.links.subscriptions.send_replace(slots);
        let own = within(subscription::load(&connection.client)).await?;
        self.links.own_subscriptions.send_replace(own);
        if changed {
            self.links.catalog.send_replace(Arc::new(found));
            self.links.tracking.send_replace(Arc::new(self.tracking(&settings)));
        }
        Ok(())
    }

    fn add(&mut self, sequence: Sequence, excluded: bool) -> u32 {
        let slot = u32::try_from(self.managed.len()).unwrap_or(u32::MAX);
        self.by_oid.insert(sequence.oid, slot);
        let managed = Managed::new(slot, sequence, excluded);
        let (name, consumers) = (&managed.sequence.name, managed.sequence.consumers_text());
        match managed.excluded {
            _ if !self.announced => {}
            None => info!(sequence = %name, %consumers, "a new sequence is managed"),
            Some(reason) => info!(sequence = %name, %reason, "a new sequence is not managed"),
        }
        self.confirm.open(slot, managed.sequence.definition);
        self.confirm.waive(slot, !managed.is_followed_by_ids());
        self.managed.push(managed);
        slot
    }

    fn drop_sequence(&mut self, slot: u32) {
        self.confirm.waive(slot, true);
        let Some(managed) = self.managed.get_mut(slot as usize) else { return };
        self.by_oid.remove(&managed.sequence.oid);
        managed.dropped = true;
        managed.excluded = Some("it was dropped on the subscriber");
        managed.state = None;
        managed.hold = None;
        managed.retry_at = None;
        info!(sequence = %managed.sequence.name, "the sequence was dropped on the subscriber: it is managed no more");
        let name = managed.sequence.name.clone();
        if !self
            .by_oid
            .values()
            .any(|s| self.managed.get(*s as usize).is_some_and(|m| m.sequence.name == name))
        {
            self.links.registry.remove(&name);
        }
    }

    /// What the stream must look for.
    pub(super) fn tracking(&self, settings: &Settings) -> Tracking {
        tracking(&self.managed, settings, self.truncates)
    }
}

/// What a stream must look for to keep `managed` ahead, whose slots are their positions. `truncates`: the publications
/// publish TRUNCATE.
pub(crate) fn tracking(managed: &[Managed], settings: &Settings, truncates: bool) -> Tracking {
    let on_publisher: HashMap<&QualifiedName, &QualifiedName> =
        settings.renames.iter().map(|rename| (&rename.subscriber, &rename.publisher)).collect();
    let mut tracking =
        Tracking { descending: managed.iter().map(Managed::descending).collect(), ..Tracking::default() };
    for managed in managed.iter().filter(|m| m.excluded.is_none()) {
        for consumer in &managed.sequence.consumers {
            let table = (*on_publisher.get(&consumer.table).unwrap_or(&&consumer.table)).clone();
            let watched = tracking.tables.entry(table).or_default();
            if let (Readable::Yes(format), false) = (&consumer.readable, managed.cycles()) {
                watched.push(Watched {
                    column: consumer.column.clone(),
                    slot: managed.slot,
                    format: format.clone(),
                });
            }
        }
        // A shared sequence is restarted too, but its other tables keep their rows: they are read again then.
        for owner in managed.sequence.owners().filter(|_| truncates) {
            let table = (*on_publisher.get(&owner.table).unwrap_or(&&owner.table)).clone();
            tracking.restarts.entry(table).or_default().push(managed.slot);
        }
    }
    tracking
}

/// Whether anything changed that the stream or the poller must know.
fn differs(one: &Sequence, other: &Sequence) -> bool {
    one.name != other.name
        || one.definition != other.definition
        || one.data_type != other.data_type
        || one.suspects != other.suspects
        || one.consumers.len() != other.consumers.len()
        || one.consumers.iter().zip(&other.consumers).any(|(a, b)| {
            a.table != b.table
                || a.column != b.column
                || a.readable != b.readable
                || a.link != b.link
                || a.parents != b.parents
        })
}
