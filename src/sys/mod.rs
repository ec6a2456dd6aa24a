//! The only unsafe code: one small safe function per system call.

#![allow(unsafe_code)]

mod listen_fd;
#[cfg(feature = "cli")]
mod namespace;
mod ready_fd;

pub use listen_fd::{ListenFdError, adopt_listener};
#[cfg(feature = "cli")]
pub use namespace::{bind_file, enter_private_network, set_up_loopback};
pub use ready_fd::await_readable;
