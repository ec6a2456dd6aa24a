//! Messages of a program on their way, until each is sent or there is an error.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{OFlags, fcntl_getfl},
    net::{AddressFamily, SocketType, sockopt},
};

use super::{
    address,
    calls::{Calls, program_socket},
    datagrams::Datagrams,
    messages::{self, ENOBUFS, MANY_BYTES, Message, PIECE_BYTES_MAX},
    thread::Thread,
    unix::Judged,
};
use crate::{
    borrow::run::{
        listening::program_socket::Transport,
        supervisor::{Caller, out_of_reach},
    },
    proto::Errno,
    sys,
};

/// Where an `mmsghdr` has the length that was sent.
const LENGTH_AT: u64 = 56;
/// A datagram of a unix socket is not longer, in bytes.
const DATAGRAM_BYTES_MAX: usize = PIECE_BYTES_MAX * 4;

/// Nor are those together that one message is cut into.
const CUT_BYTES_MAX: usize = crate::proto::DATAGRAM_BYTES_MAX;

/// A call that sends.
pub struct Sending {
    pub socket: OwnedFd,
    pub family: AddressFamily,
    pub messages: Vec<Message>,
    pub flags: i32,
    /// Of sendmmsg: where the messages are.
    pub lengths_at: Option<u64>,
    pub thread: Thread,
    pub caller: Caller,
}

/// How a message is sent.
enum Way {
    /// By the kernel, to where the socket is connected, or to what was judged.
    Kernel(Option<Judged>),
    /// By the lender.
    Lender,
}

/// What became of as much as there was room for.
enum Sent {
    All,
    Waits,
    Failed(Errno),
}

impl Sending {
    /// Sends what there is room for, and lets the rest wait, where the socket waits.
    pub fn begin(mut self, calls: &Calls) {
        let mut progress = Progress::default();
        match progress.go_on(&mut self, calls) {
            Sent::Waits if self.waits() => {
                let parts = calls.parts();
                calls.runtime.spawn(async move { self.wait(parts, progress).await });
            }
            Sent::Waits => self.end(&progress, Some(Errno::EAGAIN)),
            Sent::All => self.end(&progress, None),
            Sent::Failed(errno) => self.end(&progress, Some(errno)),
        }
    }

