//! The real machine behind the core's ports: SQLite, git, processes, the journal.

pub mod archive;
pub mod audit;
pub mod backups;
pub mod clock;
pub mod copies;
pub mod database;
pub mod durable;
pub mod journal;
pub mod kept;
pub mod lock;
pub mod logfile;
pub mod notify;
pub mod probe;
pub mod process;
pub mod redact;
pub mod rehearsal;
pub mod release;
pub mod service;
pub mod sqlite;
pub mod watch;
