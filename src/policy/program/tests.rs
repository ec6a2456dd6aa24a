use super::*;
use crate::{
    policy::{AnyRequest, decide},
    proto::DeviceId,
};

fn judge(rules: &str, kind: Kind, line: &str) -> Result<RuleRef, Refusal> {
    let policy = Policy::parse(&format!("[[allow]]\nwho = \"ana\"\n{rules}"), "policy.toml").unwrap();
    let ana = Principal { user: "ana".parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) };
    decide(&policy, &ana, AnyRequest::parse(kind, line).unwrap(), &Facts::default()).map(|it| it.rule().clone())
}

fn runs(entry: &str, line: &str) -> bool {
    judge(&format!("exec = [{entry}]"), Kind::Exec, line).is_ok()
}

/// Attack 52.
#[test]
fn arguments_are_compared_one_by_one_and_no_shell_reads_them() {
    let exact = "{ path = \"/usr/bin/git\", args = [\"status\"], exact = true }";
    assert!(runs(exact, "/usr/bin/git status"));
    for attack in [
        "/usr/bin/git",
        "/usr/bin/git 'status; rm -rf /'",
        "/usr/bin/git status ';' rm -rf /",
        "/usr/bin/git '$(rm -rf /)'",
        "/usr/bin/git -c core.pager=/bin/sh status",
        "/usr/bin/git status --upload-pack=/bin/sh",
        "/usr/bin/git 'status '",
        "/usr/bin/git Status",
        "'/usr/bin/git status'",
        "/usr/bin/gitx status",
        "/usr/local/bin/git status",
    ] {
        assert!(!runs(exact, attack), "{attack}");
    }
    let beginning = "{ path = \"/usr/bin/git\", args = [\"fetch\", \"origin\"] }";
    assert!(runs(beginning, "/usr/bin/git fetch origin --depth 1"));
    assert!(!runs(beginning, "/usr/bin/git fetch --upload-pack=/bin/sh origin"), "an option in front is no beginning");
    assert!(!runs(beginning, "/usr/bin/git -c x=y fetch origin") && !runs(beginning, "/usr/bin/git fetch origina"));
}

#[test]
fn an_entry_takes_any_arguments_none_or_every_program() {
    let git = "{ path = \"/usr/bin/git\" }";
    assert!(runs(git, "/usr/bin/git") && runs(git, "/usr/bin/git push --force"));
    let bare = "{ path = \"/usr/bin/git\", exact = true }";
    assert!(runs(bare, "/usr/bin/git") && !runs(bare, "/usr/bin/git push"));
    assert!(runs("{ path = \"*\" }", "/bin/x y") && !runs("{ path = \"*\", args = [\"a\"] }", "/bin/x y"));
}

#[test]
fn a_deny_covers_what_begins_like_it() {
    let deny = "exec = [{ path = \"*\" }]\n[[deny]]\nwho = \"ana\"\nexec = [{ path = \"/bin/rm\" }, { path = \"*\", args = [\"-c\"] }]";
    assert_eq!(judge(deny, Kind::Exec, "/bin/rm -r x").unwrap_err().reason, Reason::Denied);
    assert_eq!(judge(deny, Kind::Exec, "/bin/sh -c ls").unwrap_err().reason, Reason::Denied);
    assert!(judge(deny, Kind::Exec, "/bin/ls -c").is_err() && judge(deny, Kind::Exec, "/bin/ls -l").is_ok());
}

#[test]
fn a_refusal_shows_the_entry_to_add_and_a_line_that_survives_a_shell() {
    let refusal =
        judge("exec = [{ path = \"/usr/bin/git\", args = [\"status\"] }]", Kind::Exec, "/usr/bin/git push 'a b'");
    assert_eq!(
        refusal.unwrap_err().explain(),
        [
            "exec /usr/bin/git push 'a b' is refused: no rule allows it",
            "  nearest: policy.toml:3 exec = { path = \"/usr/bin/git\", args = [\"status\"] }",
            "  help: ask the lender's admin to add `exec = [{ path = \"/usr/bin/git\", args = [\"push\", \"a b\"], \
             exact = true }]` to an [[allow]] of policy.toml, or to allow it for an hour:",
            r"  capuchind allow ana exec '/usr/bin/git push '\''a b'\''' --for 1h",
        ]
    );
}

