//! Other tunnels that people use, with mutual TLS 1.3 and the same cipher where they have it; each that is installed.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    support::processes::{free_port, spawn, wait_for},
    tunnels::{self, Tunnel},
};

/// A peer by its name, and how it is started; `None` where it is not installed.
pub type Start = fn(&Path, SocketAddr) -> Option<Tunnel>;

/// How many may be connected at once, more than any row asks for.
const CONNECTIONS: usize = 4000;

pub const ALL: [(&str, Start); 3] = [("stunnel", stunnel), ("haproxy", haproxy), ("rathole, noise", rathole)];

/// Debian's stunnel4.
fn stunnel(folder: &Path, origin: SocketAddr) -> Option<Tunnel> {
    is_installed("stunnel").then_some(())?;
    let (pem, ports) = (certificate(folder), [free_port(), free_port()]);
    let [local, far] = ports;
    let ends = [
        ("server", format!("accept = 127.0.0.1:{far}\nconnect = {origin}\n")),
        ("client", format!("client = yes\naccept = 127.0.0.1:{local}\nconnect = 127.0.0.1:{far}\n")),
    ]
    .map(|(name, own)| {
        let pem = pem.display();
        let text = format!(
            "foreground = yes\npid =\ndebug = 3\n[t]\n{own}cert = {pem}\nCAfile = {pem}\nverifyPeer = yes\n\
             sslVersion = TLSv1.3\nciphersuites = TLS_AES_128_GCM_SHA256\nsocket = l:TCP_NODELAY=1\n\
             socket = r:TCP_NODELAY=1\n"
        );
        spawn(quiet(Command::new("stunnel").arg(file(folder, &format!("stunnel-{name}"), &text))))
    });
    wait_for(local);
    Some(Tunnel::of(local, ends.into()))
}

/// Debian's haproxy.
fn haproxy(folder: &Path, origin: SocketAddr) -> Option<Tunnel> {
    is_installed("haproxy").then_some(())?;
    let pem = certificate(folder);
    let (pem, local, far) = (pem.display(), free_port(), free_port());
    let tls = format!("ssl crt {pem} ca-file {pem} verify required ssl-min-ver TLSv1.3");
    let ends = [
        ("server", format!("  bind 127.0.0.1:{far} {tls}\n  server o {origin}\n")),
        ("client", format!("  bind 127.0.0.1:{local}\n  server o 127.0.0.1:{far} {tls}\n")),
    ]
    .map(|(name, listen)| {
        let ciphers = "ciphersuites TLS_AES_128_GCM_SHA256";
        let global = format!("  maxconn {CONNECTIONS}\n  ssl-default-bind-{ciphers}\n  ssl-default-server-{ciphers}\n");
        tunnels::haproxy(folder, name, &global, &listen)
    });
    wait_for(local);
    Some(Tunnel::of(local, ends.into()))
}

/// `cargo install rathole`. Its TLS is 1.2 by the system's library: the pattern of Noise is what it recommends.
fn rathole(folder: &Path, origin: SocketAddr) -> Option<Tunnel> {
    let keys = Command::new("rathole").arg("--genkey").output().ok()?.stdout;
    let keys = String::from_utf8(keys).expect("keys");
    let mut keys = keys.lines().filter(|line| line.ends_with('=')).map(str::trim);
    let (private, public) = (keys.next().expect("a private key"), keys.next().expect("a public key"));
    let (local, far) = (free_port(), free_port());
    let transport = |side: &str, key: &str| {
        format!("[{side}.transport]\ntype = \"noise\"\n[{side}.transport.noise]\n{key}\n[{side}.services.o]\n")
    };
    let server = format!(
        "[server]\nbind_addr = \"127.0.0.1:{far}\"\ndefault_token = \"bench\"\n{}bind_addr = \"127.0.0.1:{local}\"\n",
        transport("server", &format!("local_private_key = \"{private}\""))
    );
    let client = format!(
        "[client]\nremote_addr = \"127.0.0.1:{far}\"\ndefault_token = \"bench\"\n{}local_addr = \"{origin}\"\n",
        transport("client", &format!("remote_public_key = \"{public}\""))
    );
    let ends = [("--server", server), ("--client", client)].map(|(side, text)| {
        spawn(quiet(Command::new("rathole").arg(side).arg(file(folder, &format!("rathole{side}.toml"), &text))))
    });
    wait_for(local);
    Some(Tunnel::of(local, ends.into()))
}

/// One certificate that both ends have and trust, with its key, as OpenSSL reads them.
fn certificate(folder: &Path) -> PathBuf {
    let made = rcgen::generate_simple_self_signed(vec!["lab".into()]).expect("a certificate");
    let pem = |label: &str, der: &[u8]| {
        let text = data_encoding::BASE64.encode(der);
        let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n");
        format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
    };
    let pair = pem("CERTIFICATE", made.cert.der()) + &pem("PRIVATE KEY", &made.signing_key.serialize_der());
    file(folder, "pair.pem", &pair)
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

fn is_installed(program: &str) -> bool {
    let found = quiet(Command::new(program).arg("--version").stdin(Stdio::null())).status();
    !matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// What it logs is of no interest here.
fn quiet(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::null()).stderr(Stdio::null())
}
