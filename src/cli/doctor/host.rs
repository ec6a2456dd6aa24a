//! A host: each step of the way to it, so that the one that fails is the one that is named.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::{Check, State};
use crate::{
    BorrowError, Borrower, Host, Profile, Profiles,
    cli::connect::process,
    proto::{ErrorKind, OwnRules, UserName},
    trust::UnixTime,
};

/// One address may take so long to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Questions of which the median is the round trip.
const ROUNDS: usize = 5;
/// A login that is over so soon is worth a line.
const TICKET_SOON: Duration = Duration::from_secs(30 * 60);

pub async fn checks(host: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut no_way = false;
    // At the door of this machine there is nothing on the way.
    if let Ok(parsed) = host.parse::<Host>() {
        match Profiles::from_env().and_then(|profiles| Ok((profiles.find(&parsed)?, profiles))) {
            Ok(((profile, user), profiles)) => {
                checks.push(Check::ok("join", format!("joined {} as {user}", profile.lender)));
                checks.extend(certificate(&profiles, &profile, &user));
                checks.extend(ticket(&profiles, &profile, &user, host));
                let way = way(&profile).await;
                no_way = way.iter().any(|check| check.state == State::Fail);
                checks.extend(way);
            }
            Err(error) => return vec![failed("join", &error)],
        }
    }
    // Where nobody is reached, the step before has said why; a session that there is already may work all the same.
    let says_it_again = |check: &Check| no_way && check.name == "session" && check.state == State::Fail;
    checks.extend(session(host).await.into_iter().filter(|check| !says_it_again(check)));
    checks
}

fn failed(name: &'static str, error: &BorrowError) -> Check {
    Check::fail(name, error.to_string(), error.notes().to_vec())
}

fn certificate(profiles: &Profiles, profile: &Profile, user: &UserName) -> Vec<Check> {
    let now = UnixTime::now();
    let (begins, ends) = match profiles.certificate_lasts(&profile.alias, user) {
        Ok(lasts) => lasts,
        Err(error) => return vec![failed("certificate", &error)],
    };
    let clock = match now < begins {
        true => Check::fail(
            "clock",
            "this machine's clock stands before the time at which its certificate was made",
            vec!["help: set it, as with `timedatectl set-ntp true`".to_owned()],
        ),
        false => Check::ok("clock", "it agrees with this device's certificate"),
    };
    let days = ends.0.saturating_sub(now.0) / 86_400;
    let certificate = match ends <= now {
        true => Check::fail(
            "certificate",
            "the certificate of this device has ended",
            vec!["help: `capuchin login` renews it for a while after its end; else join again".to_owned()],
        ),
        false => Check::ok("certificate", format!("this device's lasts {days} more days, and renews by itself")),
    };
    vec![clock, certificate]
}

fn ticket(profiles: &Profiles, profile: &Profile, user: &UserName, host: &str) -> Vec<Check> {
    let now = UnixTime::now();
    let help = format!("help: capuchin login {host}");
    vec![match profiles.logged_in_until(&profile.alias, user, now) {
        None => Check::fail("ticket", format!("{user} is not logged in at {}", profile.alias), vec![help]),
        Some(until) if until.minus(TICKET_SOON) <= now => Check::warn("ticket", "the login is nearly over", &help),
        Some(until) => {
            let minutes = until.0.saturating_sub(now.0) / 60;
            Check::ok("ticket", format!("logged in for {} h {} min", minutes / 60, minutes % 60))
        }
    }]
}

