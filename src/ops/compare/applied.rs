//! How far the subscription has applied: what its slot on the publisher has confirmed. A subscription confirms only
//! what it has applied and made durable.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::subscriber::subscription::Subscription;
use crate::types::Lsn;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Pages of WAL; a record neither begins nor ends within the header of one.
const PAGE: u64 = 8192;
const PAGE_HEADER: u64 = 40;

/// The slots through which the subscriber gets its rows.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    slots: Vec<String>,
    /// Subscriptions that are switched off, for messages.
    disabled: Vec<String>,
}

impl Applied {
    /// Finds the slots of the subscriptions that bring what is compared.
    ///
    /// # Errors
    /// The publisher's.
    pub(super) async fn find(subscriptions: &[Subscription], publisher: &Client) -> Result<Self, SidesError> {
        let names: Vec<String> = subscriptions.iter().filter_map(|s| s.slot.clone()).collect();
        // A standby may have copies of its primary's slots, which say nothing of how far anybody has come.
        let sql = "SELECT slot_name::text FROM pg_replication_slots
                    WHERE slot_name = ANY($1) AND database = current_database()
                      AND (active OR NOT pg_is_in_recovery())";
        let mut slots = Vec::new();
        for row in Side::Publisher.rows(publisher, sql, &[&names]).await? {
            slots.push(Side::Publisher.get(&row, 0)?);
        }
        let disabled = subscriptions.iter().filter(|s| !s.enabled).map(|s| s.name.clone()).collect();
        Ok(Applied { slots, disabled })
    }

    /// Whether the publisher tells how far they are.
    pub(super) fn is_known(&self) -> bool {
        !self.slots.is_empty()
    }

    /// A position that everything visible now lies before. It is that of the page where it is the first on one:
    /// nothing ends in a page's header, and a slot confirms without it.
    ///
    /// # Errors
    /// The publisher's.
    pub(super) async fn now(publisher: &Client) -> Result<Lsn, SidesError> {
        let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0')
                               ELSE pg_current_wal_insert_lsn() END";
        let lsn: Lsn = Side::Publisher.value(publisher, sql, &[]).await?;
        let into_page = lsn.0 % PAGE;
        Ok(if into_page <= PAGE_HEADER { Lsn(lsn.0 - into_page) } else { lsn })
    }

    /// Waits until `lsn` is applied. `Err` in the result: it was not within `patience`, with what to do. Where nothing
    /// is known it returns at once.
    ///
    /// # Errors
    /// The publisher's.
    pub(super) async fn wait(
        &self,
        publisher: &Client,
        lsn: Lsn,
        patience: Duration,
    ) -> Result<Result<(), String>, SidesError> {
        if !self.is_known() {
            return Ok(Ok(()));
        }
        let sql = "SELECT slot_name::text, coalesce(confirmed_flush_lsn, '0/0') FROM pg_replication_slots
                    WHERE slot_name = ANY($1) ORDER BY 2 LIMIT 1";
        let give_up = Instant::now() + patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let rows = Side::Publisher.rows(publisher, sql, &[&self.slots]).await?;
            let Some(row) = rows.first() else {
                return Ok(Err("the subscription's slot was dropped on the publisher meanwhile".to_owned()));
            };
            let (slot, confirmed): (String, Lsn) =
                (Side::Publisher.get(row, 0)?, Side::Publisher.get(row, 1)?);
            if confirmed >= lsn {
                return Ok(Ok(()));
            }
            if Instant::now() >= give_up {
                return Ok(Err(self.behind(&slot, confirmed, lsn)));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn behind(&self, slot: &str, confirmed: Lsn, lsn: Lsn) -> String {
        let advice = match self.disabled.first() {
            Some(name) => {
                let name = crate::types::quote_identifier(name);
                format!("it is disabled: ALTER SUBSCRIPTION {name} ENABLE; on the subscriber")
            }
            None => "look for errors in the subscriber's log, or wait longer with --wait".to_owned(),
        };
        format!(
            "the subscription has not applied what is committed on the publisher: its slot {slot} is at {confirmed}, \
             {} bytes before {lsn}; {advice}",
            lsn.bytes_since(confirmed)
        )
    }
}
