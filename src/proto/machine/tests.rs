use proptest::prelude::*;

use super::*;
use crate::proto::{Answer, message};

fn small() -> Machine {
    Machine {
        addresses: vec!["10.0.0.7".parse().unwrap()],
        routes: vec![
            MachineRoute { prefix: "10.0.0.0/8".parse().unwrap(), source: Some("10.0.0.7".parse().unwrap()) },
            MachineRoute { prefix: "fd00::/8".parse().unwrap(), source: None },
        ],
        resolvers: vec!["10.0.0.1".parse().unwrap()],
        search: vec!["internal".into()],
        options: vec!["ndots:2".into()],
        hosts: vec![HostsLine { address: "127.0.0.1".parse().unwrap(), names: vec!["localhost".into()] }],
        variables: vec![Variable { name: "A".into(), value: vec![0xff] }],
    }
}

#[test]
fn a_profile_has_its_golden_bytes() {
    let answer = Answer::Granted(small());
    let wire = message::encode(&answer);
    let expected = "a100a700\
        81440a000007\
        0182a300440a000000010802440a000007a20050fd00000000000000000000000000000001\
        08\
        0281440a000001\
        038168696e7465726e616c\
        0481676e646f74733a32\
        0581a200447f000001018169\
        6c6f63616c686f7374\
        0681a20061410141ff";
    assert_eq!(data_encoding::HEXLOWER.encode(&wire), expected);
    assert_eq!(message::decode::<Answer<Machine>>("answer", &wire), Ok(answer));
}

#[test]
fn each_list_has_a_bound() {
    assert_eq!(small().check(), Ok(()));
    let text = |bytes: usize| "x".repeat(bytes);
    let line = |names: Vec<String>| HostsLine { address: "10.0.0.1".parse().unwrap(), names };
    let variable = |bytes: usize| Variable { name: "A".into(), value: vec![0; bytes] };
    let with = |change: &dyn Fn(&mut Machine)| {
        let mut machine = small();
        change(&mut machine);
        machine
    };
    for broken in [
        with(&|machine| machine.addresses = vec![machine.addresses[0]; MACHINE_ADDRESSES_MAX + 1]),
        with(&|machine| machine.routes = vec![machine.routes[0]; ROUTES_MAX + 1]),
        with(&|machine| machine.routes[0].source = Some("::1".parse().unwrap())),
        with(&|machine| machine.resolvers = vec![machine.resolvers[0]; RESOLVERS_MAX + 1]),
        with(&|machine| machine.search = vec![text(HOST_BYTES_MAX + 1)]),
        with(&|machine| machine.search = vec![text(1); SEARCH_MAX + 1]),
        with(&|machine| machine.options = vec![text(OPTION_BYTES_MAX + 1)]),
        with(&|machine| machine.hosts = vec![line(vec![])]),
        with(&|machine| machine.hosts = vec![line(vec![String::new()])]),
        with(&|machine| machine.hosts = vec![line(vec![text(100)]); HOSTS_BYTES_MAX / 100]),
        with(&|machine| machine.variables = vec![variable(0); VARIABLES_MAX + 1]),
        with(&|machine| machine.variables = vec![variable(VARIABLES_BYTES_MAX)]),
    ] {
        assert!(matches!(broken.check(), Err(ProtocolError::Malformed { .. })), "{broken:?}");
    }
}

#[test]
fn the_largest_profile_fits_into_a_message() {
    let address = || "fd00::1".parse().unwrap();
    let hosts_line = HostsLine { address: address(), names: vec!["n".into()] };
    let value = vec![7; VARIABLES_BYTES_MAX / VARIABLES_MAX - OVERHEAD_BYTES - 1];
    let largest = Machine {
        addresses: vec![address(); MACHINE_ADDRESSES_MAX],
        routes: vec![MachineRoute { prefix: "fd00::1/128".parse().unwrap(), source: Some(address()) }; ROUTES_MAX],
        resolvers: vec![address(); RESOLVERS_MAX],
        search: vec!["s".repeat(HOST_BYTES_MAX); SEARCH_MAX],
        options: vec!["o".repeat(OPTION_BYTES_MAX); SEARCH_MAX],
        hosts: vec![hosts_line.clone(); HOSTS_BYTES_MAX / hosts_line.cost()],
        variables: vec![Variable { name: "V".into(), value }; VARIABLES_MAX],
    };
    assert_eq!(largest.check(), Ok(()));
    assert!(message::encode(&Answer::Granted(largest)).len() <= MESSAGE_BYTES_MAX);
}

#[test]
fn a_value_is_not_shown() {
    let variable = Variable { name: "TOKEN".into(), value: b"secret".to_vec() };
    assert_eq!(format!("{variable:?}"), "Variable { name: \"TOKEN\", .. }");
}

#[test]
fn a_prefix_longer_than_its_address_is_an_error() {
    let mut wire = message::encode(&small()).to_vec();
    let at = wire.windows(2).position(|pair| pair == [1, 8]).unwrap() + 1;
    wire[at] = 0x18;
    wire.insert(at + 1, 33);
    assert!(message::decode::<Machine>("profile", &wire).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_a_profile_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(machine) = message::decode::<Machine>("profile", &bytes) {
            let _ = machine.check();
        }
    }
}
