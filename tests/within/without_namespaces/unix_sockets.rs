//! Unix sockets: which are within reach, and as whom.

use std::os::unix::net::UnixListener;

use super::*;

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
