//! Bytes between a stream of a command and one of the session.

use super::speech::Speech;
use crate::{
    borrow::{answer::Unanswered, give_up::GiveUps},
    proto::{ErrorKind, Reset},
    session::{Meter, Metered, Session, Stream, abandoned, copy},
};

/// A stream of a command.
pub(super) struct Near {
    pub(super) stream: Stream,
    /// The command's.
    pub(super) session: Session,
}

impl Near {
    /// Carries bytes to and from a stream of the session until both directions have ended; half-close is kept. A session that
    /// is over ends the command's, so that its streams fail as they would without us. What the lender could not read ends the
    /// command's alone. What the command gives up before there is an answer takes its turn among `give_ups`.
    ///
    /// # Cancellation
    /// Both streams are reset.
    pub(super) async fn carry(self, far: Stream, mut speech: Speech, give_ups: Option<&GiveUps>) {
        let Self { stream: near, session } = self;
        let unfinished = (Unanswered(&near), Unanswered(&far));
        let meter = Meter::default();
        let (near_end, far_end) = (Metered { stream: &near, meter: &meter }, Metered { stream: &far, meter: &meter });
        let mut hear = |bytes: &[u8]| {
            speech.hear(bytes).map_err(|error| {
                session.end(ErrorKind::Protocol, format!("the peer broke the protocol: {error}"));
                Reset::Cancelled
            })
        };
        // Should it have to say something, and not do so.
        let _ = hear(&[]);
        let up = copy(near_end, far_end, hear);
        let mut is_answered = false;
        let down = copy(far_end, near_end, |_| {
            is_answered = true;
            Ok(())
        });
        let ends = tokio::select! {
            ends = async { tokio::join!(up, down) } => ends,
            // Nobody is there any more, and the lender does not take what was said last.
            () = abandoned(&near) => (Err(Reset::Cancelled), Err(Reset::Cancelled)),
        };
        if let Some(ended) = far.over() {
            // First, so that no stream of the command fails by itself.
            session.end(ended.kind, ended.text);
        }
        let (up, down) = ends;
        let broke_off = up.is_err() || down.is_err();
        if let Err(reset) = down {
            near.reset_behind(reset).await;
        }
        if let Some(give_ups) = give_ups.filter(|_| broke_off && !is_answered && far.over().is_none()) {
            give_ups.next().await;
        }
        if let Err(reset) = up {
            far.reset_behind(reset).await;
        }
        std::mem::forget(unfinished);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::task::JoinSet;

    use super::*;
    use crate::{
        borrow::give_up::GIVEN_UP,
        proto::{Errno, mux::Config},
        session::both_ends,
    };

    fn sessions() -> [Session; 2] {
        both_ends(&Config::default())
    }

    /// More at once, and the lender would end the session for everybody.
    #[tokio::test]
    async fn a_command_that_goes_with_a_thousand_open_questions_costs_nobody_the_session() {
        let ([command, near], [session, lender]) = (sessions(), sessions());
        let (give_ups, mut carried, mut asked) =
            (std::sync::Arc::new(GiveUps::new(GIVEN_UP)), JoinSet::new(), Vec::new());
        for _ in 0..1100 {
            asked.push(command.open(Bytes::from_static(b"?")).unwrap());
            let near = Near { stream: near.accept().await.unwrap(), session: near.clone() };
            let (far, give_ups) = (session.open(Bytes::from_static(b"?")).unwrap(), give_ups.clone());
            carried.spawn(async move { near.carry(far, Speech::Any, Some(&give_ups)).await });
        }
        let mut heard = Vec::new();
        for _ in 0..1100 {
            heard.push(lender.accept().await.unwrap());
        }
        command.end(ErrorKind::Lost, "it goes");
        while carried.join_next().await.is_some() {}
        for stream in heard {
            let end = async {
                while stream.read_batch(&mut crate::proto::mux::Batch::default(), 64).await.is_ok_and(|more| more) {}
            };
            end.await;
        }
        assert_eq!((lender.over(), session.over()), (None, None));
        assert_eq!(lender.peer_streams(), 0);
        drop(asked);
    }

    #[tokio::test]
    async fn what_breaks_off_after_the_other_half_has_ended_is_no_good_end() {
        let ([command, near], [session, lender]) = (sessions(), sessions());
        let asked = command.open(Bytes::new()).unwrap();
        let near = Near { stream: near.accept().await.unwrap(), session: near.clone() };
        let far = session.open(Bytes::new()).unwrap();
        let carried = tokio::spawn(async move { near.carry(far, Speech::Any, None).await });
        let heard = lender.accept().await.unwrap();
        heard.write_all_bytes(Bytes::from_static(b"!")).await.unwrap();
        heard.finish();
        asked.read_all(&mut [0]).await.unwrap();
        assert_eq!(asked.read_all(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
        asked.write_all_bytes(Bytes::from_static(b"half")).await.unwrap();
        heard.read_all(&mut [0; 4]).await.unwrap();
        asked.reset(Reset::Cancelled);
        carried.await.unwrap();
        assert_eq!(heard.read_all(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn what_is_said_before_it_breaks_off_comes_before_the_reset() {
        let ([command, near], [session, lender]) = (sessions(), sessions());
        let asked = command.open(Bytes::from_static(b"?")).unwrap();
        let near = Near { stream: near.accept().await.unwrap(), session: near.clone() };
        let far = session.open(Bytes::from_static(b"?")).unwrap();
        let heard = lender.accept().await.unwrap();
        heard.write_all_bytes(Bytes::from_static(b"too large")).await.unwrap();
        heard.reset_behind(Reset::Failed(Errno::ECONNRESET.0)).await;
        // Both are there when it begins.
        far.given_up().await;
        let carried = tokio::spawn(async move { near.carry(far, Speech::Any, None).await });
        let mut said = [0; 9];
        asked.read_all(&mut said).await.unwrap();
        assert_eq!(&said, b"too large");
        assert_eq!(asked.read_all(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        carried.await.unwrap();
    }

    #[tokio::test]
    async fn a_session_that_is_lost_ends_the_command_and_not_its_streams_one_by_one() {
        let ([command, near], [session, lender]) = (sessions(), sessions());
        let asked = command.open(Bytes::from_static(b"?")).unwrap();
        let near = Near { stream: near.accept().await.unwrap(), session: near.clone() };
        let far = session.open(Bytes::from_static(b"?")).unwrap();
        let carried = tokio::spawn(async move { near.carry(far, Speech::Any, None).await });
        let _heard = lender.accept().await.unwrap();
        lender.end(ErrorKind::Revoked, "ana was revoked");
        carried.await.unwrap();
        let error = asked.read_all(&mut [0]).await.unwrap_err();
        let ended = error.into_inner().unwrap().downcast::<crate::session::Ended>().unwrap();
        assert_eq!((ended.kind, ended.text.as_str()), (ErrorKind::Revoked, "ana was revoked"));
    }

    #[tokio::test]
    async fn what_a_command_said_before_it_went_still_comes_and_its_end_is_no_good_one() {
        let ([command, near], [session, lender]) = (sessions(), sessions());
        let asked = command.open(Bytes::new()).unwrap();
        let stream = near.accept().await.unwrap();
        asked.write_all_bytes(Bytes::from_static(b"half of it")).await.unwrap();
        let far = session.open(Bytes::new()).unwrap();
        let near = Near { stream, session: near.clone() };
        let carried = tokio::spawn(async move { near.carry(far, Speech::Any, None).await });
        let heard = lender.accept().await.unwrap();
        let mut half = [0; 10];
        heard.read_all(&mut half).await.unwrap();
        assert_eq!(&half, b"half of it");
        command.end(ErrorKind::Lost, "it goes");
        carried.await.unwrap();
        assert_eq!(heard.read_all(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}
