//! What the process tells its caller when it ends.

/// Exit status of every verb. Scripts and systemd units rely on these numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExitCode {
    /// 0: yes, or done
    Success,
    /// 1: no, or not ready: the answer to what was asked, or a failure that is none of the others
    NotReady,
    /// 2: wrong usage or configuration: nothing was tried, and trying again will not help
    Usage,
    /// 3: a server could not be reached
    Unreachable,
    /// 4: refused for safety: going on could have lost ids, rows or WAL; a person has to look
    Refused,
}

impl From<ExitCode> for u8 {
    fn from(code: ExitCode) -> u8 {
        match code {
            ExitCode::Success => 0,
            ExitCode::NotReady => 1,
            ExitCode::Usage => 2,
            ExitCode::Unreachable => 3,
            ExitCode::Refused => 4,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(u8::from(code))
    }
}

impl std::process::Termination for ExitCode {
    fn report(self) -> std::process::ExitCode {
        self.into()
    }
}
