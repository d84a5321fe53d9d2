//! The pipeline of one slot, put together: start it, watch it, reload it, stop it.
//!
//! In: [`Settings`]. Out: a [`Running`] shadow: the poller reads the publisher's sequences, the follower reads its
//! stream, the keeper moves the subscriber's sequences and says what may be confirmed. Each is a task of its own, and
//! none waits for another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::alive::Alive;
use crate::catalog::Catalog;
use crate::config::{self, Changes, NeedsRestart, Settings};
use crate::confirm::FlushLsn;
use crate::conninfo::Environment;
use crate::console::View;
use crate::exit::ExitCode;
use crate::handover::Handover;
use crate::keeper::{self, Keeper};
use crate::pgoutput::Streaming;
use crate::publisher::connection::SlotOptions;
use crate::publisher::follow::{self, Follow, SlotState};
use crate::publisher::poll::Poller;
use crate::publisher::publication;
use crate::publisher::reaction::{Fatal, has_wal_level};
use crate::publisher::requests::Requests;
use crate::publisher::stream::{Progress, Shared, Timing};
use crate::registry::Registry;
use crate::sides::{Needs, Sides, SidesError};
use crate::sql;
use crate::tracking::Tracking;

/// As `wal_receiver_timeout`: a publisher that is silent for so many status intervals (a minute by default) is gone.
const DEAD_AFTER_INTERVALS: u32 = 6;
const DEAD_AFTER_MIN: Duration = Duration::from_secs(5);

/// From here on a standby can have logical replication slots.
const VERSION_DECODES_ON_STANDBY: u32 = 160_000;

/// How long a server may take for each answer before anything is started.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a shadow cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    #[error(transparent)]
    Sides(#[from] SidesError),
    #[error(transparent)]
    Fatal(#[from] Fatal),
    #[error("a task of ours ended unexpectedly: {0}")]
    Task(String),
}

impl ShadowError {
    /// The exit status that goes with it.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            ShadowError::Sides(error) => error.exit_code(),
            ShadowError::Fatal(Fatal::Setting { .. }) => ExitCode::Usage,
            ShadowError::Fatal(Fatal::Unreachable(_)) => ExitCode::Unreachable,
            ShadowError::Fatal(Fatal::Refused { .. }) => ExitCode::Refused,
            ShadowError::Task(_) => ExitCode::NotReady,
        }
    }
}

/// A shadow at work.
#[derive(Debug)]
pub struct Running {
    pub registry: Arc<Registry>,
    pub progress: watch::Receiver<Progress>,
    pub slot_state: watch::Receiver<SlotState>,
    pub alive: Arc<Alive>,
    settings: watch::Sender<Arc<Settings>>,
    poll_interval: watch::Sender<Duration>,
    max_retained_wal: watch::Sender<u64>,
    stop_follower: watch::Sender<bool>,
    stop_keeper: watch::Sender<bool>,
    follower: JoinHandle<Result<(), Fatal>>,
    keeper: JoinHandle<()>,
    poller: JoinHandle<()>,
    /// What ended first, and until when the follower may still say why.
    first_end: Option<(Instant, String)>,
}