/// Its names, and TCP to each of its addresses: one that answers is enough.
async fn way(profile: &Profile) -> Vec<Check> {
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for address in &profile.addresses {
        match tokio::net::lookup_host(address).await {
            Ok(addresses) => found.extend(addresses),
            Err(error) => unknown.push(format!("{address}: {error}")),
        }
    }
    let mend = "help: if the lender is elsewhere now: capuchin hosts set";
    let mut checks = vec![match (found.is_empty(), unknown.is_empty()) {
        (true, _) => Check::fail("names", unknown.join("; "), vec![mend.to_owned()]),
        (false, false) => Check::warn("names", unknown.join("; "), mend),
        (false, true) => Check::ok("names", profile.addresses.join(", ")),
    }];
    // There is nobody to try.
    if found.is_empty() {
        return checks;
    }
    let (mut answers, mut silent) = (Vec::new(), Vec::new());
    for address in found {
        match tokio::time::timeout(ANSWER_MAX, TcpStream::connect(address)).await {
            Ok(Ok(_)) => answers.push(address.to_string()),
            Ok(Err(error)) => silent.push(format!("{address}: {error}")),
            Err(_) => silent.push(format!("{address}: no answer within {} s", ANSWER_MAX.as_secs())),
        }
    }
    checks.push(match (answers.is_empty(), silent.is_empty()) {
        (true, _) => Check::fail(
            "tcp",
            silent.join("; "),
            vec!["help: is capuchind running there? is there a firewall?".to_owned()],
        ),
        (false, false) => Check::warn("tcp", format!("{} answers; {}", answers.join(", "), silent.join("; ")), mend),
        (false, true) => Check::ok("tcp", format!("{} answers", answers.join(", "))),
    });
    checks
}

/// TLS, the login, the round trip, and what the policy says; over the session that commands share, if there is one.
async fn session(host: &str) -> Vec<Check> {
    if let (Ok(Some(borrower)), Ok(Some(pid))) =
        (Borrower::shared_by_others(host).await, Borrower::sharing_process(host).await)
    {
        let text = format!("that of `capuchin connect` ({}), as {}", process(pid), borrower.user());
        let checks = use_of(&borrower, Check::ok("session", text)).await;
        borrower.leave().await;
        return checks;
    }
    let began = Instant::now();
    let borrower = match Borrower::connect(host).await {
        Ok(borrower) => borrower,
        Err(error) => {
            let name = match error.kind() {
                ErrorKind::Login | ErrorKind::Revoked | ErrorKind::Busy => "login",
                ErrorKind::Unreachable | ErrorKind::Lost => "session",
                _ => "tls",
            };
            return vec![failed(name, &error)];
        }
    };
    let login = Check::ok("login", format!("as {} in {:.1} ms", borrower.user(), milliseconds(began.elapsed())));
    let tls = Check::ok("tls", format!("{} has shown its certificate", borrower.lender()));
    let used = use_of(&borrower, login).await;
    borrower.leave().await;
    [tls].into_iter().chain(used).collect()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What a session that has begun is good for.
async fn use_of(borrower: &Borrower, begun: Check) -> Vec<Check> {
    let mut checks = vec![begun];
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        match borrower.check("profile", "").await {
            Ok(_) | Err(BorrowError::Refused { .. } | BorrowError::Dial { .. }) => rounds.push(began.elapsed()),
            Err(error) => return checks.into_iter().chain([failed("round trip", &error)]).collect(),
        }
    }
    rounds.sort_unstable();
    checks.extend(
        rounds.get(ROUNDS / 2).map(|median| Check::ok("round trip", format!("{:.2} ms", milliseconds(*median)))),
    );
    checks.extend(match borrower.own_rules().await {
        Ok(rules) => policy(&rules, borrower.user()),
        // An older lender's answer, which is no fault of it.
        Err(error) if error.kind() == ErrorKind::Version => Vec::new(),
        Err(error) => vec![failed("policy", &error)],
    });
    checks
}

/// What the policy lets this user do, a line for each rule.
fn policy(rules: &OwnRules, user: &UserName) -> Vec<Check> {
    if rules.allows.is_empty() && rules.left_out == 0 {
        let mend = format!("help: the lender's admin allows it: capuchind allow {user} connect HOST:PORT --for 1h");
        return vec![Check::warn("policy", format!("it allows {user} nothing"), &mend)];
    }
    let line = |word: &str, rule: &String| Check::ok("policy", format!("{word} {rule}"));
    let allows = rules.allows.iter().map(|rule| line("allows", rule));
    let denies = rules.denies.iter().map(|rule| line("denies", rule));
    let more = (rules.left_out > 0).then(|| Check::ok("policy", format!("and {} more rules", rules.left_out)));
    allows.chain(denies).chain(more).collect()
}
