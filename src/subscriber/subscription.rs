//! The subscriber's subscriptions: where the publications, the publisher's address and the slots that are not ours
//! come from. Ordinary roles may read all of it but the conninfo.

use tokio_postgres::{Client, Error};

/// A row of `pg_subscription` of the connected database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub name: String,
    pub publications: Vec<String>,
    pub slot: Option<String>,
    pub enabled: bool,
}

/// All subscriptions of the connected database.
///
/// # Errors
/// The server's or the connection's error.
pub async fn load(client: &Client) -> Result<Vec<Subscription>, Error> {
    let rows = client
        .query(
            "SELECT s.subname::text, s.subpublications, s.subslotname::text, s.subenabled
               FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
              WHERE d.datname = current_database() ORDER BY 1",
            &[],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Subscription {
                name: row.try_get(0)?,
                publications: row.try_get(1)?,
                slot: row.try_get(2)?,
                enabled: row.try_get(3)?,
            })
        })
        .collect()
}

/// `(subscription, slot)` of every subscription of the whole subscriber: slots that are never ours, whichever database
/// they feed.
///
/// # Errors
/// The server's or the connection's error.
pub async fn slots(client: &Client) -> Result<Vec<(String, String)>, Error> {
    let rows = client
        .query(
            "SELECT subname::text, subslotname::text FROM pg_subscription WHERE subslotname IS NOT NULL",
            &[],
        )
        .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// The publisher's connection string of a subscription, where our role may read it (superusers only, usually).
pub async fn conninfo(client: &Client, subscription: &str) -> Option<String> {
    let row = client
        .query_opt(
            "SELECT s.subconninfo FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
              WHERE d.datname = current_database() AND s.subname = $1",
            &[&subscription],
        )
        .await
        .ok()??;
    row.try_get(0).ok()
}
