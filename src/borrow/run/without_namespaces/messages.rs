//! sendto, sendmsg and sendmmsg of a program, done in its place: what it sends is read once and sent by what was read, since what
//! stands in its memory can change as soon as it was looked at.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::process::{Signal, getegid, geteuid, getpid};

use super::{filter::UDP_SEGMENT, thread::Thread};
use crate::{
    borrow::run::supervisor::{ADDRESS_BYTES_MAX, memory_of, out_of_reach},
    proto::Errno,
    sys,
};

/// Read and sent at once, in bytes: more than any datagram has.
pub const PIECE_BYTES_MAX: usize = 256 * 1024;
/// Pieces of one message (UIO_MAXIOV).
const PARTS_MAX: usize = 1024;
/// Control messages of one message, in bytes; the kernel has its own limit (net.core.optmem_max).
const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Names are socket addresses.
const NAME_BYTES_MAX: usize = ADDRESS_BYTES_MAX as usize;
/// Messages of one sendmmsg (UIO_MAXIOV); the kernel takes no more either.
pub const MESSAGES_MAX: usize = 1024;
/// Descriptors of one message (SCM_MAX_FD), and of one call.
const PASSED_MAX: usize = 253;
const PASSED_AT_ONCE_MAX: usize = 1024;
/// Control messages and places of pieces of one call, in bytes: as much is held while the call waits.
const HELD_BYTES_MAX: usize = 256 * 1024;
/// An `msghdr` of 64 bits, and where an `mmsghdr` has the length that was sent.
const HEADER_BYTES: usize = 56;
pub const MANY_BYTES: u64 = 64;
/// An `iovec` of 64 bits.
const PART_BYTES: usize = 16;
/// A `cmsghdr` of 64 bits.
const CONTROL_HEADER_BYTES: usize = 16;

/// A message in a thread's memory.
#[derive(Debug, Default)]
pub struct Message {
    /// To whom; empty: to whom the socket is connected.
    pub name: Vec<u8>,
    /// Control messages, as the kernel reads them; descriptors are ours.
    pub control: Vec<u8>,
    /// What the control messages pass on.
    passed: Vec<OwnedFd>,
    parts: Vec<(u64, usize)>,
}

impl Message {
    /// That of a sendto.
    ///
    /// # Errors
    /// What the program hears.
    pub fn plain(name: Vec<u8>, place: u64, length: usize) -> Self {
        Self { name, parts: vec![(place, length)], ..Self::default() }
    }

