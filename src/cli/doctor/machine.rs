//! This machine: its kernel, and what `capuchin run` needs of it.

use std::{fs, io};

use super::{Check, State};
use crate::borrow::run::{self, HOST_VARIABLE, Probed, Tried, Way};

/// The oldest kernel that is supported, and the oldest under which `run` lets programs listen.
const KERNEL_FLOOR: (u32, u32) = (5, 15);
const KERNEL_LISTENS: (u32, u32) = (5, 19);

/// How `capuchin run` would hold a program on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In a network of its own, whose packets go where the person is told.
    Namespaces(Way),
    /// By a filter of its calls alone, if the person asks for that.
    Filter,
    /// Not at all: it is held already.
    Nested,
    /// Not at all: this machine gives neither.
    None,
}

/// Everything that can be looked at here, and how a program would be held. Before any thread exists.
pub fn checks() -> (Vec<Check>, Mode) {
    let mut checks = vec![kernel(&rustix::system::uname().release().to_string_lossy())];
    let (network, mode) = network();
    checks.extend(network);
    checks.extend([fuse(), io_uring()]);
    (checks, mode)
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let text = format!("Linux {release}");
    match (major, minor) {
        version if version < KERNEL_FLOOR => {
            Check::fail("kernel", text, vec!["help: capuchin needs Linux 5.15 or newer".to_owned()])
        }
        version if version < KERNEL_LISTENS => {
            Check::warn("kernel", text, "note: programs under `capuchin run` can listen from Linux 5.19 on")
        }
        _ => Check::ok("kernel", text),
    }
}

/// Each thing is tried for real, and nothing of it is left.
fn network() -> (Vec<Check>, Mode) {
    if let Some(host) = std::env::var_os(HOST_VARIABLE) {
        let text = format!("this is inside `capuchin run {}`", host.to_string_lossy());
        let nested = Check::warn("namespaces", text, "help: leave it first; a network cannot be borrowed twice");
        return (vec![nested], Mode::Nested);
    }
    match run::probe() {
        Ok(Probed { tried, without }) => {
            let mut checks: Vec<_> = tried.into_iter().map(|(name, outcome)| step(name, outcome)).collect();
            let works = checks.iter().all(|check| check.state != State::Fail);
            let mode = Mode::Namespaces(if without.is_none() { Way::Nftables } else { Way::Tun });
            let way = without.map_or_else(by_nftables, by_tun);
            // Where neither works, what is broken says all.
            if works || way.state != State::Ok {
                checks.push(way);
            }
            if works { (checks, mode) } else { by_filter(checks) }
        }
        Err(error) => by_filter(vec![Check::fail("namespaces", error.to_string(), error.notes())]),
    }
}

/// What is left where `broken` says why there are no namespaces.
fn by_filter(mut broken: Vec<Check>) -> (Vec<Check>, Mode) {
    let (left, mode) = match run::probe_filter() {
        Ok(()) => {
            let text =
                "a program can be held by a filter of its calls alone (`capuchin run --no-netns`), which is weaker";
            (Check::ok("no-netns", text), Mode::Filter)
        }
        Err(error) => {
            // No advice that would disappoint.
            broken.iter_mut().for_each(|check| check.mend.retain(|line| line != run::WITHOUT));
            (Check::fail("no-netns", error.to_string(), error.notes()), Mode::None)
        }
    };
    broken.push(left);
    (broken, mode)
}

fn step(name: &'static str, outcome: Result<(), run::RunError>) -> Check {
    match outcome {
        Ok(()) => Check::ok(
            name,
            match name {
                "namespaces" => "a network of one's own can be made",
                "tun" => "a TUN device can be made in it",
                "tproxy" => "transparent sockets and packet taps open in it",
                "nf_tables" => "its packet filter loads",
                "routes" => "every address can be made local in it",
                "seccomp" => "a program can be confined to it",
                _ => "what a program binds can be bound at the lender before",
            },
        ),
        // A program that only connects does without.
        Err(error) if name == "listening" => {
            let text = format!("programs under `capuchin run` cannot listen: {error}");
            Check { name, state: State::Warn, text, mend: error.notes() }
        }
        Err(error) => Check::fail(name, error.to_string(), error.notes()),
    }
}

fn by_nftables() -> Check {
    Check::ok("way", "`capuchin run` leads the program's packets by nf_tables")
}

/// It works, and is second best.
fn by_tun((_, why): Tried) -> Check {
    let text = "`capuchin run` leads the program's packets by a TUN device: slower, and [::1] is the program's own";
    let (text, mend) = match why {
        Ok(()) => (text.to_owned(), Vec::new()),
        Err(why) => (format!("{text}; {why}"), why.notes()),
    };
    Check { name: "way", state: State::Warn, text, mend }
}

fn fuse() -> Check {
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Check::ok("fuse", "/dev/fuse opens: remote files can be mounted"),
        Err(error) => {
            let help = match error.kind() {
                io::ErrorKind::NotFound => "help: sudo modprobe fuse; only mounting remote files needs it",
                _ => "help: sudo chmod 666 /dev/fuse; only mounting remote files needs it",
            };
            Check::warn("fuse", format!("/dev/fuse does not open: {error}"), help)
        }
    }
}

/// Programs under `run` do not get it, and those that can do without fall back.
fn io_uring() -> Check {
    match fs::read_to_string("/proc/sys/kernel/io_uring_disabled").as_deref().map(str::trim) {
        Ok("2") => {
            Check::ok("io_uring", "this kernel has it switched off, as programs under `capuchin run` find it anyway")
        }
        _ => Check::ok("io_uring", "programs under `capuchin run` find it missing, and fall back"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_judged_by_their_version_and_not_as_text() {
        for (release, state) in [
            ("5.4.0-150-generic", State::Fail),
            ("5.15.0", State::Warn),
            ("5.19.17", State::Ok),
            ("6.1.0-18-amd64", State::Ok),
            ("10.0", State::Ok),
            ("odd", State::Fail),
        ] {
            assert_eq!(kernel(release).state, state, "{release}");
        }
    }
}
