//! The real machine behind the core's ports: SQLite, git, processes, the journal.

pub mod backups;
pub mod sqlite;
