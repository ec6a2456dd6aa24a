//! The local side: joins, logs in, and hands out borrowed sockets.
//!
//! ```text
//!   Join ──▶ Profiles ──▶ Borrower ──▶ TcpStream   one borrowed connection
//!   (once)   (on disk)    (session)├─▶ TcpListener a port of the lender's, and who connects to it
//!                                  ├─▶ UdpSocket   datagrams from and to the lender
//!                                  ├─▶ Command     a program there ──▶ Child
//!                                  ├─▶ offer, stdio   a service for other borrowers, and a connection to one
//!                                  ├─▶ Forward     a local port, each of whose connections is one
//!                                  ├─▶ Proxy       a local port whose clients say where to
//!                                  ├─▶ RemoteForward   a port of the lender's that leads here
//!                                  ├─▶ UdpForward, RemoteUdpForward   the same for datagrams
//!                                  ├─▶ resolve     names, as the lender's machine knows them
//!                                  ├─▶ profile     its routes, resolvers and variables
//!                                  └─▶ run         an unmodified program, on the lender's network
//! ```
//! A program that borrows needs [`Borrower`] and [`TcpStream`]; the rest sets machines up. No runtime is started here:
//! everything runs on the caller's tokio.
//!
//! # Security
//! What a lender says (texts, notes) is handed on as it came; escape it before it reaches a terminal.

#![forbid(unsafe_code)]
#![warn(missing_debug_implementations)]

mod access;
mod answer;
mod arrivals;
mod byte_stream;
mod child;
mod command;
mod connect;
mod door;
mod draft;
mod endpoint;
mod error;
mod flow;
mod forward;
mod give_up;
mod join;
mod keep;
mod lane;
mod link;
mod listen;
mod listen_again;
mod listener;
mod local;
mod login;
mod machine;
mod overdue;
mod present;
mod profile;
mod proxy;
mod remote_forward;
mod remote_udp_forward;
mod renew;
mod resolve;
#[cfg(feature = "run")]
#[cfg_attr(
    not(feature = "cli"),
    expect(dead_code, unused_imports, reason = "a library user has the mask alone; the command uses the rest")
)]
pub(crate) mod run;
mod service;
mod settings;
mod share;
mod shown;
mod target_addresses;
mod tcp;
mod udp;
mod udp_forward;
mod udp_port;
mod unix;

#[cfg(feature = "cli")]
pub(crate) use child::ProgramStream;
pub use child::{Child, ChildControl, ChildStderr, ChildStdin, ChildStdout};
pub use command::{Command, Stdio};
pub use connect::Borrower;
pub use endpoint::{Destination, Endpoint};
pub use error::BorrowError;
pub use forward::Forward;
pub use join::Join;
pub use keep::{Connection, SessionEnd};
pub use listen::{TcpBound, TcpListener, TcpOptions};
pub use profile::{Alias, Host, Profile, Profiles, lender_address};
pub use proxy::Proxy;
pub use remote_forward::RemoteForward;
pub use remote_udp_forward::RemoteUdpForward;
pub use service::{ServiceListener, ServiceReader, ServiceStream, ServiceWriter};
pub use settings::HostSettings;
pub use share::Share;
#[cfg(feature = "cli")]
pub(crate) use share::{Beginning, while_others_begin};
pub use tcp::{OwnedReadHalf, OwnedWriteHalf, TcpStream};
pub use udp::UdpSocket;
pub use udp_forward::UdpForward;
pub use unix::{UnixListener, UnixReader, UnixStream, UnixWriter};
