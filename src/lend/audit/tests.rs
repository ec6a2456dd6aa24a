use super::*;

#[tokio::test(start_paused = true)]
async fn with_the_queue_full_whoever_has_something_to_say_waits_and_nothing_is_dropped() {
    let (entry_tx, mut entry_rx) = mpsc::channel(QUEUE);
    let audit =
        Audit { entry_tx, sound: Arc::new(AtomicBool::new(true)), refusals: Arc::default(), hurry: Arc::default() };
    let event = || Event { event: "login", ..Event::default() };
    for _ in 0..QUEUE {
        audit.log(event()).await;
    }
    let mut late = Box::pin(audit.log(event()));
    assert!(tokio::time::timeout(Duration::from_secs(3600), &mut late).await.is_err(), "it must wait");
    assert!(entry_rx.recv().await.is_some());
    late.await;
    let left = std::iter::from_fn(|| entry_rx.try_recv().ok()).count();
    assert_eq!(left, QUEUE);
}

#[tokio::test]
async fn who_must_not_wait_is_counted_while_the_queue_is_full_and_written_afterwards() {
    let (entry_tx, mut entry_rx) = mpsc::channel(QUEUE);
    let audit =
        Audit { entry_tx, sound: Arc::new(AtomicBool::new(true)), refusals: Arc::default(), hurry: Arc::default() };
    for _ in 0..QUEUE {
        audit.log(Event { event: "login", ..Event::default() }).await;
    }
    for _ in 0..3 {
        audit.note(Source::Accept, Event { event: "accept-failed", ..Event::default() });
    }
    let (counts, mut written) = (audit.write_counts(), Vec::new());
    tokio::pin!(counts);
    while written.len() <= QUEUE {
        tokio::select! {
            () = &mut counts => unreachable!("it runs for ever"),
            Some(Entry::Event(event)) = entry_rx.recv() => written.push(event),
        }
    }
    let last = written.pop().unwrap();
    assert_eq!((last.event, last.count), ("accept-failed", Some(3)));
}

#[tokio::test]
async fn who_must_be_sure_learns_that_a_line_is_lost_though_the_log_was_sound_before() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("audit");
    let audit = Audit::open(&dir).unwrap();
    let event = || Event { event: "login", ..Event::default() };
    assert!(audit.log_surely(event()).await && audit.is_sound().await);
    // Nothing is written meanwhile, so that nothing finds out.
    let file = files::active(&dir);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(!audit.log_surely(event()).await, "there is no file for it");
    std::fs::remove_dir(&file).unwrap();
    assert!(audit.is_sound().await && audit.log_surely(event()).await);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"lines-lost\"") && text.contains("\"count\":1"), "{text}");
}

#[test]
fn a_log_is_known_by_any_part_of_it() {
    let top = tempfile::tempdir().unwrap();
    let dir = &top.path().join("audit");
    let path = |name: &str| dir.join(name);
    drop(Journal::open(dir, Limits::default(), OffsetDateTime::now_utc()).unwrap());
    let begun = || Audit::has_lines(dir);
    assert_eq!(std::fs::metadata(files::active(dir)).unwrap().len(), 0);
    assert!(!begun(), "a head that was made before any line is no log yet");
    std::fs::write(path("audit-000000000001.jsonl"), "").unwrap();
    assert!(begun(), "a full file");
    std::fs::remove_file(path("audit-000000000001.jsonl")).unwrap();
    let mut journal = Journal::open(dir, Limits::default(), OffsetDateTime::now_utc()).unwrap();
    journal.append(&Event { event: "login", ..Event::default() }, OffsetDateTime::now_utc());
    assert!(journal.commit(OffsetDateTime::now_utc()) && begun());
    std::fs::remove_file(files::active(dir)).unwrap();
    assert!(begun(), "the head alone");
    std::fs::write(Head::path(dir), "broken").unwrap();
    assert!(begun(), "a head that cannot be read");
    assert!(!Audit::has_lines(&path("none")));
}

#[tokio::test]
async fn what_was_flushed_is_in_the_file() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("audit");
    let audit = Audit::open(&dir).unwrap();
    for _ in 0..20 {
        let event = Event { event: "handshake-refused", ..Event::default() };
        audit.bounded(std::net::IpAddr::from([127, 0, 0, 1]), event).await;
    }
    assert!(audit.flush().await);
    let text = std::fs::read_to_string(dir.join("audit.jsonl")).unwrap();
    assert_eq!((text.lines().count(), text.matches("\"count\":12").count()), (9, 1), "{text}");
    assert_eq!(verify(&dir).unwrap(), 9);
}
