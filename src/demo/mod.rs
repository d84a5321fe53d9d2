//! The demonstration: two throw-away servers, a load, seqshadow between them, and a cutover in the end.
//!
//! [`run`] is the story. [`choose`] finds the servers' programs, [`pair`] makes publisher and subscriber out of them
//! with the schema of [`shop`], [`load`] writes, [`view`] shows the sequences on the [`screen`], [`cutover`] puts the
//! promise to the test, and [`report`] says what came of it.

pub mod choose;
pub mod cutover;
mod error;
mod interrupt;
pub mod load;
pub mod pair;
pub mod report;
pub mod screen;
pub mod servers;
pub mod shop;
pub mod text;
pub mod view;

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

pub use error::DemoError;
pub use interrupt::Interrupt;

use crate::config::{self, LogFormat};
use crate::conninfo::Environment;
use crate::logging;
use crate::shadow::{self, Running};
use choose::Choice;
use cutover::done;
use load::Load;
use pair::{Pair, Session, Side};
use screen::Screen;
use servers::ServersError;
use shop::{CONTROL, SLOT, SUBSCRIPTION};
use text::{Line, Style, count};
use view::{Control, Moment};

/// Between two pictures on a terminal.
const FRAME: Duration = Duration::from_millis(100);
/// Over this time rows per second are counted.
const RATE_WINDOW: Duration = Duration::from_secs(2);
/// How long an interrupted fetch may take to end.
const FETCH_PATIENCE: Duration = Duration::from_secs(3);
/// How long the shadow may take to look at everything for the first time.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub length: Duration,
    pub rate: u32,
    pub keep: bool,
    pub bindirs: Vec<PathBuf>,
    pub log_format: LogFormat,
    pub log_level: String,
}

/// Shows it all. Nothing is left behind, unless the servers are to be kept.
///
/// # Errors
/// Why it ended early, or what was not as promised.
pub async fn run(options: &Options, mut interrupt: Interrupt) -> Result<(), DemoError> {
    let mut screen = Screen::new(view::ROWS + view::ROWS_ABOVE);
    let choice = choose(&options.bindirs, &mut interrupt).await?;
    screen.say(&[Line::new(), view::title(&choice), text::rule()])?;

    let begun = Instant::now();
    let pair = Pair::start(&choice, &mut interrupt).await?;
    let story = async {
        done(&mut screen, "two throw-away servers are running", Some(begun))?;
        story(options, &pair, &mut screen).await
    };
    let result = tokio::select! {
        result = story => result,
        signal = interrupt.wait() => Err(DemoError::Interrupted(signal)),
    };
    match &result {
        Err(DemoError::Interrupted(_)) => {
            let line = Line::new().add(Style::Plain, " Ended early; both servers are being removed.");
            let _ = screen.say(&[Line::new(), line]);
        }
        Err(DemoError::Output(_)) => {} // nobody would know of servers that were kept
        _ if options.keep => {
            screen.say(&report::kept(&pair))?;
            let Pair { subscriber, publisher } = pair;
            subscriber.keep();
            publisher.keep();
        }
        _ => {}
    }
    result
}

async fn choose(bindirs: &[PathBuf], interrupt: &mut Interrupt) -> Result<Choice, DemoError> {
    let bindirs = bindirs.to_vec();
    let announce = |what: String| eprintln!("seqshadow: {what}");
    let mut choosing = tokio::task::spawn_blocking(move || choose::choose(&bindirs, announce));
    let chosen = tokio::select! {
        chosen = &mut choosing => chosen,
        signal = interrupt.wait() => {
            // A package client that got the signal too needs a moment to clean up.
            let _ = timeout(FETCH_PATIENCE, choosing).await;
            return Err(DemoError::Interrupted(signal));
        }
    };
    match chosen {
        // The terminal's Ctrl-C ends the package client too, and its failure may be noticed first.
        Ok(Err(error)) => {
            sleep(Duration::from_millis(50)).await;
            Err(interrupt.signal().map_or(error, DemoError::Interrupted))
        }
        Ok(chosen) => chosen,
        Err(error) => Err(DemoError::Broken(error.to_string())),
    }
}

/// From empty servers to the verdict.
async fn story(options: &Options, pair: &Pair, screen: &mut Screen) -> Result<(), DemoError> {
    let begun = Instant::now();
    pair.fill().await?;
    let rows = count(shop::rows_seeded());
    done(screen, &format!("{} tables with {rows} rows on the publisher", shop::TABLES.len()), Some(begun))?;
    let begun = Instant::now();
    pair.replicate().await?;
    done(screen, "a subscription has copied them, and none of the sequences", Some(begun))?;
    let begun = Instant::now();
    let log = open_log(options, pair)?;
    let mut running = protect(options, pair).await?;
    done(screen, "seqshadow follows, and leaves the sequence of the control alone", Some(begun))?;
    if screen.is_live() {
        screen.say(&[Line::new()])?;
    }

    let load = Load::start(pair.connect(Side::Publisher).await?.client, options.rate);
    let watched = watch(options, pair, screen, &mut running, &load).await;
    watched.map_err(|error| with_log(error, &log))?;

    let outcomes =
        cutover::cut_over(pair, load, running, screen).await.map_err(|error| with_log(error, &log))?;
    screen.say(&report::results(&outcomes))?;
    cutover::judge(&outcomes).map_err(|error| with_log(error, &log))?;
    Ok(screen.say(&report::closing(&outcomes))?)
}

/// The shadow's log goes into the subscriber's directory: the screen belongs to the view.
fn open_log(options: &Options, pair: &Pair) -> Result<PathBuf, DemoError> {
    let path = pair.subscriber.socket_dir().join("seqshadow.log");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|source| ServersError::Io { doing: format!("create {}", path.display()), source })?;
    logging::init_file(file, options.log_format, &options.log_level)
        .map_err(|error| DemoError::Broken(error.to_string()))?;
    Ok(path)
}

