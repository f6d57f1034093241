//! SQLite databases: copied, backed up, verified, restored, compared and migrated, with evidence.
//!
//! A live database is touched only through SQLite. Opening its files any other way in this process, even to
//! look, drops the locks that SQLite holds on them (POSIX locks belong to the process, not to the descriptor).

pub mod aftermath;
pub mod backup;
pub mod carry;
pub mod census;
pub(crate) mod compressed;
pub mod connection;
pub mod control;
pub mod copy;
pub mod diff;
pub mod error;
pub mod fingerprint;
pub mod history;
mod hold;
mod inspection;
pub mod lint;
pub mod manifest;
pub mod migrate;
pub mod migration;
pub mod openers;
pub mod outline;
pub mod page_set;
pub(crate) mod partial;
pub mod relocate;
pub mod replay;
pub mod restore;
pub mod schema;
pub mod script;
pub mod set_aside;
pub mod since;
pub mod trial;
pub mod verification;
pub mod verify;
pub mod watch;

pub use connection::{ForeignKeys, JournalMode};
pub use control::{Control, Phase, Progress, Stop};
pub use error::Error;
pub use fingerprint::Fingerprint;
pub use hold::Limits;
pub use partial::leftovers;
pub use watch::Watcher;
