//! Every refusal of the policy ends with what to send to the lender's admin. It is sent here: a grant or a line of the policy
//! mends the refusal, and where neither can, the admin is shown why.

use std::{path::Path, process::Command};

use capuchin::{BorrowError, Borrower, proto::ErrorKind};

use crate::{
    listen::session,
    support::{Lab, own_uid, text},
};

/// Asks for a thing; what cannot be had as itself is only asked about.
async fn ask(borrower: &Borrower, wanted: &str, target: &str) -> Result<(), BorrowError> {
    match wanted {
        "connect" => borrower.tcp_connect(target).await.map(drop),
        "listen" => borrower.tcp_listen(target).await.map(drop),
        "listen to datagrams" => borrower.udp_listen(target).await.map(drop),
        "datagrams" => borrower.udp_bind(target).await.map(drop),
        "datagram" => {
            let socket = borrower.udp_bind("127.0.0.1:0").await?;
            socket.send_to(b"?", target.parse().unwrap()).await?;
            // Refused, or nobody is there: either way an error comes back.
            socket.recv_from(&mut [0]).await.map(drop)
        }
        "unix" => borrower.unix_connect(target).await.map(drop),
        "unix_listen" => borrower.unix_listen(target).await.map(drop),
        "offer" => borrower.offer(target, None).await.map(drop),
        "use" => borrower.stdio(target).await.map(drop),
        "profile" => borrower.profile(&[]).await.map(drop),
        "variable" => borrower.profile(&[target]).await.map(drop),
        "exec" => borrower.command(target).spawn().await.map(drop),
        "detach" => borrower.command(target).detach().spawn().await.map(drop),
        "shell" => borrower.shell().spawn().await.map(drop),
        "send" => borrower.command("/bin/true").env(target, "x").spawn().await.map(drop),
        kind => borrower.check(kind, target).await.map(drop),
    }
}

/// What the refusal of it says to send.
async fn refused(borrower: &Borrower, wanted: &str, target: &str) -> (BorrowError, String) {
    let error = ask(borrower, wanted, target).await.expect_err(&format!("{wanted} {target} is refused"));
    assert_eq!(error.kind(), ErrorKind::Policy, "{wanted} {target}: {error}");
    let line = to_send(&error);
    (error, line)
}

fn to_send(error: &BorrowError) -> String {
    let line = error.notes().last().unwrap_or_else(|| panic!("nothing to send: {error}"));
    line.trim_start().to_owned()
}

async fn is_not_refused(borrower: &Borrower, wanted: &str, target: &str) {
    if let Err(error) = ask(borrower, wanted, target).await {
        assert_ne!(error.kind(), ErrorKind::Policy, "{wanted} {target}: {error}");
    }
}

