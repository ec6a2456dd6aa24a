//! The resolver inside: takes what a program sends to port 53 and asks the lender.
//!
//! It has no socket of its own. Datagrams and connections that [`Names::catches`] are handed to it with a session, and it
//! gives back what to send from the address that was asked.
//!
//! ```text
//!   query ──▶ read ──▶ place ──▶ Borrower::resolve ──▶ same id, same question? ──▶ fits a datagram? ──▶ answer
//!               └▶ FORMERR, NOTIMP       └▶ no session: SERVFAIL      └▶ SERVFAIL        └▶ TC: ask over TCP
//! ```
//! What the policy refuses comes back as REFUSED; why is asked for and told once for each name.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::{
    BorrowError, Borrower,
    proto::{
        Machine, ResolvConf, SessionId,
        dns::{self, ANSWER_BYTES_MAX, HEADER_BYTES, QUERY_BYTES_MAX, Query, Question, Rcode, Reply},
    },
};

const DNS_PORT: u16 = 53;
/// Questions on their way at once: as many as a lender answers of one session.
const IN_FLIGHT_MAX: usize = 64;
/// Questions that wait for such a place; of more, datagrams are lost, as on any network.
const WAITING_MAX: usize = 1024;
/// Connections at once: a resolver library has one.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may say nothing (RFC 7766 §6.2.3 asks for seconds).
const IDLE_MAX: Duration = Duration::from_secs(10);
/// How long a lender may take: it gives up after 5 s itself.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Addresses whose name is kept: as many as a lender keeps of one session.
const ANSWERED_MAX: usize = 4096;
/// Names of which a refusal is told; who asks for more is looking for something.
const TOLD_MAX: usize = 256;

/// Names for the programs of one private network.
pub struct Names {
    resolvers: Vec<IpAddr>,
    in_flight: Semaphore,
    waiting: Semaphore,
    connections: Semaphore,
    told: Mutex<BTreeSet<String>>,
    answered: Mutex<Answered>,
    refusal_tx: mpsc::Sender<BorrowError>,
}

impl Names {
    /// For a network that looks like that of `machine`. Each refusal of a name goes to `refusal_tx`, once, while there is
    /// room.
    pub fn new(machine: &Machine, refusal_tx: mpsc::Sender<BorrowError>) -> Self {
        Self {
            resolvers: machine.resolvers.clone(),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            waiting: Semaphore::new(WAITING_MAX),
            connections: Semaphore::new(CONNECTIONS_MAX),
            told: Mutex::default(),
            answered: Mutex::default(),
            refusal_tx,
        }
    }

    /// Whether what is sent there is a question for us: port 53 of any loopback address, of the lender's resolvers, and of
    /// this machine's, which a program reads when somebody replaces resolv.conf while it runs.
    pub fn catches(&self, to: SocketAddr) -> bool {
        let address = to.ip().to_canonical();
        to.port() == DNS_PORT
            && (address.is_loopback() || self.resolvers.contains(&address) || own_resolvers().contains(&address))
    }

    /// The answer to a datagram, as long as its asker takes; `None` if it is lost, as there are too many.
    ///
    /// # Cancellation
    /// The question is given up.
    pub async fn answer_datagram(&self, borrower: Option<&Borrower>, query: &[u8]) -> Option<Vec<u8>> {
        let _waiting = self.waiting.try_acquire().ok()?;
        let asked = match Query::decode(query) {
            Ok(asked) => asked,
            // Who sends what has no number hears nothing.
            Err(unserved) => return (query.len() >= HEADER_BYTES).then(|| unserved.into_answer()),
        };
        Some(asked.fit(self.ask(borrower, query, &asked).await))
    }

