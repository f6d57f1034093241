//! Observations of the app from outside: its pages, and which database it has open.

pub mod http;
pub mod opened;
pub mod prove;
pub mod smoke;

mod jar;
mod page;
