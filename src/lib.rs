//! nodens, a caching DNS proxy for every node of a Kubernetes cluster.
//!
//! The modules in the order a query meets them: [`server`] takes packets in, [`query`] reads them, [`cache`]
//! knows most answers, [`resolve`] conducts, [`upstream`] asks for the rest, [`wire`] is the format that all of
//! them speak, and [`server`] sends packets out. Around them: [`config`] says what to do, [`limits`] how much,
//! [`observe`] and [`admin`] show it, [`follow`] sees what changes around it, [`clock`] tells the time, [`buckets`] tells
//! clients apart, [`lab`] is a cluster and an internet to try it on.

pub mod admin;
pub mod buckets;
pub mod cache;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod follow;
pub mod lab;
pub mod limits;
pub mod observe;
pub mod query;
pub mod resolve;
pub mod run;
pub mod search;
pub mod server;
pub mod upstream;
pub mod wire;
