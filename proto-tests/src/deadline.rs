//! A test that hangs is named and ends its run, instead of holding it until somebody kills it and knows nothing.
//!
//! In: the tests that use the harness, each on a thread that the test runner named after it. Out: after [`LIMIT`] the
//! name and the processes of the machine on stderr, and the end of this test binary (servers go with it).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// How long one test may take: many times what the slowest needs on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(12 * 60);

/// The exit status of a run that was ended, another than that of failed tests.
const EXIT_STATUS: i32 = 124;

static RUNNING: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());
static WATCHER: Once = Once::new();

thread_local! {
    static OF_THIS_THREAD: Cell<Option<Entry>> = const { Cell::new(None) };
}

/// Counts the time of the test that calls, from its first call on.
pub fn watch() {
    let thread = std::thread::current();
    // Tests have a thread named after them; a thread of a runtime ends with its test.
    let Some(name) = thread.name().filter(|name| *name != "main" && !name.starts_with("tokio")) else {
        return;
    };
    OF_THIS_THREAD.with(|entry| {
        let kept = entry.take().unwrap_or_else(|| Entry::new(name));
        entry.set(Some(kept));
    });
    WATCHER.call_once(|| drop(std::thread::Builder::new().name("deadline".to_owned()).spawn(end_what_hangs)));
}

/// A test under watch, until its thread ends.
struct Entry(String);

impl Entry {
    fn new(test: &str) -> Entry {
        running().insert(test.to_owned(), Instant::now());
        Entry(test.to_owned())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        running().remove(&self.0);
    }
}

fn running() -> MutexGuard<'static, BTreeMap<String, Instant>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end_what_hangs() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let late: Vec<String> = running()
            .iter()
            .filter(|(_, since)| since.elapsed() > LIMIT)
            .map(|(test, _)| test.clone())
            .collect();
        if late.is_empty() {
            continue;
        }
        let processes =
            Command::new("ps").args(["-eww", "-o", "pid,ppid,etimes,stat,wchan:24,args"]).output();
        let processes = processes.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        // Past the runner's capture: the test that would show it never ends.
        let _ = writeln!(
            std::io::stderr(),
            "error: no end within {} s, this run is given up: {}\n{}",
            LIMIT.as_secs(),
            late.join(", "),
            processes.unwrap_or_default()
        );
        std::process::exit(EXIT_STATUS);
    }
}
