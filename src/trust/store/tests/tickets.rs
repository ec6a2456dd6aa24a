use super::*;
use crate::trust::{store::tickets::TICKETS_PER_DEVICE, ticket::TicketId};

#[test]
fn a_ticket_leads_back_to_its_login_as_often_as_needed() {
    let store = Temporary::new();
    let (identity, login) = store.logged_in();
    let (ticket, expires) = store.issue_ticket(&identity, login, 8 * HOUR, NOW).unwrap();
    assert_eq!(expires, NOW.plus(8 * HOUR));
    for _ in 0..2 {
        assert_eq!(store.redeem(&ticket, &identity, NOW.plus(HOUR)).unwrap(), login);
    }
    let (second, _) = store.issue_ticket(&identity, login, 8 * HOUR, NOW.plus(HOUR)).unwrap();
    store.redeem(&ticket, &identity, NOW.plus(HOUR)).unwrap();
    store.redeem(&second, &identity, NOW.plus(HOUR)).unwrap();
}

#[test]
fn a_ticket_of_another_device_or_user_is_refused() {
    let store = Temporary::new();
    store.add_user(&bob(), NOW).unwrap();
    let (identity, login) = store.logged_in();
    let (ticket, _) = store.issue_ticket(&identity, login, 8 * HOUR, NOW).unwrap();
    for thief in [device_of("ana", 2), device_of("bob", 1)] {
        assert_eq!(refusal(store.redeem(&ticket, &thief, NOW)), TicketRefusal::OtherDevice);
    }
}

#[test]
fn a_ticket_needs_its_own_proof_on_this_connection() {
    let store = Temporary::new();
    let (identity, login) = store.logged_in();
    let (ticket, _) = store.issue_ticket(&identity, login, 8 * HOUR, NOW).unwrap();
    let replayed = TicketKey::derive(&ticket).proof(&[1; 32]);
    let redeem = |id, proof| refusal(store.redeem_ticket(id, proof, &EXPORTER, &identity, NOW));
    assert_eq!(redeem(ticket.id(), &replayed), TicketRefusal::WrongProof);
    assert_eq!(redeem(TicketId([0; 8]), &replayed), TicketRefusal::Unknown);
}

#[test]
fn a_ticket_ends_with_its_time_and_is_never_renewed_past_its_login() {
    let store = Temporary::new();
    let (identity, login) = store.logged_in();
    let (ticket, _) = store.issue_ticket(&identity, login, 8 * HOUR, NOW).unwrap();
    assert_eq!(refusal(store.redeem(&ticket, &identity, NOW.plus(8 * HOUR))), TicketRefusal::Expired);
    let (_, renewed) = store.issue_ticket(&identity, login, 20 * HOUR, NOW.plus(10 * HOUR)).unwrap();
    assert_eq!(renewed, NOW.plus(20 * HOUR));
    let late = store.issue_ticket(&identity, login, 20 * HOUR, NOW.plus(20 * HOUR));
    assert!(matches!(late, Err(StoreError::LoginOver)));
}

#[test]
fn a_ticket_dies_with_a_password_change_and_with_a_logout() {
    let store = Temporary::new();
    let (identity, login) = store.logged_in();
    let (ticket, _) = store.issue_ticket(&identity, login, 8 * HOUR, NOW).unwrap();
    store.set_password(&ana(), "new").unwrap();
    assert_eq!(refusal(store.redeem(&ticket, &identity, NOW)), TicketRefusal::Withdrawn);

    let login = Login { at: NOW, epoch: store.password_of(&ana()).unwrap().epoch, by_certificate: false };
    let (ticket, _) = store.issue_ticket(&identity, login, 8 * HOUR, NOW).unwrap();
    store.drop_tickets(&ana()).unwrap();
    assert_eq!(refusal(store.redeem(&ticket, &identity, NOW)), TicketRefusal::Withdrawn);
}

#[test]
fn a_password_changed_while_the_old_one_is_checked_gives_no_ticket() {
    let store = Temporary::new();
    let (identity, login) = store.logged_in();
    store.set_password(&ana(), "new").unwrap();
    assert!(matches!(store.issue_ticket(&identity, login, 8 * HOUR, NOW), Err(StoreError::LoginOver)));
}

#[test]
fn a_device_holds_a_bounded_number_of_tickets() {
    let store = Temporary::new();
    let (identity, login) = store.logged_in();
    let issued: Vec<_> = (0..=TICKETS_PER_DEVICE as u64)
        .map(|n| store.issue_ticket(&identity, login, 8 * HOUR + Duration::from_secs(n), NOW).unwrap().0)
        .collect();
    assert_eq!(refusal(store.redeem(&issued[0], &identity, NOW)), TicketRefusal::Unknown);
    for ticket in &issued[1..] {
        store.redeem(ticket, &identity, NOW).unwrap();
    }
}