    /// The `msghdr` at `place`.
    ///
    /// # Errors
    /// What the program hears.
    pub fn read(thread: &Thread, place: u64) -> Result<Self, Errno> {
        let header = memory_of(thread.0, place, HEADER_BYTES)?;
        let word = |at: usize| {
            header.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_ne_bytes(*word))
        };
        let (name_at, name_bytes) = (word(0), word(8) as u32 as usize);
        let (parts_at, parts) = (word(16), word(24) as usize);
        let (control_at, control_bytes) = (word(32), word(40) as usize);
        if parts > PARTS_MAX {
            return Err(Errno::EMSGSIZE);
        }
        if control_bytes > CONTROL_BYTES_MAX {
            return Err(ENOBUFS);
        }
        let name_bytes = if name_at == 0 { 0 } else { name_bytes };
        if name_bytes as i32 as i64 != name_bytes as i64 {
            return Err(Errno::EINVAL);
        }
        let name = memory_of(thread.0, name_at, name_bytes.min(NAME_BYTES_MAX))?;
        let parts = memory_of(thread.0, parts_at, parts * PART_BYTES)?;
        let (parts, _) = parts.as_chunks::<PART_BYTES>();
        let parts = parts.iter().map(|part| {
            let (at, length) = part.split_at(8);
            let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
            (word(at), word(length) as usize)
        });
        let parts: Vec<_> = parts.collect();
        let mut control = if control_at == 0 { Vec::new() } else { memory_of(thread.0, control_at, control_bytes)? };
        let passed = make_own(thread, &mut control)?;
        Ok(Self { name, control, passed, parts })
    }

    /// The messages of a sendmmsg, or as many of the first ones as pass on, and hold, what there is room for: the program asks for
    /// the rest again.
    ///
    /// # Errors
    /// What the program hears.
    pub fn read_many(thread: &Thread, place: u64, count: usize) -> Result<Vec<Self>, Errno> {
        let (mut messages, mut passed, mut held) = (Vec::new(), 0, 0);
        for number in 0..count.min(MESSAGES_MAX) {
            let message = Self::read(thread, place.wrapping_add(number as u64 * MANY_BYTES))?;
            passed += message.passed.len();
            held += message.control.len() + message.parts.len() * PART_BYTES;
            if passed > PASSED_AT_ONCE_MAX || held > HELD_BYTES_MAX {
                break;
            }
            messages.push(message);
        }
        Ok(messages)
    }

    /// Its length, in bytes.
    pub fn length(&self) -> usize {
        self.parts.iter().fold(0, |sum, (_, length)| sum.saturating_add(*length))
    }

    /// The length of each datagram that it is to be cut into, in bytes; `None`: it is one.
    pub fn segment(&self) -> Option<usize> {
        let mut rest = self.control.as_slice();
        while let Some((header, body)) = rest.split_first_chunk::<CONTROL_HEADER_BYTES>() {
            let [length @ .., _, _, _, _, _, _, _, _] = *header;
            let length = u64::from_ne_bytes(length) as usize;
            if number_at(header, 8) == libc::SOL_UDP as u32 && number_at(header, 12) == UDP_SEGMENT {
                let bytes = u16::from_ne_bytes(*body.first_chunk()?);
                return (bytes > 0).then_some(bytes.into());
            }
            rest = rest.get(length.clamp(CONTROL_HEADER_BYTES, CONTROL_BYTES_MAX).next_multiple_of(8)..)?;
        }
        None
    }

    /// What it holds from `from` on, `most` bytes at most.
    ///
    /// # Errors
    /// What the program hears.
    pub fn content(&self, thread: &Thread, from: usize, most: usize) -> Result<Vec<u8>, Errno> {
        let (mut content, mut skip) = (Vec::new(), from);
        for (place, length) in &self.parts {
            let skipped = skip.min(*length);
            skip -= skipped;
            let wanted = (length - skipped).min(most - content.len());
            content.extend(memory_of(thread.0, place.wrapping_add(skipped as u64), wanted)?);
        }
        Ok(content)
    }
}

/// Puts descriptors of ours, for the same open files, in the place of the thread's, and our number in the place of its own.
fn make_own(thread: &Thread, control: &mut [u8]) -> Result<Vec<OwnedFd>, Errno> {
    let (mut passed, mut at) = (Vec::new(), 0);
    while let Some(header) = control.get(at..).and_then(|rest| rest.first_chunk::<CONTROL_HEADER_BYTES>()).copied() {
        let word = |at: usize| number_at(&header, at);
        let length = header.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word)) as usize;
        let Some(body) = length.checked_sub(CONTROL_HEADER_BYTES) else { return Err(Errno::EINVAL) };
        let start = at + CONTROL_HEADER_BYTES;
        let Some(body) = start.checked_add(body).and_then(|end| control.get_mut(start..end)) else {
            return Err(Errno::EINVAL);
        };
        if word(8) == libc::SOL_SOCKET as u32 && word(12) == libc::SCM_RIGHTS as u32 {
            let (numbers, _) = body.as_chunks_mut::<4>();
            if passed.len() + numbers.len() > PASSED_MAX {
                return Err(Errno::EINVAL);
            }
            for number in numbers {
                let theirs = i32::from_ne_bytes(*number);
                let file = sys::duplicate_of_thread(thread.0, theirs).map_err(|error| out_of_reach(&error))?;
                *number = file.as_raw_fd().to_ne_bytes();
                passed.push(file);
            }
        } else if word(8) == libc::SOL_SOCKET as u32
            && word(12) == libc::SCM_CREDENTIALS as u32
            && let Some([process, user, group]) = body.as_chunks_mut::<4>().0.first_chunk_mut::<3>()
        {
            // Nobody may say that he is somebody else; the kernel would ask whether we may.
            let said = (u32::from_ne_bytes(*user), u32::from_ne_bytes(*group));
            if said != (geteuid().as_raw(), getegid().as_raw()) {
                return Err(Errno(libc::EPERM as u16));
            }
            *process = getpid().as_raw_nonzero().get().to_ne_bytes();
        }
        at = start + length.saturating_sub(CONTROL_HEADER_BYTES).next_multiple_of(8);
    }
    Ok(passed)
}

