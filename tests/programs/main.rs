//! Real programs, unmodified, on a lender's network: each as root and as a user without any privilege.

#[path = "../support/mod.rs"]
mod support;

mod code;
mod covered;
mod fetching;
mod looking_up;
mod mirrors;
mod quic;
mod serving;
mod stage;
mod without_namespaces;
