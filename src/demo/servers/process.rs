//! The process of a server: started, watched until it is ready, signalled, waited for.

use super::account::{Account, prepare};
use super::error::ServersError;
use super::find::Installation;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at a process.
pub(super) const POLL: Duration = Duration::from_millis(10);

/// A `postgres` process that we started.
#[derive(Debug)]
pub(super) struct ServerProcess {
    child: Child,
    pid_file: PathBuf,
}

impl ServerProcess {
    /// Starts the server on `data`; it writes to `log`.
    ///
    /// # Errors
    /// When the program or the log cannot be opened.
    pub(super) fn spawn(
        installation: &Installation,
        account: Option<Account>,
        data: &Path,
        log: &Path,
    ) -> Result<Self, ServersError> {
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let output = open().and_then(|file| Ok((file.try_clone()?, file)));
        let (stdout, stderr) = output.map_err(ServersError::io(format!("open {}", log.display())))?;
        let mut command = Command::new(installation.bindir.join("postgres"));
        prepare(&mut command, account);
        let child = command
            .arg("-D")
            .arg(data)
            .process_group(0) // a terminal's Ctrl-C is for us; we stop the server
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(ServersError::io(format!("start {}", installation.bindir.join("postgres").display())))?;
        Ok(ServerProcess { child, pid_file: data.join("postmaster.pid") })
    }

    /// Waits until the server takes connections, which it notes in the eighth line of its pid file
    /// (`src/include/utils/pidfile.h`).
    ///
    /// # Errors
    /// The reason, when it ended or was not ready at the deadline.
    pub(super) fn wait_ready(&mut self, deadline: Instant) -> Result<(), String> {
        let pid = self.pid().to_string();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended with {status}"));
            }
            let noted = fs::read_to_string(&self.pid_file).unwrap_or_default();
            let mut lines = noted.lines().map(str::trim);
            if lines.next() == Some(&pid) && lines.nth(6) == Some("ready") {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err("it was not ready in time".to_owned());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Sends `signal`, unless the process has ended.
    pub(super) fn signal(&mut self, signal: Signal) {
        // Not yet waited for, the number is still ours.
        if self.is_running()
            && let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether the process ended before the deadline.
    pub(super) fn wait_ended(&mut self, deadline: Instant) -> bool {
        while self.is_running() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }

    /// SIGKILL, and waits for the end.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets the process live on without us.
    pub(super) fn leave(self) {
        std::mem::forget(self);
    }

    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill();
        }
    }
}

/// What was logged since the file had `offset` bytes.
pub(super) fn log_since(path: &Path, offset: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The System V segment that a killed server could not remove (the seventh line of its pid file: key and id).
pub(super) fn left_shared_memory(data: &Path) -> Option<String> {
    let noted = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let id = noted.lines().nth(6)?.split_whitespace().nth(1)?;
    id.bytes().all(|byte| byte.is_ascii_digit()).then(|| id.to_owned())
}
