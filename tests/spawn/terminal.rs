//! Terminals, driven as a person drives them: in tmux, with vim, Ctrl-C, Ctrl-Z, another size and `~.`

use crate::{
    lab,
    support::{Home, run, screen::Screen, text, wait_until},
};

fn screen_of(home: &Home) -> Screen<'static> {
    Screen::with(home, &["bash", "--norc"])
}

/// A shell at the lender, with a prompt of its own.
fn begin_a_shell(screen: &Screen<'_>) {
    screen.keys(&["capuchin exec -t lab env PS1='there> ' bash --norc", "Enter"]);
    screen.wait_for("there>");
    screen.keys(&["C-l"]);
    screen.wait_until("a clear screen", |shown| shown.trim() == "there>");
}

#[test]
fn vim_edits_and_saves() {
    let (lab, home) = lab();
    let screen = screen_of(&home);
    let file = lab.dir().join("notes.txt");
    screen.keys(&[&format!("capuchin exec -t lab vim -u NONE {}", file.display()), "Enter"]);
    screen.wait_for("~");
    screen.keys(&["i", "written far away", "Escape"]);
    screen.wait_for("written far away");
    screen.keys(&[":wq", "Enter"]);
    screen.wait_until("the prompt behind it", |shown| shown.trim_end().ends_with("here>"));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "written far away\n");
}

#[test]
fn less_htop_and_tmux_fill_the_screen_and_leave_it() {
    let (lab, home) = lab();
    let screen = screen_of(&home);
    let file = lab.dir().join("lines");
    let lines: Vec<_> = (1..=500).map(|number| format!("line {number} of many\n")).collect();
    std::fs::write(&file, lines.concat()).unwrap();
    screen.keys(&[&format!("capuchin exec -t lab less {}", file.display()), "Enter"]);
    screen.wait_for("line 1 of many");
    screen.keys(&["G"]);
    screen.wait_for("line 500 of many");
    screen.keys(&["?line 250 of", "Enter"]);
    screen.wait_until("what was searched for", |shown| shown.starts_with("line 250 of many\n"));
    screen.keys(&["q"]);
    screen.wait_until("the prompt behind it", |shown| shown.trim_end().ends_with("here>"));

    screen.keys(&["capuchin exec -t lab htop", "Enter"]);
    screen.wait_until("its bars", |shown| shown.contains("Load average") && shown.contains("Quit"));
    screen.keys(&["q"]);
    screen.wait_until("the prompt behind it", |shown| shown.trim_end().ends_with("here>"));

    let socket = lab.dir().join("tmux");
    let inner = format!(
        "capuchin exec -t lab env SHELL=/bin/sh tmux -f /dev/null -S {} new-session 'env PS1=inner: sh'",
        socket.display()
    );
    screen.keys(&["C-l", &inner, "Enter"]);
    screen.wait_for("inner:");
    screen.keys(&["echo $((6*7))", "Enter"]);
    screen.wait_for("42");
    // Its own prefix: another window, and back.
    screen.keys(&["C-b", "c"]);
    screen.wait_for("1:");
    screen.keys(&["exit", "Enter"]);
    screen.wait_for("42");
    screen.keys(&["exit", "Enter"]);
    screen
        .wait_until("the prompt behind it", |shown| shown.contains("[exited]") && shown.trim_end().ends_with("here>"));
}

/// The window is closed: what ran in it hears a hang-up, at the far end, too.
#[test]
fn a_terminal_that_hangs_up_hangs_up_there() {
    let (lab, home) = lab();
    let screen = screen_of(&home);
    let script = lab.dir().join("wait");
    let heard = lab.dir().join("heard");
    let text = format!(
        "trap 'echo hung up > {}; exit' HUP\necho ready $((6*7))\nwhile :; do sleep 0.1; done\n",
        heard.display()
    );
    std::fs::write(&script, text).unwrap();
    screen.keys(&[&format!("capuchin exec -t lab sh {}", script.display()), "Enter"]);
    screen.wait_for("ready 42");
    drop(screen);
    lab.wait_for_audit("its end", |line| line["event"] == "spawn-ended");
    wait_until("it heard of it", || std::fs::read_to_string(&heard).unwrap_or_default() == "hung up\n");
}

