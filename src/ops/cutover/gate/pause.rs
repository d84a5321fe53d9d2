//! How the gate knows that nobody writes: the writes are stopped, nobody is older than that, and it stays so until the end.

use std::time::Instant;

use super::{Gate, LOOK};
use crate::ops::ask::Side;
use crate::ops::cutover::WritesStopped;
use crate::ops::cutover::applier::emit;
use crate::ops::cutover::stop::{Blocker, Stop};
use crate::ops::cutover::writes;
use crate::ops::read_only::{self, NewSessions, SETTING, Said};
use crate::sides::SidesError;
use crate::subscriber::subscription;
use crate::types::{quote_identifier, quote_literal};

impl Gate<'_> {
    /// Stops the writes, or sees that they are stopped.
    pub(in crate::ops::cutover) async fn stop_writes(
        &mut self,
        by: WritesStopped,
        give_up: Instant,
    ) -> Result<(), Stop> {
        self.nobody_exempt(by).await?;
        self.nobody_feeds(by).await?;
        match by {
            WritesStopped::ByUs => {
                let control = &self.control.client;
                let patience = give_up.saturating_duration_since(Instant::now());
                let keep = self.own_sessions();
                writes::stop(control, &keep, patience, &mut self.undo).await??;
            }
            WritesStopped::BySetting => self.relied_on = Some(self.setting().await?),
            WritesStopped::AsTheOperatorSays => {
                let state = if self.new_sessions().await?.is_read_only() {
                    "on, but nobody has looked for sessions and roles that it does not bind"
                } else {
                    "not known to be on, and what keeps the application from writing is not known here"
                };
                self.notes.push(format!(
                    "that the writes are stopped is the operator's word (--writes-stopped): {SETTING} of the publisher's \
                     database is {state}"
                ));
            }
        }
        self.nobody_writes(give_up).await?;
        self.nothing_prepared().await?;
        self.nobody_older(by, give_up).await
    }

    async fn new_sessions(&self) -> Result<NewSessions, SidesError> {
        read_only::by_default(Side::Publisher, &self.publisher.client).await
    }

    /// A session that was there before the user's own setting is not bound by it, and which those are nobody can see.
    async fn nobody_older(&self, by: WritesStopped, give_up: Instant) -> Result<(), Stop> {
        if by != WritesStopped::BySetting {
            return Ok(());
        }
        let sessions = writes::perhaps_older(&self.publisher.client, &self.own_sessions(), give_up).await?;
        let Some(first) = sessions.first() else { return Ok(()) };
        let pids = sessions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(Blocker::new(
            "sessions-may-write",
            format!(
                "sessions are connected to the publisher that may be older than its default_transaction_read_only, and \
                 would then write on: pid {pids}"
            ),
            format!(
                "end them there: SELECT pg_terminate_backend({first}); or use --stop-writes, which ends them; or say \
                 --writes-stopped if they write no more"
            ),
        )
        .into())
    }

    /// What only a rehearsal looks at before the pause: our own sidecar keeps up, and `by` is enough for the writes to be
    /// stopped when it comes to that.
    pub(in crate::ops::cutover) async fn rehearse(
        &self,
        by: WritesStopped,
        give_up: Instant,
    ) -> Result<(), Stop> {
        let now = emit(&self.publisher.client, "seqshadow cutover").await?;
        self.sidecar_has(now, give_up).await?;
        if by == WritesStopped::BySetting {
            self.setting().await?;
        }
        self.nobody_older(by, give_up).await
    }

    /// The setting that keeps the application from writing; its absence is a blocker.
    async fn setting(&self) -> Result<Said, Stop> {
        let what = match self.new_sessions().await? {
            NewSessions::ReadOnly(said) => return Ok(said),
            NewSessions::MayWrite => format!(
                "nothing keeps the application from writing to the publisher: {SETTING} of its database is off"
            ),
            NewSessions::Unknown(hidden) => format!(
                "nothing is known to keep the application from writing to the publisher: {SETTING} of its database is \
                 not set, and {}",
                hidden.what()
            ),
        };
        let database = quote_identifier(self.database());
        Err(Blocker::new(
            "writes-not-stopped",
            what,
            format!(
                "use --stop-writes; or there: ALTER DATABASE {database} SET {SETTING} = on; and end its sessions; or say \
                 --writes-stopped if they are stopped in another way"
            ),
        )
        .into())
    }

    /// What the pause stands on has been so all the time: nobody has let the writes go on, not even for a moment.
    pub(super) async fn still_stopped(&self) -> Result<(), Stop> {
        let holds = match (&self.undo, &self.relied_on) {
            (Some(undo), _) => undo.holds(&self.publisher.client).await?,
            (None, Some(said)) => self.new_sessions().await? == NewSessions::ReadOnly(said.clone()),
            // The operator's word.
            (None, None) => return Ok(()),
        };
        if !holds {
            return Err(Blocker::new(
                "aborted",
                match &self.relied_on {
                    Some(Said::Server(_)) => {
                        "somebody has let the writes go on meanwhile, or had the publisher's configuration read again"
                    }
                    Some(Said::Everybody(_)) => {
                        "somebody has let the writes go on meanwhile, or changed another setting of all roles"
                    }
                    Some(Said::Database(_)) | None => {
                        "somebody has let the writes go on meanwhile, or changed another setting of the database"
                    }
                },
                "see who ran cutover --abort, changed a setting or reloaded the configuration, and try again",
            )
            .into());
        }
        let by = if self.undo.is_some() { WritesStopped::ByUs } else { WritesStopped::BySetting };
        self.nobody_feeds(by).await?;
        self.nobody_exempt(by).await
    }

    /// The publisher may be a subscriber itself: no setting keeps its workers from writing on.
    pub(super) async fn nobody_feeds(&self, by: WritesStopped) -> Result<(), Stop> {
        if by == WritesStopped::AsTheOperatorSays {
            return Ok(());
        }
        let all = subscription::load(&self.publisher.client).await.map_err(SidesError::on_publisher)?;
        let Some(name) = all.iter().find(|one| one.enabled).map(|one| quote_identifier(&one.name)) else {
            return Ok(());
        };
        Err(Blocker::new(
            "publisher-subscribes",
            format!(
                "subscription {name} of the publisher itself is enabled: what it brings goes on being written there, and \
                 is passed on, whatever is set for sessions"
            ),
            format!(
                "on the publisher: ALTER SUBSCRIPTION {name} DISABLE; or say --writes-stopped if nothing comes by it"
            ),
        )
        .into())
    }

    /// No role may have a setting of its own that lets it write on.
    pub(super) async fn nobody_exempt(&self, by: WritesStopped) -> Result<(), Stop> {
        if by == WritesStopped::AsTheOperatorSays {
            return Ok(());
        }
        let exempt = read_only::exempt_roles(Side::Publisher, &self.control.client).await?;
        let Some(role) = exempt.first().map(|role| quote_identifier(role)) else {
            return Ok(());
        };
        Err(Blocker::new(
            "role-writes-on",
            format!("role {role} has default_transaction_read_only = off of its own and would write on"),
            format!("ALTER ROLE {role} RESET default_transaction_read_only; (or IN DATABASE …)"),
        )
        .into())
    }

    pub(super) async fn nobody_writes(&self, give_up: Instant) -> Result<(), Stop> {
        loop {
            let writing = writes::writing_sessions(&self.publisher.client, &self.own_sessions()).await?;
            if writing.is_empty() {
                return Ok(());
            }
            if Instant::now() > give_up {
                let pids = writing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(Blocker::new(
                    "open-transaction",
                    format!("a transaction of this database has written and is still open on the publisher: pid {pids}"),
                    format!(
                        "wait for it, end it there with SELECT pg_terminate_backend({}), or use --stop-writes",
                        writing.first().copied().unwrap_or_default()
                    ),
                )
                .into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) async fn nothing_prepared(&self) -> Result<(), Stop> {
        let Some(first) = writes::prepared(&self.publisher.client).await?.into_iter().next() else {
            return Ok(());
        };
        let literal = quote_literal(&first);
        Err(Blocker::new(
            "prepared-transaction",
            format!("transaction {literal} is prepared on the publisher and could commit at any time"),
            format!("there: COMMIT PREPARED {literal}; or ROLLBACK PREPARED {literal};"),
        )
        .into())
    }
}
