use std::net::Ipv4Addr;

use super::*;

fn peer(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

fn admitted(admission: &Admission, number: u32) -> Place {
    match admission.arrive(peer(number), Instant::now()) {
        Arrival::Admitted(place) => place,
        Arrival::Waits(_) => panic!("{number} waits"),
        Arrival::Closed(_) => panic!("{number} is closed"),
    }
}

fn waiting(admission: &Admission, number: u32) -> Waiting {
    match admission.arrive(peer(number), Instant::now()) {
        Arrival::Waits(waiting) => waiting,
        Arrival::Admitted(_) => panic!("{number} is admitted"),
        Arrival::Closed(_) => panic!("{number} is closed"),
    }
}

#[tokio::test]
async fn above_its_share_a_source_waits_and_others_do_not() {
    let admission = Admission::new(PER_SOURCE, true);
    let mut places: Vec<_> = (0..PER_SOURCE).map(|_| admitted(&admission, 1)).collect();
    let waits = waiting(&admission, 1);
    admitted(&admission, 2);
    places.pop();
    assert_eq!(waits.place().await.expect("the place that was given back").source(), Source::from(peer(1)));
}

#[tokio::test]
async fn a_place_goes_to_the_first_who_may_have_it() {
    let admission = Admission::new(PER_SOURCE, true);
    let full: Vec<_> = (0..PLACES).map(|n| admitted(&admission, (n / PER_SOURCE) as u32)).collect();
    // Source 0 has its share; source 99 has nothing yet.
    let (mut greedy, modest) = (waiting(&admission, 0), waiting(&admission, 99));
    let mut full = full.into_iter();
    let (of_zero, of_last) = (full.next(), full.next_back());
    drop(of_last);
    let place = modest.place().await.expect("a free place");
    assert!(greedy.0.try_recv().is_err(), "its source has its share");
    drop(of_zero);
    assert!(greedy.place().await.is_some());
    drop(place);
}

#[tokio::test]
async fn a_place_for_one_who_gave_up_goes_to_the_next() {
    let admission = Admission::new(1, true);
    let place = admitted(&admission, 1);
    let (gone, next) = (waiting(&admission, 1), waiting(&admission, 1));
    drop(gone);
    drop(place);
    drop(next.place().await.expect("the place of the one who gave up"));
    assert!(admission.lock().shares.is_empty(), "every place is given back");
    admitted(&admission, 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_five_seconds() {
    let admission = Admission::new(1, true);
    let _place = admitted(&admission, 1);
    let started = tokio::time::Instant::now();
    assert!(waiting(&admission, 1).place().await.is_none());
    assert_eq!(started.elapsed().as_secs(), WAIT_MAX.as_secs());
}

#[tokio::test]
async fn a_flood_from_one_source_closes_its_own_and_never_the_one_of_another() {
    let admission = Admission::new(1, true);
    let mut held: Vec<_> = (0..PLACES as u32).map(|n| admitted(&admission, n)).collect();
    let modest = waiting(&admission, 999);
    let mut flood = Vec::new();
    let mut closed = 0;
    for _ in 0..10_000 {
        match admission.arrive(peer(7), Instant::now()) {
            Arrival::Waits(waiting) => flood.push(waiting),
            Arrival::Closed(_) => closed += 1,
            Arrival::Admitted(_) => panic!("there is no place"),
        }
    }
    assert!(admission.lock().waiting.len() <= WAITING_MAX);
    assert!(closed > 0, "newcomers are closed too, at random");
    held.pop();
    assert!(modest.place().await.is_some());
}

#[tokio::test]
async fn a_source_that_is_penalised_is_closed_and_leaves_the_queue() {
    let admission = Admission::new(1, true);
    let (place, waits) = (admitted(&admission, 1), waiting(&admission, 1));
    let now = Instant::now();
    assert_eq!(place.blame(Offence::Protocol, now), None);
    assert_eq!(place.blame(Offence::Deadline, now), Some(Duration::from_secs(20)));
    drop(place);
    assert!(waits.place().await.is_none());
    assert!(matches!(admission.arrive(peer(1), now), Arrival::Closed(Some(1))));
    assert!(matches!(admission.arrive(peer(1), now), Arrival::Closed(None)), "told once a second");
    assert!(matches!(admission.arrive(peer(1), now + TOLD_EVERY), Arrival::Closed(Some(2))));
    assert!(matches!(admission.arrive(peer(2), now), Arrival::Admitted(_)));
    assert!(matches!(admission.arrive(peer(1), now + Duration::from_secs(20)), Arrival::Admitted(_)));
}

#[test]
fn a_source_is_an_address_of_four_bytes_or_half_one_of_sixteen() {
    let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
    assert_ne!(source("::ffff:10.0.0.1"), source("::ffff:10.0.0.2"));
    assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:2"));
    assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    assert_eq!(source("2001:db8::1").to_string(), "2001:db8::/64");
    assert_eq!(source("10.0.0.1").to_string(), "10.0.0.1/32");
}