/// The admin runs it, as it was sent.
fn admin_runs(lab: &Lab, line: &str) -> std::process::Output {
    let programs = Path::new(env!("CARGO_BIN_EXE_capuchind")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    Command::new("sh").args(["-c", line]).env("PATH", path).env("CAPUCHIND_DIR", lab.dir()).output().unwrap()
}

/// A grant for an hour mends it.
async fn is_granted(lab: &Lab, borrower: &Borrower, wanted: &str, target: &str) {
    let (_, line) = refused(borrower, wanted, target).await;
    assert!(line.starts_with("capuchind allow alice ") && line.ends_with(" --for 1h"), "{wanted} {target}: {line}");
    // Of datagrams nobody knows yet where they go.
    let output = admin_runs(lab, &line.replace("HOST:PORT", "127.0.0.1:9"));
    assert!(output.status.success(), "{line}: {output:?}");
    is_not_refused(borrower, wanted, target).await;
}

/// Nothing mends it, and the admin is shown why.
async fn is_shown(lab: &Lab, borrower: &Borrower, wanted: &str, target: &str) {
    let (error, line) = refused(borrower, wanted, target).await;
    let BorrowError::Refused { reason, .. } = error else { panic!("{error}") };
    assert!(line.starts_with("capuchind check alice "), "{wanted} {target}: {line}");
    let output = admin_runs(lab, &line);
    assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
    let shown = text(output.stdout);
    assert!(shown.starts_with("denied: ") && shown.contains(&reason), "{line}: {shown} is not {reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_rule_allows_is_granted_by_the_line_in_its_refusal() {
    let (lab, _home, borrower) = session(
        "[[allow]]\nwho = \"bob\"\nconnect = \"*:*\"\n\
         [[allow]]\nwho = \"alice\"\nenv.send = \"*\"\nread = \"/\"\nallow_root = true\n",
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().canonicalize().unwrap().join("a b.sock").display().to_string();
    is_shown(&lab, &borrower, "profile", "").await;
    for (wanted, target) in [
        ("connect", "127.0.0.1:9"),
        ("listen", "127.0.0.2:9733"),
        ("listen to datagrams", "127.0.0.2:9734"),
        ("datagrams", "127.0.0.1:0"),
        ("datagram", "127.0.0.1:11"),
        ("unix", &socket),
        ("unix_listen", &socket),
        ("offer", "payroll"),
        ("use", "calc"),
        ("resolve", "db.test"),
        ("variable", "HOME"),
        ("exec", "/bin/true"),
        ("shell", ""),
        ("send", "BASH_ENV"),
        ("read", "/proc/1/mem"),
        ("write", "/srv"),
        ("python", ""),
    ] {
        is_granted(&lab, &borrower, wanted, target).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_broad_rules_do_not_open_is_granted_or_shown() {
    let (lab, _home, borrower) = session(
        "[[allow]]\nwho = \"alice\"\nconnect = [\"*:*\", \"127.0.0.2:*\"]\nlisten = \"*:*\"\nunix = \"/\"\nallow_root = true\n\
         [[deny]]\nwho = \"alice\"\nconnect = \"192.0.2.0/24:*\"\n",
    )
    .await;
    let own = lab.address.port();
    for target in ["127.0.0.1:9".to_owned(), format!("127.0.0.1:{own}"), format!("127.0.0.2:{own}")] {
        is_granted(&lab, &borrower, "connect", &target).await;
    }
    let admin = lab.dir().canonicalize().unwrap().join("admin.sock").display().to_string();
    for (wanted, target) in [
        ("connect", "192.0.2.1:80"),
        ("connect", "127.1:80"),
        ("udp", "2130706433:53"),
        ("resolve", "0x7f.1"),
        ("listen", &lab.address.to_string()),
        ("unix", &admin),
    ] {
        is_shown(&lab, &borrower, wanted, target).await;
    }
}

/// Puts the rules with these terms in force, for sessions that are open too.
fn put_in_force(lab: &Lab, terms: &str) {
    let loaded = || lab.audit().iter().filter(|line| line["event"] == "policy-loaded").count();
    let before = loaded();
    std::fs::write(lab.dir().join("policy.toml"), policy(terms)).unwrap();
    lab.wait_for_audit("the other policy", |_| loaded() > before);
}

fn policy(terms: &str) -> String {
    format!(
        "[[allow]]\nwho = \"alice\"\nconnect = \"127.0.0.0/8:*\"\nexec = [{{ path = \"/bin/true\" }}]\nshell = true\n\
         unix = \"/run\"\n{terms}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_grant_mends_is_allowed_by_the_line_for_the_policy() {
    let (lab, _home, borrower) = session(&policy("")).await;
    let of_root = [
        ("", "exec", "/bin/true"),
        ("", "shell", ""),
        ("", "unix", "/run/none.sock"),
        ("run_as = \"nobody-has-this\"", "exec", "/bin/true"),
        ("run_as = \"root\"", "shell", ""),
        ("run_as = \"root\"", "unix", "/run/none.sock"),
        ("allow_root = true", "detach", "/bin/true"),
    ];
    let of_others = [("run_as = \"daemon\"", "exec", "/bin/true"), ("", "detach", "/bin/true")];
    let cases = if own_uid() == 0 { &of_root[..] } else { &of_others };
    for (terms, wanted, target) in cases {
        put_in_force(&lab, terms);
        let (_, line) = refused(&borrower, wanted, target).await;
        let line = line.replace("NAME", "daemon");
        // Two of them would be an error.
        let kept = if line.starts_with("run_as") { "" } else { terms };
        put_in_force(&lab, &format!("{kept}\n{line}"));
        is_not_refused(&borrower, wanted, target).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_a_limit_allows_is_allowed_by_the_line_for_the_policy() {
    let server = crate::origin(crate::echo).to_string();
    let (lab, home, borrower) = session(&policy("limits = { streams = 1, sessions = 1 }")).await;
    let is_full = |error: BorrowError, line: &str| {
        assert_eq!((error.kind(), to_send(&error).as_str()), (ErrorKind::Busy, line), "{error}");
    };
    let _held = borrower.tcp_connect(&server).await.unwrap();
    is_full(borrower.tcp_connect(&server).await.map(drop).unwrap_err(), "limits = { streams = N }");
    let another = Borrower::connect_with(&home.profiles(), "lab").await;
    is_full(another.map(drop).unwrap_err(), "limits = { sessions = N }");

    put_in_force(&lab, "limits = { streams = 9, sessions = 9 }");
    let another = home.connect().await;
    let _held = (another.tcp_connect(&server).await.unwrap(), another.tcp_connect(&server).await.unwrap());
    // A session that was told of more streams than there may be now hears it of the lender.
    put_in_force(&lab, "limits = { streams = 1, sessions = 9 }");
    is_full(another.check("connect", &server).await.map(drop).unwrap_err(), "limits = { streams = N }");
}
