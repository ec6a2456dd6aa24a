//! Names, however a program looks them up.

use crate::{
    stage::{Guest, for_each_guest},
    support::{run, text},
};

#[test]
fn dig_gets_addresses_and_texts_over_udp_and_tcp() {
    for_each_guest(|guest| {
        for options in [&[][..], &["+tcp"], &["@127.0.0.53"], &["@::1"]] {
            let dig = |name: &str, kind: &str| guest.says(&[&["dig", "+short"][..], options, &[name, kind]].concat());
            assert_eq!(dig("web.lab.test", "A"), "10.77.0.1\n", "{options:?}");
            assert_eq!(dig("web.lab.test", "AAAA"), "fd77::1\n", "{options:?}");
            assert_eq!(dig("web.lab.test", "TXT"), "\"hello-from-the-zone\"\n", "{options:?}");
        }
        // As who checks signatures looks up the keys of the root.
        assert_eq!(guest.says(&["dig", "+short", "+dnssec", ".", "TXT"]), "\"of-the-root\"\n");
        let long = guest.says(&["dig", "+short", "long.lab.test", "TXT"]);
        assert_eq!(long.lines().count(), 250, "cut over UDP, and whole over TCP");
        let refused = guest.says(&["dig", "nowhere.lab.test", "A"]);
        assert!(refused.contains("status: NXDOMAIN"), "{refused}");
    });
}

#[test]
fn getent_gets_what_programs_of_the_lender_get() {
    for_each_guest(|guest| {
        let said = guest.says(&["getent", "ahostsv4", "web.lab.test"]);
        assert!(said.starts_with("10.77.0.1 "), "{said}");
        assert!(guest.says(&["getent", "hosts", "own.lab.test"]).starts_with("10.77.0.1 "));
        guest.fails(&["getent", "hosts", "nowhere.lab.test"], 2);
        // The name of an address as its hosts have it, whatever its resolvers say.
        let name = guest.says(&["getent", "hosts", "10.77.0.1"]);
        assert_eq!(name.split_whitespace().collect::<Vec<_>>(), ["10.77.0.1", "own.lab.test"]);
        let names = guest.says(&["dig", "+short", "-x", "10.77.0.1"]);
        assert_eq!(names, "own.lab.test.\nown.\n");
        assert!(guest.says(&["getent", "hosts", "fd77::8"]).ends_with(" six.lab.test\n"));
    });
}

#[test]
fn a_program_sees_the_lenders_resolver_files() {
    for_each_guest(|guest| {
        assert_eq!(guest.says(&["cat", "/etc/resolv.conf"]), "nameserver 127.0.0.1\nsearch lab.test\n");
        assert!(guest.says(&["cat", "/etc/hosts"]).contains("# 10.77.0.1 own.lab.test own\n"));
        assert_eq!(guest.says(&["grep", "hosts:", "/etc/nsswitch.conf"]), "hosts: files dns\n");
    });
}

#[test]
fn a_name_that_may_not_be_looked_up_is_refused_and_told_once() {
    let dave = Guest::new("dave", 65534);
    let program = "dig web.lab.test A | grep -o 'status: [A-Z]*'; dig code.lab.test A | grep -o 'status: [A-Z]*'
        ! getent hosts code.lab.test";
    let output = run(&mut dave.run(&[], &["sh", "-ec", program]));
    assert_eq!(text(output.stdout), "status: NOERROR\nstatus: REFUSED\n");
    let said = text(output.stderr);
    assert_eq!(said.matches("resolve code.lab.test is refused: no rule allows it").count(), 1, "{said}");
}

/// Somebody replaces the file while the program runs: what it asks then is still ours to answer.
#[test]
fn a_resolv_conf_that_is_replaced_meanwhile_changes_nothing() {
    let program =
        "getent ahostsv4 web.lab.test >/dev/null; echo > started; read line < go; getent ahostsv4 web.lab.test";
    // An /etc of the test's own, in which root replaces the file once the program says that it runs.
    let script = "mount -t tmpfs etc /mnt; cp -a /etc /mnt/etc; mount --bind /mnt/etc /etc
        uid=$1; nameserver=$2; shift 2; mkfifo -m 0666 started go
        setpriv --reuid=$uid --regid=$uid --clear-groups \"$@\" &
        read line < started
        echo 'nameserver '$nameserver > /etc/resolv.conf.new; mv /etc/resolv.conf.new /etc/resolv.conf
        echo > go; wait $!; rm started go";
    // On loopback whatever it is, and elsewhere the one that this machine had all along.
    let own = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("nameserver ")).unwrap_or("127.0.0.1").trim().to_owned();
    for_each_guest(|guest| {
        for nameserver in ["127.0.0.77", &own] {
            let inside = guest.run(&[], &["sh", "-ec", program]);
            let mut machine = guest.in_a_machine(script, &[&guest.uid.to_string(), nameserver], &inside);
            let said = text(run(&mut machine).stdout);
            assert!(said.starts_with("10.77.0.1 "), "{nameserver}: {said}");
        }
    });
}

/// Whatever a program sends to the resolver inside: it is answered as what it is, or lost, and the next question is answered.
#[test]
fn garbage_to_port_53_harms_nobody() {
    let program = "import os, random, socket, struct
random.seed(53)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(5000):
    udp.sendto(os.urandom(random.randrange(600)), ('127.0.0.1', 53))
for length in [0, 11, 513, 65535]:
    tcp = socket.create_connection(('127.0.0.1', 53))
    tcp.sendall(struct.pack('>H', length) + os.urandom(600))
    try:
        assert tcp.recv(1) == b''
    except ConnectionResetError:
        pass
open_ones = [socket.create_connection(('127.0.0.1', 53)) for _ in range(100)]
print(socket.gethostbyname('web.lab.test'))";
    for_each_guest(|guest| assert_eq!(guest.says(&["/usr/bin/python3", "-c", program]), "10.77.0.1\n"));
}
