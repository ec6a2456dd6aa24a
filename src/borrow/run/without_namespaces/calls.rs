//! The calls of a program that no namespace holds, each done in its place.
//!
//! # Security
//! None of them is passed back to the kernel once it was judged: between the look and the kernel's own, another thread could put
//! something else where an address stood, or another socket under the number that was looked at. What is passed back
//! (`Continue`) tells the program of its own sockets, or receives, and opens nothing.

use std::{os::fd::OwnedFd, sync::Arc};

use rustix::net::AddressFamily;
use tokio::runtime::Handle;

use super::{
    address,
    answers::plain,
    connections::Connections,
    datagrams::Datagrams,
    messages::Message,
    names_of_sockets,
    own_ports::OwnPorts,
    receiving, sending,
    thread::Thread,
    unix::{Judged, UnixSockets},
    waiting::is_waiting,
};
use crate::{
    borrow::run::{
        listening::program_socket::{ProgramSocket, Transport},
        supervisor::{Caller, address_of, memory_of, socket_of},
    },
    proto::Errno,
    sys::{self, Notification},
};

/// Whatever does calls.
pub struct Calls {
    /// TCP.
    pub connections: Arc<Connections>,
    /// UDP.
    pub datagrams: Arc<Datagrams>,
    /// bind and listen.
    pub own_ports: Arc<OwnPorts>,
    /// Unix sockets.
    pub unix: Arc<UnixSockets>,
    /// Where calls wait that take long.
    pub runtime: Handle,
}

/// What was found out about a call, all of it read.
pub enum Seen {
    /// There is nothing to judge.
    Passed,
    Connect(OwnedFd, AddressFamily, Vec<u8>),
    Bind(OwnedFd, AddressFamily, Vec<u8>),
    Listen(OwnedFd, AddressFamily, i32),
    /// The messages, the flags, and where the lengths go of those that were sent.
    Send(OwnedFd, AddressFamily, Vec<Message>, i32, Option<u64>),
    Receive(OwnedFd, receiving::Wanted),
    /// getpeername (`true`) or getsockname, and where the address and its length go.
    Name(OwnedFd, bool, [u64; 2]),
    /// SO_ERROR, and where it and its length go.
    Error(OwnedFd, [u64; 2]),
}

impl Calls {
    /// Does one, or has it done.
    pub fn take(&self, notification: &Notification, caller: Caller) {
        let thread = Thread(notification.thread);
        let seen = look(&thread, notification);
        if !caller.is_waiting() {
            // Who was looked at may have been somebody else.
            return;
        }
        match seen {
            Err(errno) => caller.hear(Err(errno)),
            Ok(Seen::Passed) => caller.pass(),
            Ok(Seen::Connect(socket, family, address)) => self.connect(&thread, socket, family, &address, caller),
            Ok(Seen::Bind(socket, family, address)) => {
                let done = self.bind(&thread, socket, family, &address);
                caller.hear(done);
            }
            Ok(Seen::Listen(socket, family, backlog)) => {
                let done = self.listen(socket, family, backlog);
                caller.hear(done);
            }
            Ok(Seen::Send(socket, family, messages, flags, lengths_at)) => {
                sending::Sending { socket, family, messages, flags, lengths_at, thread, caller }.begin(self);
            }
            Ok(Seen::Receive(socket, wanted)) => receiving::begin(self, socket, wanted, thread, caller),
            Ok(Seen::Name(socket, peer, places)) => {
                let named = names_of_sockets::name(self, socket, peer);
                names_of_sockets::answer(&thread, named, places, caller);
            }
            Ok(Seen::Error(socket, places)) => {
                let error = ProgramSocket::new(socket).ok().and_then(|socket| self.connections.take_error(&socket));
                names_of_sockets::answer_error(&thread, error, places, caller);
            }
        }
    }

    fn connect(&self, thread: &Thread, socket: OwnedFd, family: AddressFamily, address: &[u8], caller: Caller) {
        match family {
            AddressFamily::INET | AddressFamily::INET6 => match program_socket(socket) {
                Ok(socket) if socket.transport == Transport::Tcp => self.connections.connect(socket, address, caller),
                Ok(socket) if socket.transport == Transport::Udp => {
                    let done = self.datagrams.connect(&socket, address);
                    drop(socket);
                    caller.hear(done);
                }
                Ok(_) => caller.hear(Err(Errno::EACCES)),
                Err(errno) => caller.hear(Err(errno)),
            },
            AddressFamily::UNIX => self.connect_unix(thread, socket, address, caller),
            AddressFamily::NETLINK => {
                let done = plain(sys::connect_as_given(&socket, address));
                drop(socket);
                caller.hear(done);
            }
            // One that the program was given, of a family that it cannot make.
            _ => caller.hear(Err(Errno::EACCES)),
        }
    }

