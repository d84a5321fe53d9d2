//! Who applies the rows on the subscriber, and the proof that all up to a position are applied.
//!
//! The proof is the position that the applier's slot has confirmed: a native subscription confirms only what it has
//! applied and flushed. `latest_end_lsn` of `pg_stat_subscription` is only what was received, and proves nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Row};

use super::stop::{Blocker, Stop};
use crate::ops::ask::Side;
use crate::publisher::connection::APPLICATION_NAME;
use crate::sides::{Sides, SidesError};
use crate::subscriber::subscription::{self, Subscription};
use crate::types::{Lsn, QualifiedName, quote_identifier};

/// How often to look.
const LOOK: Duration = Duration::from_millis(20);

/// Who applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applier {
    /// A native subscription and its slot.
    Subscription { name: String, slot: String },
    /// Another program that confirms on this slot what it has applied durably.
    Slot(String),
    /// Another program, whatever it confirms: a row of this published table is written, and waited for. The table has a
    /// column `token text`.
    Heartbeat(QualifiedName),
}

/// A slot of ours says how far the ids are that we saw, and nothing of rows.
pub(super) fn is_seqshadow(slot: &str) -> Blocker {
    Blocker::new(
        "applier-is-seqshadow",
        format!("slot {slot} is that of a seqshadow, which applies no rows"),
        "name the slot of whoever writes the rows to the subscriber, or leave --applier-slot out for a subscription",
    )
}

