//! What the subscriber follows of this publisher, which is what is compared.
//!
//! In: both sides. Out: a [`Followed`]. The settings may name a narrow publication, made for the sidecar's own stream, that
//! leaves out most tables and columns; it counts only where no subscription brings the rows.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::ops::ask::Side;
use crate::sides::{Sides, SidesError};
use crate::subscriber::subscription::Subscription;

/// The subscriptions and their publications.
#[derive(Clone, Debug)]
pub(super) struct Followed {
    /// Those of the subscriptions; of the settings where there is no subscription.
    pub(super) publications: Vec<String>,
    /// The one to go by, or all that get their rows from here.
    pub(super) subscriptions: Vec<Subscription>,
}

impl Followed {
    /// Finds them.
    ///
    /// # Errors
    /// The publisher's.
    pub(super) async fn find(sides: &Sides, publisher: &Client) -> Result<Self, SidesError> {
        let subscriptions = match &sides.chosen {
            Some(chosen) => vec![chosen.clone()],
            None => from_here(sides, publisher).await?,
        };
        let theirs: BTreeSet<&String> = subscriptions.iter().flat_map(|one| &one.publications).collect();
        let publications = if theirs.is_empty() {
            sides.publications.clone()
        } else {
            theirs.into_iter().cloned().collect()
        };
        Ok(Followed { publications, subscriptions })
    }
}

/// The subscriptions whose slot is on this publisher; where none is, those that follow what the settings name.
async fn from_here(sides: &Sides, publisher: &Client) -> Result<Vec<Subscription>, SidesError> {
    let names: Vec<&String> = sides.subscriptions.iter().filter_map(|one| one.slot.as_ref()).collect();
    let sql = "SELECT slot_name::text FROM pg_replication_slots
                WHERE slot_name = ANY($1) AND database = current_database()";
    let mut there: BTreeSet<String> = BTreeSet::new();
    for row in Side::Publisher.rows(publisher, sql, &[&names]).await? {
        there.insert(Side::Publisher.get(&row, 0)?);
    }
    let has_slot = |one: &&Subscription| one.slot.as_ref().is_some_and(|slot| there.contains(slot));
    let shares = |one: &&Subscription| one.publications.iter().any(|name| sides.publications.contains(name));
    let with_slot: Vec<Subscription> = sides.subscriptions.iter().filter(has_slot).cloned().collect();
    if with_slot.is_empty() {
        return Ok(sides.subscriptions.iter().filter(shares).cloned().collect());
    }
    Ok(with_slot)
}
