//! The subscriber: the server whose sequences are kept ahead.

pub mod advance;
pub mod function;
pub mod receipt;
pub mod subscription;
