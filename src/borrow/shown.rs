//! What handles show of themselves, as in a test that fails: what they are of, and neither contents nor secrets.

use std::fmt;

use super::{
    Borrower, Child, ChildControl, Command, Forward, Join, Proxy, RemoteForward, RemoteUdpForward, Share, UdpForward,
    UdpSocket, listener::Listener,
};

/// `Debug` of a handle by what it tells.
macro_rules! show {
    ($($handle:ident: |$it:ident| $($name:literal = $shown:expr),*;)*) => {
        $(
            impl fmt::Debug for $handle {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    let $it = self;
                    f.debug_struct(stringify!($handle))$(.field($name, &$shown))*.finish_non_exhaustive()
                }
            }
        )*
    };
}

show! {
    Borrower: |it| "host" = it.host(), "lender" = it.lender().as_str(), "user" = it.user().as_str();
    Child: |it| "id" = it.id();
    ChildControl: |_it|;
    Command: |it| "program" = it.name();
    Forward: |it| "local" = it.local(), "destination" = it.destination();
    Join: |it| "lender" = it.lender().as_str(), "alias" = it.alias(), "user" = it.user().as_str();
    Listener: |it| "address" = it.address();
    Proxy: |it| "local" = it.local();
    RemoteForward: |it| "remote" = it.remote(), "destination" = it.destination();
    RemoteUdpForward: |it| "remote" = it.remote(), "target" = it.target();
    Share: |_it|;
    UdpForward: |it| "local" = it.local(), "target" = it.target();
    UdpSocket: |it| "local" = it.local_addr(), "peer" = it.peer_addr().ok();
}

#[cfg(test)]
mod tests {
    use tokio::io::{BufReader, duplex};

    use crate::{
        borrow::TcpStream,
        proto::{
            TcpConnected, WireAddr,
            mux::{Config, Role},
        },
        session::Session,
    };

    #[tokio::test]
    async fn a_connection_shows_where_it_leads() {
        let (near, _far) = duplex(64 * 1024);
        let session = Session::start(BufReader::new(near), Role::Borrower, Config::default());
        let [local, peer] = ["10.0.0.2:81", "10.0.0.1:80"].map(|address| WireAddr(address.parse().unwrap()));
        let stream = TcpStream::new(session.open(bytes::Bytes::new()).unwrap(), TcpConnected { peer, local });
        let shown = format!("{stream:?}");
        assert!(shown.starts_with("TcpStream") && shown.contains("10.0.0.1:80"), "{shown}");
    }
}
