//! Why `run` does not start a program, and how to mend it.

use std::{fs, io, net::IpAddr, os::unix::ffi::OsStrExt, path::Path};

use super::{control::Step, find::find};
use crate::{BorrowError, proto::ErrorKind};

/// An AppArmor profile that lets this command make user namespaces where unprivileged programs may not (Ubuntu 23.10 and
/// later). `{path}` is the command.
const APPARMOR_PROFILE: &str = "\
abi <abi/4.0>,
include <tunables/global>

profile capuchin {path} flags=(unconfined) {
  userns,
  include if exists <local/capuchin>
}
";

/// Why a program does not run, or could not be looked after.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A step of the set-up failed on this machine.
    #[error("{what}: {source}")]
    SetUp {
        /// What was to be done.
        what: &'static str,
        /// What the system says.
        source: io::Error,
        /// How to mend it.
        notes: Vec<String>,
    },
    /// The program cannot be executed.
    #[error("cannot run {program}: {}{source}", of_interpreter(.interpreter.as_deref()))]
    Exec {
        /// The program as it was asked for.
        program: String,
        /// What is missing, if it is not the program: what its first line names, or its loader, which is without a name here.
        interpreter: Option<String>,
        /// What the system says.
        source: io::Error,
    },
    /// There is one network around another already.
    #[error("this is already inside `capuchin run {0}`: a network cannot be borrowed twice")]
    Nested(String),
    /// The program was to have a descriptor that there is not.
    #[error("descriptor {0}, which the program is to keep, is not open")]
    NotOpen(i32),
    /// The program's packets cross a TUN device, which takes none to this address.
    #[error("--local cannot keep {0} where packets cross a TUN device")]
    OutOfReach(IpAddr),
    /// The inner half was killed.
    #[error("the half of capuchin that looked after the program is gone, and the program with it")]
    Lost,
    /// A signal ended `run` before the program began.
    #[error("interrupted")]
    Interrupted(u8),
    /// The lender.
    #[error(transparent)]
    Borrow(#[from] BorrowError),
}

impl RunError {
    /// Which of the error kinds.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Borrow(error) => error.kind(),
            Self::Nested(_) | Self::NotOpen(_) | Self::OutOfReach(_) => ErrorKind::Usage,
            Self::SetUp { .. } | Self::Exec { .. } | Self::Lost | Self::Interrupted(_) => ErrorKind::Local,
        }
    }

    /// More lines for the user.
    pub fn notes(&self) -> Vec<String> {
        match self {
            Self::Borrow(error) => error.notes().to_vec(),
            Self::SetUp { notes, .. } => notes.clone(),
            Self::Nested(_) => vec!["help: leave it first, or name the target as the outer lender knows it".to_owned()],
            Self::NotOpen(_) => vec!["help: --keep-fd takes numbers of open descriptors, as in 3<file".to_owned()],
            Self::OutOfReach(_) => vec![
                "note: the kernel has no nf_tables with transparent proxying, and gives ::1 to the program alone"
                    .to_owned(),
                "help: sudo modprobe -a nf_tables nft_tproxy, or name 127.0.0.1".to_owned(),
            ],
            _ => Vec::new(),
        }
    }

    pub(crate) fn local(what: &'static str, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let notes =
            if source.raw_os_error() == Some(libc::EMFILE) { vec![MORE_DESCRIPTORS.to_owned()] } else { Vec::new() };
        Self::SetUp { what, source, notes }
    }

    /// What inner reported.
    pub(super) fn of_step(step: Step, errno: i32, program: &str) -> Self {
        let source = io::Error::from_raw_os_error(errno);
        let what = match step {
            Step::Exec => {
                let interpreter = interpreter_of(program).filter(|_| errno == libc::ENOENT);
                return Self::Exec { program: program.to_owned(), interpreter, source };
            }
            Step::Namespaces => "cannot make a network for the program",
            Step::Loopback => "cannot bring up the loopback device of the program's network",
            Step::Sockets => "cannot open the sockets that serve the program's network",
            Step::Rules => "cannot load the packet filter of the program's network",
            Step::Tun => "cannot make the TUN device of the program's network",
            Step::Network => "cannot set the addresses and routes of the program's network",
            Step::Fork => "cannot start a process",
            Step::Mask => "cannot put the lender's resolver files in the place of this machine's",
            Step::Confine => "cannot confine the program",
            Step::Reach => "cannot do the program's system calls in its place",
            Step::Control => "the two halves of capuchin cannot speak to each other",
        };
        Self::SetUp { what, source, notes: mend(step, errno, &Machine::look()) }
    }
}

fn of_interpreter(interpreter: Option<&str>) -> String {
    match interpreter {
        None => String::new(),
        Some("") => "the interpreter or loader that it needs cannot be executed: ".to_owned(),
        Some(interpreter) => format!("its interpreter {interpreter} cannot be executed: "),
    }
}

/// What a program that is there needs to be executed.
fn interpreter_of(program: &str) -> Option<String> {
    let interpreter = crate::sys::interpreter_of_existing(&find(program.as_ref())?)?;
    Some(String::from_utf8_lossy(&interpreter).into_owned())
}

