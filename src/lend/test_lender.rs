//! A lender for unit tests of what the daemon does behind its sockets.

use super::{Lender, LenderDir, Setup, init};

/// One that nobody serves, in a folder that goes with the first.
pub(super) fn lender() -> (tempfile::TempDir, LenderDir, Lender) {
    let folder = tempfile::tempdir().unwrap();
    let dir = LenderDir::single(folder.path().join("lab"));
    let listen = Some("127.0.0.1:0".parse().unwrap());
    init(&dir, Setup { name: Some("lab".parse().unwrap()), listen, ..Setup::default() }).unwrap();
    let lender = Lender::open(&dir).unwrap();
    (folder, dir, lender)
}
