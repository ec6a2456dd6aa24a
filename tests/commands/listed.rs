//! What an admin reads of sessions and grants, as text and as JSON.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::support::{LOOPBACK, Lab, json, run, text, wait_until};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn sessions_say_who_from_where_what_how_much_and_since_when() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let began = now();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = server.local_addr().unwrap();
    let (_forward, local) = home.forward(&[&format!("0:{target}")]);
    let mut here = TcpStream::connect(local[0]).unwrap();
    here.write_all(b"question").unwrap();
    let (mut there, _) = server.accept().unwrap();
    there.read_exact(&mut [0; 8]).unwrap();
    there.write_all(b"reply").unwrap();
    here.read_exact(&mut [0; 5]).unwrap();

    let mut listed = serde_json::Value::Null;
    wait_until("all bytes are counted", || {
        listed = json(&run(lab.admin().args(["sessions", "--json"])).stdout)["sessions"].clone();
        listed[0]["streams"][0]["bytes_in"] == 8 && listed[0]["streams"][0]["bytes_out"] == 5
    });
    let [session] = &listed.as_array().unwrap()[..] else { panic!("{listed}") };
    let [stream] = &session["streams"].as_array().unwrap()[..] else { panic!("{session}") };
    assert_eq!((&session["user"], &stream["target"]), (&"alice".into(), &target.to_string().into()), "{session}");
    let peer: SocketAddr = session["peer"].as_str().unwrap().parse().unwrap();
    assert!(peer.ip().is_loopback() && peer.port() != 0, "{session}");
    for since in [&session["since"], &stream["since"]] {
        assert!((began..=now()).contains(&since.as_u64().unwrap()), "{since} is not behind {began}: {session}");
    }

    let said = text(run(lab.admin().arg("sessions")).stdout);
    let [of_session, of_stream] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    let word = |name: &str| session[name].as_str().unwrap();
    let whole = format!("{}  alice on {} from {peer}, for ", word("session"), word("device"));
    let age = of_session.strip_prefix(&whole).unwrap_or_else(|| panic!("{of_session} is not {whole}"));
    assert!(age.ends_with(" s") || age.ends_with(" min"), "{of_session}");
    let whole = format!("  /{}  tcp-connect {target}, 8 bytes in, 5 out, for ", stream["stream"]);
    assert!(of_stream.starts_with(&whole), "{of_stream} is not {whole}");
}

#[test]
fn grants_say_whom_what_and_for_how_long() {
    let lab = Lab::start("");
    run(lab.admin().args(["allow", "alice", "connect", "db.internal:5432", "--for", "1h"]));
    run(lab.admin().args(["allow", "bob", "shell", "--for", "90s"]));
    let said = text(run(lab.admin().arg("grants")).stdout);
    assert_eq!(said, "1  alice connect db.internal:5432, for 60 min more\n2  bob shell, for 2 min more\n");
    let listed = json(&run(lab.admin().args(["grants", "--json"])).stdout);
    let lasts = |grant: &serde_json::Value| grant["expires"].as_u64().unwrap() - grant["created"].as_u64().unwrap();
    assert_eq!(listed["grants"].as_array().unwrap().iter().map(lasts).collect::<Vec<_>>(), [3600, 90]);
}