    /// Answers the questions of a connection, one after the other, until it ends. `current` gives the session of now.
    ///
    /// # Errors
    /// What reading or writing fails with, and a message that is no question.
    ///
    /// # Cancellation
    /// The question is given up.
    pub async fn serve<C, S>(&self, current: C, mut connection: S) -> io::Result<()>
    where
        C: Fn() -> Option<Borrower>,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Ok(_place) = self.connections.try_acquire() else { return Ok(()) };
        loop {
            let length = match timeout(IDLE_MAX, connection.read_u16()).await {
                Ok(Ok(length)) => usize::from(length),
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            if !(HEADER_BYTES..=QUERY_BYTES_MAX).contains(&length) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a question of {length} bytes")));
            }
            let mut query = vec![0; length];
            timeout(IDLE_MAX, connection.read_exact(&mut query)).await??;
            let answer = match Query::decode(&query) {
                Ok(asked) => self.ask(current().as_ref(), &query, &asked).await,
                Err(unserved) => unserved.into_answer(),
            };
            let mut message = Vec::with_capacity(2 + answer.len());
            // Never longer: `ask` checks it.
            message.extend_from_slice(&(answer.len() as u16).to_be_bytes());
            message.extend_from_slice(&answer);
            timeout(IDLE_MAX, connection.write_all(&message)).await??;
        }
    }

    async fn ask(&self, borrower: Option<&Borrower>, query: &[u8], asked: &Query) -> Vec<u8> {
        let failed = || asked.fail(Rcode::ServFail);
        let Some(borrower) = borrower.filter(|_| query.len() <= QUERY_BYTES_MAX) else { return failed() };
        let resolving = async {
            // Never closed.
            let _place = self.in_flight.acquire().await.ok()?;
            borrower.resolve(query).await.ok()
        };
        let Ok(Some(answer)) = timeout(ANSWER_MAX, resolving).await else { return failed() };
        if answer.len() > ANSWER_BYTES_MAX {
            return failed();
        }
        let Some(reply) = Reply::decode(answer, asked.id(), asked.question()) else { return failed() };
        self.note(borrower, asked.question(), &reply);
        // No rule names the root, so that nobody could mend that.
        if reply.is(Rcode::Refused) && !asked.question().name.is_empty() {
            self.tell(borrower, &asked.question().name).await;
        }
        reply.into_bytes()
    }

    fn note(&self, borrower: &Borrower, question: &Question, reply: &Reply) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        for (address, _) in &reply.addresses {
            answered.note(address.to_canonical(), question.clone(), borrower.session_id());
        }
    }

    /// Asks once more for the name whose address this is, if the session in which the program asked is over: the new one
    /// does not know that the address was asked for by name. `true` if it does now.
    ///
    /// # Cancellation
    /// The question is given up.
    pub async fn ask_again(&self, borrower: &Borrower, address: IpAddr) -> bool {
        let known = self.answered.lock().unwrap_or_else(PoisonError::into_inner).of(address);
        let Some((question, _)) = known.filter(|(_, session)| *session != borrower.session_id()) else { return false };
        let Some(query) = dns::ask(0, &question) else { return false };
        let Ok(Ok(answer)) = timeout(ANSWER_MAX, borrower.resolve(&query)).await else { return false };
        let Some(reply) = Reply::decode(answer, 0, &question) else { return false };
        self.note(borrower, &question, &reply);
        reply.addresses.iter().any(|(answered, _)| answered.to_canonical() == address)
    }

    /// Says by which rule, unless it was a resolver that refused.
    async fn tell(&self, borrower: &Borrower, name: &str) {
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() >= TOLD_MAX || !told.insert(name.to_owned()) {
                return;
            }
        }
        if let Ok(Err(refusal @ BorrowError::Refused { .. })) =
            timeout(ANSWER_MAX, borrower.check("resolve", name)).await
        {
            // Without room there is enough to read already.
            let _ = self.refusal_tx.try_send(refusal);
        }
    }
}

/// Which name an address was given for, and in which session; the oldest go first.
#[derive(Default)]
struct Answered {
    names: HashMap<IpAddr, (Question, SessionId)>,
    order: VecDeque<IpAddr>,
}

