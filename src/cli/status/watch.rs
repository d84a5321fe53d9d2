//! `--watch`: a look every so often, in place on a terminal, one after the other on a pipe.

use std::io::{self, Write as _};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::screen::Screen;
use super::{code, text};
use crate::cli::complaint::complain;
use crate::cli::show;
use crate::cli::verb::Failure;
use crate::config::Settings;
use crate::conninfo::Environment;
use crate::exit::ExitCode;
use crate::ops::OpsError;
use crate::ops::status::{Choice, Status, look};

/// Looks until a key, a signal, or until nobody reads. The first look must succeed; what keeps later ones from
/// succeeding is shown, and may pass. Ends with the exit status of the last look.
///
/// # Errors
/// Those of the first look.
pub(super) async fn run(
    settings: &Settings,
    environment: &Environment,
    choice: &Choice,
    every: Duration,
    json: bool,
) -> Result<ExitCode, OpsError> {
    let signals_failed = |source| OpsError::Io { what: "signals cannot be caught".to_owned(), source };
    let mut ends = Ends::listen().map_err(signals_failed)?;
    let mut resized = signal(SignalKind::window_change()).map_err(signals_failed)?;
    let first = tokio::select! {
        first = look(settings, environment, choice) => first?,
        () = ends.wait() => return Ok(ExitCode::Success),
    };
    let mut last = Ok(first);
    let mut screen = if json { None } else { Screen::take() };
    let mut job = screen.as_ref().map(|_| Job::listen()).transpose().map_err(signals_failed)?;
    let mut keys = screen.as_ref().map(Screen::keys);
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        let shown = match &mut screen {
            Some(screen) => screen.paint(&view(&last, screen.width())),
            None => print(&last, json),
        };
        match shown {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(exit(&last)),
            Err(source) => return Err(OpsError::Io { what: "standard output".to_owned(), source }),
            Ok(()) => {}
        }
        let quit = async {
            while let Some(keys) = &mut keys {
                match keys.recv().await {
                    Some(b'q' | b'Q') => return,
                    Some(_) => {}
                    None => break,
                }
            }
            // No keyboard, or none any more: a terminal that is gone says so by a signal.
            std::future::pending::<()>().await;
        };
        let again = async {
            tick.tick().await;
            look(settings, environment, choice).await
        };
        tokio::select! {
            () = ends.wait() => return Ok(exit(&last)),
            () = quit => return Ok(exit(&last)),
            _ = resized.recv(), if screen.is_some() => {}
            () = halted(&mut job, screen.as_ref()) => {}
            looked = again => last = looked,
        }
    }
}

type Looked = Result<Status, OpsError>;

fn exit(last: &Looked) -> ExitCode {
    last.as_ref().map_or_else(OpsError::exit_code, code)
}

fn view(last: &Looked, width: usize) -> String {
    match last {
        Ok(status) => text::of(status, width),
        Err(error) => crate::demo::text::hang(&format!("{}: {error}", crate::ops::now()), 2),
    }
}

/// One block, with an empty line after it; as JSON one line.
fn print(last: &Looked, json: bool) -> io::Result<()> {
    let text = match last {
        Err(error) => {
            complain(&error);
            if json {
                Failure::new(error, error.exit_code()).print();
            }
            return Ok(());
        }
        Ok(status) if json => serde_json::to_string(status)? + "\n",
        Ok(status) => format!("{}\n{}\n", status.at, text::of(status, usize::from(show::width()))),
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Ctrl-Z and `fg` of a shell.
struct Job {
    stop: Signal,
    go_on: Signal,
}

impl Job {
    /// Only where there is a terminal to give back; elsewhere these signals do what they always do.
    fn listen() -> io::Result<Self> {
        let on = |signal: rustix::process::Signal| SignalKind::from_raw(signal.as_raw());
        Ok(Job {
            stop: signal(on(rustix::process::Signal::TSTP))?,
            go_on: signal(on(rustix::process::Signal::CONT))?,
        })
    }
}

/// Gives the terminal back, halts, and ends when we go on: as Ctrl-Z would have it, had we not caught it. Also ends when
/// somebody else had halted us.
async fn halted(job: &mut Option<Job>, screen: Option<&Screen>) {
    let (Some(job), Some(screen)) = (job, screen) else { return std::future::pending().await };
    tokio::select! {
        _ = job.stop.recv() => {
            screen.leave();
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
            // Nothing is painted before that.
            job.go_on.recv().await;
        }
        _ = job.go_on.recv() => {}
    }
    screen.enter_again();
}

/// The signals that end a watch.
struct Ends {
    signals: [Signal; 3],
}

impl Ends {
    fn listen() -> io::Result<Self> {
        let signals = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ];
        Ok(Ends { signals })
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