/// A number of 32 bits of a header.
fn number_at(header: &[u8; CONTROL_HEADER_BYTES], at: usize) -> u32 {
    header.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_ne_bytes(*word))
}

/// Sends a piece; `Err(EAGAIN)` where there is no room.
///
/// # Errors
/// What the program hears.
pub fn send(socket: impl AsFd, name: &[u8], content: &[u8], control: &[u8], flags: i32) -> Result<usize, Errno> {
    let message = sys::OutgoingMessage { name, content, control };
    sys::send_as_given(socket, &message, flags).map_err(|error| Errno::of(&error).unwrap_or(Errno::EINVAL))
}

/// As the kernel does for who has not asked to be spared (MSG_NOSIGNAL).
pub fn signal_broken_pipe(thread: &Thread, flags: i32, failed: Errno) {
    if failed.0 == libc::EPIPE as u16 && flags & libc::MSG_NOSIGNAL == 0 {
        let _ = sys::signal_thread(thread.0, Signal::PIPE);
    }
}

/// There is no room.
pub const ENOBUFS: Errno = Errno(libc::ENOBUFS as u16);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message that passes on one file so many times.
    fn control(count: usize) -> Vec<u8> {
        let file = std::io::stdin().as_raw_fd();
        let mut control = ((CONTROL_HEADER_BYTES + 4 * count) as u64).to_ne_bytes().to_vec();
        control.extend([libc::SOL_SOCKET, libc::SCM_RIGHTS].iter().flat_map(|word| word.to_ne_bytes()));
        control.extend((0..count).flat_map(|_| file.to_ne_bytes()));
        control
    }

    #[test]
    fn a_message_passes_on_as_many_files_as_the_kernel_takes() {
        let own = Thread(getpid().as_raw_nonzero().get());
        assert_eq!(make_own(&own, &mut control(PASSED_MAX)).unwrap().len(), PASSED_MAX);
        assert_eq!(make_own(&own, &mut control(PASSED_MAX + 1)).map(drop), Err(Errno::EINVAL));
    }

    #[test]
    fn a_call_passes_on_no_more_than_there_is_room_for() {
        let own = Thread(getpid().as_raw_nonzero().get());
        let control = control(PASSED_MAX);
        let mut headers = Vec::new();
        for _ in 0..9 {
            let words = [0, 0, 0, 0, control.as_ptr() as u64, control.len() as u64, 0, 0];
            headers.extend(words.iter().flat_map(|word: &u64| word.to_ne_bytes()));
        }
        let messages = Message::read_many(&own, headers.as_ptr() as u64, 9).unwrap();
        assert_eq!(messages.len(), PASSED_AT_ONCE_MAX / PASSED_MAX);
    }

    #[test]
    fn a_call_holds_no_more_than_there_is_room_for() {
        let own = Thread(getpid().as_raw_nonzero().get());
        let (parts, control) = (vec![0_u64; 2 * PARTS_MAX], vec![0xff_u8; CONTROL_BYTES_MAX]);
        let mut header = (CONTROL_BYTES_MAX as u64).to_ne_bytes().to_vec();
        header.extend(&control[8..]);
        for (parts_count, control_bytes, expected) in [
            (PARTS_MAX, 0, HELD_BYTES_MAX / (PARTS_MAX * PART_BYTES)),
            (0, CONTROL_BYTES_MAX, HELD_BYTES_MAX / CONTROL_BYTES_MAX),
            (1, 0, 1000),
        ] {
            let words =
                [0, 0, parts.as_ptr() as u64, parts_count as u64, header.as_ptr() as u64, control_bytes as u64, 0, 0];
            let headers: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>().repeat(1000);
            let messages = Message::read_many(&own, headers.as_ptr() as u64, 1000).unwrap();
            assert_eq!(messages.len(), expected, "{parts_count} {control_bytes}");
        }
    }

    /// Control messages, one behind the other, of kinds and lengths that may be lies.
    fn controls() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![Just(libc::SCM_RIGHTS), Just(libc::SCM_CREDENTIALS), any::<i32>()];
        let level = prop_oneof![Just(libc::SOL_SOCKET), any::<i32>()];
        let one = (level, kind, prop_oneof![-20..20_i64, any::<i64>()], proptest::collection::vec(any::<u8>(), 0..40));
        let one = one.prop_map(|(level, kind, lie, body)| {
            let length = (CONTROL_HEADER_BYTES + body.len()) as u64;
            let length = if lie < 0 { length } else { length.wrapping_add_signed(lie) };
            let mut bytes = [&length.to_ne_bytes()[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), &body].concat();
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes
        });
        proptest::collection::vec(one, 0..6).prop_map(|all| all.concat())
    }

    proptest! {
        #[test]
        fn whatever_is_passed_on_is_bounded_and_keeps_its_place(mut control in controls()) {
            let own = Thread(getpid().as_raw_nonzero().get());
            let before = control.len();
            if let Ok(passed) = make_own(&own, &mut control) {
                prop_assert!(passed.len() <= PASSED_MAX);
            }
            prop_assert_eq!(control.len(), before);
        }

        #[test]
        fn whatever_a_header_says_is_read_within_bounds(
            words in proptest::array::uniform7((0..4_u8, prop_oneof![0..300_u64, any::<u64>()])), most in 0..5000_usize,
        ) {
            let own = Thread(getpid().as_raw_nonzero().get());
            let memory = vec![0_u64; 4096];
            // A place of ours, nowhere, or anything at all.
            let words = words.map(|(kind, value)| match kind {
                0 => memory.as_ptr() as u64,
                1 => 0,
                _ => value,
            });
            let header: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            if let Ok(message) = Message::read(&own, header.as_ptr() as u64) {
                prop_assert!(message.name.len() <= NAME_BYTES_MAX && message.parts.len() <= PARTS_MAX);
                prop_assert!(message.control.len() <= CONTROL_BYTES_MAX);
                if let Ok(content) = message.content(&own, 0, most) {
                    prop_assert_eq!(content.len(), most.min(message.length()));
                }
            }
        }

        #[test]
        fn what_is_sent_is_what_stands_in_the_parts_from_wherever_it_goes_on(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20), from in 0..1000_usize,
            most in 0..1000_usize, name in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let own = Thread(getpid().as_raw_nonzero().get());
            let vectors: Vec<u64> = parts.iter().flat_map(|part| [part.as_ptr() as u64, part.len() as u64]).collect();
            let place = |bytes: &[u8]| bytes.as_ptr() as u64;
            let words = [place(&name), name.len() as u64, vectors.as_ptr() as u64, parts.len() as u64, 0, 0, 0];
            let header: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let message = Message::read(&own, place(&header)).unwrap();
            let whole = parts.concat();
            prop_assert_eq!((&message.name, message.length()), (&name, whole.len()));
            let from = from.min(whole.len());
            let expected: Vec<u8> = whole[from..].iter().copied().take(most).collect();
            prop_assert_eq!(message.content(&own, from, most).unwrap(), expected);
        }
    }
}
