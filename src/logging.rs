//! The log: on standard error, a line per event, for people or as JSON.
//!
//! People get level, time, message and fields; colours only on a terminal, and not if `NO_COLOR` is set. Under
//! systemd the journal has its own time, so the line has none.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::LogFormat;

/// Why the log cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("log level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    #[error("the log is set up already: {0}")]
    SetUp(#[from] TryInitError),
    #[error("the log level cannot be changed any more: {0}")]
    Reload(#[from] reload::Error),
}

/// Where a log goes to and what that place can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    terminal: bool,
    /// The journal reads it, and puts a time to each line.
    journal: bool,
    no_color: bool,
}

impl Place {
    fn of_stderr() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let terminal = std::io::stderr().is_terminal();
        Place { terminal, journal: !terminal && is_journal(), no_color: set("NO_COLOR") }
    }

    fn colours(self) -> bool {
        self.terminal && !self.no_color
    }
}

/// Whether the journal reads our standard error: systemd gives its device and inode in `JOURNAL_STREAM`
/// (`systemd.exec(5)`), which is inherited also where the stream is not.
fn is_journal() -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Changes the level while running.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogHandle {
    /// From now on `level` counts; it is read as [`init`] reads it.
    pub fn set_level(&self, level: &str) -> Result<(), LoggingError> {
        Ok(self.filter.reload(filter(level)?)?)
    }
}

/// Sets up the process's log. `level` is a level for us (libraries below warnings stay silent), or a list of
/// directives as `tracing` has them.
pub fn init(format: LogFormat, level: &str) -> Result<LogHandle, LoggingError> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let output = output(format, Place::of_stderr(), std::io::stderr);
    tracing_subscriber::registry().with(filter).with(output).try_init()?;
    Ok(LogHandle { filter: handle })
}

/// As [`init`], but into `file`: for verbs that need the terminal themselves.
pub fn init_file(file: std::fs::File, format: LogFormat, level: &str) -> Result<LogHandle, LoggingError> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let place = Place { terminal: false, journal: false, no_color: true };
    let output = output(format, place, std::sync::Arc::new(file));
    tracing_subscriber::registry().with(filter).with(output).try_init()?;
    Ok(LogHandle { filter: handle })
}

fn filter(level: &str) -> Result<EnvFilter, LoggingError> {
    let directives = match level {
        "off" | "error" => level.to_owned(),
        level if level.contains(['=', ',']) => level.to_owned(),
        level => format!("warn,seqshadow={level}"),
    };
    Ok(EnvFilter::builder().parse(directives)?)
}

fn output<S, W>(format: LogFormat, place: Place, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(place.colours());
    match format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Auto | LogFormat::Human if place.journal => {
            layer.with_target(false).without_time().boxed()
        }
        LogFormat::Auto | LogFormat::Human => layer.with_target(false).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, place: Place) -> String {
        let written = Written::default();
        let to = written.clone();
        let subscriber = tracing_subscriber::registry().with(filter("info").unwrap()).with(output(
            format,
            place,
            move || to.clone(),
        ));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(sequence = "public.o_id_seq", lead = 32, "advanced");
            tracing::debug!("not at this level");
            tracing::info!(target: "rustls", "not from a library");
            tracing::warn!(target: "rustls", "a warning from a library");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const PIPE: Place = Place { terminal: false, journal: false, no_color: false };

    #[test]
    fn people_read_one_line_an_event() {
        let log = logged(LogFormat::Auto, PIPE);
        assert_eq!(log.lines().count(), 2, "{log}");
        let line = log.lines().next().unwrap();
        assert!(line.contains(" INFO advanced sequence=\"public.o_id_seq\" lead=32"), "{line}");
        assert!(line.starts_with("20"), "a time comes first: {line}");
        assert!(!log.contains('\u{1b}'), "no colours in a pipe");
        let journal = logged(LogFormat::Human, Place { journal: true, ..PIPE });
        assert!(journal.trim_start().starts_with("INFO advanced"), "{journal}");
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let terminal = Place { terminal: true, ..PIPE };
        assert!(logged(LogFormat::Auto, terminal).contains('\u{1b}'));
        assert!(!logged(LogFormat::Auto, Place { no_color: true, ..terminal }).contains('\u{1b}'));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let log = logged(LogFormat::Json, PIPE);
        let first: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
        assert_eq!(first["message"], "advanced");
        assert_eq!(first["lead"], 32);
        assert_eq!(first["level"], "INFO");
    }

    #[test]
    fn the_level_can_be_changed_while_running() {
        let (layer, handle) = reload::Layer::<_, Registry>::new(filter("warn").unwrap());
        let handle = LogHandle { filter: handle };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert!(!tracing::enabled!(tracing::Level::INFO));
            handle.set_level("debug").unwrap();
            assert!(tracing::enabled!(tracing::Level::DEBUG));
            assert!(handle.set_level("seqshadow=loud").is_err());
        });
    }
}
