//! Greengrocer: a small Indian grocery shop with server-rendered pages, one SQLite file and payment on delivery.
//!
//! Templates, styles and migrations are files beside the program, read when it starts: a release that changes
//! only those needs no new program.

mod bill;
mod cart;
mod clock;
mod csv;
pub mod db;
mod log;
mod mail;
mod money;
pub mod password;
mod paying;
mod picture;
mod razorpay;
pub mod second_factor;
pub mod serve;
pub mod settings;
mod sign;
mod texts;
mod throttle;
mod web;

pub use db::users::set_admin;
