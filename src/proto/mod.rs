//! What goes over the wire, and nothing else: bytes and values in, bytes and values out.
//!
//! No socket, no clock, no file: every interleaving, timeout and hostile byte is a plain unit test.

#![forbid(unsafe_code)]

mod name;

pub use name::{DeviceId, LENDER_NAME_MAX, LenderName, NameError, SessionId, USER_NAME_MAX, UserName};
