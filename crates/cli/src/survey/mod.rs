//! What is in a folder, and a configuration made of it: for `init`, which writes one, and `adopt`, which acts on it.

mod draft;
mod found;
mod runner;
mod stack;

pub(crate) use draft::{Draft, TakeOver, draft, linked};
pub(crate) use found::{Found, Places, look};
pub(crate) use runner::{Bind, Runner, Runs, names, processes, with_port_variable};
