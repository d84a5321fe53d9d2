//! Watches a stream from outside: the WAL that the slot holds back, whether receipts are possible, whether the
//! publisher's commits wait for us.
//!
//! Out: the reason [`Why`] a stream must end. It ends none itself (see [`super::follow`]).

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, warn};

use super::connection::APPLICATION_NAME;
use super::follow::{
    CEILING_GRACE, Course, Follow, LOOK_INTERVAL, LOOK_TIMEOUT, Links, RECEIPTS_GRACE, told_to,
};
use super::slot;
use crate::confirm::Synchronous;
use crate::sql::{self, Connection, SqlError};
use crate::types::SlotName;

/// Why a stream was asked to stop.
#[derive(Clone, Debug)]
pub(super) enum Why {
    Nothing,
    /// The publisher began, or ceased, to take us for a synchronous standby.
    Synchronous,
    Stop,
    Idle,
    Drop {
        retained: u64,
    },
}

/// Ends when the stream must: told to stop, the subscriber is away too long, or too much WAL is held back.
pub(super) async fn watch_over(
    follow: &Follow,
    links: &mut Links,
    first: &Connection,
    is_synchronous: bool,
    course: &mut Course,
    why: &watch::Sender<Why>,
) {
    let begun = Instant::now();
    let mut next_look = begun + LOOK_INTERVAL;
    let mut reopened = None;
    loop {
        let away = *links.receipts_impossible_since.borrow_and_update();
        let leave_at = away.map(|since| since + RECEIPTS_GRACE);
        tokio::select! {
            () = told_to(&mut links.stop) => {
                let _ = why.send(Why::Stop);
                return;
            }
            changed = links.receipts_impossible_since.changed() => {
                if changed.is_err() {
                    let _ = why.send(Why::Stop);
                    return;
                }
            }
            () = async { sleep_until(leave_at.unwrap_or_else(Instant::now)).await }, if leave_at.is_some() => {
                let _ = why.send(Why::Idle);
                return;
            }
            () = sleep_until(next_look) => {
                course.lasts(begun, &follow.slot);
                let seen = watch_once(follow, first, &mut reopened).await;
                next_look = Instant::now() + LOOK_INTERVAL;
                let Some((retained, synchronous)) = seen else { continue };
                if synchronous != is_synchronous {
                    let _ = why.send(Why::Synchronous);
                    return;
                }
                links.state.send_modify(|state| state.retained_bytes = retained);
                let ceiling = *links.max_retained_wal.borrow();
                if retained <= ceiling {
                    course.over_ceiling = None;
                    continue;
                }
                // It may have been so since the last look.
                let since = *course.over_ceiling.get_or_insert_with(|| Instant::now() - LOOK_INTERVAL);
                warn!(
                    slot = %follow.slot, retained_bytes = retained, max_retained_wal = ceiling,
                    "the slot holds back more WAL than allowed: confirming what is possible, a new seed is owed"
                );
                let _ = links.give_up.try_send(());
                links.requests.seed();
                // Confirming takes a moment, and an open writing transaction may pin the WAL all the same.
                if since.elapsed() >= CEILING_GRACE {
                    let _ = why.send(Why::Drop { retained });
                    return;
                }
            }
        }
    }
}

/// How much WAL the slot holds back, and whether the publisher's commits wait for us. Where the connection is lost, a
/// new one is opened: the stream may live on without it.
async fn watch_once(
    follow: &Follow,
    first: &Connection,
    reopened: &mut Option<Connection>,
) -> Option<(u64, bool)> {
    let sql = reopened.as_ref().unwrap_or(first);
    if sql.client.is_closed() {
        let opened = timeout(LOOK_INTERVAL, sql::connect(&follow.conninfo, "publisher")).await;
        *reopened = opened.ok()?.ok();
        return None;
    }
    let look = async {
        let found = slot::load(&sql.client, sql.version, &follow.slot).await.map_err(SqlError::from)?;
        Ok::<_, SqlError>((found, synchronous(sql).await?.is_some()))
    };
    let (found, synchronous) = timeout(LOOK_INTERVAL, look).await.ok()?.ok()?;
    Some((found?.retained_bytes, synchronous))
}

/// Whether the publisher's commits would wait for us.
pub(super) async fn synchronous(sql: &Connection) -> Result<Option<Synchronous>, SqlError> {
    let asked = sql.client.query_one("SELECT current_setting('synchronous_standby_names')", &[]);
    let names: String = sql::within(LOOK_TIMEOUT, asked).await?.try_get(0)?;
    Ok(Synchronous::matching(&names, APPLICATION_NAME))
}

pub(super) fn complain_about_synchronous(slot: &SlotName) {
    error!(
        %slot,
        "synchronous_standby_names of the publisher matches \"{APPLICATION_NAME}\": its commits would wait for us, so \
         everything is confirmed at once; name the real standbys there: ALTER SYSTEM SET synchronous_standby_names = \
         '…'; SELECT pg_reload_conf();"
    );
}