/// Starts the shadow of `settings`. The first connection to each server must succeed; later ones are tried for ever.
///
/// # Errors
/// [`ShadowError`], with the exit status that it means.
pub async fn start(settings: Settings, environment: &Environment) -> Result<Running, ShadowError> {
    let slot = settings.required_slot().map_err(SidesError::from)?.clone();
    let prepared = prepare(&settings, environment).await?;
    let settings = Arc::new(settings);
    let registry = Arc::new(Registry::default());
    let handover = Arc::new(Handover::default());
    let alive = Arc::new(Alive::default());

    let (settings_send, settings_recv) = watch::channel(settings.clone());
    let (poll_interval, poll_interval_recv) = watch::channel(settings.poll_interval);
    let (max_retained_wal, max_retained_recv) = watch::channel(settings.max_retained_wal.0);
    let (catalog, catalog_recv) = watch::channel(Arc::new(Catalog::default()));
    let (tracking, tracking_recv) = watch::channel(Arc::new(Tracking::default()));
    let (flush, flush_recv) = watch::channel(FlushLsn::default());
    let (progress, progress_recv) = watch::channel(Progress::default());
    let (state, state_recv) = watch::channel(SlotState::default());
    let (impossible, impossible_recv) = watch::channel(Some(Instant::now()));
    let (stop_follower, stop_follower_recv) = watch::channel(false);
    let (stop_keeper, stop_keeper_recv) = watch::channel(false);
    let (subscriptions, subscriptions_recv) = watch::channel(prepared.slots);
    let (own_subscriptions, own_subscriptions_recv) = watch::channel(prepared.subscriptions);
    let requests = Arc::new(Requests::default());
    let (reports, reports_recv) = mpsc::channel(16);
    let (give_up, give_up_recv) = mpsc::channel(1);
    let (another_publisher, another_publisher_recv) = mpsc::channel(1);

    let keeper = Keeper::new(
        keeper::Links {
            settings: settings_recv,
            handover: handover.clone(),
            calm_at: Instant::now(),
            registry: registry.clone(),
            reports: reports_recv,
            requests: requests.clone(),
            catalog,
            tracking,
            flush,
            receipts_impossible_since: impossible,
            subscriptions,
            own_subscriptions,
            give_up: give_up_recv,
            another_publisher: another_publisher_recv,
            stop: stop_keeper_recv,
        },
        prepared.subscriber_conninfo,
    );
    let keeper = tokio::spawn(keeper.run(prepared.subscriber));
    // The poller's first look needs the subscriber's catalog.
    let mut first_catalog = catalog_recv.clone();
    let _ = timeout(settings.connect_timeout.max(Duration::from_secs(1)), first_catalog.changed()).await;

    let poller = Poller {
        conninfo: prepared.publisher_conninfo.clone(),
        publications: prepared.publications.clone(),
        subscriptions: own_subscriptions_recv,
        renames: settings.renames_by_publisher(),
        poll_interval: poll_interval_recv,
        subscriber: catalog_recv,
        requests: requests.clone(),
        slot_state: state_recv.clone(),
        progress: progress_recv.clone(),
        reports,
    };
    let follow = Follow {
        conninfo: prepared.publisher_conninfo,
        slot,
        publications: prepared.publications,
        subscriptions: subscriptions_recv,
        slot_options: SlotOptions { temporary: settings.temporary_slot, failover: settings.failover },
        create_slot: settings.create_slot,
        streaming: match settings.streaming {
            config::Streaming::Off => Streaming::Off,
            config::Streaming::On => Streaming::On,
            config::Streaming::Parallel => Streaming::Parallel,
        },
        timing: Timing {
            status_interval: settings.status_interval,
            dead_after: settings.status_interval.saturating_mul(DEAD_AFTER_INTERVALS).max(DEAD_AFTER_MIN),
            synchronous: None,
        },
    };
    let links = follow::Links {
        shared: Shared {
            handover,
            tracking: tracking_recv,
            flush: flush_recv,
            progress,
            alive: alive.clone(),
        },
        requests,
        receipts_impossible_since: impossible_recv,
        max_retained_wal: max_retained_recv,
        give_up,
        another_publisher,
        stop: stop_follower_recv,
        state,
    };
    Ok(Running {
        registry,
        progress: progress_recv,
        slot_state: state_recv,
        alive,
        settings: settings_send,
        poll_interval,
        max_retained_wal,
        stop_follower,
        stop_keeper,
        follower: tokio::spawn(async move { follow.run(links).await }),
        keeper,
        poller: tokio::spawn(poller.run()),
        first_end: None,
    })
}

async fn prepare(settings: &Settings, environment: &Environment) -> Result<Sides, ShadowError> {
    let sides = Sides::find(settings, environment, Needs::PUBLICATIONS).await?;
    check_publisher(&sides).await?;
    info!(
        subscriber = %sides.subscriber.peer, version = sides.subscriber.version,
        subscription = sides.chosen.as_ref().map(|s| s.name.as_str()), publications = ?sides.publications, "starting"
    );
    if let Some(chosen) = sides.chosen.as_ref().filter(|chosen| !chosen.enabled) {
        warn!(subscription = %chosen.name, "the subscription is disabled: no row reaches the subscriber; ALTER SUBSCRIPTION … ENABLE");
    }
    Ok(sides)
}

