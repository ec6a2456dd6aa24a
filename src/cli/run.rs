//! `capuchin run`: an unmodified program on another machine's network.

mod shell;
mod told;

use std::{
    cell::Cell,
    ffi::OsString,
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::task::JoinSet;

use self::{shell::Shell, told::Told};
use super::{
    block_on, connection,
    host::{HostArgument, Signals, host_in_place},
    presence::Presence,
    report::{Failure, one_line, print, warn},
};
use crate::{
    BorrowError, Borrower,
    borrow::run::{
        self, HOST_VARIABLE, Local, Plan, ProgramPipes, Publish, PublishedPort, Run, RunError, Serve, ServiceFeed, Way,
    },
    proto::ErrorKind,
};

/// Exit statuses of a program that cannot be executed, and of one that does not exist, as shells have them.
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Run a program on the lender's network: its connections are made there, under the lender's policy
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin run lab -- curl http://wiki.internal/        any program, as it is
  capuchin run lab                                      a shell; exit leaves it
  capuchin run lab -- python3 -m http.server 8000       met at lab's address
  capuchin run --publish 8080:80 lab -- nginx -g 'daemon off;'   at lab's 8080
  capuchin run --local 127.0.0.1:8080 lab -- npm test   port 8080 stays ours
  capuchin run lab --stdio service:calc -- bc           for who offers it there

What the program listens on is opened at the lender, as far as `listen` allows it, and who connects there reaches the program from its own \
address. Loopback is the lender's, but for ports that the program itself listens on, which are its alone. What the \
program leaves behind is ended with it: keep a server in the foreground, or add --wait-all. A signal that is sent to \
it is passed on, but for SIGPIPE, real-time signals and those of errors such as SIGXCPU; one that a process sends to \
its whole group therefore comes to the program twice.

--no-netns is for machines that forbid namespaces. It is weaker: the program has this machine's network, and a \
filter of its system calls lets it use none of it. Each call with an address is done in its place. Other processes \
of its user are not kept from it, nor its loopback ports from other users of this machine; hosts and resolv.conf are \
this machine's, whatever they name is asked of the lender. It listens on loopback alone (EACCES elsewhere), hears no \
datagram of whom it has not sent to, sends to no group, hears nothing where a datagram is refused by the other \
machine, and debuggers do not work in it. Who asks a Unix socket which process is behind it hears of capuchin's \
(SO_PEERCRED, SCM_CREDENTIALS): Chromium waits for ever then, but with its --no-zygote.

What is not the other machine's: connections and datagrams leave it from an address that it chooses, whatever \
address the program binds to them; a socket for datagrams that is bound to no port by number hears only whom it has \
sent to; out-of-band data (MSG_OOB) is left out; how long a silent far end is waited for is the other machine's to \
say, whatever the program sets (SO_KEEPALIVE, TCP_USER_TIMEOUT); nobody answers ping and what else is neither TCP \
nor UDP, nor hears groups and broadcasts; the only network device is loopback, which has the other machine's \
addresses, and what captures or makes packets (tcpdump, nmap -sS) finds no sockets for it; what is set-user-ID gains \
nothing (sudo, fusermount, newuidmap); what hands its work to one that runs already, as browsers do, has it done \
outside, unless it is given a profile of its own; and programs that root runs cannot be debugged.

Exit status: the program's own; 128 and the number of the signal that ended it; 127 if there is no such program, 126 \
if it cannot be executed; 255 after a failure of ours.", mut_args(host_in_place(|host| host.required(false).required_unless_present("print_apparmor").index(1))))]
pub struct Arguments {
    #[command(flatten)]
    host: Option<HostArgument>,
    /// Keep an address, or one port of it, on this machine; may be given more than once
    #[arg(long, value_name = "ADDR[:PORT]")]
    local: Vec<Local>,
    /// Open the program's port PORT, of TCP and of UDP, as LENDERPORT at the lender, also when it is bound to loopback; may be given
    /// more than once
    #[arg(long, value_name = "LENDERPORT:PORT")]
    publish: Vec<PublishedPort>,
    /// Open what the program listens on at loopback on the lender's loopback, instead of keeping it inside
    #[arg(long)]
    publish_loopback: bool,
    /// Give the program this variable as it is on the lender's machine; may be given more than once. Those of this machine it
    /// has anyway
    #[arg(long, value_name = "NAME", value_parser = lender_variable)]
    env: Vec<String>,
    /// Let the program reach this Unix socket of this machine, where it is covered: the D-Bus buses, docker, podman, nscd and
    /// such would look up names, or act, outside; may be given more than once
    #[arg(long, value_name = "PATH")]
    local_unix: Vec<PathBuf>,
    /// Give the program a service of the lender's for stdin and stdout: those of `capuchin offer HOST NAME stdio`, say
    #[arg(long, value_name = "service:NAME", value_parser = service)]
    stdio: Option<String>,
    /// Let the program have a descriptor above 2; may be given more than once. Sockets that a service manager passes (LISTEN_FDS) are then
    /// the program's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    keep_fd: Vec<RawFd>,
    /// Wait for everything that the program started, instead of ending it
    #[arg(long)]
    wait_all: bool,
    /// Catch what the program sends in this way, and in no other: for tests
    #[arg(long, value_name = "WAY", value_parser = way, hide = true)]
    network: Option<Way>,
    /// Use no namespaces, for machines that forbid them: weaker, see above
    #[arg(long, conflicts_with_all = ["publish", "publish_loopback", "network"])]
    no_netns: bool,
    /// Print an AppArmor profile that lets this command make namespaces, and do nothing else
    #[arg(long)]
    print_apparmor: bool,
    /// The program and its arguments; $SHELL if left out
    #[arg(last = true, index = 2, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// What the arguments ask for, as far as it can be had.
struct Wanted {
    host: HostArgument,
    plan: Plan,
    /// What runs where no program is named.
    shell: Option<Shell>,
    /// The program and its arguments, for whoever lists what runs.
    words: String,
    local: Vec<Local>,
    publish: Publish,
    stdio: Option<String>,
}

impl Wanted {
    fn of(arguments: Arguments) -> Result<Self, Failure> {
        let Arguments { host, program, local_unix, publish, publish_loopback, .. } = arguments;
        let host =
            host.ok_or_else(|| Failure::new(ErrorKind::Usage, "the host is missing, as in: capuchin run lab"))?;
        let name = host.text()?;
        let mut variables = vec![(HOST_VARIABLE.into(), OsString::from(&name))];
        if program.first().is_some_and(|name| name.is_empty()) {
            return Err(Failure::new(ErrorKind::Usage, "the program's name is empty").with_code(NOT_FOUND));
        }
        let mut keep_fds = arguments.keep_fd;
        let shell = program.is_empty().then(|| Shell::of_user(&name));
        let program = match &shell {
            Some(Shell { words, variable, startup, .. }) => {
                variables.extend(variable.clone());
                keep_fds.extend(startup.as_ref().map(AsRawFd::as_raw_fd));
                words.clone()
            }
            None => program,
        };
        if let Some(missing) = local_unix.iter().find(|path| path.try_exists().is_ok_and(|is_there| !is_there)) {
            let text = format!("--local-unix {} is not there", missing.display());
            let notes = vec!["help: it takes paths of Unix sockets of this machine".to_owned()];
            return Err(Failure { notes, ..Failure::new(ErrorKind::Usage, text) });
        }
        let publish = Publish { ports: publish, loopback: publish_loopback };
        if let Some(twice) = publish.named_twice() {
            let text = format!("--publish {twice} names a port that another --publish names");
            let help = "help: each port of the program has one port at the lender, and the other way round".to_owned();
            return Err(Failure { notes: vec![help], ..Failure::new(ErrorKind::Usage, text) });
        }
        let words = program.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let plan = Plan {
            program,
            variables,
            lender_variables: arguments.env,
            local_unix,
            keep_fds,
            wait_all: arguments.wait_all,
            way: arguments.network,
            piped: arguments.stdio.is_some(),
            without_namespaces: arguments.no_netns,
        };
        Ok(Self { host, plan, shell, words, local: arguments.local, publish, stdio: arguments.stdio })
    }
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    if arguments.print_apparmor {
        let own = std::env::current_exe().map_err(|error| RunError::Exec {
            program: "capuchin".to_owned(),
            interpreter: None,
            source: error,
        })?;
        return print(run::apparmor_profile(&own).trim_end());
    }
    let Wanted { host, plan, shell, words, local, publish, stdio } = Wanted::of(arguments)?;
    if plan.without_namespaces {
        warn(&format!("capuchin: {}", run::WEAKER));
    }
    // Before any thread.
    let mut run = Run::start(&plan)?;
    let _folder = shell.and_then(Shell::started);
    let service = stdio.zip(run.take_pipes());
    let mut status = 0;
    block_on(async {
        let (mut told, mut telling, mut presence) = (Told::default(), JoinSet::new(), None);
        let feed = Cell::new(None);
        let is_over = Arc::new(AtomicBool::new(false));
        // On the heap: it is large, and would be copied several times into the futures around it, over fresh pages of the stack.
        let log_in = Box::pin(async {
            let borrower = host.connect_or_share_by(Signals::Kept).await?;
            feed.set(join_stdio(&borrower, service).await?);
            borrower.keep_connected();
            presence = Presence::announce(&borrower, "run", vec![words]);
            telling.spawn(tell_connection(borrower.clone(), is_over.clone()));
            Ok::<_, Failure>(borrower)
        });
        let refused = |error: BorrowError| tell(&mut told, &error);
        let over = async |status: Option<u8>| {
            // One of which nobody knows how it ended breaks off.
            if let (Some(_), Some(feed)) = (status, feed.take())
                && let Err(error) = ServiceFeed::drain(feed).await
            {
                warn(&format!("capuchin: {error}"));
            }
            is_over.store(true, Ordering::Release);
        };
        status = run.serve(log_in, Serve { local, publish, refused, told: tell_way, left: tell_left, over }).await?;
        drop(presence);
        Ok(())
    })?;
    if status == 0 { Ok(()) } else { Err(Failure::silent(status)) }
}

/// Connects to the service that is to be the program's stdin and stdout.
async fn join_stdio(
    borrower: &Borrower,
    service: Option<(String, ProgramPipes)>,
) -> Result<Option<ServiceFeed>, Failure> {
    let Some((name, pipes)) = service else { return Ok(None) };
    let service = borrower.stdio(&name).await?;
    let failed = |source| RunError::local("cannot give the program its stdin and stdout", source);
    Ok(Some(pipes.join(service).map_err(failed)?))
}

/// Reads what `--network` takes.
fn way(text: &str) -> Result<Way, String> {
    match text {
        "nftables" => Ok(Way::Nftables),
        "tun" => Ok(Way::Tun),
        _ => Err("write nftables or tun".to_owned()),
    }
}

/// What the person is to know of a network that is not made as it should be.
fn tell_way(way: Way) {
    if way == Way::Tun {
        warn(
            "capuchin: without nf_tables and nft_tproxy in this kernel, every packet of the program crosses a TUN device: \
             slower, and [::1] is not the lender's but the program's own (`capuchin doctor` says how to mend it)",
        );
    }
}

/// A server that goes into the background would be gone without a word.
fn tell_left() {
    warn("capuchin: the program is over, and what it left in the background ends with it; --wait-all waits for that");
}

/// Reads what `--env` takes, which elsewhere sets a variable: what is lent here is what the lender's has.
fn lender_variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        None => Ok(text.to_owned()),
        Some(_) => Err("write the NAME alone: the program gets the lender's value; one of yours it has already, \
                        as in NAME=VALUE capuchin run HOST"
            .to_owned()),
    }
}

/// Reads what `--stdio` takes.
fn service(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("service:").filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or_else(|| "write service:NAME, as in service:calc".to_owned())
}

/// How the session stands, for as long as it is of use to the program, which goes on without it. Of its end when all is over nobody
/// needs to hear.
async fn tell_connection(borrower: Borrower, is_over: Arc<AtomicBool>) {
    tokio::select! {
        () = connection::tell(&borrower) => {}
        end = borrower.ended() => if !is_over.load(Ordering::Acquire) {
            warn(&format!("capuchin: {end}"));
        },
    }
}

/// One line for what the lender refuses or takes back, on the stderr that it shares with the program.
fn tell(told: &mut Told, error: &BorrowError) {
    let line = one_line(error);
    if told.is_news(error, &line, Instant::now()) {
        warn(&format!("capuchin: {line}"));
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let code = match &error {
            RunError::Interrupted(code) => return Self::silent(*code),
            RunError::Exec { source, .. } if source.kind() == std::io::ErrorKind::NotFound => NOT_FOUND,
            RunError::Exec { .. } => CANNOT_EXECUTE,
            _ => super::report::FAILURE,
        };
        Self { notes: error.notes(), ..Self::new(error.kind(), error.to_string()) }.with_code(code)
    }
}
