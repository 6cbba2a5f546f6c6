//! Hops 1 and 9: packets in and out. [`worker`] is a thread, one per core; [`udp`] and [`tcp`] are what it serves.

pub mod sockets;
pub mod stop;
pub mod sys;
pub mod tcp;
pub mod udp;
pub mod worker;