/// The error with the last complaints of the log, which is about to be removed.
fn with_log(error: DemoError, log: &PathBuf) -> DemoError {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let complaints: Vec<_> =
        text.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    let last = complaints.get(complaints.len().saturating_sub(5)..).unwrap_or_default();
    match (last, error) {
        ([], error) => error,
        (_, error @ (DemoError::Output(_) | DemoError::Interrupted(_))) => error,
        (last, error) => DemoError::Broken(format!("{error}\nthe log's last warnings:\n{}", last.join("\n"))),
    }
}

/// Starts the shadow as the daemon would be, and waits until the sequences are protected.
async fn protect(options: &Options, pair: &Pair) -> Result<Running, DemoError> {
    let mut flags = config::Layer::default();
    flags.flag("slot", SLOT);
    flags.flag("subscription", SUBSCRIPTION);
    flags.flag("publisher", pair.conninfo(Side::Publisher));
    flags.flag("subscriber", pair.conninfo(Side::Subscriber));
    flags.flag("exclude_sequence", format!("public.{}", CONTROL.name));
    flags.flag("log_level", &options.log_level);
    let loaded = config::load(&flags, None, &config::Environment::default())
        .map_err(|error| DemoError::Broken(error.to_string()))?;
    let mut running = shadow::start(loaded.settings, &Environment::empty()).await?;
    let protecting = async {
        while !running.is_protecting() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(PATIENCE, protecting).await.is_err() {
        let state = timeout(Duration::ZERO, running.ended()).await;
        return Err(match state {
            Ok(Err(ended)) => ended.into(),
            _ => DemoError::TimedOut {
                what: "the first look at all sequences".to_owned(),
                seconds: PATIENCE.as_secs(),
                state: "seqshadow still runs".to_owned(),
            },
        });
    }
    Ok(running)
}

/// Shows the sequences for as long as the load is to run.
async fn watch(
    options: &Options,
    pair: &Pair,
    screen: &mut Screen,
    running: &mut Running,
    load: &Load,
) -> Result<(), DemoError> {
    let publisher = pair.connect(Side::Publisher).await?;
    let subscriber = pair.connect(Side::Subscriber).await?;
    let begun = Instant::now();
    let mut pace = Pace::default();
    let mut pictures = interval(if screen.is_live() { FRAME } else { pause(options.length) });
    pictures.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pictures.tick().await;
    loop {
        let left = options.length.saturating_sub(begun.elapsed());
        tokio::select! {
            ended = running.ended() => {
                return Err(ended.map_or_else(DemoError::from, |()| DemoError::Broken("seqshadow ended".to_owned())));
            }
            _ = pictures.tick() => {}
            () = sleep(left) => {}
        }
        if load.has_failed() {
            return Ok(()); // stopping it says why
        }
        let elapsed = begun.elapsed();
        let control =
            Control { furthest: next_value(&publisher).await? - 1, next: next_value(&subscriber).await? };
        let moment = moment(options, elapsed, running, &mut pace, load.rows(), control);
        let picture = if screen.is_live() { view::view(&moment) } else { view::block(&moment) };
        screen.paint(&picture)?;
        if elapsed >= options.length {
            return Ok(());
        }
    }
}

/// Between two blocks where the view cannot be repainted: some five in all.
fn pause(length: Duration) -> Duration {
    (length / 5).clamp(Duration::from_secs(1), Duration::from_secs(30))
}

fn moment(
    options: &Options,
    elapsed: Duration,
    running: &Running,
    pace: &mut Pace,
    rows: u64,
    control: Control,
) -> Moment {
    let wal_end = running.progress.borrow().wal_end;
    Moment {
        elapsed,
        length: options.length,
        rows,
        rows_per_second: pace.measure(elapsed, rows),
        doing: running.slot_state.borrow().doing,
        lag_bytes: wal_end.bytes_since(running.registry.confirmed()),
        sequences: running.registry.snapshot(),
        control,
    }
}

async fn next_value(session: &Session) -> Result<i64, DemoError> {
    session.number(&format!("SELECT last_value + is_called::int FROM {}", CONTROL.name)).await
}

/// Rows per second, over the last moments.
#[derive(Debug, Default)]
struct Pace(VecDeque<(Duration, u64)>);

impl Pace {
    fn measure(&mut self, now: Duration, rows: u64) -> f64 {
        self.0.push_back((now, rows));
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= RATE_WINDOW) {
            self.0.pop_front();
        }
        let (since, before) = match self.0.front() {
            Some((at, before)) if *at < now => (*at, *before),
            _ => (Duration::ZERO, 0),
        };
        #[allow(clippy::cast_precision_loss)] // for people
        let more = rows.saturating_sub(before) as f64;
        more / (now - since).as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_last_moments() {
        let mut pace = Pace::default();
        assert!((pace.measure(Duration::from_secs(1), 100) - 100.0).abs() < 0.1);
        assert!((pace.measure(Duration::from_secs(2), 200) - 100.0).abs() < 0.1);
        for second in 3..10_u64 {
            pace.measure(Duration::from_secs(second), 200);
        }
        assert!(pace.measure(Duration::from_secs(10), 200) < 0.1);
    }

    #[test]
    fn a_pipe_gets_a_few_blocks() {
        for (seconds, pause_s) in [(1, 1), (3, 1), (10, 2), (86_400, 30)] {
            assert_eq!(pause(Duration::from_secs(seconds)), Duration::from_secs(pause_s));
        }
    }
}
