//! Lends names: a stream of DNS messages, whose questions meet the gate one by one before anybody else hears of them.
//!
//! ```text
//!   stream ──▶ questions ──▶ gate::resolve ──▶ machine (hosts) or upstream (resolvers) ──▶ stream
//!                               │                              └──▶ answers: facts of the session
//!                               └──▶ REFUSED
//! ```
//! What was answered counts when the session connects by address ([`policy::Facts::answered`](crate::policy::Facts)).

mod answers;
mod machine;
mod upstream;

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};

pub(super) use machine::Machine;
pub(super) use upstream::places;

use self::answers::Answers;
use super::{borrower::Borrower, descriptors, dispatch::refuse, gate, lender::Shared, resolve::unknown};
use crate::{
    policy::{ADDRESSES_MAX, Answered, Granted, Host, HostName, Resolve},
    proto::{
        Answer, Errno, ErrorKind, Refusal, Reset, Resolving, UserName,
        dns::{self, HEADER_BYTES, QUERY_BYTES_MAX, Query, Question, Rcode, Reply},
    },
    session::{Meter, Stream},
};

/// Questions of one session that are being answered at once: more than a resolver library asks, and each may hold a socket.
const IN_FLIGHT_MAX: usize = 64;
/// Answers that wait for the stream to take them; with these the questions wait too.
const ANSWERS_WAITING: usize = 8;
/// How long a program may keep what the lender's own files say, in seconds: they may change at any time.
const OWN_TTL_SECONDS: u32 = 30;

/// What one session has to do with names.
pub(super) struct SessionNames {
    answers: Mutex<Answers>,
    in_flight: Arc<Semaphore>,
}

impl Default for SessionNames {
    fn default() -> Self {
        Self { answers: Mutex::default(), in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)) }
    }
}

impl SessionNames {
    /// What this session was answered that says something about `host`.
    pub(super) fn answered(&self, host: &Host) -> Vec<Answered> {
        let Host::Address(address) = host else { return Vec::new() };
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).about(*address, Instant::now())
    }

    fn note(&self, name: &HostName, reply: &Reply) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let aliases = names(&reply.aliases);
        for (address, ttl_seconds) in reply.addresses.iter().take(ADDRESSES_MAX) {
            let all = aliases.iter().map(|alias| (alias, true)).chain([(name, false)]);
            for (name, alias) in all {
                let answered = Answered { name: name.clone(), address: address.to_canonical(), alias };
                answers.note(answered, *ttl_seconds, Instant::now());
            }
        }
    }
}

/// Those of `texts` that are names of hosts: no rule can name the others.
fn names(texts: &[String]) -> Vec<HostName> {
    texts.iter().filter_map(|text| Host::parse(text).ok()?.try_into().ok()).collect()
}

/// Answers the questions of a stream until the borrower ends it. Nothing is refused with the stream: its questions are.
///
/// # Cancellation
/// Look-ups that are on their way are given up.
pub(super) async fn lend(borrower: &Arc<Borrower>, stream: Stream) {
    // Each question meets the policy of its time.
    let held = match borrower.hold(&stream, "resolve", String::new(), Box::new(|_| Ok(()))) {
        Ok(held) => held,
        Err(refusal) => return refuse(&stream, refusal).await,
    };
    // A borrower that is gone has nothing to hear.
    let _ = held.serve(&stream, serve(borrower, &stream, held.meter())).await;
}

async fn serve(borrower: &Arc<Borrower>, stream: &Stream, meter: &Meter) -> io::Result<()> {
    stream.write_message(&Answer::Granted(Resolving {})).await?;
    let (answer_tx, mut answer_rx) = mpsc::channel::<Bytes>(ANSWERS_WAITING);
    let tell = async {
        while let Some(answer) = answer_rx.recv().await {
            let length = answer.len();
            meter.keep_pace(length).await;
            stream.write_all_bytes(answer).await?;
            meter.went_to_stream(length);
        }
        Ok(())
    };
    let serving = async { tokio::try_join!(listen(borrower, stream, meter, answer_tx), tell).map(drop) };
    tokio::select! {
        served = serving => served,
        // Seen at once, also while questions wait for a place and nothing is read.
        () = stream.given_up() => Ok(()),
    }
}

/// Reads questions, and has each answered by a task of its own: a slow one holds up nobody.
async fn listen(
    borrower: &Arc<Borrower>,
    stream: &Stream,
    meter: &Meter,
    answer_tx: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut answering = JoinSet::new();
    loop {
        let Some(query) = read(stream).await? else { break };
        meter.keep_pace(2 + query.len()).await;
        meter.went_from_stream(2 + query.len());
        // Never closed.
        let Ok(place) = borrower.names.in_flight.clone().acquire_owned().await else { break };
        while answering.try_join_next().is_some() {}
        answering.spawn(answer(borrower.clone(), query, answer_tx.clone(), place));
    }
    while answering.join_next().await.is_some() {}
    Ok(())
}

