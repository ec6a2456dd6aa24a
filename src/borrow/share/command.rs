//! One command that shares the session: greeted, and served until it or the session has gone.

use std::sync::Arc;

use tokio::{io::BufReader, net::UnixStream, time::timeout};

use super::{HELLO_MAX, carry::Near, listening, numbers::Programs, speech::Speech};
use crate::{
    borrow::{BorrowError, Borrower, present::Present},
    proto::{
        Answer, Errno, ErrorKind, FromBorrower, FromLender, Greeting, LocalNames, Ready, Refusal, Request, Reset,
        Welcome, mux,
    },
    session::{Crew, Greeter, READ_BYTES, Session, Stream},
};

/// Serves one command.
///
/// # Cancellation
/// Its connection ends, and everything that it has borrowed.
pub(super) async fn serve(borrower: Borrower, socket: UnixStream) {
    let present = borrower.shared().present();
    let Some(session) = greet(&borrower, &present, socket).await else { return };
    let mut over = Box::pin(present.session.watch_end());
    let command = Command { session, host: borrower.host().to_owned(), present, programs: Arc::default() };
    let mut streams = Crew::new();
    loop {
        tokio::select! {
            stream = command.session.accept() => match stream {
                // One after the other, so that a program is known before its streams are; each comes with its request.
                Some(stream) => command.begin(stream, &mut streams).await,
                None => break,
            },
            ended = &mut over => {
                command.session.end(ended.kind, ended.text);
                break;
            }
            Some(_) = streams.join_next() => {}
        }
    }
    // What the command said last still goes to the lender, and what it broke off is given back.
    while streams.join_next().await.is_some() {}
    command.session.ended().await;
}

/// `None`: it has gone, or was told that there is no session for now.
async fn greet(borrower: &Borrower, present: &Present, socket: UnixStream) -> Option<Session> {
    let ours = mux::Config::default();
    let mut greeter = Greeter::new(BufReader::with_capacity(READ_BYTES, socket));
    let Ok(FromBorrower::Greeting(theirs)) = greeter.receive("greeting", HELLO_MAX).await else { return None };
    // Whoever it says it is: the kernel has said so before.
    let Ok(FromBorrower::Login(_)) = greeter.receive("login", HELLO_MAX).await else { return None };
    let config = theirs.agree(&ours).ok()?;
    let greeting = FromLender::Greeting(Greeting::new(&ours));
    if let Some(ended) = present.session.over() {
        let refusal = Refusal::new(ErrorKind::Lost, format!("it is being made again ({ended})"));
        let _ = greeter.send(&[greeting, FromLender::Refusal(refusal)]).await;
        return None;
    }
    let names = LocalNames { user: borrower.user().to_string(), lender: borrower.lender().to_string(), os_user: None };
    let welcome = Welcome { session: present.id.0, ticket: None, local: Some(names), addresses: None };
    greeter.send(&[greeting, FromLender::Welcome(welcome)]).await.ok()?;
    Some(Session::start_patient(greeter.into_inner(), mux::Role::Lender, config))
}

/// A command that is served.
struct Command {
    /// With the command.
    session: Session,
    /// What the user calls the lender.
    host: String,
    /// With the lender. Another one may follow; this command has gone by then.
    present: Present,
    programs: Arc<Programs>,
}

impl Command {
    /// Opens the stream of the session that stands for one of the command's.
    async fn begin(&self, stream: Stream, streams: &mut Crew<()>) {
        let bytes = match timeout(HELLO_MAX, stream.read_message_bytes("request")).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => return self.broke_protocol(&error),
            Ok(Err(_)) | Err(_) => return stream.reset(Reset::Refused),
        };
        let request = match Request::decode(&bytes) {
            Ok(Ok(request)) => request,
            Ok(Err(unknown)) => return refuse(&stream, Refusal::new(ErrorKind::Version, unknown.to_string())).await,
            Err(error) => return self.broke_protocol(&error),
        };
        let Some(first) = self.programs.translate(&request, &bytes) else { return stream.reset(Reset::Refused) };
        let Present { session, arrivals, give_ups, .. } = &self.present;
        let (speech, give_ups) = (Speech::behind(&request), give_ups.clone());
        let near = |stream| Near { stream, session: self.session.clone() };
        match request {
            Request::TcpListen(_) | Request::UnixListen(_) | Request::ServiceListen(_) => {
                match arrivals.open(session, first) {
                    Ok(opened) => {
                        let near = near(stream);
                        let serve = async move { listening::serve(near, opened, speech, &give_ups).await };
                        streams.spawn(session, serve);
                    }
                    Err(error) => self.not_opened(&stream, BorrowError::open(&self.host, error)).await,
                }
            }
            _ => match session.open(first) {
                Ok(far) => {
                    let programs = matches!(request, Request::Spawn(_)).then(|| self.programs.clone());
                    let known = programs.map(|programs| programs.know(&stream, &far));
                    let near = near(stream);
                    streams.spawn(session, async move {
                        near.carry(far, speech, Some(&give_ups)).await;
                        drop(known);
                    });
                }
                Err(error) => self.not_opened(&stream, BorrowError::open(&self.host, error)).await,
            },
        }
    }

    fn broke_protocol(&self, error: &impl std::fmt::Display) {
        self.session.end(ErrorKind::Protocol, format!("the peer broke the protocol: {error}"));
    }

    async fn not_opened(&self, stream: &Stream, error: BorrowError) {
        match error {
            BorrowError::Ended { kind, text, .. } => self.session.end(kind, text),
            BorrowError::Busy { why, notes, .. } => {
                let refusal = Refusal::new(ErrorKind::Busy, why).with_errno(Some(Errno::EMFILE));
                refuse(stream, refusal.with_notes(notes)).await;
            }
            _ => stream.reset(Reset::Refused),
        }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // Nothing, if it is over already.
        self.session.end(ErrorKind::Lost, "the session is not shared any more");
    }
}

async fn refuse(stream: &Stream, refusal: Refusal) {
    // If it cannot be told, the command has gone already.
    let _ = stream.write_message(&Answer::<Ready>::Refused(refusal)).await;
}
