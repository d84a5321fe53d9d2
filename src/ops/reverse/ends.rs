//! The two servers of a reversal, by what they are now, and what stands between them.
//!
//! In: settings and environment. Out: [`Ends`], two connections whose sessions are ours alone: the old server's
//! `default_transaction_read_only` is off in them and nowhere else, and nobody else reverses at the same time.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::found::{Forward, Found};
use super::names::Names;
use crate::config::{ConninfoText, Settings};
use crate::conninfo::{Conninfo, Environment};
use crate::ops::ask::Side;
use crate::sides::{self, SidesError};
use crate::sql::{self, Connection};
use crate::subscriber::subscription;

/// The old server: where applications wrote until the switch, the forward publisher.
pub(super) const OLD: Side = Side::Publisher;
/// The new server: where they write from now on, the forward subscriber.
pub(super) const NEW: Side = Side::Subscriber;

/// Two keys of an advisory lock: "seqs", "reve" in ASCII. Whoever changes anything here holds it on both servers, so
/// that what a killed run has left running on a server is over before the next one looks.
const LOCK: (i32, i32) = (0x7365_7173, 0x7265_7665);

/// How often something that is waited for is looked at.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Both servers.
#[derive(Debug)]
pub(super) struct Ends {
    pub old: Connection,
    pub new: Connection,
    pub old_conninfo: Conninfo,
    pub new_conninfo: Conninfo,
    pub names: Names,
    /// What is there already, as it was found when the servers were connected to.
    pub found: Found,
    /// The publications that brought the rows, as far as anything says so.
    pub publications: Vec<String>,
}

impl Ends {
    /// Connects to both, and looks at what is there.
    ///
    /// # Errors
    /// What is wrong or missing, with what to do about it; that both are one database.
    pub(super) async fn open(settings: &Settings, environment: &Environment) -> Result<Self, SidesError> {
        let names = Names::of(settings.required_slot()?)?;
        if settings.publisher.is_some() {
            // A mistake in it is said before anybody is connected to.
            sides::conninfo(settings.publisher.as_ref(), "publisher", settings, environment)?;
        }
        let (new, new_conninfo) = sides::connect_subscriber(settings, environment).await?;
        let on_new = Found::on_new(&new, &names).await?;
        let forward = forward(&new, settings, &on_new).await?;
        let text = match (&settings.publisher, &forward) {
            (Some(text), _) => Some(text.clone()),
            (None, Some(forward)) => {
                subscription::conninfo(&new.client, &forward.name).await.map(ConninfoText::new)
            }
            (None, None) => None,
        };
        let Some(text) = text else {
            return Err(SidesError::Setting {
                what: "the old server's address is not known: no forward subscription says it that our role may read"
                    .to_owned(),
                action: "give it with --publisher, which means the forward publisher here too".to_owned(),
            });
        };
        let old_conninfo = sides::conninfo(Some(&text), "publisher", settings, environment)?;
        let old = sql::connect(&old_conninfo, "publisher").await.map_err(SidesError::on_publisher)?;
        sides::refuse_same(&old, &new).await?;
        let found = on_new.complete(&old, &names, forward).await?;
        let publications = followed(settings, &found);
        let ends = Ends { old, new, old_conninfo, new_conninfo, names, found, publications };
        for (side, client) in ends.both() {
            // What we make waits for ordinary locks, which our other sessions never do.
            side.run(client, "SET lock_timeout = '5s'").await?;
        }
        Ok(ends)
    }

    fn both(&self) -> [(Side, &Client); 2] {
        [(NEW, &self.new.client), (OLD, &self.old.client)]
    }

    /// Looks again at what is there.
    ///
    /// # Errors
    /// Where a connection is lost.
    pub(super) async fn look(&mut self) -> Result<(), SidesError> {
        let named = self.found.forward.as_ref().map(|forward| forward.name.clone());
        let named =
            named.or_else(|| self.found.publication.mark().and_then(|mark| mark.subscription.clone()));
        let on_new = Found::on_new(&self.new, &self.names).await?;
        let forward = match named {
            Some(name) => Forward::load(&self.new, &name).await?,
            None => None,
        };
        self.found = on_new.complete(&self.old, &self.names, forward).await?;
        Ok(())
    }

    /// Becomes the only one who changes anything; `false` where another still was at it after `patience`.
    ///
    /// # Errors
    /// Where a connection is lost.
    pub(super) async fn lock(&self, patience: Duration) -> Result<bool, SidesError> {
        let until = Instant::now() + patience;
        let sql = format!("SELECT pg_try_advisory_lock({}, {})", LOCK.0, LOCK.1);
        for (side, client) in self.both() {
            while !side.value::<bool>(client, &sql, &[]).await? {
                if Instant::now() > until {
                    return Ok(false);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(true)
    }
}

/// The publications that brought the rows: the forward subscription's, or those that our mark remembers of it. What the
/// settings name may be a narrow one, made for the sidecar's own stream; it counts where nothing else says anything.
fn followed(settings: &Settings, found: &Found) -> Vec<String> {
    let remembered = found.publication.mark().map(|mark| &mark.publications);
    let known = found.forward.as_ref().map(|forward| &forward.publications).or(remembered);
    known.filter(|names| !names.is_empty()).unwrap_or(&settings.publications).clone()
}

/// The forward subscription: the one named, the one that a run before this has begun with, or the only one.
async fn forward(
    new: &Connection,
    settings: &Settings,
    on_new: &Found,
) -> Result<Option<Forward>, SidesError> {
    let mark = on_new.publication.mark();
    if let Some(name) = mark.and_then(|mark| mark.subscription.as_deref()) {
        // It may have been dropped by now, as it should be.
        return Forward::load(new, name).await;
    }
    if let Some(name) = &settings.subscription {
        return match Forward::load(new, name).await? {
            Some(forward) => Ok(Some(forward)),
            None => Err(SidesError::Setting {
                what: format!("there is no subscription \"{name}\" on the subscriber"),
                action: "name the one that brought the rows from the old server with --subscription"
                    .to_owned(),
            }),
        };
    }
    let there = NEW_SUBSCRIPTIONS;
    let rows = NEW.rows(&new.client, there, &[]).await?;
    match rows.as_slice() {
        [] => Ok(None),
        [only] => Forward::load(new, &NEW.get::<String>(only, 0)?).await,
        several => {
            let names: Result<Vec<String>, SidesError> = several.iter().map(|row| NEW.get(row, 0)).collect();
            Err(SidesError::Setting {
                what: format!("the subscriber has several subscriptions: {}", names?.join(", ")),
                action: "name the one to be reversed with --subscription".to_owned(),
            })
        }
    }
}

const NEW_SUBSCRIPTIONS: &str =
    "SELECT s.subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
      WHERE d.datname = current_database() ORDER BY 1";

/// The server's refusal in full; what is no refusal but a lost connection stays an error.
pub(super) fn refusal(error: SidesError) -> Result<String, SidesError> {
    match &error {
        SidesError::Sql { source: sql::SqlError::Query(query), .. } if query.as_db_error().is_some() => {
            Ok(error.to_string())
        }
        _ => Err(error),
    }
}
