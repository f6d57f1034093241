//! The running simulator over HTTP, held to Razorpay's documentation, its vectors and one of its own clients.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end there")]

mod api;
mod caller;
mod checkout;
mod python;
mod shapes;
mod time;
mod webhooks;
