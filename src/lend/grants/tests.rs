use super::*;
use crate::lend::test_lender::lender;

fn grant(number: u64, expires: u64) -> TimedGrant {
    TimedGrant {
        number,
        user: "ana".parse().unwrap(),
        kind: "connect".to_owned(),
        target: "db:1".to_owned(),
        created: UnixTime(0),
        expires: UnixTime(expires),
    }
}

#[test]
fn what_cannot_be_read_stands_as_it_was_and_is_asked_for_at_a_bounded_pace() {
    let mut standing = Standing::default();
    let broken = || Err(StoreError::Broken { table: "grants" });
    assert_eq!(standing.now_known(Ok(vec![grant(1, 10), grant(2, 20)]), UnixTime(1)), LookAgain::At(UnixTime(10)));
    let after = |pause, ends: u64| LookAgain::After { pause, first_ends: Some(UnixTime(ends)) };
    assert_eq!(standing.now_known(broken(), UnixTime(2)), after(ASK_AGAIN, 10));
    assert_eq!(standing.grants.len(), 2);
    let pauses: Vec<_> = (0..8).map(|_| standing.now_known(broken(), UnixTime(11))).collect();
    assert_eq!(standing.grants, [grant(2, 20)], "its time was over, and needs no store to say so");
    assert_eq!(pauses[0], after(2 * ASK_AGAIN, 20));
    assert_eq!(pauses[7], after(ASK_AGAIN_MAX, 20));
    let left = |now| pauses[7].left(UnixTime(now)).unwrap();
    assert_eq!(left(11), Duration::from_secs(9), "it ends in the pause, and is looked at then");
    assert_eq!((left(20), left(21)), (Duration::ZERO, Duration::ZERO));
    assert_eq!(after(ASK_AGAIN, 20).left(UnixTime(11)), Some(ASK_AGAIN), "before it ends");
    assert_eq!(standing.now_known(Ok(Vec::new()), UnixTime(12)), LookAgain::Never);
    let none = LookAgain::After { pause: ASK_AGAIN, first_ends: None };
    assert_eq!(standing.now_known(broken(), UnixTime(13)), none, "a first failure again");
    assert_eq!(none.left(UnixTime(13)), Some(ASK_AGAIN));
}

#[tokio::test]
async fn a_store_that_fails_takes_no_grant_away_and_gives_none_back_that_was_removed() {
    let (_folder, dir, lender) = lender();
    let ana: UserName = "ana".parse().unwrap();
    lender.shared.store.add_user(&ana, UnixTime::now()).unwrap();
    let allow =
        |target: &str| lender.allow(ana.clone(), "connect".to_owned(), target.to_owned(), Duration::from_secs(3600));
    allow("127.0.0.1:1").await.unwrap();
    allow("127.0.0.1:2").await.unwrap();
    let may = async |target: &str| {
        let ask = crate::proto::Ask { kind: "connect".to_owned(), target: target.to_owned() };
        lender
            .check(ana.clone(), &ask)
            .await
            .is_ok_and(|reply| matches!(reply, AdminReply::Check(verdict) if verdict.allowed))
    };
    assert!(may("127.0.0.1:1").await && may("127.0.0.1:2").await);

    let fail = || {
        let whole = std::fs::read(dir.store()).unwrap();
        std::fs::write(dir.store(), "").unwrap();
        lender.shared.store.fail();
        whole
    };
    let mend = async |whole: Vec<u8>| {
        std::fs::write(dir.store(), whole).unwrap();
        let mut look_again = lender.shared.grants_end.subscribe();
        tokio::select! {
            () = lender.follow_grants() => {}
            read = look_again.wait_for(|again| matches!(again, LookAgain::At(_))) => drop(read.unwrap()),
        }
    };
    let whole = fail();
    lender.renew_policy().await;
    assert!(may("127.0.0.1:1").await && may("127.0.0.1:2").await, "the store cannot be read");
    assert!(matches!(*lender.shared.grants_end.borrow(), LookAgain::After { .. }));
    mend(whole).await;
    assert!(may("127.0.0.1:1").await && may("127.0.0.1:2").await, "it is asked again, and says what it holds");

    // It fails between the removal and the question what is left.
    lender.shared.store.remove_grant(2).unwrap();
    let whole = fail();
    lender.forget_grants(|grant| grant.number == 2).await;
    assert!(may("127.0.0.1:1").await && !may("127.0.0.1:2").await);
    mend(whole).await;
    assert!(may("127.0.0.1:1").await && !may("127.0.0.1:2").await);

    // It fails at the removal itself, and has the grant afterwards.
    allow("127.0.0.1:3").await.unwrap();
    let whole = fail();
    let removed = lender.remove_grant(3).await;
    assert!(matches!(removed, Err(LendError::GrantStands { number: 3, .. })), "{removed:?}");
    assert!(may("127.0.0.1:1").await && !may("127.0.0.1:3").await);
    mend(whole).await;
    assert!(may("127.0.0.1:1").await && !may("127.0.0.1:3").await);
    lender.remove_grant(3).await.unwrap();
    assert!(lender.standing().removed.is_empty() && !may("127.0.0.1:3").await);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_hangs_a_policy_comes_into_force_and_grants_end() {
    let (_folder, _dir, lender) = lender();
    lender.shared.store.add_user(&"ana".parse().unwrap(), UnixTime::now()).unwrap();
    let hour = Duration::from_secs(3600);
    lender.allow("ana".parse().unwrap(), "connect".to_owned(), "127.0.0.1:1".to_owned(), hour).await.unwrap();
    // One whose time is over, whatever the store says.
    lender.shared.standing.lock().unwrap().grants.push(grant(7, 1));
    let (hangs_tx, hangs_rx) = std::sync::mpsc::channel();
    let (works_tx, works_rx) = std::sync::mpsc::channel::<()>();
    let other = lender.clone();
    let holder = std::thread::spawn(move || {
        let _held = other.shared.store.hang();
        hangs_tx.send(()).unwrap();
        let _ = works_rx.recv();
    });
    hangs_rx.recv().unwrap();
    for _ in 0..2 {
        let before = lender.policy();
        let policy = crate::policy::Policy::parse("", "policy.toml").unwrap();
        tokio::join!(lender.put_in_force(policy), tokio::time::advance(reader::READ_MAX));
        assert!(!std::sync::Arc::ptr_eq(&before, &lender.policy()), "it is in force");
    }
    let standing: Vec<_> = lender.shared.standing.lock().unwrap().grants.iter().map(|grant| grant.number).collect();
    assert_eq!(standing, [1]);
    assert!(matches!(*lender.shared.grants_end.borrow(), LookAgain::After { .. }), "it is asked again");
    drop(works_tx);
    holder.join().unwrap();
    lender.renew_policy().await;
    assert!(matches!(*lender.shared.grants_end.borrow(), LookAgain::At(_)));
}
