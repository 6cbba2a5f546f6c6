//! The program from outside: real sockets, real servers, real clients.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    unreachable_pub,
    missing_docs
)]

mod authoritative;
mod clients;
mod command_line;
mod congestion;
mod descriptors;
mod encrypted;
mod failures;
mod faithful;
mod faults;
mod forgery;
mod harness;
mod lab;
mod libraries;
mod limits_lab;
mod machine;
mod neighbours;
mod odd_queries;
mod ports;
mod search;
mod stale;
mod stop;
mod streams;
mod truncation;
mod upstream_limits;
mod upstreams;
