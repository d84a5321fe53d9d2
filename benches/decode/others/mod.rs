//! The others in the race: crates that decode rows, and crates that split the stream into messages.
//!
//! Each is used the way that its own client uses it, as far as that is public, with nothing copied that need not be.

mod framing;
mod pg_walstream;
mod pgoutput;
mod pgsync;

use anyhow::bail;

use crate::contestant::{Buffered, Contestant, Role};
use crate::ours::Ours;
use crate::streams::Stream;

/// Everybody who is compared, ours first.
pub const ROLES: &[(&str, Role)] = &[
    ("seqshadow", Role::Ours),
    ("pg_walstream", Role::Decoder),
    ("pgsync-postgres", Role::Decoder),
    ("pgoutput", Role::Decoder),
    ("postgres-protocol", Role::Framing),
    ("pgwire", Role::Framing),
    ("pgwire-replication", Role::Framing),
];

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROLES.iter().map(|(name, _)| *name)
}

/// A contestant that has read the preamble of `stream`.
pub fn start(name: &str, stream: &Stream) -> anyhow::Result<Box<dyn Contestant>> {
    match name {
        "seqshadow" => Ok(Box::new(Ours::new(stream)?)),
        "pg_walstream" => Buffered::start(pg_walstream::Walstream::new(stream), stream),
        "pgsync-postgres" => Buffered::start(pgsync::Pgsync::new(stream), stream),
        "pgoutput" => Buffered::start(pgoutput::Pgoutput::new(stream), stream),
        "postgres-protocol" => Buffered::start(framing::PostgresProtocol::new(stream), stream),
        "pgwire" => Buffered::start(framing::Pgwire::new(stream), stream),
        "pgwire-replication" => framing::PgwireReplication::start(stream),
        other => bail!("there is no contestant {other}"),
    }
}

/// Why a contestant cannot read a stream at all, which is no disagreement; `None` for who has to.
pub fn unable(name: &str, stream: &Stream) -> Option<&'static str> {
    use seqshadow::pgoutput::Streaming;
    match name {
        "pgsync-postgres" if stream.streaming != Streaming::Off => Some("it knows protocol 1 only"),
        _ => None,
    }
}
