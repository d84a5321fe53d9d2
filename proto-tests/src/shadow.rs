//! The program under test as a process: started, listened to, signalled, and never left behind.

use crate::binary::binary;
use crate::sql::PATIENCE;
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, kill_process};
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;

/// How to start `seqshadow`: arguments, environment, working directory. It inherits neither `PG*` nor `SEQSHADOW_*`.
#[derive(Clone, Debug, Default)]
pub struct ShadowCommand {
    program: Option<PathBuf>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
}

impl ShadowCommand {
    /// `seqshadow ARGS…`.
    pub fn new<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> Self {
        crate::deadline::watch();
        ShadowCommand { args: args.into_iter().map(Into::into).collect(), ..ShadowCommand::default() }
    }

    /// Another program instead of the one that [`binary`] builds.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// One more variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Its working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program.as_deref().unwrap_or_else(|| binary()));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("PG") || text.starts_with("SEQSHADOW_") {
                command.env_remove(&name);
            }
        }
        // Tests run side by side, with the same names for slots: a console is for those that say where it is.
        if !self.args.iter().any(|arg| arg.to_string_lossy().starts_with("--console")) {
            command.env("SEQSHADOW_CONSOLE", "off");
        }
        command.args(&self.args).envs(self.env.iter().cloned()).stdin(Stdio::null());
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self) -> Result<Shadow> {
        let mut command = self.command();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers = [
            child.stdout.take().map(|pipe| stdout.follow(pipe)),
            child.stderr.take().map(|pipe| stderr.follow(pipe)),
        ];
        Ok(Shadow { child, stdout, stderr, readers: readers.into_iter().flatten().collect() })
    }

    /// Starts it and waits until it says that it protects the sequences and streams.
    ///
    /// # Errors
    /// When it does neither within [`PATIENCE`].
    pub fn start(&self) -> Result<Shadow> {
        let shadow = self.spawn()?;
        shadow.wait_for_line("the sequences are protected", PATIENCE)?;
        shadow.wait_for_line("streaming slot=", PATIENCE)?;
        Ok(shadow)
    }

    /// Starts it and waits for its end: for the verbs that print a result.
    ///
    /// # Errors
    /// When it cannot be started or does not end within `patience`.
    pub fn run(&self, patience: Duration) -> Result<Finished> {
        let mut shadow = self.spawn()?;
        let status = shadow.wait_exit(patience)?;
        Ok(Finished {
            status,
            stdout: shadow.stdout_lines().join("\n"),
            stderr: shadow.stderr_lines().join("\n"),
        })
    }
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All it printed.
    pub stdout: String,
    /// All it logged.
    pub stderr: String,
}

/// A `seqshadow` that runs (or ran). Killed and waited for when dropped; a panicking test shows what it logged.
#[derive(Debug)]
pub struct Shadow {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Shadow {
    /// Waits until it has logged a line that contains `pattern`, also if it did so before; gives the line.
    ///
    /// # Errors
    /// When it has not by then, or has ended without it; everything it logged is in the error.
    pub fn wait_for_line(&self, pattern: &str, patience: Duration) -> Result<String> {
        self.stderr
            .wait_for(pattern, 0, patience)
            .with_context(|| format!("waiting for {pattern:?} on stderr"))
    }

    /// As [`wait_for_line`](Self::wait_for_line), but the line must be after the first `seen` lines.
    ///
    /// # Errors
    /// As [`wait_for_line`](Self::wait_for_line).
    pub fn wait_for_line_after(&self, seen: usize, pattern: &str, patience: Duration) -> Result<String> {
        self.stderr
            .wait_for(pattern, seen, patience)
            .with_context(|| format!("waiting for {pattern:?} on stderr"))
    }

    /// As [`wait_for_line`](Self::wait_for_line), of what it prints.
    ///
    /// # Errors
    /// As [`wait_for_line`](Self::wait_for_line).
    pub fn wait_for_output(&self, pattern: &str, patience: Duration) -> Result<String> {
        self.stdout.wait_for(pattern, 0, patience).with_context(|| {
            format!("waiting for {pattern:?} on stdout; it logged:\n{}", self.stderr_lines().join("\n"))
        })
    }

