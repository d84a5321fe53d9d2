//! `seqshadow [run]`: the daemon. Starts the shadow, tells the service manager, answers signals, and drains.

use std::process::ExitCode as ProcessExit;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::args::RunArgs;
use super::complaint::complain;
use crate::config::{Environment as ConfigEnvironment, LogFormat, Settings};
use crate::conninfo::{Conninfo, Environment};
use crate::console::{Console, place};
use crate::demo::text::counted;
use crate::exit::ExitCode;
use crate::logging::{self, LogHandle};
use crate::registry::Class;
use crate::shadow::{self, Running};

/// How often the service manager is told that we live, where it asks for it: a third of its patience at most.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Runs the daemon until a signal or a reason that only a person can mend.
#[must_use]
pub fn run(args: &RunArgs) -> ProcessExit {
    let loaded = match args.load(&ConfigEnvironment::of_process()) {
        Ok(loaded) => loaded,
        Err(error) => {
            complain(&error);
            return ExitCode::Usage.into();
        }
    };
    let log = match logging::init(loaded.settings.log_format, &loaded.settings.log_level) {
        Ok(log) => log,
        Err(error) => {
            complain(&error);
            return ExitCode::Usage.into();
        }
    };
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "the runtime cannot start");
            return ExitCode::NotReady.into();
        }
    };
    let code = runtime.block_on(daemon(args, loaded.settings, &log));
    // A name lookup or a file system that hangs must not keep us.
    runtime.shutdown_background();
    code.into()
}

async fn daemon(args: &RunArgs, settings: Settings, log: &LogHandle) -> ExitCode {
    let (Ok(mut term), Ok(mut interrupt), Ok(mut hup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        error!("signals cannot be caught");
        return ExitCode::NotReady;
    };
    let environment = Environment::from_process();
    let format = settings.log_format;
    let started = tokio::select! {
        started = shadow::start(settings, &environment) => started,
        name = either(&mut term, &mut interrupt) => {
            info!(signal = name, "stopped before the start was done");
            return ExitCode::Success;
        }
    };
    let mut running = match started {
        Ok(running) => running,
        Err(failure) => {
            error!("{failure}");
            return failure.exit_code();
        }
    };
    let _console = open_console(&running);
    let mut told_ready = false;
    let mut summary = Summary::default();
    let watchdog = sd_notify::watchdog_enabled();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            name = either(&mut term, &mut interrupt) => {
                info!(signal = name, "stopping");
                let _ = sd_notify::notify(&[NotifyState::Stopping]);
                let grace = running.settings().grace;
                running.stop(grace).await;
                info!("stopped");
                return ExitCode::Success;
            }
            _ = hup.recv() => reload(args, &running, log, &environment, format),
            ended = running.ended() => {
                let code = match ended {
                    Ok(()) => ExitCode::Success,
                    Err(failure) => {
                        error!("{failure}");
                        failure.exit_code()
                    }
                };
                running.stop(Duration::from_secs(1)).await;
                return code;
            }
            _ = heartbeat.tick() => {
                if !told_ready && running.is_protecting() {
                    told_ready = true;
                    let _ = sd_notify::notify(&[NotifyState::Ready]);
                    info!("the sequences are protected");
                }
                if let Some(patience) = watchdog
                    && running.alive.silent_for() < patience.max(HEARTBEAT)
                {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                }
                summary.tick(&running);
            }
        }
    }
}

/// Where it cannot be opened, the daemon goes on without.
fn open_console(running: &Running) -> Option<Console> {
    let settings = running.settings();
    let slot = settings.slot.as_ref().filter(|_| settings.console)?;
    let directory = place::directory(&settings, slot, &place::Surroundings::of_process());
    match Console::open(running.view(), &directory) {
        Ok(console) => {
            info!(directory = %console.directory().display(), "the console is open: psql -h DIRECTORY seqshadow");
            Some(console)
        }
        Err(failure) => {
            warn!("there is no console: {failure}; --no-console goes without");
            None
        }
    }
}

async fn either(term: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// A bad configuration keeps the old one running.
fn reload(args: &RunArgs, running: &Running, log: &LogHandle, environment: &Environment, format: LogFormat) {
    let _ = sd_notify::notify(&[NotifyState::Reloading]);
    match args.load(&ConfigEnvironment::of_process()) {
        Err(failure) => error!(error = %failure, "the configuration was not reloaded; the old one goes on"),
        Ok(loaded) => {
            let texts = [&loaded.settings.publisher, &loaded.settings.subscriber];
            let bad =
                texts.into_iter().flatten().find_map(|t| Conninfo::parse(t.expose(), environment).err());
            let level = loaded.settings.log_level.clone();
            if let Some(failure) = bad {
                error!(error = %failure, "the configuration was not reloaded; the old one goes on");
            } else {
                debug_assert_eq!(format, running.settings().log_format);
                match running.reload(loaded.settings) {
                    Ok(changes) => {
                        if let Err(failure) = log.set_level(&level) {
                            error!(error = %failure, "the log level stays as it is");
                        }
                        info!(%changes, "the configuration was reloaded");
                    }
                    Err(failure) => {
                        error!(error = %failure, "the configuration was not reloaded; the old one goes on");
                    }
                }
            }
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}

/// The periodic line in the log.
#[derive(Default)]
struct Summary {
    last: Option<Instant>,
    rows: u64,
}

impl Summary {
    fn tick(&mut self, running: &Running) {
        use std::sync::atomic::Ordering::Relaxed;
        let interval = running.settings().summary_interval;
        let Some(last) = self.last else {
            self.last = Some(Instant::now());
            return;
        };
        let elapsed = last.elapsed();
        if interval.is_zero() || elapsed < interval {
            return;
        }
        let (registry, progress) = (&running.registry, *running.progress.borrow());
        let rows = registry.totals.rows.load(Relaxed);
        let rate = rows.saturating_sub(self.rows) as f64 / elapsed.as_secs_f64();
        (self.last, self.rows) = (Some(Instant::now()), rows);
        let lag = progress.wal_end.bytes_since(registry.confirmed());
        let least = registry.least_lead();
        let advances = registry.totals.advances.load(Relaxed);
        let rewinds = registry.totals.rewinds.load(Relaxed);
        let held = registry.count(Class::Held);
        info!(
            slot = ?running.slot_state.borrow().doing,
            ids_per_second = format!("{rate:.1}"),
            confirmed = %registry.confirmed(),
            lag_bytes = lag,
            retained_bytes = running.slot_state.borrow().retained_bytes,
            advances, rewinds, held,
            seeds = registry.totals.seeds.load(Relaxed),
            slots_lost = running.slot_state.borrow().lost,
            least_lead = least.as_ref().map(|(_, lead)| *lead),
            least_lead_of = least.as_ref().map(|(name, _)| name.to_string()),
            "summary"
        );
        let status = format!(
            "{}, {held} held, {rate:.1} ids/s, {lag} bytes behind",
            counted(registry.count(Class::Covered) + registry.count(Class::Blind), "sequence")
        );
        let _ = sd_notify::notify(&[NotifyState::Status(&status)]);
    }
}
