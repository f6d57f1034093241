//! Hermetic sandboxes and scripted applications for tests.
//!
//! A [`Sandbox`] is a machine of its own: root, home, git repository, database and front door. What runs in it are
//! the shipped programs: `plimsoll` and the `scripted-app` of this crate. Everything here panics with a sentence
//! when the machine does not do what a test needs; that is a failed test.

mod browser;
pub mod buyers;
mod command;
pub mod fault;
pub mod http;
mod output;
mod processes;
mod repo;
pub mod s3;
mod sandbox;
mod serve;
pub mod shop;
pub mod soak;
mod systemd_box;
pub mod wait;
pub mod websocket;

pub use browser::Browser;
pub use buyers::Buyers;
pub use command::Running;
pub use output::Output;
pub use repo::Repo;
pub use sandbox::{Sandbox, binary};
pub use serve::Serve;
pub use systemd_box::SystemdBox;