    /// What it has logged so far.
    #[must_use]
    pub fn stderr_lines(&self) -> Vec<String> {
        self.stderr.lock().lines.clone()
    }

    /// What it has printed so far.
    #[must_use]
    pub fn stdout_lines(&self) -> Vec<String> {
        self.stdout.lock().lines.clone()
    }

    /// The logged lines of level WARN or ERROR; a test in which nothing goes wrong should have none.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let complains = |line: &String| line.contains("WARN") || line.contains("ERROR");
        self.stderr_lines().into_iter().filter(complains).collect()
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills it, as `kill -9` does, and waits for its end.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, and for the last of its output.
    ///
    /// # Errors
    /// When it still runs then; everything it logged is in the error.
    pub fn wait_exit(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.readers.drain(..).for_each(|reader| drop(reader.join()));
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("it did not end within {patience:?}; it logged:\n{}", self.stderr_lines().join("\n"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its resident memory in bytes (`VmRSS`), where there is a `/proc`.
    #[must_use]
    pub fn rss_bytes(&self) -> Option<u64> {
        self.status_kib("VmRSS:").map(|kib| kib * 1024)
    }

    /// The most resident memory it ever had, in bytes (`VmHWM`), where there is a `/proc`.
    #[must_use]
    pub fn rss_bytes_max(&self) -> Option<u64> {
        self.status_kib("VmHWM:").map(|kib| kib * 1024)
    }

    fn status_kib(&self, field: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        status.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.kill9();
        self.readers.drain(..).for_each(|reader| drop(reader.join()));
        if std::thread::panicking() {
            eprintln!("--- seqshadow {} logged\n{}", self.pid(), self.stderr_lines().join("\n"));
        }
    }
}

/// Lines that a thread collects from a pipe.
#[derive(Clone, Debug, Default)]
struct Lines {
    shared: Arc<(Mutex<Collected>, Condvar)>,
}

#[derive(Debug, Default)]
struct Collected {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn follow(&self, pipe: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                lines.lock().lines.push(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
                lines.shared.1.notify_all();
            }
            lines.lock().ended = true;
            lines.shared.1.notify_all();
        })
    }

    fn wait_for(&self, pattern: &str, seen: usize, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        let mut collected = self.lock();
        loop {
            if let Some(line) = collected.lines.iter().skip(seen).find(|line| line.contains(pattern)) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if collected.ended || left.is_zero() {
                let why = if collected.ended { "it ended" } else { "the time is up" };
                bail!("{why}; these lines came:\n{}", collected.lines.join("\n"));
            }
            let waited = self.shared.1.wait_timeout(collected, left);
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> ShadowCommand {
        ShadowCommand::new(["-c", script]).program("sh")
    }

    #[test]
    fn lines_are_seen_as_they_come_and_signals_arrive() {
        let mut shadow =
            shell("trap 'echo bye >&2; exit 3' TERM; echo ready >&2; while :; do sleep 0.05; done")
                .spawn()
                .unwrap();
        assert_eq!(shadow.wait_for_line("read", SOON).unwrap(), "ready");
        assert!(shadow.rss_bytes().is_none_or(|bytes| bytes > 0));
        shadow.signal(Signal::TERM);
        assert_eq!(shadow.wait_exit(SOON).unwrap().code(), Some(3));
        assert_eq!(shadow.stderr_lines(), ["ready", "bye"]);
        let error = shadow.wait_for_line("never", SOON).unwrap_err();
        assert!(format!("{error:#}").contains("it ended"), "{error:#}");
    }

    #[test]
    fn results_are_collected_and_the_environment_is_clean() {
        let finished = shell("echo out $MARK; echo err >&2; exit 1").env("MARK", "x").run(SOON).unwrap();
        assert_eq!(
            (finished.status.code(), finished.stdout.as_str(), finished.stderr.as_str()),
            (Some(1), "out x", "err")
        );
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let mut shadow = shell("exec sleep 600").spawn().unwrap();
        let pid = shadow.pid();
        assert!(shadow.is_running());
        drop(shadow);
        assert!(!std::path::Path::new(&format!("/proc/{pid}/status")).exists());
    }
}
