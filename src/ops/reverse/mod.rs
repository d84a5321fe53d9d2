//! `seqshadow reverse`: the way back after a switch, so that going back is as safe as going forward was.
//!
//! In: both servers, as they were called before the switch: the publisher is the old server, the subscriber the new one.
//! Out: a [`Reversed`] or a [`Status`]. `names` and `found` say what is there already, `tables` and `conditions` what
//! stands against it, `statements` hold the SQL of each step; `script` prints them, `apply` runs them, `undo` removes
//! what they made. `status` and `observe` look at what became of it, and whether both servers are written to.

mod apply;
mod conditions;
mod connection;
mod ends;
mod found;
mod names;
mod observe;
mod script;
mod statements;
mod status;
mod tables;
mod undo;

use std::time::Duration;

use serde::Serialize;

pub use conditions::{Obstacle, exit_code};
pub use observe::{Moved, Observed};
pub use status::Status;

use crate::config::Settings;
use crate::conninfo::Environment;
use crate::sides::SidesError;
use conditions::Conditions;
use connection::{Route, shell, shown};
use ends::Ends;
use tables::Tables;

/// The name and version of the JSON that is printed.
pub const SCHEMA: &str = "seqshadow.reverse/1";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The SQL, to be run by hand.
    Print,
    /// Make it.
    Apply,
    /// Remove what was made.
    Undo,
}

/// How.
#[derive(Clone)]
pub struct Request {
    pub action: Action,
    /// Change nothing.
    pub dry_run: bool,
    /// How the old server reaches the new one, where that is not how we do.
    pub connection: Option<String>,
    /// How long anything may take that has to be waited for.
    pub wait: Duration,
    /// The user says that nobody writes on the old server any more.
    pub writes_stopped: bool,
}

/// Without the connection string, which may hold a password.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("action", &self.action)
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}

/// One of the two servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    pub address: String,
    /// As `server_version_num`.
    pub version: u32,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `old` or `new`.
    pub server: &'static str,
    pub what: String,
    /// Of a step that was not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
}

impl Step {
    fn done(server: &'static str, what: String) -> Self {
        Step { server, what, sql: None }
    }

    fn planned(server: &'static str, what: String, sql: String) -> Self {
        Step { server, what, sql: Some(sql) }
    }
}

/// What was done, or is to be. Serialized as it is printed with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Reversed {
    pub schema: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    /// `print`, `apply` or `undo`.
    pub action: &'static str,
    pub dry_run: bool,
    /// The forward publisher.
    pub old: Server,
    /// The forward subscriber.
    pub new: Server,
    /// What the publication and the slot on the new server, and the subscription on the old one, are called.
    pub name: String,
    /// Everything is as it was asked for.
    pub done: bool,
    pub obstacles: Vec<Obstacle>,
    /// Taken, or with `dry_run` to be taken.
    pub steps: Vec<Step>,
    pub notes: Vec<String>,
    /// The runbook, of `print`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The command of the sidecar that runs the other way.
    pub sidecar: Option<String>,
}

/// Prints, makes or removes the way back.
///
/// # Errors
/// What is wrong or missing in the settings; where a server cannot be reached or refuses.
pub async fn reverse(
    settings: &Settings,
    environment: &Environment,
    request: &Request,
) -> Result<Reversed, SidesError> {
    let mut ends = Ends::open(settings, environment).await?;
    let route = Route::of(request.connection.as_deref(), settings.subscriber.as_ref(), &ends.new_conninfo)?;
    let mut done = Reversed {
        schema: SCHEMA,
        at: super::now(),
        action: match request.action {
            Action::Print => "print",
            Action::Apply => "apply",
            Action::Undo => "undo",
        },
        dry_run: request.dry_run,
        old: Server { address: ends.old.peer.clone(), version: ends.old.version },
        new: Server { address: ends.new.peer.clone(), version: ends.new.version },
        name: ends.names.object.clone(),
        done: false,
        obstacles: Vec::new(),
        steps: Vec::new(),
        notes: Vec::new(),
        script: None,
        sidecar: None,
    };
    if request.action != Action::Print {
        if !ends.lock(request.wait).await? {
            let what = "another seqshadow reverse is at work on these servers";
            done.obstacles.push(Obstacle::refused(what, "wait for its end"));
            return Ok(done);
        }
        ends.look().await?;
    }
    match request.action {
        Action::Undo => {
            if request.dry_run {
                done.steps = undo::planned(&ends).await?;
            } else {
                undo::undo(&mut ends, request.wait, &mut done).await?;
            }
            undo::read_only(&ends, &mut done).await?;
        }
        Action::Print | Action::Apply => forwards(&mut ends, &route, request, &mut done).await?,
    }
    done.done = done.obstacles.is_empty() && !request.dry_run && request.action != Action::Print;
    Ok(done)
}

/// To print it or to make it.
async fn forwards(
    ends: &mut Ends,
    route: &Route,
    request: &Request,
    done: &mut Reversed,
) -> Result<(), SidesError> {
    let tables = Tables::load(ends).await?;
    let conditions = Conditions::check(ends, &tables, request, route).await?;
    done.obstacles = conditions.obstacles;
    done.notes = conditions.notes;
    done.obstacles.extend(apply::never_subscribed(ends).await?);
    if request.action == Action::Print {
        let seconds = request.wait.as_secs();
        done.script = Some(script::script(ends, &tables, route, &done.obstacles, seconds));
        done.sidecar = Some(sidecar_command(ends));
        return Ok(());
    }
    if done.obstacles.is_empty() {
        apply::rehearse(ends, &tables, route, request.wait, done).await?;
    }
    if !done.obstacles.is_empty() {
        return Ok(());
    }
    if request.dry_run {
        done.steps = apply::planned(ends, &tables, route);
    } else {
        apply::apply(ends, &tables, route, request, done).await?;
    }
    if done.obstacles.is_empty() {
        done.sidecar = Some(sidecar_command(ends));
    }
    Ok(())
}

/// The command of the sidecar that runs the other way, in lines for a shell.
fn sidecar_command(ends: &Ends) -> String {
    format!(
        "seqshadow --slot {} \\\n  --publisher {} \\\n  --subscriber {}",
        ends.names.sidecar,
        shell(&shown(&ends.new_conninfo)),
        shell(&shown(&ends.old_conninfo))
    )
}

/// Looks at what became of it, for as long as `observe` says.
///
/// # Errors
/// What is wrong or missing in the settings; where a server cannot be reached.
pub async fn status(
    settings: &Settings,
    environment: &Environment,
    observe: Duration,
) -> Result<Status, SidesError> {
    let ends = Ends::open(settings, environment).await?;
    Status::look(&ends, settings, observe).await
}
