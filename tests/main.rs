//! The shipped programs from outside, each test on a machine of its own, and the rules about the sources.
//!
//! `cargo build --workspace` comes first: the tests run the programs beside them.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod adopt;
mod backup;
mod backup_disk;
mod backup_s3;
mod bad_input;
mod browser;
mod crash;
mod dashboard;
mod deploy;
mod diagnose;
mod docs;
mod full_disk;
mod imports;
mod install;
mod interrupted;
mod kills;
mod load;
mod maintenance;
mod managed;
mod migrate;
mod notify;
mod people;
mod production;
mod rehearsal;
mod renewal;
mod report;
mod rollback;
mod rules;
mod said;
mod sources;
mod strangers;
mod supervisor;
mod survives;
mod systemd;
mod systemd_user;
mod tidy;
mod verify;
mod watch;
mod websockets;
