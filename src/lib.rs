#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "borrow")]
mod borrow;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "lend")]
pub mod lend;
#[cfg(feature = "lend")]
pub mod policy;
pub mod proto;
pub mod session;
#[cfg(any(feature = "lend", feature = "borrow"))]
mod sys;
pub mod trust;

/// What `capuchin run` is made of.
#[cfg(feature = "run")]
pub mod run {
    pub use crate::borrow::run::{Mask, MaskError};
}

/// What the fuzz targets read with; no part of the library.
#[cfg(all(fuzzing, feature = "run"))]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::borrow::run::fuzzing::*;
}

#[cfg(feature = "borrow")]
pub use borrow::{
    Alias, BorrowError, Borrower, Child, ChildControl, ChildStderr, ChildStdin, ChildStdout, Command, Connection,
    Destination, Endpoint, Forward, Host, HostSettings, Join, OwnedReadHalf, OwnedWriteHalf, Profile, Profiles, Proxy,
    RemoteForward, RemoteUdpForward, ServiceListener, ServiceReader, ServiceStream, ServiceWriter, SessionEnd, Share,
    Stdio, TcpBound, TcpListener, TcpOptions, TcpStream, UdpForward, UdpSocket, UnixListener, UnixReader, UnixStream,
    UnixWriter, lender_address,
};
