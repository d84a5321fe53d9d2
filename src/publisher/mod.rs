//! The publisher: the server whose ids are followed.

pub mod connection;
pub mod follow;
pub mod look;
pub mod moderation;
pub mod pace;
pub mod poll;
pub mod publication;
pub mod reaction;
pub mod requests;
pub mod slot;
pub mod stream;
mod watch;
