//! What a process used: CPU time and resident memory, from `/proc`.

use anyhow::{Context as _, Result, bail};
use std::process::Child;
use std::time::{Duration, Instant};

/// The CPU time of a process so far, all its present threads together; `None` when it is gone.
pub fn cpu(pid: u32) -> Option<Duration> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut nanoseconds = 0;
    for task in tasks.flatten() {
        // Time on the CPU in nanoseconds comes first.
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        nanoseconds += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(nanoseconds))
}

/// The resident memory of a process in bytes.
pub fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kib.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Follows the CPU time of a process that may end at any time: the last that was seen counts.
#[derive(Debug, Default)]
pub struct Watched {
    pub cpu: Duration,
}

impl Watched {
    pub fn look(&mut self, pid: Option<u32>) {
        if let Some(cpu) = pid.and_then(cpu) {
            self.cpu = self.cpu.max(cpu);
        }
    }
}

/// Waits until the program has ended, calling `meanwhile` all the time; what it used is read before it is buried.
pub fn to_the_end(
    mut child: Child,
    limit: Duration,
    mut meanwhile: impl FnMut(),
) -> Result<(Duration, Duration)> {
    let (begun, pid) = (Instant::now(), child.id());
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    };
    loop {
        meanwhile();
        match state() {
            Some('Z') => {
                let wall = begun.elapsed();
                let used = cpu(pid).context("its CPU time")?;
                let status = child.wait()?;
                if !status.success() {
                    bail!("it ended with {status}");
                }
                return Ok((wall, used));
            }
            Some(_) if begun.elapsed() < limit => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                let _ = (child.kill(), child.wait());
                bail!("it did not end within {limit:?}");
            }
        }
    }
}