    fn connect_unix(&self, thread: &Thread, socket: OwnedFd, given: &[u8], caller: Caller) {
        let judged = match address::family_of(given) {
            Some(libc::AF_UNIX) => self.unix.judge(thread, given),
            // The kernel says what is wrong with it, or ends what the socket was connected to.
            _ => Ok(Judged::of(given)),
        };
        let done = judged.and_then(|judged| match plain(judged.connect(&socket)) {
            // Whoever listens lets it wait.
            Err(Errno::EAGAIN) if is_waiting(&socket) => Ok(Some(judged)),
            done => done.map(|()| None),
        });
        match done {
            Ok(Some(judged)) => {
                let Ok(place) = self.unix.waiting.clone().try_acquire_owned() else {
                    drop(socket);
                    return caller.hear(Err(Errno::EAGAIN));
                };
                self.runtime.spawn(async move {
                    judged.wait(socket, caller).await;
                    drop(place);
                });
            }
            Ok(None) => {
                drop(socket);
                caller.hear(Ok(()));
            }
            Err(errno) => {
                drop(socket);
                caller.hear(Err(errno));
            }
        }
    }

    fn bind(&self, thread: &Thread, socket: OwnedFd, family: AddressFamily, address: &[u8]) -> Result<(), Errno> {
        match family {
            AddressFamily::INET | AddressFamily::INET6 => {
                self.own_ports.bind(&program_socket(socket)?, address, thread)
            }
            AddressFamily::UNIX => self.unix.bind(thread, &socket, address),
            AddressFamily::NETLINK => plain(sys::bind_as_given(&socket, address)),
            _ => Err(Errno::EACCES),
        }
    }

    fn listen(&self, socket: OwnedFd, family: AddressFamily, backlog: i32) -> Result<(), Errno> {
        match family {
            AddressFamily::INET | AddressFamily::INET6 => self.own_ports.listen(&program_socket(socket)?, backlog),
            AddressFamily::UNIX => plain(rustix::net::listen(&socket, backlog).map_err(Into::into)),
            _ => Err(Errno::EACCES),
        }
    }
}

/// A socket of one of the internet's families.
///
/// # Errors
/// What the program hears.
pub fn program_socket(socket: OwnedFd) -> Result<ProgramSocket, Errno> {
    ProgramSocket::new(socket).map_err(|error| Errno::of(&error).unwrap_or(Errno::EINVAL))
}

/// Reads what a call is about.
fn look(thread: &Thread, Notification { number, arguments, .. }: &Notification) -> Result<Seen, Errno> {
    let [fd, second, third, fourth, fifth, sixth] = *arguments;
    let (socket, family) = socket_of(thread.0, fd)?;
    let is_inet = matches!(family, AddressFamily::INET | AddressFamily::INET6);
    Ok(match *number {
        libc::SYS_connect => Seen::Connect(socket, family, address_of(thread.0, second, third)?),
        libc::SYS_bind => Seen::Bind(socket, family, address_of(thread.0, second, third)?),
        libc::SYS_listen => Seen::Listen(socket, family, second as i32),
        libc::SYS_sendto => {
            let name = address_of(thread.0, fifth, sixth)?;
            let message = Message::plain(name, second, third as usize);
            Seen::Send(socket, family, vec![message], fourth as i32, None)
        }
        libc::SYS_sendmsg => Seen::Send(socket, family, vec![Message::read(thread, second)?], third as i32, None),
        libc::SYS_sendmmsg => {
            let messages = Message::read_many(thread, second, third as u32 as usize)?;
            Seen::Send(socket, family, messages, fourth as i32, Some(second))
        }
        _ if !is_inet => Seen::Passed,
        libc::SYS_getpeername | libc::SYS_getsockname => {
            Seen::Name(socket, *number == libc::SYS_getpeername, [second, third])
        }
        libc::SYS_getsockopt => Seen::Error(socket, [fourth, fifth]),
        libc::SYS_recvfrom => Seen::Receive(socket, receiving::Wanted::From { arguments: *arguments }),
        libc::SYS_recvmsg => Seen::Receive(socket, receiving::Wanted::Message { place: second, flags: third as i32 }),
        libc::SYS_recvmmsg => Seen::Receive(socket, receiving::Wanted::many(thread, *arguments)?),
        // The filter notifies of nothing else.
        _ => return Err(Errno(libc::ENOSYS as u16)),
    })
}

/// Reads a number of 32 bits of a thread.
///
/// # Errors
/// What the program hears.
pub fn number_of(thread: &Thread, place: u64) -> Result<u32, Errno> {
    let bytes = memory_of(thread.0, place, 4)?;
    Ok(bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)))
}
