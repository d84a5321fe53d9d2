//! Where the demonstration is seen: a terminal, repainted in place, or a pipe that gets plain lines.
//!
//! Whatever is changed on a terminal (the cursor, wrapping, the echo of keys) is put back by [`restore`]: at the end,
//! on a panic and on a signal.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{self, LocalModes, OptionalActions, Termios};

use super::text::{COLUMNS, Line};

const HIDE_CURSOR_AND_CUT: &str = "\x1b[?25l\x1b[?7l";
const SHOW_CURSOR_AND_WRAP: &str = "\x1b[?25h\x1b[?7h";
/// Terminals that know it show all that comes between the two at once; the others ignore it.
const BEGIN_UPDATE: &str = "\x1b[?2026h";
const END_UPDATE: &str = "\x1b[?2026l";

/// What has to be put back.
static CHANGED: Mutex<Option<Changed>> = Mutex::new(None);
static HOOK: Once = Once::new();

struct Changed {
    keys: Option<Termios>,
}

/// Standard output.
#[derive(Debug)]
pub struct Screen {
    live: bool,
    colours: bool,
    /// Lines of the view that the next one is painted over.
    painted: usize,
}

impl Screen {
    /// A view of `rows` lines is repainted in place on a terminal that has room for it.
    #[must_use]
    pub fn new(rows: usize) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let stdout = io::stdout();
        let terminal = stdout.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let room = termios::tcgetwinsize(&stdout)
            .is_ok_and(|size| usize::from(size.ws_col) >= COLUMNS && usize::from(size.ws_row) > rows);
        let live = terminal && room;
        if live {
            take_terminal();
        }
        Screen { live, colours: terminal && !set("NO_COLOR"), painted: 0 }
    }

    /// Whether the view is repainted; else it is printed now and then.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Prints lines that stay.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn say(&mut self, lines: &[Line]) -> io::Result<()> {
        self.painted = 0;
        let mut out = String::new();
        for line in lines {
            out += &line.render(self.colours);
            out.push('\n');
        }
        write(&out)
    }

    /// Paints the view over the last one; on a pipe it is printed.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn paint(&mut self, lines: &[Line]) -> io::Result<()> {
        if !self.live {
            return self.say(lines);
        }
        let mut out = String::from(BEGIN_UPDATE);
        if self.painted > 0 {
            out += &format!("\x1b[{}A", self.painted);
        }
        for line in lines {
            out.push('\r');
            out += &line.render(self.colours);
            out += "\x1b[K\n";
        }
        out += "\x1b[J";
        out += END_UPDATE;
        self.painted = lines.len();
        write(&out)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// One write for the whole, so that a terminal has nothing to show in between.
fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Hides the cursor, keeps long lines from wrapping, and the keys that somebody presses from tearing the view. Does
/// nothing the second time.
fn take_terminal() {
    let mut changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
    if changed.is_some() {
        return;
    }
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            usual(info);
        }));
    });
    *changed = Some(Changed { keys: silence_keys() });
    let _ = write(HIDE_CURSOR_AND_CUT);
}

/// Turns the echo off. A process in the background would be stopped for that, so it does not.
fn silence_keys() -> Option<Termios> {
    let stdin = io::stdin();
    let in_front = termios::tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp());
    let before = termios::tcgetattr(&stdin).ok().filter(|_| in_front)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL);
    termios::tcsetattr(&stdin, OptionalActions::Now, &silent).ok()?;
    Some(before)
}

/// Puts the terminal back into the state in which we found it.
pub fn restore() {
    let changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Changed { keys }) = changed {
        let _ = write(SHOW_CURSOR_AND_WRAP);
        if let Some(keys) = keys {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, &keys);
        }
    }
}
