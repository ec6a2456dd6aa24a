//! A session's streams: reads what each asks for, asks the gate, and hands the grant to its provider.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use super::{
    audit::Event, borrower::Borrower, by_terms, gate, listen, names, profile, renew, service, spawn, tcp, udp, unix,
};
use crate::{
    proto::{Answer, Ask, Errno, ErrorKind, ProtocolError, Refusal, Request, Reset, StreamId, Verdict},
    session::{Crew, Session, Stream},
};

/// From a stream's first frame to the end of its request.
const REQUEST_MAX: Duration = Duration::from_secs(20);

/// What the streams of a session that is over may take to deliver what had come, and to log their end.
const STREAMS_END_MAX: Duration = Duration::from_secs(1);

/// The same of a stream whose borrower has said everything on it: he was told that it is here, and a target may be slow.
const LAST_WORDS_MAX: Duration = Duration::from_secs(30);

/// Serves a session to its end; everything that it borrowed goes with it.
pub(super) async fn run(borrower: Arc<Borrower>, mut stopping: watch::Receiver<bool>) {
    let session = &borrower.session;
    tracing::info!(session = %borrower.session_id, user = %borrower.principal.user, peer = %borrower.peer, "session");
    let mut streams = Crew::new();
    // One that waits on, and not a new one at each turn.
    let mut expires = std::pin::pin!(async {
        let (kind, why) = borrower.expired().await;
        borrower.cut(kind, why);
        std::future::pending::<Infallible>().await
    });
    loop {
        tokio::select! {
            stream = session.accept() => match stream {
                Some(stream) => match borrower.time_left() {
                    Ok(_) => streams.spawn(session, serve(borrower.clone(), stream)),
                    // The clock was set, or the machine has slept, since `expires` looked at it.
                    Err((kind, why)) => {
                        borrower.cut(kind, why);
                    }
                },
                None => break,
            },
            Some(ended) = streams.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a stream's task failed");
                }
            }
            never = &mut expires => match never {},
            // Without a sender the lender is gone, which is the same.
            _ = stopping.wait_for(|stopping| *stopping) => {
                session.end(ErrorKind::Lost, "the lender is stopping");
                break;
            }
        }
    }
    // Every stream fails with its session, and each ends with its audit line; who hangs is taken back, and then cut.
    let mut all = async || while streams.join_next().await.is_some() {};
    let take_back = |is_it: &dyn Fn(StreamId) -> bool| {
        for (_, handle) in borrower.held().into_iter().filter(|(stream, _)| is_it(*stream)) {
            handle.take_back(ErrorKind::Lost, "the session has ended");
        }
    };
    if timeout(STREAMS_END_MAX, all()).await.is_err() {
        take_back(&|stream| !session.has_come_whole(stream));
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => {}
            () = borrower.place_is_wanted() => {}
            never = &mut expires => match never {},
            _ = timeout(LAST_WORDS_MAX, all()) => {}
        }
        take_back(&|_| true);
        let _ = timeout(STREAMS_END_MAX, all()).await;
    }
    streams.shutdown().await;
    let ended = session.ended().await;
    // What the borrower wrote must not read like what the lender did.
    let by = if ended.by_peer { "the borrower ended it: " } else { "" };
    let why = format!("{by}{}: {ended}", ended.kind);
    // As a text, which the log quotes: it may hold a line break.
    tracing::info!(session = %borrower.session_id, why = why.as_str(), "session ended");
    let event = Event { why: Some(why), ..borrower.event("session-ended") };
    borrower.lender.shared.audit.log(event).await;
}

