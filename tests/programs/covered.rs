//! Services of this machine that would look up names, or act, outside: out of a borrowed program's reach.

use crate::{
    stage::for_each_guest,
    support::{run, text},
};

/// A /run of the test's own, with the sockets of such services, each with somebody who hangs up: the C library itself asks some of them.
const MACHINE: &str = r#"
    uid=$1; shift
    mount -t tmpfs -o mode=0755 run /run
    mkdir -p /run/nscd /run/systemd/resolve /run/avahi-daemon /run/dbus /run/podman /run/tor /run/tailscale /run/user/$uid/zellij
    chown $uid /run/user/$uid; chmod 0700 /run/user/$uid
    mkfifo /run/ready
    python3 -c 'import os, select, socket, sys
held = []
for path in sys.argv[1:]:
    held.append(socket.socket(socket.AF_UNIX)); held[-1].bind(path); held[-1].listen(); os.chmod(path, 0o777)
open("/run/ready", "w").write("ready\n")
while True:
    for one in select.select(held, [], [])[0]: one.accept()[0].close()' /run/nscd/socket /run/systemd/resolve/io.systemd.Resolve /run/avahi-daemon/socket /run/dbus/system_bus_socket \
        /run/podman/podman.sock /run/docker.sock /run/systemd/io.systemd.NamespaceResource /run/systemd/notify /run/tor/socks \
        /run/tailscale/tailscaled.sock /run/user/$uid/bus /run/user/$uid/zellij/one /run/user/$uid/nvim.7.0 /run/plain.sock &
    listens=$!
    read line < /run/ready
    XDG_RUNTIME_DIR=/run/user/$uid setpriv --reuid=$uid --regid=$uid --clear-groups "$@" && code=0 || code=$?
    kill $listens
    exit $code
"#;

/// Prints those of the paths that can be connected to.
const REACH: &str = "import socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print(path)
    except OSError:
        pass";

#[test]
fn a_service_that_acts_outside_is_reached_only_where_its_socket_was_named() {
    for_each_guest(|guest| {
        let of_user = ["bus", "zellij/one", "nvim.7.0"].map(|name| format!("/run/user/{}/{name}", guest.uid));
        let of_user = of_user.each_ref().map(String::as_str);
        let sockets = [
            "/run/nscd/socket",
            "/run/systemd/resolve/io.systemd.Resolve",
            "/run/avahi-daemon/socket",
            "/run/dbus/system_bus_socket",
            "/run/podman/podman.sock",
            "/run/docker.sock",
            "/run/systemd/io.systemd.NamespaceResource",
            "/run/tor/socks",
            "/run/tailscale/tailscaled.sock",
            "/run/systemd/notify",
            "/run/plain.sock",
        ];
        let program = [&["/usr/bin/python3", "-c", REACH][..], &of_user, &sockets].concat();
        let reached = |options: &[&str]| {
            let inside = guest.run(options, &program);
            text(run(&mut guest.in_a_machine(MACHINE, &[&guest.uid.to_string()], &inside)).stdout)
        };
        let others = "/run/systemd/notify\n/run/plain.sock\n";
        assert_eq!(reached(&[]), others);
        assert_eq!(reached(&["--no-netns"]), others);
        let named = ["--local-unix", "/run/dbus/system_bus_socket", "--local-unix", "/run/docker.sock"];
        assert_eq!(reached(&named), "/run/dbus/system_bus_socket\n/run/docker.sock\n".to_owned() + others);
    });
}

#[test]
fn a_socket_that_is_not_there_is_an_error_and_nothing_runs() {
    for_each_guest(|guest| {
        for more in [&[][..], &["--no-netns"]] {
            let options = [&["--local-unix", "/nowhere/x.sock"], more].concat();
            let output = guest.run(&options, &["echo", "ran"]).output().unwrap();
            let said = text(output.stderr);
            assert_eq!((output.status.code(), text(output.stdout).as_str()), (Some(255), ""), "{said}");
            assert!(said.contains("error[usage]: --local-unix /nowhere/x.sock is not there"), "{said}");
        }
    });
}