#[test]
fn a_shell_and_python_are_allowed_as_a_whole() {
    assert!(judge("shell = true", Kind::Shell, "").is_ok() && judge("shell = true", Kind::Python, "").is_err());
    assert!(judge("python = true", Kind::Python, "").is_ok() && judge("python = false", Kind::Python, "").is_err());
    let denied = judge("shell = true\n[[deny]]\nwho = \"ana\"\nshell = true", Kind::Shell, "").unwrap_err();
    assert_eq!(
        (denied.reason, denied.rule.unwrap().to_string()),
        (Reason::Denied, "policy.toml:6 shell = true".into())
    );
    let refusal = judge("exec = [{ path = \"*\" }]", Kind::Shell, "").unwrap_err();
    assert_eq!(refusal.to_string(), "shell is refused: no rule allows it");
    assert_eq!(&*refusal.send.unwrap(), "capuchind allow ana shell --for 1h");
    assert!(AnyRequest::parse(Kind::Shell, "x").is_err() && AnyRequest::parse(Kind::Exec, "").is_err());
}

#[test]
fn a_link_is_allowed_by_either_name_and_denied_by_either() {
    let exec = |path: &str, real: &str| {
        let paths = [path, real].map(|path| LenderPath::parse(path).unwrap());
        let [path, real] = paths;
        Exec::new(path, Some(real), []).unwrap()
    };
    let judge = |rules: &str, exec: Exec| {
        let policy = Policy::parse(&format!("[[allow]]\nwho = \"ana\"\n{rules}"), "policy.toml").unwrap();
        let ana = Principal { user: "ana".parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) };
        decide(&policy, &ana, exec, &Facts::default()).map(|granted| granted.into_parts().0.path.to_string())
    };
    let vi = || exec("/usr/bin/vi", "/usr/bin/vim.basic");
    assert_eq!(judge("exec = [{ path = \"/usr/bin/vi\" }]", vi()).unwrap(), "/usr/bin/vi");
    // By the other name alone, it runs under that name: what a link is called must not choose what a program does.
    assert_eq!(judge("exec = [{ path = \"/usr/bin/vim.basic\" }]", vi()).unwrap(), "/usr/bin/vim.basic");
    assert_eq!(judge("exec = [{ path = \"/usr/bin/ex\" }]", vi()).unwrap_err().reason, Reason::NoRule);
    for denied in ["/usr/bin/vi", "/usr/bin/vim.basic"] {
        let rules = format!("exec = [{{ path = \"*\" }}]\n[[deny]]\nwho = \"ana\"\nexec = [{{ path = {denied:?} }}]");
        assert_eq!(judge(&rules, vi()).unwrap_err().reason, Reason::Denied, "{denied}");
        let both = rules.replace('*', "/usr/bin/vim.basic").replace("}]\n[[", "}, { path = \"/usr/bin/vi\" }]\n[[");
        assert_eq!(judge(&both, vi()).unwrap_err().reason, Reason::Denied, "{denied}");
    }
}

