//! Unmodified programs on a lender's network, as root and as an unprivileged user: the real command, the real kernel, and a
//! lender in a network of its own.

#[path = "../support/mod.rs"]
mod support;

mod around;
mod attacks;
mod attacks_on_ports;
mod binds;
mod bounds;
mod comes_back;
mod confined;
mod connects;
mod datagrams;
mod ends;
mod jump;
mod leaks;
mod least;
mod listens;
mod local;
mod low_ports;
mod machine;
mod odd_packets;
mod ours;
mod outside;
mod overlaps;
mod ports;
mod probes;
mod process;
mod quiet;
mod refusals;
mod resets;
mod round_trip;
mod shared;
mod stdio;
mod streams;
mod taken_back;
mod terminal;
mod tun;
mod under_filter;
mod way_there;
mod without_ipv6;
mod without_namespaces;
