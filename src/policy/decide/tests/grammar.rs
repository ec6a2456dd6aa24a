//! Lines of a policy and requests, of every kind and every form that the grammar has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use proptest::{prelude::*, sample::select};

use crate::policy::Kind;

/// Who is who in every policy of these tests.
pub(super) const GROUPS: &str = "[groups]\ndev = [\"ana\", \"bob\"]\nown = [\"ana\"]\nops = [\"bob\"]\nnone = []\n";

/// Near one another, so that patterns and requests meet: ordinary ones, special ranges, and IPv4 in the forms of IPv6.
pub(super) fn address() -> impl Strategy<Value = IpAddr> {
    let near = select(vec![
        "10.0.0.1",
        "10.1.2.3",
        "11.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "::1",
        "::",
        "fd00::1",
        "fe80::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2002:a00:1::",
    ]);
    prop_oneof![8 => near.prop_map(|text| text.parse().unwrap()), 1 => any::<IpAddr>()]
}

/// A block around such an address, or the address, as a rule spells it.
fn net() -> impl Strategy<Value = String> {
    let v4 = |address: Ipv4Addr, prefix: u8| Ipv4Net::new(address, prefix % 33).unwrap().trunc();
    let v6 = |address: Ipv6Addr, prefix: u8| Ipv6Net::new(address, prefix % 129).unwrap().trunc();
    let prefixes =
        prop_oneof![Just(0), Just(8), Just(16), Just(32), Just(64), Just(96), Just(104), Just(128), any::<u8>()];
    (address(), prefixes, any::<bool>()).prop_map(move |(address, prefix, whole)| match (address, whole) {
        (IpAddr::V4(address), true) => address.to_string(),
        (IpAddr::V4(address), false) => v4(address, prefix).to_string(),
        (IpAddr::V6(address), true) => format!("[{address}]"),
        (IpAddr::V6(address), false) => format!("[{}]", v6(address, prefix)),
    })
}

fn name() -> impl Strategy<Value = String> {
    const NAMES: [&str; 7] = [
        "db.internal",
        "DB.Internal.",
        "web.internal",
        "a.svc.internal",
        "bücher.example",
        "xn--bcher-kva.example",
        "db",
    ];
    select(&NAMES[..]).prop_map(str::to_owned)
}

fn name_pattern() -> impl Strategy<Value = String> {
    let stars = select(vec!["*", "*.internal", "*.svc.internal", "*.example"]).prop_map(str::to_owned);
    prop_oneof![stars, name()]
}

/// Near one another as well: rules and requests meet at most ports.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![select(vec![1, 22, 80, 443, 1023, 1024, 8000, 8999, 65535]), 1..=u16::MAX]
}

fn ports() -> impl Strategy<Value = String> {
    let range = (port(), port()).prop_map(|(one, other)| format!("{}-{}", one.min(other), one.max(other)));
    prop_oneof![Just("*".to_owned()), port().prop_map(|port| port.to_string()), range]
}

fn transport() -> impl Strategy<Value = &'static str> {
    select(vec!["", "", "/udp"])
}

fn reached() -> impl Strategy<Value = String> {
    (prop_oneof![name_pattern(), net()], ports()).prop_map(|(host, ports)| format!("{host}:{ports}"))
}

fn listened() -> impl Strategy<Value = String> {
    let at = prop_oneof![select(vec!["*", "0.0.0.0", "[::]", "127.0.0.0/8"]).prop_map(str::to_owned), net()];
    (at, ports(), transport()).prop_map(|(at, ports, transport)| format!("{at}:{ports}{transport}"))
}

/// Paths whose components are names of each other's beginnings.
fn path() -> impl Strategy<Value = String> {
    let part = select(vec!["srv", "srv", "data", "data2", "run", "run", "proc", "dev", "ü", "a b"]);
    prop::collection::vec(part, 0..3).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn socket_path() -> impl Strategy<Value = String> {
    (path(), any::<bool>())
        .prop_map(|(path, star)| if star { format!("{}/*", path.trim_end_matches('/')) } else { path })
}

const ARGUMENTS: [&str; 5] = ["status", "-c", "core.pager=x", "a b", "--"];

fn arguments() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(&ARGUMENTS[..]), 0..3)
}

fn program() -> impl Strategy<Value = String> {
    let path = prop_oneof![select(vec!["*", "/bin/git", "/bin/sh"]).prop_map(str::to_owned), path()];
    (path, prop::option::of(arguments()), any::<bool>()).prop_map(|(path, arguments, exact)| match arguments {
        Some(arguments) => format!("{{ path = {path:?}, args = {arguments:?}, exact = {exact} }}"),
        None => format!("{{ path = {path:?} }}"),
    })
}

fn word() -> impl Strategy<Value = String> {
    select(vec!["LC_ALL", "LC_X", "PATH", "pay", "payroll", "p"]).prop_map(str::to_owned)
}

