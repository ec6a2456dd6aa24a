//! Services: names at the lender that one borrower listens as and others connect to.
//!
//! The lender passes bytes on and knows nothing of what they are. What is offered most simply is one's own stdin and stdout:
//! who connects then reads what comes in there, and writes what goes out.

use std::io;

use super::{
    BorrowError, Borrower, answer,
    arrivals::Arrival,
    byte_stream::{read_by, write_by},
    listener::Listener,
};
use crate::{
    proto::{Ready, Request, ServiceListen},
    session::{ReadHalf, Stream, WriteHalf},
};

impl Borrower {
    /// Offers a service: others reach it at this lender as `name`, `at_once` of them at a time (`None`: as many as like), one
    /// more being refused as busy. It ends with its handle, and with the session.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, _web, _folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    ///
    /// let offer = lab.offer("calc", Some(1)).await?;
    /// // Somebody else, in a session of his own.
    /// # let other = lab.clone();
    /// let (mut calc, mut visitor) = {
    ///     let (calc, accepted) = tokio::join!(other.stdio("calc"), offer.accept());
    ///     (calc?, accepted?)
    /// };
    /// calc.write_all(b"6*7\n").await?;
    /// let mut question = [0; 4];
    /// visitor.read_exact(&mut question).await?;
    /// visitor.write_all(b"42\n").await?;
    /// visitor.close().await?;
    /// let mut answer = String::new();
    /// calc.read_to_string(&mut answer).await?;
    /// assert_eq!((&question, answer.as_str()), (b"6*7\n", "42\n"));
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// The policy refuses it (`services.offer`), or another session has the name: [`BorrowError::Listen`] with EADDRINUSE.
    ///
    /// # Cancellation
    /// Dropping the future gives the name back.
    pub async fn offer(&self, name: impl AsRef<str>, at_once: Option<u32>) -> Result<ServiceListener, BorrowError> {
        let name = name.as_ref().to_owned();
        let address = format!("service:{name}");
        let request = Request::ServiceListen(ServiceListen { name, at_once });
        let (Ready {}, listener) = Listener::open(self, &request, address).await?;
        Ok(ServiceListener { listener })
    }

    /// Connects to the service `name`: most simply to the stdin and stdout that another borrower offers there, as `capuchin
    /// offer HOST NAME stdio` does. Reading gives what comes in at its stdin, writing goes to its stdout.
    ///
    /// For an example see [`Self::offer`].
    ///
    /// # Errors
    /// The policy refuses it (`services.use`); nobody offers it now ([`BorrowError::Dial`] with ECONNREFUSED); it takes no more
    /// at a time (of the kind `busy`).
    ///
    /// # Cancellation
    /// Dropping the future gives it up.
    pub async fn stdio(&self, name: impl AsRef<str>) -> Result<ServiceStream, BorrowError> {
        let name = name.as_ref().to_owned();
        let target = format!("service:{name}");
        let (stream, Ready {}) = answer::ask(self, &Request::ServiceConnect(name), &target).await?;
        Ok(ServiceStream { stream })
    }
}

/// A service that we offer, and the connections that come to it.
///
/// # Cancellation
/// Dropping it gives the name back; connections that were not accepted fail, accepted ones go on.
#[derive(Debug)]
pub struct ServiceListener {
    listener: Listener,
}

impl ServiceListener {
    /// The next connection. What its other end sends is on its way already.
    ///
    /// # Errors
    /// The lender has ended the service, because an admin or a new policy took it back, say; or the session is over.
    ///
    /// # Cancellation
    /// Dropping the future loses no connection.
    pub async fn accept(&self) -> Result<ServiceStream, BorrowError> {
        let Arrival { stream, .. } = self.listener.accept().await?;
        Ok(ServiceStream { stream })
    }

    /// Gives the name back, and waits until it is free. Connections that were not accepted fail.
    ///
    /// # Errors
    /// The session is over, which ends the service too.
    ///
    /// # Cancellation
    /// Dropping the future gives it back all the same.
    pub async fn close(self) -> Result<(), BorrowError> {
        self.listener.close().await
    }
}

/// A connection to or from a service. `shutdown` ends our half and leaves the other open.
///
/// # Cancellation
/// Dropping it delivers what was written, then closes the connection; it never waits.
#[derive(Debug)]
pub struct ServiceStream {
    stream: Stream,
}

impl ServiceStream {
    /// Closes the connection after what was written, and waits until the lender has all of it: dropping does the same and
    /// does not say how it went.
    ///
    /// # Errors
    /// The other end or the lender closed first, or the session is over: perhaps not everything has come.
    ///
    /// # Cancellation
    /// As dropping it.
    pub async fn close(self) -> io::Result<()> {
        self.stream.close().await
    }

    /// Two halves for two tasks. Dropping the writing one ends our half; when both are gone, so is the connection.
    pub fn into_split(self) -> (ServiceReader, ServiceWriter) {
        let (reader, writer) = self.stream.into_split();
        (ServiceReader { half: reader }, ServiceWriter { half: writer })
    }

    /// The stream itself, for those who move its bytes here.
    #[cfg(feature = "run")]
    pub(crate) fn into_stream(self) -> Stream {
        self.stream
    }
}

/// The reading half of a [`ServiceStream`].
#[derive(Debug)]
pub struct ServiceReader {
    half: ReadHalf,
}

/// The writing half of a [`ServiceStream`]; dropping it ends our half.
#[derive(Debug)]
pub struct ServiceWriter {
    half: WriteHalf,
}

read_by!(ServiceStream, stream);
write_by!(ServiceStream, stream);
read_by!(ServiceReader, half);
write_by!(ServiceWriter, half);
