//! The harness of the tests against real servers.
//!
//! In the order of a test:
//!
//! 1. [`majors`] finds the programs of a server, [`pair`] starts a publisher and a subscriber from them and connects
//!    them by [`publication`]s.
//! 2. [`zoo`] fills them with every kind of sequence we know; [`load`] draws ids and keeps a [`journal`] of each.
//! 3. [`sidecar`] sets the program under test beside a pair; [`shadow`] is its process. [`rig`] is the smallest setting
//!    of all: one table, one sequence.
//! 4. [`stage`] is a pair with tables of a test's own, [`verb`] runs one verb of the program and reads what it prints.
//! 5. [`sql`] waits, [`sequence`] asks one sequence where it is; [`watcher`] and [`oracle`] judge what became of all.
//!    [`limited`] waits for other programs, and not for ever.
//!
//! A test that hangs is ended and named by [`deadline`].
//!
//! [`fake_publisher`], [`fault_proxy`] and [`split`] stand in for servers and networks that misbehave.
//! [`mod@capture`]s are streams of real publishers, [`encode`] makes others, [`record`] collects what a sink is told.

pub mod binary;
pub mod capture;
pub mod deadline;
pub mod encode;
pub mod fake_publisher;
pub mod fault_proxy;
pub mod journal;
pub mod limited;
pub mod load;
pub mod majors;
pub mod oracle;
pub mod pair;
pub mod publication;
pub mod record;
pub mod rig;
pub mod sequence;
pub mod shadow;
pub mod sidecar;
pub mod split;
pub mod sql;
pub mod stage;
pub mod verb;
pub mod watcher;
pub mod zoo;
