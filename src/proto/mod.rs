//! What goes over the wire, and nothing else: bytes and values in, bytes and values out.
//!
//! No socket, no clock, no file: every interleaving, timeout and hostile byte is a plain unit test.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod answer;
pub mod dns;
mod errno;
mod error;
mod frame;
mod greeting;
mod lead;
mod listen;
mod machine;
pub mod message;
pub mod mux;
mod name;
mod own_rules;
mod request;
mod resolv_conf;
mod service;
mod spawn;
mod udp;
mod wildcard;

pub use answer::{
    Answer, REFUSAL_NOTES_MAX, REFUSAL_TEXT_MAX, Refusal, RenewedCertificate, Resolving, TcpConnected, Verdict,
    WireAddr,
};
pub use errno::Errno;
pub use error::{ErrorKind, ProtocolError};
pub use frame::{
    FRAME_PAYLOAD_MAX, Frame, FrameReader, GOAWAY_TEXT_MAX, Goaway, HEADER_BYTES, Header, Kind, Reset, StreamId,
};
pub use greeting::{
    DEFAULT_PORT, FromBorrower, FromLender, Greeting, HANDSHAKE_BYTES_MAX, IssuedTicket, JoinAnswer, JoinQuestion,
    JoinRequest, JoinStatus, LENDER_ADDRESS_MAX, LENDER_ADDRESSES_MAX, LocalNames, Login, LoginMethod, MINOR,
    OS_USER_MAX, Renewal, Welcome,
};
pub(crate) use lead::{COPY_BYTES_MAX, with_lead};
pub use listen::{Accepted, BACKLOG, Listening, PENDING_MAX, Ready, StartListening, TcpListen, UnixListen};
pub use machine::{
    HOSTS_BYTES_MAX, HostsLine, MACHINE_ADDRESSES_MAX, Machine, MachineRoute, OPTION_BYTES_MAX, RESOLVERS_MAX,
    ROUTES_MAX, SEARCH_MAX, VARIABLE_NAME_MAX, VARIABLES_BYTES_MAX, VARIABLES_MAX, Variable,
};
pub use name::{DeviceId, LENDER_NAME_MAX, LenderName, NameError, SessionId, USER_NAME_MAX, UserName};
pub use own_rules::{OWN_RULES_BYTES_MAX, OwnRules};
pub use request::{
    ASK_KIND_MAX, ASK_TARGET_MAX, Ask, HOST_BYTES_MAX, PLANNED, Request, SOCKET_PATH_MAX, Target, TargetError,
    UnknownRequest,
};
pub use resolv_conf::ResolvConf;
pub use service::{SERVICE_NAME_MAX, ServiceListen};
pub use spawn::{
    FOLDER_BYTES_MAX, FromProgram, MODES_MAX, Mode, OFFERED_BYTES_MAX, OFFERED_MAX, Program, Spawn, SpawnStdio,
    Spawned, Stdio, TERM_BYTES_MAX, Terminal, TerminalSize, ToProgram, WORDS_BYTES_MAX, WORDS_MAX, Words,
};
pub use udp::{DATAGRAM_BYTES_MAX, UdpBind, UdpBody, UdpMessage};
pub use wildcard::wildcard_like;
