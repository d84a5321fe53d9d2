//! Why bytes are not a capture.

/// What is wrong, and at which byte of the file.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("byte {offset}: {source}")]
    Io { offset: u64, source: std::io::Error },
    #[error("byte 0: expected a capture of seqshadow, which begins with {expected:?}, got {got:?}")]
    Magic { expected: String, got: String },
    #[error("byte 16: expected format version 1 to {newest}, got {got}: it was written by a newer seqshadow")]
    Newer { newest: u32, got: u32 },
    #[error("byte {offset}: expected {expected}, got {got}")]
    Unexpected { offset: u64, expected: &'static str, got: String },
    #[error("byte {offset}: expected {expected} bytes of {what}, got only {got}: the file is cut off")]
    CutOff { offset: u64, what: &'static str, expected: usize, got: usize },
    #[error(
        "byte {offset}: expected SHA-256 {expected} for the {what} that begins here, got {got}: the file is damaged"
    )]
    Damaged { offset: u64, what: &'static str, expected: String, got: String },
    #[error("byte {offset}: {what}: {why}")]
    Content { offset: u64, what: &'static str, why: String },
}

impl CaptureError {
    /// The file ends too early, and what comes before is as it was written.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        matches!(self, CaptureError::CutOff { .. })
    }
}