/// The next message; `None` at the end.
async fn read(stream: &Stream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match stream.read_all(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = usize::from(u16::from_be_bytes(length));
    if !(HEADER_BYTES..=QUERY_BYTES_MAX).contains(&length) {
        stream.reset(Reset::Failed(Errno::EMSGSIZE.0));
        return Err(Errno::EMSGSIZE.into());
    }
    let mut query = vec![0; length];
    stream.read_all(&mut query).await?;
    Ok(Some(query))
}

async fn answer(borrower: Arc<Borrower>, query: Vec<u8>, answer_tx: mpsc::Sender<Bytes>, _place: OwnedSemaphorePermit) {
    let answer = match Query::decode(&query) {
        Err(unserved) => unserved.into_answer(),
        Ok(query) => match gate::resolve(&borrower, &query.question().name).await {
            Err(_) => query.fail(Rcode::Refused),
            Ok(grant) => look_up(&borrower, &query, grant).await,
        },
    };
    let mut out = BytesMut::with_capacity(2 + answer.len());
    // No answer is longer: over UDP and over TCP its length has 16 bits.
    out.put_u16(u16::try_from(answer.len()).unwrap_or_default());
    out.extend_from_slice(&answer);
    // Without a receiver the stream is gone.
    let _ = answer_tx.send(out.freeze()).await;
}

/// Answers what was granted: from the lender's own files as any program of it would see them, else from its resolvers.
async fn look_up(borrower: &Borrower, query: &Query, grant: Granted<Resolve>) -> Vec<u8> {
    let (Resolve { name }, _) = grant.into_parts();
    let (hosts, file) = borrower.lender.shared.machine.now().await;
    if let (dns::A | dns::AAAA, Some(addresses)) = (query.question().kind, hosts.of(name.as_str())) {
        let answer = query.answer(&addresses, OWN_TTL_SECONDS);
        // What the borrower reads is what is noted; what we have written can be read.
        if let Some(reply) = Reply::decode(answer.clone(), query.id(), query.question()) {
            borrower.names.note(&name, &reply);
        }
        return answer;
    }
    if query.question().kind == dns::PTR
        && let Some(names) = dns::reversed(name.as_str()).and_then(|address| hosts.names_of(address))
    {
        return query.answer_names(names, OWN_TTL_SECONDS);
    }
    // A question takes a socket like any other loan.
    let Ok(_socket) = borrower.lender.shared.sockets.try_acquire() else { return query.fail(Rcode::ServFail) };
    let resolvers = machine::resolvers(&file);
    let written = |id| query.forward(id, name.as_str());
    let (places, user) = (&borrower.lender.shared.questions, &borrower.principal.user);
    match upstream::ask(places, user, &resolvers, query.question(), written).await {
        Some(reply) => {
            borrower.names.note(&name, &reply);
            query.pass_on(reply)
        }
        None => query.fail(Rcode::ServFail),
    }
}

/// Where a name leads.
pub(super) struct Through {
    pub(super) addresses: Vec<IpAddr>,
    /// The names on the way to them, and for a name without a dot the longer ones that the search list makes of it.
    pub(super) aliases: Vec<HostName>,
}

/// Follows `name` by hosts(5) and the lender's resolvers alone, so that each address comes with the names that led to it:
/// what is asked for twice may be answered in two ways.
///
/// # Errors
/// The refusal, where that leads to no address.
pub(super) async fn follow(shared: &Shared, user: &UserName, name: &HostName) -> Result<Through, Refusal> {
    let (hosts, file) = shared.machine.now().await;
    if let Some(addresses) = hosts.of(name.as_str()) {
        return Ok(Through { addresses, aliases: Vec::new() });
    }
    // As in [`look_up`]; it asks two questions at once.
    let Ok(_sockets) = shared.sockets.try_acquire_many(2) else {
        let text = format!("the lender cannot resolve {name}: {}", descriptors::NONE_LEFT);
        return Err(Refusal::new(ErrorKind::Busy, text).with_errno(Some(Errno::EMFILE)));
    };
    let resolvers = machine::resolvers(&file);
    let search = if name.as_str().contains('.') { &[][..] } else { &file.search[..] };
    let longer: Vec<_> = search.iter().map(|domain| format!("{}.{domain}", name.as_str())).collect();
    let mut through = Through { addresses: Vec::new(), aliases: names(&longer) };
    let mut has_silence = false;
    for candidate in longer.into_iter().chain([name.as_str().to_owned()]) {
        // RFC 6724 puts IPv6 first, and whoever dials goes on at once where there is none.
        let [v6, v4] = [dns::AAAA, dns::A].map(|kind| Question { name: candidate.clone(), kind });
        let ask = |question| {
            let resolvers = resolvers.clone();
            async move {
                let written = |id| dns::ask(id, &question);
                upstream::ask(&shared.questions, user, &resolvers, &question, written).await
            }
        };
        let (v6, v4) = tokio::join!(ask(v6), ask(v4));
        for reply in [v6, v4] {
            let Some(reply) = reply.filter(|reply| !reply.is_failure()) else {
                has_silence = true;
                continue;
            };
            through.aliases.extend(names(&reply.aliases));
            through.addresses.extend(reply.addresses.iter().map(|(address, _)| *address));
        }
        if !through.addresses.is_empty() {
            through.addresses.truncate(ADDRESSES_MAX);
            return Ok(through);
        }
    }
    let why = if has_silence { "its resolvers do not answer" } else { "Name or service not known" };
    Err(unknown(name.as_str(), why))
}