    async fn wait(mut self, calls: Calls, mut progress: Progress) {
        let patience = sockopt::socket_timeout(&self.socket, sockopt::Timeout::Send).ok().flatten();
        let Ok(watched) = self.socket.try_clone().and_then(sys::await_socket) else {
            return self.end(&progress, Some(ENOBUFS));
        };
        let errno = loop {
            let room = async {
                let ready = watched.writable().await;
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
            };
            let late = async {
                match patience {
                    Some(patience) => tokio::time::sleep(patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = room => {}
                () = late => break Some(Errno::EAGAIN),
                () = super::waiting::gone(|| !self.caller.is_waiting()) => return,
            }
            if !self.caller.is_waiting() {
                // Its number may be somebody else's by now.
                return;
            }
            match progress.go_on(&mut self, &calls) {
                Sent::Waits => {}
                Sent::All => break None,
                Sent::Failed(errno) => break Some(errno),
            }
        };
        drop(watched);
        self.end(&progress, errno);
    }

    fn waits(&self) -> bool {
        let is_waiting = fcntl_getfl(&self.socket).is_ok_and(|flags| !flags.contains(OFlags::NONBLOCK));
        is_waiting && self.flags & libc::MSG_DONTWAIT == 0
    }

    /// As the kernel counts: what was sent before an error is told, and the error the next time.
    fn end(self, progress: &Progress, errno: Option<Errno>) {
        let Self { socket, thread, caller, flags, lengths_at, .. } = self;
        drop(socket);
        let count = if lengths_at.is_some() { progress.messages } else { progress.told() };
        match errno.filter(|_| !progress.any()) {
            Some(errno) => {
                messages::signal_broken_pipe(&thread, flags, errno);
                caller.hear(Err(errno));
            }
            None => caller.give(count as i64),
        }
    }
}

/// How far a call is.
#[derive(Default)]
struct Progress {
    /// Messages that are sent.
    messages: usize,
    /// Bytes of the one that is being sent.
    bytes: usize,
    /// Bytes of the last one that was sent.
    last: usize,
}

impl Progress {
    fn any(&self) -> bool {
        self.messages > 0 || self.bytes > 0
    }

    fn told(&self) -> usize {
        if self.messages > 0 { self.last } else { self.bytes }
    }

    fn go_on(&mut self, sending: &mut Sending, calls: &Calls) -> Sent {
        while let Some(message) = sending.messages.get(self.messages) {
            match self.send_one(sending, message, calls) {
                Sent::All => {}
                other => return other,
            }
            if let Some(at) = sending.lengths_at {
                let place = at.wrapping_add(self.messages as u64 * MANY_BYTES + LENGTH_AT);
                let length = (self.bytes as u32).to_ne_bytes();
                if let Err(error) = sys::write_memory_of_thread(sending.thread.0, place, &length) {
                    return Sent::Failed(out_of_reach(&error));
                }
            }
            (self.last, self.bytes) = (self.bytes, 0);
            self.messages += 1;
        }
        Sent::All
    }

    fn send_one(&mut self, sending: &Sending, message: &Message, calls: &Calls) -> Sent {
        let Sending { socket, family, thread, flags, .. } = sending;
        let is_stream = sockopt::socket_type(socket).is_ok_and(|kind| kind == SocketType::STREAM);
        let is_inet_datagram = !is_stream && matches!(*family, AddressFamily::INET | AddressFamily::INET6);
        let length = message.length();
        let way = match way(sending, message, is_stream, calls) {
            Ok(way) => way,
            Err(errno) => return Sent::Failed(errno),
        };
        if flags & libc::MSG_ZEROCOPY != 0 {
            return Sent::Failed(ENOBUFS);
        }
        // As the kernel would cut it, where it leaves the machine (udp(7)).
        let segment = message.segment().filter(|_| is_inet_datagram);
        let longest = if segment.is_some() { CUT_BYTES_MAX } else { DATAGRAM_BYTES_MAX };
        if !is_stream && length > longest {
            return Sent::Failed(Errno::EMSGSIZE);
        }
        loop {
            let most = if is_stream { PIECE_BYTES_MAX } else { segment.unwrap_or(DATAGRAM_BYTES_MAX) };
            let content = match message.content(thread, self.bytes, most) {
                Ok(content) => content,
                Err(errno) => return Sent::Failed(errno),
            };
            let piece = content.len();
            // What is passed on goes with the first byte. What would choose a way for a datagram, past where it is sent to, goes nowhere.
            let control = if self.bytes == 0 && !is_inet_datagram { message.control.as_slice() } else { &[] };
            let sent = match &way {
                Way::Kernel(judged) => {
                    let name = judged.as_ref().map_or(&[][..], |judged| &judged.address);
                    messages::send(socket, name, &content, control, *flags)
                }
                Way::Lender => to_lender(&calls.datagrams, socket, &message.name, content),
            };
            match sent {
                Ok(sent) => self.bytes += sent,
                Err(Errno::EAGAIN) => return Sent::Waits,
                Err(errno) => return Sent::Failed(errno),
            }
            if !(is_stream || segment.is_some()) || self.bytes >= length || piece == 0 {
                return Sent::All;
            }
        }
    }
}

fn to_lender(
    datagrams: &std::sync::Arc<Datagrams>,
    socket: &OwnedFd,
    name: &[u8],
    content: Vec<u8>,
) -> Result<usize, Errno> {
    let socket = socket.try_clone().map_err(|_| ENOBUFS)?;
    datagrams.send(&program_socket(socket)?, name, content)
}

fn way(sending: &Sending, message: &Message, is_stream: bool, calls: &Calls) -> Result<Way, Errno> {
    let Sending { socket, family, thread, flags, .. } = sending;
    let name = message.name.as_slice();
    match *family {
        AddressFamily::INET | AddressFamily::INET6 if is_stream => {
            // Data with the first packet is said to be switched off, as it is on many machines (net.ipv4.tcp_fastopen).
            if flags & libc::MSG_FASTOPEN != 0 { Err(Errno(libc::EOPNOTSUPP as u16)) } else { Ok(Way::Kernel(None)) }
        }
        AddressFamily::INET | AddressFamily::INET6 => {
            let transport = program_socket(socket.try_clone().map_err(|_| ENOBUFS)?)?.transport;
            match transport {
                Transport::Udp if name.is_empty() || address::family_of(name) == Some(libc::AF_UNSPEC) => {
                    Ok(Way::Kernel(None))
                }
                Transport::Udp => Ok(Way::Lender),
                _ => Err(Errno::EACCES),
            }
        }
        // By the kernel's word it would be from our user, whatever the receiver lets depend on it.
        AddressFamily::UNIX if !thread.is_our_user() => Err(Errno::EACCES),
        AddressFamily::UNIX if name.is_empty() || is_stream => Ok(Way::Kernel(None)),
        AddressFamily::UNIX => Ok(Way::Kernel(Some(calls.unix.judge(thread, name)?))),
        AddressFamily::NETLINK => Ok(Way::Kernel((!name.is_empty()).then(|| Judged::of(name)))),
        _ => Err(Errno::EACCES),
    }
}
