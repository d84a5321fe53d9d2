//! The promises, against real servers: one program, so that its tests, which mostly wait, run side by side.
//!
//! `g01` to `g12` bear the numbers of the promises; the others are named after what they try to break.
//!
//!     cargo test -p proto-tests --test promises                    # all, as many at once as there are cores
//!     RUST_TEST_THREADS=5 cargo test -p proto-tests --test promises g03

mod advancing;
mod another_publisher;
mod changes_while_running;
mod cycle;
mod defaults_that_name_no_column;
mod demo;
mod excludes_reloaded;
mod exit_codes;
mod g01_never_backwards;
mod g02_confirmed_is_durable;
mod g02_nothing_confirmed_before_it_is_durable;
mod g03_a_kill_converges;
mod g04_a_lost_slot_costs_a_seed;
mod g05_every_sequence_is_accounted_for;
mod g09_the_publisher_is_not_taken_down;
mod g10_broken_bytes;
mod g12_signals;
mod harness;
mod held;
mod ids_the_stream_does_not_show;
mod large_transactions;
mod locked_sequence;
mod locked_tables;
mod matrix;
mod narrow_publication;
mod no_stream;
mod our_sessions;
mod outliers;
mod reloaded_interval;
mod renamed_tables;
mod servers;
mod service_manager;
mod silent_publisher;
mod slot_creation_waits;
mod slots_that_are_not_ours;
mod slow_tables;
mod standby_publisher;
mod truncate;
mod unreadable_values;
mod ways;
