//! As whom a program speaks by a Unix socket.

use super::*;

/// Sends by the socket under the number in its argument, with these credentials and without any.
const CLAIM: &str = r#"
import errno, os, socket, struct, sys
s = socket.socket(fileno=int(sys.argv[1]))
for ids in eval(sys.argv[2]):
    control = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("3i", os.getpid(), *ids))] if ids else []
    try:
        print(s.sendmsg([b"x"], control))
    except OSError as error:
        print(errno.errorcode[error.errno])
"#;

#[test]
fn nobody_speaks_as_somebody_else() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let uid = within.uid;
        let said = says(&mut within.bare_python(&format!(
            r#"
import socket, struct, subprocess, sys
claim = {CLAIM:?}
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
ours.setblocking(False)
def tell(*before):
    command = [*before, "python3", "-c", claim, str(theirs.fileno()), "[({uid}, {uid}), ({uid}, 7), (7, {uid}), None]"]
    print(subprocess.run(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True).stdout.split())
    while True:
        try:
            control = ours.recvmsg(9, 99)[1]
        except BlockingIOError:
            break
        print(*[struct.unpack("3i", data)[1:] for _, _, data in control])
tell()
if {uid} == 0:
    tell("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
"#
        )));
        let own = format!("['1', 'EPERM', 'EPERM', '1']\n({uid}, {uid})\n({uid}, {uid})\n");
        let others = if uid == 0 { "['EACCES', 'EPERM', 'EPERM', 'EACCES']\n" } else { "" };
        assert_eq!(said, own + others, "as {uid}");
    }
}
