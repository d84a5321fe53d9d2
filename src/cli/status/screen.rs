//! The terminal during a watch: a screen of its own, as `top` has it, and keys read one by one. Everything is put back
//! when this is dropped, also when a panic unwinds.

use std::io::{self, IsTerminal, Read as _, Write as _};

use crate::demo::text::counted;
use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use tokio::sync::mpsc;

const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Terminals that know it show all that comes between the two at once; the others ignore it.
const BEGIN_UPDATE: &str = "\x1b[?2026h\x1b[H";
const END_UPDATE: &str = "\x1b[J\x1b[?2026l";

/// Narrower or lower, and there is nothing to be seen.
const COLUMNS_MIN: usize = 40;
const ROWS_MIN: usize = 5;

#[derive(Debug)]
pub(super) struct Screen {
    /// The keyboard as it was.
    keyboard: Option<Termios>,
}

impl Screen {
    /// Takes the terminal; `None` where standard output is none.
    pub(super) fn take() -> Option<Self> {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if dumb || !io::stdout().is_terminal() {
            return None;
        }
        let screen = Screen { keyboard: read_key_by_key() };
        let _ = write(ENTER);
        Some(screen)
    }

    /// Gives the terminal back for a while.
    pub(super) fn leave(&self) {
        let _ = write(LEAVE);
        if let Some(keyboard) = &self.keyboard {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, keyboard);
        }
    }

    /// Takes it again, unless we are in the background now.
    pub(super) fn enter_again(&self) {
        if !self.is_in_front() {
            return;
        }
        if let Some(keyboard) = &self.keyboard {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &key_by_key(keyboard));
        }
        let _ = write(ENTER);
    }

    /// Whether the terminal is ours to paint on.
    fn is_in_front(&self) -> bool {
        self.keyboard.is_none() || is_in_front()
    }

    /// Keys as they are pressed. None come where the keyboard is not ours.
    pub(super) fn keys(&self) -> mpsc::Receiver<u8> {
        let (send, keys) = mpsc::channel(8);
        if self.keyboard.is_some() {
            // It ends with the process: a read from a terminal cannot be given up.
            std::thread::spawn(move || {
                for key in io::stdin().lock().bytes().map_while(Result::ok) {
                    if send.blocking_send(key).is_err() {
                        return;
                    }
                }
            });
        }
        keys
    }

    /// How many characters fit into a line.
    pub(super) fn width(&self) -> usize {
        size().0
    }

    /// Paints as much as there is room for.
    pub(super) fn paint(&mut self, text: &str) -> io::Result<()> {
        if !self.is_in_front() {
            return Ok(());
        }
        let (_, rows) = size();
        let lines: Vec<&str> = text.lines().collect();
        let fit = if lines.len() > rows { rows - 1 } else { lines.len() };
        let mut out = String::from(BEGIN_UPDATE);
        for (index, line) in lines.iter().take(fit).enumerate() {
            out += if index == 0 { "" } else { "\r\n" };
            out += line;
            out += "\x1b[K";
        }
        if lines.len() > fit {
            out += &format!(
                "\r\n… {} (q ends; --filter and --only show less)\x1b[K",
                counted(lines.len() - fit, "more line")
            );
        }
        write(&(out + END_UPDATE))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

fn is_in_front() -> bool {
    termios::tcgetpgrp(io::stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
}

fn size() -> (usize, usize) {
    let size = termios::tcgetwinsize(io::stdout());
    size.map_or((80, 24), |size| {
        (usize::from(size.ws_col).max(COLUMNS_MIN), usize::from(size.ws_row).max(ROWS_MIN))
    })
}

/// No echo, and no waiting for the end of a line; Ctrl-C stays what it is. A process in the background would be stopped
/// for that, so it leaves the keyboard alone.
fn read_key_by_key() -> Option<Termios> {
    let stdin = io::stdin();
    let before = termios::tcgetattr(&stdin).ok().filter(|_| is_in_front())?;
    termios::tcsetattr(&stdin, OptionalActions::Now, &key_by_key(&before)).ok()?;
    Some(before)
}

fn key_by_key(before: &Termios) -> Termios {
    let mut raw = before.clone();
    raw.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON);
    raw
}

/// One write for the whole, so that a terminal has nothing to show in between.
fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
