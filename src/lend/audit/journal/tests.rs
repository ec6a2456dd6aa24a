use super::*;
use crate::lend::audit::{AuditReader, prove, verify};

mod tampered;

/// 2023-11-14T22:13:20Z.
const NOON: i64 = 1_700_000_000;

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOON + seconds).unwrap()
}

fn event(why: &str) -> Event {
    Event::of_log("login", why.to_owned())
}

struct Log {
    top: tempfile::TempDir,
    dir: PathBuf,
}

impl Log {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        Self { dir: top.path().join("audit"), top }
    }

    fn dir(&self) -> &Path {
        &self.dir
    }

    fn open(&self) -> Journal {
        self.open_with(Limits::default())
    }

    fn open_with(&self, limits: Limits) -> Journal {
        Journal::open(self.dir(), limits, at(0)).unwrap()
    }

    /// A log of these lines, closed.
    fn with(whys: &[&str]) -> Self {
        let log = Self::new();
        log.add(whys);
        log
    }

    fn add(&self, whys: &[&str]) {
        let mut journal = self.open();
        for why in whys {
            journal.append(&event(why), at(0));
        }
        assert!(journal.commit(at(0)));
    }

    fn active(&self) -> PathBuf {
        files::active(self.dir())
    }

    fn text(&self) -> String {
        fs::read_to_string(self.active()).unwrap()
    }

    fn write(&self, text: &str) {
        fs::write(self.active(), text).unwrap();
    }

    fn add_text(&self, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(self.active()).unwrap();
        io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let mut reader = AuditReader::open(self.dir()).unwrap();
        let next = || reader.next_line().unwrap().map(|line| serde_json::from_str(&line.text).unwrap());
        std::iter::from_fn(next).collect()
    }

    fn whys(&self) -> Vec<String> {
        self.lines().iter().map(|line| line["why"].as_str().unwrap().to_owned()).collect()
    }

    /// The line and the text of what is wrong.
    fn broken(&self) -> (u64, String) {
        match verify(self.dir()).unwrap_err() {
            AuditError::Broken { line, why, .. } => (line, why),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn the_chain_goes_on_after_a_restart_and_after_a_torn_line() {
    let log = Log::with(&["one"]);
    log.add_text("{\"seq\":2,\"ti");
    assert_eq!(verify(log.dir()).unwrap(), 1, "half a line at the end is no line yet");
    log.add(&["two", "three"]);
    assert_eq!(verify(log.dir()).unwrap(), 4);
    let whys = log.whys();
    assert_eq!(whys[1], "the last line was cut short: 12 bytes of it were dropped");
    assert_eq!((whys[0].as_str(), whys[3].as_str()), ("one", "three"));
    assert_eq!(log.lines()[1]["event"], "log-mended");
}

#[test]
fn a_crash_between_a_line_and_the_head_breaks_nothing() {
    let log = Log::with(&["one"]);
    let head = fs::read(Head::path(log.dir())).unwrap();
    log.add(&["two", "three"]);
    fs::write(Head::path(log.dir()), head).unwrap();
    assert_eq!(verify(log.dir()).unwrap(), 3);
    log.add(&["four"]);
    assert_eq!(log.whys(), ["one", "two", "three", "four"]);
    assert_eq!(prove(log.dir()).unwrap().last, 4);
}

#[test]
fn a_file_that_is_none_of_the_log_is_left_alone() {
    let log = Log::new();
    keyfile::create_dir(log.dir()).unwrap();
    for text in ["a letter\n".to_owned(), "x".repeat(1 << 20)] {
        log.write(&text);
        fs::set_permissions(log.active(), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert!(Journal::open(log.dir(), Limits::default(), at(0)).is_err());
        assert_eq!(log.text(), text);
    }
}

#[test]
fn a_full_file_and_a_new_day_begin_a_file_and_the_chain_goes_on() {
    const DAY: i64 = 86_400;
    let log = Log::new();
    let limits = Limits { file_bytes: 1000, ..Limits::default() };
    let mut journal = log.open_with(limits);
    for n in 0..10 {
        journal.append(&event(&format!("{n}")), at(0));
    }
    journal.append(&event("tomorrow"), at(DAY));
    // Put back: no new file, the chain goes on, and the log says what happened.
    journal.append(&event("today again"), at(0));
    assert!(journal.commit(at(0)));
    let old = files::list_old(log.dir()).unwrap();
    assert!(old.len() >= 2, "{old:?}");
    for (_, path) in &old {
        let about = fs::metadata(path).unwrap();
        assert!(about.len() <= 1000, "{path:?}");
        // What was reserved was given back.
        assert!(std::os::unix::fs::MetadataExt::blocks(&about) * 512 <= 4096, "{path:?}");
    }
    let whys = log.whys();
    assert_eq!(whys[..10], (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(whys[10..], ["tomorrow", "the clock was put back by 86400 s", "today again"]);
    assert_eq!(verify(log.dir()).unwrap(), 13);
    drop(journal);
    log.add(&["after a restart"]);
    assert_eq!(verify(log.dir()).unwrap(), 14);
}

#[test]
fn old_files_go_and_what_is_kept_still_proves_itself() {
    let log = Log::new();
    for limits in [
        Limits { file_bytes: 600, files_kept: 3, ..Limits::default() },
        Limits { file_bytes: 600, bytes_kept: 1500, ..Limits::default() },
    ] {
        let mut journal = log.open_with(limits);
        for n in 0..30 {
            journal.append(&event(&format!("{n}")), at(0));
        }
        assert!(journal.commit(at(0)));
        let old = files::list_old(log.dir()).unwrap();
        assert!((2..=3).contains(&old.len()), "{old:?}");
        let proof = prove(log.dir()).unwrap();
        assert!(proof.lines < 20, "{proof:?}");
    }
    // But nobody else may remove one.
    let old = files::list_old(log.dir()).unwrap();
    fs::remove_file(&old[0].1).unwrap();
    assert_eq!(log.broken(), (1, "the lines before it are missing".to_owned()));
}

#[test]
fn a_crash_in_the_middle_of_beginning_a_file_loses_nothing() {
    let log = Log::with(&["one", "two"]);
    fs::rename(log.active(), files::old(log.dir(), 1)).unwrap();
    assert_eq!(verify(log.dir()).unwrap(), 2);
    log.add(&["three"]);
    assert_eq!(log.whys(), ["one", "two", "three"]);
    assert_eq!(verify(log.dir()).unwrap(), 3);
}

#[test]
fn a_reader_goes_on_through_new_files_and_waits_for_whole_lines() {
    let log = Log::new();
    let mut journal = log.open_with(Limits { file_bytes: 500, ..Limits::default() });
    let mut reader = AuditReader::open(log.dir()).unwrap();
    let mut read = Vec::new();
    for n in 0..20 {
        journal.append(&event(&format!("{n}")), at(0));
        if n % 3 == 0 {
            while let Some(line) = reader.next_line().unwrap() {
                read.push(parse(&line.text).unwrap().at.seq);
            }
        }
    }
    let whole = log.text();
    log.write(&whole[..whole.len() - 10]);
    while let Some(line) = reader.next_line().unwrap() {
        read.push(parse(&line.text).unwrap().at.seq);
    }
    assert_eq!(read.last(), Some(&19));
    log.add_text(&whole[whole.len() - 10..]);
    read.push(parse(&reader.next_line().unwrap().unwrap().text).unwrap().at.seq);
    assert_eq!(read, (1..=20).collect::<Vec<_>>());
}

#[test]
fn a_reader_waits_for_the_folder_that_follows_one_that_was_moved_away() {
    let log = Log::with(&["one"]);
    let mut journal = log.open();
    let mut reader = AuditReader::open(log.dir()).unwrap();
    let mut read = || std::iter::from_fn(|| reader.next_line().unwrap()).last().map(|line| line.text);
    assert!(read().is_some_and(|line| line.contains("one")));
    journal.append(&event("two"), at(0));
    fs::rename(log.dir(), log.top.path().join("away")).unwrap();
    assert!(read().is_some_and(|line| line.contains("two")), "its last line");
    assert_eq!(read(), None);
    journal.stay_in_place(at(1));
    journal.append(&event("three"), at(1));
    assert!(read().is_some_and(|line| line.contains("three")));
}

#[test]
fn lines_behind_the_head_are_looked_for_in_every_file_since() {
    let log = Log::with(&["one"]);
    let head = fs::read(Head::path(log.dir())).unwrap();
    let mut journal = log.open_with(Limits { file_bytes: 600, ..Limits::default() });
    for n in 0..9 {
        journal.append(&event(&format!("{n}")), at(0));
    }
    drop(journal);
    assert!(files::list_old(log.dir()).unwrap().len() > 1);
    fs::write(Head::path(log.dir()), head).unwrap();
    log.add(&["ten"]);
    assert_eq!((log.lines().len(), verify(log.dir()).unwrap()), (11, 11), "a crash, and nothing to mend");
}

#[test]
fn while_no_new_log_can_be_begun_nothing_is_sound_and_lines_are_counted() {
    let log = Log::new();
    let mut journal = log.open();
    journal.append(&event("one"), at(0));
    assert!(journal.commit(at(0)));
    fs::remove_file(log.active()).unwrap();
    fs::create_dir(log.active()).unwrap();
    journal.stay_in_place(at(0));
    journal.append(&event("lost"), at(0));
    assert!(!journal.commit(at(0)));
    fs::remove_dir(log.active()).unwrap();
    journal.stay_in_place(at(0));
    journal.append(&event("two"), at(0));
    assert!(journal.commit(at(0)));
    let lines = log.lines();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["log-mended", "lines-lost", "login"]);
    assert_eq!((&lines[0]["why"], &lines[1]["count"]), (&"the lines 1 to 1 are missing".into(), &1.into()));
}
