//! A port of the lender's whose connections are made here: the library's side of `capuchin forward -R`.

use std::{io, net::SocketAddr};

use super::{
    BorrowError, Borrower, TcpOptions,
    arrivals::Arrival,
    endpoint::{Destination, Endpoint},
    listen_again::listen_again,
    listener::Listener,
    local::wind_up,
};
use crate::{
    proto::{Errno, Reset},
    session::{Crew, Meter, dial, dial_unix, relay},
};

/// A port or Unix socket of the lender's that is bound and not served yet. Visitors wait meanwhile.
pub struct RemoteForward {
    borrower: Borrower,
    listener: Listener,
    remote: Endpoint,
    destination: Destination,
}

impl RemoteForward {
    /// Listens at the lender, as [`Borrower::tcp_listen`] and [`Borrower::unix_listen`] do. `destination` is connected to
    /// from this machine.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, web, _folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    /// use capuchin::{Destination, Endpoint, RemoteForward};
    ///
    /// let remote = Endpoint::Tcp("127.0.0.1:0".parse()?);
    /// let forward = RemoteForward::bind(&lab, remote, Destination::Tcp(web.to_string().parse()?)).await?;
    /// println!("our web server is at {} of lab", forward.remote());
    /// let serving = tokio::spawn(forward.serve(|failure| eprintln!("{failure}")));
    /// // Aborting it closes the port and every connection.
    /// serving.abort();
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Borrower::tcp_listen`] and [`Borrower::unix_listen`].
    pub async fn bind(
        borrower: &Borrower,
        remote: impl Into<Endpoint>,
        destination: impl Into<Destination>,
    ) -> Result<Self, BorrowError> {
        let (listener, remote) = listen(borrower, &remote.into()).await?;
        Ok(Self { borrower: borrower.clone(), listener, remote, destination: destination.into() })
    }

    /// What is connected to at the lender, with the port that was picked.
    pub fn remote(&self) -> &Endpoint {
        &self.remote
    }

    /// Where this machine connects to.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Serves connections until the session is over or the lender takes the port back, and says why. When a session that is
    /// kept connected comes back, the same port is listened on again. `failed` hears of each connection that this machine
    /// did not make, and of each failure to listen again.
    ///
    /// # Cancellation
    /// Dropping the future closes the port and every connection.
    pub async fn serve(mut self, mut failed: impl FnMut(&BorrowError)) -> BorrowError {
        let mut connections = Crew::new();
        loop {
            tokio::select! {
                arrival = self.listener.accept() => match arrival {
                    Ok(arrival) => {
                        connections.spawn(&self.borrower.session(), carry(self.destination.clone(), arrival));
                    }
                    Err(BorrowError::Ended { .. }) => {
                        wind_up(std::mem::take(&mut connections)).await;
                        let listen = || listen(&self.borrower, &self.remote);
                        match listen_again(&self.borrower, listen, &mut failed).await {
                            Ok((listener, _)) => self.listener = listener,
                            Err(end) => return end,
                        }
                    }
                    Err(taken) => return taken,
                },
                Some(done) = connections.join_next() => {
                    if let Ok(Err(error)) = done {
                        tracing::debug!(%error, "forwarded connection failed");
                        failed(&error);
                    }
                }
            }
        }
    }
}

async fn listen(borrower: &Borrower, remote: &Endpoint) -> Result<(Listener, Endpoint), BorrowError> {
    match remote {
        Endpoint::Unix(path) => Ok((borrower.unix_listen(path).await?.into_listener(), remote.clone())),
        Endpoint::Tcp(address) => {
            let listened = match borrower.tcp_listen_on(*address, TcpOptions::default()).await {
                // A lender without IPv6 still has every IPv4 address.
                Err(error) if address.ip().is_unspecified() && error.is_for_want_of_ipv6() => {
                    let every = SocketAddr::from(([0, 0, 0, 0], address.port()));
                    borrower.tcp_listen_on(every, TcpOptions::default()).await
                }
                listened => listened,
            }?;
            let local = listened.local_addr();
            Ok((listened.into_listener(), local.into()))
        }
    }
}

/// One connection, until both directions have ended.
async fn carry(destination: Destination, Arrival { stream, .. }: Arrival) -> Result<(), BorrowError> {
    let failed = |error: io::Error| {
        // The visitor sees a reset.
        stream.reset(Errno::of(&error).map_or(Reset::Refused, |errno| Reset::Failed(errno.0)));
        BorrowError::local(format!("cannot connect to {destination}"), error)
    };
    let meter = Meter::default();
    match &destination {
        Destination::Unix(path) => {
            let socket = dial_unix(path).await.map_err(failed)?;
            Box::pin(relay(socket, &stream, &meter)).await;
        }
        Destination::Tcp(target) => {
            let addresses = tokio::net::lookup_host((target.host.as_str(), target.port)).await.map_err(failed)?;
            let addresses: Vec<_> = addresses.collect();
            let nowhere = || io::Error::from(Errno::EHOSTUNREACH);
            let dialed = dial(&addresses).await.map_err(|error| error.map_or_else(nowhere, |error| error.source));
            Box::pin(relay(dialed.map_err(failed)?, &stream, &meter)).await;
        }
    }
    Ok(())
}
