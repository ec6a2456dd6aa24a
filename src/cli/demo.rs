//! `capuchin demo`: the main job on one machine, with every command shown and its result.
//!
//! The lender runs in a network namespace of its own, with a web server and a name that only it knows. The borrower is
//! outside and has nothing but the lender's listening socket, which was opened out here and passed in as `fd:N`.

mod programs;
mod visit;

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use rustix::process::Signal;

use self::programs::Programs;
use super::{
    report::{Failure, SIGNALLED},
    signals,
};
use crate::{proto::ErrorKind, sys};

/// The web server's address inside; not a loopback address, so that a plain rule by name can allow it.
const WIKI: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const NAME: &str = "wiki.internal";
const PAGE: &str = "Hello from a web server that only the lender can reach.\n";
const PASSWORD: &str = "a password for the demo";
/// Where the borrower's web server is met, and what it has.
const SERVED_PORT: u16 = 8000;
const SERVED_PAGE: &str = "Hello from a web server of the borrower's, met at the lender's address.\n";

/// The hidden half of the demo: the lender's machine.
#[derive(clap::Args)]
pub(super) struct Machine {
    /// The demo's folder
    folder: PathBuf,
}

/// Shows everything, and cleans up.
pub(super) fn run() -> Result<(), Failure> {
    let programs = Arc::<Programs>::default();
    stop_at_signals(Arc::clone(&programs))?;
    let folder = tempdir()?;
    let result = Demo { folder: folder.path.clone(), programs: &programs }.run();
    match programs.stopped() {
        // What ended early for it says nothing worth reading.
        Some(number) => Err(Failure::silent(SIGNALLED + number)),
        None => result,
    }
}

struct Demo<'a> {
    folder: PathBuf,
    programs: &'a Programs,
}

