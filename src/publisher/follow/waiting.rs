//! What is done while the slot is not ours to stream from: somebody else has it, or the subscriber is away.
//!
//! In: the slot as it was looked at. Out: the end of a round (see [`super`]).

use tokio::time::{Duration, sleep};
use tracing::{info, warn};

use super::{Course, Doing, Follow, Links, RECEIPTS_GRACE, Round, told_to};
use crate::publisher::reaction::Failure;
use crate::publisher::slot::Verdict;
use crate::sql::Connection;

/// How often the WAL of an idle slot is looked at.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// How often a hot standby looks whether the slot is free.
const STANDBY_LOOK: Duration = Duration::from_secs(1);

impl Follow {
    /// Another seqshadow has the slot. Our sequences are protected by polls; when it is free we go on with the stream.
    pub(super) async fn stand_by(
        &self,
        links: &mut Links,
        sql: &Connection,
        course: &mut Course,
        pid: i32,
    ) -> Result<Round, Failure> {
        course.stood_by = true;
        if links.state.borrow().doing != Doing::Standby {
            info!(slot = %self.slot, pid, "another seqshadow streams from the slot; standing by until it is free");
            links.state.send_modify(|state| state.doing = Doing::Standby);
        }
        loop {
            if links.unless_stopped(sleep(STANDBY_LOOK)).await.is_none() {
                return Ok(Round::Stopped);
            }
            let Some(looked) = links.unless_stopped(self.look(sql, &links.state)).await else {
                return Ok(Round::Stopped);
            };
            let is_held = matches!(looked?, Verdict::Standby { .. });
            if !is_held || links.receipts_impossible_since.borrow().is_some() {
                return Ok(Round::Again);
            }
        }
    }

    /// The subscriber is away. The slot is left alone, so that the publisher may shut down, but its WAL is watched.
    pub(super) async fn idle(
        &self,
        links: &mut Links,
        sql: &Connection,
        course: &mut Course,
    ) -> Result<Round, Failure> {
        loop {
            links.shared.alive.beat();
            // Right after the start the keeper may still be at its first reading, which is no absence.
            let away = links.receipts_impossible_since.borrow().map(|since| since.elapsed());
            let is_away = course.began || away.is_some_and(|away| away >= RECEIPTS_GRACE);
            if is_away && links.state.borrow().doing != Doing::Idle {
                warn!(slot = %self.slot, "the subscriber is away: the slot is left idle until it is back");
                links.state.send_modify(|state| state.doing = Doing::Idle);
            }
            let Some(looked) = links.unless_stopped(self.look(sql, &links.state)).await else {
                return Ok(Round::Stopped);
            };
            let ours = matches!(looked?, Verdict::Ours) && is_away;
            let (retained, ceiling) = (links.state.borrow().retained_bytes, *links.max_retained_wal.borrow());
            if ours && retained > ceiling {
                links.shared.alive.through(self.drop_slot(sql)).await?;
                course.gave_up_slot(links);
                warn!(
                    slot = %self.slot, retained_bytes = retained, max_retained_wal = ceiling,
                    "the slot held back more WAL than allowed while the subscriber is away: it was dropped; \
                     it will be created again and the sequences seeded again when the subscriber is back"
                );
            }
            tokio::select! {
                () = sleep(IDLE_LOOK) => {}
                possible = links.receipts_impossible_since.wait_for(Option::is_none) => {
                    return if possible.is_ok() { Ok(Round::Again) } else { Ok(Round::Stopped) };
                }
                () = told_to(&mut links.stop) => return Ok(Round::Stopped),
            }
        }
    }
}
