//! A publisher and a subscriber, as a test wants them: two servers, a database each, roles, and the wait for one to
//! reach the other.

use crate::majors::installation;
use crate::publication::{Publication, Subscription};
use crate::sql::{PATIENCE, Probe, connect, wait_until};
use anyhow::{Context as _, Result};
use seqshadow::demo::servers::{Cluster, ClusterOptions};
use seqshadow::types::{Lsn, quote_identifier};
use tokio_postgres::Client;

/// The database on both sides.
pub const DATABASE: &str = "shop";
/// The role that seqshadow uses: on the publisher it may replicate, on the subscriber it owns nothing.
pub const SHADOW_ROLE: &str = "shadow";

/// Two servers. The subscriber is dropped first, so that its workers do not complain about the publisher's end.
#[derive(Debug)]
pub struct Pair {
    /// Where applications write, until the cutover.
    pub subscriber: Cluster,
    /// Where they write after it.
    pub publisher: Cluster,
}

/// How a pair is started; `PairOptions::default()` suits most tests.
#[derive(Clone, Debug, Default)]
pub struct PairOptions {
    /// The publisher's server.
    pub publisher: ClusterOptions,
    /// The subscriber's server.
    pub subscriber: ClusterOptions,
}

impl Pair {
    /// Servers of these majors, with the database [`DATABASE`] and the role [`SHADOW_ROLE`] on both.
    ///
    /// # Errors
    /// When one is not available or does not start.
    pub async fn new(publisher_major: u32, subscriber_major: u32) -> Result<Pair> {
        Self::with(publisher_major, subscriber_major, PairOptions::default()).await
    }

    /// As [`new`](Self::new), with settings, authentication rules and files of one's own.
    ///
    /// # Errors
    /// When one is not available or does not start.
    pub async fn with(publisher_major: u32, subscriber_major: u32, options: PairOptions) -> Result<Pair> {
        crate::deadline::watch();
        // Never one system identifier for both: a sidecar may well compare them.
        let start = |major: u32, mut options: ClusterOptions, family: u8| {
            tokio::task::spawn_blocking(move || -> Result<Cluster> {
                options.family = family;
                Ok(Cluster::start(&installation(major)?, &options)?)
            })
        };
        let publisher = start(publisher_major, options.publisher, 0);
        let subscriber = start(subscriber_major, options.subscriber, 1);
        let pair = Pair { subscriber: subscriber.await??, publisher: publisher.await?? };
        for (cluster, replication) in [(&pair.publisher, "REPLICATION"), (&pair.subscriber, "NOREPLICATION")]
        {
            let client = connect(&cluster.conninfo("postgres")).await?;
            client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
            client.batch_execute(&format!("CREATE ROLE {SHADOW_ROLE} LOGIN {replication}")).await?;
            client.batch_execute("CREATE ROLE app LOGIN").await?;
        }
        Ok(pair)
    }

    /// The publisher's database, as superuser.
    #[must_use]
    pub fn publisher_conninfo(&self) -> String {
        self.publisher.conninfo(DATABASE)
    }

    /// The subscriber's database, as superuser.
    #[must_use]
    pub fn subscriber_conninfo(&self) -> String {
        self.subscriber.conninfo(DATABASE)
    }

    /// The publisher's database, as the role with few rights.
    #[must_use]
    pub fn shadow_publisher_conninfo(&self) -> String {
        self.publisher.conninfo_as(SHADOW_ROLE, DATABASE)
    }

    /// The subscriber's database, as the role with few rights.
    #[must_use]
    pub fn shadow_subscriber_conninfo(&self) -> String {
        self.subscriber.conninfo_as(SHADOW_ROLE, DATABASE)
    }