async fn serve(borrower: Arc<Borrower>, stream: Stream) {
    let session = &borrower.session;
    let bytes = match timeout(REQUEST_MAX, stream.read_message_bytes("request")).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return break_off(session, &stream, &error),
        Err(_) => return stream.reset(Reset::Refused),
    };
    if let Some(most) = borrower.is_beyond_streams() {
        return refuse_beyond(&borrower, &stream, most).await;
    }
    match Request::decode(&bytes) {
        // The gate on the heap: its room is free again while the connection it granted idles.
        Ok(Ok(Request::TcpConnect(target))) => match Box::pin(gate::connect(&borrower, &target)).await {
            Ok(grant) => tcp::lend(&borrower, grant, stream).await,
            Err(refusal) => refuse(&stream, refusal).await,
        },
        Ok(Ok(Request::TcpListen(wanted))) => match Box::pin(gate::listen(&borrower, wanted.address)).await {
            Ok(grant) => Box::pin(listen::tcp(&borrower, grant, wanted, stream)).await,
            Err(refusal) => refuse(&stream, refusal).await,
        },
        Ok(Ok(Request::UdpBind(wanted))) => Box::pin(udp::lend(&borrower, wanted, stream)).await,
        Ok(Ok(Request::UnixConnect(path))) => match Box::pin(gate::unix_connect(&borrower, &path)).await {
            Ok((grant, actor)) => Box::pin(unix::lend(&borrower, grant, actor, stream)).await,
            Err(refusal) => refuse(&stream, refusal).await,
        },
        Ok(Ok(Request::UnixListen(wanted))) => match Box::pin(gate::unix_listen(&borrower, &wanted.path)).await {
            Ok((grant, actor)) => Box::pin(listen::unix(&borrower, (grant, actor), wanted.backlog, stream)).await,
            Err(refusal) => refuse(&stream, refusal).await,
        },
        Ok(Ok(Request::ServiceListen(wanted))) => match Box::pin(gate::service_listen(&borrower, &wanted.name)).await {
            Ok(grant) => Box::pin(listen::service(&borrower, grant, wanted, stream)).await,
            Err(refusal) => refuse(&stream, refusal).await,
        },
        Ok(Ok(Request::ServiceConnect(name))) => match Box::pin(gate::service_connect(&borrower, &name)).await {
            Ok(grant) => Box::pin(service::connect(&borrower, grant, stream)).await,
            Err(refusal) => refuse(&stream, refusal).await,
        },
        Ok(Ok(Request::Resolve)) => Box::pin(names::lend(&borrower, stream)).await,
        Ok(Ok(Request::Profile(variables))) => {
            Box::pin(profile::lend(&borrower, &variables.into_iter().collect(), stream)).await
        }
        Ok(Ok(Request::Check(ask))) => Box::pin(check(&borrower, &ask, &stream)).await,
        Ok(Ok(Request::OwnRules)) => {
            let _ = stream.write_message(&Answer::Granted(gate::own_rules(&borrower).await)).await;
        }
        Ok(Ok(Request::Spawn(wanted))) => Box::pin(spawn::lend(&borrower, wanted, stream)).await,
        Ok(Ok(Request::SpawnStdio(stdio))) => spawn::attach(&borrower, stdio, stream).await,
        Ok(Ok(Request::RenewCertificate(csr))) => renew::certificate(&borrower, &csr, stream).await,
        Ok(Ok(Request::RenewTicket)) => renew::ticket(&borrower, stream).await,
        Ok(Ok(Request::Planned { name, ask })) => {
            let refusal = Box::pin(gate::planned(&borrower, name, &ask)).await;
            refuse(&stream, refusal).await;
        }
        Ok(Err(unknown)) => {
            let event = Event {
                target: Some(unknown.name.clone()),
                verdict: Some("refused"),
                why: Some("unknown request".to_owned()),
                ..borrower.event("request")
            };
            borrower.lender.shared.audit.bounded(&borrower.principal.user, event).await;
            refuse(&stream, Refusal::new(ErrorKind::Version, unknown.to_string())).await;
        }
        Err(error) => session.end(ErrorKind::Protocol, format!("the peer broke the protocol: {error}")),
    }
}

/// Says what the gate would, and what makes a finer rule moot.
async fn check(borrower: &Borrower, ask: &Ask, stream: &Stream) {
    let decision = gate::check(borrower, ask).await;
    let warnings = borrower.lender.policy().warnings(&borrower.principal.user);
    match decision {
        Ok(grant) => {
            let _ = stream.write_message(&Answer::Granted(Verdict::new(grant.rule(), warnings))).await;
        }
        Err(no) if no.kind() == ErrorKind::Policy => refuse(stream, no.with_warnings(warnings)).await,
        Err(no) => refuse(stream, no).await,
    }
}

/// The policy has come to allow fewer streams than the session was told when it began; those that are open stay.
async fn refuse_beyond(borrower: &Borrower, stream: &Stream, most: u32) {
    let text = format!("the policy allows {most} streams at once, and as many are open");
    let event = Event { verdict: Some("refused"), why: Some(text.clone()), ..borrower.event("request") };
    borrower.lender.shared.audit.bounded(&borrower.principal.user, event).await;
    let notes = by_terms::notes(&borrower.principal.user, "limits = { streams = N }");
    refuse(stream, Refusal::new(ErrorKind::Busy, text).with_errno(Some(Errno::EMFILE)).with_notes(notes)).await;
}

pub(super) async fn refuse(stream: &Stream, refusal: Refusal) {
    // If it cannot be told, the peer has gone already.
    let _ = stream.write_message(&Answer::<Verdict>::Refused(refusal)).await;
}

/// A request that cannot be read breaks the protocol; one that was cut off only ends its stream.
pub(super) fn break_off(session: &Session, stream: &Stream, error: &std::io::Error) {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ProtocolError>()) {
        Some(broken) => session.end(ErrorKind::Protocol, format!("the peer broke the protocol: {broken}")),
        None => stream.reset(Reset::Refused),
    }
}
