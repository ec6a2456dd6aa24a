//! The mask of `run` by itself: put on in namespaces of its own, as root and as an unprivileged user, over every state
//! that a machine's files can be in.
//!
//! A program of its own and no test harness: namespaces are entered before any thread exists. Started with `wear`, it puts
//! the mask on and becomes the command behind it.

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Output},
};

use capuchin::{
    proto::{HostsLine, Machine},
    run::Mask,
};

/// The first word of the arguments that make this program put the mask on.
const WEAR: &str = "wear";
/// Where a socket that stays is named.
const LOCAL_UNIX: &str = "MASK_TEST_LOCAL_UNIX";
/// An unprivileged user.
const NOBODY: u32 = 65534;

/// Makes the machine that the program is started on: its own /etc and /run, in a mount namespace that goes with the test. This program is
/// $0 and may lie in a folder that is covered, or that not everybody enters.
const STAGE: &str = r#"
set -e
cd /
mount -t tmpfs stage /mnt
touch /mnt/mask
mount --bind "$0" /mnt/mask
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
mount -t tmpfs run /run
mkdir -p /run/user/0 /run/user/65534 /run/nscd /run/systemd/resolve
rm -f /etc/resolv.conf /etc/hosts
echo 'nameserver 203.0.113.53' > /etc/resolv.conf
echo '127.0.0.1 localhost' > /etc/hosts
echo 'hosts: mymachines files mdns4 dns' > /etc/nsswitch.conf
chown 65534 /run/user/65534
mount --make-rshared /
"#;

/// After the program: nothing of what it saw was mounted on the machine, although it shares its mounts.
const LEFT: &str = "if grep -qs 10.0.0.53 /etc/resolv.conf /etc/hosts; then echo left on the machine; exit 1; fi; [ -r /proc/self/mountinfo ]";

