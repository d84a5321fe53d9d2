//! Bytes ↔ protocol messages of PostgreSQL's frontend/backend protocol, version 3.
//!
//! In: bytes that a socket delivered. Out: borrowed, checked views of them ([`frame`], [`backend`]) and, the other
//! way, encoded messages in a caller's buffer ([`frontend`]). Never: a socket, tokio, an allocation on the
//! replication path, or a panic on a peer's bytes — all of them are read through [`reader::Reader`].

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod reader;
pub mod replication;
pub mod rows;

pub use backend::{Backend, BackendError, Notice, ServerError};
pub use frame::{Frame, FrameError, Frames, Limits, Scanner};
pub use reader::{ReadError, Reader, Text};
pub use replication::{Replication, StandbyStatus};
