//! The one gate: every request meets the policy here, before it has any effect, and every decision is logged.

mod again;
mod socket;

use std::{collections::BTreeSet, fmt::Display, net::SocketAddr};

use super::{
    Lender,
    audit::{Event, FIELD_BYTES_MAX, Source},
    borrower::Borrower,
    names::{self, Through},
    own_user,
    spawn::{self, SpawnGrant},
};
use crate::{
    policy::{
        self, AnyRequest, Connect, Datagram, DatagramSocket, Facts, Granted, Host, HostError, HostName, Kind,
        LenderPath, Listen, OfferService, Principal, Profile, ReadVariable, Resolve, RuleRef, Transport, UnixConnect,
        UnixListen, UseService, WordError,
    },
    proto::{Ask, Errno, ErrorKind, HostsLine, OwnRules, Refusal, Spawn, Target},
};

pub(super) use again::{still, still_by_rules, still_listens, still_unix};
pub(super) use socket::{unix_connect, unix_listen};

/// Asks for a connection to `target`.
pub(super) async fn connect(borrower: &Borrower, target: &Target) -> Result<Granted<Connect>, Refusal> {
    let decision = decide_connect(borrower, target).await;
    log(borrower, "tcp-connect", target, Verdict::of(decision.as_ref())).await;
    decision
}

/// Asks to listen at `address`; port 0 asks for any port.
pub(super) async fn listen(borrower: &Borrower, address: SocketAddr) -> Result<Granted<Listen>, Refusal> {
    // It would stand in the way of any of the ports that are asked for.
    let facts = Facts { own: borrower.lender.addresses(), ..Facts::default() };
    let decision = judge(borrower, Listen::new(Transport::Tcp, address.ip(), address.port()), &facts);
    log(borrower, "tcp-listen", &address, Verdict::of(decision.as_ref())).await;
    decision
}

/// Asks for a UDP port that strangers may reach; port 0 asks for any.
pub(super) async fn udp_listen(borrower: &Borrower, address: SocketAddr) -> Result<Granted<Listen>, Refusal> {
    let request = Listen::new(Transport::Udp, address.ip(), address.port());
    let decision = judge(borrower, request, &Facts::default());
    log(borrower, "udp-bind", &format!("{address}/udp"), Verdict::of(decision.as_ref())).await;
    decision
}

/// Asks for a UDP socket to send from.
pub(super) async fn udp_socket(borrower: &Borrower, address: SocketAddr) -> Result<Granted<DatagramSocket>, Refusal> {
    let decision = judge(borrower, DatagramSocket, &Facts::default());
    log(borrower, "udp-bind", &address, Verdict::of(decision.as_ref())).await;
    decision
}

/// Asks to send datagrams to `peer`. `logged`: whether the log has room for this one; a socket may be used to ask for
/// thousands a second.
pub(super) async fn datagram(
    borrower: &Borrower,
    peer: SocketAddr,
    logged: bool,
) -> Result<Granted<Datagram>, Refusal> {
    let host = Host::Address(peer.ip());
    let answered = borrower.names.answered(&host);
    let facts = Facts { answered: &answered, ..Facts::default() };
    let decision = judge(borrower, Datagram::new(host, peer.port(), vec![peer.ip()]), &facts);
    if logged {
        log(borrower, "udp-send", &peer, Verdict::of(decision.as_ref())).await;
    }
    decision
}

/// Asks to answer `peer`, who came to a port that strangers may reach. Only a refusal is logged, if the log has room for it.
pub(super) async fn answer(
    borrower: &Borrower,
    peer: SocketAddr,
    logged: impl FnOnce() -> bool,
) -> Result<(), Refusal> {
    let answered = borrower.names.answered(&Host::Address(peer.ip()));
    let facts = Facts { answered: &answered, ..Facts::default() };
    let decision = policy::may_answer(&borrower.lender.policy(), &borrower.principal, peer, &facts);
    let Err(refused) = decision.map_err(|no| refusal(&no)) else { return Ok(()) };
    if logged() {
        log(borrower, "udp-send", &peer, Verdict::of::<Datagram>(Err(&refused))).await;
    }
    Err(refused)
}

/// Asks to listen as a service.
pub(super) async fn service_listen(borrower: &Borrower, name: &str) -> Result<Granted<OfferService>, Refusal> {
    service(borrower, "service-listen", name, OfferService::parse(name)).await
}

