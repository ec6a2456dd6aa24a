//! The only unsafe code: one small safe function per system call.

#![allow(unsafe_code)]

mod listen_fd;

pub use listen_fd::{ListenFdError, adopt_listener};