/// What matters of this machine for the advice.
struct Machine {
    apparmor_restricts: bool,
    debian_forbids: bool,
    /// Kinds of namespaces of which none may be made.
    forbidden_kinds: Vec<&'static str>,
    has_seccomp: bool,
}

impl Machine {
    fn look() -> Self {
        let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            apparmor_restricts: is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            debian_forbids: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            forbidden_kinds: ["user", "net", "mnt"]
                .into_iter()
                .filter(|kind| is(&format!("/proc/sys/user/max_{kind}_namespaces"), "0"))
                .collect(),
            has_seccomp: status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])),
        }
    }
}

/// What a person can do about it.
fn mend(step: Step, errno: i32, machine: &Machine) -> Vec<String> {
    let forbidden = [libc::EPERM, libc::EACCES].contains(&errno);
    let mut lines: Vec<_> = if step == Step::Namespaces && errno == libc::ENOSPC && !machine.forbidden_kinds.is_empty()
    {
        let all = |each: fn(&str) -> String| machine.forbidden_kinds.iter().map(|kind| each(kind)).collect::<Vec<_>>();
        let zero = all(|kind| format!("user.max_{kind}_namespaces is 0"));
        let mended = all(|kind| format!("user.max_{kind}_namespaces=10000"));
        vec![format!("note: {}", zero.join(", and ")), format!("help: sudo sysctl {}", mended.join(" "))]
    } else {
        advice(step, errno, machine).iter().map(|line| (*line).to_owned()).collect()
    };
    match errno {
        libc::EMFILE => lines.push(MORE_DESCRIPTORS.to_owned()),
        libc::EFBIG => lines.push(LARGER_FILES.to_owned()),
        _ => {}
    }
    if step == Step::Namespaces || forbidden && machine.apparmor_restricts {
        lines.push(WITHOUT.to_owned());
    }
    lines
}

/// What is known of a step that failed so.
fn advice(step: Step, errno: i32, machine: &Machine) -> &'static [&'static str] {
    let forbidden = [libc::EPERM, libc::EACCES].contains(&errno);
    match step {
        Step::Rules | Step::Sockets if [libc::ENOENT, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT].contains(&errno) => &[
            "note: the kernel needs nf_tables with transparent proxying",
            "help: sudo modprobe -a nf_tables nft_tproxy",
        ],
        Step::Tun if forbidden => &[
            "note: the kernel has no nf_tables with transparent proxying, and /dev/net/tun is not this user's to open",
            "help: sudo modprobe -a nf_tables nft_tproxy, which is faster",
            "help: or sudo chmod 666 /dev/net/tun: what it can do takes power over a network anyway",
        ],
        Step::Tun => &[
            "note: the kernel has neither nf_tables with transparent proxying nor a TUN device",
            "help: sudo modprobe -a nf_tables nft_tproxy, which is faster",
            "help: or sudo modprobe tun; in a container, start it with --device /dev/net/tun (docker, podman)",
        ],
        Step::Network if [libc::EOPNOTSUPP, libc::EAFNOSUPPORT].contains(&errno) => &[
            "note: the kernel needs IPv6, and, without nf_tables, more than one table of routes (CONFIG_IP_MULTIPLE_TABLES)",
        ],
        Step::Namespaces if errno == libc::ENOSPC => &[
            "note: as many namespaces as this machine allows are in use (lsns lists them)",
            "help: sudo sysctl user.max_user_namespaces=100000 user.max_net_namespaces=100000 user.max_mnt_namespaces=100000",
        ],
        _ if forbidden && machine.apparmor_restricts => &[
            "note: AppArmor lets no unprivileged program make user namespaces here",
            "help: capuchin run --print-apparmor | sudo tee /etc/apparmor.d/capuchin && sudo apparmor_parser -r /etc/apparmor.d/capuchin",
        ],
        Step::Namespaces if forbidden && machine.debian_forbids => &[
            "note: kernel.unprivileged_userns_clone is 0: only root may make user namespaces",
            "help: sudo sysctl kernel.unprivileged_userns_clone=1",
        ],
        Step::Namespaces if forbidden && machine.has_seccomp => &[
            "note: a seccomp profile, perhaps of a container, forbids namespaces",
            "help: start the container with --security-opt seccomp=unconfined (docker, podman), or use `capuchin forward`",
        ],
        Step::Namespaces if errno == libc::EINVAL => &["note: the kernel was built without user or network namespaces"],
        Step::Confine if errno == libc::EBUSY => &[
            "note: another process is asked about the system calls of this one (seccomp): this is inside `capuchin run`, or a supervisor like it",
            "help: leave it first; a network cannot be borrowed twice",
        ],
        Step::Confine if machine.has_seccomp && (forbidden || errno == libc::ENOSYS) => &[
            "note: a seccomp profile, perhaps of a container, forbids programs to have a filter of their own (seccomp(2))",
            "help: start the container with --security-opt seccomp=unconfined (docker, podman), or use `capuchin forward`",
        ],
        Step::Reach if machine.has_seccomp && (forbidden || errno == libc::ENOSYS) => &[
            "note: a seccomp profile, perhaps of a container, keeps one process from another (pidfd_getfd(2), process_vm_readv(2))",
            "help: start the container with --security-opt seccomp=unconfined or --cap-add SYS_PTRACE (docker, podman)",
        ],
        Step::Reach if forbidden => &[
            "note: kernel.yama.ptrace_scope, or a security module, keeps one process of a user from another",
            "help: sudo sysctl kernel.yama.ptrace_scope=1",
        ],
        Step::Mask if errno == libc::ENOENT => &["help: --local-unix takes paths of sockets that exist"],
        _ => &[],
    }
}