/// A file that may not be run is refused in the same words whether it is there, is a link, or is not.
#[test]
fn a_refusal_does_not_tell_what_a_file_is() {
    let rules = "[[allow]]\nwho = \"ana\"\nexec = [{ path = \"/bin/git\", args = [\"status\"] }, { path = \"/bin/sh\" }]\n\
                 [[deny]]\nwho = \"ana\"\nexec = [{ path = \"/bin/sh\" }, { path = \"/bin/rm\" }]";
    let policy = Policy::parse(rules, "policy.toml").unwrap();
    let ana = Principal { user: "ana".parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) };
    let own = [LenderPath::parse("/var/lib/capuchin").unwrap()];
    let facts = Facts { own_folders: &own, ..Facts::default() };
    let ask = |real: Option<&str>, argument: &str| {
        let real = real.map(|real| LenderPath::parse(real).unwrap());
        let exec = Exec::new(LenderPath::parse("/home/bob/x").unwrap(), real, [argument.into()]).unwrap();
        (may_run(&policy, &ana, &exec, &facts), decide(&policy, &ana, exec, &facts))
    };
    let (may_run, none) = ask(None, "push");
    let none = none.unwrap_err();
    assert_eq!(none.reason, Reason::NoRule);
    assert_eq!(may_run, Ok(()), "sh may be what it is, as far as arguments say");
    for real in ["/bin/git", "/bin/sh", "/bin/rm", "/etc/shadow", "/var/lib/capuchin/ca.key"] {
        assert_eq!(ask(Some(real), "push").1.unwrap_err(), none, "{real}");
    }
    assert_eq!(ask(Some("/bin/git"), "status").1.unwrap().request().path.to_string(), "/bin/git");
}

#[test]
fn arguments_need_not_be_text() {
    let policy = "[[allow]]\nwho = \"ana\"\nexec = [{ path = \"/bin/cat\", args = [\"--\"] }]";
    let policy = Policy::parse(policy, "policy.toml").unwrap();
    let ana = Principal { user: "ana".parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) };
    let ask = |args: &[&[u8]]| {
        let args: Vec<_> = args.iter().map(|arg| arg.to_vec()).collect();
        let exec = Exec::new(LenderPath::parse("/bin/cat").unwrap(), None, args).unwrap();
        decide(&policy, &ana, exec, &Facts::default())
    };
    assert!(ask(&[b"--", b"\xff\xfe"]).is_ok());
    assert!(ask(&[b"\xff--"]).is_err());
    let cat = LenderPath::parse("/bin/cat").unwrap();
    assert_eq!(Exec::new(cat, None, [b"a\0b".to_vec()]), Err(ProgramError::Nul));
}

/// There may be megabytes of them, from whoever may run nothing at all; and what is said of them is cut to 1 KiB in the end.
#[test]
fn of_long_arguments_a_refusal_has_no_more_than_can_be_shown() {
    let policy = Policy::parse("[[allow]]\nwho = \"ana\"\nexec = [{ path = \"/bin/ls\" }]", "policy.toml").unwrap();
    let ana = Principal { user: "ana".parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) };
    let refusal = |path: &str, args: Vec<Vec<u8>>| {
        let exec = Exec::new(LenderPath::parse(path).unwrap(), None, args).unwrap();
        (exec.command_line(), decide(&policy, &ana, exec, &Facts::default()).unwrap_err())
    };
    for args in [
        vec![vec![0xff; 1 << 20]; 2],
        vec![vec![1; 2 << 20]],
        vec![Vec::new(); 1 << 16],
        vec![b"'".to_vec(); 1 << 16],
        vec!["é".repeat(1 << 20).into_bytes()],
    ] {
        let (line, refusal) = refusal("/bin/rm", args);
        assert!(line.starts_with("/bin/rm ") && line.len() < 64 * 1024, "{} bytes", line.len());
        let lines = refusal.explain();
        assert!(lines.iter().all(|line| line.len() < 128 * 1024), "{:?}", lines.iter().map(String::len));
        assert!(lines[1].starts_with("  help: ask the lender's admin for a rule of this program"), "{:.200}", lines[1]);
        assert_eq!(refusal.send, None, "another command");
    }
    // What can be shown is shown as it is, and as the rule that would allow it.
    let (line, refusal) = refusal("/bin/rm", vec![b"-r".to_vec(), b"a b".to_vec()]);
    assert_eq!(line, "/bin/rm -r 'a b'");
    assert!(refusal.help.contains(r#"args = ["-r", "a b"], exact = true"#), "{}", refusal.help);
}
