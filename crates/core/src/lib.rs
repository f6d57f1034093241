//! A deployment as plain values.
//!
//! Reading order: [`plan`] says what will be done, [`check`] is one observation, [`checklist`] is the paper that
//! the observations fill in, [`record`] is what was done, [`ports`] are the few ways to the world, [`engine`] runs
//! and undoes a plan through them, [`notify`] and [`watch`] are what is told and seen beside it, [`report`] shows a record as the filled-in checklist.
//!
//! Nothing here does I/O, reads a clock or an environment variable, or writes to a terminal; `clippy.toml` beside
//! this crate forbids it.

pub mod check;
pub mod checklist;
pub mod engine;
pub mod notify;
pub mod plan;
pub mod ports;
pub mod reconcile;
pub mod record;
pub mod report;
pub mod watch;