/// Asks to connect to a service. Whether anybody offers it is not asked before.
pub(super) async fn service_connect(borrower: &Borrower, name: &str) -> Result<Granted<UseService>, Refusal> {
    service(borrower, "service-connect", name, UseService::parse(name)).await
}

async fn service<R: policy::Request>(
    borrower: &Borrower,
    event: &'static str,
    name: &str,
    request: Result<R, WordError>,
) -> Result<Granted<R>, Refusal> {
    let decision = match request {
        Ok(request) => judge(borrower, request, &Facts::default()),
        Err(error) => Err(Refusal::new(ErrorKind::Usage, error.to_string()).with_errno(Some(Errno::EINVAL))),
    };
    log(borrower, event, &name, Verdict::of(decision.as_ref())).await;
    decision
}

/// Asks to look up `name`, as a DNS question spells it.
pub(super) async fn resolve(borrower: &Borrower, name: &str) -> Result<Granted<Resolve>, Refusal> {
    let numeric = |_| HostError::Numeric(name.to_owned());
    let parsed = match name {
        "" => Ok(HostName::root()),
        name => Host::parse(name).and_then(|host| HostName::try_from(host).map_err(numeric)),
    };
    let decision = match parsed {
        Ok(name) => judge(borrower, Resolve { name }, &Facts::default()),
        Err(error) => Err(refusal(&bad_host(&borrower.principal, Kind::Resolve, name, error))),
    };
    let asked = if name.is_empty() { "." } else { name };
    log(borrower, "resolve", &asked, Verdict::of(decision.as_ref())).await;
    decision
}

/// Asks for the lender's profile, and for each of these variables of its environment.
pub(super) async fn profile(
    borrower: &Borrower,
    variables: &BTreeSet<String>,
) -> Result<(Granted<Profile>, Vec<Granted<ReadVariable>>), Refusal> {
    let policy = borrower.lender.policy();
    let decision = policy::decide(&policy, &borrower.principal, Profile::default(), &Facts::default());
    let decision = decision.map_err(|no| refusal(&no));
    log(borrower, "profile", &"profile", Verdict::of(decision.as_ref())).await;
    let profile = decision?;
    let mut granted = Vec::with_capacity(variables.len());
    for name in variables {
        let decision = match ReadVariable::parse(name) {
            Ok(asked) => {
                policy::decide(&policy, &borrower.principal, asked, &Facts::default()).map_err(|no| refusal(&no))
            }
            Err(error) => Err(Refusal::new(ErrorKind::Usage, error.to_string())),
        };
        log(borrower, "env.read", name, Verdict::of(decision.as_ref())).await;
        granted.push(decision?);
    }
    Ok((profile, granted))
}

/// Lines of hosts(5) without the names that the borrower may not look up. Nothing was asked, and nothing is logged.
pub(super) fn hosts_shown(borrower: &Borrower, lines: &[HostsLine]) -> Vec<HostsLine> {
    let policy = borrower.lender.policy();
    let may_look_up = |name: &str| {
        let name = Host::parse(name).ok().and_then(|host| HostName::try_from(host).ok());
        name.is_some_and(|name| {
            policy::decide(&policy, &borrower.principal, Resolve { name }, &Facts::default()).is_ok()
        })
    };
    let shown = lines.iter().map(|line| HostsLine {
        address: line.address,
        names: line.names.iter().filter(|name| may_look_up(name)).cloned().collect(),
    });
    shown.filter(|line| !line.names.is_empty()).collect()
}

/// Asks to run a program with these arguments and variables.
pub(super) async fn spawn(
    borrower: &Borrower,
    wanted: &Spawn,
    arguments: Vec<Vec<u8>>,
    variables: Vec<Vec<u8>>,
) -> Result<SpawnGrant, Refusal> {
    let asked = asked(wanted, &arguments);
    let decision = spawn::judge(borrower, wanted, arguments, variables).await;
    let verdict = match &decision {
        Ok(grant) => Verdict { granted: true, rule: Some(grant.rule()), why: None },
        Err(refusal) => Verdict { granted: false, rule: None, why: Some(refusal.text().to_owned()) },
    };
    let target = decision.as_ref().map_or(asked, SpawnGrant::target);
    log(borrower, "spawn", &target, verdict).await;
    decision
}