impl Demo<'_> {
    fn run(&self) -> Result<(), Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed("listening on loopback"))?;
        let address = listener.local_addr().map_err(failed("listening on loopback"))?;
        // The lender inherits it; close-on-exec would take it away.
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty())
            .map_err(|error| failed("passing the listener")(error.into()))?;
        say("A lender: a machine with a private address, a web server, and a name that only it knows. Its policy:");
        let listen = format!("fd:{}", listener.as_raw_fd());
        self.lender(&["init", "--name", "lab", "--listen", &listen, "--advertise", &address.to_string()])?;
        let policy = format!(
            "[[allow]]\nwho = [\"demo\"]\nconnect = [\"{NAME}:80-81\"]\nlisten = [\"0.0.0.0:{SERVED_PORT}\"]\n"
        );
        write(&self.folder.join("lab/policy.toml"), &policy)?;
        print!("{policy}");
        self.lender(&["user", "add", "demo"])?;
        let line = self.lender(&["invite", "demo"])?;
        crate::trust::keyfile::write(
            &self.folder.join("password"),
            PASSWORD.as_bytes(),
            crate::trust::keyfile::SECRET_MODE,
        )
        .map_err(|error| Failure::new(ErrorKind::Local, error.to_string()))?;
        let mut machine = self.machine()?;
        drop(listener);
        let shown = self.borrow(line.trim());
        end(&mut machine);
        shown
    }

    /// The borrower's part.
    fn borrow(&self, line: &str) -> Result<(), Failure> {
        say("Without capuchin, this machine has no such name:");
        self.curl(Command::new("curl"), "", "")?;
        say("The borrower joins with the line that `capuchind invite` printed, once:");
        let password = self.folder.join("password");
        let join = ["join", line, "--password-file"].map(PathBuf::from);
        self.shown(self.capuchin(), &[&join[..], &[password]].concat())?;
        say("The same curl, unmodified, on the lender's network:");
        let fetched = self.borrowed_curl("")?;
        say("Where nobody listens, curl hears what it would hear on the lender's machine:");
        let refused = self.borrowed_curl(":81")?;
        say("What the policy does not allow is refused, and capuchin says so:");
        let forbidden = self.borrowed_curl(":22")?;
        say("By which rule, and the line to send to the lender's admin:");
        self.shown(self.capuchin(), &["check", "lab", "connect", &format!("{NAME}:22")].map(PathBuf::from))?;
        for (said, expected) in [(fetched, PAGE.trim()), (refused, "(7)"), (forbidden, "no rule allows it")] {
            if !said.contains(expected) {
                return Err(Failure::new(
                    ErrorKind::Local,
                    format!("the demo expected {expected:?} here, and got {said:?}"),
                ));
            }
        }
        self.serve()
    }

    /// The other direction: a web server of the borrower's.
    fn serve(&self) -> Result<(), Failure> {
        say("The other way round: Python's web server, unmodified, listens at the lender, and its log shows who came:");
        let pages = self.folder.join("pages");
        fs::create_dir(&pages).map_err(failed("the pages"))?;
        write(&pages.join("hello.txt"), SERVED_PAGE)?;
        let port = SERVED_PORT.to_string();
        let program = ["python3", "-u", "-m", "http.server", &port];
        println!("$ capuchin run lab -- python3 -m http.server {port} &");
        let mut command = self.capuchin();
        command.args(["run", "lab", "--"]).args(program).current_dir(&pages);
        let log = self.folder.join("web.log");
        let log_file = fs::File::create(&log).map_err(failed("the log of the web server"))?;
        command.stdout(Stdio::piped()).stderr(log_file);
        let mut server = self.programs.start(&mut command).map_err(failed("starting capuchin"))?;
        let shown = first_line(&mut server).and_then(|line| {
            println!("{line}");
            let url = format!("http://{WIKI}:{port}/hello.txt");
            println!("lab$ curl {url}");
            let fetched = visit::fetch(&self.folder, &url).map_err(failed("a visitor on the lender's machine"))?;
            print!("{fetched}");
            let logged = fs::read_to_string(&log).map_err(failed("the log of the web server"))?;
            print!("{logged}");
            let came = fetched == SERVED_PAGE && logged.contains(&WIKI.to_string());
            let unexpected = || Failure::new(ErrorKind::Local, "the demo expected a page and who fetched it here");
            came.then_some(()).ok_or_else(unexpected)
        });
        end(&mut server);
        shown.map_err(|failure| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            if said.contains("cannot run python3") {
                return Failure::new(ErrorKind::Local, "the demo needs python3: apt-get install python3");
            }
            print!("{said}");
            failure
        })
    }

    /// The borrower's command, in a home of the demo's.
    fn capuchin(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        for (name, sub) in [("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "state")] {
            command.env(name, self.folder.join(sub));
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs an admin's command and gives its output.
    fn lender(&self, args: &[&str]) -> Result<String, Failure> {
        let mut command = self.capuchin();
        command.arg("lender").args(args).arg("--dir").arg(self.folder.join("lab"));
        let output = self.programs.output(&mut command).map_err(failed("starting capuchind"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Failure::new(ErrorKind::Local, String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }

    /// Starts the lender's machine, and waits until it serves.
    fn machine(&self) -> Result<Child, Failure> {
        let mut command = self.capuchin();
        // What it says would stand amid what curl says.
        let log = self.folder.join("machine.log");
        let stderr = fs::File::create(&log).map_err(failed("writing the log of the lender's machine"))?;
        command.arg("demo-machine").arg(&self.folder).stdout(Stdio::piped()).stderr(stderr);
        let mut machine = self.programs.start(&mut command).map_err(failed("starting the lender's machine"))?;
        match first_line(&mut machine) {
            Ok(_) => Ok(machine),
            Err(failure) => {
                let said = fs::read_to_string(log).unwrap_or_default();
                Err(Failure { notes: said.lines().map(str::to_owned).collect(), ..failure })
            }
        }
    }

    /// curl, as it is, on the lender's network.
    fn borrowed_curl(&self, port: &str) -> Result<String, Failure> {
        let mut command = self.capuchin();
        command.args(["run", "lab", "--", "curl"]);
        self.curl(command, "capuchin run lab -- ", port)
    }

    /// Fetches the page with the machine's own curl, and shows what is said.
    fn curl(&self, mut command: Command, before: &str, port: &str) -> Result<String, Failure> {
        let url = format!("http://{NAME}{port}/");
        println!("$ {before}curl {url}");
        command.args(["--no-progress-meter", "--noproxy", "*", "--max-time", "10", &url]).stdin(Stdio::null());
        let output = self.programs.output(&mut command).map_err(|error| {
            Failure::new(ErrorKind::Local, format!("curl: {error}; the demo needs it: apt-get install curl"))
        })?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        print!("{said}");
        Ok(said)
    }

    /// Runs a command, with the command line shown as a person would type it.
    fn shown(&self, mut command: Command, args: &[PathBuf]) -> Result<(), Failure> {
        let words: Vec<String> = args.iter().map(|arg| shortened(&arg.to_string_lossy())).collect();
        println!("$ capuchin {}", words.join(" "));
        let started = self.programs.start(command.args(args));
        started.and_then(|mut child| child.wait()).map(drop).map_err(failed("starting capuchin"))
    }
}

/// Long secrets and paths stay out of the way of the reader.
fn shortened(word: &str) -> String {
    match word.char_indices().nth(24) {
        Some((end, _)) if word.starts_with("cap1_") => format!("{}…", word.split_at(end).0),
        _ => word.rsplit('/').next().unwrap_or(word).to_owned(),
    }
}

/// The lender's machine: a network of its own, a web server, a name, and `capuchind serve`. Before any thread exists.
pub(super) fn enter(machine: &Machine) -> Result<PathBuf, Failure> {
    let folder = &machine.folder;
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| failed("following the demo")(error.into()))?;
    sys::enter_private_network().map_err(|error| {
        let text = format!("no network namespace for the demo: {error}; run it as root, or allow user namespaces");
        Failure::new(ErrorKind::Local, text)
    })?;
    sys::set_up_loopback(WIKI).map_err(failed("setting up loopback"))?;
    for (file, text) in [("hosts", format!("127.0.0.1 localhost\n{WIKI} {NAME}\n")), ("resolv.conf", String::new())] {
        let own = folder.join(file);
        write(&own, &text)?;
        sys::bind_file(&own, &Path::new("/etc").join(file)).map_err(failed(file))?;
    }
    visit::serve(folder).map_err(failed("a visitor on the lender's machine"))?;
    let wiki = TcpListener::bind((WIKI, 80)).map_err(failed("starting the web server"))?;
    let started = std::thread::Builder::new().spawn(move || serve_page(&wiki));
    started.map_err(failed("starting the web server"))?;
    println!("ready");
    Ok(folder.join("lab"))
}

/// As little of HTTP/1.0 as curl needs.
fn serve_page(wiki: &TcpListener) {
    for mut socket in wiki.incoming().flatten() {
        let mut request = BufReader::new(&socket);
        let mut line = String::new();
        while request.read_line(&mut line).is_ok_and(|length| length > 2) {
            line.clear();
        }
        // A browser that hung up is no concern of the server's.
        let _ = std::io::Write::write_all(&mut socket, format!("HTTP/1.0 200 OK\r\n\r\n{PAGE}").as_bytes());
    }
}

fn first_line(child: &mut Child) -> Result<String, Failure> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.as_mut() {
        BufReader::new(stdout).read_line(&mut line).map_err(failed("reading"))?;
    }
    match line.trim_end() {
        // It has said why in its log.
        "" => Err(Failure::new(ErrorKind::Local, "a part of the demo did not start")),
        text => Ok(text.to_owned()),
    }
}

fn end(child: &mut Child) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(child), Signal::TERM);
    let _ = child.wait();
}

fn say(text: &str) {
    println!("\n# {text}");
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(failed(&path.display().to_string()))
}

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> Failure {
    let what = what.to_owned();
    move |error| Failure::new(ErrorKind::Local, format!("{what}: {error}"))
}

/// Ends the demo's programs, and by that the demo, at Ctrl-C, SIGTERM and the end of its terminal: its folder holds keys and must go.
fn stop_at_signals(programs: Arc<Programs>) -> Result<(), Failure> {
    // A handler and no mask: programs that are started inherit a mask.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed("waiting for signals"))?;
    let mut stop = {
        let _entered = runtime.enter();
        signals::Stop::listen()?
    };
    let started = std::thread::Builder::new().spawn(move || {
        runtime.block_on(async {
            loop {
                programs.stop(stop.next().await);
            }
        });
    });
    started.map(drop).map_err(failed("waiting for signals"))
}

/// A folder that goes with the demo.
struct Folder {
    path: PathBuf,
}

fn tempdir() -> Result<Folder, Failure> {
    let name = data_encoding::HEXLOWER.encode(&crate::trust::random::<8>());
    let path = std::env::temp_dir().join(format!("capuchin-demo-{name}"));
    crate::trust::keyfile::create_dir(&path).map_err(|error| Failure::new(ErrorKind::Local, error.to_string()))?;
    Ok(Folder { path })
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