#[test]
fn keys_that_interrupt_and_stop_reach_the_program_there() {
    let (_lab, home) = lab();
    let screen = screen_of(&home);
    begin_a_shell(&screen);
    screen.keys(&["echo first; cat", "Enter"]);
    screen.wait_for("\nfirst");
    screen.keys(&["echoed", "Enter"]);
    screen.wait_until("its echo", |shown| shown.matches("echoed").count() == 2);
    screen.keys(&["C-c"]);
    screen.wait_until("the prompt behind it", |shown| shown.trim_end().ends_with("there>"));
    screen.keys(&["echo second; cat", "Enter"]);
    screen.wait_for("\nsecond");
    screen.keys(&["again", "Enter"]);
    screen.wait_until("its echo", |shown| shown.matches("again").count() == 2);
    screen.keys(&["C-z"]);
    screen.wait_for("Stopped");
    screen.keys(&["fg; echo ended", "Enter"]);
    // It names what goes on; whoever answers then is in the foreground.
    screen.wait_for("fg; echo ended\ncat");
    screen.keys(&["third", "Enter"]);
    screen.wait_until("its echo", |shown| shown.matches("third").count() == 2);
    screen.keys(&["C-c"]);
    screen.wait_until("the prompt again", |shown| shown.trim_end().ends_with("there>"));
    screen.keys(&["C-l", "exit 7", "Enter"]);
    screen.wait_until("the local prompt", |shown| shown.trim_end().ends_with("\nhere>"));
    screen.keys(&["echo status $?", "Enter"]);
    screen.wait_for("status 7");
}

#[test]
fn a_flood_of_output_in_a_shell_ends_at_its_interrupt_and_the_prompt_is_back() {
    let (_lab, home) = lab();
    let screen = screen_of(&home);
    begin_a_shell(&screen);
    screen.keys(&["yes", "Enter"]);
    screen.wait_until("a screen of it", |shown| shown.matches("y\n").count() > 20);
    // How little comes behind it is counted in `local_terminal`.
    screen.keys(&["C-c"]);
    screen.wait_until("the prompt", |shown| shown.trim_end().ends_with("there>"));
}

#[test]
fn the_size_follows_and_modes_and_term_are_those_of_here() {
    let (_lab, home) = lab();
    let screen = screen_of(&home);
    screen.keys(&["stty intr ^G", "Enter"]);
    begin_a_shell(&screen);
    screen.keys(&["stty size; echo $TERM; stty -a | grep -o 'intr = ^.'", "Enter"]);
    let shown = screen.wait_for("intr = ^G");
    assert!(shown.contains("30 100\n") && shown.contains("\ntmux") | shown.contains("\nscreen"), "{shown}");
    run(screen.tmux().args(["resize-window", "-x", "90", "-y", "25"]));
    screen.keys(&["C-l", "until [ \"$(stty size)\" = '25 90' ]; do :; done; echo followed", "Enter"]);
    screen.wait_until("the new size", |shown| shown.contains("\nfollowed"));
}

#[test]
fn the_escape_keys_suspend_help_and_end_and_the_terminal_is_as_before() {
    let (lab, home) = lab();
    let screen = screen_of(&home);
    begin_a_shell(&screen);
    screen.keys(&["Enter", "~?"]);
    screen.wait_for("Supported escape sequences");
    screen.keys(&["Enter", "~#"]);
    screen.wait_for("One program in session");
    screen.keys(&["Enter", "~", "C-z"]);
    screen.wait_for("Stopped");
    screen.keys(&["stty -a | grep -o '.icanon'; fg", "Enter"]);
    screen.wait_for(" icanon");
    screen.keys(&["C-l", "echo $((6*7))", "Enter"]);
    screen.wait_for("42");
    screen.keys(&["Enter", "~."]);
    screen.wait_for("Connection to lab closed.");
    screen.keys(&["C-l", "stty -a | grep -o '.icanon'", "Enter"]);
    screen.wait_for(" icanon");
    lab.wait_for_audit("the end", |line| line["event"] == "spawn-ended");
}

#[test]
fn a_lender_that_goes_gives_the_terminal_back() {
    let (mut lab, home) = lab();
    let screen = screen_of(&home);
    begin_a_shell(&screen);
    lab.daemon.kill();
    screen.wait_for("error[lost]");
    screen.keys(&["C-l", "stty -a | grep -o '.icanon'", "Enter"]);
    screen.wait_for(" icanon");
}

#[test]
fn a_terminal_is_made_where_there_is_none_and_its_end_is_seen() {
    let (_lab, home) = lab();
    let mut command = home.capuchin();
    command.env_remove("TERM");
    let output = run(command.args(["exec", "-t", "lab", "sh", "-c", "stty size; tty; echo $TERM"]));
    let said = text(output.stdout);
    assert!(said.starts_with("24 80\r\n/dev/pts/") && said.ends_with("dumb\r\n"), "{said:?}");
    let mut command = home.capuchin();
    let output = crate::support::run_with(command.args(["exec", "-t", "lab", "cat"]), "a line without an end");
    assert!(output.status.success(), "stdin's end ends the input of a terminal, too");
}