/// A program as it was asked for, for the log, with a little more than the log has room for: there may be megabytes of it.
fn asked(wanted: &Spawn, arguments: &[Vec<u8>]) -> String {
    let mut text = wanted.what.kind().to_owned();
    for word in arguments {
        if text.len() > FIELD_BYTES_MAX {
            break;
        }
        text.push(' ');
        text.push_str(&String::from_utf8_lossy(word.get(..FIELD_BYTES_MAX).unwrap_or(word)));
    }
    text.truncate(text.trim_end().len());
    text
}

/// Asks about a request of any kind, and does nothing.
pub(super) async fn check(borrower: &Borrower, ask: &Ask) -> Result<Granted<AnyRequest>, Refusal> {
    let decision = decide(&borrower.lender, &borrower.principal, Some(borrower), ask).await;
    log(borrower, "check", ask, Verdict::of(decision.as_ref())).await;
    decision
}

/// What the policy lets this user do, which every user may know of himself.
pub(super) async fn own_rules(borrower: &Borrower) -> OwnRules {
    log(borrower, "own-rules", &"", Verdict { granted: true, rule: None, why: None }).await;
    let (allows, denies) = borrower.lender.policy().own_rules(&borrower.principal.user);
    let written = |rules: Vec<RuleRef>| rules.iter().map(ToString::to_string).collect();
    OwnRules::new(written(allows), written(denies))
}

/// Decides a request that nothing here serves: refused by the policy, or because it is not offered.
pub(super) async fn planned(borrower: &Borrower, name: &'static str, ask: &Ask) -> Refusal {
    let decision = decide(&borrower.lender, &borrower.principal, Some(borrower), ask).await;
    let verdict = match &decision {
        Ok(_) => Verdict { granted: false, why: Some(NOT_OFFERED.to_owned()), ..Verdict::of(decision.as_ref()) },
        Err(_) => Verdict::of(decision.as_ref()),
    };
    log(borrower, name, ask, verdict).await;
    match decision {
        Ok(_) => Refusal::new(ErrorKind::Target, format!("{name}: {ask} is allowed, but {NOT_OFFERED}")),
        Err(refusal) => refusal,
    }
}

/// The decision alone: the same function for the gate and for the admin's `check`, which is of no session and so without
/// its facts.
pub(super) async fn decide(
    lender: &Lender,
    who: &Principal,
    session: Option<&Borrower>,
    ask: &Ask,
) -> Result<Granted<AnyRequest>, Refusal> {
    let kind: Kind = ask
        .kind
        .parse()
        .map_err(|unknown: policy::UnknownKind| Refusal::new(ErrorKind::Version, format!("this lender: {unknown}")))?;
    let asked = AnyRequest::parse(kind, &ask.target).map_err(|error| match error.refusal() {
        Some(no) => refusal(&no.shown_to_admin(&who.user, kind, &ask.target)),
        None => Refusal::new(ErrorKind::Usage, error.to_string()),
    })?;
    let Some((transport, host, port)) = asked.host() else {
        let grant = decide_here(lender, who, session.is_none(), asked).await?;
        match kind {
            Kind::Unix | Kind::UnixListen => drop(own_user::actor(lender, &who.user, &ask.to_string()).await?),
            Kind::Exec | Kind::Shell => drop(spawn::runs_as(lender, &who.user).await?),
            _ => {}
        }
        return Ok(grant);
    };
    let Through { addresses, aliases } = addresses(lender, who, transport, host, port).await?;
    let own = lender.own_listeners(&addresses, port);
    let answered = session.map(|session| session.names.answered(host)).unwrap_or_default();
    let facts = Facts { own: &own, answered: &answered, ..Facts::default() };
    let asked = asked.resolved(addresses).through(aliases);
    policy::decide(&lender.policy(), who, asked, &facts).map_err(|no| refusal(&no))
}

/// What has no host is decided by what is here: a path by where its links lead, as when it is done.
async fn decide_here(
    lender: &Lender,
    who: &Principal,
    is_admin: bool,
    asked: AnyRequest,
) -> Result<Granted<AnyRequest>, Refusal> {
    let socket = async |kind, path, request: fn(LenderPath) -> AnyRequest| {
        let judged = socket::judge(lender, who, (kind, path), request).await.map(|(grant, _)| grant);
        judged.map_err(|no| if is_admin { no.known } else { no.told })
    };
    // What listens would stand in the way of any of the ports that are asked for.
    let facts = Facts { own: lender.addresses(), own_folders: lender.own_folders(), ..Facts::default() };
    let asked = match asked {
        AnyRequest::UnixConnect(UnixConnect { path }) => {
            return socket(Kind::Unix, &path, |path| AnyRequest::UnixConnect(UnixConnect { path })).await;
        }
        AnyRequest::UnixListen(UnixListen { path }) => {
            return socket(Kind::UnixListen, &path, |path| AnyRequest::UnixListen(UnixListen { path })).await;
        }
        AnyRequest::Exec(exec) => AnyRequest::Exec(spawn::followed(lender, who, exec).await?),
        other => other,
    };
    policy::decide(&lender.policy(), who, asked, &facts).map_err(|no| refusal(&no))
}

