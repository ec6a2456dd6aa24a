//! Unix sockets: which are within reach, and as whom.

use std::os::unix::net::UnixListener;

use super::*;
use crate::{support::own_uid, under_filter::under_filter};

/// Connects to each path in its arguments, and says what came of it; then to names of its own.
const UNIX: &str = r#"
import errno, os, socket, sys
def connect(name):
    s = socket.socket(socket.AF_UNIX)
    return errno.errorcode.get(s.connect_ex(name), "OK")
print(*[connect(path) for path in sys.argv[1:]])
print(connect("\0" + os.environ["ABSTRACT"]))
os.umask(0o027)
os.mkdir("here")
os.chdir("here")
for name in ("own", "\0own-%d" % os.getpid()):
    l = socket.socket(socket.AF_UNIX)
    l.bind(name)
    l.listen()
    print(connect(name), l.getsockname() == name or l.getsockname() == name.encode())
print(oct(os.stat("own").st_mode & 0o777))
d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
d.bind("datagrams")
e = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
e.sendto(b"by name", "datagrams")
print(d.recv(99))
"#;

#[test]
fn unix_sockets_that_act_outside_are_out_of_reach() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let folder = within.home.folder.path();
        let runtime = within.home.runtime();
        std::fs::create_dir_all(&runtime).unwrap();
        let (bus, linked, plain) = (runtime.join("bus"), folder.join("linked"), folder.join("plain"));
        let listeners = [&bus, &plain].map(|path| UnixListener::bind(path).unwrap());
        for path in [&bus, &plain, &runtime] {
            let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(path, everybody).unwrap();
        }
        std::os::unix::fs::symlink(&bus, &linked).unwrap();
        let name = format!("capuchin-test-{}", std::process::id());
        let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
        let abstracted = UnixListener::bind_addr(&address.unwrap()).unwrap();
        let paths = [&bus, &linked, &plain].map(|path| path.to_str().unwrap());
        let mut command = within.bare(&[&["python3", "-c", UNIX][..], &paths].concat());
        let expected = "ECONNREFUSED\nOK True\nOK True\n0o750\nb'by name'\n";
        let said = says(command.env("ABSTRACT", &name));
        assert_eq!(said, format!("ECONNREFUSED ECONNREFUSED OK\n{expected}"), "as {}", within.uid);
        std::fs::remove_dir_all(folder.join("here")).unwrap();
        let options = ["--no-netns", "--local-unix", paths[0]];
        let mut command = within.run_with(&options, &[&["python3", "-c", UNIX][..], &paths].concat());
        let said = says(command.env("ABSTRACT", &name));
        assert_eq!(said, format!("OK OK OK\n{expected}"), "as {}", within.uid);
        drop((listeners, abstracted));
    }
}

/// Moves what is out of reach to other places, and makes a network where an abstract name is free.
const MOVED: &str = r#"
import ctypes, errno, os, socket
os.chdir(os.environ["XDG_RUNTIME_DIR"])
def connect(name):
    return errno.errorcode.get(socket.socket(socket.AF_UNIX).connect_ex(name), "OK")
for old, new, name in ("bus", "moved", "moved"), ("systemd", "folder", "folder/private"), ("folder/private", "plain", "plain"):
    os.rename(old, new)
    print(connect(name))
name = "\0" + os.environ["ABSTRACT"]
pid = os.fork()
if pid == 0:
    if ctypes.CDLL(None).unshare(0x50000000): # CLONE_NEWUSER | CLONE_NEWNET
        os._exit(1)
    socket.socket(socket.AF_UNIX).bind(name)
    os._exit(0)
print(os.waitpid(pid, 0)[1], connect(name))
"#;

