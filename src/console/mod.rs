//! The console: what the running daemon can be asked, over a Unix socket that speaks the PostgreSQL protocol.
//!
//! In: a [`View`] of what runs. Out: answers to `psql -h DIR seqshadow -c 'SHOW SEQUENCES'`. It only reads, and it has a
//! thread of its own, so that nothing a client does can keep the pipeline from its work: `server` takes in a bounded
//! number of clients, `session` speaks with one of them, `frontend` reads what it sends, [`place`] says where the
//! socket is. Each command has a file; `command` finds it.

mod answer;
mod command;
mod config;
mod frontend;
mod help;
mod pace;
mod peer;
pub mod place;
mod sequences;
mod server;
mod session;
mod slot;
mod stream;
mod version;
mod view;

pub use server::{Console, ConsoleError};
pub use view::View;

/// The database that a client names.
pub const DATABASE: &str = "seqshadow";
