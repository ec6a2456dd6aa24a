//! What somebody else did to the log: it is found, told, and never mended away.

use super::*;

#[test]
fn a_line_that_is_changed_left_out_or_put_in_is_found() {
    let log = Log::with(&["one", "two", "three"]);
    let whole = log.text();
    let lines: Vec<&str> = whole.lines().collect();
    for (forged, broken_at) in [
        (whole.replace("two", "owt"), 2),
        ([lines[0], lines[2], ""].join("\n"), 2),
        ([lines[0], lines[0], lines[1], ""].join("\n"), 2),
        (format!("{}\n", lines[1]), 1),
        (whole.replace("\"seq\":2", "two"), 2),
    ] {
        log.write(&forged);
        assert_eq!(log.broken().0, broken_at, "{forged}");
    }
}

#[test]
fn lines_that_are_cut_off_at_the_end_are_missed() {
    let log = Log::with(&["one", "two", "three"]);
    let whole = log.text();
    let first = whole.lines().next().unwrap();
    for left in [format!("{first}\n"), format!("{first}\n{{\"seq\":2"), first.to_owned(), String::new()] {
        log.write(&left);
        let (_, why) = log.broken();
        assert!(why.contains("to 3 are missing"), "{why}");
    }
    fs::remove_file(log.active()).unwrap();
    assert!(log.broken().1.contains("1 to 3 are missing"));
}

#[test]
fn a_lender_that_starts_on_a_cut_log_says_so_and_does_not_close_the_gap() {
    let log = Log::with(&["one", "two", "three"]);
    let first = log.text().lines().next().unwrap().to_owned();
    log.write(&format!("{first}\n"));
    log.add(&["four"]);
    assert_eq!(log.whys(), ["one", "the lines 2 to 3 are missing", "four"]);
    assert_eq!(log.broken(), (2, "its number does not follow the line before it".to_owned()));
}

#[test]
fn a_last_line_that_was_written_anew_stays_found_when_the_log_goes_on() {
    let log = Log::with(&["one", "two"]);
    let first = log.text().lines().next().unwrap().to_owned();
    let before = parse(&first).unwrap().at;
    let body = event("forged").body(2, "2023-11-14T22:13:20Z").unwrap();
    log.write(&format!("{first}\n{}", before.then(&body).seal(&body)));
    assert_eq!(log.broken(), (2, "it is not the line that was written here".to_owned()));
    log.add(&["three"]);
    assert_eq!(log.whys()[2], "line 2 is not the one that was written");
    assert_eq!(log.broken().0, 3);
}

#[test]
fn a_log_without_its_head_proves_nothing_and_a_restart_says_so() {
    let log = Log::with(&["one"]);
    fs::remove_file(Head::path(log.dir())).unwrap();
    assert!(log.broken().1.contains("cannot be said"));
    log.add(&["two"]);
    assert!(log.whys()[1].contains("head was missing"));
    assert_eq!(verify(log.dir()).unwrap(), 3);
}

#[test]
fn a_log_that_was_emptied_is_not_whole_and_what_follows_says_so() {
    let log = Log::with(&["one", "two"]);
    for entry in fs::read_dir(log.dir()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let (line, why) = log.broken();
    assert!(line == 1 && why.contains("the log was removed, or never begun"), "{why}");
    log.add(&["three"]);
    assert_eq!(log.lines()[0]["event"], "log-mended");
    assert_eq!(log.whys()[1], "three");

    // A lender that has only just begun has a head.
    let new = Log::new();
    drop(new.open());
    assert_eq!(verify(new.dir()).unwrap(), 0);
}

#[test]
fn a_log_that_is_removed_under_the_writer_begins_anew_and_misses_what_was_there() {
    let away = |log: &Log| fs::rename(log.dir(), log.top.path().join("away")).unwrap();
    let file = |log: &Log| fs::remove_file(log.active()).unwrap();
    let all = |log: &Log| fs::remove_dir_all(log.dir()).unwrap();
    let emptied = |log: &Log| {
        fs::remove_dir_all(log.dir()).unwrap();
        keyfile::create_dir(log.dir()).unwrap();
    };
    for (what, remove) in [("file", &file as &dyn Fn(&Log)), ("all", &all), ("emptied", &emptied), ("away", &away)] {
        let log = Log::new();
        let mut journal = log.open();
        let mut write = |why: &str| {
            journal.stay_in_place(at(0));
            journal.append(&event(why), at(0));
            assert!(journal.commit(at(0)), "{what}");
        };
        write("one");
        write("two");
        remove(&log);
        write("three");
        write("four");
        assert_eq!(log.whys(), ["the lines 1 to 2 are missing", "three", "four"], "{what}");
        assert_eq!(log.lines()[0]["event"], "log-mended", "{what}");
        assert_eq!(log.broken(), (1, "the lines before it are missing".to_owned()), "{what}");
        log.add(&["after a restart"]);
        assert_eq!(log.broken(), (1, "the lines before it are missing".to_owned()), "{what}");
    }
}

#[test]
fn a_copy_in_the_place_of_the_log_is_gone_on_with() {
    let log = Log::new();
    let mut journal = log.open();
    journal.append(&event("one"), at(0));
    assert!(journal.commit(at(0)));
    let copy = log.dir().join("copy");
    fs::copy(log.active(), &copy).unwrap();
    fs::rename(&copy, log.active()).unwrap();
    journal.stay_in_place(at(0));
    journal.append(&event("two"), at(0));
    assert!(journal.commit(at(0)));
    assert_eq!((log.whys(), verify(log.dir()).unwrap()), (vec!["one".to_owned(), "two".to_owned()], 2));
}

/// Lines that somebody writes who knows how, behind the first `kept` of a log.
fn forged(whole: &str, kept: usize, until: u64) -> String {
    let mut text: String = whole.lines().take(kept).map(|line| format!("{line}\n")).collect();
    let mut at = text.lines().last().map_or(Position::GENESIS, |line| parse(line).unwrap().at);
    while at.seq < until {
        let body = event("forged").body(at.seq + 1, "2023-11-14T22:13:20Z").unwrap();
        at = at.then(&body);
        text += &at.seal(&body);
    }
    text
}

#[test]
fn a_longer_log_that_is_put_in_the_place_of_the_log_is_not_taken_for_it() {
    for (kept, running) in [(0, true), (1, true), (2, true), (0, false), (1, false)] {
        let log = Log::with(&["one", "two"]);
        let mut journal = log.open();
        // Told by its number, so that the file is another one.
        let copy = log.dir().join("copy");
        fs::write(&copy, forged(&log.text(), kept, 5)).unwrap();
        fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::rename(&copy, log.active()).unwrap();
        if running {
            journal.stay_in_place(at(0));
        } else {
            drop(journal);
            journal = log.open();
        }
        journal.append(&event("three"), at(0));
        assert!(journal.commit(at(0)));
        let lines = log.lines();
        assert_eq!(lines[5]["event"], "log-mended", "{kept} {running}: {lines:?}");
        assert_eq!(lines[5]["why"], "line 3 is none that was written: it does not follow from line 2");
        assert!(verify(log.dir()).is_err(), "{kept} {running}");
    }
}