    /// A superuser's connection to the publisher's database.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn on_publisher(&self) -> Result<Client> {
        connect(&self.publisher_conninfo()).await
    }

    /// A superuser's connection to the subscriber's database.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn on_subscriber(&self) -> Result<Client> {
        connect(&self.subscriber_conninfo()).await
    }

    /// Superusers' connections to the publisher's and to the subscriber's database.
    ///
    /// # Errors
    /// When a server refuses.
    pub async fn clients(&self) -> Result<(Client, Client)> {
        Ok((self.on_publisher().await?, self.on_subscriber().await?))
    }

    /// Runs the same SQL on both sides.
    ///
    /// # Errors
    /// When one of them refuses.
    pub async fn on_both(&self, sql: &str) -> Result<()> {
        self.on_publisher().await?.batch_execute(sql).await.with_context(|| format!("publisher: {sql}"))?;
        self.on_subscriber().await?.batch_execute(sql).await.with_context(|| format!("subscriber: {sql}"))
    }

    /// What the sidecar's role needs in `schemas`: to read on the publisher, to move sequences on the subscriber.
    ///
    /// # Errors
    /// When a schema is not there.
    pub async fn grant(&self, schemas: &[&str]) -> Result<()> {
        for schema in schemas {
            let schema = quote_identifier(schema);
            self.on_both(&format!(
                "GRANT USAGE ON SCHEMA {schema} TO {SHADOW_ROLE}; \
                 GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {SHADOW_ROLE}; \
                 GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {SHADOW_ROLE}"
            ))
            .await?;
            let client = self.on_subscriber().await?;
            client
                .batch_execute(&format!(
                    "GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA {schema} TO {SHADOW_ROLE}"
                ))
                .await?;
        }
        Ok(())
    }

    /// Creates the publication.
    ///
    /// # Errors
    /// When the publisher refuses, for instance an option that its major does not know.
    pub async fn publish(&self, publication: &Publication) -> Result<()> {
        let sql = publication.sql();
        self.on_publisher().await?.batch_execute(&sql).await.with_context(|| sql)
    }

    /// Creates the subscription, following the publisher as superuser.
    ///
    /// # Errors
    /// When one of the servers refuses.
    pub async fn subscribe(&self, subscription: &Subscription) -> Result<()> {
        let sql = subscription.sql(&self.publisher_conninfo());
        self.on_subscriber().await?.batch_execute(&sql).await.with_context(|| sql)
    }

    /// Runs `ddl` on both sides, gives [`SHADOW_ROLE`] its rights in schema `public`, and replicates everything.
    ///
    /// # Errors
    /// When a server refuses or the copies do not end.
    pub async fn replicate(&self, ddl: &str) -> Result<()> {
        self.on_both(ddl).await?;
        self.grant(&["public"]).await?;
        self.replicate_all().await
    }

    /// Publishes and subscribes everything, as `pub` and `sub`, and waits for the initial copies.
    ///
    /// # Errors
    /// When a server refuses or the copies do not end.
    pub async fn replicate_all(&self) -> Result<()> {
        self.publish(&Publication::all("pub")).await?;
        self.subscribe(&Subscription::to("sub", &["pub"])).await?;
        self.wait_for_sync().await
    }

    /// Waits until every table of every subscription is copied and followed (`srsubstate` is `r`).
    ///
    /// # Errors
    /// When that takes longer than [`PATIENCE`].
    pub async fn wait_for_sync(&self) -> Result<()> {
        let client = self.on_subscriber().await?;
        let publisher = self.on_publisher().await?;
        let waited = wait_until("the initial copy", PATIENCE, async || {
            nudge(&publisher).await?;
            let sql = "SELECT coalesce(string_agg(format('%s %s', srrelid::regclass, srsubstate), ', '), '') \
                       FROM pg_subscription_rel WHERE srsubstate <> 'r'";
            let unready: String = client.query_one(sql, &[]).await?.get(0);
            Ok(Probe::when(unready.is_empty(), || unready))
        });
        waited.await.with_context(|| self.logs())
    }

    /// The publisher's WAL position now: everything committed before is below it.
    ///
    /// # Errors
    /// When the publisher cannot be asked.
    pub async fn publisher_lsn(&self) -> Result<Lsn> {
        lsn(&self.on_publisher().await?, "SELECT pg_current_wal_insert_lsn()::text").await
    }

    /// Waits until the subscription has applied everything up to `lsn`, as its slot on the publisher knows.
    ///
    /// # Errors
    /// When that takes longer than [`PATIENCE`].
    pub async fn wait_for_catchup(&self, slot: &str, lsn: Lsn) -> Result<()> {
        let client = self.on_publisher().await?;
        let text = lsn.to_string();
        let what = format!("{slot} reaching {lsn}");
        let waited = wait_until(&what, PATIENCE, async || {
            nudge(&client).await?;
            let sql = "SELECT coalesce(confirmed_flush_lsn >= $2::text::pg_lsn, false), \
                       format('%s active: %s', confirmed_flush_lsn, active) FROM pg_replication_slots \
                       WHERE slot_name = $1";
            Ok(match client.query_opt(sql, &[&slot, &text]).await? {
                Some(row) => Probe::when(row.get(0), || row.get(1)),
                None => Probe::NotYet("there is no such slot".to_owned()),
            })
        });
        waited.await.with_context(|| self.logs())
    }

    /// Waits until what is committed on the publisher now is applied by the subscription `sub`.
    ///
    /// # Errors
    /// When that takes longer than [`PATIENCE`].
    pub async fn catch_up(&self) -> Result<Lsn> {
        let lsn = self.publisher_lsn().await?;
        self.wait_for_catchup("sub", lsn).await?;
        Ok(lsn)
    }

    /// The ends of both logs, for the context of an error.
    #[must_use]
    pub fn logs(&self) -> String {
        let part = |name: &str, cluster: &Cluster| {
            format!("--- {name}, PostgreSQL {}\n{}\n", cluster.installation().version, cluster.log_tail(20))
        };
        part("publisher", &self.publisher) + &part("subscriber", &self.subscriber)
    }
}

/// Writes a little WAL. Workers that wait for an idle publisher to move on are otherwise told so every ten seconds only.
async fn nudge(publisher: &Client) -> Result<()> {
    Ok(publisher.batch_execute("SELECT pg_logical_emit_message(true, 'seqshadow test', '')").await?)
}

/// A WAL position that `sql` selects as text.
///
/// # Errors
/// When the query fails or the answer is not a position.
pub async fn lsn(client: &Client, sql: &str) -> Result<Lsn> {
    let text: String = client.query_one(sql, &[]).await?.get(0);
    Ok(text.parse()?)
}

/// Up to where of the publisher the subscriptions of this database have applied transactions; they may be lost again in
/// a crash.
///
/// # Errors
/// When the subscriber cannot be asked.
pub async fn applied(subscriber: &Client) -> Result<Lsn> {
    let sql = "SELECT coalesce(max(remote_lsn), '0/0')::text FROM pg_replication_origin_status";
    lsn(subscriber, sql).await
}

/// The position that a slot has confirmed; `None` without such a slot, or while it is being made.
///
/// # Errors
/// When the server cannot be asked.
pub async fn confirmed(publisher: &Client, slot: &str) -> Result<Option<Lsn>> {
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let Some(row) = publisher.query_opt(sql, &[&slot]).await? else { return Ok(None) };
    Ok(row.get::<_, Option<String>>(0).and_then(|text| text.parse().ok()))
}
