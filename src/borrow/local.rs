//! Local listeners whose connections are carried to the lender, whatever each is carried as.

use std::{fs::File, io, net::SocketAddr, path::Path, time::Duration};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::{BorrowError, Borrower, endpoint::Endpoint};
use crate::{
    proto::BACKLOG,
    session::{Backoff, Crew, Socket, SocketFile, socket_options},
};

/// What the connections of a session that is over may take to deliver what had come.
const CONNECTIONS_END_MAX: Duration = Duration::from_secs(1);

/// A bound local port or socket. Dropping it closes it.
pub(super) enum LocalListener {
    Tcp(TcpListener),
    /// With its file.
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
}

/// A local program's connection.
pub(super) enum LocalSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl LocalListener {
    /// Binds, and gives the endpoint with the port that was picked. A Unix socket is for this user alone, and replaces the
    /// file of one that nobody has any more.
    pub(super) async fn bind(endpoint: &Endpoint) -> Result<(Self, Endpoint), BorrowError> {
        let failed = |error| BorrowError::local(format!("cannot listen on {endpoint}"), error);
        match endpoint {
            Endpoint::Tcp(address) => Self::bind_tcp(*address).await.map_err(failed),
            Endpoint::Unix(path) => bind_unix(path).map(|bound| (bound, endpoint.clone())).map_err(failed),
        }
    }

    async fn bind_tcp(address: SocketAddr) -> io::Result<(Self, Endpoint)> {
        let listener = TcpListener::bind(address).await?;
        let local = listener.local_addr()?;
        Ok((Self::Tcp(listener), local.into()))
    }

    async fn accept_once(&self) -> io::Result<LocalSocket> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                socket_options(&socket);
                LocalSocket::Tcp(socket)
            }
            Self::Unix { listener, .. } => LocalSocket::Unix(listener.accept().await?.0),
        })
    }

    /// The next connection, whatever comes between.
    async fn accept(&self, backoff: &mut Backoff) -> LocalSocket {
        loop {
            match self.accept_once().await {
                Ok(socket) => {
                    backoff.reset();
                    return socket;
                }
                Err(error) => backoff.wait("forward", &error).await,
            }
        }
    }

    /// Carries each connection until the session is over, and says why it is. `failed` hears of each that failed.
    ///
    /// # Cancellation
    /// Dropping the future closes the listener and every connection.
    pub(super) async fn serve<C>(
        self,
        borrower: &Borrower,
        carry: impl Fn(LocalSocket) -> C,
        mut failed: impl FnMut(&BorrowError),
    ) -> BorrowError
    where
        C: Future<Output = Result<(), BorrowError>> + Send + 'static,
    {
        let mut connections = Crew::new();
        let mut backoff = Backoff::new();
        let ended = borrower.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                socket = self.accept(&mut backoff) => {
                    connections.spawn(&borrower.session(), carry(socket));
                }
                Some(done) = connections.join_next() => {
                    if let Ok(Err(error)) = done {
                        tracing::debug!(%error, "forwarded connection failed");
                        failed(&error);
                    }
                }
                end = &mut ended => {
                    wind_up(connections).await;
                    return end;
                }
            }
        }
    }
}

/// Each delivers what had come and resets its socket; one that hangs is reset here.
pub(super) async fn wind_up<T: Send + 'static>(mut connections: Crew<T>) {
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(CONNECTIONS_END_MAX, all).await;
    connections.shutdown().await;
}

fn bind_unix(path: &Path) -> io::Result<LocalListener> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?,
        _ => File::open(".")?,
    };
    let (socket, file) = SocketFile::bind(folder.into(), name)?;
    rustix::net::listen(&socket, BACKLOG as i32)?;
    Ok(LocalListener::Unix { listener: UnixListener::from_std(socket.into())?, _file: file })
}

/// Makes the program at the other end see a failure.
pub(super) fn fail(socket: &impl Socket) {
    socket.abort_on_drop();
}