struct Case {
    name: &'static str,
    /// Shell lines that change the machine, as root.
    machine: &'static str,
    /// A socket of this machine that stays.
    local_unix: &'static str,
    /// Shell lines that fail where something is not as it should be, in the program's place.
    program: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "a program sees the lenders resolver files",
        machine: "",
        local_unix: "",
        program: r#"
            grep -qx 'nameserver 10.0.0.53' /etc/resolv.conf
            grep -qx 'search internal' /etc/resolv.conf
            grep -qx '127.0.1.1 lab' /etc/hosts
            grep -qx '# 10.0.0.7 db.internal' /etc/hosts
            [ "$(grep hosts: /etc/nsswitch.conf)" = 'hosts: files dns' ]
            [ -r /proc/self/mountinfo ]
            [ -e /etc/passwd ]
        "#,
    },
    Case {
        name: "a resolv.conf that is a link is covered where it leads",
        machine: "rm /etc/resolv.conf; mkdir /run/here; echo x > /run/here/r; ln -s /run/here/r /etc/resolv.conf",
        local_unix: "",
        program: "grep -qx 'nameserver 10.0.0.53' /etc/resolv.conf; [ -L /etc/resolv.conf ]",
    },
    Case {
        name: "a resolv.conf that is a link into a covered folder stands in what covers it",
        machine: "echo x > /run/systemd/resolve/stub-resolv.conf; touch /run/systemd/resolve/io.systemd.Resolve
            ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
        local_unix: "",
        program: "grep -qx 'nameserver 10.0.0.53' /etc/resolv.conf; [ ! -e /run/systemd/resolve/io.systemd.Resolve ]",
    },
    Case {
        name: "a resolv.conf that is missing is added",
        machine: "rm /etc/resolv.conf; echo 10.9.9.9 old > /etc/hosts",
        local_unix: "",
        program: "grep -qx 'nameserver 10.0.0.53' /etc/resolv.conf; grep -qx '127.0.1.1 lab' /etc/hosts; [ -e /etc/passwd ]",
    },
    Case {
        name: "a resolv.conf that dangles is replaced",
        machine: "ln -sf /run/nowhere/resolv.conf /etc/resolv.conf; rm /etc/hosts",
        local_unix: "",
        program: "grep -qx 'nameserver 10.0.0.53' /etc/resolv.conf; grep -qx '127.0.1.1 lab' /etc/hosts",
    },
    Case {
        name: "services that would look up or act outside cannot be reached",
        machine: "mkdir -p /run/dbus /run/podman /run/avahi-daemon; listen /run/nscd/socket /run/dbus/system_bus_socket \
            /run/podman/podman.sock /run/avahi-daemon/socket /run/docker.sock /run/systemd/resolve/io.systemd.Resolve \
            $RUNTIME/bus /run/elsewhere.sock",
        local_unix: "",
        program: r#"
            for socket in /run/nscd/socket /run/dbus/system_bus_socket /run/podman/podman.sock /run/avahi-daemon/socket \
                /run/docker.sock /run/systemd/resolve/io.systemd.Resolve $XDG_RUNTIME_DIR/bus; do
                if reach $socket; then echo "$socket is reached"; exit 1; fi
            done
            reach /run/elsewhere.sock
        "#,
    },
    Case {
        name: "terminals, editors, connections and sessions outside cannot be reached",
        machine: "mkdir -p /run/capuchin /run/libvirt /run/screen $RUNTIME/capuchin $RUNTIME/emacs $RUNTIME/gnupg \
            /mnt/home/.ssh/masters /mnt/home/.ssh/agent /mnt/tmp/tmux-$USER /mnt/home/lender; mount --bind /mnt/tmp /tmp; chown -R $USER /mnt/home /mnt/tmp
            chmod 700 /tmp/tmux-$USER; listen /run/capuchin/door.sock /run/libvirt/libvirt-sock /run/screen/S-x \
            $RUNTIME/capuchin/door.sock $RUNTIME/emacs/server $RUNTIME/gnupg/S.dirmngr /run/snapd.socket \
            /tmp/tmux-$USER/default /mnt/home/.ssh/masters/lab /mnt/home/.ssh/agent/s.1 /mnt/home/agent /mnt/home/tmux \
            /mnt/home/lender/door.sock /mnt/home/lender/admin.sock; export CAPUCHIND_DIR=/mnt/home/lender HOME=/mnt/home \
            TMUX=/mnt/home/tmux,17,0 SSH_AUTH_SOCK=/mnt/home/.ssh/agent/s.1",
        local_unix: "",
        program: r#"
            for socket in /run/capuchin/door.sock /run/libvirt/libvirt-sock /run/screen/S-x /run/snapd.socket \
                $XDG_RUNTIME_DIR/capuchin/door.sock $XDG_RUNTIME_DIR/emacs/server $XDG_RUNTIME_DIR/gnupg/S.dirmngr \
                /tmp/tmux-$USER/default $HOME/.ssh/masters/lab $HOME/tmux \
                $CAPUCHIND_DIR/door.sock $CAPUCHIND_DIR/admin.sock; do
                if reach $socket; then echo "$socket is reached"; exit 1; fi
            done
            reach $HOME/agent
            reach $SSH_AUTH_SOCK
            [ "$(stat -c %a /tmp/tmux-$USER)" = 700 ]
            touch /tmp/tmux-$USER/own
        "#,
    },
    Case {
        name: "who prints or starts programs for others cannot be reached",
        machine: "mkdir -p /run/cups /mnt/home/.pm2
            listen /run/cups/cups.sock /mnt/home/.pm2/rpc.sock $RUNTIME/kdeinit5__0
            chown -R $USER /mnt/home; export HOME=/mnt/home",
        local_unix: "",
        program: r#"
            for socket in /run/cups/cups.sock $HOME/.pm2/rpc.sock $XDG_RUNTIME_DIR/kdeinit5__0; do
                if reach $socket; then echo "$socket is reached"; exit 1; fi
            done
        "#,
    },
    Case {
        name: "connections that ssh and ansible share are out of reach wherever their settings put them",
        machine: r#"mkdir -p /mnt/home/.ssh /mnt/home/.ansible/cp /mnt/masters $RUNTIME/ssh /etc/ssh
            printf 'Host *\n ControlPath /mnt/masters/%%r@%%h:%%p\n' > /etc/ssh/ssh_config
            printf 'Host b\n  ControlPath="${XDG_RUNTIME_DIR}/ssh/%%C"\n' > /mnt/home/.ssh/config
            chown -R $USER /mnt/home $RUNTIME; listen /mnt/masters/ana@lab:22 /mnt/masters/other.sock \
            $RUNTIME/ssh/6a81 /mnt/home/.ansible/cp/91f0; export HOME=/mnt/home"#,
        local_unix: "",
        program: r#"
            for socket in /mnt/masters/ana@lab:22 $XDG_RUNTIME_DIR/ssh/6a81 $HOME/.ansible/cp/91f0; do
                if reach $socket; then echo "$socket is reached"; exit 1; fi
            done
            reach /mnt/masters/other.sock
        "#,
    },
    Case {
        name: "what the user has by his login is out of reach, whatever variables say",
        machine: r#"mkdir -p /mnt/home/.ssh /mnt/home/.screen /mnt/home/.config/capuchin/lender /mnt/home/.local/state/run/capuchin \
            /mnt/masters /mnt/elsewhere /mnt/tmp/tmux-$USER $RUNTIME/systemd; mount --bind /mnt/tmp /tmp
            mount -t tmpfs lib /var/lib; mkdir /var/lib/capuchin
            sed -i "s|^\([^:]*:[^:]*:$USER:.*:\)[^:]*:|\1/mnt/home:|" /etc/passwd
            echo 'ControlPath /mnt/masters/%C' > /mnt/home/.ssh/config
            listen $RUNTIME/bus $RUNTIME/systemd/private /mnt/home/.ssh/master /mnt/masters/6a81 /mnt/home/.screen/1.x \
            /tmp/tmux-$USER/default /mnt/home/.config/capuchin/lender/admin.sock /mnt/home/.local/state/run/capuchin/door.sock \
            /var/lib/capuchin/admin.sock; chown -R $USER /mnt/home /mnt/tmp $RUNTIME /mnt/elsewhere
            export HOME=/mnt/elsewhere XDG_RUNTIME_DIR=/mnt/elsewhere TMUX_TMPDIR=/mnt/elsewhere"#,
        local_unix: "",
        program: r#"
            for socket in /run/user/$USER/bus /run/user/$USER/systemd/private /mnt/home/.ssh/master /mnt/masters/6a81 \
                /mnt/home/.screen/1.x /tmp/tmux-$USER/default /mnt/home/.config/capuchin/lender/admin.sock \
                /mnt/home/.local/state/run/capuchin/door.sock /var/lib/capuchin/admin.sock; do
                if reach $socket; then echo "$socket is reached"; exit 1; fi
            done
        "#,
    },
    Case {
        name: "a link where the folder of the users tmux would be has nothing covered",
        machine: r#"mkdir /mnt/tmp; mount --bind /mnt/tmp /tmp; ln -s / /tmp/tmux-$USER; listen /run/docker.sock"#,
        local_unix: "",
        program: "[ -e /usr/bin ]; ! reach /run/docker.sock",
    },
    Case {
        name: "a socket that was named stays in a covered folder",
        machine: "mkdir /run/podman; listen /run/podman/podman.sock /run/podman/other.sock",
        local_unix: "/run/podman/podman.sock",
        program: "reach /run/podman/podman.sock; ! reach /run/podman/other.sock",
    },
    Case {
        name: "a socket that was named stays among others",
        machine: "listen /run/docker.sock",
        local_unix: "/run/docker.sock",
        program: "reach /run/docker.sock",
    },
    Case {
        name: "ssh takes its settings and their drop-ins",
        machine: "mkdir -p /etc/ssh/ssh_config.d; echo 'Include /etc/ssh/ssh_config.d/*.conf' > /etc/ssh/ssh_config
            printf 'Include /etc/crypto.config\nHost drop\n  Port 2201\n' > /etc/ssh/ssh_config.d/50-drop.conf
            echo 'ConnectTimeout 17' > /etc/crypto.config",
        local_unix: "",
        program: "ssh -G drop | grep -qx 'port 2201'; ssh -G drop | grep -qx 'connecttimeout 17'",
    },
];

