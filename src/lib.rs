//! seqshadow keeps the sequences of a PostgreSQL logical subscriber ahead of the replicated rows, all the time.
//!
//! The parts, in the order in which data flows:
//!
//! 1. [`session`] opens a connection to a server as libpq would; [`conninfo`] reads what to connect to.
//! 2. [`publisher`] follows a replication slot ([`publisher::follow`]), reads its stream ([`publisher::stream`]) and
//!    polls the publisher's own sequences and tables ([`publisher::poll`]).
//! 3. [`wire`] finds messages in bytes, [`pgoutput`] decodes them, [`observe`] turns rows into marks.
//! 4. [`handover`] carries the latest marks from the stream to the [`keeper`], which knows all about every sequence of
//!    the subscriber: which columns use it ([`catalog`]), where it stands ([`readings`]), what lies in its tables
//!    ([`tables`]).
//! 5. [`plan`] says where a sequence should stand; [`subscriber::advance`] moves it there;
//!    [`subscriber::receipt`] proves that it is durable.
//! 6. [`confirm`] says from the receipts which LSN may be confirmed, and the stream tells the publisher.
//!
//! [`shadow`] puts one such pipeline together, [`cli`] runs it as a program with [`config`] and [`logging`],
//! [`registry`] is what everybody may ask about it, [`console`] answers such questions over the PostgreSQL protocol, and
//! [`demo`] shows it with throw-away servers.
//!
//! [`capture`] records such a stream into a file, and decodes the file as the daemon would.
//!
//! Beside the pipeline there are the operator's verbs ([`ops`]): each finds the two servers ([`sides`]), looks at them by
//! itself ([`ops::survey`]), and goes without the daemon.
//!
//! Invariants:
//!
//! - [`wire`], [`pgoutput`], [`observe`] and [`plan`] use neither a runtime nor a socket.
//! - Only [`subscriber::advance`] changes a sequence, and it never moves one backwards.
//! - Only [`confirm`] makes a flush position, and only from receipts.
//! - The stream never waits for the subscriber: what it knows is a maximum per sequence, so the latest wins.
//! - Bytes of a peer are read through one checked reader, without indexing and without `as`.

pub mod alive;
pub mod backoff;
pub mod capture;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod confirm;
pub mod conninfo;
pub mod console;
pub mod demo;
pub mod exit;
pub mod handover;
pub mod keeper;
pub mod logging;
pub mod observe;
pub mod ops;
pub mod pgoutput;
pub mod plan;
pub mod publisher;
pub mod readings;
pub mod registry;
pub mod session;
pub mod shadow;
pub mod sides;
pub mod sql;
pub mod subscriber;
pub mod tables;
pub mod told;
pub mod tracking;
pub mod types;
pub mod wire;