#[test]
fn what_is_out_of_reach_stays_so_wherever_the_program_moves_it() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let runtime = within.home.runtime();
        std::fs::create_dir_all(runtime.join("systemd")).unwrap();
        let _listeners = ["bus", "systemd/private"].map(|name| UnixListener::bind(runtime.join(name)).unwrap());
        for path in ["", "bus", "systemd", "systemd/private"] {
            let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(runtime.join(path), everybody).unwrap();
        }
        let name = format!("capuchin-moved-{}", std::process::id());
        let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
        let _abstracted = UnixListener::bind_addr(&address.unwrap()).unwrap();
        let said = says(within.bare_python(MOVED).env("ABSTRACT", &name));
        assert_eq!(said, "ECONNREFUSED\n".repeat(3) + "0 ECONNREFUSED\n", "as {}", within.uid);
    }
}

#[test]
fn connects_that_wait_for_room_take_no_thread_each_and_all_get_in() {
    let machine = Machine::start();
    let program = r#"
import os, socket, sys, threading
own = "full-%d.sock" % os.getpid()
listener = socket.socket(socket.AF_UNIX)
listener.bind(own)
listener.listen(1)
asked = threading.Semaphore(0)
def visit():
    s = socket.socket(socket.AF_UNIX)
    asked.release()
    s.connect(own)
    s.sendall(b"x")
visitors = [threading.Thread(target=visit) for _ in range(600)]
for visitor in visitors:
    visitor.start()
for _ in visitors:
    asked.acquire()
# Behind those that wait, whoever asks for something else is served.
s = socket.create_connection(("10.77.0.1", 7000))
s.sendall(b"still")
print("served", s.recv(9).decode(), flush=True)
sys.stdin.readline()
for _ in visitors:
    assert listener.accept()[0].recv(9) == b"x"
for visitor in visitors:
    visitor.join()
os.unlink(own)
print("all", flush=True)
"#;
    for within in machine.borrowers() {
        let mut running = Daemon::spawn(within.bare_python(program).stdin(Stdio::piped()));
        assert_eq!(running.wait_for_line("served "), "served still", "as {}", within.uid);
        let threads = std::fs::read_dir(format!("/proc/{}/task", running.child.id())).unwrap().count();
        assert!(threads < 50, "{threads} threads as {}", within.uid);
        std::io::Write::write_all(running.stdin.as_mut().unwrap(), b"\n").unwrap();
        running.wait_for_line("all");
        assert!(running.wait().success());
    }
}

/// No thread can have a folder and a umask of its own: unshare(2) is EPERM.
const ONE_FOLDER: &str = r#"
unshare = {"x86_64": 272, "aarch64": 97}[platform.machine()]
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, unshare), (0x06, 0, 0, 0x50000 | 1), (0x06, 0, 0, 0x7fff0000)]
"#;

#[test]
fn no_socket_file_is_made_where_capuchins_own_folder_would_change() {
    let machine = Machine::start();
    let program = r#"
import errno, os, socket, sys
os.umask(0o027)
os.mkdir("elsewhere")
os.chdir("elsewhere")
for name in "own", "\0own-%d" % os.getpid():
    try:
        socket.socket(socket.AF_UNIX).bind(name)
        print("OK")
    except OSError as error:
        print(errno.errorcode[error.errno])
print("tried", os.listdir(), flush=True)
sys.stdin.readline()
"#;
    for within in machine.borrowers() {
        let inner = within.bare_python(program);
        let mut command = under_filter(&within, ONE_FOLDER, &inner);
        let running = Daemon::spawn(command.stdin(Stdio::piped()));
        running.wait_for_line("EACCES");
        running.wait_for_line("OK");
        assert_eq!(running.wait_for_line("tried "), "tried []", "as {}", within.uid);
        let own = format!("/proc/{}", running.child.id());
        // No other user may look into it.
        if own_uid() == 0 {
            let folder = std::fs::read_link(format!("{own}/cwd")).unwrap();
            assert_eq!(folder, within.home.folder.path().canonicalize().unwrap(), "as {}", within.uid);
        }
        let umask = |process: &str| {
            let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
            status.lines().find(|line| line.starts_with("Umask:")).unwrap().to_owned()
        };
        assert_eq!(umask(&own), umask("/proc/self"), "as {}", within.uid);
    }
}