/// `listen PATH…` keeps sockets open; `reach PATH` connects to one.
const TOOLS: &str = r#"
listen() { python3 -c 'import os,socket,sys
for path in sys.argv[1:]:
    held = socket.socket(socket.AF_UNIX); held.bind(path); held.listen(); os.chmod(path, 0o777); os.set_inheritable(held.fileno(), True); held.detach()
if os.fork(): os._exit(0)
import signal; signal.pause()' "$@" & wait $!; }
reach() { python3 -c 'import socket,sys
try: socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except OSError: sys.exit(1)' "$1"; }
"#;

fn machine() -> Machine {
    let line =
        |address: &str, name: &str| HostsLine { address: address.parse().unwrap(), names: vec![name.to_owned()] };
    Machine {
        resolvers: vec!["10.0.0.53".parse().unwrap()],
        search: vec!["internal".to_owned()],
        hosts: vec![line("127.0.1.1", "lab"), line("10.0.0.7", "db.internal")],
        ..Machine::default()
    }
}

/// In namespaces of its own already: puts the mask on and becomes the program.
fn wear(mut command: impl Iterator<Item = OsString>) -> ! {
    let local_unix: Vec<_> =
        env::var_os(LOCAL_UNIX).filter(|path| !path.is_empty()).map(PathBuf::from).into_iter().collect();
    if let Err(error) = Mask::of(&machine(), &local_unix).put_on() {
        panic!("the mask does not fit: {error}");
    }
    panic!("{}", Command::new(command.next().unwrap()).args(command).exec())
}

fn run(case: &Case, uid: u32) -> Output {
    let own = env::current_exe().unwrap();
    let runtime = format!("/run/user/{uid}");
    let enter = match uid {
        0 => "unshare --mount --net",
        _ => {
            "setpriv --reuid=65534 --regid=65534 --clear-groups unshare --user --map-current-user --keep-caps --mount --net"
        }
    };
    let script = format!(
        "{TOOLS}\n{STAGE}\nRUNTIME={runtime}\nexport USER={uid} XDG_RUNTIME_DIR={runtime}\n{}\n{enter} /mnt/mask {WEAR} sh -ec '{}\n'\"$1\"\n{LEFT}",
        case.machine,
        TOOLS.replace('\'', "'\\''"),
    );
    let mut command = Command::new("unshare");
    // What the stage started ends with it.
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script]);
    command.arg(own).arg(case.program).env(LOCAL_UNIX, case.local_unix).env_remove("DBUS_SESSION_BUS_ADDRESS");
    command.env("HOME", "/proc/nonexistent").output().unwrap()
}

fn main() {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == WEAR) {
        wear(arguments);
    }
    assert!(rustix::process::geteuid().is_root(), "these tests make machines of their own: run them as root");
    let mut failed = 0;
    for case in CASES {
        for uid in [0, NOBODY] {
            let output = run(case, uid);
            let fits = output.status.success();
            println!("test {} (uid {uid}) ... {}", case.name, if fits { "ok" } else { "FAILED" });
            if !fits {
                println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 0, "cases that failed");
}
