//! The real program against a temporary database, over HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end there")]

mod access;
mod admin;
mod browser;
mod buying;
mod chromium;
mod counter;
mod demo;
mod guarding;
mod members;
mod operations;
mod orders;
mod paying;
mod reading;
mod refunding;
mod sandbox;
mod security;
mod serving;
mod shelves;
mod smoke;
mod speaking;
mod walking;
