//! For tests: a session, or one stream of it, whose ends are both here.

use bytes::Bytes;
use tokio::io::{BufReader, duplex};

use super::{Session, Stream};
use crate::proto::mux::{Config, Role};

/// The borrower's end and the lender's. What is between them moves only while a test waits.
pub fn both_ends(config: &Config) -> [Session; 2] {
    let (near, far) = duplex(64 * 1024);
    let start = |end, role| Session::start(BufReader::new(end), role, config.clone());
    [start(near, Role::Borrower), start(far, Role::Lender)]
}

/// Both ends of one stream that nothing has been said on, with their sessions.
pub async fn both_ends_of_a_stream() -> [(Session, Stream); 2] {
    let [borrower, lender] = both_ends(&Config::default());
    let near = borrower.open(Bytes::from_static(b"?")).unwrap();
    let far = lender.accept().await.unwrap();
    far.read_all(&mut [0]).await.unwrap();
    [(borrower, near), (lender, far)]
}
