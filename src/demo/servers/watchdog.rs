//! Cleans up after us when we cannot: a small shell waits on a pipe that only our end keeps open.
//!
//! When our process ends, however it ends, the pipe does too; the shell then stops the server and removes its
//! directory. It ignores the terminal's signals and has a process group of its own.

use super::error::ServersError;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `$1` is the directory of the cluster. A pid is believed only while that process names our data directory: the
/// number in a file left by a killed server may be somebody else's by now.
const SCRIPT: &str = r#"
trap '' HUP INT TERM QUIT
read -r _
ours() {
    pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    { cat "/proc/$pid/cmdline" 2>/dev/null || ps -ww -o args= -p "$pid" 2>/dev/null; } | grep -a -q -F -- "$1/data"
}
ours "$1" && kill -QUIT "$pid" 2>/dev/null
tries=0
while ours "$1" && [ $tries -lt 50 ]; do tries=$((tries + 1)); sleep 0.1; done
ours "$1" && kill -KILL "$pid" 2>/dev/null
segment=$(sed -n 7p "$1/data/postmaster.pid" 2>/dev/null | awk '{ print $2 }')
[ -n "$segment" ] && ipcrm -m "$segment" 2>/dev/null
rm -rf -- "$1"
"#;

/// The shell that outlives us. Ends at once, and is waited for, when dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Watches over `directory`, which it removes in the end.
    ///
    /// # Errors
    /// When no shell can be started.
    pub(super) fn start(directory: &Path) -> Result<Self, ServersError> {
        let shell = Command::new("sh")
            .arg("-c")
            .arg(SCRIPT)
            .arg("seqshadow-watchdog")
            .arg(directory)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(ServersError::io("start a shell that cleans up"))?;
        Ok(Watchdog { shell })
    }

    /// Ends the watch: what was watched over stays.
    pub(super) fn dismiss(mut self) {
        // It ignores all signals but this one; only then may its pipe end.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
