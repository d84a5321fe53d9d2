//! Programs that a test starts and waits for, never longer than [`PATIENCE`]: one that hangs would hold the whole run.
//!
//! In: a [`Command`] or a [`Child`]. Out: what it printed and how it ended, or an error after it was killed.

use crate::sql::PATIENCE;
use anyhow::{Result, bail};
use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often to look whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// As [`Command::output`].
///
/// # Errors
/// When it cannot be started, or has not ended in time.
pub fn output(command: &mut Command) -> Result<Output> {
    wait(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// As [`Child::wait_with_output`]: of the pipes that are there.
///
/// # Errors
/// When it has not ended in time.
pub fn wait(child: Child) -> Result<Output> {
    wait_for(child, PATIENCE)
}

fn wait_for(mut child: Child, patience: Duration) -> Result<Output> {
    drop(child.stdin.take());
    let (stdout, stderr) = (child.stdout.take().map(collect), child.stderr.take().map(collect));
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("process {} did not end within {patience:?} and was killed", child.id());
        }
        std::thread::sleep(LOOK);
    };
    // A process of its own that it has left behind may keep a pipe open.
    let text = |reader: Option<JoinHandle<Vec<u8>>>| -> Result<Vec<u8>> {
        let Some(reader) = reader else { return Ok(Vec::new()) };
        while !reader.is_finished() {
            if Instant::now() > deadline {
                bail!("somebody keeps the output open {patience:?} after the start");
            }
            std::thread::sleep(LOOK);
        }
        Ok(reader.join().unwrap_or_default())
    };
    Ok(Output { status, stdout: text(stdout)?, stderr: text(stderr)? })
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = pipe.read_to_end(&mut all);
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn what_ends_is_told_and_what_does_not_is_killed() {
        let ended = wait_for(shell("echo out; echo err >&2; exit 3"), Duration::from_secs(20)).unwrap();
        assert_eq!(
            (ended.status.code(), ended.stdout, ended.stderr),
            (Some(3), b"out\n".into(), b"err\n".into())
        );
        let child = shell("exec sleep 600");
        let pid = child.id();
        let error = wait_for(child, Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("was killed"), "{error}");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        let kept = wait_for(shell("sleep 2 & exit 0"), Duration::from_millis(300)).unwrap_err();
        assert!(kept.to_string().contains("keeps the output open"), "{kept}");
    }
}