/// For who allows too few.
const MORE_DESCRIPTORS: &str = "help: allow more open files (ulimit -n): each connection of the program takes two";

/// For who allows too small ones: those that stand in the place of this machine's are written.
const LARGER_FILES: &str = "help: allow larger files (ulimit -f)";

/// For machines where nobody mends it.
pub const WITHOUT: &str =
    "help: or add --no-netns, which needs no namespace and is weaker (capuchin run --help says how)";

/// The profile for the command at `path`.
pub fn apparmor_profile(path: &Path) -> String {
    APPARMOR_PROFILE.replace("{path}", &quoted(path.as_os_str().as_bytes()))
}

/// As apparmor.d(5) reads a path that means itself: with quotes, and what is a pattern, a variable or an end there by its number.
fn quoted(path: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let written = |byte: &u8| if is_plain(byte) { char::from(*byte).to_string() } else { format!("\\{byte:03o}") };
    let text: String = path.iter().map(written).collect();
    if path.iter().all(is_plain) { text } else { format!("\"{text}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { apparmor_restricts: false, debian_forbids: false, forbidden_kinds: Vec::new(), has_seccomp: false }
    }

    #[test]
    fn each_refusal_says_how_to_mend_it() {
        let mended = |step, errno, machine: Machine| mend(step, errno, &machine).join("\n");
        let apparmor = Machine { apparmor_restricts: true, ..machine() };
        assert!(mended(Step::Loopback, libc::EPERM, apparmor).contains("--print-apparmor"));
        let debian = Machine { debian_forbids: true, ..machine() };
        assert!(mended(Step::Namespaces, libc::EPERM, debian).contains("unprivileged_userns_clone=1"));
        let container = Machine { has_seccomp: true, ..machine() };
        assert!(mended(Step::Namespaces, libc::EPERM, container).contains("seccomp=unconfined"));
        assert!(mended(Step::Namespaces, libc::ENOSPC, machine()).contains("lsns"));
        let none = Machine { forbidden_kinds: vec!["user", "mnt"], ..machine() };
        let said = mended(Step::Namespaces, libc::ENOSPC, none);
        assert!(said.contains("user.max_user_namespaces is 0, and user.max_mnt_namespaces is 0"), "{said}");
        assert!(said.contains("sysctl user.max_user_namespaces=10000 user.max_mnt_namespaces=10000"), "{said}");
        assert!(mended(Step::Namespaces, libc::EPERM, machine()).contains("--no-netns"));
        assert!(!mended(Step::Mask, libc::ENOENT, machine()).contains("--no-netns"));
        assert!(mended(Step::Reach, libc::EPERM, machine()).contains("ptrace_scope"));
        for (step, mend) in [(Step::Reach, "--cap-add SYS_PTRACE"), (Step::Confine, "seccomp=unconfined")] {
            for errno in [libc::EPERM, libc::ENOSYS] {
                let container = Machine { has_seccomp: true, ..machine() };
                assert!(mended(step, errno, container).contains(mend), "{step:?} {errno}");
            }
        }
        assert!(mended(Step::Rules, libc::ENOENT, machine()).contains("modprobe"));
        assert!(mended(Step::Network, libc::EOPNOTSUPP, machine()).contains("table of routes"));
        for (errno, mend) in [(libc::ENOENT, "modprobe tun"), (libc::EACCES, "chmod")] {
            let both = mended(Step::Tun, errno, machine());
            assert!(both.contains("nft_tproxy") && both.contains(mend), "{both}");
        }
        assert!(mended(Step::Confine, libc::EBUSY, machine()).contains("twice"));
    }

    #[test]
    fn the_profile_names_the_command_and_nothing_else() {
        let profile = apparmor_profile(Path::new("/opt/bin/capuchin"));
        assert!(profile.contains("profile capuchin /opt/bin/capuchin flags=(unconfined) {\n  userns,"));
        let odd = apparmor_profile(Path::new("/opt/my \"b*n\"/\u{fc}\n@{x}"));
        let expected = r#"profile capuchin "/opt/my\040\042b\052n\042/\303\274\012\100\173x\175" flags=(unconfined) {"#;
        assert!(odd.lines().any(|line| line == expected), "{odd}");
    }
}