impl Answered {
    fn note(&mut self, address: IpAddr, question: Question, session: SessionId) {
        if self.names.insert(address, (question, session)).is_none() {
            self.order.push_back(address);
        }
        if self.order.len() > ANSWERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
    }

    fn of(&self, address: IpAddr) -> Option<(Question, SessionId)> {
        self.names.get(&address).cloned()
    }
}

/// The resolvers of this machine, as the file is now.
pub fn own_resolvers() -> Vec<IpAddr> {
    let text = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    ResolvConf::parse(&String::from_utf8_lossy(&text)).resolvers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let machine = Machine { resolvers: vec!["10.0.0.2".parse().unwrap()], ..Machine::default() };
        Names::new(&machine, mpsc::channel(1).0)
    }

    fn query(name: &str) -> Vec<u8> {
        dns::ask(7, &Question { name: name.to_owned(), kind: dns::A }).unwrap()
    }

    #[test]
    fn questions_are_caught_at_loopback_and_at_the_resolvers() {
        let names = names();
        for caught in
            ["127.0.0.1:53", "127.9.9.9:53", "[::1]:53", "[::ffff:127.0.0.1]:53", "10.0.0.2:53", "[::ffff:10.0.0.2]:53"]
        {
            assert!(names.catches(caught.parse().unwrap()), "{caught}");
        }
        for other in ["127.0.0.1:54", "203.0.113.1:53", "[2001:db8::1]:53"] {
            assert!(!names.catches(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn the_names_of_the_last_addresses_are_known() {
        let mut answered = Answered::default();
        let session = SessionId([7; 16]);
        let address = |number: usize| IpAddr::from((number as u32).to_be_bytes());
        for number in 0..ANSWERED_MAX + 2 {
            answered.note(address(number), Question { name: number.to_string(), kind: dns::A }, session);
            answered.note(address(number), Question { name: number.to_string(), kind: dns::A }, session);
        }
        assert_eq!((answered.of(address(1)), answered.names.len()), (None, ANSWERED_MAX));
        assert_eq!(answered.of(address(2)).unwrap().0.name, "2");
    }

    #[tokio::test]
    async fn without_a_session_a_question_fails_and_garbage_is_told_so() {
        let names = names();
        let answer = names.answer_datagram(None, &query("db.test")).await.unwrap();
        assert_eq!((answer[..2].to_vec(), answer[3] & 15), (vec![0, 7], Rcode::ServFail as u8));
        let mut update = query("db.test");
        update[2] = 0x28;
        assert_eq!(names.answer_datagram(None, &update).await.unwrap()[3] & 15, Rcode::NotImp as u8);
        assert_eq!(names.answer_datagram(None, b"\0\x07\x01").await, None);
    }

    #[tokio::test]
    async fn a_connection_carries_question_after_question() {
        let names = names();
        let (mut asker, connection) = tokio::io::duplex(4096);
        let asking = async move {
            let mut answers = Vec::new();
            for name in ["a.test", "b.test"] {
                let query = query(name);
                asker.write_u16(query.len() as u16).await.unwrap();
                asker.write_all(&query).await.unwrap();
                let mut answer = vec![0; asker.read_u16().await.unwrap().into()];
                asker.read_exact(&mut answer).await.unwrap();
                answers.push(answer[3] & 15);
            }
            answers
        };
        let (served, answers) = tokio::join!(names.serve(|| None, connection), asking);
        assert_eq!((served.unwrap(), answers), ((), vec![2, 2]));
    }

    #[tokio::test]
    async fn a_connection_that_asks_nothing_readable_is_closed() {
        for length in [0_u16, 11, 513, u16::MAX] {
            let (mut asker, connection) = tokio::io::duplex(64);
            asker.write_u16(length).await.unwrap();
            let error = names().serve(|| None, connection).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
