//! The only unsafe code: one small safe function per system call.

#![allow(unsafe_code)]

mod acknowledged;
#[cfg(feature = "run")]
mod borrowed_network;
#[cfg(feature = "cli")]
mod caught_signals;
#[cfg(feature = "lend")]
mod datagram_errors;
#[cfg(any(feature = "borrow", feature = "lend"))]
mod datagram_source;
#[cfg(any(feature = "run", feature = "lend"))]
mod descendants;
#[cfg(feature = "cli")]
mod foreground;
#[cfg(any(feature = "run", feature = "lend"))]
mod fork;
#[cfg(feature = "run")]
mod inherited_fd;
#[cfg(feature = "run")]
mod inherited_signals;
#[cfg(any(feature = "run", feature = "lend"))]
mod interpreter;
#[cfg(feature = "lend")]
mod keyring;
#[cfg(feature = "run")]
mod landlock;
#[cfg(feature = "lend")]
mod listen_fd;
#[cfg(feature = "cli")]
mod namespace;
#[cfg(feature = "run")]
mod netlink;
#[cfg(feature = "run")]
mod notification;
#[cfg(any(feature = "borrow", feature = "lend"))]
mod original_destination;
#[cfg(feature = "run")]
mod other_process;
#[cfg(any(feature = "run", feature = "lend"))]
mod pass_fd;
#[cfg(feature = "run")]
mod privilege;
#[cfg(feature = "lend")]
mod program;
#[cfg(feature = "run")]
mod program_socket;
#[cfg(any(feature = "run", feature = "lend"))]
mod ready_fd;
#[cfg(feature = "run")]
mod received_signal;
#[cfg(feature = "run")]
mod seccomp;
#[cfg(any(feature = "run", feature = "lend"))]
mod signal_action;
#[cfg(feature = "lend")]
mod signal_number;
#[cfg(any(feature = "run", feature = "lend"))]
mod signals;
#[cfg(any(feature = "borrow", feature = "lend"))]
mod socket_option;
#[cfg(feature = "cli")]
mod stdio;
#[cfg(feature = "run")]
mod tap;
#[cfg(feature = "run")]
mod transparent;
#[cfg(feature = "run")]
mod tun;
#[cfg(feature = "lend")]
mod writers;

pub use acknowledged::{is_acknowledged, is_all_acknowledged};
#[cfg(feature = "run")]
pub use borrowed_network::enter_borrowed_network;
#[cfg(feature = "cli")]
pub use caught_signals::CaughtSignals;
#[cfg(feature = "lend")]
pub use datagram_errors::{keep_datagram_errors, take_datagram_error};
#[cfg(any(feature = "borrow", feature = "lend"))]
pub use datagram_source::{note_destinations, send_datagram_from};
#[cfg(feature = "run")]
pub use descendants::is_left_by_descendants;
#[cfg(any(feature = "run", feature = "lend"))]
pub use descendants::signal_descendants;
#[cfg(feature = "cli")]
pub use foreground::is_in_foreground;
#[cfg(any(feature = "run", feature = "lend"))]
pub use fork::{Forked, fork};
#[cfg(feature = "run")]
pub use inherited_fd::{close_at_exec, is_open};
#[cfg(feature = "run")]
pub use inherited_signals::give_inherited_signals;
#[cfg(feature = "cli")]
pub use inherited_signals::hear_of_children;
#[cfg(feature = "run")]
pub use interpreter::interpreter_of_existing;
#[cfg(feature = "run")]
pub use landlock::keep_to_itself;
#[cfg(feature = "lend")]
pub use listen_fd::{ListenFdError, adopt_listener};
#[cfg(feature = "cli")]
pub use namespace::{bind_file, enter_private_network, set_up_loopback};
#[cfg(feature = "run")]
pub use netlink::{NETLINK_ANSWER_BYTES_MAX, netlink_exchange, netlink_exchange_in, netlink_listener, netlink_socket};
#[cfg(feature = "run")]
pub use notification::{
    Notification, Verdict, answer_notification, is_waiting, receive_notification, wake_callers_at_once,
};
#[cfg(any(feature = "borrow", feature = "lend"))]
pub use original_destination::{Arrived, receive_datagram};
#[cfg(feature = "run")]
pub use other_process::{duplicate_of_thread, read_memory_of_thread, signal_thread, write_memory_of_thread};
#[cfg(feature = "run")]
pub use pass_fd::receive_message;
#[cfg(feature = "lend")]
pub use pass_fd::receive_with_fds;
#[cfg(any(feature = "run", feature = "lend"))]
pub use pass_fd::send_with_fds;
#[cfg(feature = "run")]
pub use privilege::give_up_privileges;
#[cfg(feature = "cli")]
pub use program::give_stdio_alone;
#[cfg(feature = "lend")]
pub use program::{Become, Launch, Launched, NotLaunched, Step, WHAT_BYTES_MAX, become_user, close_inherited, launch};
#[cfg(feature = "run")]
pub use program_socket::{
    OutgoingMessage, ReceivedMessage, await_socket, bind_as_given, connect_as_given, connect_without_delay,
    name_of_socket, network_of, own_folder_and_mask, receive_as_given, send_as_given,
};
#[cfg(feature = "run")]
pub use ready_fd::read_when_ready;
#[cfg(any(feature = "run", feature = "lend"))]
pub use ready_fd::{await_readable, until_writable};
#[cfg(feature = "run")]
pub use received_signal::{ReceivedSignal, read_signal, unblock_signals, with_signals_open};
#[cfg(feature = "run")]
pub use seccomp::{Instruction, install_filter};
#[cfg(feature = "lend")]
pub use signal_action::heed_file_size_limit;
#[cfg(feature = "cli")]
pub use signal_action::{is_ignored, outlive_file_size_limit, with_default_action};
#[cfg(feature = "lend")]
pub use signal_number::signal;
#[cfg(any(feature = "run", feature = "lend"))]
pub use signals::{block_signals, signal_fd};
#[cfg(feature = "lend")]
pub use socket_option::hear_own_groups_only;
#[cfg(feature = "cli")]
pub use stdio::{close_stdout, silence_stdio};
#[cfg(feature = "run")]
pub use tap::{TAPPED_BYTES_MAX, syn_tap};
#[cfg(feature = "run")]
pub use transparent::{has_ipv6, raw_socket, suit_loopback, transparent_listener, transparent_udp, visitor_socket};
#[cfg(feature = "run")]
pub use tun::tun_device;
#[cfg(feature = "lend")]
pub use writers::is_open_for_writing;
