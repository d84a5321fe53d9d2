//! The subscriber: the server whose sequences are kept ahead.

pub mod advance;
pub mod function;
mod lock;
pub mod receipt;
pub mod subscription;
