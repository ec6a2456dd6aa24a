//! Unmodified programs on a lender's network, as root and as an unprivileged user: the real command, the real kernel, and a
//! lender in a network of its own.

#[path = "../support/mod.rs"]
mod support;

mod around;
mod attacks;
mod binds;
mod bounds;
mod confined;
mod connects;
mod datagrams;
mod ends;
mod jump;
mod leaks;
mod listens;
mod low_ports;
mod machine;
mod odd_packets;
mod outside;
mod ports;
mod process;
mod refusals;
mod round_trip;
mod stdio;
mod streams;
mod terminal;
mod tun;
mod under_filter;
mod without_namespaces;