fn word_pattern() -> impl Strategy<Value = String> {
    (word(), any::<bool>(), any::<bool>()).prop_map(|(word, star, all)| match (star, all) {
        (true, true) => "*".to_owned(),
        (true, false) => format!("{word}*"),
        _ => word,
    })
}

/// One pattern as a text, or several as a list.
fn some(pattern: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec(pattern, 1..4).prop_map(|mut patterns| match patterns.len() {
        1 => format!("{:?}", patterns.remove(0)),
        _ => format!("{patterns:?}"),
    })
}

/// A line of any kind, as a rule has it; one has two, because the second narrows what the first brings along.
pub(super) fn line() -> impl Strategy<Value = String> {
    let pair = |key: &'static str, [one, other]: [&'static str; 2]| {
        (some(word_pattern()), some(word_pattern()), 0..3).prop_map(move |(first, second, which)| match which {
            0 => format!("{key} = {{ {one} = {first} }}"),
            1 => format!("{key}.{other} = {second}"),
            _ => format!("{key} = {{ {one} = {first}, {other} = {second} }}"),
        })
    };
    prop_oneof![
        2 => some(reached()).prop_map(|it| format!("connect = {it}")),
        2 => some(reached()).prop_map(|it| format!("udp = {it}")),
        1 => (some(reached()), some(name_pattern())).prop_map(|(to, names)| format!("connect = {to}\nresolve = {names}")),
        2 => some(listened()).prop_map(|it| format!("listen = {it}")),
        1 => some(socket_path()).prop_map(|it| format!("unix = {it}")),
        1 => some(socket_path()).prop_map(|it| format!("unix_listen = {it}")),
        1 => some(name_pattern()).prop_map(|it| format!("resolve = {it}")),
        1 => some(path()).prop_map(|it| format!("read = {it}")),
        1 => some(path()).prop_map(|it| format!("write = {it}")),
        1 => prop::collection::vec(program(), 1..3).prop_map(|it| format!("exec = [{}]", it.join(", "))),
        1 => select(vec!["shell = true", "python = true"]).prop_map(str::to_owned),
        1 => pair("env", ["send", "read"]),
        1 => pair("services", ["offer", "use"]),
    ]
}

/// Who a block is for: ana alone, by a group, among others, or not at all.
pub(super) fn who() -> impl Strategy<Value = &'static str> {
    select(vec![
        "\"ana\"",
        "[\"ana\"]",
        "\"group:own\"",
        "[\"bob\", \"group:dev\"]",
        "\"bob\"",
        "[\"group:ops\", \"group:none\"]",
    ])
}

/// What an allow may say of its user besides, which allows nothing.
pub(super) fn terms() -> impl Strategy<Value = &'static str> {
    select(vec![
        "",
        "",
        "limits = { streams = 3, sessions = 1, mbit = 8, hours = 2 }\n",
        "run_as = \"service\"\n",
        "allow_root = true\n",
        "setuid = true\ndetach = true\n",
        "password = false\n",
    ])
}

/// A request of any kind as a person writes it, well formed or not.
pub(super) fn asked() -> impl Strategy<Value = (Kind, String)> {
    let host = || {
        let numeric = select(vec!["0x7f.1", "127.1", "2130706433", "0"]).prop_map(str::to_owned);
        let literal = address().prop_map(|address| match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        });
        prop_oneof![4 => name(), 4 => literal, 1 => numeric]
    };
    let to = || (host(), port()).prop_map(|(host, port)| format!("{host}:{port}"));
    let at = (address(), prop_oneof![4 => port(), 1 => Just(0)], transport());
    let at = at.prop_map(|(address, port, transport)| match address {
        IpAddr::V4(address) => format!("{address}:{port}{transport}"),
        IpAddr::V6(address) => format!("[{address}]:{port}{transport}"),
    });
    let command = (
        prop_oneof![select(vec!["/bin/git", "/bin/sh"]).prop_map(str::to_owned), Just("/srv/data".to_owned())],
        arguments(),
    );
    let command = command.prop_map(|(path, arguments)| {
        let quoted: String = arguments.iter().map(|argument| format!(" '{argument}'")).collect();
        format!("{path}{quoted}")
    });
    let kinds = |kinds: &[Kind], target: BoxedStrategy<String>| (select(kinds.to_vec()), target).boxed();
    prop_oneof![
        2 => kinds(&[Kind::Connect, Kind::Udp], to().boxed()),
        1 => kinds(&[Kind::Listen], at.boxed()),
        1 => kinds(&[Kind::Unix, Kind::UnixListen, Kind::Read, Kind::Write], path().boxed()),
        1 => kinds(&[Kind::Resolve], name().boxed()),
        1 => kinds(&[Kind::Exec], command.boxed()),
        1 => kinds(&[Kind::Shell, Kind::Python, Kind::Profile], Just(String::new()).boxed()),
        1 => kinds(&[Kind::EnvSend, Kind::EnvRead, Kind::ServiceOffer, Kind::ServiceUse], word().boxed()),
    ]
}
