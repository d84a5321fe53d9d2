//! The publisher: the server whose ids are followed.

pub mod connection;
pub mod follow;
pub mod poll;
pub mod publication;
pub mod slot;
pub mod stream;
