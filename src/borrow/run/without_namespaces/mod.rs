//! A program on another machine's network without a network of its own: for machines that forbid user namespaces.
//!
//! ```text
//!   program ── connect, bind, send … ──▶ kernel ── seccomp asks ──▶ calls ─┬─▶ connections ─ tcp-connect ═══▶ lender
//!      ▲                                                                   │        └─ held: where a connect waits
//!      │                                                                   ├─▶ datagrams ─ udp-bind, resolve ═══▶ lender
//!      └── 0, a number of bytes, or an error; where a socket leads ◀───────┼─▶ own_ports: bind and listen, on loopback
//!                                                                          └─▶ unix: paths, each resolved once
//! ```
//! No privilege and no namespace is needed. The program has this machine's network, and a filter ([`filter`](mod@filter)) that lets no call with
//! an address through to it: each is done in its place, on a duplicate of its own socket, by what was read of its memory once.
//! What it connects to is dialed by the lender and then met on loopback ([`held`]), so that the kernel does all of TCP here as well; what
//! it sends to port 53 of its resolvers is asked of the lender. Where its sockets lead, it hears as it is with the lender.
//!
//! # What is weaker
//! A network namespace without a device cannot leak, whatever is in it. Here everything hangs on the filter, and on what is done in
//! the program's place, and:
//!
//! - a socket that the program was given (stdin, `--keep-fd`) or gets from another process of this machine leads where it leads, as it does in
//!   the other mode; here such processes are easier met, since the program sees this machine's files as they are;
//! - Unix sockets are refused by the same list that is covered in the other mode, and what is not on it is reached; a program that
//!   acts as another user than capuchin reaches none by its path;
//! - other processes of the same user are kept apart by Landlock, from Linux 6.7 on where it is switched on: their memory (/proc/PID/mem),
//!   and from 6.12 on signals to them; before, that is open as far as this machine lets a user open it (debugging as
//!   such, ptrace and process_vm_writev, is forbidden in any case);
//! - a device that sends by itself and is this user's to open (InfiniBand, vhost-vsock) is not covered; a tap is (TUNSETIFF is EPERM);
//! - loopback is this machine's: what the program listens on, other users of this machine reach, and they can hold its ports;
//! - resolv.conf, hosts and nsswitch.conf are this machine's: a name in its hosts file is what that says, and a resolver that is no file and
//!   no DNS (mdns) finds nothing. No address or route of the lender's is seen.
//!
//! # What does not work
//! - Listening for anybody but the program itself: what is bound is bound to loopback, and listen(2) of anything else is EACCES, with one
//!   line on stderr. `--publish` is refused. A port for datagrams is bound all the same, since a client may want one; it hears those whom
//!   the program has sent to, and one line says so.
//! - A datagram that is refused is silence, since no packet comes that says so; groups and broadcast are out of reach (ENETUNREACH,
//!   ENODEV), and no socket cuts all that it sends into datagrams (UDP_SEGMENT is ENOPROTOOPT), only a message that says so.
//! - A socket that is being connected cannot be given up by connecting it to no family (AF_UNSPEC): EALREADY until the lender answers.
//! - A signal handler does not interrupt a call that waits here (a signal that ends the program does), and where a connection has failed,
//!   a program that reads instead of asking for SO_ERROR or connecting again reads ECONNRESET.
//! - Before Linux 5.19 any signal begins a call anew that waits here, and the lender's dialing with it.
//! - No socket keeps to a device (SO_BINDTODEVICE, IP_UNICAST_IF, IPV6_PKTINFO and the like are EPERM): what goes to loopback by
//!   another device leaves this machine. One that the program was given, and that does, connects to nobody (ENETUNREACH).
//! - Data with the first packet (MSG_FASTOPEN) is said to be switched off; TCP_FASTOPEN_CONNECT has no effect. MSG_ZEROCOPY has no room (ENOBUFS).
//! - A peer by a Unix socket sees capuchin's process id (SO_PEERCRED, SCM_CREDENTIALS). Programs of 32 bits have no sockets at all, and
//!   debuggers do not work.
//! - Sockets for datagrams that are answered or connected are 1,024 at once (ENOBUFS), and far ends 256 for each and 4,096 for all, a
//!   quarter of the descriptors that capuchin may have at most: what then comes late from one that was quiet for longest is from
//!   an address of this machine, if it was not read before.
//! - A program that acts as another user than capuchin sends by a Unix socket with write(2) and send(2) alone: sendmsg(2), and a
//!   destination, are EACCES. Nobody gives other credentials (SCM_CREDENTIALS) than capuchin's user and group (EPERM).
//! - A process that may not be looked at (set-user-ID, PR_SET_DUMPABLE 0) can connect to nothing (EACCES).
//!
//! # Security
//! The program is hostile. Nothing that it can change is judged and then passed to the kernel (see [`calls`]): not an address, not
//! the socket under a number, not a path. Where there is Landlock, the kernel itself refuses every bind and connect of TCP that
//! the program would make by its own call. When nobody answers any more, the kernel lets no supervised call through (ENOSYS), and the program dies.
mod address;
mod answers;
mod calls;
mod connections;
mod datagrams;
mod filter;
mod handing;
mod held;
mod known;
mod messages;
mod names_of_sockets;
mod network;
mod own_ports;
mod receiving;
mod relays;
mod sending;
mod thread;
mod unix;
mod waiting;

pub use filter::filter;
pub use handing::Handing;
pub use network::WithoutNamespaces;

/// The line that a person reads at each start.
pub const WEAKER: &str =
    "--no-netns is weaker: no namespace holds the program, only a filter of its system calls (see capuchin run --help)";