async fn decide_connect(borrower: &Borrower, target: &Target) -> Result<Granted<Connect>, Refusal> {
    let (lender, who) = (&borrower.lender, &borrower.principal);
    let host = Host::parse(&target.host)
        .map_err(|error| refusal(&bad_host(who, Kind::Connect, &target.to_string(), error)))?;
    let Through { addresses, aliases } = addresses(lender, who, Transport::Tcp, &host, target.port).await?;
    let own = lender.own_listeners(&addresses, target.port);
    let answered = borrower.names.answered(&host);
    let request = Connect { aliases, ..Connect::new(host, target.port, addresses) };
    judge(borrower, request, &Facts { own: &own, answered: &answered, ..Facts::default() })
}

/// A name that no rule could allow is not even resolved; a name that could be is resolved once, and the grant holds the
/// very addresses that were judged. Where a deny may name one of the names on the way, all of it comes from the same answers.
async fn addresses(
    lender: &Lender,
    who: &Principal,
    transport: Transport,
    host: &Host,
    port: u16,
) -> Result<Through, Refusal> {
    let policy = lender.policy();
    policy::may_match(&policy, who, transport, host, port).map_err(|no| refusal(&no))?;
    match host {
        Host::Name(name) if policy::may_be_denied_by_alias(&policy, who, transport, host, port) => {
            names::follow(&lender.shared, &who.user, name).await
        }
        _ => Ok(Through { addresses: lender.shared.look_ups.resolve(&who.user, host).await?, aliases: Vec::new() }),
    }
}

/// What the policy of now says to a request of the borrower's.
fn judge<R: policy::Request>(borrower: &Borrower, request: R, facts: &Facts<'_>) -> Result<Granted<R>, Refusal> {
    policy::decide(&borrower.lender.policy(), &borrower.principal, request, facts).map_err(|no| refusal(&no))
}

/// What the audit says of a decision.
struct Verdict {
    granted: bool,
    rule: Option<String>,
    why: Option<String>,
}

impl Verdict {
    fn of<R>(decision: Result<&Granted<R>, &Refusal>) -> Self {
        match decision {
            Ok(grant) => Self { granted: true, rule: Some(grant.rule().to_string()), why: None },
            Err(refusal) => Self { granted: false, rule: None, why: Some(refusal.text().to_owned()) },
        }
    }
}

async fn log(borrower: &Borrower, event: &'static str, target: &impl Display, verdict: Verdict) {
    let Verdict { granted, rule, why } = verdict;
    let verdict = if granted { "granted" } else { "refused" };
    let target = target.to_string();
    // The target as a text, which the log quotes, and not by `Display`: it may hold a line break.
    let wanted = target.as_str();
    tracing::info!(session = %borrower.session_id, user = %borrower.principal.user, event, wanted, verdict, rule, why, "decision");
    let event = Event { target: Some(target), verdict: Some(verdict), rule, why, ..borrower.event(event) };
    let audit = &borrower.lender.shared.audit;
    match (granted, event.event) {
        // Nothing comes of it but an answer, and there may be a thousand a second.
        (true, "check" | "own-rules" | "resolve") => {
            audit.bounded(Source::Asking(borrower.principal.user.clone()), event).await
        }
        (true, _) => audit.log(event).await,
        (false, _) => audit.bounded(&borrower.principal.user, event).await,
    }
}

fn bad_host(who: &Principal, kind: Kind, target: &str, error: HostError) -> policy::Refusal {
    policy::Refusal::bad_host(kind, target, error).shown_to_admin(&who.user, kind, target)
}

pub(super) fn refusal(no: &policy::Refusal) -> Refusal {
    // The first line of the explanation is the refusal itself.
    Refusal::new(ErrorKind::Policy, no.to_string())
        .with_errno(Some(Errno::EACCES))
        .with_notes(no.explain().into_iter().skip(1))
}

const NOT_OFFERED: &str = "not offered by this lender";