impl Applier {
    /// For the certificate.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Applier::Subscription { name, .. } => format!("subscription {}", quote_identifier(name)),
            Applier::Slot(slot) => format!("slot {slot}"),
            Applier::Heartbeat(table) => format!("heartbeat in {table}"),
        }
    }

    /// This one, and every subscription of the subscriber's database that the publisher feeds: the rows of all of them
    /// have to be there, whoever else applies some.
    async fn all_of(&self, sides: &Sides, publisher: &Client) -> Result<Vec<Applier>, Stop> {
        let now = subscriptions(sides).await?;
        let fed = slots_here(publisher, &now).await?;
        let mut all = vec![self.clone()];
        let is_this = |other: &Subscription| match self {
            Applier::Subscription { name, .. } => other.name == *name,
            Applier::Slot(_) | Applier::Heartbeat(_) => false,
        };
        for other in now.into_iter().filter(|other| !is_this(other)) {
            match &other.slot {
                Some(slot) if fed.contains(slot) => {
                    all.push(Applier::Subscription { name: other.name, slot: slot.clone() });
                }
                _ => fed_from_elsewhere(sides, publisher, &other).await?,
            }
        }
        Ok(all)
    }

    /// What publishes the rows that are applied, as far as it is on this publisher: lists of publications that can be
    /// read in one stream. Our own publication shows nothing that a subscription's do not, and may show other columns.
    pub(super) async fn publications(
        &self,
        sides: &Sides,
        publisher: &Client,
    ) -> Result<Vec<Vec<String>>, SidesError> {
        let mut lists: Vec<Vec<String>> = Vec::new();
        for subscription in &sides.subscriptions {
            lists.push(on_publisher(publisher, &subscription.publications).await?);
        }
        if !matches!(self, Applier::Subscription { .. }) || lists.iter().all(Vec::is_empty) {
            // Two of them may show other columns of one table, which no stream may have.
            lists.extend(
                on_publisher(publisher, &sides.publications).await?.into_iter().map(|name| vec![name]),
            );
        }
        let mut different: Vec<Vec<String>> = Vec::new();
        for list in lists {
            if !list.is_empty() && !different.contains(&list) {
                different.push(list);
            }
        }
        Ok(different)
    }

    /// Whether it could still do its work as it could before the pause, and for the same tables.
    pub(super) async fn check_again(&self, sides: &Sides, publisher: &Client) -> Result<(), Stop> {
        let now = subscriptions(sides).await?;
        let same = |(one, other): (&Subscription, &Subscription)| {
            (&one.name, &one.slot, &one.publications) == (&other.name, &other.slot, &other.publications)
        };
        if now.len() != sides.subscriptions.len() || !now.iter().zip(&sides.subscriptions).all(same) {
            return Err(Blocker::new(
                "subscriptions-changed",
                "the subscriber's subscriptions are others than at the start of the cutover",
                "see who changed them, and try again",
            )
            .into());
        }
        self.check(sides, publisher).await
    }

    /// Whether it could do its work now, as far as that can be known before the pause.
    pub(super) async fn check(&self, sides: &Sides, publisher: &Client) -> Result<(), Stop> {
        for applier in self.all_of(sides, publisher).await? {
            applier.check_one(sides, publisher).await?;
        }
        all_subscribed(sides, publisher).await
    }

    async fn check_one(&self, sides: &Sides, publisher: &Client) -> Result<(), Stop> {
        match self {
            Applier::Subscription { name, slot } => {
                let now = subscriptions(sides).await?;
                if now.iter().any(|s| s.name == *name && !s.enabled) {
                    let name = quote_identifier(name);
                    return Err(Blocker::new(
                        "subscription-disabled",
                        format!("subscription {name} is disabled, so that no row is applied"),
                        format!("on the subscriber: ALTER SUBSCRIPTION {name} ENABLE;"),
                    )
                    .into());
                }
                relations_ready(&sides.subscriber.client, name).await?;
                confirmed(publisher, slot).await.map(drop)
            }
            Applier::Slot(slot) => {
                let sql = "SELECT EXISTS (SELECT FROM pg_replication_slots s JOIN pg_stat_activity a ON a.pid = s.active_pid
                                           WHERE s.slot_name = $1 AND a.application_name = $2)";
                if Side::Publisher.value(publisher, sql, &[slot, &APPLICATION_NAME]).await? {
                    return Err(is_seqshadow(slot).into());
                }
                confirmed(publisher, slot).await.map(drop)
            }
            Applier::Heartbeat(table) => {
                for (side, client) in
                    [(Side::Publisher, publisher), (Side::Subscriber, &sides.subscriber.client)]
                {
                    side.rows(client, &format!("SELECT token FROM {table} LIMIT 0"), &[]).await?;
                }
                Ok(())
            }
        }
    }

    /// Waits until everything that was committed before `upto` is applied. `nudge` moves the publisher's WAL a little, for
    /// an applier that says how far it is only when there is something new.
    pub(super) async fn wait(
        &self,
        sides: &Sides,
        publisher: &Client,
        upto: Lsn,
        give_up: Instant,
    ) -> Result<(), Stop> {
        for applier in self.all_of(sides, publisher).await? {
            applier.wait_one(sides, publisher, upto, give_up).await?;
        }
        Ok(())
    }

    async fn wait_one(
        &self,
        sides: &Sides,
        publisher: &Client,
        upto: Lsn,
        give_up: Instant,
    ) -> Result<(), Stop> {
        match self {
            Applier::Subscription { name, slot } => {
                self.wait_confirmed(sides, publisher, slot, upto, give_up).await?;
                wait_received(sides, publisher, name, upto, give_up).await?;
                relations_ready(&sides.subscriber.client, name).await
            }
            Applier::Slot(slot) => self.wait_confirmed(sides, publisher, slot, upto, give_up).await,
            // Its row was committed after the fence, and `beat` has waited for it.
            Applier::Heartbeat(_) => Ok(()),
        }
    }

    /// Writes the heartbeat and waits until the subscriber has it; nothing for the others. Returns its transaction.
    pub(super) async fn beat(
        &self,
        sides: &Sides,
        publisher: &Client,
        token: &str,
        give_up: Instant,
    ) -> Result<Option<u32>, Stop> {
        let Applier::Heartbeat(table) = self else { return Ok(None) };
        // The number of the transaction without its epoch, as the stream has it.
        let insert =
            format!("INSERT INTO {table} (token) VALUES ($1) RETURNING (txid_current() & 4294967295)::oid");
        let xid: u32 = Side::Publisher.value(publisher, &insert, &[&token]).await?;
        let look = format!("SELECT EXISTS (SELECT FROM {table} WHERE token = $1)");
        loop {
            let there: bool = Side::Subscriber.value(&sides.subscriber.client, &look, &[&token]).await?;
            if there {
                return Ok(Some(xid));
            }
            if Instant::now() > give_up {
                return Err(Blocker::new(
                    "applier-lags",
                    format!("the heartbeat row in {table} has not reached the subscriber"),
                    "see what keeps the applier, or wait longer with --wait",
                )
                .into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn wait_confirmed(
        &self,
        sides: &Sides,
        publisher: &Client,
        slot: &str,
        upto: Lsn,
        give_up: Instant,
    ) -> Result<(), Stop> {
        loop {
            let now = confirmed(publisher, slot).await?;
            if now >= upto {
                return Ok(());
            }
            if Instant::now() > give_up {
                let short = upto.bytes_since(now);
                let why = self.why_not(&sides.subscriber.client).await?;
                return Err(Blocker::new(
                    "applier-lags",
                    format!(
                        "{} has applied up to {now}, {short} bytes short of {upto}{why}",
                        self.describe()
                    ),
                    "see the subscriber's log for what keeps it, or wait longer with --wait",
                )
                .into());
            }
            // An applier on an idle publisher is asked how far it is only when there is something new.
            emit(publisher, "").await?;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What the subscriber can tell of a subscription that does not get on.
    async fn why_not(&self, subscriber: &Client) -> Result<String, SidesError> {
        let Applier::Subscription { name, .. } = self else { return Ok(String::new()) };
        let sql = "SELECT (SELECT subenabled FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
                            WHERE d.datname = current_database() AND s.subname = $1),
                          EXISTS (SELECT FROM pg_stat_subscription WHERE subname = $1 AND pid IS NOT NULL)";
        let rows = Side::Subscriber.rows(subscriber, sql, &[&name]).await?;
        let Some(row) = rows.first() else { return Ok(String::new()) };
        let (enabled, works): (Option<bool>, bool) =
            (Side::Subscriber.get(row, 0)?, Side::Subscriber.get(row, 1)?);
        Ok(match (enabled, works) {
            (None, _) => "; the subscription is gone".to_owned(),
            (Some(false), _) => "; it is disabled".to_owned(),
            (_, false) => "; no worker of it runs now: it fails, or waits for a free worker".to_owned(),
            _ => String::new(),
        })
    }
}

/// The enabled subscriptions of the subscriber's database that another server feeds, for people.
pub(super) async fn elsewhere(sides: &Sides, publisher: &Client) -> Result<Vec<String>, SidesError> {
    let now = subscriptions(sides).await?;
    let fed = slots_here(publisher, &now).await?;
    let is_here = |one: &Subscription| one.slot.as_ref().is_some_and(|slot| fed.contains(slot));
    let others = now.iter().filter(|one| one.enabled && !is_here(one));
    Ok(others.map(|one| quote_identifier(&one.name)).collect())
}

/// Those of the subscriptions' slots that are in the publisher's database.
async fn slots_here(publisher: &Client, subscriptions: &[Subscription]) -> Result<Vec<String>, SidesError> {
    let slots: Vec<&str> = subscriptions.iter().filter_map(|s| s.slot.as_deref()).collect();
    let sql = "SELECT slot_name::text FROM pg_replication_slots
                WHERE slot_name = ANY($1) AND database = current_database()";
    let rows = Side::Publisher.rows(publisher, sql, &[&slots]).await?;
    rows.iter().map(|row| Side::Publisher.get(row, 0)).collect()
}

/// The subscriptions of the subscriber's database as they are now.
async fn subscriptions(sides: &Sides) -> Result<Vec<Subscription>, SidesError> {
    subscription::load(&sides.subscriber.client).await.map_err(SidesError::on_subscriber)
}

/// Those of `names` that are publications of this publisher.
async fn on_publisher(publisher: &Client, names: &[String]) -> Result<Vec<String>, SidesError> {
    let sql = "SELECT pubname::text FROM pg_publication WHERE pubname = ANY($1) ORDER BY 1";
    let rows = Side::Publisher.rows(publisher, sql, &[&names]).await?;
    rows.iter().map(|row| Side::Publisher.get(row, 0)).collect()
}

/// A subscription without a slot on this publisher must be one of another publisher: its publications are not here, or
/// a worker of it gets a stream.
async fn fed_from_elsewhere(sides: &Sides, publisher: &Client, one: &Subscription) -> Result<(), Stop> {
    if on_publisher(publisher, &one.publications).await?.is_empty() {
        return Ok(());
    }
    if one.slot.is_some() && !received(sides, &one.name).await?.is_empty() {
        return Ok(());
    }
    let name = quote_identifier(&one.name);
    let (code, what) = match &one.slot {
        Some(slot) => {
            ("slot-missing", format!("its slot {} is not on the publisher", quote_identifier(slot)))
        }
        None => ("subscription-without-slot", "it has no slot".to_owned()),
    };
    Err(Blocker::new(
        code,
        format!(
            "subscription {name} follows publications of this publisher, and gets no rows of them: {what}"
        ),
        format!("bring its rows, or drop it on the subscriber if none are wanted: DROP SUBSCRIPTION {name};"),
    )
    .into())
}

/// Up to where the workers of the subscriptions of this name have received what was committed; none where none runs, or
/// none gets a stream. Another database may have a subscription of the same name.
async fn received(sides: &Sides, name: &str) -> Result<Vec<Lsn>, SidesError> {
    let sql = "SELECT received_lsn FROM pg_stat_subscription
                WHERE subname = $1 AND relid IS NULL AND pid IS NOT NULL AND received_lsn IS NOT NULL";
    let rows = Side::Subscriber.rows(&sides.subscriber.client, sql, &[&name]).await?;
    rows.iter().map(|row| Side::Subscriber.get(row, 0)).collect()
}

/// Waits until the subscription itself has received all up to `upto`. What confirms on a slot of that name may be
/// another than ours, on a copy of the publisher: no subscription has received more than its publisher has written.
async fn wait_received(
    sides: &Sides,
    publisher: &Client,
    name: &str,
    upto: Lsn,
    give_up: Instant,
) -> Result<(), Stop> {
    loop {
        // In this order: what was received was written before.
        let received = received(sides, name).await?;
        let written: Lsn =
            Side::Publisher.value(publisher, "SELECT pg_current_wal_insert_lsn()", &[]).await?;
        if received.iter().any(|at| (upto..=written).contains(at)) {
            return Ok(());
        }
        let all_past = !received.is_empty() && received.iter().all(|at| *at > written);
        if all_past || Instant::now() > give_up {
            let at = received
                .iter()
                .max()
                .map_or_else(|| "nothing".to_owned(), |at| format!("what was written up to {at}"));
            return Err(Blocker::new(
                "not-its-publisher",
                format!(
                    "subscription {} has received {at}, and its slot here was confirmed up to {upto} of {written} by \
                     something else",
                    quote_identifier(name)
                ),
                "see whether --publisher names the server that feeds the subscriber, and no copy of it",
            )
            .into());
        }
        emit(publisher, "").await?;
        tokio::time::sleep(LOOK).await;
    }
}

/// Every published table must be one that a subscription knows.
async fn all_subscribed(sides: &Sides, publisher: &Client) -> Result<(), Stop> {
    match not_subscribed(sides, publisher).await?.first() {
        None => Ok(()),
        Some(table) => Err(Blocker::new(
            "table-not-subscribed",
            format!("table {table} is published, and no subscription of the subscriber knows it"),
            "on the subscriber: ALTER SUBSCRIPTION … REFRESH PUBLICATION;",
        )
        .into()),
    }
}

/// Tables that the subscriptions' publications publish, and that none of them knows: made since the last refresh.
pub(crate) async fn not_subscribed(
    sides: &Sides,
    publisher: &Client,
) -> Result<Vec<QualifiedName>, SidesError> {
    let now = subscriptions(sides).await?;
    let names: Vec<&String> = now.iter().flat_map(|s| &s.publications).collect();
    let sql = "SELECT DISTINCT schemaname::text, tablename::text FROM pg_publication_tables
                WHERE pubname = ANY($1) ORDER BY 1, 2";
    let published = Side::Publisher.rows(publisher, sql, &[&names]).await?;
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_subscription_rel r
                 JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace";
    let known = Side::Subscriber.rows(&sides.subscriber.client, sql, &[]).await?;
    let name = |side: Side, row: &Row| -> Result<QualifiedName, SidesError> {
        Ok(QualifiedName::new(side.get::<String>(row, 0)?, side.get::<String>(row, 1)?))
    };
    let known: BTreeSet<QualifiedName> =
        known.iter().map(|row| name(Side::Subscriber, row)).collect::<Result<_, _>>()?;
    let published: Vec<QualifiedName> =
        published.iter().map(|row| name(Side::Publisher, row)).collect::<Result<_, _>>()?;
    Ok(published.into_iter().filter(|table| !known.contains(table)).collect())
}

/// Every relation of the subscription must be copied and followed.
async fn relations_ready(subscriber: &Client, subscription: &str) -> Result<(), Stop> {
    // pg_subscription.oid is not for ordinary roles on 12; the name of our database's subscription is.
    let sql = "SELECT format('%s (%s)', r.srrelid::regclass, r.srsubstate) FROM pg_subscription_rel r
                WHERE r.srsubstate <> 'r' ORDER BY 1";
    let rows = Side::Subscriber.rows(subscriber, sql, &[]).await?;
    let names: Vec<String> = rows.iter().map(|row| Side::Subscriber.get(row, 0)).collect::<Result<_, _>>()?;
    if names.is_empty() {
        return Ok(());
    }
    let shown = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    Err(Blocker::new(
        "table-not-ready",
        format!(
            "{} of subscription {} not copied and followed yet: {shown}",
            if names.len() == 1 { "a table is".to_owned() } else { format!("{} tables are", names.len()) },
            quote_identifier(subscription)
        ),
        "wait until srsubstate is 'r' for every table in pg_subscription_rel on the subscriber",
    )
    .into())
}

/// What a slot has confirmed.
pub(super) async fn confirmed(publisher: &Client, slot: &str) -> Result<Lsn, Stop> {
    let sql = "SELECT coalesce(confirmed_flush_lsn, '0/0') FROM pg_replication_slots
                WHERE slot_name = $1 AND database = current_database()";
    let rows = Side::Publisher.rows(publisher, sql, &[&slot]).await?;
    let Some(row) = rows.first() else {
        return Err(Blocker::new(
            "slot-missing",
            format!("the applier's slot {slot} is not on the publisher, or of another database"),
            "see whether --publisher names the server that feeds the subscriber",
        )
        .into());
    };
    Ok(Side::Publisher.get(row, 0)?)
}

/// Writes a transactional logical message, and returns a position past its commit.
pub(super) async fn emit(publisher: &Client, text: &str) -> Result<Lsn, SidesError> {
    Side::Publisher
        .rows(publisher, "SELECT pg_logical_emit_message(true, 'seqshadow', $1::text)", &[&text])
        .await?;
    Side::Publisher.value(publisher, "SELECT pg_current_wal_insert_lsn()", &[]).await
}
