//! Somebody on the lender's machine, who fetches what the demo asks for: a web server of the borrower's is met from there.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Command, Stdio},
};

/// Where it is asked, in the demo's folder: a socket with a path is met from outside of the lender's network.
const SOCKET: &str = "visit.sock";

/// Answers for as long as the lender's machine runs.
///
/// # Errors
/// There can be no such socket, or no thread.
pub(super) fn serve(folder: &Path) -> io::Result<()> {
    let asked = UnixListener::bind(folder.join(SOCKET))?;
    let started = std::thread::Builder::new().spawn(move || {
        for mut asker in asked.incoming().flatten() {
            // An asker that hung up is the demo, which is over.
            let _ = answer(&mut asker);
        }
    });
    started.map(drop)
}

/// What curl says on the lender's machine, asked for this address.
///
/// # Errors
/// The lender's machine is gone.
pub(super) fn fetch(folder: &Path, url: &str) -> io::Result<String> {
    let mut machine = UnixStream::connect(folder.join(SOCKET))?;
    machine.write_all(url.as_bytes())?;
    machine.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    machine.read_to_string(&mut said)?;
    Ok(said)
}

fn answer(asker: &mut UnixStream) -> io::Result<()> {
    let mut url = String::new();
    asker.read_to_string(&mut url)?;
    let mut curl = Command::new("curl");
    curl.args(["--no-progress-meter", "--noproxy", "*", "--max-time", "10", &url]).stdin(Stdio::null());
    let output = curl.output()?;
    asker.write_all(&[output.stdout, output.stderr].concat())
}
