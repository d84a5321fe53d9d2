//! The harness of the tests against real servers.
//!
//! In the order of a test: [`majors`] finds the servers, [`pair`] starts a publisher and a subscriber with
//! [`publication`]s between them, [`zoo`] fills them with every kind of sequence we know, [`load`] draws ids and
//! keeps a [`journal`] of each, [`shadow`] runs the program under test ([`sidecar`] beside a pair, [`rig`] in the
//! smallest setting), [`watcher`] and [`oracle`] judge what became of
//! the sequences. [`mod@capture`]s are streams of real publishers, [`encode`] makes others, [`record`] collects what a
//! sink is told. [`fake_publisher`], [`fault_proxy`] and [`split`] stand in for servers and networks that misbehave.

pub mod binary;
pub mod capture;
pub mod encode;
pub mod fake_publisher;
pub mod fault_proxy;
pub mod journal;
pub mod load;
pub mod majors;
pub mod oracle;
pub mod pair;
pub mod publication;
pub mod record;
pub mod rig;
pub mod shadow;
pub mod sidecar;
pub mod split;
pub mod sql;
pub mod watcher;
pub mod zoo;