/// What can be known to be wrong before anything is touched.
async fn check_publisher(sides: &Sides) -> Result<(), SidesError> {
    let wrong = SidesError::on_publisher;
    let publisher = sides.publisher().await?;
    let publications = &sides.publications;
    // What they publish is the poller's business: it may have to wait for a locked table.
    let found = publication::load(&publisher.client, publications);
    let found = sql::within(START_TIMEOUT, found).await.map_err(wrong)?;
    if !found.missing.is_empty() {
        let missing = found.missing.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        return Err(SidesError::Setting {
            what: format!("publication {missing} does not exist on the publisher {}", publisher.peer),
            action: "create it there, or name others with --publication".to_owned(),
        });
    }
    let settings =
        publisher.client.query_one("SELECT current_setting('wal_level'), pg_is_in_recovery()", &[]);
    let row = sql::within(START_TIMEOUT, settings).await.map_err(wrong)?;
    let unreadable = |error: tokio_postgres::Error| wrong(error.into());
    let level: String = row.try_get(0).map_err(unreadable)?;
    if row.try_get(1).map_err(unreadable)? && publisher.version < VERSION_DECODES_ON_STANDBY {
        return Err(SidesError::Setting {
            what: format!(
                "the publisher {} is a standby of PostgreSQL {}, which has no logical replication slots before 16",
                publisher.peer,
                publisher.version / 10_000
            ),
            action:
                "name its primary in --publisher (of several hosts, target_session_attrs=read-write finds it)"
                    .to_owned(),
        });
    }
    if !has_wal_level(&level, publisher.version) {
        return Err(SidesError::Setting {
            what: format!("wal_level on the publisher {} is {level}, expected logical", publisher.peer),
            action: "on the publisher: ALTER SYSTEM SET wal_level = logical; and restart it".to_owned(),
        });
    }
    Ok(())
}

impl Running {
    /// Whether the sequences are protected: read, compared with the publisher and put ahead for the first time.
    #[must_use]
    pub fn is_protecting(&self) -> bool {
        self.registry.is_protecting()
    }

    /// Takes over what of `new` can change while running.
    ///
    /// # Errors
    /// Names the settings that need a restart; then nothing was changed.
    pub fn reload(&self, new: Settings) -> Result<Changes, NeedsRestart> {
        let changes = self.settings.borrow().reload_diff(&new)?;
        self.poll_interval.send_replace(new.poll_interval);
        self.max_retained_wal.send_replace(new.max_retained_wal.0);
        self.settings.send_replace(Arc::new(new));
        Ok(changes)
    }

    /// What a console may look at.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            registry: self.registry.clone(),
            progress: self.progress.clone(),
            slot_state: self.slot_state.clone(),
            settings: self.settings.subscribe(),
        }
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// Waits until a task ends by itself, which none does without a reason.
    ///
    /// # Errors
    /// That reason.
    pub async fn ended(&mut self) -> Result<(), ShadowError> {
        loop {
            // The others end when the follower does, because it held their channels; its reason is the one to tell.
            let deadline = self.first_end.as_ref().map(|(deadline, _)| *deadline);
            let ended = tokio::select! {
                follower = &mut self.follower => {
                    let text = self.first_end.take().map_or_else(|| "the follower ended".to_owned(), |(_, text)| text);
                    return Err(match follower {
                        Ok(Err(fatal)) => fatal.into(),
                        Ok(Ok(())) => ShadowError::Task(text),
                        Err(error) => ShadowError::Task(error.to_string()),
                    });
                }
                keeper = &mut self.keeper, if deadline.is_none() => outcome("keeper", keeper),
                poller = &mut self.poller, if deadline.is_none() => outcome("poller", poller),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    let text = self.first_end.take().map_or_else(String::new, |(_, text)| text);
                    return Err(ShadowError::Task(text));
                }
            };
            self.first_end = Some((Instant::now() + Duration::from_secs(1), ended));
        }
    }

    /// Stops in order, in `grace` at most: the stream says farewell, the keeper ends what it is at.
    pub async fn stop(self, grace: Duration) {
        let Running { stop_follower, stop_keeper, mut follower, mut keeper, poller, .. } = self;
        let deadline = Instant::now() + grace;
        stop_follower.send_replace(true);
        if !follower.is_finished() && tokio::time::timeout_at(deadline, &mut follower).await.is_err() {
            warn!(?grace, "the publisher did not end the stream in time: it is cut");
            follower.abort();
        }
        stop_keeper.send_replace(true);
        if !keeper.is_finished() && tokio::time::timeout_at(deadline, &mut keeper).await.is_err() {
            warn!(
                ?grace,
                "the subscriber did not answer in time: what was under way there is not waited for"
            );
            keeper.abort();
        }
        poller.abort();
    }
}

fn outcome(task: &str, ended: Result<(), tokio::task::JoinError>) -> String {
    match ended {
        Ok(()) => format!("the {task} ended"),
        Err(error) => format!("the {task} failed: {error}"),
    }
}
